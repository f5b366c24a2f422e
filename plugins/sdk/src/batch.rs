//! Collects events so that one bad element never affects the others.

use crate::json::{self, Value};
use crate::text::present;
use crate::{Batch, Event, EventType, Outcome, Rejected, Rejection, Skipped};

/// Why an element yields no event.
#[derive(Clone, Debug, PartialEq)]
pub enum Unused {
    /// The element was understood but is not used.
    Skipped {
        /// The provider's name for this type of element.
        provider_type: String,
        /// The reason, in one sentence.
        reason: String,
    },
    /// The element should have yielded an event but could not be read.
    Rejected {
        /// The reason, in one sentence, without personal data.
        reason: String,
    },
}

/// The result of reading one element of a delivery.
pub type Element = Result<Event, Unused>;

/// Skips an element that was understood but yields no event; `provider_type` is the provider's name for its
/// type. Without a name nothing was understood: [`Batch::add`] rejects the element.
pub fn skip(provider_type: impl Into<String>, reason: impl Into<String>) -> Unused {
    Unused::Skipped {
        provider_type: provider_type.into(),
        reason: reason.into(),
    }
}

/// Rejects an element that should have yielded an event but could not be read. The reason must not contain
/// personal data.
pub fn reject(reason: impl Into<String>) -> Unused {
    Unused::Rejected {
        reason: reason.into(),
    }
}

/// The reason for rejecting an event that names no recipient.
const NO_RECIPIENT: &str = "the event names no recipient";

/// The reason for rejecting an element that is to be skipped, but has no type.
const NO_TYPE: &str = "the element has no type";

/// The largest number of elements of a delivery: the host's limit on events, unless the operator changes it. Providers send a few
/// thousand at most. More would end the call, and the provider would be told to send it again.
const MOST_ELEMENTS: usize = 50_000;

/// The size of a small element of a batch: in the providers' own samples an event has 250 to 1,000 bytes.
const SMALL_ELEMENT_BYTES: usize = 256;

impl Event {
    /// Creates an event that has only a type and a time; set the other fields with struct update syntax:
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
    /// Creates an empty batch.
    pub fn new() -> Batch {
        Batch {
            events: Vec::new(),
            skipped: Vec::new(),
            rejected: Vec::new(),
        }
    }

