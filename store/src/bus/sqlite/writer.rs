//! Appends records: one task commits what many callers submit, with one flush for everything that has queued up meanwhile.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use event::Timestamp;
use sqlx::{QueryBuilder, Sqlite, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::Shared;
use crate::{
    StoreError,
    bus::NewRecord,
    metrics::BusCounters,
    sqlite::{ROWS, classify, now, rejected, unavailable},
};

/// Maximum length of a record's value. A sealed dead letter holds a whole delivery, at most 5 MiB by default; this leaves room
/// for a larger limit set by the operator.
const MAX_VALUE_BYTES: usize = 32 * 1024 * 1024;

/// Maximum size of what may wait for the disk, in KiB: 64 MiB. More would cost memory that a small machine lacks, and take
/// several seconds to write, in which callers give up.
const QUEUE_KIB: u32 = 64 * 1024;

/// How long an append waits for room in the queue. A queue that is full for that long is not draining: the caller should rather
/// report it to its own caller, who tries again later.
const QUEUE_WAIT: Duration = Duration::from_millis(500);

/// Number of records at which a commit does not grow further: about 20 ms of work, so that no caller waits long for the rest of
/// a batch that others filled.
const BATCH_RECORDS: usize = 1_000;

/// Number of bytes at which a commit does not grow further: what even a slow disk writes in a tenth of a second.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// One waiting call of `append`.
struct Append {
    records: Vec<NewRecord>,
    bytes: usize,
    done: oneshot::Sender<Result<(), StoreError>>,
    /// Its share of the queue, released when it is committed.
    _share: OwnedSemaphorePermit,
}

/// Submits appends to the writing task.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` once stopped.
    queue: Mutex<Option<mpsc::UnboundedSender<Append>>>,
    room: Arc<Semaphore>,
    counters: BusCounters,
}

impl Writer {
    pub(super) fn spawn(shared: Arc<Shared>, tasks: &TaskTracker) -> Self {
        // The channel is unbounded: `room` bounds its content by size.
        let (queue, queued) = mpsc::unbounded_channel();
        let counters = BusCounters::default();
        tasks.spawn(run(shared, queued, counters.clone()));
        Self {
            queue: Mutex::new(Some(queue)),
            room: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            counters,
        }
    }

    pub(super) async fn append(&self, records: Vec<NewRecord>) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        if records.iter().any(|record| record.value.len() > MAX_VALUE_BYTES) {
            return Err(rejected(format!(
                "a record's value is longer than {MAX_VALUE_BYTES} bytes"
            )));
        }
        let bytes = records.iter().map(size).sum();
        // A call larger than the whole queue waits until it has the queue to itself.
        let kib = u32::try_from(bytes / 1024 + 1)
            .unwrap_or(QUEUE_KIB)
            .min(QUEUE_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib);
        let Ok(Ok(share)) = tokio::time::timeout(QUEUE_WAIT, room).await else {
            return Err(unavailable("too many records are waiting to be written"));
        };
        let (done, outcome) = oneshot::channel();
        {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let append = Append {
                records,
                bytes,
                done,
                _share: share,
            };
            if queue.as_ref().is_none_or(|queue| queue.send(append).is_err()) {
                return Err(unavailable("the bus is closed"));
            }
        }
        outcome
            .await
            .unwrap_or_else(|_| Err(unavailable("the bus was closed before the commit")))
    }

    /// Accepts no more appends; those in the queue are still committed.
    pub(super) fn stop(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn counters(&self) -> &BusCounters {
        &self.counters
    }
}

fn size(record: &NewRecord) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    record.topic.len() + record.key.len() + record.value.len() + headers
}

async fn run(shared: Arc<Shared>, mut queued: mpsc::UnboundedReceiver<Append>, counters: BusCounters) {
    let mut batch = Vec::new();
    while let Some(first) = queued.recv().await {
        let mut records = first.records.len();
        let mut bytes = first.bytes;
        batch.push(first);
        while records < BATCH_RECORDS && bytes < BATCH_BYTES {
            let Ok(next) = queued.try_recv() else { break };
            records += next.records.len();
            bytes += next.bytes;
            batch.push(next);
        }
        let outcome = commit(&shared, &batch).await;
        if outcome.is_ok() {
            counters.records.inc_by(records as u64);
            counters.commits.inc();
            shared.appended.send_modify(|commits| *commits += 1);
        }
        for append in mem::take(&mut batch) {
            // A caller that no longer waits does not need the outcome.
            let _ = append.done.send(outcome.as_ref().copied().map_err(same_for_each));
        }
    }
}

/// Copies the error of a batch for one of its callers: they all failed for the same cause.
fn same_for_each(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable { engine, cause } => StoreError::Unavailable {
            engine,
            cause: cause.to_string().into(),
        },
        StoreError::TooMuch { engine, message } => StoreError::TooMuch {
            engine,
            message: message.clone(),
        },
        StoreError::Rejected { engine, message } => StoreError::Rejected {
            engine,
            message: message.clone(),
        },
        StoreError::Misconfigured { engine, message } => StoreError::Misconfigured {
            engine,
            message: message.clone(),
        },
    }
}

async fn commit(shared: &Shared, batch: &[Append]) -> Result<(), StoreError> {
    let mut transaction = shared.log.begin().await?;
    // Read inside the transaction: times increase with offsets as long as the clock does not go back.
    let appended_at = now();
    let records: Vec<&NewRecord> = batch.iter().flat_map(|append| &append.records).collect();
    let mut topics: Vec<(&str, i64)> = Vec::new();
    for record in &records {
        match topics.iter_mut().find(|(topic, _)| *topic == record.topic) {
            Some((_, count)) => *count += 1,
            None => topics.push((&record.topic, 1)),
        }
    }
    for (topic, count) in topics {
        let (topic_id, end): (i64, i64) = sqlx::query_as(
            "INSERT INTO topics (name, next_offset) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET next_offset = next_offset + excluded.next_offset \
             RETURNING topic_id, next_offset",
        )
        .bind(topic)
        .bind(count)
        .fetch_one(&mut *transaction)
        .await
        .map_err(classify)?;
        let of_topic = records.iter().copied().filter(|record| record.topic == topic);
        let rows: Vec<(i64, &NewRecord)> = (end - count..end).zip(of_topic).collect();
        for rows in rows.chunks(ROWS) {
            insert(&mut transaction, topic_id, rows, appended_at).await?;
        }
    }
    transaction.commit().await.map_err(classify)
}

async fn insert(
    transaction: &mut Transaction<'static, Sqlite>,
    topic_id: i64,
    rows: &[(i64, &NewRecord)],
    appended_at: Timestamp,
) -> Result<(), StoreError> {
    let mut insert = QueryBuilder::new(
        "INSERT INTO records (topic_id, record_offset, record_key, value, headers, appended_at_ms) ",
    );
    insert.push_values(rows, |mut row, (offset, record)| {
        let headers = (!record.headers.is_empty())
            .then(|| serde_json::to_string(&record.headers).expect("a map of texts is always valid JSON"));
        row.push_bind(topic_id)
            .push_bind(offset)
            .push_bind(&record.key)
            .push_bind(&record.value)
            .push_bind(headers)
            .push_bind(appended_at.as_millis());
    });
    insert
        .build()
        .execute(&mut **transaction)
        .await
        .map_err(classify)?;
    Ok(())
}
