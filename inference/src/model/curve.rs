//! A person's week, and the best minute in it.

use std::{ops::Range, sync::Arc};

use event::{Timestamp, grid};

use super::exposure::{AGE_EDGES, AGES};
use super::presence::Presence;
use super::tables::CONFIDENCE_TERMS;
use super::week::{BINS, Week};

/// What the curve of a person rests on, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// Nothing is known: the population's curve.
    Population,
    /// One or two events: the population's curve, leaning towards people like this one.
    Sparse,
    /// Three to nine events: people like this one, and the person's own habits.
    Blended,
    /// Ten events or more: mostly the person's own habits.
    Personal,
}

impl Rung {
    /// The rung for this many events.
    pub(super) fn of(events: usize) -> Self {
        match events {
            0 => Self::Population,
            1..=2 => Self::Sparse,
            3..=9 => Self::Blended,
            10.. => Self::Personal,
        }
    }

    /// The name in answers and explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Population => "population",
            Self::Sparse => "sparse",
            Self::Blended => "blended",
            Self::Personal => "personal",
        }
    }
}

/// How much stands behind a curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// The person's human events that were used.
    pub events: usize,
    /// The same, each weighed by its age, opens below clicks.
    pub effective_events: f64,
    /// How much of the curve comes from other people, 0 to 1.
    pub prior_weight: f64,
    /// How much the person's last weeks outweigh the long memory, 0 to 1: high for people whose habits changed.
    pub recent_weight: f64,
    /// Where the curve stands between the population and the person.
    pub rung: Rung,
    /// The tables used.
    pub population_version: Arc<str>,
}

/// The chosen minute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// The moment of arrival: the start of a minute, or of a range that begins within one.
    pub at: Timestamp,
    /// Its score, weight included.
    pub score: f64,
}

/// Quarter hours in a week: the grid of the value.
const QUARTERS: usize = 4 * BINS;

const QUARTER_MINUTES: usize = 15;
const QUARTER_MS: i64 = QUARTER_MINUTES as i64 * grid::MINUTE_MS;

/// Minutes after arrival that count for its value.
const HORIZON_MINUTES: usize = 1_440;

/// Rounding may lift the spline above its highest coefficient by a part in a million.
const ROUNDING: f64 = 1e-5;

/// [`Curve::confidence`] promises an act while at least this share of the first attention is left.
const ATTENTION_LEFT: f32 = 0.5;

/// The promised time is never shorter: acts are known to half an hour, and habits to an hour or two.
const LEAST_SPAN_MINUTES: usize = 120;

/// A person's week: how likely they act at each minute, and what arriving at each minute is worth.
///
/// Small (3.4 kB) and cheap to read, so that it can be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    evidence: Evidence,
    /// Activity by hour of the week, 1 on average; the values stand at the middles of the hours.
    density: Box<Week>,
    /// Value of arriving at the start of each quarter hour, 1 on average: coefficients of a cubic spline.
    value: Box<[f32; QUARTERS]>,
    confidence: [f32; CONFIDENCE_TERMS],
    /// The time within which the confidence promises an act.
    span_minutes: usize,
    presence: Option<Presence>,
}

impl Curve {
    /// The curve over a person's week, where attention to a mail fades like `attention`, for somebody last seen as
    /// `presence` says.
    pub(super) fn new(
        week: Week,
        attention: &[f32; AGES],
        evidence: Evidence,
        confidence: [f32; CONFIDENCE_TERMS],
        presence: Option<Presence>,
    ) -> Self {
        let density = Box::new(week);
        let mut sums = Vec::with_capacity(2 * QUARTERS + 1);
        let mut sum = 0.0_f64;
        sums.push(sum);
        for quarter in 0..2 * QUARTERS {
            sum += f64::from(interpolate(&density, (quarter % QUARTERS) as f32 / 4.0 + 0.125));
            sums.push(sum);
        }
        let mut value = Box::new([0.0; QUARTERS]);
        let mut total = 0.0;
        for (quarter, slot) in value.iter_mut().enumerate() {
            let mut worth = 0.0;
            for (band, edges) in attention.iter().zip(AGE_EDGES.windows(2)) {
                if edges[0] >= HORIZON_MINUTES {
                    break;
                }
                let (from, to) = (
                    edges[0] / QUARTER_MINUTES,
                    edges[1].min(HORIZON_MINUTES) / QUARTER_MINUTES,
                );
                worth += f64::from(*band) * (sums[quarter + to] - sums[quarter + from]);
            }
            *slot = worth as f32;
            total += worth;
        }
        let mean = (total / QUARTERS as f64) as f32;
        value.iter_mut().for_each(|slot| *slot /= mean);
        Self {
            evidence,
            density,
            value,
            confidence,
            span_minutes: span_minutes(attention),
            presence,
        }
    }

