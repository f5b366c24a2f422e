//! The control group and exploration: which decisions take a minute other than the model's, and with what probability.
//!
//! The draw is a function of person, campaign and minute. A person stays in the control group, and a caller who asks again
//! gets the same minute as long as it is allowed, so asking repeatedly is not a way of choosing. The guards have narrowed the
//! minutes before the draw: nothing that they forbid is drawn.

use std::ops::Range;

use event::{
    Timestamp, UniversalId,
    grid::{MINUTE_MS, QUARTER_MS},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::events::TrialGroup;
use utoipa::ToSchema;

use super::{Choice, DAY_MINUTES, Facts};
use crate::{
    config::ExperimentConfig,
    draw,
    explanation::{Exact, Seed},
};

/// Exploration chooses among quarter hours that are worth at least this share of the best: within it the model is often
/// unsure which is better, and with 2 decisions in 100 the most that can be lost is 2 % of a fifth.
const NEAR_BEST: f64 = 0.8;

/// Part of every hash, so that other draws from the same ids are independent of these.
const DOMAIN: &str = "sendflowr timing experiment 1";

/// How the experiment draws for one decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Draw {
    /// The group that was drawn for the person.
    #[schema(value_type = String, example = "treated")]
    group: TrialGroup,
    /// Share of people in the control group.
    control_share: Exact,
    /// Share of the other people's decisions that explore.
    exploration_share: Exact,
    /// Orders the minutes; derived from salt, person and campaign. In explanations of earlier versions it is a number.
    #[schema(value_type = String, example = "13835058055282163712")]
    seed: Seed,
}

/// What was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Drawn {
    /// The group, whose rule chose the minute.
    pub(crate) group: TrialGroup,
    /// The minute that was drawn.
    pub(crate) at: Timestamp,
    /// The minute that the model would have chosen, and its value.
    pub(crate) model_at: Timestamp,
    pub(crate) model_value: f64,
    /// The probability of the quarter hour that contains `at`, over the draw of group and minute.
    pub(crate) propensity: f64,
    /// Quarter hours that exploration could have chosen.
    pub(crate) quarters_near_best: usize,
    pub(crate) control_share: f64,
    pub(crate) exploration_share: f64,
}

impl Draw {
    /// Returns the draw for a person and a campaign, for mail from `from` on. A person explores for a whole day (UTC) or not at
    /// all, because a window that starts now differs from request to request.
    pub(crate) fn of(
        config: &ExperimentConfig,
        person: &UniversalId,
        campaign: Option<&str>,
        from: Timestamp,
    ) -> Self {
        let hash = |what: &str, parts: &[&str]| {
            let mut hasher = Sha256::new();
            for part in [DOMAIN, &config.salt, what, person.as_str()].iter().chain(parts) {
                hasher.update((part.len() as u64).to_be_bytes());
                hasher.update(part);
            }
            let digest = hasher.finalize();
            u64::from_be_bytes(digest[..8].try_into().expect("a SHA-256 has 32 bytes"))
        };
        let campaign = campaign.unwrap_or_default();
        let day = from.as_millis().div_euclid(DAY_MINUTES * MINUTE_MS).to_string();
        let group = if unit(hash("control", &[])) < config.control_share {
            TrialGroup::Control
        } else if unit(hash("exploration", &[campaign, &day])) < config.exploration_share {
            TrialGroup::Exploration
        } else {
            TrialGroup::Treated
        };
        Self {
            group,
            control_share: Exact(config.control_share),
            exploration_share: Exact(config.exploration_share),
            seed: Seed::new(hash("minute", &[campaign])),
        }
    }

    /// Draws among `candidates` (sorted, disjoint, whole minutes, not empty), of which the model would choose `model_at`.
    fn take(
        &self,
        candidates: &[Range<Timestamp>],
        model_at: Timestamp,
        value: impl Fn(Timestamp) -> f64,
    ) -> Drawn {
        let near_best = NearBest {
            model: quarter_of(model_at),
            least: NEAR_BEST * value(model_at),
            value: &value,
        };
        let (mut minutes, mut quarters_near_best) = (0, 0);
        for quarter in quarters(candidates) {
            minutes += quarter.minutes;
            quarters_near_best += usize::from(near_best.holds(&quarter));
        }
        let at = match self.group {
            TrialGroup::Treated => model_at,
            TrialGroup::Control => self
                .first(candidates.iter().flat_map(minutes_of))
                .unwrap_or(model_at),
            TrialGroup::Exploration => {
                let near = quarters(candidates).filter(|quarter| near_best.holds(quarter));
                let drawn = self.first(near.map(|quarter| quarter.start));
                match drawn {
                    Some(start) if start != near_best.model => best_minute(candidates, start, &value),
                    _ => model_at,
                }
            }
        };
        let of_at = quarters(candidates).find(|quarter| quarter.start == quarter_of(at));
        let propensity = of_at.map_or(0.0, |quarter| {
            let of_control = quarter.minutes as f64 / minutes as f64;
            let of_model = f64::from(u8::from(quarter.start == near_best.model));
            let of_exploration = f64::from(u8::from(near_best.holds(&quarter))) / quarters_near_best as f64;
            let (control, exploration) = (self.control_share.0, self.exploration_share.0);
            let otherwise = (1.0 - exploration) * of_model + exploration * of_exploration;
            control * of_control + (1.0 - control) * otherwise
        });
        Drawn {
            group: self.group,
            at,
            model_at,
            model_value: value(model_at),
            propensity,
            quarters_near_best,
            control_share: self.control_share.0,
            exploration_share: self.exploration_share.0,
        }
    }

