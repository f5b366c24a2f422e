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
    /// Whether the latest failure was one of writing, so that only a write can tell that the store works again.
    cannot_write: bool,
    /// The latest failure, in words.
    trouble: String,
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
            cannot_write: false,
            trouble: String::new(),
            closed_until: None,
        }
    }

    /// Returns the existing profiles of these people. `None` if the store does not answer or is not called.
    pub(super) async fn get(&mut self, people: &[UniversalId]) -> Option<HashMap<UniversalId, Profile>> {
        if people.is_empty() {
            return Some(HashMap::new());
        }
        let store = self.store.clone();
        let found = self.read(store.get(people)).await?;
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
        self.read(store.look(people)).await
    }

    /// Writes updated profiles; `None` if some may not have been written.
    pub(super) async fn update(&mut self, updates: &[Update]) -> Option<()> {
        let store = self.store.clone();
        self.write(store.update(updates)).await
    }

    /// Writes profiles that were built from events; `None` if some may not have been written.
    pub(super) async fn put(&mut self, profiles: &[(UniversalId, Profile)]) -> Option<()> {
        let store = self.store.clone();
        self.write(store.put(profiles)).await
    }

    /// Returns whether the store answers.
    pub(super) async fn answers(&mut self) -> bool {
        let store = self.store.clone();
        self.read(store.ping()).await.is_some()
    }

    /// Returns the store itself, for work that is done in the background or cannot fail.
    pub(super) fn inner(&self) -> Arc<dyn Profiles> {
        self.store.clone()
    }

    /// Checks whether an outage was met so recently that the store is not called again yet.
    pub(super) fn is_closed(&self) -> bool {
        self.closed_until.is_some_and(|until| Instant::now() < until)
    }

    /// Returns the answer to a read, or `None` if it fails, times out or is not called. That reads work tells nothing about
    /// writes.
    async fn read<T>(&mut self, answer: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
        match self.call(answer).await? {
            Ok(answer) => {
                if !self.cannot_write {
                    self.succeeded();
                }
                Some(answer)
            }
            Err(failure) => {
                self.note(&failure);
                None
            }
        }
    }

    /// Returns the answer to a write, or `None` if it fails, times out or is not called.
    async fn write(&mut self, answer: impl Future<Output = Result<(), StoreError>>) -> Option<()> {
        match self.call(answer).await? {
            Ok(()) => {
                self.succeeded();
                Some(())
            }
            Err(failure) => {
                self.failed(&failure);
                None
            }
        }
    }

    /// Returns the store's answer or what is wrong, or `None` if it is not called.
    async fn call<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Option<Result<T, ProfileFailure>> {
        if self.is_closed() {
            return None;
        }
        let limit = self.config.profile_timeout;
        Some(match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map_err(ProfileFailure::Store),
            Err(_) => Err(ProfileFailure::TimedOut(limit)),
        })
    }

    /// Notes that profiles are written.
    pub(super) fn succeeded(&mut self) {
        if self.failures > 0 {
            tracing::info!("the profile store works again");
        }
        (self.failures, self.cannot_write, self.closed_until) = (0, false, None);
        self.trouble.clear();
    }

    /// Notes that profiles could not be written, also because the event store that they are rebuilt from failed: the store is not
    /// called for a while.
    pub(super) fn failed(&mut self, error: &ProfileFailure) {
        self.cannot_write = true;
        self.note(error);
    }

    fn note(&mut self, error: &ProfileFailure) {
        self.failures = self.failures.saturating_add(1);
        self.metrics.profile_failed();
        let pause = pause(&self.config, self.failures).min(LONGEST_PAUSE);
        self.closed_until = Some(Instant::now() + jittered(pause));
        let told = error.to_string();
        if self.trouble != told {
            tracing::warn!(%error, "profiles cannot be read or updated; events are still stored");
            self.trouble = told;
        }
    }
}
