//! Properties of any timing model, whatever its formulas.

mod few;
mod simulated;

use event::{
    Event, EventType, Hasher,
    grid::{self, DAY_MS, HOUR_MS},
};

use super::*;

/// A Monday, 00:00 UTC.
pub(super) fn monday() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// An event of `event_type` at `at`, about `message_id`.
pub(super) fn event(event_type: EventType, at: Timestamp, message_id: Option<String>) -> Event {
    let template = synth::mock_events(1, 1, monday(), &Hasher::new()).remove(0);
    Event {
        event_type,
        timestamp: at,
        message_id,
        ..template
    }
}

pub(super) fn clicks(times: impl IntoIterator<Item = Timestamp>) -> Profile {
    let mut profile = Profile::default();
    let template = event(EventType::Clicked, monday(), None);
    for timestamp in times {
        profile.apply(
            &Event {
                timestamp,
                ..template.clone()
            },
            false,
        );
    }
    profile
}

/// Somebody in the fit.
pub(super) fn training(number: usize, profile: Profile) -> TrainingPerson {
    let identifier = Hasher::new().email_identifier(&format!("{number}@example.com"));
    TrainingPerson {
        id: event::UniversalId::from_identifier(&identifier.unwrap()),
        profile,
    }
}

/// Clicks on working days around `hour` (UTC), on the last `days` before [`monday`].
fn office_hours(days: i64, hour: i64) -> Vec<Timestamp> {
    (1..=days)
        .map(|day| monday().plus_millis(-day * DAY_MS + hour * HOUR_MS + day * 13 % 50 * 60_000))
        .filter(|at| grid::slot(*at) < 5 * 1440)
        .collect()
}

fn window(start: Timestamp, hours: i64) -> [std::ops::Range<Timestamp>; 1] {
    [start..start.plus_millis(hours * HOUR_MS)]
}

fn hour_of(at: Timestamp) -> usize {
    grid::slot(at) / 60 % 24
}

#[test]
fn shifting_all_events_shifts_the_curve() {
    // Tables that know nothing about where people live.
    let population = Population::plain();
    let at_home = population
        .curve(Some(&clicks(office_hours(90, 9))), monday())
        .minutes();
    for hours in 1..=8 {
        let moved = office_hours(90, 9)
            .into_iter()
            .map(|at| at.plus_millis(hours * HOUR_MS));
        let abroad = population
            .curve(Some(&clicks(moved)), monday().plus_millis(hours * HOUR_MS))
            .minutes();
        let lag = hours as usize * 60;
        let apart: f32 = (0..grid::SLOTS)
            .map(|slot| (at_home[slot] - abroad[(slot + lag) % grid::SLOTS]).abs())
            .sum::<f32>()
            / 2.0;
        assert!(apart < 0.06, "{hours} h: {apart} of the mass elsewhere");
    }
}

#[test]
fn a_mover_is_followed_within_three_weeks() {
    let population = Population::builtin();
    let old_life = |day: i64| monday().plus_millis(-day * DAY_MS + 9 * HOUR_MS + day * 13 % 50 * 60_000);
    let steady = clicks((1..=150).map(old_life));
    let moved =
        clicks((1..=150).map(|day| old_life(day).plus_millis(if day <= 21 { -7 * HOUR_MS } else { 0 })));
    let choice = |profile: &Profile| {
        population
            .curve(Some(profile), monday())
            .best(&window(monday(), 24))
            .unwrap()
    };
    assert!(
        (7..=9).contains(&hour_of(choice(&steady).at)),
        "{}",
        choice(&steady).at
    );
    assert!(
        (0..=2).contains(&hour_of(choice(&moved).at)),
        "{}",
        choice(&moved).at
    );
    let recent_weight = |profile: &Profile| {
        let times = exposure::act_times(&profile.history(monday()));
        drift::short_weight(&times, &population.derived.personal)
    };
    assert!(recent_weight(&moved) > 0.5);
    assert!(recent_weight(&steady) < 0.2);
}

