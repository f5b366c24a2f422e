//! The identity graph: which identifiers belong to the same person, and why.
//!
//! Events carry identifiers; identifiers that occur together belong to one person. A weak identifier (a provider's or the
//! sender's id) attaches to a strong one (hash of an address or phone number) and never joins two strong ones. A person is a
//! set of universal ids, one of them canonical (that of its strongest identifier); the others are aliases.

mod accounts;
mod columns;
mod graph;
mod news;
mod postgres;
mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use event::{Identifier, Timestamp, UniversalId};
use serde::{Deserialize, Serialize};

pub use self::{
    accounts::{StoredAccount, StoredAccounts},
    postgres::{InvalidPostgresConfig, PostgresConfig, PostgresIdentities, PostgresTls, RawPostgresConfig},
    sqlite::SqliteIdentities,
};
use crate::StoreError;

/// Identifiers that belong to one person according to one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Identifiers, at least one.
    pub identifiers: Vec<Identifier>,
    /// The source: `event:<event id>` or `api:<request id>`.
    pub source: String,
    /// Time of the sighting.
    pub seen_at: Timestamp,
}

/// A person, as the graph knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The id under which the person is addressed.
    pub canonical: UniversalId,
    /// All ids of the person, the canonical one first, then in text order.
    pub ids: Vec<UniversalId>,
    /// Those of `ids` under which events are stored, in the same order; the canonical one if the graph knows of none. An event
    /// is stored under the id of its strongest identifier, so that most of a person's ids have no events.
    pub with_events: Vec<UniversalId>,
    /// All known identifiers, strongest first.
    pub identifiers: Vec<Identifier>,
}

impl Person {
    /// Creates a person of whom the graph knows nothing but this id.
    pub fn unknown(id: UniversalId) -> Self {
        Self {
            canonical: id.clone(),
            ids: vec![id.clone()],
            with_events: vec![id],
            identifiers: Vec::new(),
        }
    }
}

/// What an audit entry records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditAction {
    /// An identifier was seen for the first time.
    Created,
    /// An identifier was attached to a person.
    Attached,
    /// Two people became one.
    Merged,
    /// A weak identifier was seen with a second strong one and stayed where it was.
    Conflict,
}

impl AuditAction {
    /// Returns the action's name in stored data and APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Attached => "attached",
            Self::Merged => "merged",
            Self::Conflict => "conflict",
        }
    }

    /// Returns the action with this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Created, Self::Attached, Self::Merged, Self::Conflict]
            .into_iter()
            .find(|action| action.as_str() == name)
    }
}

/// One step in the history of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// What was done.
    pub action: AuditAction,
    /// The person it was done to.
    pub universal_id: UniversalId,
    /// The other person, for a merge or a conflict.
    pub other: Option<UniversalId>,
    /// The identifier, if the entry is about one.
    pub identifier: Option<Identifier>,
    /// The source, as in [`Sighting::source`].
    pub source: String,
    /// Time of the sighting.
    pub at: Timestamp,
}

/// What was erased from the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ErasedIdentities {
    /// Number of identifiers.
    pub identifiers: u64,
    /// Number of entries of the history.
    pub entries: u64,
}

/// Stores the identity graph.
#[async_trait]
pub trait Identities: Send + Sync {
    /// Records sightings of events, in order. Recording one twice changes nothing. The strong identifiers of a sighting become
    /// one person; weak ones attach to it unless they already belong to another strong one.
    ///
    /// # Errors
    /// [`StoreError`] when nothing was recorded.
    async fn record(&self, sightings: &[Sighting]) -> Result<(), StoreError>;

    /// Joins all identifiers to one person, whatever their strength, on an operator's request, which does not imply an event.
    /// Returns that person.
    ///
    /// # Errors
    /// [`StoreError`] when nothing was recorded.
    async fn link(&self, sighting: &Sighting) -> Result<Person, StoreError>;

    /// Returns the people that own these ids, in the order of the ids; [`Person::unknown`] for an id that the graph does not
    /// know. Ids of one person share it: a mistake in a sender's data may give somebody thousands of identifiers.
    ///
    /// # Errors
    /// [`StoreError`] when the graph cannot be read.
    async fn people(&self, ids: &[UniversalId]) -> Result<Vec<Arc<Person>>, StoreError>;

    /// Returns the person's history in the graph, oldest first, at most `limit` entries.
    ///
    /// # Errors
    /// [`StoreError`] when the graph cannot be read.
    async fn audit(&self, id: &UniversalId, limit: usize) -> Result<Vec<AuditEntry>, StoreError>;

    /// Erases the identifiers of these ids, all or none, with everything that names them: pairs and history entries, including
    /// those that are about another person too. The other identifiers of their people stay together, under the id of the
    /// strongest one left. What is erased may be recorded again as if it had never existed.
    ///
    /// # Errors
    /// [`StoreError`] when nothing was erased.
    async fn erase(&self, ids: &[UniversalId]) -> Result<ErasedIdentities, StoreError>;

    /// Checks that the graph can be read and written.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot.
    async fn ping(&self) -> Result<(), StoreError>;
}
