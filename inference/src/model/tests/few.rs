//! Tables fitted to few people: strangers must not pay for it.

use event::Hasher;
use synth::World;

use super::*;

/// Bits of a stranger's acts over a uniform week, expected from when these people truly act.
fn bits_of_strangers(population: &Population, world: &World, strangers: std::ops::Range<usize>) -> f64 {
    let curve = population.curve(None, monday());
    let hours: Vec<Timestamp> = (0..168)
        .map(|hour| monday().plus_millis(hour * HOUR_MS + HOUR_MS / 2))
        .collect();
    let count = strangers.len() as f64;
    let of = |person| {
        let truth = world.truth(person, monday());
        let (mut bits, mut total) = (0.0, 0.0);
        for at in &hours {
            let activity = truth.activity(*at);
            bits += activity * (curve.density(*at) * grid::SLOTS as f64).log2();
            total += activity;
        }
        bits / total
    };
    strangers.map(of).sum::<f64>() / count
}

#[test]
fn a_fit_to_few_people_takes_nothing_from_strangers() {
    const SEEDS: std::ops::Range<u64> = 20..26;
    let hasher = Hasher::new();
    let mut gains = [0.0; 3];
    for seed in SEEDS {
        // Four weeks: a few acts for each person, as soon after an installation.
        let world = World::new(seed, 250, monday()).weeks(4);
        let people: Vec<TrainingPerson> = (0..100)
            .map(|person| {
                let mut profile = Profile::default();
                for simulated in world.events(person, &hasher) {
                    profile.apply(&simulated.event, simulated.machine);
                }
                training(person, profile)
            })
            .collect();
        let before = bits_of_strangers(&Population::builtin(), &world, 100..250);
        for (gain, few) in gains.iter_mut().zip([1, 20, 100]) {
            let fitted = Population::fit(people[..few].iter().cloned(), monday());
            let fitted = fitted.unwrap_or_else(Population::builtin);
            *gain += bits_of_strangers(&fitted, &world, 100..250) - before;
        }
    }
    for (gain, few) in gains.iter().zip([1, 20, 100]) {
        // Without the weight of the built-in tables, 20 people take 0.007 bits and 100 take 0.03. One person gives nothing.
        let mean = gain / SEEDS.count() as f64;
        assert!(mean > -1e-4, "{few} people: {mean} bits");
    }
}

#[test]
fn what_one_person_does_moves_no_strangers_minute() {
    let wednesday = monday().plus_millis(-5 * DAY_MS + 3 * HOUR_MS + 17 * 60_000);
    let weekly = (0..50)
        .rev()
        .map(|week| wednesday.plus_millis(-week * 7 * DAY_MS));
    for person in [clicks([wednesday]), clicks(weekly)] {
        let fitted = Population::fit([training(0, person)], monday()).unwrap();
        for hours in [24, 168] {
            let best = |population: Population| {
                let curve = population.curve(None, monday());
                curve.best(&window(monday(), hours)).unwrap().at
            };
            assert_eq!(best(fitted.clone()), best(Population::builtin()), "{hours} h");
        }
    }
}
