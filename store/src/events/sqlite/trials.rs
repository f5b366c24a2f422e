//! Conversions between rows and decisions that take part in the comparison with the control group.

use std::collections::HashSet;

use event::{Timestamp, UniversalId};
use sqlx::{
    QueryBuilder, Row,
    sqlite::{SqliteConnection, SqliteRow},
};

use super::rows;
use crate::{
    StoreError,
    events::{StoredExplanation, StoredTrial, Touch, TouchKind, Trial, TrialGroup},
    sqlite::{classify, malformed},
};

const TABLE: &str = "timing_trials";

/// Selects an explanation with its trial and its forecast, if it has them, unless it was stored before a time.
pub(super) const EXPLANATION: &str = "\
SELECT e.universal_id, e.decided_at, e.body, t.trial_group, t.target_at, t.model_at, t.propensity, t.campaign_id, \
f.trigger_at, f.target_at AS arrive_at, f.esp, f.mailbox_provider, f.campaign_id AS campaign \
FROM timing_explanations AS e LEFT JOIN timing_trials AS t ON t.decided_at = e.decided_at AND t.reference = e.reference \
LEFT JOIN timing_forecasts AS f ON f.decided_at = e.decided_at AND f.reference = e.reference \
WHERE e.reference = ?1 AND e.saved_at_ms >= ?2";

/// Counts the trials of a time span.
pub(super) const COUNT: &str =
    "SELECT COUNT(*) FROM timing_trials WHERE decided_at >= ?1 AND decided_at < ?2";

/// Selects the newest trials of a time span about people below an id, in the order of the table.
pub(super) const NEWEST: &str = "\
SELECT reference, universal_id, decided_at, trial_group, target_at, model_at, propensity, campaign_id \
FROM timing_trials WHERE decided_at >= ?1 AND decided_at < ?2 AND universal_id < ?3 \
ORDER BY decided_at DESC, reference DESC LIMIT ?4";

/// Selects deliveries and strong responses of many people. The cross join makes SQLite look up each person in the index,
/// instead of scanning all events of the time span.
pub(super) const TOUCHES: &str = "\
SELECT e.universal_id, e.timestamp, e.event_type, e.message_id, e.campaign_id, e.esp, e.delivery_latency_ms \
FROM (SELECT DISTINCT value AS id FROM json_each(?1)) AS person CROSS JOIN email_events AS e \
ON e.universal_id = person.id AND e.timestamp >= ?2 AND e.timestamp < ?3 \
WHERE e.event_type IN ('delivered', 'clicked', 'replied', 'converted') AND e.machine = 0";

/// Stores explanations and returns those that were not stored before.
pub(super) async fn insert_explanations<'a>(
    connection: &mut SqliteConnection,
    explanations: &[&'a StoredExplanation],
    saved_at: Timestamp,
) -> Result<Vec<&'a StoredExplanation>, StoreError> {
    let mut insert = QueryBuilder::new(
        "INSERT INTO timing_explanations (reference, universal_id, decided_at, body, saved_at_ms) ",
    );
    insert.push_values(explanations, |mut row, explanation| {
        row.push_bind(&explanation.reference)
            .push_bind(explanation.universal_id.as_str())
            .push_bind(explanation.decided_at.to_string())
            .push_bind(&explanation.body)
            .push_bind(saved_at.as_millis());
    });
    insert.push(" ON CONFLICT (reference) DO NOTHING RETURNING reference");
    let stored: Vec<String> = insert
        .build_query_scalar()
        .fetch_all(connection)
        .await
        .map_err(classify)?;
    let mut stored: HashSet<String> = stored.into_iter().collect();
    // Of two with the same reference, the first was stored.
    let new = explanations
        .iter()
        .filter(|explanation| stored.remove(&explanation.reference));
    Ok(new.copied().collect())
}

