//! Keeps people apart who would all get the same minute.
//!
//! People of whom nothing is known share one curve and so one best minute: each takes one of the minutes that are worth
//! nearly as much, by a hash of their own ([`Choice::apart`]). And a provider takes only so many mails a minute: within a
//! batch a minute that is full is taken by nobody else ([`Room`]), and whoever comes later chooses among the minutes that
//! are free and that the guards allow ([`Choice::placed`]).
//!
//! Who comes when and what is free is settled before the experiment draws, by what the model would choose for each: so the
//! groups make room alike, and what was drawn is compared as it was carried out.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use event::{
    Timestamp, UniversalId,
    grid::{HOUR_MS, MINUTE_MS},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Choice, DAY_MINUTES, Draw, Facts, experiment::mix};
use crate::{explanation::Base64, latency::WeekOfLatency};

/// What a person of whom nothing is known may lose to keep out of the crowd. A hundredth is far below what the
/// population's curve is sure of, and on the built-in curve it is more than half an hour of minutes.
pub(crate) const NEARLY_EQUAL: f64 = 0.99;

/// How far a full minute moves people, as far as can be known before: who loses most over this distance chooses first.
const REACH_MS: i64 = 60 * MINUTE_MS;

/// Days of minutes counted in a batch, over all its providers: two years for each of five. 5.8 kB each, 24 MB when all are
/// in use. Beyond them every minute counts as full.
const MAX_DAYS: usize = 4_096;

const DAY: usize = DAY_MINUTES as usize;

/// How many mails a provider takes in a minute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Of every provider, known or not.
    pub(crate) of_each: Option<u32>,
    /// Of some, where there is none of every provider.
    pub(crate) by_esp: BTreeMap<String, u32>,
}

impl Capacity {
    /// Whether anything is limited at all.
    pub(crate) fn is_limited(&self) -> bool {
        self.of_each.is_some() || !self.by_esp.is_empty()
    }

    /// What one provider takes; `None` for any number.
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

/// What one provider takes yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoomOf<'a> {
    days: Option<&'a HashMap<i64, Box<[u32; DAY]>>>,
    has_new_days: bool,
    per_minute: u32,
}

impl Room {
    /// What is free at a provider that takes `per_minute`.
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
    /// Whether a mail may be handed over at a moment.
    #[cfg(test)]
    pub(crate) fn is_free(&self, trigger_at: Timestamp) -> bool {
        let (day, minute) = place(trigger_at);
        match self.days.and_then(|days| days.get(&day)) {
            Some(taken) => taken[minute] < self.per_minute,
            None => self.has_new_days,
        }
    }

    /// The minutes of `candidates` for which a mail may be handed over.
    fn free(&self, candidates: &[Range<Timestamp>], latency: &WeekOfLatency) -> Vec<Range<Timestamp>> {
        let mut free: Vec<Range<Timestamp>> = Vec::with_capacity(candidates.len());
        for range in candidates {
            let mut is_open = false;
            let mut from = range.start;
            while from < range.end {
                // Delays change with the clock's hour at most, so one look-up serves all its minutes.
                let hour_ends = from.plus_millis(HOUR_MS - from.as_millis().rem_euclid(HOUR_MS));
                let to = hour_ends.min(range.end);
                if to <= from {
                    break;
                }
                let (mut day, mut minute) = place(trigger(from, latency));
                let mut taken = self.days.and_then(|days| days.get(&day));
                let mut at = from;
                while at < to {
                    let is_free = taken.map_or(self.has_new_days, |taken| taken[minute] < self.per_minute);
                    let next = at.plus_millis(MINUTE_MS);
                    match free.last_mut() {
                        Some(last) if is_free && is_open => last.end = next.min(range.end),
                        _ if is_free => free.push(at..next.min(range.end)),
                        _ => {}
                    }
                    is_open = is_free;
                    at = next;
                    minute += 1;
                    if minute == DAY {
                        (day, minute) = (day + 1, 0);
                        taken = self.days.and_then(|days| days.get(&day));
                    }
                }
                from = to;
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

/// Where a decision was before it had to make room.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moved {
    /// The minute that was full.
    pub(crate) from: Timestamp,
    /// What it was worth.
    pub(crate) value: f64,
    /// What the provider takes in a minute.
    pub(crate) per_minute: u32,
}

/// Minutes that the guards allowed and the provider had no room in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FullMinutes {
    /// The first of them.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// A bit for each minute from there on, the lowest of each byte first, set where the minute was full; base64. An eighth of
    /// a byte a minute: two weeks take 3.4 kB.
    #[schema(value_type = String)]
    minutes: Base64,
}

impl FullMinutes {
    /// The minutes of `candidates` that are not among the `free` ones, a part of them in their order; `None` of none.
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
                // At the end of representable time there is no next minute.
                if next <= at {
                    break;
                }
                at = next;
            }
        }
        full
    }

    /// The minutes of `candidates` that were not full.
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
                // At the end of representable time there is no next minute.
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
    /// The same decision for somebody of whom nothing is known: one of the minutes that are worth nearly as much as the
    /// best, each as likely as the others, and always the same for the same person.
    pub(crate) fn apart(mut self, person: &UniversalId, facts: Facts<'_>) -> Self {
        let at = {
            let weight = |at| self.factor_at(at);
            let nearly_equal = || {
                facts
                    .curve
                    .at_least(&self.candidates, weight, NEARLY_EQUAL * self.value)
            };
            let count = nearly_equal().count() as u128;
            // A fraction of the count, and not a remainder: it takes every bit of the hash.
            let drawn = (u128::from(hash(person)) * count) >> u64::BITS;
            nearly_equal().nth(drawn as usize)
        };
        if let Some(at) = at {
            self.arrive(at, facts);
        }
        self
    }

    /// What is lost if this decision has to make room: its value above that of the best minute beyond [`REACH_MS`].
    /// Infinite where there is none.
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

    /// The model's choice and the draw of the experiment, if there is one, among the minutes that are free; `None` when
    /// none is.
    pub(crate) fn placed(&self, draw: Option<&Draw>, facts: Facts<'_>, room: RoomOf<'_>) -> Option<Self> {
        let free = room.free(&self.candidates, facts.latency);
        self.placed_among(&free, draw, facts, room.per_minute)
    }

    /// The same where the `free` ones of the candidates are known, at a provider that takes `per_minute`.
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
        if choice.arrive_at != alone.arrive_at {
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

fn trigger(arrival: Timestamp, latency: &WeekOfLatency) -> Timestamp {
    arrival.plus_millis(-latency.arriving_at(arrival).as_millis())
}

/// A number that follows from a person's id, all its bits alike.
fn hash(person: &UniversalId) -> u64 {
    let digits = &person.as_str()["sf_".len()..][..16];
    mix(u64::from_str_radix(digits, 16).expect("an id is `sf_` and 32 hexadecimal digits"))
}

#[cfg(test)]
mod tests;
