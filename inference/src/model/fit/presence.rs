//! How much the last act raises the next hours, by maximum likelihood of what people did within a week of a moment.

use event::{Timestamp, grid::QUARTER_MS};

use super::held_back::HeldBack;

/// Weights and half-lives that are tried. Above a weight of 8 the likelihood of real activity may still grow, since
/// every burst adds to it, while hits within two hours of the chosen minute become fewer.
const WEIGHTS: [f64; 6] = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0];
const HALF_LIVES_HOURS: [f64; 4] = [4.0, 8.0, 16.0, 32.0];

/// How far acts are looked at: within a week, every hour of it occurs once.
const HORIZON_QUARTERS: usize = 672;

/// With fewer people than this the weight stays as it was.
const ENOUGH: usize = 400;

/// Log likelihood that must be gained per person on average before weight and half-life are changed: the noise of 400
/// people stays below it.
const LEAST_GAIN: f64 = 0.01;

/// Gains over having no factor, by half-life and weight.
type Gains = [[f64; WEIGHTS.len()]; HALF_LIVES_HOURS.len()];

/// Returns the weight and half-life refitted from `start`, or `None` if there are too few people or too little to gain.
pub(super) fn refit(start: [f32; 2], moments: &[HeldBack]) -> Option<[f32; 2]> {
    let mut gains: Gains = Default::default();
    let fading: Vec<[f64; HALF_LIVES_HOURS.len()]> = (0..HORIZON_QUARTERS).map(fading_after).collect();
    let mut people = 0;
    for moment in moments {
        people += usize::from(add(&mut gains, moment, &fading));
    }
    if people < ENOUGH {
        return None;
    }
    let (mut best, mut of_start) = ((f64::MIN, [0.0, 0.0]), 0.0);
    for (half_life, gains) in HALF_LIVES_HOURS.iter().zip(gains) {
        for (weight, gain) in WEIGHTS.iter().zip(gains) {
            let candidate = [*weight as f32, *half_life as f32];
            if candidate == start {
                of_start = gain;
            }
            if gain > best.0 {
                best = (gain, candidate);
            }
        }
    }
    (best.0 - of_start > LEAST_GAIN * people as f64).then_some(best.1)
}

/// Returns the share of a weight that is left after a number of quarter hours, for each half-life.
fn fading_after(quarters: usize) -> [f64; HALF_LIVES_HOURS.len()] {
    let hours = (quarters as f64 + 0.5) / 4.0;
    HALF_LIVES_HOURS.map(|half_life| (-hours / half_life).exp2())
}

/// Adds a person's gain of each candidate over having no factor; returns `false` if the person cannot contribute.
fn add(gains: &mut Gains, moment: &HeldBack, fading: &[[f64; HALF_LIVES_HOURS.len()]]) -> bool {
    let quarter_of = |at: Timestamp| (at.millis_since(moment.cut) / QUARTER_MS) as usize;
    let acts: Vec<usize> = moment
        .future
        .iter()
        .map(|act| quarter_of(*act))
        .take_while(|quarter| *quarter < HORIZON_QUARTERS)
        .collect();
    let (Some(last), false) = (moment.last, acts.is_empty()) else {
        return false;
    };
    let since_hours = moment.cut.millis_since(last) as f64 / 3_600_000.0;
    let mut total = 0.0;
    let mut faded = [0.0; HALF_LIVES_HOURS.len()];
    for (quarter, left) in fading.iter().enumerate() {
        let middle = moment
            .cut
            .plus_millis(quarter as i64 * QUARTER_MS + QUARTER_MS / 2);
        let density = moment.curve.density(middle);
        total += density;
        for (sum, left) in faded.iter_mut().zip(left) {
            *sum += density * left;
        }
    }
    for (place, half_life) in HALF_LIVES_HOURS.iter().enumerate() {
        let left_at_cut = (-since_hours / half_life).exp2();
        for (gain, weight) in gains[place].iter_mut().zip(WEIGHTS) {
            let now = weight * left_at_cut;
            let of_acts: f64 = acts
                .iter()
                .map(|quarter| (1.0 + now * fading[*quarter][place]).ln())
                .sum();
            *gain += of_acts / acts.len() as f64 - (1.0 + now * faded[place] / total).ln();
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use event::profile::{Activity, History};

    use event::grid::HOUR_MS;

    use super::*;
    use crate::{
        draw,
        model::{
            Population,
            fit::{Person, held_back::moments},
        },
    };

    /// 900 people over 150 days: spells of six acts, two hours apart, or single acts, at arbitrary hours.
    fn people(acts_in_a_spell: i64) -> Vec<Person> {
        let mut state = 1_u64;
        let mut below = |bound: i64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % bound as u64) as i64
        };
        let mut people = Vec::new();
        for number in 0..900 {
            let mut times: Vec<i64> = Vec::new();
            // Half of the time between two spells is free of acts: what is alone is not near another by chance.
            let spells = 120 / acts_in_a_spell;
            let apart = 150 * 24 * HOUR_MS / spells;
            for spell in 0..spells {
                let begin = spell * apart + below(apart / 2);
                times.extend((0..acts_in_a_spell).map(|act| begin + act * 2 * HOUR_MS));
            }
            times.sort_unstable();
            let activity = |time: i64| Activity {
                at: Timestamp::from_millis_clamped(1_700_000_000_000 + time),
                strong: true,
            };
            people.push(Person {
                draw: draw::mix(number),
                history: History {
                    activities: times.into_iter().map(activity).collect(),
                    ..History::default()
                },
            });
        }
        people
    }

    #[test]
    fn spells_give_the_last_act_weight_and_lone_acts_take_it() {
        let refit = |start, people: &[Person]| refit(start, &moments(&Population::plain(), people));
        let [weight, half_life_hours] = refit([0.0, 16.0], &people(6)).unwrap();
        assert!(
            weight >= 2.0 && half_life_hours <= 8.0,
            "{weight} {half_life_hours}"
        );
        let [weight, _] = refit([8.0, 16.0], &people(1)).unwrap();
        assert_eq!(weight, 0.0);
        // Nothing to gain, and too few people.
        assert_eq!(refit([0.0, 16.0], &people(1)), None);
        assert_eq!(refit([0.0, 16.0], &people(6)[..300]), None);
    }
}
