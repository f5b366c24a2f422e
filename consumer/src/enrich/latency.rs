//! How long a message took from sending to delivery.
//!
//! The sending time comes from the sent event of the same message: one seen recently, otherwise the stored one. If the
//! delivered event's metadata contains `latency_seconds`, the stored one is not looked up. A sent event that arrives after
//! its delivered event is only used if both are in the same batch.

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

    /// Remembers the sent events of `batch`, then returns the delivered messages whose sending is not remembered and whose
    /// events do not report the delay themselves.
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

    /// Returns the delay of a delivered event in milliseconds; `None` for other events and if no believable delay is known.
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

/// Returns the delay in the event's metadata, if it is believable.
fn told(event: &Event) -> Option<i64> {
    let seconds: f64 = event.metadata.get(METADATA_KEY)?.trim().parse().ok()?;
    // A value out of range saturates in the cast, and is then not believed.
    let told = seconds.is_finite().then(|| (seconds * 1_000.0).round() as i64);
    told.filter(|latency_ms| is_believable(*latency_ms))
}
