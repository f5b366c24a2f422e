//! The best minute of a window.
//!
//! Quarter hours whose highest coefficient cannot win are passed over, and so are blocks of them: the block that promises
//! most is searched first, and after it few others are left. What is found is what a look at every minute finds.

use std::ops::Range;

use event::{Timestamp, grid};

use super::{Curve, QUARTER_MINUTES, QUARTER_MS, QUARTERS, spline};

/// The chosen minute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// The moment of arrival: the start of a minute, or of a range that begins within one.
    pub at: Timestamp,
    /// Its score, weight included.
    pub score: f64,
}

/// Rounding may lift the spline above its highest coefficient by a part in a million.
const ROUNDING: f64 = 1e-5;

/// Quarter hours that are passed over together: four hours, 42 to a week. Between 8 and 32 a search costs the same.
pub(super) const BLOCK_QUARTERS: usize = 16;
const BLOCK_MS: i64 = BLOCK_QUARTERS as i64 * QUARTER_MS;

/// Blocks in a week.
pub(super) const BLOCKS: usize = QUARTERS / BLOCK_QUARTERS;
const _: () = assert!(
    BLOCKS * BLOCK_QUARTERS == QUARTERS,
    "a week is made of whole blocks"
);

/// The highest coefficient that shapes the value within each block.
pub(super) fn highest_of_blocks(value: &[f32; QUARTERS]) -> [f32; BLOCKS] {
    std::array::from_fn(|block| {
        let first = block * BLOCK_QUARTERS + QUARTERS - 1;
        let touched = (first..first + BLOCK_QUARTERS + 3).map(|quarter| value[quarter % QUARTERS]);
        touched.fold(f32::MIN, f32::max)
    })
}

impl Curve {
    /// The best minute to arrive in any of `ranges` (half-open, in real time, in any order), the score of each multiplied
    /// by the factor of [`Curve::presence`]; the earliest of equals. `None` when all are empty.
    pub fn best(&self, ranges: &[Range<Timestamp>]) -> Option<Best> {
        match self.presence {
            Some(presence) => self.best_weighted(ranges, |at| presence.factor(at)),
            None => self.best_weighted(ranges, |_| 1.0),
        }
    }

    /// Like [`Curve::best`], with each minute's score multiplied by `weight` in place of the presence alone: the factors of
    /// hot paths, which must not rise and fall within four hours, because minutes between two ends that cannot win are
    /// passed over.
    pub fn best_weighted(
        &self,
        ranges: &[Range<Timestamp>],
        weight: impl Fn(Timestamp) -> f64,
    ) -> Option<Best> {
        let mut promising: Option<(f64, Part)> = None;
        for block in ranges.iter().flat_map(blocks) {
            let most = self.most(&block, &weight);
            if promising.as_ref().is_none_or(|(highest, _)| most > *highest) {
                promising = Some((most, block));
            }
        }
        let mut best = None;
        self.search(&promising?.1, &weight, &mut best);
        for block in ranges.iter().flat_map(blocks) {
            if can_win(self.most(&block, &weight), best) {
                self.search(&block, &weight, &mut best);
            }
        }
        best
    }

    /// The minutes of `ranges` whose weighted score is at least `least`, in the order of the ranges. The weight is as for
    /// [`Curve::best_weighted`].
    pub(crate) fn at_least(
        &self,
        ranges: &[Range<Timestamp>],
        weight: impl Fn(Timestamp) -> f64 + Copy,
        least: f64,
    ) -> impl Iterator<Item = Timestamp> {
        let reaches = move |most: f64| most * (1.0 + ROUNDING) >= least;
        ranges
            .iter()
            .flat_map(blocks)
            .filter(move |block| reaches(self.most(block, weight)))
            .flat_map(quarters)
            .filter(move |quarter| {
                let heaviest = weight(quarter.range.start).max(weight(quarter.range.end));
                reaches(highest(self.coefficients(quarter.index)) * heaviest)
            })
            .flat_map(move |quarter| {
                let coefficients = self.coefficients(quarter.index);
                let minutes = quarter.minutes();
                let worthy = minutes.filter(move |(minute, at)| {
                    f64::from(spline(coefficients, *minute)) * weight(*at) >= least
                });
                worthy.map(|(_, at)| at)
            })
    }

