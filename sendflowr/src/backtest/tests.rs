//! Tests backtests on logs whose truth is known.

use super::{
    score::{Measure, Policy, Scores, score},
    statistics::{Random, Ratio},
    verdict::{Lack, Verdict, rows, verdict},
    *,
};
use crate::event_log::Logged;
use event::{EventType, Timestamp};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Monday 2025-09-01T00:00:00Z.
const START: i64 = 1_756_684_800;
const DAYS: i64 = 63;

fn click(log: &mut EventLog, person: usize, at: i64) {
    push(log, person, at, EventType::Clicked, None);
}

fn push(log: &mut EventLog, person: usize, at: i64, event_type: EventType, message: Option<&str>) {
    let event = Logged {
        at: Timestamp::from_millis_clamped(at * 1000),
        event_type,
        machine: false,
        message,
        user_agent: None,
        ip_address: None,
    };
    log.push(&format!("p{person}"), event);
}

/// Returns people who act on half of the days, at a random time within the hour that `hour` returns.
fn acts(people: usize, hour: impl Fn(usize, &mut Random) -> i64) -> EventLog {
    let mut log = EventLog::default();
    let mut random = Random::new(10);
    for person in 0..people {
        for day in 0..DAYS {
            if random.below(2) == 0 {
                let at = START + day * DAY + hour(person, &mut random) * HOUR + random.below(3_600) as i64;
                click(&mut log, person, at);
            }
        }
    }
    log.sort();
    log
}

/// Returns people who each get one mail a day at a random minute; clicks follow soon, with the probability that `chance`
/// returns for the hour.
fn mail(people: usize, chance: impl Fn(usize, usize) -> f64) -> EventLog {
    let mut log = EventLog::default();
    let mut random = Random::new(6);
    for person in 0..people {
        for day in 0..DAYS {
            let second = random.below(DAY as usize);
            let at = START + day * DAY + second as i64;
            let message = format!("{person}-{day}");
            push(&mut log, person, at, EventType::Delivered, Some(&message));
            let drawn = random.below(1_000) as f64 / 1_000.0;
            if drawn < chance(person, second / 3_600) {
                push(
                    &mut log,
                    person,
                    at + 300 + random.below(600) as i64,
                    EventType::Clicked,
                    Some(&message),
                );
            }
        }
    }
    log.sort();
    log
}

/// Returns people who get a mail on the days and at the second of the day that `sent` returns, and of whom three in ten click often
/// and the others hardly ever, at whatever hour it comes.
fn mail_without_effect(people: usize, sent: impl Fn(i64, &mut Random) -> Option<i64>) -> EventLog {
    let mut log = EventLog::default();
    let mut random = Random::new(8);
    for person in 0..people {
        let per_mille = if random.below(10) < 3 { 300 } else { 5 };
        for day in 0..DAYS {
            let Some(second) = sent(day, &mut random) else {
                continue;
            };
            let at = START + day * DAY + second;
            let message = format!("{person}-{day}");
            push(&mut log, person, at, EventType::Delivered, Some(&message));
            if random.below(1_000) < per_mille {
                let wait = 60 + random.below(10_000) as i64;
                push(&mut log, person, at + wait, EventType::Clicked, Some(&message));
            }
        }
    }
    log.sort();
    log
}

/// Returns a time within twenty minutes after nine, or, for so many in a hundred mails, any time of the day.
fn at_nine(random_percent: usize, random: &mut Random) -> i64 {
    if random.below(100) < random_percent {
        random.below(DAY as usize) as i64
    } else {
        9 * HOUR + random.below(1_200) as i64
    }
}

fn judged(log: &EventLog) -> (Scores, Verdict) {
    let scores = score(log, 1).unwrap();
    let verdict = verdict(&scores, &rows(&scores, 1));
    (scores, verdict)
}

#[test]
fn a_few_acts_at_any_hour_do_not_show_that_there_is_no_gain() {
    let (scores, verdict) = judged(&acts(300, |_, random| random.below(24) as i64));
    assert_eq!(scores.measure, Measure::Acts);
    assert!(
        matches!(verdict, Verdict::NotEnoughData(Lack::Certainty { .. })),
        "{verdict:?}"
    );
}

#[test]
fn acts_of_people_with_deliveries_are_not_scored() {
    let mut log = acts(300, |person, _| (person * 7 % 24) as i64);
    // 40 others get some mail at nine, and click hours later.
    for person in 300..340 {
        for day in 0..20 {
            let at = START + day * DAY + 9 * HOUR;
            let message = format!("{person}-{day}");
            push(&mut log, person, at, EventType::Delivered, Some(&message));
            push(
                &mut log,
                person,
                at + 5 * HOUR,
                EventType::Clicked,
                Some(&message),
            );
        }
    }
    log.sort();
    let (scores, verdict) = judged(&log);
    assert_eq!((scores.measure, scores.people.len()), (Measure::Acts, 300));
    assert!(matches!(verdict, Verdict::SwitchItOn { .. }), "{verdict:?}");
}

