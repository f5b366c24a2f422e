//! The bus: appends records durably, delivers them in order to consumer groups, and stores the groups' committed offsets.

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
    sqlite::{SqliteBus, SqliteBusConfig},
};
use crate::StoreError;

/// Topic of canonical events, keyed by universal id.
pub const EVENTS_TOPIC: &str = "email-events";

/// Topic of dead letters: input that could not be read. Those of the host are sealed.
pub const DEAD_LETTERS_TOPIC: &str = "email-events-dlq";

/// Total size of the values, in bytes, at which a poll stops after its first record: sealed dead letters can be megabytes each,
/// and a batch of a thousand of them would not fit into memory.
pub(crate) const POLL_BYTES: usize = 16 * 1024 * 1024;

/// A record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Topic.
    pub topic: String,
    /// Key. Records with the same key keep their order.
    pub key: String,
    /// Value.
    pub value: Vec<u8>,
    /// Short named strings sent with the record: [`event::TRACE_HEADER`], and those of a dead letter (see [`header`]).
    pub headers: BTreeMap<String, String>,
}

impl NewRecord {
    /// Creates the record of an event. Its key keeps a person's events in order; its header carries the trace of the delivery,
    /// if there is one.
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

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Position in its topic.
    pub position: Position,
    /// Key.
    pub key: String,
    /// Value.
    pub value: Vec<u8>,
    /// Headers.
    pub headers: BTreeMap<String, String>,
    /// Time at which it was appended.
    pub appended_at: Timestamp,
}

/// A position in a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Topic. Records may share the string.
    pub topic: Arc<str>,
    /// Partition, from 0.
    pub partition: u32,
    /// Offset within the partition. Offsets increase and may have gaps.
    pub offset: u64,
}

/// How far records have been processed: in each partition, all records before an offset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress(BTreeMap<String, BTreeMap<u32, Reached>>);

/// How far one partition has been processed. What was read after a loss replaces what was read before it: if the topic has been
/// created anew meanwhile, the same offsets are other records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Reached {
    losses: u64,
    next: u64,
}

impl Progress {
    /// Marks the record at `position`, and all records before it in its partition, as processed. `losses` are those of the member
    /// that read it, right after the poll that returned it.
    pub fn note(&mut self, position: &Position, losses: u64) {
        let next = position.offset + 1;
        self.advance(&position.topic, position.partition, Reached { losses, next });
    }

    /// Adds the progress of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (topic, partitions) in &other.0 {
            for (partition, reached) in partitions {
                self.advance(topic, *partition, *reached);
            }
        }
    }

    /// Returns the first offset of a partition that is not processed; `None` if nothing of the partition is that was read after
    /// so many losses.
    pub fn next(&self, topic: &str, partition: u32, losses: u64) -> Option<u64> {
        let reached = self.0.get(topic)?.get(&partition)?;
        (reached.losses >= losses).then_some(reached.next)
    }

    /// Returns whether nothing is processed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn advance(&mut self, topic: &str, partition: u32, reached: Reached) {
        // Looked up before it is inserted: records arrive by the thousand, and the topic of most of them is already in the map.
        let partitions = match self.0.get_mut(topic) {
            Some(partitions) => partitions,
            None => self.0.entry(topic.to_owned()).or_default(),
        };
        let known = partitions.entry(partition).or_default();
        *known = reached.max(*known);
    }
}

/// How far a group lags behind in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// Number of records that are appended and not yet committed by the group.
    pub records: u64,
    /// Number of records that were deleted before the group committed them. It returns to 0 with the group's next commit.
    pub lost: u64,
}

/// An append-only log with topics and consumer groups.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Appends `records`; records with the same key keep their order. When it returns, they are on disk (or acknowledged by all
    /// in-sync replicas). Concurrent calls share the cost of one flush.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the log cannot accept them now; the caller should ask its own caller to try again.
    /// [`StoreError::Rejected`] when it never will, because a record is too long. An engine that spans several disks may have
    /// appended some of the records when it fails. It is right to append all of them again: readers recognize repeated events
    /// by their ids.
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), StoreError>;

    /// Joins `group` as a reader of `topics`. Reading starts at the group's committed offsets (at the beginning for a new
    /// group). The members of a group share the partitions; each partition is read by one member at a time.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be reached.
    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, StoreError>;

    /// Returns how far `group` lags behind in each partition of `topics`.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be reached.
    async fn lag(&self, group: &str, topics: &[&str]) -> Result<Vec<Lag>, StoreError>;

    /// Checks that the log can be read and written.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// A member of a consumer group. Dropping it leaves the group; other members then read again what it did not commit.
#[async_trait]
pub trait Subscription: Send {
    /// Returns the next records, at most `max`, in order within each partition. Waits up to `wait` for the first record, then
    /// returns what is available; if the records are large, about 16 MiB of them. Empty if none arrived. Does not move the
    /// group's committed offsets.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read.
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Vec<Record>, StoreError>;

    /// Commits those records returned by [`Subscription::poll`] that `progress` covers, and nothing beyond them: records that
    /// were read ahead stay uncommitted. If a partition has moved since, even if it came back, its records count as not
    /// returned until they are returned again. The same holds if its topic was deleted and created anew.
    ///
    /// # Errors
    /// [`StoreError`] when the commit failed, or when partitions have moved to another member since; the records are then read
    /// again.
    async fn commit_through(&mut self, progress: &Progress) -> Result<(), StoreError>;

    /// Returns how often this member has noticed, in a poll or a commit, that it no longer held partitions, which others may read
    /// since, or that the records of one begin anew. What a poll noticed happened before the records that it returned were read.
    fn losses(&self) -> u64;
}
