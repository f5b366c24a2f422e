//! A person's week, and the best minute in it.

mod search;

use std::{ops::Range, sync::Arc};

use event::{
    Timestamp,
    grid::{self, QUARTER_MS},
};

use super::exposure::{AGE_EDGES, AGES};
use super::presence::Presence;
use super::tables::CONFIDENCE_TERMS;
use super::week::{BINS, Week};
pub use search::Best;

/// What a person's curve rests on, from least to most evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// No act is known: the population's curve, lower where mail was not answered.
    Population,
    /// One or two events: the population's curve, shifted towards similar people.
    Sparse,
    /// Three to nine events: similar people, and the person's own habits.
    Blended,
    /// Ten events or more: mostly the person's own habits.
    Personal,
}

impl Rung {
    /// Returns the rung for this number of events.
    pub(super) fn of(events: usize) -> Self {
        match events {
            0 => Self::Population,
            1..=2 => Self::Sparse,
            3..=9 => Self::Blended,
            10.. => Self::Personal,
        }
    }

    /// Returns the name used in responses and explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Population => "population",
            Self::Sparse => "sparse",
            Self::Blended => "blended",
            Self::Personal => "personal",
        }
    }
}

/// The evidence behind a curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Number of the person's human events that were used.
    pub events: usize,
    /// The same, each event weighted by its age, and opens less than clicks.
    pub effective_events: f64,
    /// Number of the person's mails that were used, answered or not.
    pub mails: usize,
    /// How much of the evidence comes from other people, 0 to 1, averaged over the hours of the week, however much each of them
    /// contributes to the curve; that of both memories, as they are weighed.
    pub prior_weight: f64,
    /// The weight of the short memory, which two weeks halve, 0 to 1.
    pub recent_weight: f64,
    /// Where the curve stands between the population and the person.
    pub rung: Rung,
    /// Version of the tables used.
    pub population_version: Arc<str>,
}

/// Quarter hours in a week: the grid on which the value is computed.
const QUARTERS: usize = 4 * BINS;

const QUARTER_MINUTES: usize = 15;

/// Minutes after arrival that count towards its value.
const HORIZON_MINUTES: usize = 1_440;

/// The span of [`Curve::confidence`] lasts while at least this share of the initial attention is left.
const ATTENTION_LEFT: f32 = 0.5;

/// The span is never shorter: acts are known to half an hour, and habits to an hour or two.
const LEAST_SPAN_MINUTES: usize = 120;

/// A person's week: how likely they are to act at each minute, and the value of arriving at each minute.
///
/// Small (3.6 kB) and cheap to read, so that it can be cached.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    evidence: Evidence,
    /// Activity by hour of the week, 1 on average; the values apply to the middles of the hours.
    density: Box<Week>,
    /// Value of arriving at the start of each quarter hour, 1 on average: coefficients of a cubic spline.
    value: Box<[f32; QUARTERS]>,
    /// The highest coefficient of each block of quarter hours.
    highest: [f32; search::BLOCKS],
    confidence: [f32; CONFIDENCE_TERMS],
    /// The time within which the confidence expects an act.
    span_minutes: usize,
    presence: Option<Presence>,
}

