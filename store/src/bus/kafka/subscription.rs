//! A member of a consumer group.
//!
//! The library fetches ahead on its own threads, within limits; a poll takes what has arrived and waits without blocking a
//! thread. The group protocol is cooperative: partitions that stay are read on while others move. Partitions only move during a
//! poll, so that what was returned since then can be committed, unless the group has declared this member dead in the meantime.
//! Records of partitions that a poll finds to have moved to another member are forgotten: they are not committed even if they
//! are processed. So are those of a partition whose offsets begin anew, because its topic was deleted and created again.
//!
//! The library reports once what the brokers refuse, and tries again on its own. Each poll reports it until the member can read
//! again: a record arrives, a partition is at its end, or the group has assigned partitions.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use event::Timestamp;
use futures::{FutureExt, StreamExt};
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers},
};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::{
    client::{self, Listener, blocking},
    config::KafkaConfig,
    error::Failure,
};
use crate::{
    StoreError,
    bus::{POLL_BYTES, Position, Progress, Record, Subscription},
    metrics::KafkaCounters,
};

/// Longest wait for a commit: while a group's coordinator moves to another broker, the library retries for the length of a
/// session.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);

/// How long a member may go without polling before the group takes its partitions away: longer than the event store may take to
/// write a batch. A longer outage of the event store only costs reading that batch again.
const POLL_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// How often topics are checked for new partitions, and missing topics for having been created.
const METADATA_INTERVAL: Duration = Duration::from_secs(30);

/// How long a full queue keeps the library from fetching more. The library's default of a second would make a fast reader wait
/// for nothing.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// A partition: topic and number.
type Place = (Arc<str>, u32);

/// How long a broker lets records accumulate before it responds to a fetch. If it responded for every few records, both groups
/// would send hundreds of requests per second; if the time were shorter, groups that have nothing to read would keep the
/// brokers busy.
const GATHER: Duration = Duration::from_millis(100);

/// Number of bytes at which a broker does not let records accumulate further: the traffic of a few thousand deliveries per
/// second in that time.
const GATHER_BYTES: &str = "262144";

/// The uncommitted records of a partition that polls have returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    first: i64,
    next: i64,
    /// How often this member had lost partitions when the first was returned.
    losses: u64,
}

/// A member of a consumer group.
pub(super) struct KafkaSubscription {
    /// Always `Some` until dropped.
    consumer: Option<Arc<StreamConsumer<Member>>>,
    /// Names of the topics, which all records share.
    topics: Vec<Arc<str>>,
    /// Records taken from the library but not returned yet, because a poll was cancelled half-way.
    ready: VecDeque<Record>,
    returned: BTreeMap<Place, Span>,
    /// Whether partitions have moved after their records were read and before those were committed.
    has_lost: bool,
    losses: u64,
    tasks: TaskTracker,
}

/// Tracks how the group assigns its partitions.
struct Member {
    listener: Listener,
    /// Whether `revoked` is not empty: checked for each record, without the lock.
    has_revoked: AtomicBool,
    revoked: Mutex<Vec<Place>>,
    /// Why nothing can be read until there is a sign that it is over.
    refused: Mutex<Option<KafkaError>>,
    counters: KafkaCounters,
}

