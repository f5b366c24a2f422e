//! Whether a provider's delays deviate from the expected ones more than they used to.
//!
//! What is compared are hours, each represented by the median of its mails' errors: the mails of one hour wait in the same
//! queue and are not independent observations. The two samples of hours are compared by rank, so that neither one outage
//! nor a clock that is wrong for a day decides alone, and only a shift that matters for a mail's timing raises the alarm.

use std::collections::BTreeMap;

use event::{Timestamp, grid::HOUR_MS};
use serde::Serialize;
use utoipa::ToSchema;

use super::Arrival;
use crate::latency::quantile;

/// The recent hours are those of the last day; if these are too few, the newest eight hours with mail within three days.
const RECENT_HOURS: i64 = 24;
const OLDEST_RECENT_HOURS: i64 = 72;

/// With fewer than eight recent hours no difference from the earlier ones can reach the required certainty.
const LEAST_RECENT: usize = 8;

/// Three times as many earlier hours: a day's worth, nights included.
const LEAST_EARLIER: usize = 24;

/// How many standard deviations apart the ranks must be: by chance, this happens once in a thousand independent days.
const LEAST_DEVIATIONS: f64 = 3.3;

/// The smallest ratio that counts as a shift: up by half, or down to two thirds. Below it, a delay of minutes moves no
/// mail out of its quarter hour.
const LEAST_SHIFT: f64 = 1.5;

/// Delays below this are differences between clocks rather than delays; the table of delays uses the same bound.
const SHORTEST_MS: i64 = 100;

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DriftState {
    /// No change.
    Ok,
    /// The provider takes longer, or less long, than decisions expect, and did not do so before.
    Drifting,
    /// Too few hours with mail to tell.
    NotEnoughData,
}

/// The recent delays of a provider against the earlier ones, each as a ratio to the expected delay.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Drift {
    /// Provider.
    #[schema(example = "sendgrid")]
    pub esp: String,
    /// The result.
    pub state: DriftState,
    /// Hours with mail in the last day, or the newest of the last three days.
    pub recent_hours: usize,
    /// Hours with mail before these.
    pub earlier_hours: usize,
    /// Median over the recent hours of actual divided by expected delay; `null` without any.
    pub recent_ratio: Option<f64>,
    /// The same for the earlier hours.
    pub earlier_ratio: Option<f64>,
    /// How many standard deviations the rank sum of the recent hours lies above its expectation; `null` without enough data.
    pub deviations: Option<f64>,
}

/// Compares each provider's hours up to `until`.
pub(super) fn by_provider(arrivals: &[Arrival], until: Timestamp) -> Vec<Drift> {
    let mut hours: BTreeMap<&str, BTreeMap<i64, Vec<f64>>> = BTreeMap::new();
    for arrival in arrivals {
        let of_provider = hours.entry(&arrival.esp).or_default();
        let hour = arrival.sent_at.as_millis().div_euclid(HOUR_MS);
        let (actual, expected) = (
            arrival.actual_ms.max(SHORTEST_MS),
            arrival.expected_ms.max(SHORTEST_MS),
        );
        of_provider
            .entry(hour)
            .or_default()
            .push((actual as f64 / expected as f64).ln());
    }
    let now = until.as_millis().div_euclid(HOUR_MS);
    let drift = |(esp, hours): (&str, BTreeMap<i64, Vec<f64>>)| {
        let medians = hours
            .into_iter()
            .map(|(hour, mut errors)| (hour, median(&mut errors)));
        compare(esp, &medians.collect::<Vec<_>>(), now)
    };
    hours.into_iter().map(drift).collect()
}

