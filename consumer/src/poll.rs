//! Reading a batch off the bus, the same for both groups.

use std::time::Duration;

use event::{TRACE_HEADER, TraceContext};
use store::{
    StoreError,
    bus::{Bus, EVENTS_TOPIC, Progress, Record, Subscription},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::{
    ConsumerConfig, Metrics,
    error::{Disposition, Interrupted},
    retry::Attempts,
};

/// Silence on the bus that ends a batch: what comes together has come by then, and a lone event need not wait for more. Twice
/// as long as brokers let records gather.
const SILENCE: Duration = Duration::from_millis(200);

/// Bytes of records with which a batch ends, however few they are. Of usual events, of 1 kB, the most that a batch may have
/// come to less even then; of the largest that the host lets through, some hundred times as large, four batches with all that is
/// made of them stay below half a gigabyte.
const BATCH_BYTES: usize = 32 * 1024 * 1024;

/// A member of one consumer group over the events topic.
pub(crate) struct Reader<'a> {
    subscription: Box<dyn Subscription>,
    config: &'a ConsumerConfig,
    metrics: &'a Metrics,
    shutdown: &'a CancellationToken,
    group: &'static str,
    /// Dealt with and not committed.
    due: Progress,
    /// Whether the last commit failed.
    commit_failed: bool,
}

/// Records that were read together.
pub(crate) struct ReadBatch {
    pub(crate) records: Vec<Record>,
    /// What is dealt with when they are.
    pub(crate) progress: Progress,
    /// Of the work on them.
    pub(crate) span: Span,
}

/// The trace of the delivery that a record tells of.
pub(crate) fn trace_of(record: &Record) -> Option<TraceContext> {
    record.headers.get(TRACE_HEADER)?.parse().ok()
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
                        due: Progress::default(),
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

    /// The next batch: full, or as much as came within the batch's time after its first record and before a silence. `None` when
    /// no record comes for as long as `wait`. It may not be given up half way: what it has read would be lost until the next start.
    ///
    /// # Errors
    /// [`Interrupted::Shutdown`] when shutdown came and no record is in hand.
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
        self.fill(&mut records).instrument(read).await;
        span.record("messaging.batch.message_count", records.len());
        listener::link(&span, records.iter().filter_map(trace_of));
        let mut progress = Progress::default();
        for record in &records {
            progress.note(&record.position);
        }
        Ok(Some(ReadBatch {
            records,
            progress,
            span,
        }))
    }

    /// Adds to a batch what comes within its time, until nothing does for a while.
    async fn fill(&mut self, batch: &mut Vec<Record>) {
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
                    batch.extend(records);
                }
                // What is in hand goes first; the next batch meets an error again and waits it out.
                Ok(_) | Err(_) => break,
            }
        }
    }

    /// Notes that these records are dealt with; the next commit covers them.
    pub(crate) fn dealt_with(&mut self, progress: &Progress) {
        self.due.merge(progress);
    }

    /// Commits what is dealt with, if anything is since the last commit. One that fails is made good by the next call;
    /// until then the worst is that records are read twice.
    pub(crate) async fn commit(&mut self, span: &Span) -> Result<(), Interrupted> {
        if self.due.is_empty() {
            return Ok(());
        }
        let committing = tracing::debug_span!(parent: span, "commit");
        let committed = self
            .subscription
            .commit_through(&self.due)
            .instrument(committing)
            .await;
        let Err(error) = committed else {
            self.due = Progress::default();
            self.commit_failed = false;
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
