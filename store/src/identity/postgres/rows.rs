//! The SQL statements, and conversions of their rows.

use std::collections::{BTreeSet, HashSet};

use event::{Timestamp, UniversalId};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{ENGINE, connection::classify};
use crate::{
    StoreError,
    identity::{
        AuditEntry, ErasedIdentities, StoredAccount,
        columns::{self, AuditColumns, at_positions},
        graph::{Changes, Erasure, Member, Pair},
    },
};

/// Takes locks until the end of the transaction, in ascending order.
pub(super) async fn lock(
    connection: &mut PgConnection,
    space: i32,
    locks: &BTreeSet<i32>,
) -> Result<(), StoreError> {
    let rising: Vec<i32> = locks.iter().copied().collect();
    sqlx::query("SELECT pg_advisory_xact_lock($1, lock) FROM unnest($2::integer[]) AS lock")
        .bind(space)
        .bind(rising)
        .execute(connection)
        .await
        .map_err(classify)?;
    Ok(())
}

/// Returns every identifier of the people that own any of `ids`.
pub(super) async fn members(
    connection: &mut PgConnection,
    ids: &[UniversalId],
) -> Result<Vec<Member>, StoreError> {
    let rows = sqlx::query(
        "SELECT identifier_type, identifier_value, canonical_id, has_events FROM resolved_identities \
         WHERE canonical_id IN (SELECT canonical_id FROM resolved_identities WHERE universal_id = ANY ($1))",
    )
    .bind(texts(ids))
    .fetch_all(connection)
    .await
    .map_err(classify)?;
    let mut members = Vec::with_capacity(rows.len());
    for row in &rows {
        let kind = row.try_get(0).map_err(classify)?;
        let value = row.try_get(1).map_err(classify)?;
        let canonical = row.try_get(2).map_err(classify)?;
        let has_events = row.try_get(3).map_err(classify)?;
        members.push(
            columns::member(kind, value, canonical, has_events)
                .map_err(|column| malformed("resolved_identities", column))?,
        );
    }
    Ok(members)
}

/// Returns those of `ids` that have events.
pub(super) async fn with_events(
    connection: &mut PgConnection,
    ids: &[UniversalId],
) -> Result<HashSet<UniversalId>, StoreError> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let positions: Vec<i64> = sqlx::query_scalar(
        "SELECT asked.position - 1 FROM unnest($1::text[]) WITH ORDINALITY AS asked (id, position) \
         WHERE EXISTS (SELECT 1 FROM resolved_identities WHERE universal_id = asked.id AND has_events)",
    )
    .bind(texts(ids))
    .fetch_all(connection)
    .await
    .map_err(classify)?;
    Ok(at_positions(ids, &positions))
}

/// Returns those of `pairs` that were seen together before.
pub(super) async fn known_pairs(
    connection: &mut PgConnection,
    pairs: &[Pair],
) -> Result<HashSet<Pair>, StoreError> {
    if pairs.is_empty() {
        return Ok(HashSet::new());
    }
    let positions: Vec<i64> = sqlx::query_scalar(
        "SELECT asked.position - 1 FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (a, b, position) \
         WHERE EXISTS (SELECT 1 FROM identity_graph WHERE universal_id_a = asked.a AND universal_id_b = asked.b)",
    )
    .bind(column(pairs, |(a, _)| a.as_str()))
    .bind(column(pairs, |(_, b)| b.as_str()))
    .fetch_all(connection)
    .await
    .map_err(classify)?;
    Ok(at_positions(pairs, &positions))
}

