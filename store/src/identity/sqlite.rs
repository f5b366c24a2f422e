//! The embedded identity graph: SQLite, `identity.db`.
//!
//! Steady traffic repeats the same sightings again and again. Those that are recorded cost two reads; only new ones are written.
//! The consumer does not even pass on those that it has seen recently.

mod accounts;

use std::{collections::HashSet, path::Path, sync::Arc};

use async_trait::async_trait;
use event::UniversalId;
use serde::Serialize;
use sqlx::{Row, Sqlite, SqliteExecutor, Transaction};

use super::{
    AuditEntry, ErasedIdentities, Identities, Person, Sighting,
    columns::{self, AuditColumns, at_positions},
    graph::{Changes, Erasure, Graph, Member, Owners, Pair},
    news::{news, touched, traces},
};
use crate::{
    StoreError,
    sqlite::{Database, Durability, Step, classify, malformed, rejected},
};

const STEPS: &[Step] = &[
    Step {
        version: 1,
        name: "identity",
        sql: include_str!("../../migrations/identity/0001_identity.sql"),
    },
    Step {
        version: 2,
        name: "accounts",
        sql: include_str!("../../migrations/identity/0002_accounts.sql"),
    },
    Step {
        version: 3,
        name: "ids with events",
        sql: include_str!("../../migrations/identity/0003_ids_with_events.sql"),
    },
];

/// The identity graph as a SQLite file.
#[derive(Debug)]
pub struct SqliteIdentities {
    database: Database,
}

impl SqliteIdentities {
    /// Name of the file that is there once a graph has been opened in its folder.
    pub const FILE: &str = "identity.db";

    /// Opens the graph in `folder`, which must exist.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] when the file cannot be opened or was written by a newer build.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        let database = Database::open(&folder.join(Self::FILE), STEPS, Durability::PowerLoss).await?;
        Ok(Self { database })
    }

    /// Waits for running operations and closes the file. Later calls fail.
    pub async fn close(&self) {
        self.database.close().await;
    }

    /// Loads the part of the graph that `sightings` touch, under the lock of `transaction`.
    async fn load(
        &self,
        transaction: &mut Transaction<'static, Sqlite>,
        sightings: &[&Sighting],
    ) -> Result<Graph, StoreError> {
        let (ids, pairs) = touched(sightings);
        let stored = members(&mut **transaction, &ids).await?;
        let known = known_pairs(&mut **transaction, &pairs).await?;
        Ok(Graph::new(stored, known))
    }

    /// Returns the people that own these ids.
    async fn owners(&self, ids: &[UniversalId]) -> Result<Owners, StoreError> {
        Ok(Owners::new(members(self.database.readers(), ids).await?))
    }
}

#[async_trait]
impl Identities for SqliteIdentities {
    async fn record(&self, sightings: &[Sighting]) -> Result<(), StoreError> {
        let (ids, pairs) = traces(sightings);
        let with_events = with_events(self.database.readers(), &ids).await?;
        let known_pairs = known_pairs(self.database.readers(), &pairs).await?;
        let news = news(sightings, &with_events, &known_pairs);
        if !news.is_empty() {
            let mut transaction = self.database.begin().await?;
            let mut graph = self.load(&mut transaction, &news).await?;
            for sighting in news {
                graph.record(sighting);
            }
            store(&mut transaction, graph.into_changes()).await?;
            transaction.commit().await.map_err(classify)?;
        }
        Ok(())
    }

    async fn link(&self, sighting: &Sighting) -> Result<Person, StoreError> {
        let Some(strongest) = sighting.identifiers.iter().min() else {
            return Err(rejected("a link names no identifier"));
        };
        let mut transaction = self.database.begin().await?;
        let mut graph = self.load(&mut transaction, &[sighting]).await?;
        graph.link(sighting);
        let person = graph
            .person_of(strongest)
            .expect("a link makes all of its identifiers known");
        store(&mut transaction, graph.into_changes()).await?;
        transaction.commit().await.map_err(classify)?;
        Ok(person)
    }

    async fn people(&self, ids: &[UniversalId]) -> Result<Vec<Arc<Person>>, StoreError> {
        Ok(self.owners(ids).await?.people(ids))
    }

