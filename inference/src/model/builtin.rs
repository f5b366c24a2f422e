//! The tables used before there are data of one's own.

use super::Population;
use super::exposure::{AGE_EDGES, AGES};
use super::tables::{SHIFTS, Tables};
use super::week::{BINS, Week, normalize};

/// (hour, spread in hours, height) of a bump.
type Bump = (f32, f32, f32);

/// Eight plain weeks: bumps on working days, bumps on weekends, and the height of the weekend. They are starting points
/// for a fit; which of them is which time zone's morning is left to the shifts.
const PLAIN: [(&[Bump], &[Bump], f32); 8] = [
    (&[(9.0, 1.5, 1.0), (14.0, 2.5, 0.8)], &[(11.0, 3.0, 0.3)], 0.4),
    (&[(12.0, 4.0, 1.0)], &[(12.0, 4.0, 1.0)], 1.0),
    (&[(7.5, 1.0, 1.0), (18.0, 1.5, 0.9)], &[(10.0, 2.5, 0.7)], 0.8),
    (&[(20.5, 1.8, 1.0)], &[(20.5, 2.0, 1.0)], 1.0),
    (&[(23.0, 2.0, 1.0), (15.0, 3.0, 0.5)], &[(23.5, 2.0, 1.0)], 1.1),
    (&[(12.5, 1.0, 1.0), (21.0, 1.5, 0.8)], &[(14.0, 4.0, 0.6)], 0.8),
    (&[(20.0, 2.0, 0.3)], &[(10.0, 1.5, 1.0), (16.0, 2.5, 0.8)], 2.5),
    (&[(12.0, 8.0, 1.0)], &[(12.0, 8.0, 1.0)], 1.0),
];

/// Weight and half-life (hours) of the last act. On real activity times, for decisions made while people were active,
/// hits within two hours grew from 0.22 to 0.23 in a day's window and from 0.05 to 0.10 in a week's; at arbitrary
/// moments of the past the likelihood stays the same, and a larger weight would lower it.
const PRESENCE: [f32; 2] = [2.0, 16.0];

/// Hours in which attention to a mail falls to 1/e, until it is learned.
const PLAIN_ATTENTION_HOURS: f32 = 9.0;

/// Returns tables made from nothing but the eight plain shapes: all equally common, at all shifts.
pub(super) fn plain() -> Population {
    let shapes: Vec<Vec<f32>> = PLAIN
        .iter()
        .map(|(working, weekend, height)| {
            let mut week: Week = std::array::from_fn(|bin| {
                let (bumps, height) = if bin >= 5 * 24 {
                    (weekend, *height)
                } else {
                    (working, 1.0)
                };
                let hour = (bin % 24) as f32 + 0.5;
                let bump = |(center, spread, weight): &Bump| {
                    let distance = (hour - center + 12.0).rem_euclid(24.0) - 12.0;
                    weight * (-0.5 * (distance / spread).powi(2)).exp()
                };
                // No hour has zero activity.
                0.15 + height * bumps.iter().map(bump).sum::<f32>()
            });
            normalize(&mut week);
            week.to_vec()
        })
        .collect();
    let weight = 1.0 / (shapes.len() * SHIFTS) as f32;
    let attention = (0..AGES).map(|band| {
        let hours = (AGE_EDGES[band] + AGE_EDGES[band + 1]) as f32 / 120.0;
        (-hours / PLAIN_ATTENTION_HOURS).exp()
    });
    let tables = Tables {
        weights: vec![vec![weight; SHIFTS]; shapes.len()],
        shapes,
        pooled: vec![1.0; BINS],
        attention: attention.collect(),
        attention_learned: false,
        // One mail in twenty is clicked, one in five is opened.
        click_level: 0.006,
        open_level: 0.03,
        level_shape: 1.0,
        confidence: vec![0.14, 1.10, 0.14, 0.144],
        presence: PRESENCE,
        people: 0,
        events: 0,
    };
    Population::try_from(tables).expect("the plain tables are positive and of the right lengths")
}

/// Tables fitted to the aggregated activity times of some 2,500 people, by the `compare` example.
const FITTED: &str = include_str!("builtin.json");

pub(super) fn population() -> Population {
    serde_json::from_str(FITTED).expect("the tables in the source are whole: a test reads them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_in_the_source_are_whole() {
        let population = population();
        assert!(population.people() > 2_000);
        assert_eq!(
            population.version(),
            super::super::Population::builtin().version()
        );
        let json = serde_json::to_string(&population).unwrap();
        assert!(json.len() < 24_000, "{} bytes", json.len());
        assert_eq!(serde_json::from_str::<Population>(&json).unwrap(), population);
    }

    #[test]
    fn damaged_tables_are_refused() {
        for (whole, damaged) in [
            ("\"attention\":[", "\"attention\":[-1.0,"),
            ("\"click_level\":", "\"click_level\":-"),
        ] {
            assert!(
                serde_json::from_str::<Population>(&FITTED.replacen(whole, damaged, 1)).is_err(),
                "{damaged}"
            );
        }
    }
}
