//! Collecting events, so that one bad element never harms the rest.

use crate::json::{self, Value};
use crate::{Batch, Event, EventType, Outcome, Rejected, Rejection, Skipped};

/// Why an element gives no event.
#[derive(Clone, Debug, PartialEq)]
pub enum Unused {
    /// Understood, of no use.
    Skipped {
        /// The provider's name for it.
        provider_type: String,
        /// Why, one sentence.
        reason: String,
    },
    /// Should have given an event and could not be read. Without personal data.
    Rejected {
        /// Why, one sentence.
        reason: String,
    },
}

/// What one element of a delivery gives.
pub type Element = Result<Event, Unused>;

/// An element that was understood and gives no event; `provider_type` is the provider's name for it.
pub fn skip(provider_type: impl Into<String>, reason: impl Into<String>) -> Unused {
    Unused::Skipped {
        provider_type: provider_type.into(),
        reason: reason.into(),
    }
}

/// An element that should have given an event and could not be read. The reason holds no personal data.
pub fn reject(reason: impl Into<String>) -> Unused {
    Unused::Rejected {
        reason: reason.into(),
    }
}

/// Why an event that names no recipient is rejected.
const NO_RECIPIENT: &str = "the event names no recipient";

/// Size of a small element of a batch: the providers' own samples have 250 to 1,000 bytes an event.
const SMALL_ELEMENT_BYTES: usize = 256;

impl Event {
    /// An event with nothing but type and time; the rest is written by struct update:
    /// `Event { message_id: …, ..Event::new(kind, time_ms) }`. The batch sets the index.
    pub fn new(event_type: EventType, timestamp_ms: i64) -> Event {
        Event {
            index: 0,
            event_type,
            timestamp_ms,
            provider_event_id: None,
            recipient_email: None,
            identifiers: Vec::new(),
            campaign_id: None,
            campaign_name: None,
            message_id: None,
            subject: None,
            click_url: None,
            user_agent: None,
            ip_address: None,
            bounce_type: None,
            reason: None,
            tags: Vec::new(),
            metadata: Vec::new(),
            is_machine: None,
            sent_at_ms: None,
        }
    }
}

impl Batch {
    /// A batch of nothing.
    pub fn new() -> Batch {
        Batch {
            events: Vec::new(),
            skipped: Vec::new(),
            rejected: Vec::new(),
        }
    }

    /// Adds what the element at `index` gave; an element may be added several times when it fans out.
    ///
    /// An event that names no recipient, neither by address nor by another identifier, is rejected: the host
    /// would refuse it, a message id tells it nothing about a person.
    pub fn add(&mut self, index: usize, element: Element) {
        // Bodies are far below 4 Gi elements; a guest could not even hold them.
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        match element {
            Ok(event) if event.recipient_email.is_none() && event.identifiers.is_empty() => {
                let reason = NO_RECIPIENT.to_owned();
                self.rejected.push(Rejected { index, reason });
            }
            Ok(mut event) => {
                event.index = index;
                self.events.push(event);
            }
            Err(Unused::Skipped {
                provider_type,
                reason,
            }) => {
                self.skipped.push(Skipped {
                    index,
                    provider_type,
                    reason,
                });
            }
            Err(Unused::Rejected { reason }) => self.rejected.push(Rejected { index, reason }),
        }
    }

    /// The batch of a body that is a JSON array, each element read by `read`. Elements are parsed one at a
    /// time into the same memory. Malformed when the body is no JSON or no array.
    pub fn of_array(body: &[u8], mut read: impl FnMut(Value<'_>) -> Element) -> Result<Batch, Rejection> {
        let mut batch = Batch::new();
        // Growing a list of large records copies them again and again; memory that stays untouched costs
        // nothing.
        batch.events.reserve(body.len() / SMALL_ELEMENT_BYTES);
        json::for_each_element(body, |index, value| batch.add(index, read(value)))?;
        Ok(batch)
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Outcome {
    /// The outcome of a body that is a JSON array, each element read by `read`.
    pub fn of_array(body: &[u8], read: impl FnMut(Value<'_>) -> Element) -> Result<Outcome, Rejection> {
        Ok(Outcome::Events(Batch::of_array(body, read)?))
    }

    /// The outcome of several elements, in order.
    pub fn of_elements(elements: impl Iterator<Item = Element>) -> Outcome {
        let mut batch = Batch::new();
        for (index, element) in elements.enumerate() {
            batch.add(index, element);
        }
        Outcome::Events(batch)
    }

    /// The outcome of a delivery that is one element.
    pub fn of_one(element: Element) -> Outcome {
        let mut batch = Batch::new();
        batch.add(0, element);
        Outcome::Events(batch)
    }

    /// The outcome of a handshake that asks for nothing but a 2xx: no events, nothing skipped.
    pub fn nothing() -> Outcome {
        Outcome::Events(Batch::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value<'_>) -> Element {
        match value.str("event").as_ref() {
            "open" => Ok(Event {
                recipient_email: value.text("email"),
                message_id: value.text("message"),
                ..Event::new(EventType::Opened, 1)
            }),
            "bad" => Err(reject("no time")),
            other => Err(skip(other, "not used")),
        }
    }

    #[test]
    fn every_element_keeps_its_index() {
        let body = br#"[{"event":"bad"},{"event":"open","email":"a@b.c"},{"event":"x"},{"event":"open","message":"m"},7]"#;
        let batch = Batch::of_array(body, read).unwrap();
        assert_eq!(
            batch.events.iter().map(|event| event.index).collect::<Vec<_>>(),
            [1]
        );
        assert_eq!(
            batch
                .skipped
                .iter()
                .map(|skipped| skipped.index)
                .collect::<Vec<_>>(),
            [2, 4]
        );
        assert_eq!(
            batch
                .rejected
                .iter()
                .map(|rejected| rejected.index)
                .collect::<Vec<_>>(),
            [0, 3]
        );
        assert_eq!(batch.rejected[1].reason, NO_RECIPIENT);
    }

    #[test]
    fn a_body_that_is_no_array_is_malformed() {
        for body in [&b"{}"[..], b"", b"[1", b"[1] x", b"nope"] {
            assert!(
                matches!(Batch::of_array(body, read), Err(Rejection::Malformed(_))),
                "{body:?}"
            );
        }
        assert_eq!(Batch::of_array(b" [ ] ", read), Ok(Batch::new()));
    }
}