    /// What the curve rests on.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// How much the person's last act raises the minutes that follow, where it does.
    pub fn presence(&self) -> Option<Presence> {
        self.presence
    }

    /// `P_base`: for each of the week's 10,080 minutes, the share of the person's activity that falls into it if mail
    /// is always at hand. Sums to 1.
    pub fn minutes(&self) -> Vec<f32> {
        (0..grid::SLOTS)
            .map(|slot| self.density_at_slot(slot) as f32)
            .collect()
    }

    /// `P_base` at the minute of `at`.
    pub fn density(&self, at: Timestamp) -> f64 {
        self.density_at_slot(grid::slot(at))
    }

    fn density_at_slot(&self, slot: usize) -> f64 {
        f64::from(interpolate(&self.density, (slot as f32 + 0.5) / 60.0)) / grid::SLOTS as f64
    }

    /// The value of arriving at each minute of the week, see [`Curve::score`].
    pub fn scores(&self) -> Vec<f32> {
        (0..grid::SLOTS).map(|slot| self.score_at_slot(slot)).collect()
    }

    /// The share of a week's activity that falls between two moments, in real time; above 1 over more than a week, 0
    /// when `to` is not after `from`.
    pub fn mass(&self, from: Timestamp, to: Timestamp) -> f64 {
        if to <= from {
            return 0.0;
        }
        let weeks = to.millis_since(from) / grid::WEEK_MS;
        let rest_ms = to.millis_since(from) % grid::WEEK_MS;
        let (first, offset_ms) = {
            let offset_ms = grid::week_offset_ms(from);
            ((offset_ms / QUARTER_MS) as usize, offset_ms % QUARTER_MS)
        };
        // Quarter hours touched by the rest, the first and the last in part.
        let (mut quarter, mut begin_ms, mut left_ms, mut mass) = (first, offset_ms, rest_ms, 0.0);
        while left_ms > 0 {
            let part_ms = (QUARTER_MS - begin_ms).min(left_ms);
            let middle = interpolate(&self.density, (quarter % QUARTERS) as f32 / 4.0 + 0.125);
            mass += f64::from(middle) * part_ms as f64;
            left_ms -= part_ms;
            begin_ms = 0;
            quarter += 1;
        }
        weeks as f64 + mass / grid::WEEK_MS as f64
    }

    /// Like [`Curve::mass`], raised by the presence.
    fn expected(&self, from: Timestamp, to: Timestamp) -> f64 {
        let mut sum = self.mass(from, to);
        if let Some(presence) = self.presence {
            let raised = from..to.min(presence.forgotten_at());
            let mut begin = raised.start;
            while begin < raised.end {
                let end = begin.plus_millis(QUARTER_MS).min(raised.end);
                let middle = begin.plus_millis(end.millis_since(begin) / 2);
                sum += (presence.factor(middle) - 1.0) * self.mass(begin, end);
                begin = end;
            }
        }
        sum
    }

    /// The value of arriving in the minute of `at`, relative to a random minute of the week (1 on average): the
    /// expected response while attention fades. This is what a decision maximizes.
    pub fn score(&self, at: Timestamp) -> f64 {
        f64::from(self.score_at_slot(grid::slot(at)))
    }

    fn score_at_slot(&self, slot: usize) -> f32 {
        spline(self.coefficients(slot / QUARTER_MINUTES), slot % QUARTER_MINUTES)
    }

    /// The four coefficients that shape the value within a quarter hour. It lies between the lowest and the highest.
    fn coefficients(&self, quarter: usize) -> [f32; 4] {
        let at = |lag: usize| self.value[(quarter + QUARTERS - 1 + lag) % QUARTERS];
        [at(0), at(1), at(2), at(3)]
    }

    /// The best minute to arrive in any of `ranges` (half-open, in real time, in any order), the score of each multiplied
    /// by the factor of [`Curve::presence`]; the earliest of equals. `None` when all are empty.
    pub fn best(&self, ranges: &[Range<Timestamp>]) -> Option<Best> {
        if let Some(presence) = self.presence {
            return self.best_weighted(ranges, |at| presence.factor(at));
        }
        let mut best: Option<Best> = None;
        for quarter in ranges.iter().flat_map(quarters) {
            let coefficients = self.coefficients(quarter.index);
            let highest = f64::from(coefficients.into_iter().fold(f32::MIN, f32::max));
            if best.is_some_and(|best| highest * (1.0 + ROUNDING) < best.score) {
                continue;
            }
            for (minute, at) in quarter.minutes() {
                let score = f64::from(spline(coefficients, minute));
                if is_better(best, at, score) {
                    best = Some(Best { at, score });
                }
            }
        }
        best
    }