/// Erases explanations with their trials and forecasts; returns how many explanations there were.
pub(super) async fn erase_explanations(
    connection: &mut SqliteConnection,
    references: &[String],
) -> Result<u64, StoreError> {
    let references = rows::json(&references);
    let mut erased = 0;
    // Trials and forecasts first: they are found through their explanation. The last statement, on explanations, is the one
    // counted.
    for delete in [
        "DELETE FROM timing_forecasts WHERE (decided_at, reference) IN (SELECT decided_at, reference \
         FROM timing_explanations WHERE reference IN (SELECT value FROM json_each(?1)))",
        "DELETE FROM timing_trials WHERE (decided_at, reference) IN (SELECT decided_at, reference \
         FROM timing_explanations WHERE reference IN (SELECT value FROM json_each(?1)))",
        "DELETE FROM timing_explanations WHERE reference IN (SELECT value FROM json_each(?1))",
    ] {
        let done = sqlx::query(delete)
            .bind(&references)
            .execute(&mut *connection)
            .await;
        erased = done.map_err(classify)?.rows_affected();
    }
    Ok(erased)
}

/// Stores the trials of new explanations.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    explanations: &[&StoredExplanation],
) -> Result<(), StoreError> {
    let trials: Vec<(&StoredExplanation, &Trial)> = explanations
        .iter()
        .filter_map(|explanation| Some((*explanation, explanation.trial.as_ref()?)))
        .collect();
    if trials.is_empty() {
        return Ok(());
    }
    let mut insert = QueryBuilder::new(
        "INSERT INTO timing_trials (decided_at, reference, universal_id, trial_group, target_at, model_at, propensity, \
         campaign_id) ",
    );
    insert.push_values(trials, |mut row, (explanation, trial)| {
        row.push_bind(explanation.decided_at.to_string())
            .push_bind(&explanation.reference)
            .push_bind(explanation.universal_id.as_str())
            .push_bind(trial.group.as_str())
            .push_bind(trial.target_at.to_string())
            .push_bind(trial.model_at.to_string())
            .push_bind(trial.propensity)
            .push_bind(&trial.campaign_id);
    });
    insert.build().execute(connection).await.map_err(classify)?;
    Ok(())
}

/// Reads a row of [`NEWEST`].
pub(super) fn read(row: &SqliteRow) -> Result<StoredTrial, StoreError> {
    Ok(StoredTrial {
        reference: row.try_get("reference").map_err(classify)?,
        universal_id: universal_id(row)?,
        decided_at: timestamp(row, "decided_at")?,
        trial: trial(row, row.try_get("trial_group").map_err(classify)?)?,
    })
}

/// Reads the trial in a row that has a group.
pub(super) fn trial(row: &SqliteRow, group: &str) -> Result<Trial, StoreError> {
    Ok(Trial {
        group: TrialGroup::parse(group).ok_or_else(|| malformed(TABLE, "trial_group"))?,
        target_at: timestamp(row, "target_at")?,
        model_at: timestamp(row, "model_at")?,
        propensity: row.try_get("propensity").map_err(classify)?,
        campaign_id: row.try_get("campaign_id").map_err(classify)?,
    })
}

/// Reads a row of [`TOUCHES`].
pub(super) fn touch(row: &SqliteRow) -> Result<Touch, StoreError> {
    Ok(Touch {
        universal_id: rows::universal_id(row.try_get(0).map_err(classify)?)?,
        at: rows::timestamp(row.try_get(1).map_err(classify)?, "timestamp")?,
        kind: TouchKind::of(row.try_get(2).map_err(classify)?),
        message_id: row.try_get(3).map_err(classify)?,
        campaign_id: row.try_get(4).map_err(classify)?,
        esp: row.try_get(5).map_err(classify)?,
        delivery_latency_ms: row.try_get(6).map_err(classify)?,
    })
}

/// Reads the person of a row.
pub(super) fn universal_id(row: &SqliteRow) -> Result<UniversalId, StoreError> {
    UniversalId::parse(row.try_get("universal_id").map_err(classify)?)
        .ok_or_else(|| malformed("timing_explanations", "universal_id"))
}

/// Reads a time of a row.
pub(super) fn timestamp(row: &SqliteRow, column: &str) -> Result<Timestamp, StoreError> {
    let text: &str = row.try_get(column).map_err(classify)?;
    text.parse().map_err(|_| malformed("timing_explanations", column))
}
