//! Fits the population's tables to people's past.
//!
//! Expectation maximization over the (shape, shift) of each person, alternating with estimates of attention. Every table
//! keeps some weight of the one it started from, so that a hundred people bend the prior and a hundred thousand replace it.

mod attention;
mod confidence;
mod held_back;
mod presence;

use event::{
    Timestamp, grid,
    profile::{History, Profile},
};

use super::Population;
use super::drift::LONG_DAYS;
use super::exposure::{Engagement, Sums, act_times};
use super::posterior::responsibilities;
use super::tables::{Derived, SHIFTS, Tables};
use super::week::{BINS, Kernel, Week, dot, normalize};

/// A person's past, as input for the fit.
#[derive(Debug, Clone, Default)]
pub struct TrainingPerson {
    /// Everything that is remembered of the person.
    pub profile: Profile,
}

/// More people than this do not visibly sharpen any table, and the sums of this many take 60 MB.
const MOST_PEOPLE: usize = 20_000;

/// Number of rounds before and after attention is estimated again. The likelihood of held-back people stops changing
/// after twenty.
const FIRST_ROUNDS: usize = 16;
const LAST_ROUNDS: usize = 10;

/// A person counts for at most this many events, so that a few very active people do not determine the shapes. Not tuned.
const MOST_EVENTS: f32 = 80.0;

/// Weights, in events for each hour of a shape: of the same hour on other days, and of the shape that the fit started from. For
/// other days, 4 was better by 0.003 bits on plentiful real activity, 12 by 0.01 of the possible gain on sparse simulated mail. The
/// weight of the first shape is not tuned.
const DAYS_PRIOR: f32 = 10.0;
const SHAPE_PRIOR: f32 = 0.6;

/// Weight, in people, of how common the shapes were when the fit started. Not tuned.
const WEIGHTS_PRIOR: f32 = 60.0;

/// Weights, in events, of the pooled response (per hour) and of the levels (in total) that the fit started from. Not tuned.
const POOLED_PRIOR: f32 = 1.0;
const LEVEL_PRIOR: f32 = 20.0;

/// Bounds of the levels' gamma shape: with a smaller one a few people have everything; with a larger one all people are alike.
/// Not tuned.
const LEVEL_SHAPE: (f32, f32) = (0.3, 5.0);

/// Responsibilities below this change no shape.
const NEGLIGIBLE: f32 = 1e-3;

/// Smooths shapes over neighbouring hours, and over days where a day has too few events.
fn shape_kernel() -> Kernel {
    Kernel::new(36.0, [1.0, 0.0, 0.0, 0.0])
}
fn days_kernel() -> Kernel {
    Kernel::new(60.0, [1.0, 0.6, 0.45, 0.4])
}

pub(super) fn fit(
    prior: &Population,
    people: impl IntoIterator<Item = TrainingPerson>,
    now: Timestamp,
) -> Option<Population> {
    let mut histories = take_histories(people, now);
    keep_whole_weeks(&mut histories, now);
    let events: usize = histories.iter().map(|history| act_times(history).len()).sum();
    if events == 0 {
        return None;
    }
    let mut tables = prior.tables.clone();
    tables.people = histories.len();
    tables.events = events;
    let has_mail = attention::enough(&histories);
    if has_mail {
        tables.attention_learned = true;
        for _ in 0..2 {
            let derived = Derived::new(&tables);
            let sums = sums_of(&histories, now, &derived);
            refit_pooled(&mut tables, prior, &sums);
            attention::refit(&mut tables, prior, &histories, &sums, now, false);
        }
    }
    for round in 0..2 {
        let mut derived = Derived::new(&tables);
        let sums = sums_of(&histories, now, &derived);
        refit_pooled(&mut tables, prior, &sums);
        for _ in 0..[FIRST_ROUNDS, LAST_ROUNDS][round] {
            refit_shapes(&mut tables, prior, &derived, &sums);
            derived = Derived::new(&tables);
        }
        if round == 0 && has_mail {
            attention::refit(&mut tables, prior, &histories, &sums, now, true);
        }
    }
    let mut population =
        Population::try_from(tables).expect("fitted tables are positive and of the right lengths");
    // The confidence is fitted to decisions as they will be made, so it comes after the weight that enters them.
    let mut moments = held_back::moments(&population, &histories);
    if let Some(presence) = presence::refit(population.tables.presence, &moments) {
        let mut tables = population.tables;
        tables.presence = presence;
        population = Population::try_from(tables).expect("the weight and half-life tried are in range");
        moments = held_back::moments(&population, &histories);
    }
    if let Some(terms) = confidence::refit(&population, &moments) {
        let mut tables = population.tables;
        tables.confidence = terms.to_vec();
        population = Population::try_from(tables).expect("only the confidence map changed");
    }
    Some(population)
}

