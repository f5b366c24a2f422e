//! Tells readers while profiles lack events. They may reach a profile store that this process cannot reach, so they are told
//! through the event store, and read people's events instead.

use std::{sync::Arc, time::Duration};

use store::events::Events;
use tokio::time::Instant;

/// How long profiles may lack events before readers are told, who then read the events of everybody: as long as an event may take
/// to be seen in any case. What a single failed call leaves is repaired within this time.
const DOUBT_AFTER: Duration = Duration::from_secs(2);

/// Time between two notes that the doubt lasts: a row each.
const TELL_EVERY: Duration = Duration::from_secs(15);

/// Silence after which a consumer that doubted counts as gone: it has failed to speak three times.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// Time between two looks for consumers that are gone. Until one is seen, readers only take longer.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Time between two attempts while the event store fails, as it may do in the same outage.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What this process has told readers.
pub(super) struct Doubts {
    events: Arc<dyn Events>,
    /// The name of this process, which nobody else has.
    consumer: String,
    /// Since when profiles lack events.
    since: Option<Instant>,
    /// Whether readers may believe no profile because of this process. An attempt to tell them may succeed without a response.
    may_be_told: bool,
    /// When they were told last, if they were.
    told_at: Option<Instant>,
    /// When telling them failed, if it has not succeeded since.
    failed_at: Option<Instant>,
    looked_at: Option<Instant>,
}

impl Doubts {
    pub(super) fn new(events: Arc<dyn Events>) -> Self {
        Self {
            events,
            consumer: format!("{:032x}", rand::random::<u128>()),
            since: None,
            may_be_told: false,
            told_at: None,
            failed_at: None,
            looked_at: None,
        }
    }

    /// Lets readers know whether profiles lack events, as far as they do not know it.
    pub(super) async fn tell(&mut self, are_lacking: bool) {
        if self.failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            return;
        }
        let told = if are_lacking {
            let since = *self.since.get_or_insert_with(Instant::now);
            let is_known = self.told_at.is_some_and(|at| at.elapsed() < TELL_EVERY);
            if is_known || since.elapsed() < DOUBT_AFTER {
                return;
            }
            self.may_be_told = true;
            self.events.doubt_profiles(&self.consumer).await
        } else {
            self.since = None;
            if !self.may_be_told {
                return;
            }
            self.events.trust_profiles(&self.consumer).await
        };
        match told {
            Ok(()) if are_lacking => {
                if self.told_at.is_none() {
                    tracing::warn!(
                        "profiles lack events: decisions read people's events until they are repaired"
                    );
                }
                (self.told_at, self.failed_at) = (Some(Instant::now()), None);
            }
            Ok(()) => {
                tracing::info!("profiles have all events again");
                (self.may_be_told, self.told_at, self.failed_at) = (false, None, None);
            }
            Err(error) => {
                if self.failed_at.is_none() {
                    tracing::warn!(%error, "decisions cannot be told whether profiles lack events");
                }
                self.failed_at = Some(Instant::now());
            }
        }
    }

    /// Checks whether readers know that profiles lack events.
    pub(super) fn are_told(&self) -> bool {
        self.told_at.is_some()
    }

    /// Returns the consumers that doubted profiles and are gone, at every so many calls. To be called while profiles lack nothing: a
    /// doubt of this process that is there all the same is withdrawn by the next [`tell`](Self::tell).
    pub(super) async fn gone(&mut self) -> Vec<String> {
        if self.looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return Vec::new();
        }
        self.looked_at = Some(Instant::now());
        match self.events.profile_doubts().await {
            Ok(doubts) => {
                // A server may carry out a request after a later one, if nobody waited for its answer any more.
                self.may_be_told |= doubts.iter().any(|doubt| doubt.consumer == self.consumer);
                doubts
                    .into_iter()
                    .filter(|doubt| doubt.told_before > GONE_AFTER && doubt.consumer != self.consumer)
                    .map(|doubt| doubt.consumer)
                    .collect()
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read which consumers doubt profiles");
                Vec::new()
            }
        }
    }

    /// Withdraws the doubts of these consumers. Those that cannot be withdrawn are found again.
    pub(super) async fn withdraw(&self, gone: Vec<String>) {
        for consumer in gone {
            if let Err(error) = self.events.trust_profiles(&consumer).await {
                tracing::debug!(%error, "cannot withdraw the doubt of a consumer that is gone");
            }
        }
    }
}
