//! Keeps profiles current without ever holding up events.
//!
//! The profile store is a cache. Six rules keep what it says true:
//! 1. **Only consumers write.** A reader that misses a profile rebuilds it from history for its own use and does not put
//!    it: between its look at the history and its put the consumer may have put a newer one, which would be lost. Two
//!    consumers may hold one person for a moment, while partitions move; an engine that several processes share must
//!    notice when their puts cross, as Redis's does.
//! 2. **Events first.** A profile is put after its events are stored, so history never knows less than a profile.
//! 3. **A missing profile is rebuilt from history**, this batch included, before it is put: a profile that only knows
//!    the events since a restart would look complete and be wrong.
//! 4. **A profile that could not be updated is remembered as stale** and rebuilt once the store answers again.
//! 5. **What is stale is not committed.** If this process dies before it has rebuilt it, the one that takes over reads
//!    the events again and updates the profiles then.
//! 6. **When too much is stale, or for too long, all profiles are forgotten** as soon as the store answers again, and
//!    commits go on meanwhile: reading hours of events again would hold up new ones. Only if the process dies before that
//!    and the store was merely out of reach, so that it still has what it had, profiles remain that lack events; a store
//!    that lost its process or its memory has none to begin with.
//!
//! Events taken in for the second time may get another verdict on whether a machine made them; the stored verdict is
//! the first one. So when a batch held events that were stored already, its profiles are rebuilt from history too.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    sync::Arc,
    time::Duration,
};

use event::{Event, Timestamp, UniversalId, profile::Profile};
use store::{
    StoreError,
    events::{Events, StoredEvent},
    profiles::Profiles,
};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    ConsumerConfig, Dependencies, Metrics,
    retry::{jittered, pause},
};

/// People whose history is read in one query. Few enough that a query stays short, enough that a batch of strangers
/// takes a handful of queries and not a thousand: the rows of strangers lie together, and a query costs some milliseconds
/// before it reads the first.
const PEOPLE_PER_QUERY: usize = 250;

/// Events read in one such query; some 10 MB. When it is not enough for all, it is asked for half of them at a time. Of one
/// person it is more than a full profile is made of: fewer than 1,000 deliveries, opens and clicks, and for each of them
/// there may be sent events and machine opens that leave no trace.
const EVENTS_PER_QUERY: usize = 10_000;

/// People known to be stale that are remembered: some 10 MB. To rebuild so many takes some ten minutes; beyond that it
/// is better to rebuild those who are asked for.
const MAX_STALE: usize = 100_000;

/// How long commits wait for profiles. A consumer that takes over reads that much again: what came in ten minutes of the
/// most that is planned for is read in less than three.
const PATIENCE: Duration = Duration::from_secs(600);

/// Longest pause between two attempts in an outage, however patient the configuration is with other stores. Until the
/// stale profiles are rebuilt, a store that was merely out of reach tells readers old ones.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Stale people rebuilt between two batches, so that repair does not hold up events.
const REPAIRS_AT_ONCE: usize = 200;

/// Updates profiles after events are stored.
pub(super) struct ProfileKeeper {
    store: Arc<dyn Profiles>,
    history: Arc<dyn Events>,
    metrics: Metrics,
    config: ConsumerConfig,
    stale: BTreeSet<UniversalId>,
    stale_since: Option<Instant>,
    /// Whether profiles lack events and nobody knows which. The store is then neither read nor written before it has
    /// forgotten all.
    lost_track: bool,
    /// The work of forgetting. It goes through the whole store, so events do not wait for it.
    forgetting: Option<JoinHandle<Result<(), StoreError>>>,
    failures: u32,
    /// While an outage lasts: when to try again. Until then the store is not asked, so that its time-outs do not slow
    /// events down.
    closed_until: Option<Instant>,
}

