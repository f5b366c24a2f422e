//! Fits the population's tables to people's past.
//!
//! Expectation maximization over the (shape, shift) of each person, alternating with estimates of attention. Every table
//! keeps some weight of the one it started from, so that ten people hardly bend the prior, a hundred do, and thousands replace
//! it.

mod attention;
mod confidence;
mod held_back;
mod presence;

use event::{
    Timestamp, UniversalId, grid,
    profile::{History, Profile},
};

use super::Population;
use super::drift::LONG_DAYS;
use super::exposure::{Engagement, Sums, act_times};
use super::posterior::responsibilities;
use super::tables::{Derived, SHIFTS, Tables};
use super::week::{BINS, Kernel, Week, dot, normalize};
use crate::draw;

/// A person's past, as input for the fit.
#[derive(Debug, Clone)]
pub struct TrainingPerson {
    /// Whose past it is: what is drawn of a person comes from this, so that it stays the same whoever else is there.
    pub id: UniversalId,
    /// Everything that is remembered of the person.
    pub profile: Profile,
}

/// A person in the fit.
#[derive(Debug, PartialEq)]
struct Person {
    /// A number drawn for the person.
    draw: u64,
    history: History,
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

/// Weight, in people, of the tables that the fit started from, but at most the number of people that these were fitted to: the
/// plain tables have none, so that the built-in ones are not fitted to themselves. Measured by `compare --activity`, with starting
/// tables from other people than those learned from and those scored. Without it, 5 to 100 people from anywhere took 0.004 to
/// 0.065 bits from strangers. With 100, no number took more than 0.001 on average or 0.003 in any draw; with 200, strangers gain a
/// sixth less from a hundred people of their own region.
const PRIOR_PEOPLE: f32 = 100.0;

/// Number of acts of a person that say half as much about other people as everything that the person ever does. Without this,
/// the weight above would have to be 400 for people with one act each, 200 for people with three, and 100 for people with many.
const HALF_TOLD_ACTS: f32 = 3.0;

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
    let mut people = sample(people, now, MOST_PEOPLE);
    keep_whole_weeks(&mut people, now);
    let events: usize = people.iter().map(|person| act_times(&person.history).len()).sum();
    if events == 0 {
        return None;
    }
    let mut tables = prior.tables.clone();
    tables.people = people.len();
    tables.events = events;
    let has_mail = attention::enough(&people);
    if has_mail {
        tables.attention_learned = true;
        for _ in 0..2 {
            let derived = Derived::new(&tables);
            let sums = sums_of(&people, now, &derived);
            refit_pooled(&mut tables, prior, &sums, own_share(prior, &sums));
            attention::refit(&mut tables, prior, &people, &sums, now, false);
        }
    }
    for round in 0..2 {
        let mut derived = Derived::new(&tables);
        let sums = sums_of(&people, now, &derived);
        let own = own_share(prior, &sums);
        refit_pooled(&mut tables, prior, &sums, own);
        for _ in 0..[FIRST_ROUNDS, LAST_ROUNDS][round] {
            refit_shapes(&mut tables, prior, &derived, &sums, own);
            derived = Derived::new(&tables);
        }
        if round == 0 && has_mail {
            attention::refit(&mut tables, prior, &people, &sums, now, true);
        }
    }
    let mut population =
        Population::try_from(tables).expect("fitted tables are positive and of the right lengths");
    // The confidence is fitted to decisions as they will be made, so it comes after the weight that enters them.
    let mut moments = held_back::moments(&population, &people);
    if let Some(presence) = presence::refit(population.tables.presence, &moments) {
        let mut tables = population.tables;
        tables.presence = presence;
        population = Population::try_from(tables).expect("the weight and half-life tried are in range");
        moments = held_back::moments(&population, &people);
    }
    if let Some(terms) = confidence::refit(&population, &moments) {
        let mut tables = population.tables;
        tables.confidence = terms.to_vec();
        population = Population::try_from(tables).expect("only the confidence map changed");
    }
    Some(population)
}

/// Returns at most `most` of the people of whom anything is known by `now`.
fn sample(people: impl IntoIterator<Item = TrainingPerson>, now: Timestamp, most: usize) -> Vec<Person> {
    let mut sample = Vec::new();
    let mut halvings = 0;
    for person in people {
        let draw = draw::of_person(&person.id);
        let history = person.profile.history(now);
        if !is_left(draw, halvings) || history == History::default() {
            continue;
        }
        sample.push(Person { draw, history });
        while sample.len() > most {
            halvings += 1;
            sample.retain(|person| is_left(person.draw, halvings));
        }
    }
    sample
}

/// Returns whether a person is left after everybody was halved so many times. That depends on the number of people, but not on
/// who the others are or where they stand.
fn is_left(draw: u64, halvings: u32) -> bool {
    draw.trailing_zeros() >= halvings
}

/// Returns the number of halvings after which at most `most` of these people are left.
fn halvings(people: &[Person], most: usize) -> u32 {
    let left = |halvings| {
        people
            .iter()
            .filter(|person| is_left(person.draw, halvings))
            .count()
    };
    (0..u64::BITS)
        .find(|halvings| left(*halvings) <= most)
        .unwrap_or(u64::BITS)
}

/// Removes the activity of the partial week at the beginning of the past, if whole weeks follow it. Where no deliveries
/// are known, exposure is assumed flat, and days that occur once more than the others would count as popular.
fn keep_whole_weeks(people: &mut [Person], now: Timestamp) {
    let activities = people.iter().flat_map(|person| &person.history.activities);
    let Some(first) = activities.map(|activity| activity.at).min() else {
        return;
    };
    let whole_ms = now.millis_since(first) / grid::WEEK_MS * grid::WEEK_MS;
    if whole_ms == 0 {
        return;
    }
    let since = now.plus_millis(-whole_ms);
    for person in people {
        person.history.activities.retain(|activity| activity.at >= since);
    }
}

