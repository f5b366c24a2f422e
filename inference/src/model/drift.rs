//! How far a person's last weeks outweigh the long memory.
//!
//! No single memory is right: steady people are predicted best from a year, people who moved or changed jobs from
//! weeks. Each person's own latest events decide, by which memory predicted them better.

use event::{Timestamp, grid};

use super::week::Kernel;

/// Half-life of the long memory. 60 days would lose a twentieth, longer half-lives gain nothing.
pub(super) const LONG_DAYS: f32 = 150.0;

/// Half-life of the short memory: two weeks after a move to a new time zone, half of it comes from there.
pub(super) const SHORT_DAYS: f32 = 14.0;

/// Number of events that decide. Beyond sixteen, the oldest would weigh less than half.
const LATEST: usize = 16;

/// Weight of each event relative to the one after it.
const FADE: f32 = 0.95;

/// Fewer events than this cannot decide.
const ENOUGH: usize = 10;

/// Number of events that the two memories predict from, at most: enough to distinguish them, few enough to be fast.
const REMEMBERED: usize = 160;

/// The weight of the short memory before anything is known of the person: on development data, the short memory alone
/// is worse for nearly everybody.
const SHORT_PRIOR: f32 = 0.08;

/// Pseudo-events of the flat part of each prediction.
const FLAT: f32 = 4.0;

/// Returns the weight of the short memory, 0 to 1, for a person with these event times, oldest first.
pub(super) fn short_weight(times: &[Timestamp], kernel: &Kernel) -> f32 {
    if times.len() < ENOUGH {
        return SHORT_PRIOR;
    }
    let times = &times[times.len().saturating_sub(REMEMBERED)..];
    let latest = times[times.len() - 1];
    let days = |time: Timestamp| latest.millis_since(time) as f32 / 86_400_000.0;
    // Weights as of the latest event; those as of an earlier event differ by a factor that cancels out except for `FLAT`.
    let weights = |half_life: f32| -> Vec<f32> {
        times
            .iter()
            .map(|time| (-(days(*time) / half_life).min(60.0)).exp2())
            .collect()
    };
    let (long_weights, short_weights) = (weights(LONG_DAYS), weights(SHORT_DAYS));
    let slots: Vec<usize> = times.iter().map(|time| grid::slot(*time)).collect();
    // Kernel values relative to their mean over the week, so that a flat prediction is 1.
    let scale = 168.0 / kernel.mass();
    let mut evidence = 0.0;
    let mut importance = 1.0;
    for index in (0..times.len()).rev().take(LATEST) {
        let (long_unit, short_unit) = (long_weights[index], short_weights[index]);
        let (mut long, mut short) = (FLAT * long_unit, FLAT * short_unit);
        let (mut long_count, mut short_count) = (long, short);
        for earlier in 0..index {
            let near = scale * kernel.at_lag(slots[index].abs_diff(slots[earlier]));
            long += long_weights[earlier] * near;
            short += short_weights[earlier] * near;
            long_count += long_weights[earlier];
            short_count += short_weights[earlier];
        }
        evidence += importance * ((short / short_count).ln() - (long / long_count).ln());
        importance *= FADE;
    }
    let trust = times.len() as f32 / (times.len() as f32 + 15.0);
    let odds = SHORT_PRIOR / (1.0 - SHORT_PRIOR) * (trust * evidence).clamp(-20.0, 20.0).exp();
    odds / (1.0 + odds)
}

#[cfg(test)]
mod tests {
    use event::grid::HOUR_MS;

    use super::*;

    /// One event a day at `hour(day)`, with some scatter.
    fn daily(days: i64, hour: impl Fn(i64) -> i64) -> Vec<Timestamp> {
        let start: Timestamp = "2026-01-05T00:00:00Z".parse().unwrap();
        (0..days)
            .map(|day| start.plus_millis((day * 24 + hour(day)) * HOUR_MS + day * 7 % 50 * 60_000))
            .collect()
    }

    #[test]
    fn people_who_moved_are_known_by_their_last_weeks() {
        let kernel = Kernel::new(90.0, [1.0, 0.6, 0.45, 0.4]);
        let steady = short_weight(&daily(120, |_| 9), &kernel);
        let moved = short_weight(&daily(120, |day| if day < 100 { 9 } else { 17 }), &kernel);
        assert!(steady < 0.15, "{steady}");
        assert!(moved > 0.8, "{moved}");
        assert_eq!(short_weight(&daily(5, |_| 9), &kernel), SHORT_PRIOR);
    }
}
