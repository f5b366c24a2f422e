//! A person who was active shortly before is likely to be active again soon.
//!
//! Activity comes in spells of hours and days. The weekly curve does not contain them, so for a while after the
//! person's last act the following minutes count for more: `p(t) × (1 + w · 2^(-(t - last) / half-life))`, which has
//! the form of a hot path. Weight and half-life are learned, see [`super::fit`], and are zero where the past shows no
//! spells. Where deliveries are known the factor is left out: there, acts come in spells because mail does.

use event::{Timestamp, grid, profile::History};

use super::exposure::act_times;

/// After this many half-lives a weight is below a millionth: it cannot change which minute is best, and is treated as zero.
const FORGOTTEN_HALF_LIVES: f64 = 20.0;

const HOUR_MS: f64 = grid::HOUR_MS as f64;

/// Returns the remainder at `at` of a weight that halves every `half_life_ms` from `since` on.
pub(crate) fn remaining(weight: f64, half_life_ms: f64, since: Timestamp, at: Timestamp) -> f64 {
    let half_lives = at.millis_since(since) as f64 / half_life_ms;
    if half_lives > FORGOTTEN_HALF_LIVES {
        0.0
    } else {
        weight * (-half_lives).exp2()
    }
}

/// How much a person's last act raises the minutes after it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Presence {
    /// The time of the last act.
    pub since: Timestamp,
    /// By how much the factor exceeds 1 at that moment.
    pub weight: f64,
    /// Hours in which the weight halves.
    pub half_life_hours: f64,
}

impl Presence {
    /// Returns the presence at the end of a history; `None` without an act, or if the tables give it no weight.
    pub(super) fn of(history: &History, [weight, half_life_hours]: [f32; 2]) -> Option<Self> {
        let since = *act_times(history).last()?;
        (weight > 0.0).then(|| Self {
            since,
            weight: f64::from(weight),
            half_life_hours: f64::from(half_life_hours),
        })
    }

    /// Returns the factor at a moment: 1 plus the remaining weight.
    pub fn factor(&self, at: Timestamp) -> f64 {
        let half_life_ms = self.half_life_hours * HOUR_MS;
        1.0 + remaining(self.weight, half_life_ms, self.since, at.max(self.since))
    }

    /// Returns when nothing is left of the weight.
    pub(super) fn forgotten_at(&self) -> Timestamp {
        self.since
            .plus_millis((FORGOTTEN_HALF_LIVES * self.half_life_hours * HOUR_MS) as i64)
    }
}

#[cfg(test)]
mod tests {
    use event::profile::Activity;

    use super::*;

    fn act(seconds: i64) -> Activity {
        Activity {
            at: Timestamp::from_millis_clamped(seconds * 1_000),
            strong: true,
        }
    }

    #[test]
    fn the_factor_halves_from_the_last_act_on_and_is_gone_in_the_end() {
        let history = History {
            activities: vec![act(0), act(3_600)],
            ..History::default()
        };
        let presence = Presence::of(&history, [8.0, 16.0]).unwrap();
        let factor = |hours: i64| presence.factor(act(3_600 * (1 + hours)).at);
        assert_eq!(factor(0), 9.0);
        assert_eq!(factor(16), 5.0);
        assert_eq!(factor(32), 3.0);
        assert_eq!(factor(-1), 9.0, "before the act it is not larger");
        assert_eq!(factor(24 * 365), 1.0);
        assert_eq!(presence.factor(presence.forgotten_at().plus_millis(1)), 1.0);
        assert_eq!(Presence::of(&history, [0.0, 16.0]), None);
        assert_eq!(Presence::of(&History::default(), [8.0, 16.0]), None);
    }
}