/// Returns one column of rows that are written together.
fn column<'a, T, V>(rows: &'a [T], value: impl Fn(&'a T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

fn texts(ids: &[UniversalId]) -> Vec<&str> {
    ids.iter().map(UniversalId::as_str).collect()
}

/// Stores changes, with one statement per table. Times are passed as milliseconds.
pub(super) async fn store(connection: &mut PgConnection, changes: &Changes) -> Result<(), StoreError> {
    create(connection, changes).await?;
    r#move(connection, &changes.moved).await?;
    mark_first_events(connection, changes).await?;
    pair(connection, changes).await?;
    note(connection, changes).await
}

async fn create(connection: &mut PgConnection, Changes { created, .. }: &Changes) -> Result<(), StoreError> {
    if created.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO resolved_identities \
         (universal_id, canonical_id, identifier_type, identifier_value, first_seen_at, has_events) \
         SELECT id, canonical, kind, value, 'epoch'::timestamptz + ms * interval '1 millisecond', has_events \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::boolean[]) \
         AS new (id, canonical, kind, value, ms, has_events)",
    )
    .bind(column(created, |new| new.universal_id.as_str()))
    .bind(column(created, |new| new.canonical.as_str()))
    .bind(column(created, |new| new.identifier.kind.as_str()))
    .bind(column(created, |new| new.identifier.value.as_str()))
    .bind(column(created, |new| new.seen_at.as_millis()))
    .bind(column(created, |new| new.has_events))
    .execute(connection)
    .await
    .map_err(classify)?;
    Ok(())
}

async fn r#move(
    connection: &mut PgConnection,
    moved: &[(UniversalId, UniversalId)],
) -> Result<(), StoreError> {
    if moved.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE resolved_identities SET canonical_id = change.canonical \
         FROM unnest($1::text[], $2::text[]) AS change (id, canonical) WHERE universal_id = change.id",
    )
    .bind(column(moved, |(id, _)| id.as_str()))
    .bind(column(moved, |(_, canonical)| canonical.as_str()))
    .execute(connection)
    .await
    .map_err(classify)?;
    Ok(())
}

async fn mark_first_events(
    connection: &mut PgConnection,
    Changes { first_events, .. }: &Changes,
) -> Result<(), StoreError> {
    if first_events.is_empty() {
        return Ok(());
    }
    sqlx::query("UPDATE resolved_identities SET has_events = true WHERE universal_id = ANY ($1)")
        .bind(texts(first_events))
        .execute(connection)
        .await
        .map_err(classify)?;
    Ok(())
}

async fn pair(connection: &mut PgConnection, Changes { pairs, .. }: &Changes) -> Result<(), StoreError> {
    if pairs.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO identity_graph (universal_id_a, universal_id_b, source, first_seen_at) \
         SELECT a, b, source, 'epoch'::timestamptz + ms * interval '1 millisecond' \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS new (a, b, source, ms)",
    )
    .bind(column(pairs, |new| new.pair.0.as_str()))
    .bind(column(pairs, |new| new.pair.1.as_str()))
    .bind(column(pairs, |new| new.source.as_str()))
    .bind(column(pairs, |new| new.seen_at.as_millis()))
    .execute(connection)
    .await
    .map_err(classify)?;
    Ok(())
}

async fn note(connection: &mut PgConnection, Changes { audit, .. }: &Changes) -> Result<(), StoreError> {
    if audit.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO identity_audit_log \
         (action, universal_id, other_universal_id, identifier_type, identifier_value, source, at) \
         SELECT action, id, other, kind, value, source, 'epoch'::timestamptz + ms * interval '1 millisecond' \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[]) \
         WITH ORDINALITY AS new (action, id, other, kind, value, source, ms, position) ORDER BY position",
    )
    .bind(column(audit, |entry| entry.action.as_str()))
    .bind(column(audit, |entry| entry.universal_id.as_str()))
    .bind(column(audit, |entry| {
        entry.other.as_ref().map(UniversalId::as_str)
    }))
    .bind(column(audit, |entry| {
        entry
            .identifier
            .as_ref()
            .map(|identifier| identifier.kind.as_str())
    }))
    .bind(column(audit, |entry| {
        entry
            .identifier
            .as_ref()
            .map(|identifier| identifier.value.as_str())
    }))
    .bind(column(audit, |entry| entry.source.as_str()))
    .bind(column(audit, |entry| entry.at.as_millis()))
    .execute(connection)
    .await
    .map_err(classify)?;
    Ok(())
}

