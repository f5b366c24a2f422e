mod cases;

use event::{BounceType, Event, EventType, Hasher, UniversalId, grid::HOUR_MS};
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::{config::InferenceConfig, latency::LatencySource, model::Population};

pub(super) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(super) fn now() -> Timestamp {
    at("2026-01-07T10:00:00Z")
}

pub(super) fn event(event_type: EventType, timestamp: Timestamp) -> Event {
    let identifier = Hasher::new().email_identifier("ann@example.com").unwrap();
    let universal_id = UniversalId::from_identifier(&identifier);
    Event {
        esp: "sendgrid".into(),
        account: "default".into(),
        identifiers: vec![identifier],
        bounce_type: (event_type == EventType::Bounced).then_some(BounceType::Hard),
        plugin: "sendgrid@1.0.0".into(),
        ingested_at: timestamp,
        ..Event::bare(event_type, timestamp, universal_id)
    }
}

/// Returns the delivery of a mail to which its provider gives an id.
pub(super) fn delivery(timestamp: Timestamp) -> Event {
    Event {
        message_id: Some(format!("m{timestamp}")),
        ..event(EventType::Delivered, timestamp)
    }
}

/// Returns a person who clicked every evening of the last four weeks at 19:30 UTC, most recently 14 hours before [`now`].
fn evening_person() -> Profile {
    let mut profile = Profile::default();
    for day in 0..28 {
        let clicked_at = at("2026-01-06T19:30:00Z").plus_millis(-day * 24 * HOUR_MS);
        profile.apply(&event(EventType::Clicked, clicked_at), false);
    }
    profile
}

