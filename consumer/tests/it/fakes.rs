//! Fakes of the four ports that can be taken down.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use event::{Event, EventType, Timestamp, UniversalId, profile::Profile};
use store::{
    StoreError,
    bus::{Bus, DEAD_LETTERS_TOPIC, EVENTS_TOPIC, Lag, NewRecord, Position, Progress, Record, Subscription},
    events::{
        Events, Holdings, LatencySample, ProfileDoubt, Sample, StoredEvent, StoredExplanation,
        StoredForecast, StoredTrial, Touch, WriteReport,
    },
    identity::{AuditEntry, ErasedIdentities, Identities, Person, Sighting},
    profiles::{Profiles, Seen, Update},
};
use tokio::sync::Notify;

/// A switch that a test turns on and off.
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
        cause: "down for the test".into(),
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
    pub(crate) subscribes_hang: Switch,
    pub(crate) lags_hang: Switch,
    /// How often members have lost partitions.
    pub(crate) losses: AtomicUsize,
    /// Number of records deleted before they were read.
    pub(crate) lost: AtomicUsize,
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
                topic: record.topic.into(),
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

    pub(crate) fn length(&self) -> usize {
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
        if self.0.subscribes_hang.is_on() {
            std::future::pending::<()>().await;
        }
        let next = self.0.committed(group);
        Ok(Box::new(FakeSubscription {
            bus: self.0.clone(),
            group: group.into(),
            next,
        }))
    }

    async fn lag(&self, group: &str, _: &[&str]) -> Result<Vec<Lag>, StoreError> {
        if self.0.lags_hang.is_on() {
            std::future::pending::<()>().await;
        }
        let records = (self.0.length() - self.0.committed(group)) as u64;
        Ok(vec![Lag {
            topic: EVENTS_TOPIC.into(),
            partition: 0,
            records,
            lost: self.0.lost.load(Ordering::SeqCst) as u64,
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

    async fn commit_through(&mut self, progress: &Progress) -> Result<(), StoreError> {
        let Some(covered) = progress.next(EVENTS_TOPIC, 0, 0) else {
            return Ok(());
        };
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
            .insert(self.group.clone(), self.next.min(covered as usize));
        Ok(())
    }

    fn losses(&self) -> u64 {
        self.bus.losses.load(Ordering::SeqCst) as u64
    }
}

/// Events in order of arrival, one for each id.
#[derive(Default)]
pub(crate) struct FakeEvents {
    rows: Mutex<Vec<StoredEvent>>,
    pub(crate) down: Switch,
    pub(crate) broken: Switch,
    /// Ids that are rejected.
    pub(crate) poison: Mutex<Vec<String>>,
    /// Number of events that are too much at once; 0 for no limit.
    pub(crate) too_much: AtomicUsize,
    pub(crate) writes: AtomicUsize,
    /// Number of people whose history was read.
    pub(crate) histories: AtomicUsize,
    /// Reports like an engine that deduplicates later: all events were inserted.
    pub(crate) cannot_tell_duplicates: Switch,
    /// Doubts cannot be noted, and everything else works.
    pub(crate) doubts_fail: Switch,
    /// Number of times that profiles were doubted.
    pub(crate) doubts_raised: AtomicUsize,
    /// Consumers that doubt profiles, and when they last said so.
    doubts: Mutex<HashMap<String, tokio::time::Instant>>,
}

impl FakeEvents {
    pub(crate) fn rows(&self) -> Vec<StoredEvent> {
        self.rows.lock().unwrap().clone()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.rows().into_iter().map(|row| row.event.event_id).collect()
    }

    /// Returns how many consumers doubt profiles.
    pub(crate) fn doubts(&self) -> usize {
        self.doubts.lock().unwrap().len()
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
        let too_much = self.too_much.load(Ordering::SeqCst);
        if too_much > 0 && batch.len() >= too_much {
            return Err(StoreError::TooMuch {
                engine: "fake",
                message: "out of memory".into(),
            });
        }
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

    async fn known(&self, ids: &[UniversalId]) -> Result<Vec<bool>, StoreError> {
        self.check()?;
        let rows = self.rows.lock().unwrap();
        let is_known = |id: &UniversalId| rows.iter().any(|row| row.event.universal_id == *id);
        Ok(ids.iter().map(is_known).collect())
    }

    async fn history(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.histories.fetch_add(ids.len(), Ordering::SeqCst);
        self.check()?;
        let mut rows = self.rows();
        rows.retain(|row| ids.contains(&row.event.universal_id) && row.event.timestamp >= since);
        rows.sort_by_key(|row| row.event.timestamp);
        let excess = rows.len().saturating_sub(limit);
        Ok(rows.split_off(excess))
    }

    async fn profiles(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<Profile>, StoreError> {
        let mut profiles = Vec::new();
        for id in ids {
            let mut profile = Profile::default();
            for row in self.history(std::slice::from_ref(id), since, limit).await? {
                profile.apply(&row.event, row.enrichment.machine);
            }
            profiles.push(profile);
        }
        Ok(profiles)
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

    async fn save_explanations(&self, _: &[&StoredExplanation]) -> Result<(), StoreError> {
        Err(misconfigured())
    }

    async fn explanation(&self, _: &str) -> Result<Option<StoredExplanation>, StoreError> {
        Err(misconfigured())
    }

    async fn trials(&self, _: Timestamp, _: Timestamp, _: usize) -> Result<Sample<StoredTrial>, StoreError> {
        Err(misconfigured())
    }

    async fn forecasts(
        &self,
        _: Timestamp,
        _: Timestamp,
        _: usize,
    ) -> Result<Sample<StoredForecast>, StoreError> {
        Err(misconfigured())
    }

    async fn touches(&self, _: &[UniversalId], _: Timestamp, _: Timestamp) -> Result<Vec<Touch>, StoreError> {
        Err(misconfigured())
    }

    async fn events_of(
        &self,
        _: &UniversalId,
        _: Option<&Event>,
        _: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        Err(misconfigured())
    }

    async fn explanations_about(&self, _: &[UniversalId]) -> Result<Vec<String>, StoreError> {
        Err(misconfigured())
    }

    async fn holdings(&self, _: &[UniversalId]) -> Result<Holdings, StoreError> {
        Err(misconfigured())
    }

    async fn erase(&self, _: &[UniversalId]) -> Result<Holdings, StoreError> {
        Err(misconfigured())
    }

    async fn doubt_profiles(&self, consumer: &str) -> Result<(), StoreError> {
        self.check()?;
        if self.doubts_fail.is_on() {
            return Err(unavailable());
        }
        self.doubts_raised.fetch_add(1, Ordering::SeqCst);
        let now = tokio::time::Instant::now();
        self.doubts.lock().unwrap().insert(consumer.into(), now);
        Ok(())
    }

    async fn trust_profiles(&self, consumer: &str) -> Result<(), StoreError> {
        self.check()?;
        self.doubts.lock().unwrap().remove(consumer);
        Ok(())
    }

    async fn profile_doubts(&self) -> Result<Vec<ProfileDoubt>, StoreError> {
        self.check()?;
        let doubts = self.doubts.lock().unwrap();
        let doubts = doubts.iter().map(|(consumer, at)| ProfileDoubt {
            consumer: consumer.clone(),
            told_before: at.elapsed(),
        });
        Ok(doubts.collect())
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
    /// Writes fail, and everything else works.
    pub(crate) writes_fail: Switch,
    pub(crate) calls: AtomicUsize,
    pub(crate) clears: AtomicUsize,
}

impl FakeProfiles {
    pub(crate) fn of(&self, id: &UniversalId) -> Profile {
        self.profiles.lock().unwrap().get(id).cloned().unwrap_or_default()
    }

    pub(crate) fn forget_all(&self) {
        self.profiles.lock().unwrap().clear();
    }

    async fn check_write(&self) -> Result<(), StoreError> {
        self.check().await?;
        if self.writes_fail.is_on() {
            return Err(misconfigured());
        }
        Ok(())
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

    async fn look(&self, ids: &[UniversalId]) -> Result<Vec<Option<(Profile, Seen)>>, StoreError> {
        let looks = self.get(ids).await?.into_iter().map(|profile| {
            let profile = profile?;
            let seen = Seen(profile.to_bytes());
            Some((profile, seen))
        });
        Ok(looks.collect())
    }

    async fn update(&self, updates: &[Update]) -> Result<(), StoreError> {
        self.check_write().await?;
        let mut profiles = self.profiles.lock().unwrap();
        for Update { id, profile, seen } in updates {
            let now = profiles.get(id).map(Profile::to_bytes);
            assert_eq!(now.as_ref(), Some(&seen.0), "`{id}` changed after the look");
            profiles.insert(id.clone(), profile.clone());
        }
        Ok(())
    }

    async fn put(&self, profiles: &[(UniversalId, Profile)]) -> Result<(), StoreError> {
        self.check_write().await?;
        self.profiles.lock().unwrap().extend(profiles.iter().cloned());
        Ok(())
    }

    async fn clear(&self) -> Result<(), StoreError> {
        self.check().await?;
        self.clears.fetch_add(1, Ordering::SeqCst);
        self.forget_all();
        Ok(())
    }

    fn forget_unshared(&self) {
        self.forget_all();
    }

    async fn erase(&self, _: &[UniversalId]) -> Result<u64, StoreError> {
        Err(misconfigured())
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
    /// Number of sightings that take it longer than anybody waits; 0 for no limit.
    pub(crate) too_long: AtomicUsize,
    /// Values of identifiers that are rejected.
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
        let too_long = self.too_long.load(Ordering::SeqCst);
        if too_long > 0 && sightings.len() >= too_long {
            return Err(unavailable());
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

    async fn people(&self, _: &[UniversalId]) -> Result<Vec<Arc<Person>>, StoreError> {
        Err(misconfigured())
    }

    async fn audit(&self, _: &UniversalId, _: usize) -> Result<Vec<AuditEntry>, StoreError> {
        Err(misconfigured())
    }

    async fn erase(&self, _: &[UniversalId]) -> Result<ErasedIdentities, StoreError> {
        Err(misconfigured())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