fn sums_of(people: &[Person], now: Timestamp, derived: &Derived) -> Vec<Sums> {
    people
        .iter()
        .map(|person| Sums::of(&person.history, now, &derived.attention, LONG_DAYS))
        .collect()
}

/// One round of expectation maximization over shapes and weights.
fn refit_shapes(tables: &mut Tables, prior: &Population, derived: &Derived, people: &[Sums], own: f32) {
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
        tables.shapes[shape] = shrunk_week(&refitted, start, own);
    }
    let total: f32 = weights.iter().flatten().sum::<f32>() + WEIGHTS_PRIOR;
    for (shape, of_shape) in weights.iter().enumerate() {
        for (shift, weight) in of_shape.iter().enumerate() {
            let start = prior.tables.weights[shape][shift];
            tables.weights[shape][shift] = shrunk((weight + WEIGHTS_PRIOR * start) / total, start, own);
        }
    }
}

/// Refits the pooled response and the distribution of levels.
fn refit_pooled(tables: &mut Tables, prior: &Population, people: &[Sums], own: f32) {
    let of_clicks: fn(&Sums) -> &Engagement = |sums| &sums.clicks;
    let (click_level, shape) = levels(people, of_clicks, prior.tables.click_level);
    let (open_level, _) = levels(people, |sums| &sums.opens, prior.tables.open_level);
    tables.click_level = shrunk(click_level, prior.tables.click_level, own);
    tables.open_level = shrunk(open_level, prior.tables.open_level, own);
    let level_shape = prior.tables.level_shape;
    tables.level_shape = shrunk(shape.unwrap_or(level_shape), level_shape, own);

    let (mut events, mut expected) = ([0.0; BINS], [0.0; BINS]);
    for sums in people {
        let weight = weight_of_act(sums);
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
    pooled.iter_mut().for_each(|value| *value = 0.98 * *value + 0.02);
    tables.pooled = shrunk_week(&pooled, &prior.tables.pooled, own);
}

/// Returns the weight of what is fitted to these people, 0 to 1; the tables that the fit started from have the rest.
///
/// People count as many as people of whom everything is known and who have equal weights would have to be for a mean over them
/// to be as certain: one with four hundred acts among twenty with one makes it less certain, not more.
fn own_share(prior: &Population, people: &[Sums]) -> f32 {
    let prior_people = PRIOR_PEOPLE.min(prior.tables.people as f32);
    if prior_people == 0.0 {
        return 1.0;
    }
    let (mut sum, mut squares) = (0.0, 0.0);
    for sums in people.iter().filter(|sums| sums.count() > 0.0) {
        let weight = sums.count() * weight_of_act(sums);
        sum += weight;
        squares += weight * weight * (1.0 + HALF_TOLD_ACTS / sums.count());
    }
    let people = if squares > 0.0 { sum * sum / squares } else { 0.0 };
    people / (people + prior_people)
}

/// The weight of each of a person's acts in the pooled response: people with many acts count for more, but not proportionally.
fn weight_of_act(sums: &Sums) -> f32 {
    1.0 / sums.count().max(1.0).sqrt()
}

/// Returns a fitted value with the share `own`, and for the rest the value that the fit started from.
fn shrunk(fitted: f32, start: f32, own: f32) -> f32 {
    own * fitted + (1.0 - own) * start
}

fn shrunk_week(fitted: &Week, start: &[f32], own: f32) -> Vec<f32> {
    let pairs = fitted.iter().zip(start);
    pairs
        .map(|(fitted, start)| shrunk(*fitted, *start, own))
        .collect()
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

#[cfg(test)]
mod tests {
    use event::grid::{DAY_MS, HOUR_MS};

    use super::*;
    use crate::model::tests::{clicks, monday, training};

    /// Somebody who acts at this hour of each of the last 60 days before `end`.
    fn habit(number: usize, end: Timestamp) -> TrainingPerson {
        let acts = (1..=60).rev().map(|day| {
            let hour = (number % 24) as i64;
            end.plus_millis(-day * DAY_MS + hour * HOUR_MS)
        });
        training(number, clicks(acts))
    }

    #[test]
    fn other_people_change_nothing_about_who_is_drawn_and_how() {
        let now = monday();
        let later = now.plus_millis(90 * DAY_MS);
        let people = || (0..300).map(|number| habit(number, now));
        let sample_of = |people: Vec<TrainingPerson>| sample(people, now, 100);
        let alone = sample_of(people().collect());
        assert!(alone.len() > 20 && alone.len() <= 100, "{}", alone.len());
        // People whose first act is still to come, before, between and after the others.
        let strangers = || (1000..1500).map(|number| habit(number, later));
        let mixed = strangers().chain(people()).chain(strangers());
        assert_eq!(sample_of(mixed.collect()), alone);
        let mut backwards = sample_of(people().collect::<Vec<_>>().into_iter().rev().collect());
        backwards.reverse();
        assert_eq!(backwards, alone);

        let population = Population::plain();
        let everybody = sample(people(), now, 1_000);
        let moments = held_back::moments(&population, &everybody);
        let mut hours: Vec<i64> = moments
            .iter()
            .map(|moment| now.millis_since(moment.cut) / HOUR_MS)
            .collect();
        for (person, moment) in everybody.chunks(1).zip(&moments) {
            assert_eq!(held_back::moments(&population, person)[0].cut, moment.cut);
        }
        hours.sort_unstable();
        hours.dedup();
        assert!(hours.len() > 150, "the moments lie in {} hours", hours.len());
    }
}
