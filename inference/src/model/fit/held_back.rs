//! Moments in people's past whose future is known: what the confidence and the presence are fitted to.
//!
//! Each person's last four weeks are held back; the curve is made from what came before a moment within them. Only people
//! without known deliveries are used: the acts of the others cluster where the sender sent, whatever the person prefers.

use event::{
    Timestamp,
    grid::DAY_MS,
    profile::{Activity, History},
};

use crate::model::{Curve, Population};

/// How long before a person's last act the held-back part begins.
const HELD_BACK_MS: i64 = 28 * DAY_MS;

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
pub(super) fn moments<'a>(population: &Population, histories: &'a [History]) -> Vec<HeldBack<'a>> {
    let stride = histories.len().div_ceil(MOST_PEOPLE).max(1);
    let people = histories.iter().enumerate().step_by(stride);
    let moments = people.filter_map(|(index, history)| {
        if !history.mails.is_empty() {
            return None;
        }
        let end = history.activities.last()?.at;
        // Anywhere in the first three of the four weeks, by the person's index: reproducible, and spread over all hours.
        let spread_ms = (index as i64).wrapping_mul(6_364_136_223) % (21 * DAY_MS);
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
