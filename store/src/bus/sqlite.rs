//! The embedded bus: a log in SQLite.
//!
//! It uses two files. `bus.db` holds the records and is written by those who append; `bus-groups.db` holds the committed
//! offsets of each consumer group and is written by those who read. So neither waits for the other, in one process or in
//! several. A record is flushed to disk before its append returns. A committed offset survives a crash of the process, but
//! perhaps not a power failure: records are then read again, which a bus is always allowed to do.
//!
//! Each topic has one partition, 0. Its offsets start at 0 and have no gaps.

mod config;
mod groups;
mod retention;
mod subscription;
mod writer;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use event::Timestamp;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::config::SqliteBusConfig;
use self::{groups::Groups, writer::Writer};
use super::{Bus, Lag, NewRecord, Subscription};
use crate::{
    StoreError, metrics,
    sqlite::{Database, Durability, Step, classify, unavailable},
};

const LOG_STEPS: &[Step] = &[Step {
    version: 1,
    name: "log",
    sql: include_str!("../../migrations/bus/0001_log.sql"),
}];

const GROUP_STEPS: &[Step] = &[Step {
    version: 1,
    name: "groups",
    sql: include_str!("../../migrations/groups/0001_groups.sql"),
}];

/// The bus as two SQLite files in one folder. Dropping it stops its background tasks; [`SqliteBus::close`] also waits for them.
#[derive(Debug)]
pub struct SqliteBus {
    shared: Arc<Shared>,
    writer: Writer,
    tasks: TaskTracker,
    /// Stops the background tasks; each subscription has a child of it.
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

/// State that the bus shares with its subscriptions.
#[derive(Debug)]
struct Shared {
    log: Database,
    groups: Groups,
    /// Counts the commits of this process, to wake subscriptions that wait for records.
    appended: watch::Sender<u64>,
    config: SqliteBusConfig,
}

impl SqliteBus {
    /// Name of the file that is there once a bus has been opened in its folder.
    pub const FILE: &str = "bus.db";

    /// Opens the bus in `folder`, which must exist, and starts removing records that have exceeded their retention.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] when the files cannot be opened or were written by a newer build.
    pub async fn open(folder: &Path, config: SqliteBusConfig) -> Result<Self, StoreError> {
        let log = Database::open(&folder.join(Self::FILE), LOG_STEPS, Durability::PowerLoss).await?;
        let log_id: String = sqlx::query_scalar("SELECT log_id FROM log")
            .fetch_one(log.readers())
            .await
            .map_err(classify)?;
        let groups = Database::open(
            &folder.join("bus-groups.db"),
            GROUP_STEPS,
            Durability::ProcessCrash,
        )
        .await?;
        let shared = Arc::new(Shared {
            log,
            groups: Groups::new(groups, log_id),
            appended: watch::Sender::new(0),
            config,
        });
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let writer = Writer::spawn(Arc::clone(&shared), &tasks);
        tasks.spawn(retention::run(Arc::clone(&shared), stop.clone()));
        let _stop_when_dropped = stop.clone().drop_guard();
        Ok(Self {
            shared,
            writer,
            tasks,
            stop,
            _stop_when_dropped,
        })
    }

    /// Registers the metrics of the bus in `registry`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        metrics::register(registry, self.writer.counters());
    }

    /// Removes the records that may be removed at `now`, as the background task does every minute. Returns their number.
    ///
    /// # Errors
    /// [`StoreError`] when the files cannot be read or written.
    pub async fn trim(&self, now: Timestamp) -> Result<u64, StoreError> {
        retention::trim(&self.shared, now).await
    }

    /// Commits what is queued, leaves all groups and closes the files. Later calls fail.
    pub async fn close(&self) {
        self.stop.cancel();
        self.writer.stop();
        self.tasks.close();
        self.tasks.wait().await;
        self.shared.log.close().await;
        self.shared.groups.close().await;
    }
}

#[async_trait]
impl Bus for SqliteBus {
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), StoreError> {
        self.writer.append(records).await
    }

    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, StoreError> {
        if self.stop.is_cancelled() {
            return Err(unavailable("the bus is closed"));
        }
        let member = self.shared.groups.join(group, topics).await?;
        let subscription = subscription::SqliteSubscription::start(
            Arc::clone(&self.shared),
            member,
            topics,
            &self.tasks,
            self.stop.child_token(),
        );
        Ok(Box::new(subscription))
    }

    async fn lag(&self, group: &str, topics: &[&str]) -> Result<Vec<Lag>, StoreError> {
        let mut lags = Vec::with_capacity(topics.len());
        for topic in topics {
            let committed = self.shared.groups.committed(group, topic).await?;
            let ends: Option<(i64, i64)> = sqlx::query_as(
                "SELECT next_offset, COALESCE((SELECT MIN(record_offset) FROM records WHERE topic_id = topics.topic_id), \
                 next_offset) FROM topics WHERE name = ?1",
            )
            .bind(topic)
            .fetch_optional(self.shared.log.readers())
            .await
            .map_err(classify)?;
            let (next, oldest) = ends.unwrap_or((0, 0));
            let behind = next - committed.max(oldest);
            lags.push(Lag {
                topic: (*topic).to_owned(),
                partition: 0,
                records: u64::try_from(behind).unwrap_or(0),
                // Only dead letters are removed before a group has committed them. A group that has committed nothing has lost
                // nothing.
                lost: match committed {
                    0 => 0,
                    committed => u64::try_from(oldest - committed).unwrap_or(0),
                },
            });
        }
        Ok(lags)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.shared.log.ping().await?;
        self.shared.groups.ping().await
    }
}
