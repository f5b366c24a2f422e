//! The profile store as a stage sees it: a cache that may be away, and may not hold up events.

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

/// Longest pause between two attempts in an outage, however patient the configuration is with other stores. Until the
/// stale profiles are rebuilt, a store that was merely out of reach tells readers old ones.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Asks the store while it answers, and lets it be for a while when it does not.
pub(super) struct ProfileStore {
    store: Arc<dyn Profiles>,
    metrics: Metrics,
    config: ConsumerConfig,
    failures: u32,
    /// While an outage lasts: when to try again. Until then the store is not asked, so that its time-outs do not slow
    /// events down.
    closed_until: Option<Instant>,
}

/// Why profiles could not be read or put.
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

    /// The profiles of these people that are there. `None` when the store does not answer or is not asked.
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

    /// What there is of these people, to be updated. `None` when the store does not answer or is not asked.
    pub(super) async fn look(&mut self, people: &[UniversalId]) -> Option<Vec<Option<(Profile, Seen)>>> {
        if people.is_empty() {
            return Some(Vec::new());
        }
        let store = self.store.clone();
        self.call(store.look(people)).await
    }

    /// Puts updated profiles; `None` when some may not have been.
    pub(super) async fn update(&mut self, updates: &[Update]) -> Option<()> {
        let store = self.store.clone();
        self.call(store.update(updates)).await
    }

    /// Puts profiles that were made from events; `None` when some may not have been.
    pub(super) async fn put(&mut self, profiles: &[(UniversalId, Profile)]) -> Option<()> {
        let store = self.store.clone();
        self.call(store.put(profiles)).await
    }

    /// The store itself, for work that is not waited for.
    pub(super) fn inner(&self) -> Arc<dyn Profiles> {
        self.store.clone()
    }

    /// Whether an outage was met so lately that the store is not asked again yet.
    pub(super) fn is_closed(&self) -> bool {
        self.closed_until.is_some_and(|until| Instant::now() < until)
    }

    /// The store's answer, or `None` when it fails, is late or is not asked.
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

    /// After an answer.
    pub(super) fn succeeded(&mut self) {
        if self.failures > 0 {
            tracing::info!("the profile store works again");
        }
        (self.failures, self.closed_until) = (0, None);
    }

    /// After a failure, also of what profiles are made from: nothing is asked for a while.
    pub(super) fn failed(&mut self, error: &ProfileFailure) {
        self.failures = self.failures.saturating_add(1);
        self.metrics.profile_failed();
        let pause = pause(&self.config, self.failures).min(LONGEST_PAUSE);
        self.closed_until = Some(Instant::now() + jittered(pause));
        if self.failures == 1 {
            tracing::warn!(%error, "profiles cannot be read or updated; events are stored all the same");
        }
    }
}
