//! Removes old records: those that every group has read and that are old enough, and dead letters once they are old enough.

use std::{sync::Arc, time::Duration};

use event::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Shared, config::millis};
use crate::{
    StoreError,
    bus::DEAD_LETTERS_TOPIC,
    sqlite::{classify, now},
};

/// Time between two rounds. The records to remove are days old, so one more minute does not matter, and a round that finds
/// nothing costs a few indexed lookups.
const ROUND: Duration = Duration::from_secs(60);

/// Number of records removed in one transaction: it takes a few milliseconds, so that appends in between are not held up.
const CHUNK: usize = 500;

/// Runs rounds until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(ROUND))
        .await
        .is_some()
    {
        match stop.run_until_cancelled(trim(&shared, now())).await {
            Some(Err(error)) => {
                tracing::warn!(error = %error, "could not remove old records from the bus; will try again");
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

/// Removes the records that may be removed at `now`. Returns their number.
pub(super) async fn trim(shared: &Shared, now: Timestamp) -> Result<u64, StoreError> {
    shared.groups.forget(now, shared.config.group_expiry).await?;
    let lowest = shared.groups.lowest_committed().await?;
    let topics: Vec<(i64, String)> = sqlx::query_as("SELECT topic_id, name FROM topics")
        .fetch_all(shared.log.readers())
        .await
        .map_err(classify)?;
    let mut removed = 0;
    for (topic_id, topic) in topics {
        let below = match lowest.iter().find(|(name, _)| *name == topic) {
            // Dead letters are deliveries as they were received: reading them must not make them stay.
            Some((_, read_by_all)) if topic != DEAD_LETTERS_TOPIC => *read_by_all,
            _ => i64::MAX,
        };
        let before = now.plus_millis(-millis(shared.config.retention_of(&topic)));
        let mut from = 0;
        loop {
            let oldest = oldest(shared, topic_id, from, below).await?;
            let old = dated(&oldest, |appended_at| appended_at < before.as_millis());
            let ahead = dated(&oldest, |appended_at| appended_at > now.as_millis());
            // If the oldest records of a topic need no work, the rest of the topic is not searched.
            if old.is_empty() && ahead.is_empty() {
                break;
            }
            removed += settle(shared, topic_id, &old, &ahead, now).await?;
            match oldest.last() {
                Some((last, _)) if oldest.len() == CHUNK => from = last + 1,
                _ => break,
            }
        }
    }
    Ok(removed)
}

/// Returns offsets and times of the oldest records of a topic in a range of offsets, at most one chunk.
async fn oldest(
    shared: &Shared,
    topic_id: i64,
    from: i64,
    below: i64,
) -> Result<Vec<(i64, i64)>, StoreError> {
    sqlx::query_as(
        "SELECT record_offset, appended_at_ms FROM records \
         WHERE topic_id = ?1 AND record_offset >= ?2 AND record_offset < ?3 ORDER BY record_offset LIMIT ?4",
    )
    .bind(topic_id)
    .bind(from)
    .bind(below)
    .bind(CHUNK as i64)
    .fetch_all(shared.log.readers())
    .await
    .map_err(classify)
}

/// Returns the offsets of the records whose append time satisfies `is_wanted`.
fn dated(records: &[(i64, i64)], is_wanted: impl Fn(i64) -> bool) -> Vec<i64> {
    let wanted = records.iter().filter(|(_, appended_at)| is_wanted(*appended_at));
    wanted.map(|(offset, _)| *offset).collect()
}

/// Removes the records at the offsets `old`. Those at `ahead` were appended while the clock was ahead: they are dated to `now`,
/// so that they neither stay until that clock's time nor are removed before groups had their time to read them. Returns how
/// many were removed.
async fn settle(
    shared: &Shared,
    topic_id: i64,
    old: &[i64],
    ahead: &[i64],
    now: Timestamp,
) -> Result<u64, StoreError> {
    let mut transaction = shared.log.begin_erasing().await?;
    // By offset, because offsets are never reused. Another process may have removed the same records meanwhile, and row ids of
    // removed records are given to new ones.
    let deleted = sqlx::query(
        "DELETE FROM records WHERE topic_id = ?1 AND record_offset IN (SELECT value FROM json_each(?2))",
    )
    .bind(topic_id)
    .bind(json(old))
    .execute(&mut *transaction)
    .await
    .map_err(classify)?;
    sqlx::query(
        "UPDATE records SET appended_at_ms = ?3 \
         WHERE topic_id = ?1 AND record_offset IN (SELECT value FROM json_each(?2))",
    )
    .bind(topic_id)
    .bind(json(ahead))
    .bind(now.as_millis())
    .execute(&mut *transaction)
    .await
    .map_err(classify)?;
    transaction.commit().await.map_err(classify)?;
    Ok(deleted.rows_affected())
}

fn json(offsets: &[i64]) -> String {
    serde_json::to_string(offsets).expect("a list of numbers is always valid JSON")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use event::grid::DAY_MS;

    use super::*;
    use crate::{
        bus::{Bus, NewRecord, SqliteBus, SqliteBusConfig},
        testing::commit_returned,
    };

    async fn open(folder: &tempfile::TempDir) -> SqliteBus {
        SqliteBus::open(folder.path(), SqliteBusConfig::default())
            .await
            .unwrap()
    }

    fn records(topic: &str, count: usize) -> Vec<NewRecord> {
        let record = NewRecord {
            topic: topic.to_owned(),
            key: "k".to_owned(),
            value: b"v".to_vec(),
            headers: BTreeMap::new(),
        };
        vec![record; count]
    }

    /// Reads a topic from the group's position and returns the offsets.
    async fn read(bus: &SqliteBus, group: &str, topic: &str) -> Vec<u64> {
        let mut subscription = bus.subscribe(group, &[topic]).await.unwrap();
        let records = subscription
            .poll(10_000, Duration::from_millis(250))
            .await
            .unwrap();
        commit_returned(subscription.as_mut(), &[topic]).await.unwrap();
        records.iter().map(|record| record.position.offset).collect()
    }

    #[tokio::test]
    async fn what_another_process_appends_during_a_round_stays() {
        let folder = tempfile::tempdir().unwrap();
        let bus = open(&folder).await;
        let other_process = open(&folder).await;
        bus.append(records("t", 3)).await.unwrap();
        let found = oldest(&bus.shared, 1, 0, i64::MAX).await.unwrap();
        let old = dated(&found, |_| true);

        let later = now().plus_millis(8 * DAY_MS);
        assert_eq!(other_process.trim(later).await.unwrap(), 3);
        other_process.append(records("t", 1)).await.unwrap();
        assert_eq!(settle(&bus.shared, 1, &old, &[], later).await.unwrap(), 0);
        assert_eq!(read(&bus, "g", "t").await, [3]);
    }

    #[tokio::test]
    async fn records_of_a_clock_that_was_ahead_age_from_when_that_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let bus = open(&folder).await;
        bus.append(records("t", 2 * CHUNK + 1)).await.unwrap();
        // The clock is corrected: it was a year ahead.
        let right = now().plus_millis(-365 * DAY_MS);
        assert_eq!(read(&bus, "g", "t").await.len(), 2 * CHUNK + 1);
        assert_eq!(bus.trim(right).await.unwrap(), 0);
        assert_eq!(bus.trim(right.plus_millis(6 * DAY_MS)).await.unwrap(), 0);
        let removed = bus.trim(right.plus_millis(8 * DAY_MS)).await.unwrap();
        assert_eq!(removed, 2 * CHUNK as u64 + 1);
        // The group, last active a year ahead, does not hold records back for that long either.
        bus.append(records("t", 1)).await.unwrap();
        assert_eq!(bus.trim(right.plus_millis(9 * DAY_MS)).await.unwrap(), 0);
        assert_eq!(bus.trim(right.plus_millis(40 * DAY_MS)).await.unwrap(), 0);
        assert_eq!(bus.trim(right.plus_millis(48 * DAY_MS)).await.unwrap(), 1);
    }
}
