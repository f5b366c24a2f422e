//! Spreads people who would otherwise all get the same minute.
//!
//! People of whom nothing is known share one curve and therefore one best minute: each gets one of the minutes that are worth
//! nearly as much, by a hash of their id ([`Choice::apart`]). And a provider takes a limited number of mails per minute:
//! within a batch nobody else gets a full minute ([`Room`]), and later decisions choose among the minutes that are free and
//! that the guards allow ([`Choice::placed`]).
//!
//! The order of the people and the free minutes are determined before the experiment draws, by what the model would choose for
//! each: thus all groups make room by the same rule, and each draw is compared as it was carried out.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use event::{Timestamp, UniversalId, grid::MINUTE_MS};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Choice, DAY_MINUTES, Draw, Facts, first_minute_at, moment};
use crate::{draw, explanation::Base64, latency::WeekOfLatency, model::Curve};

/// Share of the best value that a person of whom nothing is known still gets after being spread. A loss of a hundredth is far
/// below the uncertainty of the population's curve, and on the built-in curve it allows more than half an hour of minutes.
pub(crate) const NEARLY_EQUAL: f64 = 0.99;

/// Estimate, made in advance, of how far a full minute moves people: the person who loses most over this distance chooses first.
const REACH_MS: i64 = 60 * MINUTE_MS;

/// Maximum number of days whose minutes are counted in a batch, over all its providers: two years for each of five. They take
/// 5.8 kB each, 24 MB if all are in use. Beyond them every minute counts as full.
const MAX_DAYS: usize = 4_096;

const DAY: usize = DAY_MINUTES as usize;

/// How many mails each provider takes per minute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Capacity of every provider, including one that the request does not name.
    pub(crate) of_each: Option<u32>,
    /// Capacity of single providers, used if `of_each` is `None`.
    pub(crate) by_esp: BTreeMap<String, u32>,
}

impl Capacity {
    /// Returns whether any provider is limited.
    pub(crate) fn is_limited(&self) -> bool {
        self.of_each.is_some() || !self.by_esp.is_empty()
    }

    /// Returns how many mails one provider takes per minute; `None` if there is no limit.
    pub(crate) fn of(&self, esp: Option<&str>) -> Option<u32> {
        self.of_each.or_else(|| self.by_esp.get(esp?).copied())
    }
}

/// Mails handed over to each provider in each minute of a batch.
#[derive(Debug, Default)]
pub(crate) struct Room {
    providers: HashMap<String, HashMap<i64, Box<[u32; DAY]>>>,
    days: usize,
}

/// What one provider still takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoomOf<'a> {
    days: Option<&'a HashMap<i64, Box<[u32; DAY]>>>,
    has_new_days: bool,
    per_minute: u32,
}

impl Room {
    /// Returns what is free at a provider that takes `per_minute`.
    pub(crate) fn of(&self, esp: &str, per_minute: u32) -> RoomOf<'_> {
        RoomOf {
            days: self.providers.get(esp),
            has_new_days: self.days < MAX_DAYS,
            per_minute,
        }
    }

    /// Counts a mail.
    pub(crate) fn take(&mut self, esp: &str, trigger_at: Timestamp) {
        let (day, minute) = place(trigger_at);
        if !self.providers.contains_key(esp) {
            self.providers.insert(esp.to_owned(), HashMap::new());
        }
        let days = self.providers.get_mut(esp).expect("it was just inserted");
        let taken = days.entry(day).or_insert_with(|| {
            self.days += 1;
            Box::new([0; DAY])
        });
        taken[minute] += 1;
    }
}

