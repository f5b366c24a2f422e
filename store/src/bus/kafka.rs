//! The bus that scales out: Kafka.
//!
//! An append returns when all in-sync replicas have its records. Kafka writes the records of each partition together and in
//! order, but does not write the partitions of one append together: an append that fails may have left some of its records
//! behind. Appending all of them again is always right, because readers recognize repeated events by their ids. Transactions
//! would make an append all or nothing, at the price of one append at a time: hundreds per second instead of thousands.
//!
//! Topics are created when they are missing. Offsets have gaps. Everything that waits for brokers runs on the library's own
//! threads or on threads that may block.

mod client;
mod config;
mod error;
mod lag;
mod producer;
mod subscription;
mod topics;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use prometheus_client::registry::Registry;
use rdkafka::producer::Producer as _;
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    client::{REQUEST_TIMEOUT, blocking},
    error::Failure,
    lag::Lags,
    producer::Producer,
    subscription::KafkaSubscription,
    topics::Topics,
};
pub use self::{
    config::{InvalidKafkaConfig, KafkaConfig, RawKafkaConfig},
    topics::{PartitionDescription, TopicDescription},
};
use super::{Bus, DEAD_LETTERS_TOPIC, EVENTS_TOPIC, Lag, NewRecord, Subscription};
use crate::{StoreError, metrics::KafkaCounters};

/// Time limit for opening as a whole: an operator waits at most 10 s for a configuration mistake to show.
const OPEN_WITHIN: Duration = Duration::from_secs(9);

/// Time limit for the first response of the brokers; the rest of [`OPEN_WITHIN`] is for creating topics.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);

/// Time limit for one attempt to reach them, after which the cause of the failure is examined.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Longest wait for the response to a ping: less than the timeout of a readiness probe of this process.
const PING_WITHIN: Duration = Duration::from_secs(3);

/// The bus on a Kafka cluster. Dropping it abandons records that wait for acknowledgement; [`KafkaBus::close`] waits for them.
pub struct KafkaBus {
    config: Arc<KafkaConfig>,
    producer: Producer,
    topics: Topics,
    lags: Arc<Lags>,
    counters: KafkaCounters,
    /// Members that are leaving their groups.
    tasks: TaskTracker,
    closed: CancellationToken,
}

impl fmt::Debug for KafkaBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBus").finish_non_exhaustive()
    }
}

