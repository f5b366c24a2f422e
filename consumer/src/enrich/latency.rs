//! How long a message took from sending to delivery.
//!
//! The time of sending comes from the sent event of the same message: one seen lately, else the stored one. Where the
//! delivered event's metadata says `latency_seconds`, the stored one is not asked for. A sent event that arrives after its
//! delivered one is only used when both are in the same batch.

use std::collections::HashMap;

use event::{
    Event, EventType, Timestamp, UniversalId,
    latency::{METADATA_KEY, is_believable},
};

use super::Fingerprints;
use crate::recent::Recent;

/// Person and message id.
pub(crate) type MessageRef = (UniversalId, String);

/// Remembers when messages were sent.
#[derive(Debug)]
pub(super) struct Latencies {
    fingerprints: Fingerprints,
    sent: Recent<u64, Timestamp>,
}

impl Latencies {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            fingerprints: Fingerprints::default(),
            sent: Recent::new(capacity),
        }
    }

    /// Takes in the sent events of `batch`, then lists the delivered messages whose sending is not remembered and that do
    /// not tell their delay themselves.
    pub(super) fn learn_and_list_unknown(&mut self, batch: &[Event]) -> Vec<MessageRef> {
        for event in batch {
            if let (EventType::Sent, Some(key)) = (event.event_type, self.key(event)) {
                let first = self.sent.entry(key, || event.timestamp);
                *first = event.timestamp.min(*first);
            }
        }
        let mut unknown = Vec::new();
        for event in batch {
            if let (EventType::Delivered, Some(message_id)) = (event.event_type, &event.message_id)
                && self.key(event).is_some_and(|key| self.sent.get(&key).is_none())
                && told(event).is_none()
            {
                unknown.push((event.universal_id.clone(), message_id.clone()));
            }
        }
        unknown
    }

    /// The delay of a delivered event in milliseconds; `None` for other events and where no believable one is known.
    pub(super) fn of(&self, event: &Event, sent_times: &HashMap<MessageRef, Timestamp>) -> Option<i64> {
        if event.event_type != EventType::Delivered {
            return None;
        }
        let remembered = self.key(event).and_then(|key| self.sent.get(&key).copied());
        let stored = || {
            let message_id = event.message_id.clone()?;
            sent_times.get(&(event.universal_id.clone(), message_id)).copied()
        };
        let measured = remembered
            .or_else(stored)
            .map(|sent_at| event.timestamp.millis_since(sent_at));
        measured
            .filter(|latency_ms| is_believable(*latency_ms))
            .or_else(|| told(event))
    }

    fn key(&self, event: &Event) -> Option<u64> {
        let message_id = event.message_id.as_deref()?;
        Some(self.fingerprints.of((event.universal_id.as_str(), message_id)))
    }
}

/// What the metadata say, where it is believable.
fn told(event: &Event) -> Option<i64> {
    let seconds: f64 = event.metadata.get(METADATA_KEY)?.trim().parse().ok()?;
    // A cast of what is not a number or out of range saturates, and is then not believed.
    let told = seconds.is_finite().then(|| (seconds * 1_000.0).round() as i64);
    told.filter(|latency_ms| is_believable(*latency_ms))
}
