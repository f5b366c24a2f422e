//! Removing records that every group has read and that are old enough.

use std::{sync::Arc, time::Duration};

use event::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Shared, config::millis};
use crate::{
    StoreError,
    sqlite::{classify, now},
};

/// Time between two rounds. What is removed is days old, so a minute more does not matter, and a round that finds
/// nothing costs a few indexed lookups.
const ROUND: Duration = Duration::from_secs(60);

/// Records removed in one transaction: a few milliseconds, so that appends in between are not held up.
const CHUNK: i64 = 500;

/// Rounds until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(ROUND))
        .await
        .is_some()
    {
        match stop.run_until_cancelled(trim(&shared, now())).await {
            Some(Err(error)) => {
                tracing::warn!(error = %error, "could not remove old records from the bus; it is tried again");
            }
            Some(Ok(removed)) if removed > 0 => {
                tracing::debug!(
                    bus.removed = removed,
                    "removed {removed} old records from the bus"
                );
            }
            Some(Ok(_)) | None => {}
        }
    }
}

/// Removes what may go at `now`; answers with the number of records.
pub(super) async fn trim(shared: &Shared, now: Timestamp) -> Result<u64, StoreError> {
    shared
        .groups
        .forget(now.plus_millis(-millis(shared.config.group_expiry)).as_millis())
        .await?;
    let lowest = shared.groups.lowest_committed().await?;
    let topics: Vec<(i64, String)> = sqlx::query_as("SELECT topic_id, name FROM topics")
        .fetch_all(shared.log.readers())
        .await
        .map_err(classify)?;
    let mut removed = 0;
    for (topic_id, topic) in topics {
        let read_by_all = lowest
            .iter()
            .find(|(name, _)| *name == topic)
            .map_or(i64::MAX, |(_, offset)| *offset);
        let before = now.plus_millis(-millis(shared.config.retention_of(&topic)));
        loop {
            let chunk = trim_chunk(shared, topic_id, read_by_all, before).await?;
            removed += chunk;
            if chunk < CHUNK.unsigned_abs() {
                break;
            }
        }
    }
    Ok(removed)
}

async fn trim_chunk(
    shared: &Shared,
    topic_id: i64,
    below: i64,
    before: Timestamp,
) -> Result<u64, StoreError> {
    // The age is looked at for the oldest chunk only: a topic with nothing to remove is not searched to its end.
    let old: Vec<i64> = sqlx::query_scalar(
        "SELECT rowid FROM (SELECT rowid, appended_at_ms FROM records WHERE topic_id = ?1 AND record_offset < ?2 \
         ORDER BY record_offset LIMIT ?3) WHERE appended_at_ms < ?4",
    )
    .bind(topic_id)
    .bind(below)
    .bind(CHUNK)
    .bind(before.as_millis())
    .fetch_all(shared.log.readers())
    .await
    .map_err(classify)?;
    if old.is_empty() {
        return Ok(0);
    }
    let rows = serde_json::to_string(&old).expect("a list of numbers is always valid JSON");
    let mut transaction = shared.log.begin().await?;
    let deleted = sqlx::query("DELETE FROM records WHERE rowid IN (SELECT value FROM json_each(?1))")
        .bind(rows)
        .execute(&mut *transaction)
        .await
        .map_err(classify)?;
    transaction.commit().await.map_err(classify)?;
    Ok(deleted.rows_affected())
}