/// Why profiles could not be read or put.
#[derive(Debug, thiserror::Error)]
enum ProfileFailure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl ProfileKeeper {
    pub(super) fn new(config: &ConsumerConfig, dependencies: &Dependencies) -> Self {
        Self {
            store: dependencies.profiles.clone(),
            history: dependencies.events.clone(),
            metrics: dependencies.metrics.clone(),
            config: config.clone(),
            stale: BTreeSet::new(),
            stale_since: None,
            lost_track: false,
            forgetting: None,
            failures: 0,
            closed_until: None,
        }
    }

    /// The profiles of the people in `batch` that are there. None at all when the store does not answer.
    pub(super) async fn load(&mut self, batch: &[Event]) -> HashMap<UniversalId, Profile> {
        if self.lost_track {
            return HashMap::new();
        }
        let people: BTreeSet<&UniversalId> = batch.iter().map(|event| &event.universal_id).collect();
        let ids: Vec<UniversalId> = people.into_iter().cloned().collect();
        let store = self.store.clone();
        let Some(found) = self.call(store.get(&ids)).await else {
            return HashMap::new();
        };
        ids.into_iter()
            .zip(found)
            .filter_map(|(id, profile)| Some((id, profile?)))
            .collect()
    }

    /// Applies stored events to the profiles of their people. `known` are those that [`ProfileKeeper::load`] found;
    /// `rebuild` tells that some of the events were stored earlier.
    pub(super) async fn apply(
        &mut self,
        batch: &[StoredEvent],
        mut known: HashMap<UniversalId, Profile>,
        rebuild: bool,
    ) {
        if self.lost_track {
            return;
        }
        let people: BTreeSet<&UniversalId> = batch.iter().map(|stored| &stored.event.universal_id).collect();
        if self.closed() {
            self.remember_stale(people.into_iter().cloned());
            return;
        }
        known.retain(|id, _| !rebuild && people.contains(id) && !self.stale.contains(id));
        for stored in batch {
            if let Some(profile) = known.get_mut(&stored.event.universal_id) {
                profile.apply(&stored.event, stored.enrichment.machine);
            }
        }
        let lost: Vec<UniversalId> = people
            .into_iter()
            .filter(|id| !known.contains_key(*id))
            .cloned()
            .collect();
        let updated: Vec<(UniversalId, Profile)> = known.into_iter().collect();
        self.put(updated).await;
        self.rebuild(lost).await;
    }

    /// Whether everything taken in so far is in the profiles, or is never going to be.
    pub(super) fn are_settled(&self) -> bool {
        self.stale.is_empty()
    }

    /// Rebuilds some of the profiles known to be stale, if there are any and the store can be asked; or sees to it that
    /// the store forgets all of them.
    pub(super) async fn repair(&mut self) {
        if self.lost_track {
            self.forget_all().await;
            return;
        }
        if self.stale_since.is_some_and(|since| since.elapsed() > PATIENCE) {
            self.lose_track();
        } else if !self.stale.is_empty() && !self.closed() {
            let some: Vec<UniversalId> = self.stale.iter().take(REPAIRS_AT_ONCE).cloned().collect();
            self.rebuild(some).await;
        }
    }

    /// Begins to have the store forget all, or looks how far that is.
    async fn forget_all(&mut self) {
        match self.forgetting.take() {
            Some(work) if !work.is_finished() => self.forgetting = Some(work),
            Some(work) => match work
                .await
                .expect("it is never aborted, and engines report what fails")
            {
                Ok(()) => {
                    tracing::info!("all profiles are forgotten; each is made again from events");
                    (self.lost_track, self.failures, self.closed_until) = (false, 0, None);
                    self.metrics.profiles_stale(0);
                }
                Err(error) => self.failed(&error.into()),
            },
            None if self.closed() => {}
            None => {
                let store = self.store.clone();
                self.forgetting = Some(tokio::spawn(async move { store.clear().await }));
            }
        }
    }