impl Member {
    /// Notes why nothing can be read; `None` when something can be.
    fn set_refused(&self, error: Option<KafkaError>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn refused(&self) -> Option<KafkaError> {
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes that these partitions have moved to another member.
    fn revoke(&self, places: Vec<Place>) {
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        revoked.extend(places);
        self.has_revoked.store(true, Ordering::Release);
    }

    /// Returns the partitions that have moved to another member since the last call.
    fn take_revoked(&self) -> Vec<Place> {
        if !self.has_revoked.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_revoked.store(false, Ordering::Release);
        mem::take(&mut *revoked)
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.listener.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.listener.error(error, reason);
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => {
                tracing::debug!(
                    kafka.partitions = partitions.count(),
                    "the group has assigned partitions"
                );
                self.counters.assigned(partitions.count());
                // The group has accepted this member, and whether it may read these partitions is reported anew.
                self.set_refused(None);
            }
            Rebalance::Revoke(partitions) => {
                tracing::debug!(
                    kafka.partitions = partitions.count(),
                    "the group has revoked partitions"
                );
                self.counters.revoked(partitions.count());
                let places = partitions.elements();
                let places = places
                    .iter()
                    .map(|partition| (partition.topic().into(), number(partition.partition())));
                self.revoke(places.collect());
            }
            Rebalance::Error(error) => {
                tracing::warn!(%error, "the group could not rebalance its partitions");
            }
        }
    }
}

fn settings(config: &KafkaConfig, group: &str) -> ClientConfig {
    let mut settings = client::settings(config);
    settings
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // For a member that has nothing to read this is the sign that it could.
        .set("enable.partition.eof", "true")
        // A new group starts with the oldest record, and so does one whose committed offset was removed meanwhile.
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", client::millis(config.session_timeout))
        .set(
            "heartbeat.interval.ms",
            client::millis(config.session_timeout / 4),
        )
        .set("max.poll.interval.ms", client::millis(POLL_INTERVAL))
        .set(
            "topic.metadata.refresh.interval.ms",
            client::millis(METADATA_INTERVAL),
        )
        .set("fetch.wait.max.ms", client::millis(GATHER))
        .set("fetch.min.bytes", GATHER_BYTES)
        .set("fetch.queue.backoff.ms", client::millis(FULL_QUEUE_PAUSE))
        .set(
            "queued.max.messages.kbytes",
            (config.fetch_bytes / 1024).to_string(),
        )
        // A response must have room for one record of the maximum length.
        .set(
            "fetch.max.bytes",
            config.fetch_bytes.max(config.max_record_bytes).to_string(),
        )
        .set("message.max.bytes", config.max_record_bytes.to_string());
    settings
}

impl KafkaSubscription {
    /// Joins `group`. Blocks while the library reads certificates, but does not wait for the group.
    pub(super) fn join(
        config: &KafkaConfig,
        group: &str,
        topics: &[String],
        tasks: TaskTracker,
        counters: KafkaCounters,
    ) -> Result<Self, Failure> {
        let member = Member {
            listener: Listener::default(),
            has_revoked: AtomicBool::new(false),
            revoked: Mutex::default(),
            refused: Mutex::default(),
            counters,
        };
        let consumer: StreamConsumer<Member> = settings(config, group).create_with_context(member)?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names)?;
        Ok(Self {
            consumer: Some(Arc::new(consumer)),
            topics: names.into_iter().map(Arc::from).collect(),
            ready: VecDeque::new(),
            returned: BTreeMap::new(),
            has_lost: false,
            losses: 0,
            tasks,
        })
    }

    fn consumer(&self) -> Arc<StreamConsumer<Member>> {
        Arc::clone(self.consumer.as_ref().expect("it is only taken when dropped"))
    }