impl KafkaBus {
    /// Connects, and creates the topics of events and dead letters if they are missing. Takes at most 10 s.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`], naming the settings to check, when no broker can be reached, or when the brokers refuse
    /// the user or do not grant it the required permissions.
    pub async fn connect(config: KafkaConfig) -> Result<Self, StoreError> {
        let config = Arc::new(config);
        let counters = KafkaCounters::default();
        let started = {
            let (config, counters) = (Arc::clone(&config), counters.clone());
            blocking(move || Producer::start(config, counters)).await
        };
        let bus = Self {
            producer: started?,
            topics: Topics::new(Arc::clone(&config)),
            lags: Arc::new(Lags::new(Arc::clone(&config))),
            counters,
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
            config,
        };
        let opened = match timeout(OPEN_WITHIN, bus.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::TimedOut),
        };
        match opened {
            Ok(()) => Ok(bus),
            Err(failure) => Err(failure.at_start(bus.producer.trouble(), &bus.config)),
        }
    }

    async fn open(&self) -> Result<(), Failure> {
        self.reach().await?;
        for topic in [EVENTS_TOPIC, DEAD_LETTERS_TOPIC] {
            self.topics.ensure(self.producer.native(), topic).await?;
        }
        // By now the brokers have told the producer whether it may write.
        self.producer.check()
    }

    /// Waits for a first response. A refused login or certificate is not retried for long; brokers that are starting are.
    async fn reach(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let native = self.producer.native();
            let answer = blocking(move || client::topic(native.client(), EVENTS_TOPIC, ATTEMPT)).await;
            let Err(failure) = answer else {
                return Ok(());
            };
            let is_refused = self
                .producer
                .trouble()
                .is_some_and(|trouble| trouble.is_refusal());
            if is_refused || Instant::now() >= deadline {
                return Err(failure);
            }
        }
    }

    /// Describes those of the named topics that exist.
    ///
    /// # Errors
    /// [`StoreError`] when the brokers cannot be reached.
    pub async fn topics(&self, names: &[&str]) -> Result<Vec<TopicDescription>, StoreError> {
        let native = self.producer.native();
        let names = owned(names);
        let described = blocking(move || {
            let mut descriptions = Vec::with_capacity(names.len());
            for name in &names {
                descriptions.extend(topics::describe(&native, name)?);
            }
            Ok(descriptions)
        });
        Ok(described.await?)
    }

    /// Registers the metrics of the bus in `registry`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.counters.register(registry);
    }

    /// Waits for outstanding acknowledgements, and leaves all groups whose subscriptions were dropped. Later calls fail.
    pub async fn close(&self) {
        self.closed.cancel();
        let native = self.producer.native();
        // Appends do not wait longer either; their callers already have the outcome.
        let within = self.config.delivery_timeout;
        if let Err(error) = blocking(move || Ok(native.flush(within)?)).await {
            tracing::warn!(%error, "the bus is closed while records wait for acknowledgement");
        }
        let lags = Arc::clone(&self.lags);
        let closing = blocking(move || {
            lags.close();
            Ok(())
        });
        // Hung brokers hold a client up for as long as it takes a request to time out.
        let _ = timeout(REQUEST_TIMEOUT, closing).await;
        self.tasks.close();
        if timeout(REQUEST_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("the bus is closed before all readers have left their groups");
        }
    }

    fn check_open(&self) -> Result<(), Failure> {
        if self.closed.is_cancelled() {
            return Err(Failure::Closed);
        }
        Ok(())
    }

    /// Creates a topic unless it is known to exist. Waits as long as a delivery does.
    async fn ensure(&self, name: &str) -> Result<(), Failure> {
        if self.topics.is_known(name) {
            return Ok(());
        }
        let ensured = self.topics.ensure(self.producer.native(), name);
        timeout(self.config.delivery_timeout, ensured)
            .await
            .map_err(|_| Failure::TimedOut)?
    }

    async fn append_all(&self, records: &[NewRecord]) -> Result<(), Failure> {
        self.check_open()?;
        for record in records {
            self.ensure(&record.topic).await?;
        }
        let appended = self.producer.append(records).await;
        if appended.as_ref().is_err_and(Failure::is_unknown_topic) {
            for record in records {
                self.topics.forget(&record.topic);
            }
        }
        appended
    }
}

#[async_trait]
impl Bus for KafkaBus {
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let appended = self.append_all(&records).await;
        match appended {
            Ok(()) => {
                self.counters.appended(records.len());
                Ok(())
            }
            Err(failure) => {
                self.counters.failed(failure.label());
                Err(failure.into())
            }
        }
    }

    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, StoreError> {
        self.check_open()?;
        for topic in topics {
            // Asks the brokers in any case, so that a group that cannot be joined now fails here.
            self.topics.forget(topic);
            self.ensure(topic).await?;
        }
        let config = Arc::clone(&self.config);
        let (group, topics) = (group.to_owned(), owned(topics));
        let (tasks, counters) = (self.tasks.clone(), self.counters.clone());
        let joined = blocking(move || KafkaSubscription::join(&config, &group, &topics, tasks, counters));
        Ok(Box::new(joined.await?))
    }

    async fn lag(&self, group: &str, topics: &[&str]) -> Result<Vec<Lag>, StoreError> {
        let lags = Arc::clone(&self.lags);
        let (group, topics) = (group.to_owned(), owned(topics));
        Ok(blocking(move || lags.read(&group, &topics)).await?)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.check_open()?;
        self.producer.check()?;
        let native = self.producer.native();
        let found = blocking(move || client::topic(native.client(), EVENTS_TOPIC, PING_WITHIN)).await?;
        match found {
            Some(topic) if topic.is_settled() => Ok(()),
            Some(_) => {
                let text = format!("a partition of the topic `{EVENTS_TOPIC}` has no leader");
                Err(Failure::Library(text).into())
            }
            None => Err(Failure::Library(format!("the topic `{EVENTS_TOPIC}` is missing")).into()),
        }
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
