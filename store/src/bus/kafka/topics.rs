//! Topics are made when they are missing, once, and looked at.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    error::RDKafkaErrorCode,
    producer::Producer as _,
};
use tokio::{runtime::Handle, sync::Mutex};

use super::{
    client::{self, Listener, REQUEST_TIMEOUT, TopicMetadata, blocking},
    config::KafkaConfig,
    error::Failure,
    producer::Native,
};
use crate::bus::DEAD_LETTERS_TOPIC;

/// How often a new topic is looked at until the brokers have agreed who leads it, which takes them some 10 ms.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// A topic as the brokers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Name.
    pub name: String,
    /// Its partitions, from 0.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition as the brokers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Number, from 0.
    pub partition: u32,
    /// Whether a broker leads it; without one it can be neither written nor read.
    pub has_leader: bool,
    /// Replicas it should have.
    pub replicas: usize,
    /// Replicas that have all of it.
    pub in_sync_replicas: usize,
    /// Offset of the oldest record.
    pub first_offset: u64,
    /// Offset that the next record gets.
    pub next_offset: u64,
}

/// The topics that are known to be there.
pub(super) struct Topics {
    config: Arc<KafkaConfig>,
    known: RwLock<HashSet<String>>,
    /// Held while a topic is looked for and made.
    making: Mutex<()>,
}

impl Topics {
    pub(super) fn new(config: Arc<KafkaConfig>) -> Self {
        Self {
            config,
            known: RwLock::default(),
            making: Mutex::default(),
        }
    }

    pub(super) fn is_known(&self, name: &str) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.contains(name)
    }

    /// Looks again before the topic is used next.
    pub(super) fn forget(&self, name: &str) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(name);
    }

    /// Makes the topic unless it is there. One that is there stays as it is.
    pub(super) async fn ensure(&self, native: Arc<Native>, name: &str) -> Result<(), Failure> {
        let _making = self.making.lock().await;
        if self.is_known(name) {
            return Ok(());
        }
        let (config, topic) = (Arc::clone(&self.config), name.to_owned());
        blocking(move || {
            if client::topic(native.client(), &topic, REQUEST_TIMEOUT)?.is_none() {
                make(&config, &topic)?;
                settle(&native, &topic)?;
            }
            Ok(())
        })
        .await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(name.to_owned());
        Ok(())
    }
}

/// Makes a topic. Blocks.
fn make(config: &KafkaConfig, name: &str) -> Result<(), Failure> {
    let admin: AdminClient<Listener> = client::settings(config).create_with_context(Listener::default())?;
    let max_bytes = config.max_record_bytes.to_string();
    let retention = client::millis(config.dead_letter_retention);
    let replication = TopicReplication::Fixed(config.replication_factor);
    let mut topic = NewTopic::new(name, config.partitions, replication).set("max.message.bytes", &max_bytes);
    if name == DEAD_LETTERS_TOPIC {
        topic = topic.set("retention.ms", &retention);
    }
    let options = AdminOptions::new()
        .request_timeout(Some(REQUEST_TIMEOUT))
        .operation_timeout(Some(REQUEST_TIMEOUT));
    let results = Handle::current().block_on(admin.create_topics([&topic], &options))?;
    for result in results {
        match result {
            Ok(_) => tracing::info!(
                kafka.topic = name,
                "made the topic `{name}` with {} partitions",
                config.partitions
            ),
            // Another process was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(Failure::of_new_topic(name, code)),
        }
    }
    Ok(())
}

/// Waits until all partitions of a new topic have a leader. Blocks.
fn settle(native: &Native, name: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    while Instant::now() < deadline {
        let metadata = client::topic(native.client(), name, REQUEST_TIMEOUT)?;
        if metadata.is_some_and(|topic| topic.is_settled()) {
            return Ok(());
        }
        thread::sleep(LOOK_AGAIN);
    }
    Err(Failure::TimedOut)
}

/// Describes a topic; `None` when it is missing. Blocks.
pub(super) fn describe(native: &Native, name: &str) -> Result<Option<TopicDescription>, Failure> {
    let Some(TopicMetadata { partitions }) = client::topic(native.client(), name, REQUEST_TIMEOUT)? else {
        return Ok(None);
    };
    let mut descriptions = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let (first, next) = if partition.has_leader {
            native
                .client()
                .fetch_watermarks(name, partition.number, REQUEST_TIMEOUT)?
        } else {
            (0, 0)
        };
        descriptions.push(PartitionDescription {
            partition: partition.number.unsigned_abs(),
            has_leader: partition.has_leader,
            replicas: partition.replicas,
            in_sync_replicas: partition.in_sync,
            first_offset: u64::try_from(first).unwrap_or(0),
            next_offset: u64::try_from(next).unwrap_or(0),
        });
    }
    Ok(Some(TopicDescription {
        name: name.to_owned(),
        partitions: descriptions,
    }))
}
