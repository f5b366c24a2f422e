//! What the consumer finds out about events: whether a machine caused them, and how long the mail took.

mod agent;
mod latency;
mod machine;

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash, RandomState},
};

use event::{Event, Timestamp, UniversalId, profile::Profile};
use store::events::Enrichment;

use crate::ConsumerConfig;

pub(crate) use latency::MessageRef;

/// Fingerprints that serve as the keys of the memories: 8 bytes, however long an agent or message id is. With 100,000
/// entries, two collide once in 4 billion fillings; a verdict may then be wrong.
#[derive(Debug, Default)]
struct Fingerprints(RandomState);

impl Fingerprints {
    fn of(&self, what: impl Hash) -> u64 {
        self.0.hash_one(what)
    }
}

/// Enriches one batch after the other, with a bounded memory of past batches. The same sequence of batches gives the same
/// findings.
#[derive(Debug)]
pub(crate) struct Enricher {
    judge: machine::Judge,
    latency: latency::Latencies,
}

impl Enricher {
    pub(crate) fn new(config: &ConsumerConfig) -> Self {
        Self {
            judge: machine::Judge::new(config),
            latency: latency::Latencies::new(config.entries()),
        }
    }

    /// Returns the messages delivered in `batch` whose sending time must be looked up.
    pub(crate) fn wanted_sent_times(&mut self, batch: &[Event]) -> Vec<MessageRef> {
        self.latency.learn_and_list_unknown(batch)
    }

    /// Returns the people in `batch` who opened or clicked mail whose delivery is not in memory, but may be in their profiles.
    pub(crate) fn wanted_profiles(&self, batch: &[Event]) -> HashSet<UniversalId> {
        self.judge.unknown_deliveries(batch)
    }

    /// Returns the findings on each event of `batch`. Must be called once for each batch.
    pub(crate) fn enrich(
        &mut self,
        batch: &[Event],
        sent_times: &HashMap<MessageRef, Timestamp>,
        profiles: &HashMap<UniversalId, Profile>,
    ) -> Vec<Enrichment> {
        let verdicts = self.judge.judge(batch, profiles);
        let findings = batch.iter().zip(verdicts).map(|(event, verdict)| Enrichment {
            machine: verdict.machine,
            machine_reasons: verdict.reasons,
            delivery_latency_ms: self.latency.of(event, sent_times),
            ..Enrichment::default()
        });
        findings.collect()
    }
}

/// Tells machines from people in a log of past events, as the consumer does in the stream.
///
/// A batch is judged without looking at any later event, and the memory of the past is bounded.
#[derive(Debug)]
pub struct MachineFilter {
    judge: machine::Judge,
    no_profiles: HashMap<UniversalId, Profile>,
}

impl MachineFilter {
    /// Creates a filter that has seen nothing yet.
    pub fn new(config: &ConsumerConfig) -> Self {
        Self {
            judge: machine::Judge::new(config),
            no_profiles: HashMap::new(),
        }
    }

    /// Returns for each event of `batch` whether a machine caused it. Batches must come in order of time; events within
    /// seconds of each other belong into one batch, so that a scanner's first click is judged together with its next.
    pub fn judge(&mut self, batch: &[Event]) -> Vec<bool> {
        let verdicts = self.judge.judge(batch, &self.no_profiles);
        verdicts.into_iter().map(|verdict| verdict.machine).collect()
    }
}
