//! What the consumer finds out about events: who made them, and how long the mail took.

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

/// Fingerprints of what the memories are keyed by: 8 bytes, however long an agent or message id is. Two of a
/// 100,000 collide once in 4 billion fillings, and then a verdict may be wrong.
#[derive(Debug, Default)]
struct Fingerprints(RandomState);

impl Fingerprints {
    fn of(&self, what: impl Hash) -> u64 {
        self.0.hash_one(what)
    }
}

/// Enriches batch after batch, with a bounded memory of the past ones. The same sequence of batches gives the same
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
            latency: latency::Latencies::new(config.memory_entries),
        }
    }

    /// Messages delivered in `batch` whose time of sending must be asked for.
    pub(crate) fn wanted_sent_times(&mut self, batch: &[Event]) -> Vec<MessageRef> {
        self.latency.learn_and_list_unknown(batch)
    }

    /// People in `batch` whose profiles may know when the mail was delivered that they opened or clicked, where the memory
    /// does not.
    pub(crate) fn wanted_profiles(&self, batch: &[Event]) -> HashSet<UniversalId> {
        self.judge.unknown_deliveries(batch)
    }

    /// The findings on each event of `batch`. To be called once for each batch.
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

/// Tells machines from people in a log of the past, as the consumer does in the stream.
///
/// Nothing later than a batch is looked at when it is judged, and the memory of the past is bounded.
#[derive(Debug)]
pub struct MachineFilter {
    judge: machine::Judge,
    no_profiles: HashMap<UniversalId, Profile>,
}

impl MachineFilter {
    /// A filter that has seen nothing yet.
    pub fn new(config: &ConsumerConfig) -> Self {
        Self {
            judge: machine::Judge::new(config),
            no_profiles: HashMap::new(),
        }
    }

    /// For each event of `batch` whether a machine made it. Batches come in the order of time; what happened within
    /// seconds belongs into one, so that a scanner's first click is judged together with its next.
    pub fn judge(&mut self, batch: &[Event]) -> Vec<bool> {
        let verdicts = self.judge.judge(batch, &self.no_profiles);
        verdicts.into_iter().map(|verdict| verdict.machine).collect()
    }
}