    /// Returns the first of `moments` in an order of all moments that is specific to this draw: each element of a set is equally
    /// likely to be the first, and it stays the first when others leave the set.
    fn first(&self, moments: impl Iterator<Item = Timestamp>) -> Option<Timestamp> {
        moments.min_by_key(|moment| draw::mix(self.seed.number() ^ moment.as_millis().cast_unsigned()))
    }
}

impl Choice {
    /// Applies the experiment: moves the decision to the minute that was drawn from `free` (by default, from all candidates),
    /// whichever rule drew it. Without a draw, the decision stays as it is.
    pub(crate) fn draw(&mut self, draw: Option<&Draw>, free: Option<&[Range<Timestamp>]>, facts: Facts<'_>) {
        let Some(draw) = draw else { return };
        let minutes = free.unwrap_or(&self.candidates);
        let drawn = draw.take(minutes, self.arrive_at, |at| self.value_at(at, facts));
        if drawn.at != self.arrive_at {
            self.arrive(drawn.at, facts);
        }
        self.experiment = Some(drawn);
    }
}

/// A quarter hour that contains candidates.
struct Quarter {
    start: Timestamp,
    /// The first candidate.
    first: Timestamp,
    /// The number of candidates.
    minutes: i64,
}

/// Returns the quarter hours of the candidates, in order.
fn quarters(candidates: &[Range<Timestamp>]) -> impl Iterator<Item = Quarter> {
    let mut ranges = candidates.iter().filter(|range| range.start < range.end);
    let mut rest = ranges.next().cloned();
    std::iter::from_fn(move || {
        let begun = rest.clone()?;
        let start = quarter_of(begun.start);
        let mut minutes = 0;
        // Several ranges may lie in one quarter hour.
        while let Some(range) = rest.clone().filter(|range| quarter_of(range.start) == start) {
            let end = start.plus_millis(QUARTER_MS).min(range.end);
            minutes += end.millis_since(range.start) / MINUTE_MS;
            // There is no next quarter hour at the end of representable time.
            let goes_on = range.start < end && end < range.end;
            rest = if goes_on {
                Some(end..range.end)
            } else {
                ranges.next().cloned()
            };
        }
        Some(Quarter {
            start,
            first: begun.start,
            minutes,
        })
    })
}

/// Which quarter hours exploration may choose.
struct NearBest<V> {
    /// The start of the model's quarter hour, which is always one of them.
    model: Timestamp,
    /// Minimum value of the first candidate of the others.
    least: f64,
    value: V,
}

impl<V: Fn(Timestamp) -> f64> NearBest<V> {
    fn holds(&self, quarter: &Quarter) -> bool {
        quarter.start == self.model || (self.value)(quarter.first) >= self.least
    }
}

/// Returns the best candidate of a quarter hour, the earliest among equals: at least as good as its first candidate.
fn best_minute(
    candidates: &[Range<Timestamp>],
    start: Timestamp,
    value: impl Fn(Timestamp) -> f64,
) -> Timestamp {
    let end = start.plus_millis(QUARTER_MS);
    let within = candidates
        .iter()
        .map(|range| range.start.max(start)..range.end.min(end));
    let mut best = (start, f64::NEG_INFINITY);
    for range in within {
        for at in minutes_of(&range) {
            let worth = value(at);
            if worth > best.1 {
                best = (at, worth);
            }
        }
    }
    best.0
}

fn minutes_of(range: &Range<Timestamp>) -> impl Iterator<Item = Timestamp> + use<> {
    let (start, count) = (range.start, range.end.millis_since(range.start) / MINUTE_MS);
    (0..count).map(move |minute| start.plus_millis(minute * MINUTE_MS))
}

/// Returns the start of the quarter hour that contains a moment.
pub(super) fn quarter_of(at: Timestamp) -> Timestamp {
    at.plus_millis(-at.as_millis().rem_euclid(QUARTER_MS))
}

/// Maps a hash to a number in `[0, 1)`.
fn unit(hash: u64) -> f64 {
    // A double holds 53 bits exactly.
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
