//! The first group: enriches events, stores them, keeps profiles current.

mod profiles;
mod write;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Instant, SystemTime},
};

use event::{Event, EventType, Timestamp, TraceContext};
use store::{bus::Record, events::StoredEvent};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    ConsumerConfig, ConsumerError, Dependencies, EVENTS_GROUP,
    dead_letter::{Cause, DeadLetter},
    decode::decode,
    enrich::{Enricher, MessageRef},
    error::Interrupted,
    poll::{Reader, set_aside, trace_of},
    recent::Recent,
    retry::Attempts,
};
use profiles::ProfileKeeper;

/// Runs the group until `shutdown`.
pub(crate) async fn run(
    config: Arc<ConsumerConfig>,
    dependencies: Dependencies,
    shutdown: CancellationToken,
) -> Result<(), ConsumerError> {
    let mut pipeline = Pipeline {
        enricher: Enricher::new(&config),
        profiles: ProfileKeeper::new(&config, &dependencies),
        stored: Recent::new(config.memory_entries),
        config: &config,
        dependencies: &dependencies,
        shutdown: &shutdown,
    };
    match pipeline.consume().await {
        Ok(never) => match never {},
        Err(Interrupted::Shutdown) => Ok(()),
        Err(Interrupted::Fatal(error)) => Err(error),
    }
}

/// An event of the batch in hand and the record it came in.
struct Incoming {
    record: Record,
    event: Event,
}

struct Pipeline<'a> {
    config: &'a ConsumerConfig,
    dependencies: &'a Dependencies,
    shutdown: &'a CancellationToken,
    enricher: Enricher,
    profiles: ProfileKeeper,
    /// Ids of events stored lately. Providers repeat deliveries within minutes: those repeats end here.
    stored: Recent<u128, ()>,
}

