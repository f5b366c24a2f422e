//! What the comparison finds if the provider's capacity moves most of the people and refuses some.

use event::{Event, EventType, Hasher, UniversalId, grid::MINUTE_MS, profile::Profile};
use jiff::tz::TimeZone;
use store::events::{Touch, TouchKind, Trial};

use super::*;
use crate::{
    config::{ExperimentConfig, InferenceConfig},
    decision::{Choice, Draw, Facts, LocalRules, Question, Room, decide},
    latency::{ExpectedLatency, LatencySource, WeekOfLatency},
    model::{Curve, Population},
};

/// People for 120 minutes of three mails each: a tenth of the people is refused.
const PEOPLE: usize = 400;
const WINDOW_MINUTES: i64 = 120;
const PER_MINUTE: u32 = 3;

/// Number of salts, each of which draws different groups.
const DRAWS: usize = 120;

fn now() -> Timestamp {
    "2026-01-07T18:30:00Z".parse().unwrap()
}

fn person(number: usize) -> UniversalId {
    let email = format!("person{number}@example.com");
    UniversalId::from_identifier(&Hasher::new().email_identifier(&email).unwrap())
}

/// A person who clicked every evening around a time of their own.
fn evening_person(minute: i64) -> Profile {
    let mut profile = Profile::default();
    for day in 1..40 {
        let at = now().plus_millis((minute - day * 24 * 60) * MINUTE_MS);
        profile.apply(&Event::bare(EventType::Clicked, at, person(0)), false);
    }
    profile
}

fn question() -> Question {
    Question {
        now: now(),
        now_was_told: true,
        window: now()..now().plus_millis(WINDOW_MINUTES * MINUTE_MS),
        not_before: None,
        deadline: None,
        local: LocalRules {
            zone: TimeZone::UTC,
            allowed: Vec::new(),
            quiet: None,
            blackout_dates: Vec::new(),
            blackout_weekdays: [false; 7],
        },
        minimum_gap_ms: None,
        signals: Vec::new(),
    }
}

/// A draw that puts everybody into one group or, with a share of 0.5, half of them into each.
fn draw(number: usize, salt: usize, control_share: f64) -> Draw {
    let config = ExperimentConfig {
        control_share,
        exploration_share: 0.0,
        salt: salt.to_string(),
    };
    Draw::of(&config, &person(number), None, now())
}

/// Every third person clicks often and at their own hour, which the model knows; of the others it knows nothing, and
/// they click rarely. So those who lose little by moving, and are moved by the capacity, differ from those who stay.
struct Crowd {
    profiles: Vec<Profile>,
    curves: Vec<Curve>,
}

impl Crowd {
    fn new() -> Self {
        let mut profiles = vec![Profile::default()];
        profiles.extend((0..8).map(|kind| evening_person(20 + 10 * kind)));
        let population = Population::builtin();
        let curves = profiles
            .iter()
            .map(|profile| population.curve(Some(profile), now()))
            .collect();
        Self { profiles, curves }
    }

    fn kind(number: usize) -> usize {
        if number.is_multiple_of(3) {
            1 + number % 8
        } else {
            0
        }
    }
}

/// The probability that a person answers a mail that arrives at a given moment.
type Chance<'a> = &'a dyn Fn(usize, Timestamp) -> f64;

/// The result of one draw of the groups.
#[derive(Default)]
struct Shown {
    /// The difference that `GET /lift` reports.
    found: f64,
    /// What it would report without the decisions that left their quarter hour.
    without_moved: f64,
    /// What the model's minutes gain over the drawn ones, for everybody.
    truth: f64,
    refused: usize,
    moved: usize,
}

