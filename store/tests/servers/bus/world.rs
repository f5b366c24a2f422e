//! Topics that are deleted when a test ends, and a broker that a test may stop.

use std::{
    collections::BTreeSet,
    env,
    hash::{BuildHasher, RandomState},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use async_trait::async_trait;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use sendflowr_store::{
    StoreError,
    bus::{Bus, KafkaBus, KafkaConfig, Lag, NewRecord, RawKafkaConfig, Subscription},
};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::support;

/// Locked for reading by tests that need the broker up, and for writing by the one that stops it.
static BROKER: RwLock<()> = RwLock::const_new(());

/// Returns a name that no other run uses.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}-{:016x}", RandomState::new().hash_one(prefix))
}

pub(crate) fn settings() -> RawKafkaConfig {
    RawKafkaConfig {
        bootstrap_servers: Some(support::address("SENDFLOWR_TEST_KAFKA")),
        ..Default::default()
    }
}

pub(crate) async fn connect(raw: RawKafkaConfig) -> Result<KafkaBus, StoreError> {
    KafkaBus::connect(KafkaConfig::try_from(raw).unwrap()).await
}

/// The bus under test. Its topics, except the product's own, are deleted when it is dropped.
pub(crate) struct World {
    pub(crate) bus: KafkaBus,
    topics: Mutex<BTreeSet<String>>,
    _broker: Option<RwLockReadGuard<'static, ()>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(settings()).await
    }

    pub(crate) async fn with(raw: RawKafkaConfig) -> Self {
        let broker = BROKER.read().await;
        Self {
            bus: connect(raw).await.unwrap(),
            topics: Mutex::default(),
            _broker: Some(broker),
        }
    }

    /// For the test that stops the broker.
    pub(crate) async fn alone(raw: RawKafkaConfig) -> (Self, RwLockWriteGuard<'static, ()>) {
        let broker = BROKER.write().await;
        let world = Self {
            bus: connect(raw).await.unwrap(),
            topics: Mutex::default(),
            _broker: None,
        };
        (world, broker)
    }

    fn note<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if !topics.contains(name) {
                topics.insert(name.to_owned());
            }
        }
    }
}

#[async_trait]
impl Bus for World {
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), StoreError> {
        self.note(records.iter().map(|record| record.topic.as_str()));
        self.bus.append(records).await
    }

    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, StoreError> {
        self.note(topics.iter().copied());
        self.bus.subscribe(group, topics).await
    }

    async fn lag(&self, group: &str, topics: &[&str]) -> Result<Vec<Lag>, StoreError> {
        self.bus.lag(group, topics).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.bus.ping().await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let topics = self.topics.get_mut().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<String> = std::mem::take(topics).into_iter().collect();
        // On a runtime of its own, because this may be dropped inside one.
        let deleting = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
                .set("bootstrap.servers", support::address("SENDFLOWR_TEST_KAFKA"))
                .create()
                .unwrap();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            runtime.block_on(admin.delete_topics(&names, &AdminOptions::new()))
        });
        // Leftovers of a failed test do no harm.
        let _ = deleting.join();
    }
}

/// Keeps the broker stopped until this is dropped.
pub(crate) struct Stopped;

impl Stopped {
    pub(crate) fn new() -> Self {
        control("stop");
        Self
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        control("start");
    }
}

fn control(what: &str) {
    let program = env::var("SENDFLOWR_TEST_SERVICES").unwrap_or_else(|_| {
        panic!("`SENDFLOWR_TEST_SERVICES` is not set: `cargo xtask test` sets it to what stops and starts servers")
    });
    let status = Command::new(program).args(["services", what, "kafka"]).status();
    assert!(status.unwrap().success(), "could not {what} kafka");
}
