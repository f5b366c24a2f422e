//! Fakes of the four ports that can be taken down, and a consumer over them.
//!
//! Tests run on tokio's paused clock: pauses pass at once, and in their order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use consumer::{ConsumerConfig, ConsumerError, Dependencies, Metrics};
use event::{
    Event, EventType, Hasher, Identifier, IdentifierKind, SCHEMA_VERSION, Timestamp, UniversalId, event_id,
    profile::Profile,
};
use prometheus_client::registry::Registry;
use store::{
    StoreError,
    bus::{Bus, DEAD_LETTERS_TOPIC, EVENTS_TOPIC, Lag, NewRecord, Position, Record, Subscription},
    events::{EventCount, Events, LatencySample, StoredEvent, StoredExplanation, WriteReport},
    identity::{AuditEntry, Identities, Person, Sighting},
    profiles::Profiles,
};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// A switch that a test throws.
#[derive(Default)]
pub(crate) struct Switch(AtomicBool);

impl Switch {
    pub(crate) fn on(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn off(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable {
        engine: "fake",
        source: "down for the test".into(),
    }
}

fn rejected() -> StoreError {
    StoreError::Rejected {
        engine: "fake",
        message: "a value is out of range".into(),
    }
}

fn misconfigured() -> StoreError {
    StoreError::Misconfigured {
        engine: "fake",
        message: "the table is missing, look at `events.database`".into(),
    }
}

/// A log of one partition per topic.
#[derive(Default)]
pub(crate) struct FakeBus {
    records: Mutex<HashMap<String, Vec<Record>>>,
    committed: Mutex<HashMap<String, usize>>,
    news: Notify,
    pub(crate) appends_fail: Switch,
    pub(crate) polls_fail: Switch,
    pub(crate) commits_fail: Switch,
    pub(crate) commits_hang: Switch,
    /// Records handed out to the events group.
    pub(crate) handed_out: AtomicUsize,
}

impl FakeBus {
    pub(crate) fn put(&self, value: Vec<u8>) {
        let record = NewRecord {
            topic: EVENTS_TOPIC.into(),
            key: "key".into(),
            value,
            headers: BTreeMap::from([("trace".into(), "t1".into())]),
        };
        self.take(record);
    }

    pub(crate) fn put_events(&self, events: &[Event]) {
        for event in events {
            self.put(event.to_json());
        }
    }

    fn take(&self, record: NewRecord) {
        let mut topics = self.records.lock().unwrap();
        let topic = topics.entry(record.topic.clone()).or_default();
        topic.push(Record {
            position: Position {
                topic: record.topic,
                partition: 0,
                offset: topic.len() as u64,
            },
            key: record.key,
            value: record.value,
            headers: record.headers,
            appended_at: Timestamp::default(),
        });
        drop(topics);
        self.news.notify_waiters();
    }

    pub(crate) fn dead_letters(&self) -> Vec<Record> {
        self.records
            .lock()
            .unwrap()
            .get(DEAD_LETTERS_TOPIC)
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn committed(&self, group: &str) -> usize {
        self.committed.lock().unwrap().get(group).copied().unwrap_or(0)
    }

    fn length(&self) -> usize {
        self.records.lock().unwrap().get(EVENTS_TOPIC).map_or(0, Vec::len)
    }
}

struct FakeSubscription {
    bus: Arc<FakeBus>,
    group: String,
    next: usize,
}

/// The bus as a port; subscriptions share the fake.
pub(crate) struct SharedBus(pub(crate) Arc<FakeBus>);

#[async_trait]
impl Bus for SharedBus {
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), StoreError> {
        if self.0.appends_fail.is_on() {
            return Err(unavailable());
        }
        records.into_iter().for_each(|record| self.0.take(record));
        Ok(())
    }

    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, StoreError> {
        assert_eq!(topics, [EVENTS_TOPIC]);
        let next = self.0.committed(group);
        Ok(Box::new(FakeSubscription {
            bus: self.0.clone(),
            group: group.into(),
            next,
        }))
    }

    async fn lag(&self, group: &str, _: &[&str]) -> Result<Vec<Lag>, StoreError> {
        let records = (self.0.length() - self.0.committed(group)) as u64;
        Ok(vec![Lag {
            topic: EVENTS_TOPIC.into(),
            partition: 0,
            records,
        }])
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Subscription for FakeSubscription {
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Vec<Record>, StoreError> {
        if self.bus.polls_fail.is_on() {
            return Err(unavailable());
        }
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let news = self.bus.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let taken: Vec<Record> = {
                let topics = self.bus.records.lock().unwrap();
                let records = topics.get(EVENTS_TOPIC).map_or(&[][..], Vec::as_slice);
                records.iter().skip(self.next).take(max).cloned().collect()
            };
            if !taken.is_empty() {
                self.next += taken.len();
                if self.group == consumer::EVENTS_GROUP {
                    self.bus.handed_out.fetch_add(taken.len(), Ordering::SeqCst);
                }
                return Ok(taken);
            }
            if tokio::time::timeout_at(deadline, news).await.is_err() {
                return Ok(vec![]);
            }
        }
    }

    async fn commit(&mut self) -> Result<(), StoreError> {
        if self.bus.commits_hang.is_on() && self.group == consumer::EVENTS_GROUP {
            std::future::pending::<()>().await;
        }
        if self.bus.commits_fail.is_on() {
            return Err(unavailable());
        }
        self.bus
            .committed
            .lock()
            .unwrap()
            .insert(self.group.clone(), self.next);
        Ok(())
    }

    async fn rewind(&mut self) -> Result<(), StoreError> {
        self.next = self.bus.committed(&self.group);
        Ok(())
    }
}

/// Events in order of arrival, one of each id.
#[derive(Default)]
pub(crate) struct FakeEvents {
    rows: Mutex<Vec<StoredEvent>>,
    pub(crate) down: Switch,
    pub(crate) broken: Switch,
    /// Ids that are refused.
    pub(crate) poison: Mutex<Vec<String>>,
    pub(crate) writes: AtomicUsize,
    /// Answers as an engine does that dedupes later: all were inserted.
    pub(crate) cannot_tell_duplicates: Switch,
}

impl FakeEvents {
    pub(crate) fn rows(&self) -> Vec<StoredEvent> {
        self.rows.lock().unwrap().clone()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.rows().into_iter().map(|row| row.event.event_id).collect()
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.broken.is_on() {
            return Err(misconfigured());
        }
        if self.down.is_on() {
            Err(unavailable())
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Events for FakeEvents {
    async fn write(&self, batch: &[StoredEvent]) -> Result<WriteReport, StoreError> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        let poison = self.poison.lock().unwrap();
        if batch.iter().any(|row| poison.contains(&row.event.event_id)) {
            return Err(rejected());
        }
        let mut report = WriteReport::default();
        let mut rows = self.rows.lock().unwrap();
        for row in batch {
            if rows
                .iter()
                .any(|known| known.event.event_id == row.event.event_id)
            {
                report.duplicates += 1;
            } else {
                rows.push(row.clone());
                report.inserted += 1;
            }
        }
        if self.cannot_tell_duplicates.is_on() {
            report = WriteReport {
                inserted: batch.len(),
                duplicates: 0,
            };
        }
        Ok(report)
    }

    async fn history(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.check()?;
        let mut rows = self.rows();
        rows.retain(|row| ids.contains(&row.event.universal_id) && row.event.timestamp >= since);
        rows.sort_by_key(|row| row.event.timestamp);
        let excess = rows.len().saturating_sub(limit);
        Ok(rows.split_off(excess))
    }

    async fn sent_times(
        &self,
        messages: &[(UniversalId, String)],
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.check()?;
        let rows = self.rows();
        let sent = messages.iter().map(|(person, message)| {
            let row = rows.iter().find(|row| {
                row.event.event_type == EventType::Sent
                    && row.event.universal_id == *person
                    && row.event.message_id.as_ref() == Some(message)
            });
            row.map(|row| row.event.timestamp)
        });
        Ok(sent.collect())
    }

    async fn people(
        &self,
        _: Timestamp,
        _: Option<&UniversalId>,
        _: usize,
    ) -> Result<Vec<UniversalId>, StoreError> {
        Err(misconfigured())
    }

    async fn latency_samples(&self, _: Timestamp, _: usize) -> Result<Vec<LatencySample>, StoreError> {
        Err(misconfigured())
    }

    async fn counts(&self) -> Result<Vec<EventCount>, StoreError> {
        Err(misconfigured())
    }

    async fn save_explanation(&self, _: &StoredExplanation) -> Result<(), StoreError> {
        Err(misconfigured())
    }

    async fn explanation(&self, _: &str) -> Result<Option<StoredExplanation>, StoreError> {
        Err(misconfigured())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.check()
    }
}

#[derive(Default)]
pub(crate) struct FakeProfiles {
    profiles: Mutex<HashMap<UniversalId, Profile>>,
    pub(crate) down: Switch,
    pub(crate) hangs: Switch,
    pub(crate) calls: AtomicUsize,
}

impl FakeProfiles {
    pub(crate) fn of(&self, id: &UniversalId) -> Profile {
        self.profiles.lock().unwrap().get(id).cloned().unwrap_or_default()
    }

    pub(crate) fn forget_all(&self) {
        self.profiles.lock().unwrap().clear();
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hangs.is_on() {
            std::future::pending::<()>().await;
        }
        if self.down.is_on() {
            Err(unavailable())
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Profiles for FakeProfiles {
    async fn get(&self, ids: &[UniversalId]) -> Result<Vec<Option<Profile>>, StoreError> {
        self.check().await?;
        let profiles = self.profiles.lock().unwrap();
        Ok(ids.iter().map(|id| profiles.get(id).cloned()).collect())
    }

    async fn put(&self, profiles: &[(UniversalId, Profile)]) -> Result<(), StoreError> {
        self.check().await?;
        self.profiles.lock().unwrap().extend(profiles.iter().cloned());
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.check().await
    }
}

#[derive(Default)]
pub(crate) struct FakeIdentities {
    sightings: Mutex<Vec<Sighting>>,
    pub(crate) down: Switch,
    pub(crate) broken: Switch,
    /// Values of identifiers that are refused.
    pub(crate) poison: Mutex<Vec<String>>,
}

impl FakeIdentities {
    pub(crate) fn sightings(&self) -> Vec<Sighting> {
        self.sightings.lock().unwrap().clone()
    }
}

#[async_trait]
impl Identities for FakeIdentities {
    async fn record(&self, sightings: &[Sighting]) -> Result<(), StoreError> {
        if self.down.is_on() {
            return Err(unavailable());
        }
        if self.broken.is_on() {
            return Err(misconfigured());
        }
        let poison = self.poison.lock().unwrap();
        if sightings
            .iter()
            .flat_map(|s| &s.identifiers)
            .any(|identifier| poison.contains(&identifier.value))
        {
            return Err(rejected());
        }
        self.sightings.lock().unwrap().extend_from_slice(sightings);
        Ok(())
    }

    async fn link(&self, _: &Sighting) -> Result<Person, StoreError> {
        Err(misconfigured())
    }

    async fn people(&self, _: &[UniversalId]) -> Result<Vec<Person>, StoreError> {
        Err(misconfigured())
    }

    async fn resolve(&self, _: &[Identifier]) -> Result<Option<Person>, StoreError> {
        Err(misconfigured())
    }

    async fn audit(&self, _: &UniversalId, _: usize) -> Result<Vec<AuditEntry>, StoreError> {
        Err(misconfigured())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The ports, and what the consumer counts.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) bus: Arc<FakeBus>,
    pub(crate) events: Arc<FakeEvents>,
    pub(crate) profiles: Arc<FakeProfiles>,
    pub(crate) identities: Arc<FakeIdentities>,
}

/// A consumer at work.
pub(crate) struct Running {
    task: JoinHandle<Result<(), ConsumerError>>,
    shutdown: CancellationToken,
    registry: Registry,
}

impl World {
    pub(crate) fn start(&self) -> Running {
        self.start_with(ConsumerConfig {
            batch_events: 100,
            ..ConsumerConfig::default()
        })
    }

    pub(crate) fn start_with(&self, config: ConsumerConfig) -> Running {
        let mut registry = Registry::default();
        let dependencies = Dependencies {
            bus: Arc::new(SharedBus(self.bus.clone())),
            events: self.events.clone(),
            profiles: self.profiles.clone(),
            identities: self.identities.clone(),
            metrics: Metrics::register(&mut registry),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(consumer::run(config, dependencies, shutdown.clone()));
        Running {
            task,
            shutdown,
            registry,
        }
    }

    /// Waits until all that is on the bus is committed by the events group.
    pub(crate) async fn caught_up(&self) {
        until("the events group has caught up", || {
            self.bus.committed(consumer::EVENTS_GROUP) == self.bus.length()
        })
        .await;
    }

    pub(crate) async fn identities_caught_up(&self) {
        until("the identity group has caught up", || {
            self.bus.committed(consumer::IDENTITY_GROUP) == self.bus.length()
        })
        .await;
    }
}

impl Running {
    /// Ends it as an operator does.
    pub(crate) async fn stop(self) -> Result<(), ConsumerError> {
        self.shutdown.cancel();
        self.ended().await
    }

    /// Waits for it to end on its own.
    pub(crate) async fn ended(self) -> Result<(), ConsumerError> {
        tokio::time::timeout(Duration::from_secs(5), self.task)
            .await
            .expect("it ends soon")
            .expect("it does not panic")
    }

    /// Ends it as a crash does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.expect_err("it was still at work").is_cancelled());
    }

    /// The value of a metric, by its name and labels as exposed; 0 where it was never touched.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// Waits for `condition`; fails the test when it does not come within ten minutes of the paused clock.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), wait)
        .await
        .unwrap_or_else(|_| panic!("never came: {what}"));
}

pub(crate) fn person(name: &str) -> UniversalId {
    UniversalId::from_identifier(&email(name))
}

fn email(name: &str) -> Identifier {
    Hasher::new()
        .email_identifier(&format!("{name}@example.com"))
        .unwrap()
}

pub(crate) fn weak(value: &str) -> Identifier {
    Identifier {
        kind: IdentifierKind::KlaviyoId,
        value: value.into(),
    }
}

/// An event of the person `name` about `message`, `seconds` after noon.
pub(crate) fn event(name: &str, event_type: EventType, message: &str, seconds: i64) -> Event {
    let noon: Timestamp = "2026-01-10T12:00:00Z".parse().unwrap();
    let mut event = Event {
        schema_version: SCHEMA_VERSION,
        event_id: String::new(),
        event_type,
        timestamp: noon.plus_millis(seconds * 1_000),
        esp: "sendgrid".into(),
        account: "default".into(),
        universal_id: person(name),
        recipient_email_hash: None,
        mailbox_provider: None,
        identifiers: vec![email(name)],
        campaign_id: None,
        campaign_name: None,
        message_id: Some(message.into()),
        subject: None,
        click_url: None,
        bounce_type: None,
        reason: None,
        user_agent: None,
        ip_address: None,
        tags: vec![],
        metadata: BTreeMap::new(),
        is_machine: None,
        provider_event_id: None,
        plugin: "sendgrid@1.0.0".into(),
        ingested_at: noon,
    };
    event.event_id = event_id(&event);
    event
}

/// `count` delivered events, each of its own message, among `people` people.
pub(crate) fn deliveries(count: usize, people: usize) -> Vec<Event> {
    (0..count)
        .map(|n| {
            event(
                &format!("p{}", n % people),
                EventType::Delivered,
                &format!("m{n}"),
                n as i64,
            )
        })
        .collect()
}

pub(crate) fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.event_id.clone()).collect()
}

/// The profile that follows from stored events, whatever the consumer did on the way.
pub(crate) fn profile_of(rows: &[StoredEvent], id: &UniversalId) -> Profile {
    let mut profile = Profile::default();
    for row in rows.iter().filter(|row| row.event.universal_id == *id) {
        profile.apply(&row.event, row.enrichment.machine);
    }
    profile
}
