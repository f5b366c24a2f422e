//! Reading batches from the bus, in the same way for both groups.

use std::time::Duration;

use event::{TRACE_HEADER, TraceContext};
use store::bus::{Bus, EVENTS_TOPIC, Progress, Record, Subscription};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::{ConsumerConfig, Metrics, error::Interrupted, retry::Attempts};

/// A batch ends after the bus has been silent for this long: events that come together have arrived by then, and a lone event
/// need not wait for more. Twice as long as brokers let records gather.
const SILENCE: Duration = Duration::from_millis(200);

/// A batch ends when its records have this many bytes, however few records there are. Usual events have 1 kB, so that a batch of
/// the default number of them stays below this; the largest events that the host lets through are some hundred times as large,
/// and four batches of these, with everything derived from them, stay below half a gigabyte.
const BATCH_BYTES: usize = 32 * 1024 * 1024;

/// A member of one consumer group over the events topic.
pub(crate) struct Reader<'a> {
    subscription: Box<dyn Subscription>,
    config: &'a ConsumerConfig,
    metrics: &'a Metrics,
    shutdown: &'a CancellationToken,
    group: &'static str,
    /// Processed and not committed yet.
    due: Progress,
}

/// Records that were read together.
pub(crate) struct ReadBatch {
    pub(crate) records: Vec<Record>,
    /// The progress to commit once they are processed.
    pub(crate) progress: Progress,
    /// How often partitions had been lost when the first of them were read. Partitions that are lost while more records come
    /// count as lost after the batch, which may contain their records.
    pub(crate) losses: u64,
    /// The span of processing them.
    pub(crate) span: Span,
}

/// Returns the trace context of the delivery that a record comes from.
pub(crate) fn trace_of(record: &Record) -> Option<TraceContext> {
    record.headers.get(TRACE_HEADER)?.parse().ok()
}

/// Marks records as processed that one poll has returned.
fn note(progress: &mut Progress, records: &[Record], losses: u64) {
    for record in records {
        progress.note(&record.position, losses);
    }
}

impl<'a> Reader<'a> {
    /// Joins the group; waits while the bus is unavailable.
    pub(crate) async fn join(
        bus: &dyn Bus,
        group: &'static str,
        config: &'a ConsumerConfig,
        metrics: &'a Metrics,
        shutdown: &'a CancellationToken,
    ) -> Result<Self, Interrupted> {
        let mut attempts = Attempts::new(config, metrics, shutdown, group, "subscribe");
        loop {
            let subscribed = shutdown.run_until_cancelled(bus.subscribe(group, &[EVENTS_TOPIC]));
            match subscribed.await.ok_or(Interrupted::Shutdown)? {
                Ok(subscription) => {
                    attempts.succeeded();
                    return Ok(Self {
                        subscription,
                        config,
                        metrics,
                        shutdown,
                        group,
                        due: Progress::default(),
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

    /// Returns the next batch: a full one, or the records that came within the configured time after the first and before a
    /// silence. `None` if no record comes within `wait`. Not cancel safe: the records read so far would be lost until the next
    /// start.
    ///
    /// # Errors
    /// [`Interrupted::Shutdown`] if a shutdown was requested before any record was read.
    pub(crate) async fn next_batch(&mut self, wait: Duration) -> Result<Option<ReadBatch>, Interrupted> {
        let mut attempts = Attempts::new(self.config, self.metrics, self.shutdown, self.group, "poll");
        let mut records: Vec<Record> = loop {
            if self.shutdown.is_cancelled() {
                return Err(Interrupted::Shutdown);
            }
            match self.subscription.poll(self.config.batch_events, wait).await {
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
        if records.is_empty() {
            return Ok(None);
        }
        let span = tracing::debug_span!(
            "batch",
            otel.name = "process email-events",
            otel.kind = "consumer",
            messaging.operation.r#type = "process",
            messaging.destination.name = EVENTS_TOPIC,
            messaging.consumer.group.name = self.group,
            messaging.batch.message_count = tracing::field::Empty,
        );
        let read = tracing::debug_span!(parent: &span, "read");
        let losses = self.losses();
        let mut progress = Progress::default();
        note(&mut progress, &records, losses);
        self.fill(&mut records, &mut progress).instrument(read).await;
        span.record("messaging.batch.message_count", records.len());
        listener::link(&span, records.iter().filter_map(trace_of));
        Ok(Some(ReadBatch {
            records,
            progress,
            losses,
            span,
        }))
    }

    /// Adds the records that come within the batch's time, until a silence.
    async fn fill(&mut self, batch: &mut Vec<Record>, progress: &mut Progress) {
        let deadline = Instant::now() + self.config.batch_wait;
        let bytes = |records: &[Record]| records.iter().map(|record| record.value.len()).sum::<usize>();
        let mut taken = bytes(batch);
        while batch.len() < self.config.batch_events && taken < BATCH_BYTES && !self.shutdown.is_cancelled() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self
                .subscription
                .poll(self.config.batch_events - batch.len(), left.min(SILENCE))
                .await
            {
                Ok(records) if !records.is_empty() => {
                    taken += bytes(&records);
                    note(progress, &records, self.losses());
                    batch.extend(records);
                }
                // The records read so far are processed first; the next batch meets the error again and waits for its end.
                Ok(_) | Err(_) => break,
            }
        }
    }

    /// Returns how often partitions have been lost to other members.
    pub(crate) fn losses(&self) -> u64 {
        self.subscription.losses()
    }

    /// Notes that these records are processed; the next commit covers them.
    pub(crate) fn dealt_with(&mut self, progress: &Progress) {
        self.due.merge(progress);
    }

    /// Commits what was processed since the last commit, if anything. The next call makes up for a commit that failed;
    /// until then the worst that can happen is that records are read twice. Whatever the error is, it does not end the group:
    /// records were read, so the configuration has worked.
    pub(crate) async fn commit(&mut self, span: &Span) {
        if self.due.is_empty() {
            return;
        }
        let committing = tracing::debug_span!(parent: span, "commit");
        let committed = self
            .subscription
            .commit_through(&self.due)
            .instrument(committing)
            .await;
        let health = self.metrics.health();
        let Err(error) = committed else {
            self.due = Progress::default();
            health.succeeded((self.group, "commit"));
            return;
        };
        self.metrics.retried(self.group, "commit");
        if health.failed((self.group, "commit"), &error.to_string()) {
            tracing::warn!(
                consumer.group = self.group,
                %error,
                "{} could not commit; records may be read again", self.group
            );
        }
    }
}
