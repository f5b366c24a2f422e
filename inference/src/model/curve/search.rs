//! The best minute of a window.
//!
//! Quarter hours whose highest coefficient cannot win are skipped, and so are blocks of them: the most promising block is
//! searched first, after which few others can still win. The result is the same as if every minute had been examined.

use std::ops::Range;

use event::{Timestamp, grid};

use super::{Curve, QUARTER_MINUTES, QUARTER_MS, QUARTERS, spline};

/// The chosen minute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// The moment of arrival: the start of a minute, or of a range that begins within a minute.
    pub at: Timestamp,
    /// Its score, including the weight.
    pub score: f64,
}

/// Rounding may lift the spline above its highest coefficient by a part in a million.
const ROUNDING: f64 = 1e-5;

/// Number of quarter hours that are skipped together: four hours, 42 blocks in a week. Between 8 and 32 the cost of a
/// search is the same.
pub(super) const BLOCK_QUARTERS: usize = 16;
const BLOCK_MS: i64 = BLOCK_QUARTERS as i64 * QUARTER_MS;

/// Blocks in a week.
pub(super) const BLOCKS: usize = QUARTERS / BLOCK_QUARTERS;
const _: () = assert!(
    BLOCKS * BLOCK_QUARTERS == QUARTERS,
    "a week is made of whole blocks"
);

/// Returns the highest coefficient that affects the value within each block.
pub(super) fn highest_of_blocks(value: &[f32; QUARTERS]) -> [f32; BLOCKS] {
    std::array::from_fn(|block| {
        let first = block * BLOCK_QUARTERS + QUARTERS - 1;
        let touched = (first..first + BLOCK_QUARTERS + 3).map(|quarter| value[quarter % QUARTERS]);
        touched.fold(f32::MIN, f32::max)
    })
}

impl Curve {
    /// Returns the best minute to arrive in any of `ranges` (half-open, in real time, in any order), with each score multiplied
    /// by the factor of [`Curve::presence`]; the earliest one in case of a tie. Returns `None` if all ranges are empty.
    pub fn best(&self, ranges: &[Range<Timestamp>]) -> Option<Best> {
        match self.presence {
            Some(presence) => self.best_weighted(ranges, |at| presence.factor(at)),
            None => self.best_weighted(ranges, |_| 1.0),
        }
    }

    /// Like [`Curve::best`], with each minute's score multiplied by `weight` instead of by the presence alone: the
    /// factors of hot paths. The weight must not rise and then fall within four hours, because a stretch of minutes is
    /// skipped if it cannot win with the weights at its two ends.
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

    /// Returns the minutes of `ranges` whose weighted score is at least `least`, in the order of the ranges. The weight
    /// is as for [`Curve::best_weighted`].
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

    /// Returns an upper bound, up to rounding, of the weighted score of a block's minutes.
    fn most(&self, block: &Part, weight: impl Fn(Timestamp) -> f64) -> f64 {
        let heaviest = weight(block.range.start).max(weight(block.range.end));
        f64::from(self.highest[block.index]) * heaviest
    }

    /// Searches a block for a better minute.
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

/// Returns whether a part with a score of at most `most`, up to rounding, can be better.
fn can_win(most: f64, best: Option<Best>) -> bool {
    best.is_none_or(|best| most * (1.0 + ROUNDING) >= best.score)
}

/// Of two equal scores the earlier one is better, whatever the order of the ranges.
fn is_better(best: Option<Best>, at: Timestamp, score: f64) -> bool {
    best.is_none_or(|best| score > best.score || (score == best.score && at < best.at))
}

/// The part of a range that lies in one quarter hour, or in one block, of the week.
#[derive(Clone)]
struct Part {
    /// Index of the quarter hour or block in the week.
    index: usize,
    range: Range<Timestamp>,
}

impl Part {
    /// Returns each minute's index within the quarter hour, and the moment at which it begins, or the part if that is
    /// later.
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

/// Returns the blocks that a range touches, in chronological order.
fn blocks(range: &Range<Timestamp>) -> impl Iterator<Item = Part> + use<> {
    parts(range.clone(), BLOCK_MS, BLOCKS)
}

/// Returns the quarter hours of a block, in chronological order.
fn quarters(block: Part) -> impl Iterator<Item = Part> {
    parts(block.range, QUARTER_MS, QUARTERS)
}

/// Splits a range at the boundaries of the week's `in_week` parts of `length_ms` each.
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