    /// Makes the profiles of these people from their history and puts them. Those that cannot be made or put become
    /// stale.
    async fn rebuild(&mut self, people: Vec<UniversalId>) {
        for some in people.chunks(PEOPLE_PER_QUERY) {
            if self.lost_track {
                return;
            }
            if self.closed() {
                self.remember_stale(some.iter().cloned());
                continue;
            }
            match self.profiles_by_history(some).await {
                Ok(rebuilt) => {
                    self.metrics.profiles_rebuilt(rebuilt.len());
                    self.put(rebuilt).await;
                }
                Err(error) => {
                    self.failed(&error.into());
                    self.remember_stale(some.iter().cloned());
                }
            }
        }
    }

    async fn profiles_by_history(
        &self,
        people: &[UniversalId],
    ) -> Result<Vec<(UniversalId, Profile)>, StoreError> {
        let mut events = Vec::new();
        let mut pending = vec![people];
        while let Some(some) = pending.pop() {
            let beginning = Timestamp::default();
            let found = self.history.history(some, beginning, EVENTS_PER_QUERY).await?;
            if found.len() >= EVENTS_PER_QUERY && some.len() > 1 {
                // Somebody's events may be missing.
                let (half, rest) = some.split_at(some.len() / 2);
                pending.extend([half, rest]);
            } else {
                events.extend(found);
            }
        }
        let mut profiles: HashMap<UniversalId, Profile> =
            people.iter().map(|id| (id.clone(), Profile::default())).collect();
        for StoredEvent { event, enrichment } in &events {
            if let Some(profile) = profiles.get_mut(&event.universal_id) {
                profile.apply(event, enrichment.machine);
            }
        }
        Ok(profiles.into_iter().collect())
    }

    async fn put(&mut self, profiles: Vec<(UniversalId, Profile)>) {
        if profiles.is_empty() {
            return;
        }
        let store = self.store.clone();
        let done = self.call(store.put(&profiles)).await.is_some();
        let people = profiles.into_iter().map(|(id, _)| id);
        if done {
            for id in people {
                self.stale.remove(&id);
            }
            if self.stale.is_empty() {
                self.stale_since = None;
            }
            self.metrics.profiles_stale(self.stale.len());
        } else {
            self.remember_stale(people);
        }
    }

    /// Whether an outage was met so lately that the store is not asked again yet.
    fn closed(&self) -> bool {
        self.closed_until.is_some_and(|until| Instant::now() < until)
    }

    /// The store's answer, or `None` when it fails, is late or is not asked.
    async fn call<T>(&mut self, answer: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
        if self.closed() {
            return None;
        }
        let limit = self.config.profile_timeout;
        let failure = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => {
                if self.failures > 0 {
                    tracing::info!(profiles.stale = self.stale.len(), "the profile store works again");
                }
                (self.failures, self.closed_until) = (0, None);
                return Some(answer);
            }
            Ok(Err(error)) => ProfileFailure::Store(error),
            Err(_) => ProfileFailure::TimedOut(limit),
        };
        self.failed(&failure);
        None
    }

    fn failed(&mut self, error: &ProfileFailure) {
        self.failures = self.failures.saturating_add(1);
        self.metrics.profile_failed();
        let pause = pause(&self.config, self.failures).min(LONGEST_PAUSE);
        self.closed_until = Some(Instant::now() + jittered(pause));
        if self.failures == 1 {
            tracing::warn!(%error, "profiles cannot be updated; events are stored all the same");
        }
    }

    fn remember_stale(&mut self, people: impl Iterator<Item = UniversalId>) {
        if self.lost_track {
            return;
        }
        self.stale.extend(people);
        if self.stale.is_empty() {
            return;
        }
        self.stale_since.get_or_insert_with(Instant::now);
        if self.stale.len() > MAX_STALE {
            self.lose_track();
        } else {
            self.metrics.profiles_stale(self.stale.len());
        }
    }

    fn lose_track(&mut self) {
        tracing::warn!(
            profiles.stale = self.stale.len(),
            "too many profiles lack events, or for too long; all will be forgotten when the profile store works again"
        );
        self.stale.clear();
        (self.lost_track, self.stale_since) = (true, None);
        // Stands for all.
        self.metrics.profiles_stale(MAX_STALE);
    }
}