    /// Takes up to `max` records from the library, waiting up to `wait` for the first.
    async fn take(&mut self, max: usize, wait: Duration) -> Result<(), Failure> {
        let consumer = self.consumer();
        let mut messages = consumer.stream();
        let deadline = Instant::now() + wait;
        let mut outage = None;
        while self.ready.is_empty() {
            match timeout_at(deadline, messages.next()).await {
                Err(_) => {
                    let Some(refusal) = consumer.context().refused() else {
                        return outage.map_or(Ok(()), Err);
                    };
                    ask_again(&consumer)?;
                    return Err(refusal.into());
                }
                Ok(None) => return Err(Failure::Closed),
                Ok(Some(Ok(message))) => {
                    consumer.context().set_refused(None);
                    self.arrived(&message);
                }
                Ok(Some(Err(error))) => match Report::of(&error) {
                    Report::Refusal => consumer.context().set_refused(Some(error)),
                    // The library reports an outage several times a second, and also after its end if nobody polled.
                    Report::Outage => outage = Some(error.into()),
                    Report::AtEnd => {
                        consumer.context().set_refused(None);
                        outage = None;
                    }
                    Report::Passes => tracing::debug!(%error, "kafka's consumer continues after an error"),
                },
            }
        }
        let mut bytes: usize = self.ready.iter().map(|record| record.value.len()).sum();
        while self.ready.len() < max && bytes < POLL_BYTES {
            match messages.next().now_or_never() {
                Some(Some(Ok(message))) => {
                    bytes += message.payload_len();
                    self.arrived(&message);
                }
                // Records already taken are returned first; the next poll reports the refusal, unless it is over by then.
                Some(Some(Err(error))) => match Report::of(&error) {
                    Report::Refusal => {
                        consumer.context().set_refused(Some(error));
                        break;
                    }
                    Report::AtEnd | Report::Outage | Report::Passes => {}
                },
                Some(None) | None => break,
            }
        }
        Ok(())
    }

    fn arrived(&mut self, message: &BorrowedMessage<'_>) {
        let name = message.topic();
        let topic = self.topics.iter().find(|topic| ***topic == *name);
        let topic = topic.map_or_else(|| name.into(), Arc::clone);
        self.keep(record(message, topic));
    }

    /// Keeps a record that the library has handed over. Its partition may have moved away and come back while this poll waited:
    /// records read before that are forgotten now, because later they could not be told apart from this record, which nobody
    /// would read again.
    fn keep(&mut self, record: Record) {
        self.forget_revoked();
        self.ready.push_back(record);
    }

    /// Forgets what was read from partitions that have moved to another member.
    fn forget_revoked(&mut self) {
        let consumer = self.consumer.as_ref().expect("it is only taken when dropped");
        for place in consumer.context().take_revoked() {
            self.losses += 1;
            self.ready.retain(|record| self::place(record) != place);
            self.has_lost |= self.returned.remove(&place).is_some();
        }
    }

    /// Notes that a record was returned.
    fn note(&mut self, record: &Record) {
        let offset = offset(record);
        let span = self.returned.entry(place(record)).or_insert(Span {
            first: offset,
            next: offset,
            losses: self.losses,
        });
        span.next = offset + 1;
    }

    /// Checks whether a record has the offset of one that was returned and is not committed: the library returns each record once
    /// while the partition stays, so this is another one.
    fn begins_anew(&self, record: &Record) -> bool {
        let span = self.returned.get(&place(record));
        span.is_some_and(|span| offset(record) < span.next)
    }

    /// Returns in each partition how far those returned records go that `progress` covers.
    fn covered(&self, progress: &Progress) -> Vec<(Place, i64)> {
        let mut covered = Vec::with_capacity(self.returned.len());
        for (place, span) in &self.returned {
            let next = progress.next(&place.0, place.1, span.losses).unwrap_or(0);
            let next = i64::try_from(next).unwrap_or(i64::MAX).min(span.next);
            if next > span.first {
                covered.push((place.clone(), next));
            }
        }
        covered
    }

    /// Commits those returned records that `progress` covers.
    async fn commit_returned(&mut self, progress: &Progress) -> Result<(), Failure> {
        let done = self.covered(progress);
        if done.is_empty() {
            return Ok(());
        }
        let mut offsets = TopicPartitionList::with_capacity(done.len());
        for ((topic, partition), next) in &done {
            let partition = i32::try_from(*partition).unwrap_or(i32::MAX);
            offsets.add_partition_offset(topic, partition, Offset::Offset(*next))?;
        }
        let consumer = self.consumer();
        let commit = blocking(move || Ok(consumer.commit(&offsets, CommitMode::Sync)?));
        timeout(COMMIT_WITHIN, commit)
            .await
            .map_err(|_| Failure::TimedOut)??;
        for (place, next) in done {
            if let Some(span) = self.returned.get_mut(&place) {
                span.first = next;
            }
        }
        self.returned.retain(|_, span| span.first < span.next);
        Ok(())
    }
}

