//! Hard limits hold for every request: generated cases, checked minute by minute against a second implementation of the rules.

use event::{EventType, Hasher, UniversalId, profile::Profile};
use jiff::tz::TimeZone;
use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};

use super::super::{
    guards::tests::{any_span, holds},
    *,
};
use super::{HOUR_MS, delivery, event, latency};
use crate::{
    config::{ExperimentConfig, InferenceConfig},
    model::Population,
};

/// Cases that every run of the tests checks. The command in docs/timing.md checks ten million.
const CASES_IN_SHORT: u32 = 4_000;

/// Zones whose clocks change by an hour, by half an hour or by two hours, in spring, in autumn or for a month; at midnight,
/// in the night or on the evening before; zones with odd offsets, and zones whose clocks never change.
const ZONES: [&str; 18] = [
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",
    "Africa/Casablanca",
    "Africa/Cairo",
    "Asia/Gaza",
    "Asia/Beirut",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Australia/Adelaide",
    "Pacific/Chatham",
    "Pacific/Apia",
    "America/New_York",
    "America/St_Johns",
    "America/Santiago",
    "America/Nuuk",
    "Antarctica/Troll",
];

/// What the start of a case's window is near.
#[derive(Debug, Clone, Copy)]
enum Near {
    Anything,
    AChangeOfClocks,
    TheWeeksEnd,
}

#[derive(Debug, Clone)]
struct Case {
    zone: usize,
    near: Near,
    /// A minute from 2024 to 2028.
    minute: i64,
    before_minutes: i64,
    length_ms: i64,
    /// From `now` to the window's start, in seconds, the resolution of profiles.
    ahead_seconds: i64,
    allowed: Vec<DaySpan>,
    quiet: Option<DaySpan>,
    weekdays_off: [bool; 7],
    dates_off: Vec<i64>,
    not_before_minutes: Option<i64>,
    deadline_minutes: Option<i64>,
    gap_minutes: Option<i64>,
    delivered_minutes_ago: i64,
    breaker: Option<(EventType, i64)>,
    latency_ms: i64,
    curve: usize,
    person: usize,
    full_minutes: i64,
}

fn any_case() -> impl Strategy<Value = Case> {
    let near = prop::sample::select(&[Near::Anything, Near::AChangeOfClocks, Near::TheWeeksEnd][..]);
    let breaker = prop::sample::select(
        &[
            EventType::MarkedSpam,
            EventType::SupportTicket,
            EventType::Unsubscribed,
            EventType::Bounced,
        ][..],
    );
    let time = (
        0..ZONES.len(),
        near,
        28_400_000..31_030_000_i64,
        0..4_320_i64,
        // From a minute, the shortest that can be asked for, to two weeks; half of them less than a day.
        prop_oneof![60_000..86_400_000_i64, 86_400_000..1_209_600_000_i64],
        -7_200..172_800_i64,
    );
    let local = (
        prop::collection::vec(any_span(), 0..3),
        prop::option::of(any_span()),
        prop::array::uniform7(prop::bool::weighted(0.15)),
        prop::collection::vec(-1..14_i64, 0..3),
    );
    let person = (
        prop::option::of(-2_000..6_000_i64),
        prop::option::of(-2_000..20_000_i64),
        prop::option::of(1..6_000_i64),
        0..4_000_i64,
        prop::option::weighted(0.3, (breaker, 0..15_000_i64)),
        0..7_200_000_i64,
    );
    let batch = (0..4_usize, 0..1_000_usize, 1..400_i64);
    (time, local, person, batch).prop_map(|(time, local, person, batch)| Case {
        zone: time.0,
        near: time.1,
        minute: time.2,
        before_minutes: time.3,
        length_ms: time.4,
        ahead_seconds: time.5,
        allowed: local.0,
        quiet: local.1,
        weekdays_off: local.2,
        dates_off: local.3,
        not_before_minutes: person.0,
        deadline_minutes: person.1,
        gap_minutes: person.2,
        delivered_minutes_ago: person.3,
        breaker: person.4,
        latency_ms: person.5,
        curve: batch.0,
        person: batch.1,
        full_minutes: batch.2,
    })
}

/// What is the same for all cases.
struct Cases {
    zones: Vec<TimeZone>,
    curves: Vec<Curve>,
    policy: PolicyConfig,
}