/// Erases ids. Pairs are found by their first id, because they are indexed by it: it belongs to the same person as the second
/// or, if a weak identifier stayed with somebody else, to a person that the history names together with it.
pub(super) async fn erase(
    connection: &mut PgConnection,
    ids: &[UniversalId],
    erasure: &Erasure,
) -> Result<ErasedIdentities, StoreError> {
    let Erasure {
        identifiers,
        people,
        moved,
    } = erasure;
    sqlx::query(
        "WITH met AS (SELECT universal_id AS id FROM identity_audit_log WHERE other_universal_id = ANY ($2) \
         UNION SELECT other_universal_id FROM identity_audit_log WHERE universal_id = ANY ($2) \
         AND other_universal_id IS NOT NULL), \
         near AS (SELECT unnest($2) AS id UNION SELECT universal_id FROM resolved_identities WHERE canonical_id IN \
         (SELECT canonical_id FROM resolved_identities WHERE universal_id IN (SELECT id FROM met))) \
         DELETE FROM identity_graph WHERE universal_id_a IN (SELECT id FROM near) \
         AND (universal_id_a = ANY ($1) OR universal_id_b = ANY ($1))",
    )
    .bind(texts(ids))
    .bind(texts(people))
    .execute(&mut *connection)
    .await
    .map_err(classify)?;
    let entries = sqlx::query(
        "DELETE FROM identity_audit_log WHERE entry_id IN (\
         SELECT entry_id FROM identity_audit_log WHERE universal_id = ANY ($1) \
         UNION SELECT entry_id FROM identity_audit_log WHERE other_universal_id = ANY ($1) \
         UNION SELECT entry_id FROM identity_audit_log WHERE universal_id = ANY ($2) \
         AND (identifier_type, identifier_value) IN (SELECT * FROM unnest($3::text[], $4::text[])))",
    )
    .bind(texts(ids))
    .bind(texts(people))
    .bind(column(identifiers, |identifier| identifier.kind.as_str()))
    .bind(column(identifiers, |identifier| identifier.value.as_str()))
    .execute(&mut *connection)
    .await
    .map_err(classify)?;
    let erased = sqlx::query("DELETE FROM resolved_identities WHERE universal_id = ANY ($1)")
        .bind(texts(ids))
        .execute(&mut *connection)
        .await
        .map_err(classify)?;
    r#move(connection, moved).await?;
    Ok(ErasedIdentities {
        identifiers: erased.rows_affected(),
        entries: entries.rows_affected(),
    })
}

/// Returns the history of the person that owns `id`, oldest first.
pub(super) async fn audit(
    connection: &mut PgConnection,
    id: &UniversalId,
    limit: usize,
) -> Result<Vec<AuditEntry>, StoreError> {
    // Two lookups, each with its own index.
    let rows = sqlx::query(
        "WITH ids AS (SELECT universal_id FROM resolved_identities WHERE canonical_id = \
         (SELECT canonical_id FROM resolved_identities WHERE universal_id = $1)), \
         entries AS (SELECT * FROM identity_audit_log WHERE universal_id IN (SELECT universal_id FROM ids) \
         UNION SELECT * FROM identity_audit_log WHERE other_universal_id IN (SELECT universal_id FROM ids)) \
         SELECT action, universal_id, other_universal_id, identifier_type, identifier_value, source, \
         (extract(epoch FROM at) * 1000)::bigint FROM entries ORDER BY entry_id LIMIT $2",
    )
    .bind(id.as_str())
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await
    .map_err(classify)?;
    rows.iter().map(audit_entry).collect()
}

