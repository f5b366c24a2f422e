//! Computes a person's week from the person's sums.

use super::exposure::{Engagement, Sums};
use super::tables::{Derived, SHIFTS, Tables};
use super::week::{BINS, Kernel, Week, dot, mean, normalize};

/// The weight of opens relative to clicks, in the mixture and in the personal part. On simulated mail the share of the
/// possible gain rises up to 1 for both; in reality opens are less informative, and some are a machine's unnoticed.
pub(super) const OPENS_IN_MIXTURE: f32 = 0.6;
const OPENS_IN_PERSONAL: f32 = 0.8;

/// Evidence from many events is tempered to that of at most this many: people's events come in clumps, and the shapes
/// are approximations. From 14 to 100 scores rose by 0.005 bits; beyond that they stay the same.
const TEMPER: f32 = 100.0;

/// Number of events at which a person's mixture weighs as much as the pooled response.
const POOLED_EVENTS: f32 = 0.5;

/// The minimum weight of the pooled response: people do things that no shape predicts. On development data 3 to 10 %
/// scored the same.
const POOLED_FLOOR: f32 = 0.05;

/// Pseudo-events of the personal part where no delivery is known: on real activity 1 and 2 scored the same, 0.5 scored
/// less by 0.007 bits.
const PERSONAL_PRIOR: f32 = 1.0;

/// The same where deliveries are known. Each click and each unclicked mail says something about the minutes that it lay there, so
/// a person's own data are trusted sooner: on simulated mail 0.4 to 0.6 scored alike, 1 scored less by 0.01 of the possible gain.
const PERSONAL_PRIOR_OF_MAIL: f32 = 0.5;

/// Returns spread and day weights of the personal part: a click on a Tuesday also counts for Wednesday, a little less. 90
/// and 120 minutes scored best among 45 to 120.
pub(super) fn personal_kernel() -> Kernel {
    Kernel::new(90.0, [1.0, 0.6, 0.45, 0.4])
}

/// Like [`personal_kernel`], where deliveries are known: there, days say more about each other's mail than about each
/// other's clicks. With the weights above, the best day of seven is found less often (0.02 of the possible gain of a
/// week's window). 0.3 to 0.45 for the next day scored alike.
pub(super) fn personal_kernel_of_mail() -> Kernel {
    Kernel::new(90.0, [1.0, 0.4, 0.25, 0.25])
}

/// A person's week and what it rests on.
pub(super) struct Posterior {
    /// The person's response by hour, 1 on average.
    pub(super) week: Week,
    /// The share of the week's shape that is not the person's own, 0 to 1.
    pub(super) prior_weight: f32,
}

/// Returns the weight of each (shape, shift) for a person; they sum to 1.
pub(super) fn responsibilities(tables: &Tables, derived: &Derived, sums: &Sums) -> Vec<f32> {
    let count = sums.count();
    let temper = TEMPER / (TEMPER + count);
    let mut scores = Vec::with_capacity(tables.shapes.len() * SHIFTS);
    for shape in 0..tables.shapes.len() {
        for shift in 0..SHIFTS {
            let (candidate, log_candidate) = (derived.shape(shape, shift), derived.log_shape(shape, shift));
            // How well the shape separates the hours, given the number of events.
            let of = |engagement: &Engagement| {
                if engagement.count == 0.0 {
                    return 0.0;
                }
                let expected = dot(&engagement.exposure, candidate).max(f32::MIN_POSITIVE);
                dot(&engagement.events, log_candidate) - engagement.count * expected.ln()
            };
            let mut evidence = of(&sums.clicks) + OPENS_IN_MIXTURE * of(&sums.opens);
            if let Some(alone) = &sums.alone {
                evidence += dot(&alone[..], log_candidate);
            }
            scores.push(derived.log_weight(shape, shift) + temper * evidence);
        }
    }
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for score in &mut scores {
        *score = (*score - highest).exp();
        total += *score;
    }
    scores.iter_mut().for_each(|score| *score /= total);
    scores
}