/// Returns the histories of at most [`MOST_PEOPLE`] people, sampled evenly.
fn take_histories(people: impl IntoIterator<Item = TrainingPerson>, now: Timestamp) -> Vec<History> {
    let mut histories = Vec::new();
    let mut stride = 1;
    for (index, person) in people.into_iter().enumerate() {
        if index % stride != 0 {
            continue;
        }
        histories.push(person.profile.history(now));
        if histories.len() > MOST_PEOPLE {
            let mut place = 0;
            histories.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            stride *= 2;
        }
    }
    histories
}

/// Removes the activity of the partial week at the beginning of the past, if whole weeks follow it. Where no deliveries
/// are known, exposure is assumed flat, and days that occur once more than the others would count as popular.
fn keep_whole_weeks(histories: &mut [History], now: Timestamp) {
    let activities = histories.iter().flat_map(|history| &history.activities);
    let Some(first) = activities.map(|activity| activity.at).min() else {
        return;
    };
    let whole_ms = now.millis_since(first) / grid::WEEK_MS * grid::WEEK_MS;
    if whole_ms == 0 {
        return;
    }
    let since = now.plus_millis(-whole_ms);
    for history in histories {
        history.activities.retain(|activity| activity.at >= since);
    }
}

fn sums_of(histories: &[History], now: Timestamp, derived: &Derived) -> Vec<Sums> {
    histories
        .iter()
        .map(|history| Sums::of(history, now, &derived.attention, LONG_DAYS))
        .collect()
}

/// One round of expectation maximization over shapes and weights.
fn refit_shapes(tables: &mut Tables, prior: &Population, derived: &Derived, people: &[Sums]) {
    let shapes = tables.shapes.len();
    let mut events = vec![[0.0_f32; BINS]; shapes];
    let mut expected = vec![[0.0_f32; BINS]; shapes];
    let mut weights = vec![[0.0_f32; SHIFTS]; shapes];
    for sums in people {
        let count = sums.count();
        if count == 0.0 {
            continue;
        }
        let scale = (MOST_EVENTS / count).min(1.0);
        for (candidate, share) in responsibilities(tables, derived, sums).into_iter().enumerate() {
            if share < NEGLIGIBLE {
                continue;
            }
            let (shape, shift) = (candidate / SHIFTS, candidate % SHIFTS);
            weights[shape][shift] += share;
            let curve = derived.shape(shape, shift);
            let mut add = |source: &Week, exposure: Option<&Week>, count: f32, weight: f32| {
                let level = match exposure {
                    Some(exposure) => count / dot(exposure, curve).max(f32::MIN_POSITIVE),
                    None => count / BINS as f32,
                };
                for bin in 0..BINS {
                    let at = (bin + BINS - shift) % BINS;
                    events[shape][at] += weight * source[bin];
                    expected[shape][at] += weight * level * exposure.map_or(1.0, |exposure| exposure[bin]);
                }
            };
            for (engagement, weight) in [
                (&sums.clicks, 1.0),
                (&sums.opens, super::posterior::OPENS_IN_MIXTURE),
            ] {
                if engagement.count > 0.0 {
                    add(
                        &engagement.events,
                        Some(&engagement.exposure),
                        engagement.count,
                        share * scale * weight,
                    );
                }
            }
            if let Some(alone) = &sums.alone {
                add(alone, None, sums.alone_count, share * scale);
            }
        }
    }
    let (near, days) = (shape_kernel(), days_kernel());
    for shape in 0..shapes {
        let start = &prior.tables.shapes[shape];
        let mut refitted = [0.0; BINS];
        let (events_near, expected_near) = (near.apply(&events[shape]), near.apply(&expected[shape]));
        let (events_days, expected_days) = (days.apply(&events[shape]), days.apply(&expected[shape]));
        for bin in 0..BINS {
            let days_ratio =
                (events_days[bin] + SHAPE_PRIOR * start[bin]) / (expected_days[bin] + SHAPE_PRIOR);
            refitted[bin] = (events_near[bin] + DAYS_PRIOR * days_ratio) / (expected_near[bin] + DAYS_PRIOR);
        }
        normalize(&mut refitted);
        // No hour is impossible.
        refitted
            .iter_mut()
            .for_each(|value| *value = 0.98 * *value + 0.02);
        tables.shapes[shape] = refitted.to_vec();
    }
    let total: f32 = weights.iter().flatten().sum::<f32>() + WEIGHTS_PRIOR;
    for (shape, of_shape) in weights.iter().enumerate() {
        for (shift, weight) in of_shape.iter().enumerate() {
            tables.weights[shape][shift] =
                (weight + WEIGHTS_PRIOR * prior.tables.weights[shape][shift]) / total;
        }
    }
}

