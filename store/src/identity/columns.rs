//! Conversions shared by the databases of the graph, which store the same columns as strings.
//!
//! The error of each function is the name of a column whose content this build cannot read.

use std::{collections::HashSet, hash::Hash};

use event::{Identifier, IdentifierKind, Timestamp, UniversalId};

use super::{AuditAction, AuditEntry, graph::Member};

/// Converts a row of `resolved_identities`.
pub(super) fn member(
    kind: &str,
    value: String,
    canonical: &str,
    has_events: bool,
) -> Result<Member, &'static str> {
    let kind = IdentifierKind::parse(kind).ok_or("identifier_type")?;
    let canonical = UniversalId::parse(canonical).ok_or("canonical_id")?;
    Ok(Member {
        identifier: Identifier { kind, value },
        canonical,
        has_events,
    })
}

/// A row of `identity_audit_log`.
pub(super) struct AuditColumns<'a> {
    pub(super) action: &'a str,
    pub(super) universal_id: &'a str,
    pub(super) other: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) value: Option<&'a str>,
    pub(super) source: &'a str,
    /// `None` if it is not a valid time.
    pub(super) at: Option<Timestamp>,
}

/// Converts a row to an audit entry.
pub(super) fn audit_entry(row: &AuditColumns<'_>) -> Result<AuditEntry, &'static str> {
    let other = match row.other {
        Some(id) => Some(UniversalId::parse(id).ok_or("other_universal_id")?),
        None => None,
    };
    let identifier = match (row.kind, row.value) {
        (Some(kind), Some(value)) => {
            let kind = IdentifierKind::parse(kind).ok_or("identifier_type")?;
            let value = value.to_owned();
            Some(Identifier { kind, value })
        }
        _ => None,
    };
    Ok(AuditEntry {
        action: AuditAction::parse(row.action).ok_or("action")?,
        universal_id: UniversalId::parse(row.universal_id).ok_or("universal_id")?,
        other,
        identifier,
        source: row.source.to_owned(),
        at: row.at.ok_or("at")?,
    })
}

/// Returns the elements of `list` at `positions`, which count from 0.
pub(super) fn at_positions<T: Clone + Eq + Hash>(list: &[T], positions: &[i64]) -> HashSet<T> {
    let indexes = positions
        .iter()
        .filter_map(|position| usize::try_from(*position).ok());
    indexes.filter_map(|index| list.get(index).cloned()).collect()
}