    async fn audit(&self, id: &UniversalId, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let rows = sqlx::query(
            "WITH ids AS (SELECT universal_id FROM resolved_identities WHERE canonical_id = \
             (SELECT canonical_id FROM resolved_identities WHERE universal_id = ?1)) \
             SELECT action, universal_id, other_universal_id, identifier_type, identifier_value, source, at \
             FROM identity_audit_log WHERE universal_id IN ids OR other_universal_id IN ids \
             ORDER BY entry_id LIMIT ?2",
        )
        .bind(id.as_str())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(self.database.readers())
        .await
        .map_err(classify)?;
        rows.iter().map(audit_entry).collect()
    }

    async fn erase(&self, ids: &[UniversalId]) -> Result<ErasedIdentities, StoreError> {
        let mut transaction = self.database.begin_erasing().await?;
        let erasure = Erasure::new(members(&mut *transaction, ids).await?, ids);
        let erased = erase(&mut transaction, ids, &erasure).await?;
        transaction.commit().await.map_err(classify)?;
        self.database.fold_log().await?;
        Ok(erased)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.database.ping().await
    }
}

/// Erases ids. Pairs are found by their first id, because they are indexed by it: it belongs to the same person as the second
/// or, if a weak identifier stayed with somebody else, to a person that the history names together with it.
async fn erase(
    transaction: &mut Transaction<'static, Sqlite>,
    ids: &[UniversalId],
    erasure: &Erasure,
) -> Result<ErasedIdentities, StoreError> {
    let (ids, people) = (json(&ids), json(&erasure.people));
    sqlx::query(
        "WITH people AS (SELECT value AS id FROM json_each(?2)), \
         met AS (SELECT universal_id AS id FROM identity_audit_log WHERE other_universal_id IN (SELECT id FROM people) \
         UNION SELECT other_universal_id FROM identity_audit_log WHERE universal_id IN (SELECT id FROM people) \
         AND other_universal_id IS NOT NULL), \
         near AS (SELECT id FROM people UNION SELECT universal_id FROM resolved_identities WHERE canonical_id IN \
         (SELECT canonical_id FROM resolved_identities WHERE universal_id IN (SELECT id FROM met))) \
         DELETE FROM identity_graph WHERE universal_id_a IN (SELECT id FROM near) \
         AND (universal_id_a IN (SELECT value FROM json_each(?1)) OR universal_id_b IN (SELECT value FROM json_each(?1)))",
    )
    .bind(&ids)
    .bind(&people)
    .execute(&mut **transaction)
    .await
    .map_err(classify)?;
    let entries = sqlx::query(
        "DELETE FROM identity_audit_log WHERE entry_id IN (\
         SELECT entry_id FROM identity_audit_log WHERE universal_id IN (SELECT value FROM json_each(?1)) \
         UNION SELECT entry_id FROM identity_audit_log WHERE other_universal_id IN (SELECT value FROM json_each(?1)) \
         UNION SELECT entry_id FROM identity_audit_log WHERE universal_id IN (SELECT value FROM json_each(?2)) \
         AND (identifier_type, identifier_value) IN (SELECT value ->> 'kind', value ->> 'value' FROM json_each(?3)))",
    )
    .bind(&ids)
    .bind(&people)
    .bind(json(&erasure.identifiers))
    .execute(&mut **transaction)
    .await
    .map_err(classify)?;
    let identifiers = sqlx::query(
        "DELETE FROM resolved_identities WHERE universal_id IN (SELECT value FROM json_each(?1))",
    )
    .bind(&ids)
    .execute(&mut **transaction)
    .await
    .map_err(classify)?;
    if !erasure.moved.is_empty() {
        sqlx::query(MOVE)
            .bind(json(&erasure.moved))
            .execute(&mut **transaction)
            .await
            .map_err(classify)?;
    }
    Ok(ErasedIdentities {
        identifiers: identifiers.rows_affected(),
        entries: entries.rows_affected(),
    })
}

/// Changes the canonical ids of identifiers.
const MOVE: &str = "\
UPDATE resolved_identities SET canonical_id = change.value ->> 1 FROM json_each(?1) AS change \
WHERE universal_id = change.value ->> 0";

fn audit_entry(row: &sqlx::sqlite::SqliteRow) -> Result<AuditEntry, StoreError> {
    let text = |index: usize| row.try_get::<&str, _>(index).map_err(classify);
    let optional = |index: usize| row.try_get::<Option<&str>, _>(index).map_err(classify);
    let row = AuditColumns {
        action: text(0)?,
        universal_id: text(1)?,
        other: optional(2)?,
        kind: optional(3)?,
        value: optional(4)?,
        source: text(5)?,
        at: text(6)?.parse().ok(),
    };
    columns::audit_entry(&row).map_err(|column| malformed("identity_audit_log", column))
}