pub(super) fn question() -> Question {
    Question {
        now: now(),
        now_was_told: true,
        window: now()..now().plus_millis(24 * HOUR_MS),
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

pub(super) fn latency(seconds: f64) -> WeekOfLatency {
    WeekOfLatency::constant(ExpectedLatency {
        seconds,
        source: LatencySource::Caller,
        samples: 0,
        part_samples: None,
    })
}

fn decide_for(profile: &Profile, question: &Question, latency: &WeekOfLatency) -> Result<Choice, Suppressed> {
    let curve = Population::builtin().curve(Some(profile), question.now);
    let policy = InferenceConfig::default().policy;
    decide(
        question,
        Facts {
            profile,
            curve: &curve,
            latency,
            policy: &policy,
        },
    )
}

fn decide_now(profile: &Profile, question: &Question) -> Result<Choice, Suppressed> {
    decide_for(profile, question, &latency(0.0))
}

#[test]
fn the_trigger_comes_earlier_by_the_latency() {
    let choice = decide_for(&evening_person(), &question(), &latency(90.0)).unwrap();
    assert_eq!(choice.arrive_at.millis_since(choice.trigger_at), 90_000);
    assert_eq!(choice.arrive_at.as_millis() % MINUTE_MS, 0);
    assert!(
        choice
            .guards
            .iter()
            .any(|effect| effect.guard == "latency" && effect.minutes_removed == 2)
    );
}

#[test]
fn what_the_latency_eats_is_not_chosen() {
    let mut question = question();
    question.window.end = now().plus_millis(HOUR_MS);
    let choice = decide_for(&evening_person(), &question, &latency(59.0 * 60.0)).unwrap();
    assert_eq!(choice.arrive_at, at("2026-01-07T10:59:00Z"));
    assert_eq!(choice.trigger_at, now());
    let refusal = decide_for(&evening_person(), &question, &latency(3_600.0)).unwrap_err();
    let first_allowed_at = Some(at("2026-01-07T11:00:00Z"));
    assert_eq!(
        refusal,
        Suppressed {
            reason: "latency",
            first_allowed_at
        }
    );
}

#[test]
fn the_optimum_is_taken_again_inside_the_guards() {
    let free = decide_now(&evening_person(), &question()).unwrap();
    let mut guarded = question();
    let chosen = u16::try_from(free.target_minute() % 1_440).unwrap();
    guarded.local.quiet = Some(DaySpan {
        start: chosen - 180,
        end: chosen + 180,
    });
    let choice = decide_now(&evening_person(), &guarded).unwrap();
    assert!(
        !choice
            .candidates
            .iter()
            .any(|range| range.contains(&free.arrive_at))
    );
    assert_eq!(
        choice.guards,
        [GuardEffect {
            guard: "quiet_hours",
            minutes_removed: 360
        }]
    );
    let curve = Population::builtin().curve(Some(&evening_person()), now());
    for range in &choice.candidates {
        let mut moment = range.start;
        while moment < range.end {
            assert!(curve.score(moment) <= curve.score(choice.arrive_at) + 1e-9);
            moment = moment.plus_millis(MINUTE_MS);
        }
    }
}

#[test]
fn a_breaker_overrides_hot_paths() {
    let mut profile = evening_person();
    profile.apply(&event(EventType::MarkedSpam, now().plus_millis(-HOUR_MS)), false);
    profile.apply(&event(EventType::SiteVisit, now().plus_millis(-60_000)), false);
    let refusal = decide_now(&profile, &question()).unwrap_err();
    assert_eq!(refusal.reason, "marked_spam");
    assert_eq!(refusal.first_allowed_at, Some(now().plus_millis(47 * HOUR_MS)));
    // A window that reaches beyond the breaker has minutes left.
    let mut longer = question();
    longer.window.end = now().plus_millis(72 * HOUR_MS);
    let choice = decide_now(&profile, &longer).unwrap();
    assert!(choice.arrive_at >= now().plus_millis(47 * HOUR_MS));
    assert_eq!(choice.breakers[0].reason, "marked_spam");
}

#[test]
fn the_first_allowed_moment_obeys_the_other_guards() {
    let mut profile = Profile::default();
    profile.apply(&event(EventType::Unsubscribed, at("2026-01-07T00:00:00Z")), false);
    let mut question = question();
    question.local.quiet = Some(DaySpan {
        start: 22 * 60,
        end: 7 * 60,
    });
    question.local.blackout_weekdays[2] = true;
    let refusal = decide_now(&profile, &question).unwrap_err();
    // 168 hours end on Wednesday 2026-01-14 at midnight; Wednesdays are blacked out; Thursday starts with quiet hours.
    assert_eq!(
        refusal,
        Suppressed {
            reason: "unsubscribed",
            first_allowed_at: Some(at("2026-01-15T07:00:00Z"))
        }
    );
}

#[test]
fn subscribing_again_lifts_the_unsubscription() {
    let mut profile = Profile::default();
    profile.apply(
        &event(EventType::Unsubscribed, now().plus_millis(-2 * HOUR_MS)),
        false,
    );
    assert_eq!(
        decide_now(&profile, &question()).unwrap_err().reason,
        "unsubscribed"
    );
    let mut told = question();
    told.signals.push(SeenSignal {
        signal: Signal::Resubscribed,
        at: now().plus_millis(-HOUR_MS),
    });
    assert!(decide_now(&profile, &told).is_ok());
    profile.apply(
        &event(EventType::Resubscribed, now().plus_millis(-HOUR_MS)),
        false,
    );
    assert!(decide_now(&profile, &question()).is_ok());
}

#[test]
fn nothing_after_now_is_used() {
    let mut profile = evening_person();
    let before = decide_now(&profile, &question()).unwrap();
    profile.apply(&event(EventType::Unsubscribed, now().plus_millis(1_000)), false);
    profile.apply(&event(EventType::SiteVisit, now().plus_millis(60_000)), false);
    profile.apply(&event(EventType::Delivered, now().plus_millis(60_000)), false);
    let gap = Question {
        minimum_gap_ms: Some(48 * HOUR_MS),
        ..question()
    };
    assert_eq!(decide_now(&profile, &gap).unwrap(), before);
}

#[test]
fn an_opt_out_of_a_clock_that_is_ahead_holds_at_once() {
    let live = Question {
        now_was_told: false,
        ..question()
    };
    for event_type in [
        EventType::Unsubscribed,
        EventType::MarkedSpam,
        EventType::SupportTicket,
    ] {
        let mut profile = evening_person();
        profile.apply(&event(event_type, now().plus_millis(20 * HOUR_MS)), false);
        let refusal = decide_now(&profile, &live).unwrap_err();
        assert_eq!(refusal.reason, event_type.as_str());
        // If the request sets `now`, as in a test or a replay, the event is ignored.
        assert!(decide_now(&profile, &question()).is_ok());
    }
    let mut profile = evening_person();
    profile.apply(
        &event(EventType::Unsubscribed, now().plus_millis(2 * HOUR_MS)),
        false,
    );
    let until = decide_now(&profile, &live).unwrap_err().first_allowed_at;
    assert_eq!(
        until,
        Some(now().plus_millis(168 * HOUR_MS)),
        "as if it happened now"
    );
    // A later resubscription counts once its time has come, and one before the unsubscription does not count at all.
    for hours in [-1, 3] {
        let mut profile = profile.clone();
        let returned = now().plus_millis(hours * HOUR_MS);
        profile.apply(&event(EventType::Resubscribed, returned), false);
        assert!(decide_now(&profile, &live).is_err(), "{hours}");
    }
    // An event further ahead than the host accepts was stored by mistake.
    let mut profile = evening_person();
    profile.apply(
        &event(EventType::Unsubscribed, now().plus_millis(25 * HOUR_MS)),
        false,
    );
    assert!(decide_now(&profile, &live).is_ok());
}

#[test]
fn deliveries_without_message_never_shorten_the_gap() {
    let mut profile = Profile::default();
    for time in ["2026-01-07T09:01:00Z", "2026-01-07T09:29:00Z"] {
        profile.apply(&event(EventType::Delivered, at(time)), false);
    }
    let question = Question {
        minimum_gap_ms: Some(24 * HOUR_MS),
        ..question()
    };
    let choice = decide_now(&profile, &question).unwrap();
    assert!(
        choice.arrive_at >= at("2026-01-08T09:29:00Z"),
        "{}",
        choice.arrive_at
    );
    assert_eq!(choice.minutes_left, 30);
}

#[test]
fn the_gap_counts_from_the_last_delivery() {
    let mut profile = Profile::default();
    profile.apply(&delivery(at("2026-01-07T09:30:00Z")), false);
    a_day_passes_since_half_past_nine(&profile);
}

fn a_day_passes_since_half_past_nine(profile: &Profile) {
    let question = Question {
        minimum_gap_ms: Some(24 * HOUR_MS),
        ..question()
    };
    let choice = decide_now(profile, &question).unwrap();
    assert!(choice.arrive_at >= at("2026-01-08T09:30:00Z"));
    assert_eq!(choice.minutes_left, 30);
}

#[test]
fn a_delivery_of_a_clock_that_is_ahead_counts_as_of_now() {
    let mut profile = Profile::default();
    profile.apply(&delivery(now().plus_millis(20 * HOUR_MS)), false);
    let told = Question {
        minimum_gap_ms: Some(12 * HOUR_MS),
        ..question()
    };
    assert_eq!(
        decide_now(&profile, &told).unwrap().minutes_left,
        1_440,
        "a replay knows nothing of it"
    );
    let live = Question {
        now_was_told: false,
        ..told
    };
    let choice = decide_now(&profile, &live).unwrap();
    assert!(choice.arrive_at >= now().plus_millis(12 * HOUR_MS));
    assert_eq!(
        choice.minutes_left, 720,
        "the time of the other clock need not come"
    );
}

#[test]
fn the_gap_counts_from_a_mail_whose_delivery_is_not_told() {
    let mut profile = Profile::default();
    profile.apply(&delivery(at("2026-01-07T04:00:00Z")), false);
    profile.apply(&event(EventType::Sent, at("2026-01-07T09:30:00Z")), false);
    a_day_passes_since_half_past_nine(&profile);
}

#[test]
fn a_visit_just_now_raises_the_next_minutes() {
    let mut question = question();
    question.signals.push(SeenSignal {
        signal: Signal::ProductView,
        at: now(),
    });
    let choice = decide_now(&Profile::default(), &question).unwrap();
    let curve = Population::builtin().curve(None, now());
    let expected = curve.score(choice.arrive_at) * choice.factor_at(choice.arrive_at);
    assert!(
        (choice.value - expected).abs() < 1e-6 * expected,
        "{} {expected}",
        choice.value
    );
    assert!((choice.factor_at(now()) - 2.0).abs() < 1e-9);
    assert!((choice.factor_at(now().plus_millis(HOUR_MS)) - 1.5).abs() < 1e-9);
}

#[test]
fn deadline_and_not_before_are_inclusive() {
    let minute = at("2026-01-07T15:00:00Z");
    let question = Question {
        not_before: Some(minute),
        deadline: Some(minute),
        ..question()
    };
    let choice = decide_now(&evening_person(), &question).unwrap();
    assert_eq!(choice.arrive_at, minute);
    assert_eq!(choice.minutes_left, 1);
}

#[test]
fn windows_go_over_the_weeks_end() {
    let sunday = at("2026-01-11T20:00:00Z");
    let question = Question {
        now: sunday,
        window: sunday..sunday.plus_millis(24 * HOUR_MS),
        ..question()
    };
    let question = Question {
        not_before: Some(at("2026-01-12T00:05:00Z")),
        ..question
    };
    let choice = decide_now(&evening_person(), &question).unwrap();
    assert!(choice.arrive_at > at("2026-01-12T00:00:00Z") && choice.arrive_at < question.window.end);
    assert_eq!(choice.target_minute(), grid::slot(choice.arrive_at));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever the guards are, the chosen minute obeys all of them and is the best that does, and a refusal is justified.
    #[test]
    fn the_choice_is_the_best_minute_that_every_guard_allows(
        start_hours in -30_i64..200,
        length_minutes in 1_i64..3_000,
        not_before in prop::option::of(0_i64..3_000),
        deadline in prop::option::of(0_i64..6_000),
        quiet in prop::option::of((0_u16..1_439, 1_u16..1_440)),
        gap_hours in prop::option::of(0_i64..72),
        latency_seconds in 0_i64..7_200,
        spam_hours_ago in prop::option::of(0_i64..60),
        visit_minutes_ago in prop::option::of(0_i64..60),
    ) {
        let minutes = |count: i64| now().plus_millis(count * MINUTE_MS);
        let mut profile = evening_person();
        let delivered_at = now().plus_millis(-3 * HOUR_MS);
        profile.apply(&delivery(delivered_at), false);
        let complained_at = spam_hours_ago.map(|hours| now().plus_millis(-hours * HOUR_MS));
        if let Some(at) = complained_at {
            profile.apply(&event(EventType::MarkedSpam, at), false);
        }
        let mut question = question();
        let start = now().plus_millis(start_hours * HOUR_MS);
        question.window = start..start.plus_millis(length_minutes * MINUTE_MS);
        question.not_before = not_before.map(minutes);
        question.deadline = deadline.map(minutes);
        question.minimum_gap_ms = gap_hours.map(|hours| hours * HOUR_MS);
        question.local.quiet = quiet.filter(|(start, end)| start != end).map(|(start, end)| DaySpan { start, end });
        if let Some(ago) = visit_minutes_ago {
            question.signals.push(SeenSignal { signal: Signal::SiteVisit, at: minutes(-ago) });
        }
        let curve = Population::builtin().curve(Some(&profile), now());
        let (latency, policy) = (latency(latency_seconds as f64), InferenceConfig::default().policy);
        let facts = Facts { profile: &profile, curve: &curve, latency: &latency, policy: &policy };
        let paths = hot_path::warm(&question.signals, facts, now());
        let heat = |moment| hot_path::factor(&paths, moment);

        let obeys = |minute: Timestamp| {
            let of_day = u16::try_from(grid::slot(minute) % 1_440).unwrap();
            minute.millis_since(now()) >= latency_seconds * 1_000
                && question.not_before.is_none_or(|earliest| minute >= earliest)
                && question.deadline.is_none_or(|latest| minute <= latest)
                && question.minimum_gap_ms.is_none_or(|gap| minute.millis_since(delivered_at) >= gap)
                && complained_at.is_none_or(|at| minute.millis_since(at) >= 48 * HOUR_MS)
                && !question.local.quiet.is_some_and(|DaySpan { start, end }| {
                    if start < end { (start..end).contains(&of_day) } else { of_day >= start || of_day < end }
                })
        };
        let mut best: Option<f64> = None;
        for minute in 0..length_minutes {
            let minute = start.plus_millis(minute * MINUTE_MS);
            if obeys(minute) {
                let value = curve.score(minute) * heat(minute);
                best = Some(best.map_or(value, |best| best.max(value)));
            }
        }
        match (decide_for(&profile, &question, &latency), best) {
            (Ok(choice), Some(best)) => {
                prop_assert!(obeys(choice.arrive_at) && question.window.contains(&choice.arrive_at));
                prop_assert!(choice.trigger_at >= now());
                let value = curve.score(choice.arrive_at) * heat(choice.arrive_at);
                prop_assert!((value - best).abs() <= 1e-5 * best, "{value} is not {best}");
            }
            (Err(refusal), None) => {
                if let Some(first) = refusal.first_allowed_at {
                    let rest = Question { window: first..first.plus_millis(MINUTE_MS), ..question.clone() };
                    prop_assert!(decide_for(&profile, &rest, &latency).is_ok());
                }
            }
            (decided, best) => prop_assert!(false, "{decided:?} {best:?}"),
        }
    }
}
