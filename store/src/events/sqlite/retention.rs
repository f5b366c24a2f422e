//! Removes explanations that are too old, with what was stored with them, and events.

use std::time::Duration;

use event::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::rows;
use crate::{
    StoreError,
    sqlite::{Database, classify, now},
};

/// Time between two rounds. Explanations are kept for days, and one that is too old is not found any more.
const ROUND: Duration = Duration::from_secs(60);

/// Time between two rounds over the events. Each reads the index of people and times as a whole, which takes 0.3 s for a million
/// events; events are kept for a day at least.
const EVENT_ROUND: Duration = Duration::from_secs(3_600);

/// Number of rows removed in one transaction: explanations take a few milliseconds, and events, each of which is on another page,
/// some 50. So decisions and batches of events in between are not held up.
const CHUNK: i64 = 200;

/// Removes old explanations until `stop`.
pub(super) async fn run(explanations: Database, retention: Duration, stop: CancellationToken) {
    let round = || expire(&explanations, oldest_kept(retention, now()));
    repeat("explanations", ROUND, stop, round).await;
}

/// Removes old events until `stop`.
pub(super) async fn run_over_events(events: Database, retention: Duration, stop: CancellationToken) {
    let round = || {
        expire_events(
            &events,
            Timestamp::from_millis_clamped(oldest_kept(retention, now())),
        )
    };
    repeat("events", EVENT_ROUND, stop, round).await;
}

/// Runs a round soon, so that a process that does not live long has one too, and then again and again.
async fn repeat<F>(what: &str, period: Duration, stop: CancellationToken, round: impl Fn() -> F)
where
    F: Future<Output = Result<u64, StoreError>>,
{
    let mut rounds = interval_at(Instant::now() + ROUND, period);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(rounds.tick()).await.is_some() {
        if let Some(Err(error)) = stop.run_until_cancelled(round()).await {
            tracing::warn!(error = %error, "could not remove old {what}; will try again");
        }
    }
}

/// Returns the time of the oldest row that is kept at `now`, in milliseconds since 1970: when an explanation was stored, when an
/// event happened.
pub(super) fn oldest_kept(retention: Duration, now: Timestamp) -> i64 {
    let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    now.as_millis().saturating_sub(retention)
}

/// Removes the explanations that were stored before, and returns how many there were.
pub(super) async fn expire(explanations: &Database, before_ms: i64) -> Result<u64, StoreError> {
    let mut removed = 0;
    loop {
        let mut transaction = explanations.begin_erasing().await?;
        let mut deleted = 0;
        // Trials and forecasts first: they are found through their explanation.
        for delete in [
            "DELETE FROM timing_forecasts WHERE (decided_at, reference) IN (SELECT decided_at, reference \
             FROM timing_explanations WHERE saved_at_ms < ?1 ORDER BY saved_at_ms LIMIT ?2)",
            "DELETE FROM timing_trials WHERE (decided_at, reference) IN (SELECT decided_at, reference \
             FROM timing_explanations WHERE saved_at_ms < ?1 ORDER BY saved_at_ms LIMIT ?2)",
            "DELETE FROM timing_explanations WHERE reference IN (SELECT reference \
             FROM timing_explanations WHERE saved_at_ms < ?1 ORDER BY saved_at_ms LIMIT ?2)",
        ] {
            let done = sqlx::query(delete)
                .bind(before_ms)
                .bind(CHUNK)
                .execute(&mut *transaction)
                .await
                .map_err(classify)?;
            deleted = done.rows_affected();
        }
        transaction.commit().await.map_err(classify)?;
        removed += deleted;
        // Fewer than asked for: there are no more.
        if deleted < CHUNK.unsigned_abs() {
            return Ok(removed);
        }
    }
}

/// Removes the events that happened before, and returns how many there were.
pub(super) async fn expire_events(events: &Database, before: Timestamp) -> Result<u64, StoreError> {
    let before = before.to_string();
    let (mut removed, mut person) = (0, String::new());
    loop {
        // Found by a reader, person by person in the order of the index, which has all that this needs: writers wait for the
        // removal alone.
        let found: Vec<(i64, String)> = sqlx::query_as(
            "SELECT rowid, universal_id FROM email_events WHERE universal_id >= ?1 AND timestamp < ?2 \
             ORDER BY universal_id LIMIT ?3",
        )
        .bind(&person)
        .bind(&before)
        .bind(CHUNK)
        .fetch_all(events.readers())
        .await
        .map_err(classify)?;
        let Some((_, last)) = found.last() else {
            return Ok(removed);
        };
        person.clone_from(last);
        let rows: Vec<i64> = found.into_iter().map(|(row, _)| row).collect();
        let mut transaction = events.begin_erasing().await?;
        // The time again, because another process may have given the row's number to another event meanwhile.
        let done = sqlx::query(
            "DELETE FROM email_events WHERE rowid IN (SELECT value FROM json_each(?1)) AND timestamp < ?2",
        )
        .bind(rows::json(&rows))
        .bind(&before)
        .execute(&mut *transaction)
        .await
        .map_err(classify)?;
        transaction.commit().await.map_err(classify)?;
        removed += done.rows_affected();
    }
}
