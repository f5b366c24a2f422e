//! Simulated people, the mail they get and what they do with it, with a known truth.
//!
//! Two uses: realistic events for demonstrations ([`mock_events`]), and worlds in which the best minute for each person
//! is known ([`World`]), so that a timing model can be measured against it. The truth is available from the world
//! alone; nothing in an event tells it.
//!
//! The simulation is of a mailbox, not of the timing model's formulas: people look into their mailbox at hours of their
//! own, notice some of the unread mail, and mail that was noticed is mostly used up whether or not it was clicked.
//! Brands send at fixed hours, providers need time, scanners click and mailboxes prefetch.
//!
//! [`delivery`] makes webhook deliveries in the providers' own formats.

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

/// Weeks that [`mock_events`] looks back. Long enough for a person to have several mails, short enough that the events
/// are recent.
const MOCK_WEEKS: u32 = 4;

/// Events that a simulated person has in [`MOCK_WEEKS`], at least; people are added until there are enough.
const EVENTS_PER_PERSON: usize = 8;

/// Exactly `count` events of made-up people, in order of time, the last ones just before `now`: deliveries (with
/// `latency_seconds` in their metadata), human and machine opens and clicks, conversions, complaints and the rest.
///
/// The same arguments give the same events. Addresses are made up under the domains reserved for examples and appear
/// only as hashes made by `hasher`.
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
