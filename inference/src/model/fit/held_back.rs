//! Moments in people's past whose future is known: what the confidence and the presence are fitted to.
//!
//! Each person's last four weeks are held back; the curve is made from what came before a moment within them. Only people
//! without known deliveries are used: the acts of the others cluster where the sender sent, whatever the person prefers.

use event::{
    Timestamp,
    grid::DAY_MS,
    profile::{Activity, History},
};

use super::{Person, halvings, is_left};

use crate::{
    draw,
    model::{Curve, Population},
};

/// How long before a person's last act the held-back part begins.
const HELD_BACK_MS: i64 = 28 * DAY_MS;

/// Within how much of the held-back part the moment lies: a week of it is left to look at.
const SPREAD_MS: i64 = 21 * DAY_MS;

/// More people than this change the fitted values in the third digit only.
const MOST_PEOPLE: usize = 4_000;

/// A moment in a person's past.
pub(super) struct HeldBack<'a> {
    /// The moment.
    pub(super) cut: Timestamp,
    /// The person's curve, made from what happened up to then.
    pub(super) curve: Curve,
    /// The person's last act up to then.
    pub(super) last: Option<Timestamp>,
    /// What the person did afterwards, in chronological order.
    pub(super) future: &'a [Activity],
}

/// Returns a moment of every person who is used.
pub(super) fn moments<'a>(population: &Population, people: &'a [Person]) -> Vec<HeldBack<'a>> {
    let halvings = halvings(people, MOST_PEOPLE);
    let people = people.iter().filter(|person| is_left(person.draw, halvings));
    let moments = people.filter_map(|Person { draw, history }| {
        if !history.mails.is_empty() {
            return None;
        }
        let end = history.activities.last()?.at;
        // Anywhere in the first three of the four weeks, as drawn for the person: reproducible, and spread over all hours. Mixed
        // again, because whether a person is used depends on the number as well.
        let spread_ms = draw::fraction(draw::mix(*draw), SPREAD_MS as u64) as i64;
        let cut = end.plus_millis(-HELD_BACK_MS + spread_ms);
        let split = history.activities.partition_point(|activity| activity.at <= cut);
        let (past, future) = history.activities.split_at(split);
        let known = History {
            activities: past.to_vec(),
            ..History::default()
        };
        Some(HeldBack {
            cut,
            curve: population.curve_of(&known, cut),
            last: past.last().map(|activity| activity.at),
            future,
        })
    });
    moments.collect()
}
