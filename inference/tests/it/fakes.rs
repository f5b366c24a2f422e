//! In-memory stores that can be switched off.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use event::{
    BounceType, Event, EventType, Hasher, Identifier, MailboxProvider, Timestamp, UniversalId,
    profile::Profile,
};
use prometheus_client::registry::Registry;
use sendflowr_inference::Dependencies;
use store::{
    StoreError,
    events::{
        Events, Holdings, LatencySample, ProfileDoubt, Sample, StoredEvent, StoredExplanation,
        StoredForecast, StoredTrial, Touch, TouchKind, WriteReport,
    },
    identity::{AuditEntry, ErasedIdentities, Identities, Person, Sighting},
    profiles::{Profiles, Seen, Update},
};

/// All stores.
#[derive(Clone, Default)]
pub(crate) struct Stores {
    pub(crate) events: Arc<FakeEvents>,
    pub(crate) identities: Arc<FakeIdentities>,
    pub(crate) profiles: Arc<FakeProfiles>,
}

impl Stores {
    pub(crate) fn dependencies(&self) -> Dependencies {
        Dependencies {
            events: Arc::clone(&self.events) as Arc<dyn Events>,
            identities: Arc::clone(&self.identities) as Arc<dyn Identities>,
            profiles: Arc::clone(&self.profiles) as Arc<dyn Profiles>,
            hasher: Hasher::new(),
            registry: Arc::new(Mutex::new(Registry::default())),
        }
    }

    /// What the consumer does: stores the event first, then the profile.
    pub(crate) fn consume(&self, event: Event) {
        let id = event.universal_id.clone();
        let mut profiles = self.profiles.stored.lock().unwrap();
        profiles.entry(id).or_default().apply(&event, false);
        drop(profiles);
        self.store_event(event);
    }

    /// Stores the event only, as if the profile had been lost.
    pub(crate) fn store_event(&self, event: Event) {
        let stored = StoredEvent {
            event,
            enrichment: store::events::Enrichment::default(),
        };
        self.events.stored.lock().unwrap().push(stored);
    }
}

fn unavailable(down: &AtomicBool) -> Result<(), StoreError> {
    if down.load(Ordering::SeqCst) {
        return Err(StoreError::Unavailable {
            engine: "fake",
            cause: "switched off".into(),
        });
    }
    Ok(())
}

fn not_asked() -> StoreError {
    StoreError::Rejected {
        engine: "fake",
        message: "no decision asks this".into(),
    }
}

#[derive(Default)]
pub(crate) struct FakeEvents {
    pub(crate) down: AtomicBool,
    pub(crate) profile_queries: AtomicUsize,
    pub(crate) stored: Mutex<Vec<StoredEvent>>,
    pub(crate) latencies: Mutex<Vec<LatencySample>>,
    pub(crate) explanations: Mutex<HashMap<String, StoredExplanation>>,
    /// Whether a consumer doubts profiles.
    pub(crate) profiles_doubted: AtomicBool,
}

#[async_trait]
impl Events for FakeEvents {
    async fn write(&self, batch: &[StoredEvent]) -> Result<WriteReport, StoreError> {
        unavailable(&self.down)?;
        self.stored.lock().unwrap().extend_from_slice(batch);
        Ok(WriteReport {
            inserted: batch.len(),
            duplicates: 0,
        })
    }

    async fn known(&self, ids: &[UniversalId]) -> Result<Vec<bool>, StoreError> {
        unavailable(&self.down)?;
        let stored = self.stored.lock().unwrap();
        let is_known = |id: &UniversalId| stored.iter().any(|stored| stored.event.universal_id == *id);
        Ok(ids.iter().map(is_known).collect())
    }

    async fn history(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        unavailable(&self.down)?;
        let stored = self.stored.lock().unwrap();
        let mut history: Vec<StoredEvent> = stored
            .iter()
            .filter(|stored| ids.contains(&stored.event.universal_id) && stored.event.timestamp >= since)
            .cloned()
            .collect();
        history.sort_by_key(|stored| stored.event.timestamp);
        Ok(history.split_off(history.len().saturating_sub(limit)))
    }