#[test]
fn the_evidence_is_that_of_both_memories() {
    let population = Population::builtin();
    let day =
        |day: i64, hour: i64| monday().plus_millis(-day * DAY_MS + hour * HOUR_MS + day * 13 % 50 * 60_000);
    let evidence = |hour: &dyn Fn(i64) -> i64| {
        let profile = clicks((1..=150).map(|ago| day(ago, hour(ago))));
        population.curve(Some(&profile), monday()).evidence().clone()
    };
    let steady = evidence(&|_| 9);
    let moved = evidence(&|ago| if ago <= 21 { 2 } else { 9 });
    assert!(
        steady.recent_weight < 0.3 && moved.recent_weight > 0.7,
        "{steady:?} {moved:?}"
    );
    // What the short memory knows is less.
    assert!(
        moved.prior_weight > 1.3 * steady.prior_weight,
        "{steady:?} {moved:?}"
    );
    assert_eq!((steady.events, steady.mails), (150, 0));
}

#[test]
fn an_old_open_is_no_fresh_click() {
    let population = Population::builtin();
    let at = monday().plus_millis(-335 * DAY_MS + 27 * HOUR_MS);
    let density = |event_type, at: Timestamp| {
        let mut profile = Profile::default();
        profile.apply(&event(event_type, at, None), false);
        let slot = monday().plus_millis(grid::slot(at) as i64 * grid::MINUTE_MS);
        population.curve(Some(&profile), monday()).density(slot) * grid::SLOTS as f64
    };
    let stranger = population
        .curve(None, monday())
        .density(monday().plus_millis(grid::slot(at) as i64 * grid::MINUTE_MS))
        * grid::SLOTS as f64;
    let fresh = density(EventType::Clicked, at.plus_millis(47 * 7 * DAY_MS));
    let old = density(EventType::Opened, at);
    assert!(
        old - stranger < 0.3 * (fresh - stranger),
        "{old} and {fresh} instead of {stranger}"
    );
}

#[test]
fn people_without_deliveries_are_decided_for_alike_wherever_mail_of_others_is_known() {
    let alone = Population::builtin();
    let mut mixed = alone.clone();
    mixed.tables.attention_learned = true;
    let profile = clicks(office_hours(60, 14));
    let [alone_curve, mixed_curve] =
        [&alone, &mixed].map(|population| population.curve(Some(&profile), monday()));
    let ranges = window(monday(), 24);
    let best = mixed_curve.best(&ranges).unwrap();
    assert_eq!(Some(best), alone_curve.best(&ranges));
    assert_eq!(mixed_curve.presence(), alone_curve.presence());
    assert!(mixed_curve.presence().is_some());
    assert_eq!(
        mixed_curve.confidence(best.at, &ranges),
        alone_curve.confidence(best.at, &ranges)
    );
    // A stranger's mail is taken to be known as others' is.
    let stranger = |population: &Population| population.curve(None, monday()).best(&ranges).unwrap().score;
    assert_ne!(stranger(&mixed), stranger(&alone));
}

#[test]
fn what_machines_do_changes_nothing() {
    let population = Population::builtin();
    let mut profile = Profile::default();
    for day in 1..40_i64 {
        let delivered = monday().plus_millis(-day * DAY_MS + 8 * HOUR_MS);
        let message = Some(format!("m{day}"));
        profile.apply(&event(EventType::Delivered, delivered, message.clone()), false);
        if day % 3 == 0 {
            profile.apply(
                &event(EventType::Clicked, delivered.plus_millis(11 * HOUR_MS), message),
                false,
            );
        }
    }
    let curve = population.curve(Some(&profile), monday());
    for day in 1..40_i64 {
        let scanned = monday().plus_millis(-day * DAY_MS + 8 * HOUR_MS + 1_500);
        profile.apply(&event(EventType::Clicked, scanned, Some(format!("m{day}"))), true);
        profile.apply(&event(EventType::Opened, scanned, Some(format!("m{day}"))), true);
    }
    assert_eq!(population.curve(Some(&profile), monday()), curve);
}