/// Returns every identifier of the people that own any of `ids`.
async fn members(executor: impl SqliteExecutor<'_>, ids: &[UniversalId]) -> Result<Vec<Member>, StoreError> {
    let rows = sqlx::query(
        "SELECT identifier_type, identifier_value, canonical_id, has_events FROM resolved_identities \
         WHERE canonical_id IN (SELECT canonical_id FROM resolved_identities \
         WHERE universal_id IN (SELECT value FROM json_each(?1)))",
    )
    .bind(json(&ids))
    .fetch_all(executor)
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
async fn with_events(
    executor: impl SqliteExecutor<'_>,
    ids: &[UniversalId],
) -> Result<HashSet<UniversalId>, StoreError> {
    if ids.is_empty() {
        return Ok(Default::default());
    }
    let positions: Vec<i64> = sqlx::query_scalar(
        "SELECT asked.key FROM json_each(?1) AS asked \
         WHERE EXISTS (SELECT 1 FROM resolved_identities WHERE universal_id = asked.value AND has_events)",
    )
    .bind(json(&ids))
    .fetch_all(executor)
    .await
    .map_err(classify)?;
    Ok(at_positions(ids, &positions))
}

/// Returns those of `pairs` that were seen together before.
async fn known_pairs(executor: impl SqliteExecutor<'_>, pairs: &[Pair]) -> Result<HashSet<Pair>, StoreError> {
    if pairs.is_empty() {
        return Ok(Default::default());
    }
    let positions: Vec<i64> = sqlx::query_scalar(
        "SELECT asked.key FROM json_each(?1) AS asked WHERE EXISTS (SELECT 1 FROM identity_graph \
         WHERE universal_id_a = asked.value ->> 0 AND universal_id_b = asked.value ->> 1)",
    )
    .bind(json(&pairs))
    .fetch_all(executor)
    .await
    .map_err(classify)?;
    Ok(at_positions(pairs, &positions))
}

/// Stores changes, with one statement per table.
async fn store(transaction: &mut Transaction<'static, Sqlite>, changes: Changes) -> Result<(), StoreError> {
    let created: Vec<_> = changes
        .created
        .iter()
        .map(|new| {
            let kind = new.identifier.kind.as_str();
            (
                &new.universal_id,
                &new.canonical,
                kind,
                &new.identifier.value,
                new.seen_at,
                new.has_events,
            )
        })
        .collect();
    let pairs: Vec<_> = changes
        .pairs
        .iter()
        .map(|new| (&new.pair.0, &new.pair.1, &new.source, new.seen_at))
        .collect();
    let audit: Vec<_> = changes
        .audit
        .iter()
        .map(|entry| {
            let kind = entry
                .identifier
                .as_ref()
                .map(|identifier| identifier.kind.as_str());
            let value = entry.identifier.as_ref().map(|identifier| &identifier.value);
            (
                entry.action.as_str(),
                &entry.universal_id,
                &entry.other,
                kind,
                value,
                &entry.source,
                entry.at,
            )
        })
        .collect();
    let statements = [
        (
            "INSERT INTO resolved_identities \
             (universal_id, canonical_id, identifier_type, identifier_value, first_seen_at, has_events) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?1)",
            created.len(),
            json(&created),
        ),
        (MOVE, changes.moved.len(), json(&changes.moved)),
        (
            "UPDATE resolved_identities SET has_events = 1 WHERE universal_id IN (SELECT value FROM json_each(?1))",
            changes.first_events.len(),
            json(&changes.first_events),
        ),
        (
            "INSERT INTO identity_graph (universal_id_a, universal_id_b, source, first_seen_at) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?1)",
            pairs.len(),
            json(&pairs),
        ),
        (
            "INSERT INTO identity_audit_log \
             (action, universal_id, other_universal_id, identifier_type, identifier_value, source, at) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6 \
             FROM json_each(?1) ORDER BY key",
            audit.len(),
            json(&audit),
        ),
    ];
    for (statement, rows, values) in statements {
        if rows > 0 {
            sqlx::query(statement)
                .bind(values)
                .execute(&mut **transaction)
                .await
                .map_err(classify)?;
        }
    }
    Ok(())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("lists of texts are always valid JSON")
}
