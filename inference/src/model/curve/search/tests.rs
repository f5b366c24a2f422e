use event::{Event, EventType, Hasher, grid::HOUR_MS, profile::Profile};
use proptest::prelude::*;

use super::*;
use crate::model::Population;

/// A Monday, 00:00 UTC.
fn monday() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// The curve of a person with clicks these numbers of hours ago, on mails if `with_mail`.
fn curve(hours_ago: &[i64], with_mail: bool) -> Curve {
    let template = synth::mock_events(1, 1, monday(), &Hasher::new()).remove(0);
    let mut profile = Profile::default();
    for hours in hours_ago {
        let clicked = Event {
            timestamp: monday().plus_millis(-hours * HOUR_MS),
            event_type: EventType::Clicked,
            message_id: with_mail.then(|| format!("m{hours}")),
            ..template.clone()
        };
        if with_mail {
            let delivered = Event {
                timestamp: clicked.timestamp.plus_millis(-5 * HOUR_MS),
                event_type: EventType::Delivered,
                ..clicked.clone()
            };
            profile.apply(&delivered, false);
        }
        profile.apply(&clicked, false);
    }
    Population::builtin().curve(Some(&profile), monday())
}

/// Every minute of the ranges in turn, with its weighted score: the exhaustive search that all searches abbreviate.
fn all_minutes(
    curve: &Curve,
    ranges: &[Range<Timestamp>],
    weight: impl Fn(Timestamp) -> f64,
) -> Vec<(Timestamp, f64)> {
    let mut all = Vec::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            all.push((at, curve.score(at) * weight(at)));
            at = grid::floor_minute(at).plus_millis(grid::MINUTE_MS);
        }
    }
    all
}

/// The highest score, the earliest one in case of a tie.
fn best_of(minutes: &[(Timestamp, f64)]) -> Option<Best> {
    let best = minutes
        .iter()
        .min_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)))?;
    Some(Best {
        at: best.0,
        score: best.1,
    })
}

/// [`Curve::confidence`] by its definition: the mass of each quarter hour is looked up separately.
fn confidence_by_definition(curve: &Curve, chosen: Timestamp, ranges: &[Range<Timestamp>]) -> f64 {
    let expected = |from: Timestamp, to: Timestamp| {
        let mut sum = curve.mass(from, to);
        if let Some(presence) = curve.presence() {
            let mut begin = from;
            while begin < to.min(presence.forgotten_at()) {
                let end = begin.plus_millis(QUARTER_MS).min(to.min(presence.forgotten_at()));
                let middle = begin.plus_millis(end.millis_since(begin) / 2);
                sum += (presence.factor(middle) - 1.0) * curve.mass(begin, end);
                begin = end;
            }
        }
        sum
    };
    let soon = chosen..chosen.plus_millis(curve.span_ms());
    let ranges: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).collect();
    let first = ranges.iter().map(|range| range.start).chain([soon.start]).min();
    let last = ranges.iter().map(|range| range.end).chain([soon.end]).max();
    let length_ms: i64 = ranges
        .iter()
        .map(|range| range.end.millis_since(range.start))
        .sum();
    let share =
        (expected(soon.start, soon.end) / expected(first.unwrap(), last.unwrap())).clamp(0.001, 0.999);
    let terms = [
        1.0,
        (share / (1.0 - share)).ln(),
        (1.0 + curve.evidence().events as f64).ln(),
        (length_ms as f64 / 86_400_000.0).max(1.0 / 24.0).ln(),
    ];
    let odds: f64 = terms
        .iter()
        .zip(curve.confidence)
        .map(|(term, weight)| term * f64::from(weight))
        .sum();
    1.0 / (1.0 + (-odds).exp())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The minute, its score, the minutes nearly as good and the confidence are bit for bit those of the exhaustive search.
    #[test]
    fn short_cuts_find_what_a_look_at_every_minute_finds(
        hours_ago in prop::collection::vec(0..2_000_i64, 0..40),
        with_mail in any::<bool>(),
        spans in prop::collection::vec((-30_000..20_000_i64, 0..12_000_i64, 0..60_000_i64), 0..4),
        fade in 0.0..9.0_f64,
        half_life_hours in 0.5..40.0_f64,
        share in 0.7..1.0_f64,
    ) {
        let curve = curve(&hours_ago, with_mail);
        let ranges: Vec<_> = spans
            .iter()
            .map(|(start, minutes, ms)| {
                let start = monday().plus_millis(start * 60_000 + ms);
                start..start.plus_millis(minutes * 60_000)
            })
            .collect();
        let presence = |at: Timestamp| curve.presence().map_or(1.0, |presence| presence.factor(at));
        let half_life_ms = half_life_hours * HOUR_MS as f64;
        let weight = |at: Timestamp| 1.0 + fade * (-(at.millis_since(monday()) as f64) / half_life_ms).exp2();
        let plain = all_minutes(&curve, &ranges, presence);
        let weighted = all_minutes(&curve, &ranges, weight);
        let best = best_of(&plain);
        prop_assert_eq!(curve.best(&ranges), best);
        prop_assert_eq!(curve.best_weighted(&ranges, weight), best_of(&weighted));
        if let Some(best) = best {
            let least = share * best.score;
            let nearly: Vec<_> = plain.iter().filter(|minute| minute.1 >= least).map(|minute| minute.0).collect();
            prop_assert_eq!(curve.at_least(&ranges, presence, least).collect::<Vec<_>>(), nearly);
            prop_assert_eq!(
                curve.confidence(best.at, &ranges).to_bits(),
                confidence_by_definition(&curve, best.at, &ranges).to_bits()
            );
        }
    }
}