#[test]
fn strong_hours_of_acts_end_in_switch_it_on() {
    let (scores, verdict) = judged(&acts(300, |person, _| (person * 7 % 24) as i64));
    assert!(matches!(verdict, Verdict::SwitchItOn { .. }), "{verdict:?}");
    let ours = rows(&scores, 1).pop().unwrap();
    assert!(ours.rates[0].estimate.value > 0.8, "{:?}", ours.rates);
    assert!(ours.bits.unwrap().value > 1.0);
}

#[test]
fn mail_that_is_clicked_at_any_hour_ends_in_do_not_bother() {
    let (scores, verdict) = judged(&mail(1_200, |_, _| 0.6));
    assert_eq!(scores.measure, Measure::Mail);
    assert!(matches!(verdict, Verdict::DoNotBother { .. }), "{verdict:?}");
}

#[test]
fn mail_that_is_clicked_at_personal_hours_ends_in_switch_it_on() {
    let near = |person: usize, hour: usize| {
        let away = (person * 7 % 24).abs_diff(hour);
        if away.min(24 - away) <= 2 { 0.5 } else { 0.02 }
    };
    let (scores, verdict) = judged(&mail(1_200, near));
    assert!(matches!(verdict, Verdict::SwitchItOn { .. }), "{verdict:?}");
    let ours = rows(&scores, 1).pop().unwrap();
    // The truth is 0.5 for a policy that chooses the right hour, and 0.12 for one that chooses at random.
    assert!(ours.rates[0].estimate.value > 0.4, "{:?}", ours.rates);
}

#[test]
fn mail_at_one_hour_says_nothing_of_others_however_much_of_it_there_is() {
    let (scores, verdict) = judged(&mail_without_effect(800, |day, random| {
        (day % 2 == 0).then(|| at_nine(0, random))
    }));
    assert_eq!(scores.measure, Measure::Mail);
    let Verdict::NotEnoughData(Lack::Support { of, share }) = verdict else {
        panic!("{verdict:?}")
    };
    assert!(of == Policy::UsualHour && share < 0.8, "{of:?} {share}");
    // The model's rate would be that of the people for whom it would choose the usual hour: those who click.
    let page = backtest(
        &mail_without_effect(300, |day, random| (day % 2 == 0).then(|| at_nine(0, random))),
        1,
    )
    .unwrap();
    for text in [&page.text, &page.html] {
        assert!(
            text.contains("mail at random minutes of the whole day shows it"),
            "{text}"
        );
    }
    let ours = page
        .text
        .lines()
        .find(|line| line.starts_with("sendflowr"))
        .unwrap();
    assert!(!ours.contains('['), "{ours}");
}

#[test]
fn weights_stand_for_all_mails() {
    let any_time = mail_without_effect(400, |_, random| Some(at_nine(100, random)));
    let hourly = mail_without_effect(800, |_, random| Some(at_nine(5, random)));
    let weekly = mail_without_effect(800, |day, random| {
        let is_tuesday = day % 7 == 1;
        (is_tuesday || random.below(50) == 0).then(|| at_nine(if is_tuesday { 5 } else { 100 }, random))
    });
    let mut checked = 0;
    for (log, sent) in [(any_time, "any time"), (hourly, "hourly"), (weekly, "weekly")] {
        let scores = score(&log, 1).unwrap();
        for policy in scores.known {
            let mut rate = Ratio::default();
            scores
                .people
                .iter()
                .for_each(|person| rate.add(&person.rates[0][policy]));
            // The sum of a few large weights says nothing.
            if rate.effective() >= 40.0 {
                let each = rate.weight / rate.trials;
                assert!(
                    (0.7..1.3).contains(&each),
                    "{sent}, {policy:?}: {each} of {rate:?}"
                );
                checked += 1;
            }
        }
    }
    assert!(checked >= 12, "{checked}");
}

#[test]
fn few_people_end_in_not_enough_data() {
    let (_, verdict) = judged(&acts(20, |person, _| (person % 24) as i64));
    let Verdict::NotEnoughData(Lack::Seen { have, need, .. }) = verdict else {
        panic!("{verdict:?}")
    };
    assert!(have < need, "{have} of {need}");
}

#[test]
fn reports_repeat_and_hold_every_policy() {
    let log = acts(60, |person, _| (person * 5 % 24) as i64);
    let page = backtest(&log, 3).unwrap();
    assert_eq!(page, backtest(&log, 3).unwrap());
    assert_ne!(page, backtest(&log, 4).unwrap());
    // The log contains neither deliveries nor opens.
    for policy in Policy::ALL {
        let known = ![Policy::UsualHour, Policy::OpenHour].contains(&policy);
        assert_eq!(
            page.text.contains(policy.name()),
            known,
            "{policy:?}\n{}",
            page.text
        );
    }
    assert!(page.text.contains("\nverdict: "));
    // Rates by size of history have intervals too, on the terminal and in the page.
    for text in [&page.text, &page.html] {
        let (_, by_size) = text.split_once("by clicks before").unwrap();
        assert!(by_size.contains(" ["), "{text}");
    }
    assert!(page.html.starts_with("<!doctype html>") && page.html.contains("<svg"));
    assert!(
        !page.html.contains("http://") && !page.html.contains("https://"),
        "nothing comes from elsewhere"
    );
}

