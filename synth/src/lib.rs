//! Simulated people, the mail they get and what they do with it, with a known ground truth.
//!
//! It has two uses: realistic events for demonstrations ([`mock_events`]), and worlds in which the best minute for each
//! person is known ([`World`]), so that a timing model can be measured against it. The truth is only available from the
//! world; nothing in an event reveals it.
//!
//! It simulates a mailbox, not the timing model's formulas: people look into their mailbox at their own hours and notice
//! some of the unread mail, and mail that was noticed mostly gets no second chance, whether or not it was clicked.
//! Brands send at fixed hours, providers need time, scanners click and mailboxes prefetch.
//!
//! [`delivery`] generates webhook deliveries in the providers' own formats.

mod delays;
pub mod delivery;
mod mail;
mod person;
mod random;
mod world;

use event::{Event, Hasher, Timestamp};

pub use delays::{Delay, delays};
pub use person::Persona;
pub use world::{Simulated, Truth, World};

/// Number of weeks that [`mock_events`] covers. Long enough for a person to have several mails, short enough that the
/// events are recent.
const MOCK_WEEKS: u32 = 4;

/// Minimum number of events that a simulated person is expected to have in [`MOCK_WEEKS`]; people are added until there are
/// enough events.
const EVENTS_PER_PERSON: usize = 8;

/// Returns exactly `count` events of synthetic people, in order of time, the last ones just before `now`: deliveries (with
/// `latency_seconds` in their metadata), human and machine opens and clicks, conversions, complaints and the rest.
///
/// The same arguments give the same events. Addresses are invented under the domains reserved for examples and only appear
/// as hashes computed by `hasher`.
pub fn mock_events(count: usize, seed: u64, now: Timestamp, hasher: &Hasher) -> Vec<Event> {
    let mut people = count / EVENTS_PER_PERSON + 2;
    loop {
        let world = World::new(seed, people, now)
            .weeks(MOCK_WEEKS)
            .mails_per_week(2.0);
        let mut events: Vec<Event> = (0..people)
            .flat_map(|person| world.events(person, hasher))
            .map(|simulated| simulated.event)
            .collect();
        if events.len() >= count {
            events.sort_by(|a, b| (a.timestamp, &a.event_id).cmp(&(b.timestamp, &b.event_id)));
            return events.split_off(events.len() - count);
        }
        people *= 2;
    }
}

#[cfg(test)]
mod tests;
