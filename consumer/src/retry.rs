//! Waiting for an outage to end: exponential backoff with jitter and a maximum.

use std::time::Duration;

use store::StoreError;
use tokio_util::sync::CancellationToken;

use crate::{
    ConsumerConfig, ConsumerError, Metrics,
    error::{Disposition, Interrupted},
};

/// Returns the pause after the `failures`-th failure in a row, before jitter.
pub(crate) fn pause(config: &ConsumerConfig, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    config
        .retry_initial
        .saturating_mul(1 << doublings)
        .min(config.retry_max)
}

/// Returns a random duration between half of `pause` and all of it, so that many consumers do not retry at the same moment.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

/// The attempts at one operation. It logs the beginning and the end of an outage and every other error in between, not every
/// attempt.
pub(crate) struct Attempts<'a> {
    config: &'a ConsumerConfig,
    metrics: &'a Metrics,
    shutdown: &'a CancellationToken,
    group: &'static str,
    operation: &'static str,
    failures: u32,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(
        config: &'a ConsumerConfig,
        metrics: &'a Metrics,
        shutdown: &'a CancellationToken,
        group: &'static str,
        operation: &'static str,
    ) -> Self {
        Self {
            config,
            metrics,
            shutdown,
            group,
            operation,
            failures: 0,
        }
    }

    /// Handles a failure: pauses if another attempt makes sense, and returns the error if the data is the cause.
    pub(crate) async fn failed(&mut self, error: StoreError) -> Result<Option<StoreError>, Interrupted> {
        // What has worked once is waited for: somebody has changed something on the server, and ending would take down the other
        // roles of this process too.
        if Disposition::of(&error) == Disposition::Fatal && !self.has_worked() {
            return Err(self.fatal(error));
        }
        Ok(self.is_refused(&error).await?.then_some(error))
    }

    /// Handles a failure that never ends the consumer: returns whether the data is the cause, and otherwise pauses.
    pub(crate) async fn is_refused(&mut self, error: &StoreError) -> Result<bool, Interrupted> {
        if Disposition::of(error) == Disposition::DeadLetter {
            // The store works.
            self.succeeded();
            return Ok(true);
        }
        self.wait(error).await?;
        Ok(false)
    }

    fn has_worked(&self) -> bool {
        self.metrics.health().has_worked((self.group, self.operation))
    }

    /// Pauses before the next attempt, whatever the error was.
    async fn wait(&mut self, error: &StoreError) -> Result<(), Interrupted> {
        self.failures = self.failures.saturating_add(1);
        self.metrics.retried(self.group, self.operation);
        let told = error.to_string();
        if self.metrics.health().failed((self.group, self.operation), &told) {
            tracing::warn!(
                consumer.group = self.group,
                consumer.operation = self.operation,
                %error,
                "{} failed at {}, retrying until it works again", self.group, self.operation
            );
        }
        let pause = jittered(pause(self.config, self.failures));
        match self.shutdown.run_until_cancelled(tokio::time::sleep(pause)).await {
            Some(()) => Ok(()),
            None => Err(Interrupted::Shutdown),
        }
    }

    /// Returns the error that ends the consumer.
    pub(crate) fn fatal(&self, source: StoreError) -> Interrupted {
        Interrupted::Fatal(ConsumerError::Port {
            group: self.group,
            operation: self.operation,
            source,
        })
    }

    /// Notes a success.
    pub(crate) fn succeeded(&mut self) {
        self.metrics.health().succeeded((self.group, self.operation));
        if self.failures > 0 {
            tracing::info!(
                consumer.group = self.group,
                consumer.operation = self.operation,
                consumer.failed_attempts = self.failures,
                "{} works again at {}",
                self.group,
                self.operation
            );
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_ceiling() {
        let config = ConsumerConfig::default();
        let seconds: Vec<f64> = [1, 2, 3, 9, 10, 4_000_000]
            .map(|n| pause(&config, n).as_secs_f64())
            .into();
        assert_eq!(seconds, [0.1, 0.2, 0.4, 25.6, 30.0, 30.0]);
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(2));
            assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&pause));
        }
    }
}