/// A mail a day for `mails` days; every second one is opened by the person after an hour, and one in every
/// `machine_every` by a machine.
fn opens(mails: i64, machine_every: i64) -> Profile {
    let mut profile = Profile::default();
    for day in 1..=mails {
        let delivered = monday().plus_millis(-day * DAY_MS);
        let message = Some(format!("m{day}"));
        profile.apply(&event(EventType::Delivered, delivered, message.clone()), false);
        if day % 2 == 0 {
            let opened = delivered.plus_millis(HOUR_MS);
            profile.apply(&event(EventType::Opened, opened, message.clone()), false);
        }
        if day % machine_every == 0 {
            profile.apply(
                &event(EventType::Opened, delivered.plus_millis(1_000), message),
                true,
            );
        }
    }
    profile
}

#[test]
fn a_machine_open_now_and_then_does_not_silence_the_persons() {
    let population = Population::builtin();
    let evidence = |profile| population.curve(Some(&profile), monday()).evidence().clone();
    // Ten machine opens among two hundred mails.
    let seldom = evidence(opens(200, 20));
    assert_eq!((seldom.events, seldom.rung), (100, Rung::Personal));
    // Each mail is opened by a machine: other opens then say nothing, and are not reported as evidence.
    let always = evidence(opens(200, 1));
    assert_eq!((always.events, always.rung), (0, Rung::Population));
    assert_eq!(always.effective_events, 0.0);
}

#[test]
fn what_comes_days_after_its_mail_is_no_evidence() {
    let mut profile = Profile::default();
    let delivered = monday().plus_millis(-10 * DAY_MS);
    let message = Some("m1".to_owned());
    profile.apply(&event(EventType::Delivered, delivered, message.clone()), false);
    let clicked = delivered.plus_millis(4 * DAY_MS);
    profile.apply(&event(EventType::Clicked, clicked, message), false);
    let curve = Population::builtin().curve(Some(&profile), monday());
    assert_eq!(curve.evidence().events, 0);
    assert_eq!(curve.evidence().effective_events, 0.0);
}

#[test]
fn nothing_after_now_is_used() {
    let population = Population::builtin();
    let mut profile = Profile::default();
    for day in 1..30_i64 {
        let delivered = monday().plus_millis(-day * DAY_MS);
        profile.apply(
            &event(EventType::Delivered, delivered, Some(format!("m{day}"))),
            false,
        );
        profile.apply(
            &event(
                EventType::Clicked,
                delivered.plus_millis(5 * HOUR_MS),
                Some(format!("m{day}")),
            ),
            false,
        );
    }
    let before = population.curve(Some(&profile), monday());
    // A click afterwards, and the events of the next 30 days.
    profile.apply(&event(EventType::Clicked, monday().plus_millis(1), None), false);
    for day in 0..30_i64 {
        let delivered = monday().plus_millis(day * DAY_MS + HOUR_MS);
        profile.apply(
            &event(EventType::Delivered, delivered, Some(format!("n{day}"))),
            false,
        );
        profile.apply(
            &event(
                EventType::Opened,
                delivered.plus_millis(HOUR_MS),
                Some(format!("n{day}")),
            ),
            false,
        );
        profile.apply(
            &event(EventType::Opened, delivered, Some(format!("n{day}"))),
            true,
        );
    }
    assert_eq!(population.curve(Some(&profile), monday()), before);
    assert_ne!(
        population.curve(Some(&profile), monday().plus_millis(30 * DAY_MS)),
        before
    );
}

/// People who act at any hour of any day, whose past begins in the middle of a week.
#[test]
fn a_part_of_a_week_makes_no_day_popular() {
    let people = |days: i64| {
        (0..200_i64).map(move |person| {
            let acts = (0..days * 24).filter(move |hour| (hour * 7 + person) % 12 == 0);
            let acts = acts.map(move |hour| monday().plus_millis(-hour * HOUR_MS - person % 60 * 60_000));
            training(person as usize, clicks(acts))
        })
    };
    let weekend_share = |days: i64| -> f32 {
        let tables = Population::plain().refit(people(days), monday()).unwrap();
        let minutes = tables.curve(None, monday()).minutes();
        minutes[5 * 1440..].iter().sum()
    };
    let (whole, with_a_weekend_more) = (weekend_share(14), weekend_share(16));
    assert!(
        (whole - with_a_weekend_more).abs() < 1e-3,
        "{whole}, {with_a_weekend_more}"
    );
}