#[test]
fn says_when_a_log_is_too_short() {
    let mut log = EventLog::default();
    (0..20).for_each(|day| click(&mut log, 0, START + day * DAY));
    log.sort();
    let message = backtest(&log, 1).unwrap_err().to_string();
    assert_eq!(message, "the events span 19 days; a backtest needs at least 35");
    assert!(backtest(&EventLog::default(), 1).is_err());
}

#[test]
fn says_when_there_are_only_opens() {
    for with_mail in [false, true] {
        let mut log = EventLog::default();
        for (person, day) in (0..30).flat_map(|person| (0..DAYS).map(move |day| (person, day))) {
            let at = START + day * DAY + (person as i64 % 24) * HOUR;
            let message = with_mail.then(|| format!("{person}-{day}"));
            if with_mail {
                push(&mut log, person, at, EventType::Delivered, message.as_deref());
            }
            push(&mut log, person, at + 600, EventType::Opened, message.as_deref());
        }
        log.sort();
        let message = backtest(&log, 1).unwrap_err().to_string();
        assert_eq!(
            message,
            "no clicks, replies or conversions by people in these events: opens are not scored"
        );
    }
}

#[test]
fn no_rate_is_printed_where_nobody_acted() {
    let mut log = acts(60, |person, _| (person % 24) as i64);
    // Nobody acts in the tested weeks, which end with an open.
    log.end_at(Timestamp::from_millis_clamped((START + 25 * DAY) * 1_000));
    push(&mut log, 0, START + DAYS * DAY, EventType::Opened, None);
    log.sort();
    let page = backtest(&log, 1).unwrap();
    for text in [&page.text, &page.html] {
        let is_said = text.contains("0 of at least 400 windows in which somebody acted");
        assert!(
            is_said && !text.contains("[0.") && !text.contains("<svg"),
            "{text}"
        );
    }
}

#[test]
fn mail_at_fixed_hours_ends_in_not_enough_data() {
    // A simulated brand, including scanners and prefetching mailboxes: only 2 % of its mail shows what other hours are
    // worth.
    let end: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
    let world = synth::World::new(2, 250, end).weeks(16).mails_per_week(4.0);
    let mut log = EventLog::default();
    for person in 0..world.people() {
        for simulated in world.events(person, &event::Hasher::new()) {
            let event = &simulated.event;
            let address = event.ip_address.as_deref();
            let logged = Logged {
                at: event.timestamp,
                event_type: event.event_type,
                machine: event.is_machine == Some(true),
                message: event.message_id.as_deref(),
                user_agent: event.user_agent.as_deref(),
                ip_address: address.and_then(|address| address.parse().ok()),
            };
            log.push(&format!("p{person}"), logged);
        }
    }
    log.sort();
    let (scores, verdict) = judged(&log);
    assert_eq!(scores.measure, Measure::Mail);
    assert!(matches!(verdict, Verdict::NotEnoughData(_)), "{verdict:?}");
}

#[test]
fn mails_are_weighed_by_the_hours_of_the_tested_weeks() {
    // Four weeks of mail in the morning, which nobody clicks; then, in the tested weeks, nearly all of it in the evening, which
    // everybody clicks.
    let mut log = EventLog::default();
    let mut random = Random::new(7);
    for person in 0..300 {
        for day in 0..DAYS {
            let is_evening = day >= 28 && random.below(20) > 0;
            let at = START + day * DAY + if is_evening { 18 * HOUR } else { 9 * HOUR };
            let message = format!("{person}-{day}");
            push(&mut log, person, at, EventType::Delivered, Some(&message));
            if is_evening {
                let wait = 300 + random.below(600) as i64;
                push(&mut log, person, at + wait, EventType::Clicked, Some(&message));
            }
        }
    }
    log.sort();
    let (scores, _) = judged(&log);
    assert_eq!(scores.measure, Measure::Mail);
    let rows = rows(&scores, 1);
    let value = |policy: Policy| {
        let row = rows.iter().find(|row| row.policy == policy).unwrap();
        row.rates[0].estimate.value
    };
    // A random minute is as likely near one hour as near the other, however rarely mail arrived there.
    let random_minute = value(Policy::RandomMinute);
    assert!((random_minute - 0.5).abs() < 0.2, "{random_minute}");
    // A policy that had to choose before the tested weeks knew only the morning.
    assert_eq!(value(Policy::UsualHour), 0.0);
}