/// Compares hours, in the order of time, each with the logarithm of its ratio.
fn compare(esp: &str, hours: &[(i64, f64)], now: i64) -> Drift {
    let of_last_day = hours.partition_point(|(hour, _)| *hour < now - RECENT_HOURS);
    let of_three_days = hours.partition_point(|(hour, _)| *hour < now - OLDEST_RECENT_HOURS);
    let newest = hours.len().saturating_sub(LEAST_RECENT);
    let (earlier, recent) = hours.split_at(of_last_day.min(newest.max(of_three_days)));
    let values = |hours: &[(i64, f64)]| hours.iter().map(|(_, ratio)| *ratio).collect::<Vec<f64>>();
    let (mut earlier, mut recent) = (values(earlier), values(recent));
    let is_enough = recent.len() >= LEAST_RECENT && earlier.len() >= LEAST_EARLIER;
    let deviations = is_enough.then(|| rank_deviations(&recent, &earlier));
    let ratio = |values: &mut Vec<f64>| (!values.is_empty()).then(|| median(values).exp());
    let (recent_hours, earlier_hours) = (recent.len(), earlier.len());
    let (recent_ratio, earlier_ratio) = (ratio(&mut recent), ratio(&mut earlier));
    let state = match (deviations, recent_ratio, earlier_ratio) {
        (Some(deviations), Some(recent), Some(earlier)) => {
            let shift = (recent / earlier).max(earlier / recent);
            if deviations.abs() >= LEAST_DEVIATIONS && shift >= LEAST_SHIFT {
                DriftState::Drifting
            } else {
                DriftState::Ok
            }
        }
        _ => DriftState::NotEnoughData,
    };
    Drift {
        esp: esp.to_owned(),
        state,
        recent_hours,
        earlier_hours,
        recent_ratio,
        earlier_ratio,
        deviations,
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    quantile(values, 0.5).unwrap_or_default()
}

/// Returns by how many standard deviations the rank sum of `a` among both samples exceeds its expectation (Wilcoxon,
/// Mann and Whitney). Equal values share their ranks.
fn rank_deviations(a: &[f64], b: &[f64]) -> f64 {
    let above = |value: f64| -> f64 {
        let below = b.iter().filter(|other| **other < value).count() as f64;
        let equal = b.iter().filter(|other| **other == value).count() as f64;
        below + equal / 2.0
    };
    let pairs: f64 = a.iter().map(|value| above(*value)).sum();
    let (n, m) = (a.len() as f64, b.len() as f64);
    (pairs - n * m / 2.0) / (n * m * (n + m + 1.0) / 12.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One mail in each of `hours`, with a delay of `ratio` times the expected one, give or take a quarter.
    fn mails(hours: std::ops::Range<i64>, ratio: f64) -> Vec<Arrival> {
        let mail = |hour: i64| Arrival {
            esp: "ses".into(),
            mailbox_provider: None,
            sent_at: Timestamp::from_millis_clamped(hour * HOUR_MS),
            expected_ms: 10_000,
            actual_ms: (10_000.0 * ratio * (1.0 + 0.05 * (hour * 7 % 11 - 5) as f64)) as i64,
            off_target_ms: 0,
        };
        hours.map(mail).collect()
    }

    fn drift(arrivals: &[Arrival], now: i64) -> Drift {
        by_provider(arrivals, Timestamp::from_millis_clamped(now * HOUR_MS)).remove(0)
    }

    #[test]
    fn a_provider_that_slows_down_drifts_and_one_that_does_not_does_not() {
        let before = mails(0..300, 1.0);
        let with = |ratio| drift(&[before.clone(), mails(300..324, ratio)].concat(), 324);
        for (ratio, state) in [
            (1.0, DriftState::Ok),
            (1.2, DriftState::Ok),
            (2.0, DriftState::Drifting),
            (0.5, DriftState::Drifting),
        ] {
            let drift = with(ratio);
            assert_eq!(drift.state, state, "{ratio}: {drift:?}");
            assert!(
                (drift.recent_ratio.unwrap() / ratio - 1.0).abs() < 0.1,
                "{drift:?}"
            );
        }
        // A provider that was always slower than expected is a matter for the table of delays, not for an alarm.
        assert_eq!(drift(&mails(0..324, 2.0), 324).state, DriftState::Ok);
    }

    #[test]
    fn an_hour_that_hangs_is_no_drift() {
        let mut arrivals = mails(0..324, 1.0);
        for arrival in &mut arrivals[320..323] {
            arrival.actual_ms *= 500;
        }
        assert_eq!(drift(&arrivals, 324).state, DriftState::Ok);
        // A thousand mails of one hour count as one observation.
        let burst = vec![mails(323..324, 100.0).remove(0); 1_000];
        assert_eq!(drift(&[arrivals, burst].concat(), 324).state, DriftState::Ok);
    }

    #[test]
    fn few_hours_are_not_enough_and_rare_mail_looks_back_further() {
        assert_eq!(drift(&mails(0..31, 1.0), 31).state, DriftState::NotEnoughData);
        // Mail in three hours of each day only.
        let is_sent = |arrival: &Arrival| arrival.sent_at.as_millis() / HOUR_MS % 24 < 3;
        let mut arrivals = [mails(0..20 * 24, 1.0), mails(20 * 24..23 * 24, 3.0)].concat();
        arrivals.retain(is_sent);
        let drift = drift(&arrivals, 23 * 24);
        assert_eq!((drift.state, drift.recent_hours), (DriftState::Drifting, 8));
        assert_eq!(super::by_provider(&[], Timestamp::default()), []);
    }
}
