//! Reads records as a member of a group.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use event::Timestamp;
use futures::TryStreamExt;
use sqlx::Row;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{Shared, groups::Member};
use crate::{
    StoreError,
    bus::{POLL_BYTES, Position, Progress, Record, Subscription},
    sqlite::{classify, malformed, unavailable},
};

/// How often the files are checked for what other processes did: records appended, partitions freed. A tenth of a second is
/// short for a person and costs a few indexed lookups.
const OTHER_PROCESSES: Duration = Duration::from_millis(100);

/// Number of renewals within the duration of a lease: two may fail before the lease is lost.
const RENEWALS: u32 = 3;

/// Time until which this member knows its lease on each topic to be valid. Shared with the task that renews the leases.
type Leases = Arc<Mutex<HashMap<String, Instant>>>;

pub(super) struct SqliteSubscription {
    shared: Arc<Shared>,
    member: Member,
    partitions: Vec<Partition>,
    leases: Leases,
    appended: watch::Receiver<u64>,
    /// Index of the partition that is read first next time, so that a busy topic does not starve the others.
    first: usize,
    losses: u64,
    /// Stops the renewing task, which then releases the leases.
    _leave: DropGuard,
}

struct Partition {
    topic: String,
    /// Next offset to read; `None` while this member does not hold the partition.
    next: Option<i64>,
    /// Offset of the first record that was returned by a poll and is not committed yet.
    pending: Option<i64>,
    /// Whether the partition moved while records were pending.
    lost: bool,
}

impl SqliteSubscription {
    pub(super) fn start(
        shared: Arc<Shared>,
        member: Member,
        topics: &[&str],
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let leases = Leases::default();
        tasks.spawn(renew(
            Arc::clone(&shared),
            member.clone(),
            Arc::clone(&leases),
            stop.clone(),
        ));
        let appended = shared.appended.subscribe();
        let partitions = topics
            .iter()
            .map(|topic| Partition {
                topic: (*topic).to_owned(),
                next: None,
                pending: None,
                lost: false,
            })
            .collect();
        Self {
            shared,
            member,
            partitions,
            leases,
            appended,
            first: 0,
            losses: 0,
            _leave: stop.drop_guard(),
        }
    }

    /// Takes each partition that no other member reads, and drops those whose lease was lost.
    async fn take_partitions(&mut self) -> Result<(), StoreError> {
        for partition in &mut self.partitions {
            let began = Instant::now();
            let held_until = lock(&self.leases).get(&partition.topic).copied();
            if partition.next.is_some() && held_until.is_some_and(|until| began < until) {
                continue;
            }
            if partition.next.take().is_some() {
                self.losses += 1;
            }
            partition.lost |= partition.pending.take().is_some();
            let lease = self.shared.config.lease;
            if let Some(committed) = self
                .shared
                .groups
                .take(&self.member, &partition.topic, lease)
                .await?
            {
                lock(&self.leases).insert(partition.topic.clone(), began + lease);
                partition.next = Some(committed);
            }
        }
        Ok(())
    }

    /// Reads the next records of all held partitions, without waiting.
    async fn read(&mut self, max: usize) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        let mut room = POLL_BYTES;
        // Applied only after everything is read: a poll that is dropped half-way has read nothing.
        let mut read = Vec::new();
        let count = self.partitions.len();
        for step in 0..count {
            let index = (self.first + step) % count;
            let partition = &self.partitions[index];
            let Some(next) = partition.next else { continue };
            let mut rows = sqlx::query(
                "SELECT record_offset, record_key, value, headers, appended_at_ms FROM records \
                 WHERE topic_id = (SELECT topic_id FROM topics WHERE name = ?1) AND record_offset >= ?2 \
                 ORDER BY record_offset LIMIT ?3",
            )
            .bind(&partition.topic)
            .bind(next)
            .bind(i64::try_from(max - records.len()).unwrap_or(i64::MAX))
            .fetch(self.shared.log.readers());
            while let Some(row) = rows.try_next().await.map_err(classify)? {
                let offset: i64 = row.try_get(0).map_err(classify)?;
                let record = record(&partition.topic, offset, &row)?;
                if record.value.len() > room && !records.is_empty() {
                    room = 0;
                    break;
                }
                room = room.saturating_sub(record.value.len());
                records.push(record);
                read.push((index, offset));
            }
            if records.len() == max || room == 0 {
                break;
            }
        }
        for (index, offset) in read {
            let partition = &mut self.partitions[index];
            partition.next = Some(offset + 1);
            partition.pending.get_or_insert(offset);
            self.first = index + 1;
        }
        Ok(records)
    }
}