    async fn profiles(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<Profile>, StoreError> {
        self.profile_queries.fetch_add(1, Ordering::SeqCst);
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
        Ok(vec![None; messages.len()])
    }

    async fn people(
        &self,
        since: Timestamp,
        after: Option<&UniversalId>,
        limit: usize,
    ) -> Result<Vec<UniversalId>, StoreError> {
        unavailable(&self.down)?;
        let stored = self.stored.lock().unwrap();
        let ids: std::collections::BTreeSet<&UniversalId> = stored
            .iter()
            .filter(|s| s.event.timestamp >= since)
            .map(|s| &s.event.universal_id)
            .collect();
        Ok(ids
            .into_iter()
            .filter(|id| after.is_none_or(|after| *id > after))
            .take(limit)
            .cloned()
            .collect())
    }

    async fn latency_samples(&self, since: Timestamp, _: usize) -> Result<Vec<LatencySample>, StoreError> {
        unavailable(&self.down)?;
        let latencies = self.latencies.lock().unwrap();
        Ok(latencies
            .iter()
            .filter(|sample| sample.delivered_at >= since)
            .cloned()
            .collect())
    }

    async fn save_explanations(&self, explanations: &[&StoredExplanation]) -> Result<(), StoreError> {
        unavailable(&self.down)?;
        let mut stored = self.explanations.lock().unwrap();
        for explanation in explanations {
            stored
                .entry(explanation.reference.clone())
                .or_insert_with(|| (*explanation).clone());
        }
        Ok(())
    }

    async fn explanation(&self, reference: &str) -> Result<Option<StoredExplanation>, StoreError> {
        unavailable(&self.down)?;
        Ok(self.explanations.lock().unwrap().get(reference).cloned())
    }

    async fn trials(
        &self,
        since: Timestamp,
        until: Timestamp,
        _: usize,
    ) -> Result<Sample<StoredTrial>, StoreError> {
        unavailable(&self.down)?;
        let explanations = self.explanations.lock().unwrap();
        let trials = explanations.values().filter_map(|explanation| {
            Some(StoredTrial {
                reference: explanation.reference.clone(),
                universal_id: explanation.universal_id.clone(),
                decided_at: explanation.decided_at,
                trial: explanation.trial.clone()?,
            })
        });
        let mut trials: Vec<StoredTrial> = trials
            .filter(|trial| (since..until).contains(&trial.decided_at))
            .collect();
        trials.sort_by(|a, b| (b.decided_at, &b.reference).cmp(&(a.decided_at, &a.reference)));
        Ok(Sample {
            rows: trials,
            share: 1.0,
        })
    }

    async fn forecasts(
        &self,
        since: Timestamp,
        until: Timestamp,
        _: usize,
    ) -> Result<Sample<StoredForecast>, StoreError> {
        unavailable(&self.down)?;
        let explanations = self.explanations.lock().unwrap();
        let forecasts = explanations.values().filter_map(|explanation| {
            Some(StoredForecast {
                reference: explanation.reference.clone(),
                universal_id: explanation.universal_id.clone(),
                decided_at: explanation.decided_at,
                forecast: explanation.forecast.clone()?,
            })
        });
        let mut forecasts: Vec<StoredForecast> = forecasts
            .filter(|forecast| (since..until).contains(&forecast.decided_at))
            .collect();
        forecasts.sort_by(|a, b| (b.decided_at, &b.reference).cmp(&(a.decided_at, &a.reference)));
        Ok(Sample {
            rows: forecasts,
            share: 1.0,
        })
    }

    async fn touches(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Touch>, StoreError> {
        unavailable(&self.down)?;
        let stored = self.stored.lock().unwrap();
        let touches = stored.iter().filter_map(|StoredEvent { event, enrichment }| {
            let kind = match event.event_type {
                EventType::Delivered => TouchKind::Delivered,
                EventType::Clicked | EventType::Replied | EventType::Converted => TouchKind::Answered,
                _ => return None,
            };
            let is_wanted = !enrichment.machine
                && ids.contains(&event.universal_id)
                && (since..until).contains(&event.timestamp);
            is_wanted.then(|| Touch {
                universal_id: event.universal_id.clone(),
                at: event.timestamp,
                kind,
                message_id: event.message_id.clone(),
                campaign_id: event.campaign_id.clone(),
                esp: event.esp.clone(),
                delivery_latency_ms: enrichment.delivery_latency_ms,
            })
        });
        Ok(touches.collect())
    }

    async fn events_of(
        &self,
        _: &UniversalId,
        _: Option<&Event>,
        _: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        Err(not_asked())
    }

    async fn explanations_about(&self, _: &[UniversalId]) -> Result<Vec<String>, StoreError> {
        Err(not_asked())
    }

    async fn holdings(&self, _: &[UniversalId]) -> Result<Holdings, StoreError> {
        Err(not_asked())
    }

    async fn erase(&self, _: &[UniversalId]) -> Result<Holdings, StoreError> {
        Err(not_asked())
    }

    async fn doubt_profiles(&self, _: &str) -> Result<(), StoreError> {
        Err(not_asked())
    }

    async fn trust_profiles(&self, _: &str) -> Result<(), StoreError> {
        Err(not_asked())
    }

    async fn profile_doubts(&self) -> Result<Vec<ProfileDoubt>, StoreError> {
        unavailable(&self.down)?;
        let is_doubted = self.profiles_doubted.load(Ordering::SeqCst);
        let doubt = is_doubted.then(|| ProfileDoubt {
            consumer: "another".into(),
            told_before: std::time::Duration::ZERO,
        });
        Ok(doubt.into_iter().collect())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        unavailable(&self.down)
    }
}

/// Groups of identifiers; enough of a graph for tests.
#[derive(Default)]
pub(crate) struct FakeIdentities {
    pub(crate) down: AtomicBool,
    pub(crate) linked: Mutex<Vec<Sighting>>,
}

fn person(identifiers: &[Identifier]) -> Person {
    let mut identifiers = identifiers.to_vec();
    identifiers.sort();
    let mut ids: Vec<UniversalId> = identifiers.iter().map(UniversalId::from_identifier).collect();
    ids[1..].sort();
    Person {
        canonical: ids[0].clone(),
        // As in a graph that knows of no events.
        with_events: vec![ids[0].clone()],
        ids,
        identifiers,
    }
}

#[async_trait]
impl Identities for FakeIdentities {
    async fn record(&self, sightings: &[Sighting]) -> Result<(), StoreError> {
        self.linked.lock().unwrap().extend_from_slice(sightings);
        Ok(())
    }

    async fn link(&self, sighting: &Sighting) -> Result<Person, StoreError> {
        unavailable(&self.down)?;
        self.linked.lock().unwrap().push(sighting.clone());
        Ok(person(&sighting.identifiers))
    }

    async fn people(&self, ids: &[UniversalId]) -> Result<Vec<Arc<Person>>, StoreError> {
        unavailable(&self.down)?;
        let linked = self.linked.lock().unwrap();
        let people = ids.iter().map(|id| {
            let of_id = linked
                .iter()
                .map(|sighting| person(&sighting.identifiers))
                .find(|p| p.ids.contains(id));
            Arc::new(of_id.unwrap_or_else(|| Person::unknown(id.clone())))
        });
        Ok(people.collect())
    }

    async fn audit(&self, _id: &UniversalId, _limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        Ok(Vec::new())
    }

    async fn erase(&self, _: &[UniversalId]) -> Result<ErasedIdentities, StoreError> {
        Err(not_asked())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        unavailable(&self.down)
    }
}

#[derive(Default)]
pub(crate) struct FakeProfiles {
    pub(crate) down: AtomicBool,
    pub(crate) puts: AtomicUsize,
    pub(crate) stored: Mutex<HashMap<UniversalId, Profile>>,
}

#[async_trait]
impl Profiles for FakeProfiles {
    async fn get(&self, ids: &[UniversalId]) -> Result<Vec<Option<Profile>>, StoreError> {
        unavailable(&self.down)?;
        let stored = self.stored.lock().unwrap();
        Ok(ids.iter().map(|id| stored.get(id).cloned()).collect())
    }

    async fn look(&self, _: &[UniversalId]) -> Result<Vec<Option<(Profile, Seen)>>, StoreError> {
        Err(not_asked())
    }

    async fn update(&self, _: &[Update]) -> Result<(), StoreError> {
        Err(not_asked())
    }

    async fn put(&self, profiles: &[(UniversalId, Profile)]) -> Result<(), StoreError> {
        self.puts.fetch_add(profiles.len(), Ordering::SeqCst);
        Ok(())
    }

    async fn clear(&self) -> Result<(), StoreError> {
        self.stored.lock().unwrap().clear();
        Ok(())
    }

    fn forget_unshared(&self) {}

    async fn erase(&self, _: &[UniversalId]) -> Result<u64, StoreError> {
        Err(not_asked())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        unavailable(&self.down)
    }
}

/// Returns the identifier of an address.
pub(crate) fn email(address: &str) -> Identifier {
    Hasher::new().email_identifier(address).unwrap()
}

/// Returns the id of an address.
pub(crate) fn id_of(address: &str) -> UniversalId {
    UniversalId::from_identifier(&email(address))
}

/// Returns an event of the person with this address.
pub(crate) fn event(address: &str, event_type: EventType, timestamp: Timestamp) -> Event {
    Event {
        event_id: format!("{address}-{event_type}-{timestamp}"),
        esp: "sendgrid".into(),
        account: "default".into(),
        mailbox_provider: Some(MailboxProvider::Gmail),
        identifiers: vec![email(address)],
        bounce_type: (event_type == EventType::Bounced).then_some(BounceType::Hard),
        plugin: "sendgrid@1.0.0".into(),
        ingested_at: timestamp,
        ..Event::bare(event_type, timestamp, id_of(address))
    }
}

/// Clicks every evening at 19:30 UTC for `days` days before `now`, each on a mail delivered at 09:00.
pub(crate) fn evening_clicks(stores: &Stores, address: &str, days: i64, now: Timestamp) {
    const DAY_MS: i64 = 86_400_000;
    let midnight = now.plus_millis(-now.as_millis().rem_euclid(DAY_MS));
    for day in 1..=days {
        let start = midnight.plus_millis(-day * DAY_MS);
        for (kind, minutes) in [(EventType::Delivered, 9 * 60), (EventType::Clicked, 19 * 60 + 30)] {
            let mut event = event(address, kind, start.plus_millis(minutes * 60_000));
            event.message_id = Some(format!("m{day}"));
            stores.consume(event);
        }
    }
}
