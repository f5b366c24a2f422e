//! A person's week, and the best minute in it.

use std::{ops::Range, sync::Arc};

use event::{Timestamp, grid};

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
    /// The same, each weighed by its age.
    pub effective_events: f64,
    /// How much of the curve comes from other people, 0 to 1.
    pub prior_weight: f64,
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
    /// Its score.
    pub score: f64,
}

/// A person's week: how likely they act at each minute, and what arriving at each minute is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    evidence: Evidence,
}

impl Curve {
    pub(super) fn flat(population_version: Arc<str>) -> Self {
        let evidence = Evidence {
            events: 0,
            effective_events: 0.0,
            prior_weight: 1.0,
            rung: Rung::Population,
            population_version,
        };
        Self { evidence }
    }

    /// What the curve rests on.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// `P_base`: for each of the week's 10,080 minutes, the share of the person's activity that falls into it if mail
    /// is always at hand. Sums to 1.
    pub fn minutes(&self) -> Vec<f32> {
        vec![1.0 / grid::SLOTS as f32; grid::SLOTS]
    }

    /// `P_base` at the minute of `at`.
    pub fn density(&self, _at: Timestamp) -> f64 {
        1.0 / grid::SLOTS as f64
    }

    /// The share of a week's activity that falls between two moments, in real time; above 1 over more than a week.
    pub fn mass(&self, from: Timestamp, to: Timestamp) -> f64 {
        to.millis_since(from).max(0) as f64 / grid::WEEK_MS as f64
    }

    /// The value of arriving at `at`, relative to a random minute of the week (1 on average): the expected response
    /// while attention fades. This is what a decision maximizes.
    pub fn score(&self, _at: Timestamp) -> f64 {
        1.0
    }

    /// The best minute to arrive in any of `ranges` (half-open, in real time, in any order); the earliest of equals.
    /// `None` when all are empty.
    pub fn best(&self, ranges: &[Range<Timestamp>]) -> Option<Best> {
        self.best_weighted(ranges, |_| 1.0)
    }

    /// Like [`Curve::best`], with each minute's score multiplied by `weight`: the factors of hot paths.
    pub fn best_weighted(
        &self,
        ranges: &[Range<Timestamp>],
        weight: impl Fn(Timestamp) -> f64,
    ) -> Option<Best> {
        let candidates = ranges.iter().filter(|range| !range.is_empty());
        let at = candidates.map(|range| range.start).min()?;
        Some(Best {
            at,
            score: weight(at),
        })
    }

    /// The week's highest local maxima of the score: slot and score, best first, at most `count`, at least two hours
    /// apart.
    pub fn peaks(&self, _count: usize) -> Vec<(usize, f64)> {
        Vec::new()
    }

    /// The probability that the person acts within two hours of `chosen`, given that they act within `ranges` at all.
    /// Calibrated on people that the tables were not fitted to.
    pub fn confidence(&self, _chosen: Timestamp, _ranges: &[Range<Timestamp>]) -> f64 {
        0.0
    }
}
