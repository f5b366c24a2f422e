//! The second stage: looks up what is known about the people and messages of a batch, and enriches its events.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use event::{Event, EventType, Timestamp, TraceContext, UniversalId, profile::Profile};
use store::events::StoredEvent;
use tokio::sync::mpsc;
use tracing::Instrument;

use super::{Context, Decoded, Prepared, profile_store::ProfileStore};
use crate::{
    ConsumerError,
    enrich::{Enricher, MessageRef},
    error::Interrupted,
    poll::trace_of,
    recent::Recent,
};

pub(super) async fn run(
    context: Context,
    mut batches: mpsc::Receiver<Decoded>,
    next: mpsc::Sender<Prepared>,
) -> Result<(), ConsumerError> {
    let mut stage = PrepareStage {
        enricher: Enricher::new(&context.config),
        profiles: ProfileStore::new(&context.config, &context.dependencies),
        // Everybody who may have events in flight.
        people: Recent::new(context.config.entries()),
        fingerprints: RandomState::new(),
        context: &context,
    };
    let preparing = async {
        while let Some(batch) = batches.recv().await {
            let span = tracing::debug_span!(parent: &batch.ticket.span, "enrich");
            let prepared = stage.prepare(batch).instrument(span).await?;
            if next.send(prepared).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    Interrupted::outcome(preparing.await)
}

struct PrepareStage<'a> {
    context: &'a Context,
    enricher: Enricher,
    profiles: ProfileStore,
    /// Fingerprints of the people of the last batches. A new person whose fingerprint collides with a known one is not taken for
    /// a stranger, which only costs a read of the history.
    people: Recent<u64, ()>,
    fingerprints: RandomState,
}

impl PrepareStage<'_> {
    async fn prepare(&mut self, batch: Decoded) -> Result<Prepared, Interrupted> {
        let Decoded {
            ticket,
            records,
            events,
            letters,
        } = batch;
        let (known, strangers) = self.look_up(&events).await;
        let mut wanted = self.enricher.wanted_sent_times(&events);
        wanted.retain(|(person, _)| !strangers.contains(person));
        let sent_times = self.sent_times(wanted).await?;
        let findings = self.enricher.enrich(&events, &sent_times, &known);
        let metrics = &self.context.dependencies.metrics;
        let mut rows = Vec::with_capacity(events.len());
        for ((event, mut enrichment), record) in events.into_iter().zip(findings).zip(&records) {
            if matches!(event.event_type, EventType::Opened | EventType::Clicked) {
                metrics.judged(event.event_type, enrichment.machine);
            }
            enrichment.trace_id = trace_of(record).map(TraceContext::trace_id);
            rows.push(StoredEvent { event, enrichment });
        }
        Ok(Prepared {
            ticket,
            records,
            rows,
            letters,
            strangers,
        })
    }

    /// Returns the profiles of the people in a batch whose deliveries are not remembered, and the strangers in it: people with
    /// no profile, no stored event and no event in flight, so that this batch contains all their events. If a store does not
    /// answer, nobody is taken for a stranger.
    async fn look_up(&mut self, batch: &[Event]) -> (HashMap<UniversalId, Profile>, HashSet<UniversalId>) {
        let mut wanted: HashSet<UniversalId> = self.enricher.wanted_profiles(batch);
        let mut new = Vec::new();
        for event in batch {
            let fingerprint = self.fingerprints.hash_one(&event.universal_id);
            if self.people.get(&fingerprint).is_none() {
                new.push(event.universal_id.clone());
            }
            // People who are not new are inserted too, so that they stay for as long as they have events in flight.
            self.people.insert(fingerprint, ());
        }
        wanted.extend(new.iter().cloned());
        let wanted: Vec<UniversalId> = wanted.into_iter().collect();
        let Some(known) = self.profiles.get(&wanted).await else {
            return Default::default();
        };
        let unknown: Vec<UniversalId> = new.into_iter().filter(|id| !known.contains_key(id)).collect();
        (known, self.strangers(unknown).await)
    }

    async fn strangers(&self, people: Vec<UniversalId>) -> HashSet<UniversalId> {
        if people.is_empty() {
            return HashSet::new();
        }
        match self.context.dependencies.events.known(&people).await {
            Ok(known) => people
                .into_iter()
                .zip(known)
                .filter_map(|(id, known)| (!known).then_some(id))
                .collect(),
            Err(error) => {
                // The write meets the outage too, and reports it.
                tracing::debug!(%error, "cannot tell which people are new; profiles are rebuilt from history");
                HashSet::new()
            }
        }
    }

    /// Returns when messages were sent, as far as the event store knows.
    async fn sent_times(
        &self,
        wanted: Vec<MessageRef>,
    ) -> Result<HashMap<MessageRef, Timestamp>, Interrupted> {
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let mut attempts = self.context.attempts("sent_times");
        loop {
            match self.context.dependencies.events.sent_times(&wanted).await {
                Ok(times) => {
                    attempts.succeeded();
                    let known = wanted.into_iter().zip(times);
                    return Ok(known
                        .filter_map(|(message, time)| Some((message, time?)))
                        .collect());
                }
                Err(error) => {
                    if let Some(refusal) = attempts.failed(error).await? {
                        tracing::warn!(error = %refusal, "the event store rejected the query for when messages were sent");
                        return Ok(HashMap::new());
                    }
                }
            }
        }
    }
}