#[test]
fn any_number_of_events_gives_a_curve() {
    let population = Population::builtin();
    let at = |index: i64| monday().plus_millis(-index * 97 * 60_000);
    for count in [0, 1, 2, 9, 100_000] {
        let profile = clicks((0..count).map(at));
        let curve = population.curve(Some(&profile), monday());
        let minutes = curve.minutes();
        assert!(
            minutes.iter().all(|share| share.is_finite() && *share > 0.0),
            "{count}"
        );
        assert!(
            (minutes.iter().map(|share| f64::from(*share)).sum::<f64>() - 1.0).abs() < 1e-4,
            "{count}"
        );
        assert!(
            curve
                .scores()
                .iter()
                .all(|score| score.is_finite() && *score > 0.0),
            "{count}"
        );
        assert_eq!(
            curve,
            population.curve(Some(&profile), monday()),
            "the same bits again"
        );
        let confidence = curve.confidence(monday(), &window(monday(), 24));
        assert!((0.0..=1.0).contains(&confidence), "{count}");
    }
    let unknown = population.curve(None, monday());
    assert_eq!(unknown, population.curve(Some(&Profile::default()), monday()));
    assert_eq!(
        (unknown.evidence().rung, unknown.evidence().events),
        (Rung::Population, 0)
    );
    assert!((unknown.evidence().prior_weight - 1.0).abs() < 1e-6);
}

#[test]
fn events_from_the_far_past_count_for_nothing_but_break_nothing() {
    let population = Population::builtin();
    let ancient = clicks([
        Timestamp::try_from_millis(0).unwrap(),
        Timestamp::try_from_millis(DAY_MS).unwrap(),
    ]);
    let curve = population.curve(Some(&ancient), "2090-01-01T00:00:00Z".parse().unwrap());
    assert!(curve.scores().iter().all(|score| score.is_finite()));
    assert!(curve.evidence().effective_events < 1e-6);
}

/// The central property: most clicks come after the sender's hour, and yet it is not the person's hour.
#[test]
fn clicks_are_judged_by_the_mail_that_was_there() {
    let population = Population::builtin();
    let mut profile = Profile::default();
    for day in 1..=60_i64 {
        let evening = day % 6 == 0;
        let delivered = monday().plus_millis(-day * DAY_MS + if evening { 19 } else { 9 } * HOUR_MS);
        profile.apply(
            &event(EventType::Delivered, delivered, Some(format!("m{day}"))),
            false,
        );
        // Ten of fifty morning mails are clicked immediately, and eight of ten evening mails.
        if if evening { day % 5 != 0 } else { day % 5 == 0 } {
            let clicked = delivered.plus_millis(20 * 60_000);
            profile.apply(
                &event(EventType::Clicked, clicked, Some(format!("m{day}"))),
                false,
            );
        }
    }
    let curve = population.curve(Some(&profile), monday());
    let at = |hour: i64| curve.density(monday().plus_millis(hour * HOUR_MS + HOUR_MS / 2));
    assert!(at(19) > 1.1 * at(9), "evening {} morning {}", at(19), at(9));
}

#[test]
fn rungs_follow_the_evidence() {
    let population = Population::builtin();
    for (count, rung) in [(0, "population"), (1, "sparse"), (5, "blended"), (40, "personal")] {
        let profile = clicks((0..count).map(|day| monday().plus_millis(-day * DAY_MS - HOUR_MS)));
        let evidence = population.curve(Some(&profile), monday()).evidence().clone();
        assert_eq!(evidence.rung.as_str(), rung);
        assert_eq!(evidence.events, count as usize);
        assert!(evidence.effective_events <= count as f64);
        assert_eq!(&*evidence.population_version, population.version());
    }
}

