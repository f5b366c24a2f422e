//! Creates missing topics, once each, and describes topics.

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

/// How often a new topic is checked until the brokers have agreed on its leaders, which takes them about 10 ms.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// A topic as known to the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Name.
    pub name: String,
    /// Its partitions, from 0.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition as known to the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Number, from 0.
    pub partition: u32,
    /// Whether a broker leads it. Without a leader it can be neither written nor read.
    pub has_leader: bool,
    /// Number of replicas it should have.
    pub replicas: usize,
    /// Number of replicas that have all of it.
    pub in_sync_replicas: usize,
    /// Offset of the oldest record.
    pub first_offset: u64,
    /// Offset that the next record gets.
    pub next_offset: u64,
}

/// The topics that are known to exist.
pub(super) struct Topics {
    config: Arc<KafkaConfig>,
    known: RwLock<HashSet<String>>,
    /// Held while a topic is looked up and created.
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

    /// Makes the next use of the topic check again whether it exists.
    pub(super) fn forget(&self, name: &str) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(name);
    }

    /// Creates the topic unless it exists. An existing topic is left as it is.
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

/// Creates a topic. Blocks.
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
                "created the topic `{name}` with {} partitions",
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

/// Describes a topic; returns `None` if it is missing. Blocks.
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