/// Computes the week of a person with these sums.
pub(super) fn posterior(tables: &Tables, derived: &Derived, sums: &Sums) -> Posterior {
    let count = sums.count();
    let mut mixture = [0.0; BINS];
    for (candidate, weight) in responsibilities(tables, derived, sums).into_iter().enumerate() {
        // Candidates below a millionth change no digit that matters.
        if weight > 1e-6 {
            let shape = derived.shape(candidate / SHIFTS, candidate % SHIFTS);
            for (sum, value) in mixture.iter_mut().zip(shape) {
                *sum += weight * value;
            }
        }
    }
    let own = (count / (count + POOLED_EVENTS)).min(1.0 - POOLED_FLOOR);
    for (value, pooled) in mixture.iter_mut().zip(&tables.pooled) {
        *value = own * *value + (1.0 - own) * pooled;
    }
    normalize(&mut mixture);

    // Observed over expected near each hour, given the mixture.
    let mut observed = [0.0; BINS];
    let mut expected = [0.0; BINS];
    let sources = [
        (&sums.clicks, 1.0, tables.click_level),
        (&sums.opens, OPENS_IN_PERSONAL, tables.open_level),
    ];
    for (engagement, weight, level) in sources {
        if !engagement.exposed {
            continue;
        }
        let shape = tables.level_shape;
        let level = (shape + engagement.count) / (shape / level + dot(&engagement.exposure, &mixture));
        for bin in 0..BINS {
            observed[bin] += weight * engagement.events[bin];
            expected[bin] += weight * level * engagement.exposure[bin] * mixture[bin];
        }
    }
    if let Some(alone) = &sums.alone {
        for bin in 0..BINS {
            observed[bin] += alone[bin];
            expected[bin] += sums.alone_count / BINS as f32 * mixture[bin];
        }
    }
    let (kernel, prior) = if sums.clicks.exposed {
        (&derived.personal_of_mail, PERSONAL_PRIOR_OF_MAIL)
    } else {
        (&derived.personal, PERSONAL_PRIOR)
    };
    let (observed, expected) = (kernel.apply(&observed), kernel.apply(&expected));
    let mut week = [0.0; BINS];
    let mut weight_sum = 0.0;
    for bin in 0..BINS {
        week[bin] = mixture[bin] * (prior + observed[bin]) / (prior + expected[bin]);
        weight_sum += prior / (prior + expected[bin]);
    }
    normalize(&mut week);
    let echoed = sums
        .alone
        .as_ref()
        .map_or(0.0, |alone| add_echo(derived, &mut week, alone, sums));
    Posterior {
        week,
        prior_weight: (1.0 - echoed) * weight_sum / BINS as f32,
    }
}

/// The share of a week that simply repeats the person's own hours, for events without a known mail. People with one or
/// two events return at the same hour of the same day more often than any shape predicts; 3 to 10 % scored alike.
const ECHO: f32 = 0.06;

/// With less evidence than this many events the echo's share shrinks with it: an old open is no fresh click. On real activity 0.5 and
/// 1 scored alike; with a share of `n / (n + 0.5)`, which takes from a fresh click as well, the few acts of people who have one or
/// two scored less by 0.004 bits.
const ECHO_EVENTS: f32 = 1.0;

/// Adds the echo to a week, and returns its share of it.
fn add_echo(derived: &Derived, week: &mut Week, alone: &Week, sums: &Sums) -> f32 {
    if sums.alone_count <= 0.0 {
        return 0.0;
    }
    let mut echo = derived.echo.apply(alone);
    let average = mean(&echo);
    if average <= 0.0 {
        return 0.0;
    }
    echo.iter_mut().for_each(|value| *value /= average);
    let share = ECHO * sums.alone_count / sums.count().max(ECHO_EVENTS);
    for (value, echo) in week.iter_mut().zip(&echo) {
        *value = (1.0 - share) * *value + share * echo;
    }
    share
}

/// Returns the kernel of the echo: one day of the week, two hours wide.
pub(super) fn echo_kernel() -> Kernel {
    Kernel::new(120.0, [1.0, 0.0, 0.0, 0.0])
}