impl RoomOf<'_> {
    /// Returns whether a mail may be handed over at a moment.
    #[cfg(test)]
    pub(crate) fn is_free(&self, trigger_at: Timestamp) -> bool {
        let (day, minute) = place(trigger_at);
        match self.days.and_then(|days| days.get(&day)) {
            Some(taken) => taken[minute] < self.per_minute,
            None => self.has_new_days,
        }
    }

    /// Returns the minutes of `candidates` for which a mail may be handed over.
    fn free(&self, candidates: &[Range<Timestamp>], latency: &WeekOfLatency) -> Vec<Range<Timestamp>> {
        let mut free: Vec<Range<Timestamp>> = Vec::with_capacity(candidates.len());
        for range in candidates {
            let mut is_open = false;
            for (arrivals, expected) in latency.pieces(range.clone()) {
                let Some(expected) = expected else { continue };
                // Candidates are whole minutes, pieces are not.
                let mut at = moment(first_minute_at(arrivals.start));
                let to = moment(first_minute_at(arrivals.end)).min(range.end);
                let (mut day, mut minute) = place(at.plus_millis(-expected.as_millis()));
                let mut taken = self.days.and_then(|days| days.get(&day));
                while at < to {
                    let is_free = taken.map_or(self.has_new_days, |taken| taken[minute] < self.per_minute);
                    let next = at.plus_millis(MINUTE_MS);
                    match free.last_mut() {
                        Some(last) if is_free && is_open => last.end = next.min(range.end),
                        _ if is_free => free.push(at..next.min(range.end)),
                        _ => {}
                    }
                    is_open = is_free;
                    // There is no next minute at the end of representable time.
                    if next <= at {
                        break;
                    }
                    at = next;
                    minute += 1;
                    if minute == DAY {
                        (day, minute) = (day + 1, 0);
                        taken = self.days.and_then(|days| days.get(&day));
                    }
                }
            }
        }
        free
    }
}

fn place(moment: Timestamp) -> (i64, usize) {
    let minute = moment.as_millis().div_euclid(MINUTE_MS);
    let of_day = minute.rem_euclid(DAY_MINUTES);
    (
        minute.div_euclid(DAY_MINUTES),
        usize::try_from(of_day).expect("a remainder is not negative"),
    )
}

/// The minute that a decision had before it had to make room.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moved {
    /// The minute that the decision would have got alone.
    pub(crate) from: Timestamp,
    /// The value of that minute.
    pub(crate) value: f64,
    /// How many mails the provider takes per minute.
    pub(crate) per_minute: u32,
}

/// Minutes that the guards allowed but in which the provider had no room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FullMinutes {
    /// The first of them.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// One bit for each minute from `from` on, the lowest bit of each byte first, set if the minute was full; base64. At an
    /// eighth of a byte per minute, two weeks take 3.4 kB.
    #[schema(value_type = String)]
    minutes: Base64,
}

impl FullMinutes {
    /// Returns the minutes of `candidates` that are not in `free`, which is a subset in the same order; `None` if there are none.
    fn between(candidates: &[Range<Timestamp>], free: &[Range<Timestamp>]) -> Option<Self> {
        let mut full: Option<Self> = None;
        let mut free = free.iter().peekable();
        for range in candidates {
            let mut at = range.start;
            while at < range.end {
                while free.next_if(|free| free.end <= at).is_some() {}
                if free.peek().is_some_and(|free| free.contains(&at)) {
                    at = free.peek().map_or(range.end, |free| free.end);
                    continue;
                }
                let full = full.get_or_insert_with(|| Self {
                    from: at,
                    minutes: Base64::default(),
                });
                let minute = usize::try_from(at.millis_since(full.from) / MINUTE_MS)
                    .expect("candidates come in the order of time");
                let bits = &mut full.minutes.0;
                if bits.len() <= minute / 8 {
                    bits.resize(minute / 8 + 1, 0);
                }
                bits[minute / 8] |= 1 << (minute % 8);
                let next = at.plus_millis(MINUTE_MS);
                // There is no next minute at the end of representable time.
                if next <= at {
                    break;
                }
                at = next;
            }
        }
        full
    }

    /// Returns the minutes of `candidates` that were not full.
    pub(crate) fn leave(&self, candidates: &[Range<Timestamp>]) -> Vec<Range<Timestamp>> {
        let mut free: Vec<Range<Timestamp>> = Vec::with_capacity(candidates.len());
        for range in candidates {
            let mut is_open = false;
            let mut at = range.start;
            while at < range.end {
                let next = at.plus_millis(MINUTE_MS).min(range.end);
                let is_free = !self.contains(at);
                match free.last_mut() {
                    Some(last) if is_free && is_open => last.end = next,
                    _ if is_free => free.push(at..next),
                    _ => {}
                }
                is_open = is_free;
                // There is no next minute at the end of representable time.
                if next <= at {
                    break;
                }
                at = next;
            }
        }
        free
    }