impl Cases {
    fn new() -> Self {
        let population = Population::builtin();
        let curve = |clicks: i64| {
            let mut profile = Profile::default();
            for click in 0..clicks {
                let at = super::now().plus_millis(-click * 31 * HOUR_MS);
                profile.apply(&event(EventType::Clicked, at), false);
            }
            // Presence included: it belongs to a time that no case is near, or that all cases are after.
            population.curve(Some(&profile), super::now())
        };
        Self {
            zones: ZONES.iter().map(|zone| TimeZone::get(zone).unwrap()).collect(),
            curves: [0, 1, 8, 60].into_iter().map(curve).collect(),
            policy: InferenceConfig::default().policy,
        }
    }

    /// Decides a case alone and within a crowd, and checks every resulting minute.
    fn check(&self, case: &Case) -> Result<(), TestCaseError> {
        let zone = &self.zones[case.zone];
        let start = self.start(case);
        let now = start.plus_millis(-case.ahead_seconds * 1_000);
        let after = |minutes: i64| now.plus_millis(minutes * MINUTE_MS);
        let delivered_at = after(-case.delivered_minutes_ago);
        let mut profile = Profile::default();
        profile.apply(&delivery(delivered_at), false);
        if let Some((event_type, minutes_ago)) = case.breaker {
            profile.apply(&event(event_type, after(-minutes_ago)), false);
        }
        let first_day = start.as_millis().div_euclid(DAY_MINUTES * MINUTE_MS);
        let question = Question {
            now,
            now_was_told: true,
            window: start..start.plus_millis(case.length_ms),
            not_before: case.not_before_minutes.map(after),
            deadline: case.deadline_minutes.map(after),
            local: LocalRules {
                zone: zone.clone(),
                allowed: case.allowed.clone(),
                quiet: case.quiet,
                blackout_dates: case.dates_off.iter().map(|day| first_day + day).collect(),
                blackout_weekdays: case.weekdays_off,
            },
            minimum_gap_ms: case.gap_minutes.map(|minutes| minutes * MINUTE_MS),
            signals: Vec::new(),
        };
        let obeys = |minute: Timestamp| self.obeys(case, &question, delivered_at, minute);
        let latency = latency(case.latency_ms as f64 / 1_000.0);
        let facts = Facts {
            profile: &profile,
            curve: &self.curves[case.curve],
            latency: &latency,
            policy: &self.policy,
        };
        let probes = (0..6).map(|part| {
            let at = start.plus_millis(case.length_ms / 6 * part);
            moment(first_minute_at(at))
        });
        let choice = match decide(&question, facts) {
            Ok(choice) => choice,
            Err(refusal) => {
                for probe in probes {
                    prop_assert!(
                        !obeys(probe),
                        "{probe} was free, refused because of {}",
                        refusal.reason
                    );
                }
                return Ok(());
            }
        };
        prop_assert!(obeys(choice.arrive_at), "{} is forbidden", choice.arrive_at);
        prop_assert!(choice.trigger_at >= now);
        for range in &choice.candidates {
            let (first, last) = (range.start, range.end.plus_millis(-MINUTE_MS));
            prop_assert!(obeys(first), "{first} is forbidden and was a candidate");
            prop_assert!(obeys(last), "{last} is forbidden and was a candidate");
            for outside in [first.plus_millis(-MINUTE_MS), range.end] {
                prop_assert!(!obeys(outside), "{outside} was taken away without need");
            }
        }
        for probe in probes {
            prop_assert_eq!(choice.was_candidate(probe), obeys(probe), "{}", probe);
        }
        self.check_crowd(case, &choice, facts, obeys)
    }