    /// What no minute of a block is worth more than, but for rounding.
    fn most(&self, block: &Part, weight: impl Fn(Timestamp) -> f64) -> f64 {
        let heaviest = weight(block.range.start).max(weight(block.range.end));
        f64::from(self.highest[block.index]) * heaviest
    }

    /// Looks for a better minute in a block.
    fn search(&self, block: &Part, weight: impl Fn(Timestamp) -> f64, best: &mut Option<Best>) {
        let mut weight_at_start = weight(block.range.start);
        for quarter in quarters(block.clone()) {
            let weight_at_end = weight(quarter.range.end);
            let heaviest = weight_at_start.max(weight_at_end);
            weight_at_start = weight_at_end;
            let coefficients = self.coefficients(quarter.index);
            if !can_win(highest(coefficients) * heaviest, *best) {
                continue;
            }
            for (minute, at) in quarter.minutes() {
                let score = f64::from(spline(coefficients, minute)) * weight(at);
                if is_better(*best, at, score) {
                    *best = Some(Best { at, score });
                }
            }
        }
    }
}

fn highest(coefficients: [f32; 4]) -> f64 {
    f64::from(coefficients.into_iter().fold(f32::MIN, f32::max))
}

/// Whether something that is worth at most `most`, but for rounding, can be better.
fn can_win(most: f64, best: Option<Best>) -> bool {
    best.is_none_or(|best| most * (1.0 + ROUNDING) >= best.score)
}

/// The earlier of two equal scores is better, whatever the order of the ranges.
fn is_better(best: Option<Best>, at: Timestamp, score: f64) -> bool {
    best.is_none_or(|best| score > best.score || (score == best.score && at < best.at))
}

/// The part of a range that lies in one quarter hour, or in one block, of the week.
#[derive(Clone)]
struct Part {
    /// Which quarter hour or block of the week.
    index: usize,
    range: Range<Timestamp>,
}

impl Part {
    /// The minute within the quarter hour, and the moment at which it begins or the part does.
    fn minutes(&self) -> impl Iterator<Item = (usize, Timestamp)> + use<> {
        let Range { start, end } = self.range;
        let first_minute = grid::slot(start) % QUARTER_MINUTES;
        let first_start = grid::floor_minute(start);
        (first_minute..QUARTER_MINUTES)
            .map(move |minute| {
                let since_first = (minute - first_minute) as i64 * grid::MINUTE_MS;
                (minute, first_start.plus_millis(since_first).max(start))
            })
            .take_while(move |(_, at)| *at < end)
    }
}

/// The blocks that a range touches, in the order of time.
fn blocks(range: &Range<Timestamp>) -> impl Iterator<Item = Part> + use<> {
    parts(range.clone(), BLOCK_MS, BLOCKS)
}

/// The quarter hours of a block, in the order of time.
fn quarters(block: Part) -> impl Iterator<Item = Part> {
    parts(block.range, QUARTER_MS, QUARTERS)
}

/// The parts of a range in each of the week's `in_week` parts of `length_ms` each.
fn parts(range: Range<Timestamp>, length_ms: i64, in_week: usize) -> impl Iterator<Item = Part> {
    let Range { start: mut at, end } = range;
    let offset_ms = grid::week_offset_ms(at);
    let mut index = (offset_ms / length_ms) as usize;
    let mut left_ms = length_ms - offset_ms % length_ms;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let next = at.plus_millis(left_ms);
        let part = Part {
            index,
            range: at..next.min(end),
        };
        index = (index + 1) % in_week;
        left_ms = length_ms;
        // At the end of representable time there is no next part.
        at = if next > at { next } else { end };
        Some(part)
    })
}

#[cfg(test)]
mod tests;