#[async_trait]
impl Subscription for KafkaSubscription {
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Vec<Record>, StoreError> {
        let taken = self.take(max, wait).await;
        self.forget_revoked();
        taken?;
        let mut records = Vec::with_capacity(max.min(self.ready.len()));
        while records.len() < max
            && let Some(record) = self.ready.pop_front()
        {
            if self.begins_anew(&record) {
                // The losses tell what was read before from what is read after: no poll returns both.
                if !records.is_empty() {
                    self.ready.push_front(record);
                    break;
                }
                self.losses += 1;
                self.has_lost |= self.returned.remove(&place(&record)).is_some();
            }
            self.note(&record);
            records.push(record);
        }
        Ok(records)
    }

    async fn commit_through(&mut self, progress: &Progress) -> Result<(), StoreError> {
        self.forget_revoked();
        self.commit_returned(progress).await?;
        if mem::take(&mut self.has_lost) {
            return Err(Failure::Moved.into());
        }
        Ok(())
    }

    fn losses(&self) -> u64 {
        self.losses
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        // Leaving the group waits for its coordinator's response. `KafkaBus::close` waits for that; the end of the process does
        // not. If no thread can be started for it, the group is left right here.
        let (consumer, leaving) = (self.consumer.take(), self.tasks.token());
        let leave = move || {
            drop(consumer);
            drop(leaving);
        };
        let _ = thread::Builder::new().name("kafka-leave".to_owned()).spawn(leave);
    }
}

/// Makes the library fetch again from where this member is. It tries again on its own after a refusal, but reports the end of a
/// partition only once: a member that had reached it before the refusal would not hear of the end of that.
fn ask_again(consumer: &StreamConsumer<Member>) -> Result<(), Failure> {
    let assigned = consumer.assignment()?;
    consumer.pause(&assigned)?;
    consumer.resume(&assigned)?;
    Ok(())
}

/// What the library reports in place of a record.
enum Report {
    /// Nothing can be read until somebody changes something on the brokers. The library does not repeat it.
    Refusal,
    /// Nothing can be read now.
    Outage,
    /// Everything in a partition has been read.
    AtEnd,
    /// The library continues on its own.
    Passes,
}

impl Report {
    fn of(error: &KafkaError) -> Self {
        let code = match error {
            KafkaError::PartitionEOF(_) => return Self::AtEnd,
            KafkaError::MessageConsumption(code) | KafkaError::Global(code) => code,
            _ => return Self::Refusal,
        };
        match code {
            RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::Authentication => Self::Outage,
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::InvalidSessionTimeout => Self::Refusal,
            _ => Self::Passes,
        }
    }
}

fn place(record: &Record) -> Place {
    (Arc::clone(&record.position.topic), record.position.partition)
}

fn offset(record: &Record) -> i64 {
    i64::try_from(record.position.offset).unwrap_or(i64::MAX)
}

/// Returns the number of a partition. The library uses negative numbers for no partition; they become the highest number, in
/// which there are no records.
fn number(partition: i32) -> u32 {
    u32::try_from(partition).unwrap_or(u32::MAX)
}

/// Converts a message to a record. Our keys and headers are text; those of another program are converted lossily.
fn record(message: &BorrowedMessage<'_>, topic: Arc<str>) -> Record {
    let mut headers = BTreeMap::new();
    if let Some(found) = message.headers() {
        for header in found.iter() {
            headers.insert(header.key.to_owned(), text(header.value.unwrap_or_default()));
        }
    }
    Record {
        position: Position {
            topic,
            partition: number(message.partition()),
            offset: message.offset().unsigned_abs(),
        },
        key: text(message.key().unwrap_or_default()),
        value: message.payload().unwrap_or_default().to_vec(),
        headers,
        appended_at: Timestamp::from_millis_clamped(message.timestamp().to_millis().unwrap_or(0)),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