impl Pipeline<'_> {
    async fn consume(&mut self) -> Result<std::convert::Infallible, Interrupted> {
        let Dependencies { bus, metrics, .. } = self.dependencies;
        let mut reader =
            Reader::join(bus.as_ref(), EVENTS_GROUP, self.config, metrics, self.shutdown).await?;
        loop {
            let records = reader.next_batch().await?;
            if !records.is_empty() {
                self.process(records).instrument(reader.span()).await?;
            }
            self.profiles.repair().await;
            // What is committed is stored and felt in profiles; a successor need not look at it again.
            if self.profiles.are_settled() {
                reader.commit().await?;
            }
        }
    }

    /// Stores a batch and applies it to profiles.
    async fn process(&mut self, records: Vec<Record>) -> Result<(), Interrupted> {
        let Dependencies { bus, metrics, .. } = self.dependencies;
        let started = Instant::now();
        let oldest = records.iter().map(|record| record.appended_at).min();
        let size = records.len();
        let (incoming, mut letters) = self.decode(records);
        let stored = self.store(incoming, &mut letters).await?;
        let attempts = self.attempts("set_aside");
        set_aside(bus.as_ref(), letters, metrics, attempts).await?;
        for event in &stored {
            if let Some(id) = numeric_id(event) {
                self.stored.insert(id, ());
            }
        }
        metrics.batch(size, started.elapsed());
        if let Some(oldest) = oldest {
            metrics.visible_after(Timestamp::from(SystemTime::now()).millis_since(oldest));
        }
        Ok(())
    }

    /// Reads the records; drops events that stand twice in the batch or were stored lately.
    fn decode(&self, records: Vec<Record>) -> (Vec<Incoming>, Vec<DeadLetter>) {
        let (mut incoming, mut letters) = (Vec::with_capacity(records.len()), Vec::new());
        let mut in_batch = HashSet::with_capacity(records.len());
        let mut repeats = 0;
        for record in records {
            match decode(&record) {
                Ok(event) => {
                    let stored_lately = numeric_id(&event).is_some_and(|id| self.stored.get(&id).is_some());
                    if stored_lately || !in_batch.insert(event.event_id.clone()) {
                        repeats += 1;
                    } else {
                        incoming.push(Incoming { record, event });
                    }
                }
                Err(letter) => letters.push(letter),
            }
        }
        self.dependencies.metrics.stored(0, repeats);
        (incoming, letters)
    }

    /// Enriches and stores events, then applies them to profiles. Answers with what was stored; what never can be is
    /// added to `letters`.
    async fn store(
        &mut self,
        incoming: Vec<Incoming>,
        letters: &mut Vec<DeadLetter>,
    ) -> Result<Vec<Event>, Interrupted> {
        if incoming.is_empty() {
            return Ok(Vec::new());
        }
        let (records, batch): (Vec<Record>, Vec<Event>) = incoming
            .into_iter()
            .map(|Incoming { record, event }| (record, event))
            .unzip();
        let enriching = async {
            let known = self.profiles.load(&batch).await;
            let wanted = self.enricher.wanted_sent_times(&batch);
            let sent_times = self.sent_times(wanted).await?;
            let findings = self.enricher.enrich(&batch, &sent_times, &known);
            Ok::<_, Interrupted>((known, findings))
        };
        let (known, findings) = enriching.instrument(tracing::debug_span!("enrich")).await?;
        let Dependencies { events, metrics, .. } = self.dependencies;
        let mut rows = Vec::with_capacity(batch.len());
        for ((event, mut enrichment), record) in batch.into_iter().zip(findings).zip(&records) {
            if matches!(event.event_type, EventType::Opened | EventType::Clicked) {
                metrics.judged(event.event_type, enrichment.machine);
            }
            enrichment.trace_id = trace_of(record).map(TraceContext::trace_id);
            rows.push(StoredEvent { event, enrichment });
        }
        let attempts = self.attempts("write");
        let written = write::write(events.as_ref(), &rows, attempts)
            .instrument(tracing::debug_span!("write", rows = rows.len()))
            .await?;
        metrics.stored(written.report.inserted, written.report.duplicates);
        for (index, message) in &written.refused {
            letters.push(DeadLetter::new(
                &records[*index],
                Cause::StoreRejected,
                message.clone(),
            ));
        }
        // From the last to the first, so that the places of those before stay what they are.
        for (index, _) in written.refused.iter().rev() {
            rows.remove(*index);
        }
        // Only after the write: whoever rebuilds a profile from history from here on sees these events.
        self.profiles
            .apply(&rows, known, written.report.duplicates > 0)
            .instrument(tracing::debug_span!("profiles"))
            .await;
        Ok(rows.into_iter().map(|row| row.event).collect())
    }

    /// When messages were sent, as far as the event store knows.
    async fn sent_times(
        &self,
        wanted: Vec<MessageRef>,
    ) -> Result<HashMap<MessageRef, Timestamp>, Interrupted> {
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let mut attempts = self.attempts("sent_times");
        loop {
            match self.dependencies.events.sent_times(&wanted).await {
                Ok(times) => {
                    attempts.succeeded();
                    let known = wanted.into_iter().zip(times);
                    return Ok(known
                        .filter_map(|(message, time)| Some((message, time?)))
                        .collect());
                }
                Err(error) => {
                    if let Some(refusal) = attempts.failed(error).await? {
                        tracing::warn!(error = %refusal, "the event store refuses to tell when messages were sent");
                        return Ok(HashMap::new());
                    }
                }
            }
        }
    }

    fn attempts(&self, operation: &'static str) -> Attempts<'_> {
        Attempts::new(
            self.config,
            &self.dependencies.metrics,
            self.shutdown,
            EVENTS_GROUP,
            operation,
        )
    }
}

/// The event's id as a number: 16 bytes to remember instead of 32 and a heap block. Ids that are no number of 128 bits
/// are not remembered; the event store knows them.
fn numeric_id(event: &Event) -> Option<u128> {
    let id = &event.event_id;
    if id.len() == 32 {
        u128::from_str_radix(id, 16).ok()
    } else {
        None
    }
}
