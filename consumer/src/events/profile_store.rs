//! The profile store as the stages use it: a cache that may be down, and must not hold up events.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use event::{UniversalId, profile::Profile};
use store::{
    StoreError,
    profiles::{Profiles, Seen, Update},
};
use tokio::time::Instant;

use crate::{
    ConsumerConfig, Dependencies, Metrics,
    retry::{jittered, pause},
};

/// Longest pause between two attempts in an outage, however long the configured pauses are for other stores. Until the stale
/// profiles are rebuilt, a store that was only unreachable from here serves outdated ones to readers.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Calls the store while it answers, and stops calling it for a while when it does not.
pub(super) struct ProfileStore {
    store: Arc<dyn Profiles>,
    metrics: Metrics,
    config: ConsumerConfig,
    failures: u32,
    /// During an outage: when to try again. Until then the store is not called, so that its time-outs do not slow
    /// events down.
    closed_until: Option<Instant>,
}

/// Why profiles could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileFailure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl ProfileStore {
    pub(super) fn new(config: &ConsumerConfig, dependencies: &Dependencies) -> Self {
        Self {
            store: dependencies.profiles.clone(),
            metrics: dependencies.metrics.clone(),
            config: config.clone(),
            failures: 0,
            closed_until: None,
        }
    }

    /// Returns the existing profiles of these people. `None` if the store does not answer or is not called.
    pub(super) async fn get(&mut self, people: &[UniversalId]) -> Option<HashMap<UniversalId, Profile>> {
        if people.is_empty() {
            return Some(HashMap::new());
        }
        let store = self.store.clone();
        let found = self.call(store.get(people)).await?;
        let found = people.iter().zip(found);
        Some(
            found
                .filter_map(|(id, profile)| Some((id.clone(), profile?)))
                .collect(),
        )
    }

    /// Returns the existing profiles of these people, to be updated. `None` if the store does not answer or is not called.
    pub(super) async fn look(&mut self, people: &[UniversalId]) -> Option<Vec<Option<(Profile, Seen)>>> {
        if people.is_empty() {
            return Some(Vec::new());
        }
        let store = self.store.clone();
        self.call(store.look(people)).await
    }

    /// Writes updated profiles; `None` if some may not have been written.
    pub(super) async fn update(&mut self, updates: &[Update]) -> Option<()> {
        let store = self.store.clone();
        self.call(store.update(updates)).await
    }

    /// Writes profiles that were built from events; `None` if some may not have been written.
    pub(super) async fn put(&mut self, profiles: &[(UniversalId, Profile)]) -> Option<()> {
        let store = self.store.clone();
        self.call(store.put(profiles)).await
    }

    /// Returns whether the store takes writes.
    pub(super) async fn answers(&mut self) -> bool {
        let store = self.store.clone();
        self.call(store.ping()).await.is_some()
    }

    /// Returns the store itself, for work in the background.
    pub(super) fn inner(&self) -> Arc<dyn Profiles> {
        self.store.clone()
    }

    /// Checks whether an outage was met so recently that the store is not called again yet.
    pub(super) fn is_closed(&self) -> bool {
        self.closed_until.is_some_and(|until| Instant::now() < until)
    }

    /// Returns the store's answer, or `None` if it fails, times out or is not called.
    async fn call<T>(&mut self, answer: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
        if self.is_closed() {
            return None;
        }
        let limit = self.config.profile_timeout;
        let failure = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => {
                self.succeeded();
                return Some(answer);
            }
            Ok(Err(error)) => ProfileFailure::Store(error),
            Err(_) => ProfileFailure::TimedOut(limit),
        };
        self.failed(&failure);
        None
    }

    /// Notes a successful call.
    pub(super) fn succeeded(&mut self) {
        if self.failures > 0 {
            tracing::info!("the profile store works again");
        }
        (self.failures, self.closed_until) = (0, None);
    }

    /// Notes a failure, also one of the event store that profiles are rebuilt from: the store is not called for a while.
    pub(super) fn failed(&mut self, error: &ProfileFailure) {
        self.failures = self.failures.saturating_add(1);
        self.metrics.profile_failed();
        let pause = pause(&self.config, self.failures).min(LONGEST_PAUSE);
        self.closed_until = Some(Instant::now() + jittered(pause));
        if self.failures == 1 {
            tracing::warn!(%error, "profiles cannot be read or updated; events are still stored");
        }
    }
}