    /// Like [`Curve::best`], with each minute's score multiplied by `weight` in place of the presence alone: the factors of
    /// hot paths, which must not rise and fall within one quarter of an hour, because minutes between two ends that
    /// cannot win are passed over.
    pub fn best_weighted(
        &self,
        ranges: &[Range<Timestamp>],
        weight: impl Fn(Timestamp) -> f64,
    ) -> Option<Best> {
        self.best_free(ranges, weight, |_| true)
    }

    /// Like [`Curve::best_weighted`], among the minutes that are free.
    pub(crate) fn best_free(
        &self,
        ranges: &[Range<Timestamp>],
        weight: impl Fn(Timestamp) -> f64,
        is_free: impl Fn(Timestamp) -> bool,
    ) -> Option<Best> {
        let mut best: Option<Best> = None;
        for quarter in ranges.iter().flat_map(quarters) {
            let coefficients = self.coefficients(quarter.index);
            let highest = f64::from(coefficients.into_iter().fold(f32::MIN, f32::max));
            let heaviest = weight(quarter.range.start).max(weight(quarter.range.end));
            if best.is_some_and(|best| highest * heaviest * (1.0 + ROUNDING) < best.score) {
                continue;
            }
            for (minute, at) in quarter.minutes() {
                let score = f64::from(spline(coefficients, minute)) * weight(at);
                if is_better(best, at, score) && is_free(at) {
                    best = Some(Best { at, score });
                }
            }
        }
        best
    }

    /// The minutes of `ranges` whose weighted score is at least `least`, in the order of the ranges. The weight is as for
    /// [`Curve::best_weighted`].
    pub(crate) fn at_least(
        &self,
        ranges: &[Range<Timestamp>],
        weight: impl Fn(Timestamp) -> f64,
        least: f64,
    ) -> impl Iterator<Item = Timestamp> {
        let quarters = ranges.iter().flat_map(quarters);
        quarters.flat_map(move |quarter| {
            let coefficients = self.coefficients(quarter.index);
            let highest = f64::from(coefficients.into_iter().fold(f32::MIN, f32::max));
            let heaviest = weight(quarter.range.start).max(weight(quarter.range.end));
            let mut worthy = Vec::new();
            if highest * heaviest * (1.0 + ROUNDING) >= least {
                for (minute, at) in quarter.minutes() {
                    if f64::from(spline(coefficients, minute)) * weight(at) >= least {
                        worthy.push(at);
                    }
                }
            }
            worthy
        })
    }

    /// The week's highest local maxima of the score: slot and score, best first, at most `count`, at least two hours
    /// apart.
    pub fn peaks(&self, count: usize) -> Vec<(usize, f64)> {
        let scores = self.scores();
        let slots = grid::SLOTS;
        let mut maxima: Vec<(usize, f64)> = (0..slots)
            .filter(|slot| {
                let (before, after) = (scores[(slot + slots - 1) % slots], scores[(slot + 1) % slots]);
                scores[*slot] > before && scores[*slot] >= after
            })
            .map(|slot| (slot, f64::from(scores[slot])))
            .collect();
        maxima.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut peaks: Vec<(usize, f64)> = Vec::new();
        for (slot, score) in maxima {
            let apart = |other: usize| slot.abs_diff(other).min(slots - slot.abs_diff(other)) >= 120;
            if peaks.len() < count && peaks.iter().all(|(other, _)| apart(*other)) {
                peaks.push((slot, score));
            }
        }
        peaks
    }

    /// The time after arrival that [`Curve::confidence`] speaks of: while half of the first attention to a mail is left.
    /// It is the part of the look-ahead that the score earns most in, so that what the choice aims at is what the
    /// confidence promises. Two hours where no delivery is known, more where people were seen to return to mail later.
    pub fn span_ms(&self) -> i64 {
        self.span_minutes as i64 * grid::MINUTE_MS
    }

    /// The probability that the person acts within [`Curve::span_ms`] of `chosen`, given that they act at all from the
    /// beginning of `ranges` to their end, or to the end of the span where that is later.
    ///
    /// A logistic map of the curve's share of that time, the number of events and the length of the ranges, fitted to
    /// what people did whose curves were made without them.
    pub fn confidence(&self, chosen: Timestamp, ranges: &[Range<Timestamp>]) -> f64 {
        let terms = self.confidence_terms(chosen, ranges);
        let odds: f64 = terms
            .iter()
            .zip(self.confidence)
            .map(|(term, weight)| term * f64::from(weight))
            .sum();
        1.0 / (1.0 + (-odds).exp())
    }

