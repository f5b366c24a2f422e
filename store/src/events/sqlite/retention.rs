//! Removes explanations that are too old, and what was stored with them.

use std::time::Duration;

use event::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    StoreError,
    sqlite::{Database, classify, now},
};

/// Time between two rounds. Explanations are kept for days, and one that is too old is not found any more.
const ROUND: Duration = Duration::from_secs(60);

/// Number of explanations removed in one transaction: it takes a few milliseconds, so that decisions in between are not held up.
const CHUNK: i64 = 200;

/// Runs rounds until `stop`.
pub(super) async fn run(explanations: Database, retention: Duration, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(ROUND))
        .await
        .is_some()
    {
        let round = expire(&explanations, oldest_kept(retention, now()));
        if let Some(Err(error)) = stop.run_until_cancelled(round).await {
            tracing::warn!(error = %error, "could not remove old explanations; will try again");
        }
    }
}

/// Returns when the oldest explanation that is kept at `now` was stored, in milliseconds since 1970.
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