fn compared(crowd: &Crowd, salt: usize, chance: Chance<'_>) -> Shown {
    let policy = InferenceConfig::default().policy;
    let latency = WeekOfLatency::constant(ExpectedLatency {
        seconds: 0.0,
        source: LatencySource::Default,
        samples: 0,
        part_samples: None,
    });
    let facts = |number: usize| Facts {
        profile: &crowd.profiles[Crowd::kind(number)],
        curve: &crowd.curves[Crowd::kind(number)],
        latency: &latency,
        policy: &policy,
    };
    let models: Vec<Choice> = (0..PEOPLE)
        .map(|number| decide(&question(), facts(number)).unwrap())
        .collect();
    let stake = |number: usize| (number, models[number].stake(facts(number)));
    let mut order: Vec<(usize, f64)> = (0..PEOPLE).map(stake).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));

    let mut numbers = Numbers(salt as u64);
    let (mut room, mut shown) = (Room::default(), Shown::default());
    let (mut all, mut stayed) = (Vec::new(), Vec::new());
    let mut told = 0.0;
    for (number, _) in order {
        let place =
            |draw: &Draw| models[number].placed(Some(draw), facts(number), room.of("esp", PER_MINUTE));
        let Some(choice) = place(&draw(number, salt, 0.5)) else {
            shown.refused += 1;
            continue;
        };
        let as_treated = place(&draw(number, salt, 0.0)).unwrap();
        let as_control = place(&draw(number, salt, 1.0)).unwrap();
        shown.truth += chance(number, as_treated.arrive_at) - chance(number, as_control.arrive_at);
        told += 1.0;
        room.take("esp", choice.trigger_at);

        let is_answered = numbers.next() < chance(number, choice.arrive_at);
        let outcome = outcome(number, &choice, is_answered);
        let quarter = |at: Timestamp| at.as_millis() / (15 * MINUTE_MS);
        let left_its_quarter = choice
            .moved
            .is_some_and(|moved| quarter(moved.from) != quarter(choice.arrive_at));
        shown.moved += usize::from(choice.moved.is_some());
        if !left_its_quarter {
            stayed.push(vec![outcome]);
        }
        all.push(vec![outcome]);
    }
    shown.truth /= told;
    let difference = |people: &[Vec<Outcome>]| compare(people, 1.0, now(), now()).difference.unwrap().value;
    shown.found = difference(&all);
    shown.without_moved = difference(&stayed);
    shown
}

/// The outcome of a decision whose mail arrived at its target.
fn outcome(number: usize, choice: &Choice, is_answered: bool) -> Outcome {
    let drawn = choice.experiment.unwrap();
    let trial = StoredTrial {
        reference: format!("dec_{number}"),
        universal_id: person(number),
        decided_at: now(),
        trial: Trial {
            group: drawn.group,
            target_at: choice.arrive_at,
            model_at: drawn.model_at,
            propensity: drawn.propensity,
            campaign_id: None,
        },
    };
    let touch = |at, kind| Touch {
        universal_id: person(number),
        at,
        kind,
        message_id: None,
        campaign_id: None,
        esp: "sendgrid".to_owned(),
        delivery_latency_ms: None,
    };
    let mail = touch(choice.arrive_at, TouchKind::Delivered);
    let answer = touch(choice.arrive_at.plus_millis(MINUTE_MS), TouchKind::Answered);
    let touches = if is_answered {
        vec![&mail, &answer]
    } else {
        vec![&mail]
    };
    join::join(vec![&trial], touches)[0]
}

/// The mean over the draws of the reported difference minus the truth, with its standard error.
fn bias(shown: &[Shown], found: impl Fn(&Shown) -> f64) -> (f64, f64) {
    let count = shown.len() as f64;
    let above: Vec<f64> = shown.iter().map(|shown| found(shown) - shown.truth).collect();
    let mean = above.iter().sum::<f64>() / count;
    let variance = above.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, (variance / count).sqrt())
}

#[test]
fn capacity_makes_no_lift_where_there_is_none_and_hides_none_where_there_is() {
    let crowd = Crowd::new();
    let rate = |number: usize| if Crowd::kind(number) == 0 { 0.1 } else { 0.5 };
    let whatever_the_minute = |number: usize, _: Timestamp| rate(number);
    // Twice as likely near the person's own time as elsewhere, which is where the model sends the mail.
    let by_the_minute = |number: usize, at: Timestamp| {
        let curve = &crowd.curves[Crowd::kind(number)];
        rate(number) * (curve.score(at) / 4.0).clamp(0.5, 1.0)
    };
    for (name, chance, is_null) in [
        ("no effect", &whatever_the_minute as Chance<'_>, true),
        ("an effect", &by_the_minute, false),
    ] {
        let shown: Vec<Shown> = (0..DRAWS).map(|salt| compared(&crowd, salt, chance)).collect();
        let mean = |of: fn(&Shown) -> f64| shown.iter().map(of).sum::<f64>() / DRAWS as f64;
        let truth = mean(|shown| shown.truth);
        let (found, error) = bias(&shown, |shown| shown.found);
        let (without_moved, error_without) = bias(&shown, |shown| shown.without_moved);
        println!(
            "{name}: truth {truth:.4}, bias {found:.4} ± {error:.4}, without the moved {without_moved:.4} ± \
             {error_without:.4}; of {PEOPLE} {:.0} moved, {:.0} refused",
            mean(|shown| shown.moved as f64),
            mean(|shown| shown.refused as f64)
        );
        assert_eq!(truth == 0.0, is_null);
        assert!(found.abs() < 3.5 * error, "{name}: {found} ± {error}");
        // The crowd is one for which leaving out the moved decisions would be misleading.
        assert!(
            without_moved > 5.0 * error_without,
            "{name}: {without_moved} ± {error_without}"
        );
        assert!(mean(|shown| shown.refused as f64) > 20.0 && mean(|shown| shown.moved as f64) > 100.0);
    }
}