fn audit_entry(row: &PgRow) -> Result<AuditEntry, StoreError> {
    let text = |index: usize| row.try_get::<&str, _>(index).map_err(classify);
    let optional = |index: usize| row.try_get::<Option<&str>, _>(index).map_err(classify);
    let row = AuditColumns {
        action: text(0)?,
        universal_id: text(1)?,
        other: optional(2)?,
        kind: optional(3)?,
        value: optional(4)?,
        source: text(5)?,
        at: Timestamp::try_from_millis(row.try_get(6).map_err(classify)?),
    };
    columns::audit_entry(&row).map_err(|column| malformed("identity_audit_log", column))
}

/// Returns all accounts, ordered by provider and name.
pub(super) async fn accounts(connection: &mut PgConnection) -> Result<Vec<StoredAccount>, StoreError> {
    let rows = sqlx::query(
        "SELECT provider, account, sealed, (extract(epoch FROM updated_at) * 1000)::bigint \
         FROM provider_accounts ORDER BY provider, account",
    )
    .fetch_all(connection)
    .await
    .map_err(classify)?;
    let account = |row: &PgRow| {
        let updated_at = Timestamp::try_from_millis(row.try_get(3).map_err(classify)?);
        Ok(StoredAccount {
            provider: row.try_get(0).map_err(classify)?,
            account: row.try_get(1).map_err(classify)?,
            sealed: row.try_get(2).map_err(classify)?,
            updated_at: updated_at.ok_or_else(|| malformed("provider_accounts", "updated_at"))?,
        })
    };
    rows.iter().map(account).collect()
}

/// Stores an account if what is stored is still `before`, or with `None` if nothing is. Returns whether it was stored.
pub(super) async fn put_account(
    connection: &mut PgConnection,
    account: &StoredAccount,
    before: Option<&[u8]>,
) -> Result<bool, StoreError> {
    let statement = match before {
        None => {
            "INSERT INTO provider_accounts (provider, account, sealed, updated_at) \
             VALUES ($1, $2, $3, 'epoch'::timestamptz + $4 * interval '1 millisecond') \
             ON CONFLICT (provider, account) DO NOTHING"
        }
        Some(_) => {
            "UPDATE provider_accounts \
             SET sealed = $3, updated_at = 'epoch'::timestamptz + $4 * interval '1 millisecond' \
             WHERE provider = $1 AND account = $2 AND sealed = $5"
        }
    };
    let mut query = sqlx::query(statement)
        .bind(&account.provider)
        .bind(&account.account)
        .bind(&account.sealed)
        .bind(account.updated_at.as_millis());
    if let Some(before) = before {
        query = query.bind(before);
    }
    let put = query.execute(connection).await.map_err(classify)?;
    Ok(put.rows_affected() > 0)
}

/// Removes an account and returns whether there was one.
pub(super) async fn remove_account(
    connection: &mut PgConnection,
    provider: &str,
    account: &str,
) -> Result<bool, StoreError> {
    let removed = sqlx::query("DELETE FROM provider_accounts WHERE provider = $1 AND account = $2")
        .bind(provider)
        .bind(account)
        .execute(connection)
        .await
        .map_err(classify)?;
    Ok(removed.rows_affected() > 0)
}

/// Returns what tells the pepper apart from others, if it was kept.
pub(super) async fn pepper_check(connection: &mut PgConnection) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar("SELECT hash FROM identity_pepper_check")
        .fetch_optional(connection)
        .await
        .map_err(classify)
}

/// Keeps what tells the pepper apart from others, unless something is kept already.
pub(super) async fn keep_pepper_check(connection: &mut PgConnection, hash: &str) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO identity_pepper_check (id, hash) VALUES (1, $1) ON CONFLICT (id) DO NOTHING")
        .bind(hash)
        .execute(connection)
        .await
        .map_err(classify)?;
    Ok(())
}

/// Commits a row and reads it back.
pub(super) async fn ping(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO identity_ping (id, at) VALUES (1, now()) ON CONFLICT (id) DO UPDATE SET at = excluded.at RETURNING at",
    )
    .fetch_one(connection)
    .await
    .map_err(classify)?;
    Ok(())
}

fn malformed(table: &str, column: &str) -> StoreError {
    StoreError::malformed(ENGINE, table, column)
}