#[test]
fn a_flat_week_is_answered_with_the_first_minute() {
    let flat = Curve::new(
        [1.0; 168],
        &[1.0; AGES],
        population_evidence(),
        [0.0, 1.0, 0.0, 0.0],
        None,
    );
    let start = monday().plus_millis(3 * DAY_MS + 12_345);
    let best = flat.best(&window(start, 72)).unwrap();
    assert_eq!(best.at, start);
    assert!((best.score - 1.0).abs() < 1e-6);
    let later = start.plus_millis(-DAY_MS);
    let ranges = [
        start..start.plus_millis(HOUR_MS),
        later..later.plus_millis(HOUR_MS),
    ];
    assert_eq!(
        flat.best(&ranges).unwrap().at,
        later,
        "whatever the order of the ranges"
    );
    assert_eq!(flat.best(&[]), None);
    assert_eq!(flat.best(std::slice::from_ref(&(start..start))), None);
}

#[test]
fn confidence_speaks_of_the_time_in_which_half_of_the_attention_is_left() {
    let flat = |attention: [f32; AGES]| {
        let identity = [0.0, 1.0, 0.0, 0.0];
        Curve::new([1.0; 168], &attention, population_evidence(), identity, None)
    };
    let start = monday();
    let fading = |hours: f32| std::array::from_fn(|band| (-(AGE_EDGES[band] as f32) / 60.0 / hours).exp());
    for (curve, hours) in [
        (flat(fading(0.5)), 2),
        (flat(fading(8.0)), 8),
        (flat([1.0; AGES]), 24),
    ] {
        assert_eq!(curve.span_ms(), hours * HOUR_MS);
        // On a flat curve the probability is the span's share of a window of two days.
        let stated = curve.confidence(start, &window(start, 48));
        assert!((stated - hours as f64 / 48.0).abs() < 1e-6, "{hours}: {stated}");
        // At the window's end the rest of the span still counts.
        let last = start.plus_millis(47 * HOUR_MS);
        let stated = curve.confidence(last, &window(start, 48));
        assert!(
            (stated - hours as f64 / (47 + hours) as f64).abs() < 1e-6,
            "{hours}: {stated}"
        );
    }
}

fn population_evidence() -> Evidence {
    Population::plain().curve(None, monday()).evidence().clone()
}

#[test]
fn mass_is_counted_in_real_time() {
    let curve = Population::builtin().curve(Some(&clicks(office_hours(60, 14))), monday());
    let week = curve.mass(monday(), monday().plus_millis(7 * DAY_MS));
    assert!((week - 1.0).abs() < 1e-6, "{week}");
    let start = monday().plus_millis(6 * DAY_MS + 23 * HOUR_MS + 123_456);
    let across = curve.mass(start, start.plus_millis(2 * HOUR_MS));
    let middle = start.plus_millis(47 * 60_000);
    let parts = curve.mass(start, middle) + curve.mass(middle, start.plus_millis(2 * HOUR_MS));
    assert!((across - parts).abs() < 1e-9, "{across} {parts}");
    let minutes = curve.minutes();
    let noon: f64 = minutes[720..840].iter().map(|share| f64::from(*share)).sum();
    let measured = curve.mass(
        monday().plus_millis(12 * HOUR_MS),
        monday().plus_millis(14 * HOUR_MS),
    );
    assert!((noon - measured).abs() < 0.01 * noon, "{noon} {measured}");
    assert_eq!(curve.mass(monday(), monday()), 0.0);
}

#[test]
fn peaks_are_apart_and_in_order() {
    let curve = Population::builtin().curve(Some(&clicks(office_hours(60, 14))), monday());
    let peaks = curve.peaks(5);
    assert!(!peaks.is_empty() && peaks.len() <= 5);
    assert!(peaks.is_sorted_by(|a, b| a.1 >= b.1));
    let whole_week = curve.best_weighted(&window(monday(), 168), |_| 1.0).unwrap();
    assert_eq!(
        peaks[0].0,
        grid::slot(whole_week.at),
        "the highest is what a free week is answered with"
    );
    assert!((peaks[0].1 - whole_week.score).abs() < 1e-9);
}