    /// What the confidence map is a function of.
    pub(super) fn confidence_terms(
        &self,
        chosen: Timestamp,
        ranges: &[Range<Timestamp>],
    ) -> [f64; CONFIDENCE_TERMS] {
        let soon = chosen..chosen.plus_millis(self.span_ms());
        let (mut first, mut last, mut length_ms) = (soon.start, soon.end, 0);
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            (first, last) = (first.min(range.start), last.max(range.end));
            length_ms += range.end.millis_since(range.start);
        }
        let (near, all) = (self.expected(soon.start, soon.end), self.expected(first, last));
        // A window no longer than the span leaves no doubt but its own.
        let share = if all > 0.0 {
            (near / all).clamp(0.001, 0.999)
        } else {
            0.5
        };
        let days = (length_ms as f64 / 86_400_000.0).max(1.0 / 24.0);
        [
            1.0,
            (share / (1.0 - share)).ln(),
            (1.0 + self.evidence.events as f64).ln(),
            days.ln(),
        ]
    }
}

/// How long at least [`ATTENTION_LEFT`] of the first attention is left.
fn span_minutes(attention: &[f32; AGES]) -> usize {
    let left = attention
        .iter()
        .take_while(|band| **band >= ATTENTION_LEFT * attention[0])
        .count();
    AGE_EDGES[left].clamp(LEAST_SPAN_MINUTES, HORIZON_MINUTES)
}

/// The earlier of two equal scores is better, whatever the order of the ranges.
fn is_better(best: Option<Best>, at: Timestamp, score: f64) -> bool {
    best.is_none_or(|best| score > best.score || (score == best.score && at < best.at))
}

/// The part of a range that lies in one quarter hour of the week.
struct Quarter {
    /// Which quarter hour of the week.
    index: usize,
    /// The first minute in it, and when that minute begins.
    first_minute: usize,
    first_start: Timestamp,
    /// The part.
    range: Range<Timestamp>,
}

impl Quarter {
    /// The minute within the quarter hour, and the moment at which it begins or the range does.
    fn minutes(&self) -> impl Iterator<Item = (usize, Timestamp)> {
        (self.first_minute..QUARTER_MINUTES)
            .map(|minute| {
                let since_first = (minute - self.first_minute) as i64 * grid::MINUTE_MS;
                (
                    minute,
                    self.first_start.plus_millis(since_first).max(self.range.start),
                )
            })
            .take_while(|(_, at)| *at < self.range.end)
    }
}

/// The quarter hours that a range touches, in the order of time.
fn quarters(range: &Range<Timestamp>) -> impl Iterator<Item = Quarter> + use<> {
    let end = range.end;
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let slot = grid::slot(at);
        let (index, first_minute) = (slot / QUARTER_MINUTES, slot % QUARTER_MINUTES);
        let first_start = grid::floor_minute(at);
        let next = first_start.plus_millis((QUARTER_MINUTES - first_minute) as i64 * grid::MINUTE_MS);
        let quarter = Quarter {
            index,
            first_minute,
            first_start,
            range: at..next.min(end),
        };
        // At the end of representable time there is no next quarter hour.
        at = if next > at { next } else { end };
        Some(quarter)
    })
}

/// The value between the middles of two hours; `hours` is the place in the week.
fn interpolate(week: &Week, hours: f32) -> f32 {
    let place = hours + BINS as f32 - 0.5;
    let (first, share) = (place as usize, place.fract());
    week[first % BINS] * (1.0 - share) + week[(first + 1) % BINS] * share
}

/// The weights of a uniform cubic B-spline's four coefficients at each minute of a quarter hour.
static SPLINE: [[f32; 4]; QUARTER_MINUTES] = {
    let mut weights = [[0.0; 4]; QUARTER_MINUTES];
    let mut minute = 0;
    while minute < QUARTER_MINUTES {
        let x = minute as f32 / QUARTER_MINUTES as f32;
        let y = 1.0 - x;
        weights[minute] = [
            y * y * y / 6.0,
            (4.0 - 6.0 * x * x + 3.0 * x * x * x) / 6.0,
            (4.0 - 6.0 * y * y + 3.0 * y * y * y) / 6.0,
            x * x * x / 6.0,
        ];
        minute += 1;
    }
    weights
};

/// The spline with these coefficients at a minute of its quarter hour. Written with differences, so that equal
/// coefficients give exactly their value and the first of equal minutes is found.
fn spline([a, b, c, d]: [f32; 4], minute: usize) -> f32 {
    let weights = &SPLINE[minute];
    b + weights[0] * (a - b) + weights[2] * (c - b) + weights[3] * (d - b)
}