    fn contains(&self, at: Timestamp) -> bool {
        let minute = usize::try_from(at.millis_since(self.from).div_euclid(MINUTE_MS));
        let Ok(minute) = minute else { return false };
        let byte = self.minutes.0.get(minute / 8).copied().unwrap_or(0);
        byte & 1 << (minute % 8) != 0
    }
}

impl Choice {
    /// Moves the decision of a person of whom nothing is known to one of the minutes that are worth nearly as much as the best:
    /// each is equally likely, and the same person always gets the same one.
    pub(crate) fn apart(mut self, person: &UniversalId, facts: Facts<'_>) -> Self {
        let weight = |at| self.factor_at(at);
        let at = one_of_the_best(facts.curve, &self.candidates, weight, self.value, person);
        if let Some(at) = at {
            self.arrive(at, facts);
        }
        self
    }

    /// Returns what is lost if this decision has to make room: its value minus that of the best minute beyond [`REACH_MS`].
    /// Infinite if there is no such minute.
    pub(crate) fn stake(&self, facts: Facts<'_>) -> f64 {
        let (from, to) = (
            self.arrive_at.plus_millis(-REACH_MS),
            self.arrive_at.plus_millis(REACH_MS),
        );
        let mut elsewhere = Vec::with_capacity(self.candidates.len() + 1);
        for range in &self.candidates {
            elsewhere.push(range.start..range.end.min(from));
            elsewhere.push(range.start.max(to)..range.end);
        }
        let best = facts.curve.best_weighted(&elsewhere, |at| self.factor_at(at));
        best.map_or(f64::INFINITY, |best| self.value - best.score)
    }

    /// Returns the model's choice, and the experiment's draw if there is one, among the free minutes; `None` if no minute is
    /// free.
    pub(crate) fn placed(&self, draw: Option<&Draw>, facts: Facts<'_>, room: RoomOf<'_>) -> Option<Self> {
        let free = room.free(&self.candidates, facts.latency);
        self.placed_among(&free, draw, facts, room.per_minute)
    }

    /// Does the same as [`Choice::placed`] if the `free` candidates are known, at a provider that takes `per_minute`.
    pub(crate) fn placed_among(
        &self,
        free: &[Range<Timestamp>],
        draw: Option<&Draw>,
        facts: Facts<'_>,
        per_minute: u32,
    ) -> Option<Self> {
        let mut alone = self.clone();
        alone.draw(draw, None, facts);
        if free == self.candidates {
            return Some(alone);
        }
        let mut choice = self.clone();
        if !free.iter().any(|range| range.contains(&self.arrive_at)) {
            let best = facts.curve.best_weighted(free, |at| self.factor_at(at))?;
            choice.arrive(best.at, facts);
        }
        choice.draw(draw, Some(free), facts);
        // Among fewer minutes exploration may draw another one although the first is free: it did not have to move.
        if !free.iter().any(|range| range.contains(&alone.arrive_at)) {
            choice.moved = Some(Moved {
                from: alone.arrive_at,
                value: alone.value,
                per_minute,
            });
        }
        choice.full_minutes = FullMinutes::between(&self.candidates, free);
        Some(choice)
    }
}

/// Returns the minute for a person of whom nothing is known: one of the minutes of `candidates` whose weighted score is nearly
/// `best`, by a hash of the person's id. The weight is as for [`Curve::best_weighted`].
pub fn one_of_the_best(
    curve: &Curve,
    candidates: &[Range<Timestamp>],
    weight: impl Fn(Timestamp) -> f64 + Copy,
    best: f64,
    person: &UniversalId,
) -> Option<Timestamp> {
    let nearly_equal = || curve.at_least(candidates, weight, NEARLY_EQUAL * best);
    let drawn = draw::fraction(draw::of_person(person), nearly_equal().count() as u64);
    nearly_equal().nth(drawn as usize)
}

#[cfg(test)]
mod tests;
