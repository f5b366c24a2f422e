//! Keeps people apart who would all get the same minute.
//!
//! People of whom nothing is known share one curve and so one best minute: each takes one of the minutes that are worth
//! nearly as much, by a hash of their own ([`Choice::apart`]). And a provider takes only so many mails a minute: within a
//! batch a minute that is full is taken by nobody else ([`Room`]), and whoever comes later gets the best minute that is
//! free and that the guards allow ([`Choice::make_room`]).

use std::collections::{BTreeMap, HashMap};

use event::{Timestamp, UniversalId, grid::MINUTE_MS};
use serde::{Deserialize, Serialize};
use store::events::TrialGroup;
use utoipa::ToSchema;

use super::{
    Choice, DAY_MINUTES, Facts,
    experiment::{mix, quarter_of},
};
use crate::{explanation::Base64, model::Best};

/// What a person of whom nothing is known may lose to keep out of the crowd. A hundredth is far below what the
/// population's curve is sure of, and on the built-in curve it is more than half an hour of minutes.
const NEARLY_EQUAL: f64 = 0.99;

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

impl Room {
    /// Whether a mail may be handed over at moments, to a provider that takes `per_minute`.
    pub(crate) fn of(&self, esp: &str, per_minute: u32) -> impl Fn(Timestamp) -> bool {
        let provider = self.providers.get(esp);
        move |trigger_at| {
            let (day, minute) = place(trigger_at);
            match provider.and_then(|days| days.get(&day)) {
                Some(taken) => taken[minute] < per_minute,
                None => self.days < MAX_DAYS,
            }
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

/// Minutes that a decision would have preferred to its own, and that were full.
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
    /// `None` of none.
    fn of(full: Vec<Timestamp>) -> Option<Self> {
        let from = full.iter().copied().min()?;
        let mut bits = Base64::default();
        for at in full {
            let minute =
                usize::try_from(at.millis_since(from) / MINUTE_MS).expect("none is before the first");
            if bits.0.len() <= minute / 8 {
                bits.0.resize(minute / 8 + 1, 0);
            }
            bits.0[minute / 8] |= 1 << (minute % 8);
        }
        Some(Self { from, minutes: bits })
    }

    /// Whether a minute was full.
    pub(crate) fn contains(&self, at: Timestamp) -> bool {
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
    /// Infinite where there is none, and for a minute that the experiment drew, because another would spoil the draw.
    pub(crate) fn stake(&self, facts: Facts<'_>) -> f64 {
        let is_drawn = |drawn: super::Drawn| drawn.group != TrialGroup::Treated;
        if self.experiment.is_some_and(is_drawn) {
            return f64::INFINITY;
        }
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

    /// Moves to the best candidate at which the provider, which takes `per_minute`, has room for one more mail; stays where
    /// it is if there is room. Whether there is any.
    pub(crate) fn make_room(
        &mut self,
        facts: Facts<'_>,
        per_minute: u32,
        has_room: impl Fn(Timestamp) -> bool,
    ) -> bool {
        if has_room(self.trigger_at) {
            return true;
        }
        let is_free = |at| has_room(trigger(at, facts));
        let Some(best) = self.move_to_best(facts, per_minute, is_free) else {
            return false;
        };
        let heat = |at| self.factor_at(at);
        let as_good = facts.curve.at_least(&self.candidates, heat, best.score);
        self.full_minutes = FullMinutes::of(as_good.filter(|at| !is_free(*at)).collect());
        true
    }

    /// Moves to the best of the candidates that are free and tells it; `None` where there is none.
    pub(crate) fn move_to_best(
        &mut self,
        facts: Facts<'_>,
        per_minute: u32,
        is_free: impl Fn(Timestamp) -> bool,
    ) -> Option<Best> {
        let best = facts
            .curve
            .best_free(&self.candidates, |at| self.factor_at(at), is_free);
        let best = best?;
        self.moved = Some(Moved {
            from: self.arrive_at,
            value: self.value,
            per_minute,
        });
        self.arrive(best.at, facts);
        Some(best)
    }

    /// Whether it had to leave the quarter hour for which the experiment knows a probability.
    pub(crate) fn left_its_quarter(&self) -> bool {
        self.moved
            .is_some_and(|moved| quarter_of(moved.from) != quarter_of(self.arrive_at))
    }
}

fn trigger(arrival: Timestamp, facts: Facts<'_>) -> Timestamp {
    arrival.plus_millis(-facts.latency.arriving_at(arrival).as_millis())
}

/// A number that follows from a person's id, all its bits alike.
fn hash(person: &UniversalId) -> u64 {
    let digits = &person.as_str()["sf_".len()..][..16];
    mix(u64::from_str_radix(digits, 16).expect("an id is `sf_` and 32 hexadecimal digits"))
}

#[cfg(test)]
mod tests;