    /// Adds the result of the element at `index`, which yields one event. For a delivery about several recipients,
    /// use [`Batch::of_recipients`].
    ///
    /// An event that names no recipient, neither by address nor by another identifier, is rejected: a message
    /// id alone says nothing about a person. Where a provider names only the message on purpose, put the event
    /// into `events` yourself.
    ///
    /// An element that is skipped without a type is rejected: if the provider renames the field, its events are kept and can be
    /// replayed. An element that rightly has none needs a name of your own, such as "test".
    pub fn add(&mut self, index: usize, element: Element) {
        // Bodies have far fewer than 4 Gi elements; a guest could not even hold that many.
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        match element {
            Ok(event) if names_nobody(&event) => {
                let reason = NO_RECIPIENT.to_owned();
                self.rejected.push(Rejected { index, reason });
            }
            Ok(mut event) => {
                event.index = index;
                self.events.push(event);
            }
            Err(Unused::Skipped { provider_type, .. }) if present(&provider_type).is_none() => {
                let reason = NO_TYPE.to_owned();
                self.rejected.push(Rejected { index, reason });
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

    /// Creates the batch of a delivery that is one report about several recipients, from one event for each, or why
    /// it yields none. The recipients count as its elements: each event's index is its place in the list, so that
    /// when the delivery is replayed, only the recipients that were rejected yield their events.
    ///
    /// If no event names its recipient, the report is rejected as a whole, as one element, and so is an empty list:
    /// the recipients may be under a name that the plugin does not know. Left out, the delivery would be answered
    /// with a 200, and the events in it lost.
    pub fn of_recipients(events: Result<Vec<Event>, Unused>) -> Batch {
        let mut batch = Batch::new();
        match events {
            Ok(events) if events.iter().all(names_nobody) => batch.add(0, Err(reject(NO_RECIPIENT))),
            Ok(events) => {
                for (index, event) in events.into_iter().enumerate() {
                    batch.add(index, Ok(event));
                }
            }
            Err(unused) => batch.add(0, Err(unused)),
        }
        batch
    }
}

fn names_nobody(event: &Event) -> bool {
    event.recipient_email.is_none() && event.identifiers.is_empty()
}

fn too_many_elements() -> Rejection {
    Rejection::Malformed(format!("there are more than {MOST_ELEMENTS} elements"))
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Outcome {
    /// Reads the elements of a body that is a JSON array with `read`. Elements are parsed one at a time into
    /// the same memory. Returns [`Rejection::Malformed`] if the body is not a JSON array, or one of more than
    /// 50,000 elements.
    pub fn of_array(body: &[u8], mut read: impl FnMut(Value<'_>) -> Element) -> Result<Outcome, Rejection> {
        let mut batch = Batch::new();
        // Growing a list of large records copies them again and again, whereas reserved memory that is never
        // touched costs nothing.
        batch.events.reserve(body.len() / SMALL_ELEMENT_BYTES);
        let mut count = 0;
        json::for_each_element(body, |index, value| {
            count = index + 1;
            if count <= MOST_ELEMENTS {
                batch.add(index, read(value));
            }
        })?;
        if count > MOST_ELEMENTS {
            return Err(too_many_elements());
        }
        Ok(Outcome::Events(batch))
    }

    /// Creates the outcome of several elements, in order. Returns [`Rejection::Malformed`] if there are more than
    /// 50,000.
    pub fn of_elements(elements: impl Iterator<Item = Element>) -> Result<Outcome, Rejection> {
        let mut batch = Batch::new();
        for (index, element) in elements.enumerate() {
            if index == MOST_ELEMENTS {
                return Err(too_many_elements());
            }
            batch.add(index, element);
        }
        Ok(Outcome::Events(batch))
    }

    /// Creates the outcome of a delivery that consists of one element.
    pub fn of_one(element: Element) -> Outcome {
        let mut batch = Batch::new();
        batch.add(0, element);
        Outcome::Events(batch)
    }

    /// Creates the outcome of a handshake that needs only a 2xx response: no events, nothing skipped.
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

    fn batch(body: &[u8]) -> Result<Batch, Rejection> {
        match Outcome::of_array(body, read)? {
            Outcome::Events(batch) => Ok(batch),
            other => panic!("expected events, got {other:?}"),
        }
    }

    #[test]
    fn every_element_keeps_its_index() {
        let body = br#"[{"event":"bad"},{"event":"open","email":"a@b.c"},{"event":"x"},{"event":"open","message":"m"},{"event":"y"}]"#;
        let batch = batch(body).unwrap();
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
    fn an_element_without_a_type_is_rejected() {
        let batch = batch(br#"[{},{"event":null},{"event":" "},7,{"kind":"open"},{"event":"x"}]"#).unwrap();
        let rejected = batch
            .rejected
            .iter()
            .map(|rejected| (rejected.index, &*rejected.reason));
        assert!(rejected.eq((0..5).map(|index| (index, NO_TYPE))));
        assert_eq!((batch.skipped.len(), batch.skipped[0].index), (1, 5));
        let report = Batch::of_recipients(Err(skip(" ", "not used")));
        assert_eq!((report.skipped.len(), report.rejected.len()), (0, 1));
    }

    #[test]
    fn recipients_are_the_elements_of_their_report() {
        let of = |emails: &[Option<&str>]| {
            let event = |email: &Option<&str>| Event {
                recipient_email: email.map(str::to_owned),
                ..Event::new(EventType::Unsubscribed, 1)
            };
            let batch = Batch::of_recipients(Ok(emails.iter().map(event).collect()));
            let indexes: Vec<u32> = batch.events.iter().map(|event| event.index).collect();
            let rejected: Vec<u32> = batch.rejected.iter().map(|rejected| rejected.index).collect();
            (indexes, rejected)
        };
        assert_eq!(of(&[Some("a@b.c"), Some("d@e.f")]), (vec![0, 1], vec![]));
        assert_eq!(of(&[None, Some("d@e.f"), None]), (vec![1], vec![0, 2]));
        // A report that yields nothing counts once.
        assert_eq!(of(&[None, None]), (vec![], vec![0]));
        assert_eq!(of(&[]), (vec![], vec![0]));
        let skipped = Batch::of_recipients(Err(skip("x", "not used"))).skipped;
        assert_eq!(skipped.len(), 1);
    }

    #[test]
    fn more_elements_than_a_host_takes_are_malformed() {
        let zeros = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        let refuse = |_: Value<'_>| -> Element { Err(reject("a number")) };
        assert!(Outcome::of_array(zeros(MOST_ELEMENTS).as_bytes(), refuse).is_ok());
        assert_eq!(
            Outcome::of_array(zeros(MOST_ELEMENTS + 1).as_bytes(), refuse),
            Err(too_many_elements())
        );
        let elements = |count| std::iter::repeat_n(Err(reject("a number")), count);
        assert!(Outcome::of_elements(elements(MOST_ELEMENTS)).is_ok());
        assert_eq!(
            Outcome::of_elements(elements(MOST_ELEMENTS + 1)),
            Err(too_many_elements())
        );
    }

    #[test]
    fn a_body_that_is_no_array_is_malformed() {
        for body in [&b"{}"[..], b"", b"[1", b"[1] x", b"nope"] {
            assert!(
                matches!(Outcome::of_array(body, read), Err(Rejection::Malformed(_))),
                "{body:?}"
            );
        }
        assert_eq!(Outcome::of_array(b" [ ] ", read), Ok(Outcome::nothing()));
    }
}