impl Curve {
    /// Makes the curve from a person's week, where attention to a mail fades as in `attention`, for a person last seen
    /// as in `presence`.
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
            highest: search::highest_of_blocks(&value),
            value,
            confidence,
            span_minutes: span_minutes(attention),
            presence,
        }
    }

    /// Returns the evidence that the curve rests on.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Returns how much the person's last act raises the minutes after it, if it does.
    pub fn presence(&self) -> Option<Presence> {
        self.presence
    }

    /// `P_base`: for each of the week's 10,080 minutes, the share of the person's activity that would fall into it if
    /// mail were always at hand. Sums to 1.
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

    /// Returns the value of arriving at each minute of the week, see [`Curve::score`].
    pub fn scores(&self) -> Vec<f32> {
        (0..grid::SLOTS).map(|slot| self.score_at_slot(slot)).collect()
    }

    /// Returns the share of a week's activity that falls between two moments, in real time; above 1 over more than a
    /// week, 0 if `to` is not after `from`.
    pub fn mass(&self, from: Timestamp, to: Timestamp) -> f64 {
        if to <= from {
            return 0.0;
        }
        let weeks = to.millis_since(from) / grid::WEEK_MS;
        let rest_ms = to.millis_since(from) % grid::WEEK_MS;
        // The quarter hours that the rest touches, the first and the last in part.
        let (mut quarter, mut begin_ms) = place(from);
        let (mut left_ms, mut mass) = (rest_ms, 0.0);
        while left_ms > 0 {
            let part_ms = (QUARTER_MS - begin_ms).min(left_ms);
            mass += self.density_of_quarter(quarter) * part_ms as f64;
            left_ms -= part_ms;
            begin_ms = 0;
            quarter = next_quarter(quarter);
        }
        weeks as f64 + mass / grid::WEEK_MS as f64
    }

    /// Returns the density at the middle of a quarter hour, 1 on average.
    fn density_of_quarter(&self, quarter: usize) -> f64 {
        f64::from(interpolate(&self.density, quarter as f32 / 4.0 + 0.125))
    }

    /// Like [`Curve::mass`], raised by the presence: its factor at the middle of each quarter hour from `from` on.
    fn expected(&self, from: Timestamp, to: Timestamp) -> f64 {
        let mut sum = self.mass(from, to);
        let Some(presence) = self.presence else {
            return sum;
        };
        let raised = from..to.min(presence.forgotten_at());
        // Each of these quarter hours overlaps two of the week's quarter hours, in the same proportion.
        let (mut quarter, offset_ms) = place(from);
        let mut density = self.density_of_quarter(quarter);
        let mut begin = raised.start;
        while begin < raised.end {
            let end = begin.plus_millis(QUARTER_MS).min(raised.end);
            let length_ms = end.millis_since(begin);
            let first_ms = length_ms.min(QUARTER_MS - offset_ms);
            let mut mass = density * first_ms as f64;
            quarter = next_quarter(quarter);
            density = self.density_of_quarter(quarter);
            mass += density * (length_ms - first_ms) as f64;
            let middle = begin.plus_millis(length_ms / 2);
            sum += (presence.factor(middle) - 1.0) * (mass / grid::WEEK_MS as f64);
            begin = end;
        }
        sum
    }

    /// Returns the value of arriving in the minute of `at`, relative to a random minute of the week (1 on average): the
    /// expected response while attention fades. This is what a decision maximizes.
    pub fn score(&self, at: Timestamp) -> f64 {
        f64::from(self.score_at_slot(grid::slot(at)))
    }

    fn score_at_slot(&self, slot: usize) -> f32 {
        spline(self.coefficients(slot / QUARTER_MINUTES), slot % QUARTER_MINUTES)
    }

    /// Returns the four coefficients that determine the value within a quarter hour. It lies between the lowest and the highest
    /// of them.
    fn coefficients(&self, quarter: usize) -> [f32; 4] {
        let at = |lag: usize| self.value[(quarter + QUARTERS - 1 + lag) % QUARTERS];
        [at(0), at(1), at(2), at(3)]
    }

    /// Returns the week's highest local maxima of the score as slot and score, best first, at most `count`, at least
    /// two hours apart.
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

    /// Returns the time after arrival that [`Curve::confidence`] is about: while half of the initial attention to a mail is
    /// left. Two hours where no delivery is known or most attention is lost in the first minutes, more where people were seen to
    /// return to mail later.
    pub fn span_ms(&self) -> i64 {
        self.span_minutes as i64 * grid::MINUTE_MS
    }

    /// Returns the probability that the person acts within [`Curve::span_ms`] of `chosen`, given that they act at all
    /// between the beginning of `ranges` and their end, or the end of the span if that is later.
    ///
    /// A logistic function of the curve's share of that time, the number of events and the length of the ranges, fitted
    /// to what people did after the moment up to which their curves were made.
    pub fn confidence(&self, chosen: Timestamp, ranges: &[Range<Timestamp>]) -> f64 {
        let terms = self.confidence_terms(chosen, ranges);
        let odds: f64 = terms
            .iter()
            .zip(self.confidence)
            .map(|(term, weight)| term * f64::from(weight))
            .sum();
        1.0 / (1.0 + (-odds).exp())
    }

    /// Returns the terms that the confidence is a function of.
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
        // In a window no longer than the span, the share can be 1; clamping keeps its log odds finite.
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

/// Returns how long at least [`ATTENTION_LEFT`] of the initial attention is left.
fn span_minutes(attention: &[f32; AGES]) -> usize {
    let left = attention
        .iter()
        .take_while(|band| **band >= ATTENTION_LEFT * attention[0])
        .count();
    AGE_EDGES[left].clamp(LEAST_SPAN_MINUTES, HORIZON_MINUTES)
}

/// Returns the quarter hour of the week that a moment lies in, and how far into it the moment is, in milliseconds.
fn place(moment: Timestamp) -> (usize, i64) {
    let offset_ms = grid::week_offset_ms(moment);
    ((offset_ms / QUARTER_MS) as usize, offset_ms % QUARTER_MS)
}

fn next_quarter(quarter: usize) -> usize {
    if quarter + 1 < QUARTERS { quarter + 1 } else { 0 }
}

/// Returns the value between the middles of two hours; `hours` is the position in the week.
fn interpolate(week: &Week, hours: f32) -> f32 {
    let place = hours + BINS as f32 - 0.5;
    let (first, share) = (place as usize, place.fract());
    week[first % BINS] * (1.0 - share) + week[(first + 1) % BINS] * share
}

/// The weights of the four coefficients of a uniform cubic B-spline at each minute of a quarter hour.
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

/// Returns the spline of these coefficients, evaluated at a minute of its quarter hour. Written with differences, so that equal
/// coefficients give exactly their value and the first of several equal minutes is found.
fn spline([a, b, c, d]: [f32; 4], minute: usize) -> f32 {
    let weights = &SPLINE[minute];
    b + weights[0] * (a - b) + weights[2] * (c - b) + weights[3] * (d - b)
}