/// Refits the pooled response and the distribution of levels.
fn refit_pooled(tables: &mut Tables, prior: &Population, people: &[Sums]) {
    let of_clicks: fn(&Sums) -> &Engagement = |sums| &sums.clicks;
    let (click_level, shape) = levels(people, of_clicks, prior.tables.click_level);
    let (open_level, _) = levels(people, |sums| &sums.opens, prior.tables.open_level);
    (tables.click_level, tables.open_level) = (click_level, open_level);
    tables.level_shape = shape.unwrap_or(prior.tables.level_shape);

    let (mut events, mut expected) = ([0.0; BINS], [0.0; BINS]);
    for sums in people {
        // People with many events count for more, but not proportionally.
        let weight = 1.0 / sums.count().max(1.0).sqrt();
        if sums.clicks.exposed {
            let total: f32 = sums.clicks.exposure.iter().sum();
            let shape = tables.level_shape;
            let level = (shape + sums.clicks.count) / (shape / click_level + total);
            for bin in 0..BINS {
                events[bin] += weight * sums.clicks.events[bin];
                expected[bin] += weight * level * sums.clicks.exposure[bin];
            }
        }
        if let Some(alone) = &sums.alone {
            for bin in 0..BINS {
                events[bin] += weight * alone[bin];
                expected[bin] += weight * sums.alone_count / BINS as f32;
            }
        }
    }
    let kernel = Kernel::new(50.0, [1.0, 0.0, 0.0, 0.0]);
    let (events, expected) = (kernel.apply(&events), kernel.apply(&expected));
    let mut pooled = [0.0; BINS];
    for bin in 0..BINS {
        pooled[bin] =
            (events[bin] + POOLED_PRIOR * prior.tables.pooled[bin]) / (expected[bin] + POOLED_PRIOR);
    }
    normalize(&mut pooled);
    tables.pooled = pooled.iter().map(|value| 0.98 * value + 0.02).collect();
}

/// Returns the mean level of engagement per hour of exposure and, by the method of moments, the gamma shape of people's levels.
fn levels(people: &[Sums], of: impl Fn(&Sums) -> &Engagement, prior: f32) -> (f32, Option<f32>) {
    let exposed = || people.iter().map(&of).filter(|engagement| engagement.exposed);
    let exposure = |engagement: &Engagement| engagement.exposure.iter().sum::<f32>();
    let (mut count, mut total) = (LEVEL_PRIOR, LEVEL_PRIOR / prior);
    for engagement in exposed() {
        count += engagement.count;
        total += exposure(engagement);
    }
    let level = count / total;
    let (mut squares, mut excess) = (0.0, 0.0);
    for engagement in exposed() {
        let expected = level * exposure(engagement);
        squares += expected * expected;
        excess += (engagement.count - expected).powi(2) - expected;
    }
    let shape = (squares > 0.0).then(|| {
        let shape = if excess > 0.0 {
            squares / excess
        } else {
            LEVEL_SHAPE.1
        };
        shape.clamp(LEVEL_SHAPE.0, LEVEL_SHAPE.1)
    });
    (level, shape)
}
