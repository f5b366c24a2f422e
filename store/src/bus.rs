//! The bus: append records durably, read them in order as a consumer group, commit.

pub mod header;
mod kafka;
mod sqlite;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use event::{Event, TRACE_HEADER, Timestamp, TraceContext};

pub use self::{
    kafka::{
        InvalidKafkaConfig, KafkaBus, KafkaConfig, PartitionDescription, RawKafkaConfig, TopicDescription,
    },
    sqlite::{AppendCounts, SqliteBus, SqliteBusConfig},
};
use crate::StoreError;

/// Topic of canonical events, keyed by universal id.
pub const EVENTS_TOPIC: &str = "email-events";

/// Topic of what could not be read, sealed.
pub const DEAD_LETTERS_TOPIC: &str = "email-events-dlq";

/// Bytes of values with which a poll ends, beyond the first record: sealed dead letters are megabytes each, and a batch of a
/// thousand of them would not fit into memory.
pub(crate) const POLL_BYTES: usize = 16 * 1024 * 1024;

/// A record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Topic.
    pub topic: String,
    /// Key: records of one key keep their order.
    pub key: String,
    /// Value.
    pub value: Vec<u8>,
    /// Small named texts that travel along ([`event::TRACE_HEADER`], those of a dead letter: see [`header`]).
    pub headers: BTreeMap<String, String>,
}

impl NewRecord {
    /// The record of an event. Its key keeps a person's events in order; its header tells the trace of the delivery, where there
    /// is one.
    pub fn of_event(event: &Event, trace: Option<TraceContext>) -> Self {
        let trace = trace.map(|trace| (TRACE_HEADER.to_owned(), trace.to_string()));
        Self {
            topic: EVENTS_TOPIC.to_owned(),
            key: event.universal_id.as_str().to_owned(),
            value: event.to_json(),
            headers: trace.into_iter().collect(),
        }
    }
}

/// A record as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub position: Position,
    /// Key.
    pub key: String,
    /// Value.
    pub value: Vec<u8>,
    /// Headers.
    pub headers: BTreeMap<String, String>,
    /// When it was appended.
    pub appended_at: Timestamp,
}

/// A place in a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Topic; records may share the text.
    pub topic: Arc<str>,
    /// Partition, from 0.
    pub partition: u32,
    /// Offset within the partition; grows, may have gaps.
    pub offset: u64,
}

/// How far records have been dealt with: in each partition all those before an offset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress(BTreeMap<String, BTreeMap<u32, u64>>);

impl Progress {
    /// Notes that the record at `position` is dealt with, and all before it in its partition.
    pub fn note(&mut self, position: &Position) {
        self.advance(&position.topic, position.partition, position.offset + 1);
    }

    /// Takes in what `other` has dealt with.
    pub fn merge(&mut self, other: &Self) {
        for (topic, partitions) in &other.0 {
            for (partition, next) in partitions {
                self.advance(topic, *partition, *next);
            }
        }
    }

    /// The first offset of a partition that is not dealt with; `None` where nothing is.
    pub fn next(&self, topic: &str, partition: u32) -> Option<u64> {
        self.0.get(topic)?.get(&partition).copied()
    }

    /// Whether nothing is dealt with.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn advance(&mut self, topic: &str, partition: u32, next: u64) {
        // Looked up first: records come by the thousand, and most are of a topic that is there.
        let partitions = match self.0.get_mut(topic) {
            Some(partitions) => partitions,
            None => self.0.entry(topic.to_owned()).or_default(),
        };
        let known = partitions.entry(partition).or_default();
        *known = next.max(*known);
    }
}

/// How far a group is behind in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// Records appended and not yet committed by the group.
    pub records: u64,
}

/// An append-only log with topics and consumer groups.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Appends `records`, those of one key in their order. When it returns, they are on disk (or acknowledged by all in-sync
    /// replicas). Concurrent calls share the cost of one flush.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the log cannot take them now; the caller tells its own caller to try again.
    /// [`StoreError::Rejected`] when it never will, because a record is too long. An engine that spans several disks may
    /// have appended some of the records when it fails. Appending all of them again is right: those who read tell repeated
    /// events by their ids.
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), StoreError>;

    /// Joins `group` as a reader of `topics`, from the group's committed offsets on (from the beginning for a new
    /// group). Members of one group share the partitions; a partition is read by one member at a time.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be reached.
    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, StoreError>;

    /// How far `group` is behind in every partition of `topics`.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be reached.
    async fn lag(&self, group: &str, topics: &[&str]) -> Result<Vec<Lag>, StoreError>;

    /// Checks that the log takes reads and writes.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// A member of a consumer group. Dropping it leaves the group; what it did not commit is read again by others.
#[async_trait]
pub trait Subscription: Send {
    /// The next records, at most `max`, in order within each partition; waits up to `wait` for the first, then returns
    /// what is there, of large records some 16 MiB. Empty when nothing came. Does not move the group's committed offsets.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read.
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Vec<Record>, StoreError>;

    /// Commits everything that [`Subscription::poll`] has returned up to now.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be committed, or the partitions have moved to another member meanwhile; the
    /// records are then read again.
    async fn commit(&mut self) -> Result<(), StoreError>;

    /// Commits what `progress` covers of the records that [`Subscription::poll`] has returned, and nothing beyond: what was
    /// read ahead stays uncommitted. Records of a partition that has moved meanwhile, also of one that came back, count as
    /// not returned before they are returned again.
    ///
    /// # Errors
    /// As [`Subscription::commit`].
    async fn commit_through(&mut self, progress: &Progress) -> Result<(), StoreError>;
}
