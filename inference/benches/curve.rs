//! The cost of a person's curve and of a decision based on it, by how much is remembered of the person.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it found")]

use std::{hint::black_box, ops::Range, time::Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use event::{Event, EventType, Hasher, Timestamp, grid::HOUR_MS, profile::Profile};
use sendflowr_inference::model::{Curve, Population};

fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().expect("a moment")
}

/// A person with this many clicks in the last year, on mails delivered five hours earlier if `with_mail`.
fn person(clicks: i64, with_mail: bool) -> Profile {
    let template = synth::mock_events(1, 1, now(), &Hasher::new()).remove(0);
    let mut profile = Profile::default();
    for click in 0..clicks {
        let at = now().plus_millis(-(click + 1) * 365 * 24 * HOUR_MS / clicks - click % 7 * HOUR_MS);
        let message_id = with_mail.then(|| format!("m{click}"));
        let clicked = Event {
            timestamp: at,
            event_type: EventType::Clicked,
            message_id,
            ..template.clone()
        };
        if with_mail {
            let delivered = Event {
                timestamp: at.plus_millis(-5 * HOUR_MS),
                event_type: EventType::Delivered,
                ..clicked.clone()
            };
            profile.apply(&delivered, false);
        }
        profile.apply(&clicked, false);
    }
    profile
}

/// Number of decisions whose median is reported.
const SAMPLES: usize = 10_000;

/// The targets: for a decision on a cached curve, and for one that computes its curve, at 400 events.
const TARGET_CACHED_US: f64 = 30.0;
const TARGET_US: f64 = 150.0;

/// Prints the median duration of `decide`, along with its target.
fn print_p50(what: &str, target_us: f64, mut decide: impl FnMut()) {
    let mut took = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let started = Instant::now();
        decide();
        took.push(started.elapsed());
    }
    took.sort_unstable();
    let p50_us = took[SAMPLES / 2].as_secs_f64() * 1e6;
    println!(
        "{what}: p50 {p50_us:.1} µs, {:.2} of the target of {target_us:.0} µs",
        p50_us / target_us
    );
}

/// Returns the minutes of the next days: all of them, or what quiet hours leave of each day.
fn minutes(days: i64, quiet: bool) -> Vec<Range<Timestamp>> {
    if !quiet {
        return vec![now()..now().plus_millis(days * 24 * HOUR_MS)];
    }
    let day =
        |day: i64| now().plus_millis((day * 24 + 9) * HOUR_MS)..now().plus_millis((day * 24 + 22) * HOUR_MS);
    (0..days).map(day).collect()
}

fn medians() {
    let population = Population::builtin();
    for (name, with_mail) in [("clicks", false), ("mails and clicks", true)] {
        let profile = person(400, with_mail);
        let cached = population.curve(Some(&profile), now());
        for (days, quiet) in [(1, false), (1, true), (7, false), (7, true)] {
            let ranges = minutes(days, quiet);
            let guards = if quiet { "quiet hours" } else { "no guard" };
            let decide = |curve: &Curve| {
                let best = curve.best(black_box(&ranges)).expect("the window is not empty");
                black_box((best, curve.confidence(best.at, &ranges)));
            };
            let what = format!("400 {name}, {} h, {guards}", days * 24);
            print_p50(&format!("{what}, curve cached"), TARGET_CACHED_US, || {
                decide(&cached)
            });
            print_p50(&format!("{what}, computing the curve"), TARGET_US, || {
                decide(&population.curve(Some(black_box(&profile)), now()));
            });
        }
    }
}

fn curve(criterion: &mut Criterion) {
    medians();
    let population = Population::builtin();
    let day = [now()..now().plus_millis(24 * HOUR_MS)];
    let week = [now()..now().plus_millis(168 * HOUR_MS)];
    for (name, with_mail) in [("clicks", false), ("mails_and_clicks", true)] {
        let mut group = criterion.benchmark_group(format!("curve_and_decision/{name}"));
        for clicks in [0, 10, 100, 400, 1_000] {
            let profile = person(clicks, with_mail);
            group.bench_with_input(
                BenchmarkId::from_parameter(clicks),
                &profile,
                |bencher, profile| {
                    bencher.iter(|| {
                        let curve = population.curve(Some(black_box(profile)), now());
                        let best = curve.best(&day).expect("the window is not empty");
                        (best, curve.confidence(best.at, &day))
                    });
                },
            );
        }
    }
    let cached = population.curve(Some(&person(400, false)), now());
    for (name, ranges) in [("day", &day), ("week", &week)] {
        criterion.bench_function(&format!("cached_decision/{name}"), |bencher| {
            bencher.iter(|| {
                let best = cached.best(black_box(ranges)).expect("the window is not empty");
                (best, cached.confidence(best.at, ranges))
            });
        });
        criterion.bench_function(&format!("cached_decision_with_hot_path/{name}"), |bencher| {
            let weight = |at: Timestamp| 1.0 + (-(at.millis_since(now()) as f64) / HOUR_MS as f64).exp();
            bencher.iter(|| cached.best_weighted(black_box(ranges), weight));
        });
    }
    let profile = person(400, true);
    criterion.bench_function("profile/read", |bencher| {
        let bytes = profile.to_bytes();
        bencher.iter(|| Profile::from_bytes(black_box(&bytes)));
    });
}

criterion_group!(benches, curve);
criterion_main!(benches);