#[async_trait]
impl Subscription for SqliteSubscription {
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Vec<Record>, StoreError> {
        let deadline = Instant::now() + wait;
        loop {
            // Marked as seen before reading, so that a record appended during the read ends the wait below.
            self.appended.borrow_and_update();
            self.take_partitions().await?;
            let records = self.read(max).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if !records.is_empty() || left.is_zero() {
                return Ok(records);
            }
            // Waits for whichever comes first: a record of this process, or the time to check for those of others.
            let _ = timeout(left.min(OTHER_PROCESSES), self.appended.changed()).await;
        }
    }

    async fn commit_through(&mut self, progress: &Progress) -> Result<(), StoreError> {
        if self.partitions.iter().any(|partition| partition.lost) {
            for partition in &mut self.partitions {
                partition.lost = false;
            }
            return Err(unavailable(
                "another member of the group took over before the commit",
            ));
        }
        let mut done = Vec::with_capacity(self.partitions.len());
        for (index, partition) in self.partitions.iter().enumerate() {
            let (Some(next), Some(first)) = (partition.next, partition.pending) else {
                continue;
            };
            let covered = progress.next(&partition.topic, 0, 0).unwrap_or(0);
            let through = i64::try_from(covered).unwrap_or(i64::MAX).min(next);
            if through > first {
                done.push((index, through));
            }
        }
        if done.is_empty() {
            return Ok(());
        }
        let offsets: Vec<(&str, i64)> = done
            .iter()
            .map(|(index, through)| (self.partitions[*index].topic.as_str(), *through))
            .collect();
        self.shared.groups.commit(&self.member, &offsets).await?;
        for (index, through) in done {
            let partition = &mut self.partitions[index];
            partition.pending = partition.next.filter(|next| through < *next).map(|_| through);
        }
        Ok(())
    }

    fn losses(&self) -> u64 {
        self.losses
    }
}

fn record(topic: &str, offset: i64, row: &sqlx::sqlite::SqliteRow) -> Result<Record, StoreError> {
    let headers: Option<&str> = row.try_get(3).map_err(classify)?;
    let headers = match headers {
        Some(json) => serde_json::from_str(json).map_err(|_| malformed("records", "headers"))?,
        None => Default::default(),
    };
    Ok(Record {
        position: Position {
            topic: topic.into(),
            partition: 0,
            offset: u64::try_from(offset).map_err(|_| malformed("records", "record_offset"))?,
        },
        key: row.try_get(1).map_err(classify)?,
        value: row.try_get(2).map_err(classify)?,
        headers,
        appended_at: Timestamp::from_millis_clamped(row.try_get(4).map_err(classify)?),
    })
}

fn lock(leases: &Leases) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
    leases.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Renews the leases while the member processes what it has read, however long that takes; leaves the group when stopped.
async fn renew(shared: Arc<Shared>, member: Member, leases: Leases, stop: CancellationToken) {
    let lease = shared.config.lease;
    while stop
        .run_until_cancelled(tokio::time::sleep(lease / RENEWALS))
        .await
        .is_some()
    {
        let before = lock(&leases).clone();
        if before.is_empty() {
            continue;
        }
        let began = Instant::now();
        match shared.groups.renew(&member, lease).await {
            Ok(topics) => {
                let mut leases = lock(&leases);
                // A lease that is not in the result is lost, unless the member took it again meanwhile.
                leases.retain(|topic, until| topics.contains(topic) || before.get(topic) != Some(until));
                for topic in topics {
                    leases.insert(topic, began + lease);
                }
            }
            Err(error) => {
                tracing::warn!(
                    bus.group = %member.group,
                    error = %error,
                    "could not renew the lease of group `{}`", member.group
                );
            }
        }
    }
    if let Err(error) = shared.groups.leave(&member).await {
        tracing::debug!(
            bus.group = %member.group,
            error = %error,
            "left group `{}` without releasing its partitions; they are free when the lease expires", member.group
        );
    }
}
