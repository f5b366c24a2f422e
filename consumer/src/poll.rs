//! Reading a batch off the bus, the same for both groups.

use std::time::Duration;

use store::{
    StoreError,
    bus::{Bus, EVENTS_TOPIC, Record, Subscription},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    ConsumerConfig, Metrics,
    error::{Disposition, Interrupted},
    retry::Attempts,
};

/// Longest wait for the first record of a batch. A poll is never given up half way, because a commit covers all that
/// polls have taken; so this bounds how long an idle consumer takes to notice a shutdown.
const IDLE_WAIT: Duration = Duration::from_millis(500);

/// A member of one consumer group over the events topic.
pub(crate) struct Reader<'a> {
    subscription: Box<dyn Subscription>,
    config: &'a ConsumerConfig,
    metrics: &'a Metrics,
    shutdown: &'a CancellationToken,
    group: &'static str,
    /// Whether anything was read since the last commit.
    uncommitted: bool,
    /// Whether the last commit failed.
    commit_failed: bool,
}

impl<'a> Reader<'a> {
    /// Joins the group, waiting for the bus where it is out of reach.
    pub(crate) async fn join(
        bus: &dyn Bus,
        group: &'static str,
        config: &'a ConsumerConfig,
        metrics: &'a Metrics,
        shutdown: &'a CancellationToken,
    ) -> Result<Self, Interrupted> {
        let mut attempts = Attempts::new(config, metrics, shutdown, group, "subscribe");
        loop {
            match bus.subscribe(group, &[EVENTS_TOPIC]).await {
                Ok(subscription) => {
                    attempts.succeeded();
                    return Ok(Self {
                        subscription,
                        config,
                        metrics,
                        shutdown,
                        group,
                        uncommitted: false,
                        commit_failed: false,
                    });
                }
                Err(error) => {
                    if let Some(refusal) = attempts.failed(error).await? {
                        return Err(attempts.fatal(refusal));
                    }
                }
            }
        }
    }

    /// The next batch: full, or as much as came within the batch's time after its first record. Empty when nothing
    /// comes for a while.
    ///
    /// # Errors
    /// [`Interrupted::Shutdown`] when shutdown came and no record is in hand.
    pub(crate) async fn next_batch(&mut self) -> Result<Vec<Record>, Interrupted> {
        let mut attempts = Attempts::new(self.config, self.metrics, self.shutdown, self.group, "poll");
        let mut batch: Vec<Record> = loop {
            if self.shutdown.is_cancelled() {
                return Err(Interrupted::Shutdown);
            }
            match self.subscription.poll(self.config.batch_events, IDLE_WAIT).await {
                Ok(records) => {
                    attempts.succeeded();
                    break records;
                }
                Err(error) => {
                    if let Some(refusal) = attempts.failed(error).await? {
                        return Err(attempts.fatal(refusal));
                    }
                }
            }
        };
        self.uncommitted |= !batch.is_empty();
        let deadline = Instant::now() + self.config.batch_wait;
        while !batch.is_empty() && batch.len() < self.config.batch_events && !self.shutdown.is_cancelled() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self
                .subscription
                .poll(self.config.batch_events - batch.len(), left)
                .await
            {
                Ok(records) => batch.extend(records),
                // What is in hand goes first; the next batch meets the error again and waits it out.
                Err(_) => break,
            }
        }
        Ok(batch)
    }

    /// Commits what was read, if anything was since the last commit. One that fails is made good by the next call; until
    /// then the worst is that records are read twice.
    pub(crate) async fn commit(&mut self) -> Result<(), Interrupted> {
        if !self.uncommitted {
            return Ok(());
        }
        let Err(error) = self.subscription.commit().await else {
            (self.uncommitted, self.commit_failed) = (false, false);
            return Ok(());
        };
        self.metrics.retried(self.group, "commit");
        match Disposition::of(&error) {
            Disposition::Retry | Disposition::DeadLetter => {
                if !self.commit_failed {
                    tracing::warn!(
                        consumer.group = self.group,
                        %error,
                        "{} could not commit; records may be read again", self.group
                    );
                }
                self.commit_failed = true;
                Ok(())
            }
            Disposition::Fatal => {
                let attempts = Attempts::new(self.config, self.metrics, self.shutdown, self.group, "commit");
                Err(attempts.fatal(error))
            }
        }
    }
}

/// Appends dead letters, waiting out an outage of the bus. A letter that the bus itself refuses (the headers can make
/// it too large) stays where it is on the events topic, and the log names its place.
pub(crate) async fn set_aside(
    bus: &dyn Bus,
    letters: Vec<crate::dead_letter::DeadLetter>,
    metrics: &Metrics,
    mut attempts: Attempts<'_>,
) -> Result<(), Interrupted> {
    for letter in letters {
        let refusal: Option<StoreError> = loop {
            match bus.append(vec![letter.to_record()]).await {
                Ok(()) => break None,
                Err(error) => {
                    if let Some(refusal) = attempts.failed(error).await? {
                        break Some(refusal);
                    }
                }
            }
        };
        attempts.succeeded();
        let (source, cause, message) = (&letter.source, letter.cause.as_str(), &letter.message);
        match refusal {
            None => {
                metrics.dead_lettered(letter.cause);
                tracing::warn!(
                    dead_letter.source = source,
                    dead_letter.cause = cause,
                    "record `{source}` was set aside: {message}"
                );
            }
            Some(error) => {
                metrics.left_behind();
                tracing::error!(
                    dead_letter.source = source,
                    dead_letter.cause = cause,
                    %error,
                    "record `{source}` cannot be stored ({message}) nor set aside; it stays on its topic only"
                );
            }
        }
    }
    Ok(())
}