    /// Does the same if the provider is full at and around the chosen minute, with and without a draw of the experiment, whose
    /// group differs from case to case.
    fn check_crowd(
        &self,
        case: &Case,
        choice: &Choice,
        facts: Facts<'_>,
        obeys: impl Fn(Timestamp) -> bool,
    ) -> Result<(), TestCaseError> {
        let mut room = Room::default();
        for minute in -case.full_minutes / 3..case.full_minutes {
            room.take("esp", choice.trigger_at.plus_millis(minute * MINUTE_MS));
        }
        let address = format!("person{}@example.com", case.person);
        let identifier = Hasher::new().email_identifier(&address).unwrap();
        let person = UniversalId::from_identifier(&identifier);
        let config = ExperimentConfig {
            control_share: 0.4,
            exploration_share: 0.5,
            salt: String::new(),
        };
        let draw = Draw::of(&config, &person, None, choice.arrive_at);
        for draw in [None, Some(&draw)] {
            let Some(placed) = choice.placed(draw, facts, room.of("esp", 1)) else {
                continue;
            };
            prop_assert!(
                obeys(placed.arrive_at),
                "{} is forbidden, after a move",
                placed.arrive_at
            );
            prop_assert!(
                room.of("esp", 1).is_free(placed.trigger_at),
                "moved to a full minute"
            );
            prop_assert!(placed.arrive_at != choice.arrive_at);
        }
        let mut alone = choice.clone();
        alone.draw(Some(&draw), None, facts);
        prop_assert!(
            obeys(alone.arrive_at),
            "{} is forbidden, and was drawn",
            alone.arrive_at
        );
        Ok(())
    }

    fn start(&self, case: &Case) -> Timestamp {
        let any = moment(case.minute);
        let near = match case.near {
            Near::Anything => any,
            Near::AChangeOfClocks => {
                let change = self.zones[case.zone].following(any.to_jiff()).next();
                change.map_or(any, |change| {
                    Timestamp::from_millis_clamped(change.timestamp().as_millisecond())
                })
            }
            Near::TheWeeksEnd => any.plus_millis(grid::WEEK_MS - grid::week_offset_ms(any)),
        };
        // Not on a full minute, as in reality.
        near.plus_millis(-case.before_minutes * MINUTE_MS + case.length_ms % 60 * 1_000)
    }

    /// Returns whether one minute obeys all rules.
    fn obeys(&self, case: &Case, question: &Question, delivered_at: Timestamp, minute: Timestamp) -> bool {
        let now = question.now;
        let local = minute.to_jiff().to_zoned_datetime(self.zones[case.zone].clone());
        let of_day = u16::try_from(local.hour()).unwrap() * 60 + u16::try_from(local.minute()).unwrap();
        let weekday = usize::try_from(local.weekday().to_monday_zero_offset()).unwrap();
        let silence = case.breaker.map(|(event_type, minutes_ago)| {
            let silence = match event_type {
                EventType::MarkedSpam => self.policy.marked_spam,
                EventType::SupportTicket => self.policy.support_ticket,
                EventType::Unsubscribed => self.policy.unsubscribed,
                _ => self.policy.hard_bounce,
            };
            let since = now.plus_millis(-minutes_ago * MINUTE_MS);
            since.plus_millis(i64::try_from(silence.as_millis()).unwrap())
        });
        let first_day = question
            .window
            .start
            .as_millis()
            .div_euclid(DAY_MINUTES * MINUTE_MS);
        let is_date_off = case
            .dates_off
            .iter()
            .any(|day| day_number(local.date()) == first_day + day);
        question.window.contains(&minute)
            && minute.millis_since(now) >= case.latency_ms
            && question.not_before.is_none_or(|earliest| minute >= earliest)
            && question.deadline.is_none_or(|latest| minute <= latest)
            && question
                .minimum_gap_ms
                .is_none_or(|gap_ms| minute.millis_since(delivered_at) >= gap_ms)
            && silence.is_none_or(|until| minute >= until)
            && (case.allowed.is_empty() || case.allowed.iter().any(|span| holds(*span, of_day)))
            && !case.quiet.is_some_and(|span| holds(span, of_day))
            && !case.weekdays_off[weekday]
            && !is_date_off
    }
}

fn run(count: u32) {
    let cases = Cases::new();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: count,
        // A failing case is printed; a folder of regressions would have to be maintained together with this test.
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner.run(&any_case(), |case| cases.check(&case)).unwrap();
}

#[test]
fn no_minute_breaks_a_rule() {
    run(CASES_IN_SHORT);
}

#[test]
#[ignore = "takes many minutes: the long version of `no_minute_breaks_a_rule`"]
fn no_minute_breaks_a_rule_in_ten_million_cases() {
    run(10_000_000);
}
