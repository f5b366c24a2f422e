use event::{EventType, Hasher, grid::HOUR_MS};

use super::*;
use crate::{
    config::{ExperimentConfig, InferenceConfig},
    decision::{
        decide,
        tests::{at, event, latency, now, question},
    },
    latency::WeekOfLatency,
    model::{Curve, Population},
};
use event::profile::Profile;

fn person(number: usize) -> UniversalId {
    let email = format!("person{number}@example.com");
    UniversalId::from_identifier(&Hasher::new().email_identifier(&email).unwrap())
}

struct One {
    profile: Profile,
    curve: Curve,
    choice: Choice,
}

/// Returns people whose best minutes lie close together: evening people, whose times of activity differ from day to day by
/// minutes for some and by hours for others, in random order.
fn crowd(people: usize) -> Vec<One> {
    let (policy, latency) = (InferenceConfig::default().policy, latency(0.0));
    let population = Population::builtin();
    (0..people)
        .map(|person| {
            let mut random = draw::mix(person as u64);
            let mut next = |below: i64| {
                random = draw::mix(random);
                (random % below.cast_unsigned()).cast_signed()
            };
            let (days, spread_minutes) = (1 + next(60), 1 + next(600));
            let mut profile = Profile::default();
            for day in 0..days {
                let minutes = next(spread_minutes) - spread_minutes / 2;
                let clicked_at =
                    at("2026-01-06T19:30:00Z").plus_millis(-day * 24 * HOUR_MS + minutes * MINUTE_MS);
                profile.apply(&event(EventType::Clicked, clicked_at.min(now())), false);
            }
            let curve = population.curve(Some(&profile), now());
            let facts = facts(&profile, &curve, &latency, &policy);
            let choice = decide(&question(), facts).unwrap();
            One {
                profile,
                curve,
                choice,
            }
        })
        .collect()
}

fn facts<'a>(
    profile: &'a Profile,
    curve: &'a Curve,
    latency: &'a WeekOfLatency,
    policy: &'a crate::PolicyConfig,
) -> Facts<'a> {
    Facts {
        profile,
        curve,
        latency,
        policy,
    }
}

/// Returns the total loss if people choose in this order.
fn lost(people: &[One], order: impl Iterator<Item = usize>, per_minute: u32) -> f64 {
    let (policy, latency) = (InferenceConfig::default().policy, latency(0.0));
    let mut room = Room::default();
    let mut lost = 0.0;
    for person in order {
        let one = &people[person];
        let facts = facts(&one.profile, &one.curve, &latency, &policy);
        let choice = one
            .choice
            .placed(None, facts, room.of("esp", per_minute))
            .unwrap();
        room.take("esp", choice.trigger_at);
        lost += one.choice.value - choice.value;
    }
    lost
}

#[test]
fn who_loses_most_first_loses_less_together_than_the_order_of_arrival() {
    let people = crowd(1_000);
    let (policy, latency) = (InferenceConfig::default().policy, latency(0.0));
    let stake = |one: &One| {
        one.choice
            .stake(facts(&one.profile, &one.curve, &latency, &policy))
    };
    let mut by_stake: Vec<usize> = (0..people.len()).collect();
    by_stake.sort_by(|a, b| stake(&people[*b]).total_cmp(&stake(&people[*a])));
    let all: f64 = people.iter().map(|one| one.choice.value).sum();
    for per_minute in [1, 2, 4, 16] {
        let arrival = lost(&people, 0..people.len(), per_minute);
        let staked = lost(&people, by_stake.iter().copied(), per_minute);
        println!(
            "{per_minute} a minute: {:.2} % of the value lost in the order of arrival, {:.2} % by stake",
            100.0 * arrival / all,
            100.0 * staked / all
        );
        assert!(staked < arrival, "{per_minute}: {staked} {arrival}");
    }
}

#[test]
fn a_batch_beyond_all_bounds_counts_as_full() {
    let mut room = Room::default();
    for day in 0..MAX_DAYS as i64 {
        let at = Timestamp::from_millis_clamped(day * DAY_MINUTES * MINUTE_MS);
        assert!(room.of("esp", 1).is_free(at));
        room.take("esp", at);
        assert!(!room.of("esp", 1).is_free(at));
    }
    let beyond = Timestamp::from_millis_clamped(MAX_DAYS as i64 * DAY_MINUTES * MINUTE_MS);
    assert!(!room.of("esp", 1).is_free(beyond) && !room.of("other", 1).is_free(now()));
    // There is still room in the days that are already counted.
    assert!(
        room.of("esp", 1)
            .is_free(Timestamp::from_millis_clamped(MINUTE_MS))
    );
}

#[test]
fn a_minute_is_free_if_its_trigger_is_also_where_delays_step() {
    // Twenty minutes on weekdays from 16:00 to 20:00, 20 seconds otherwise.
    let mut ms = [20_000; 12];
    ms[4] = 1_200_000;
    let week = WeekOfLatency::of_milliseconds(&ms, latency(0.0).handed_over_at(now())).unwrap();
    let (profile, policy) = (Profile::default(), InferenceConfig::default().policy);
    let curve = Population::builtin().curve(None, now());
    let mut question = question();
    question.window = at("2026-01-07T15:00:00Z")..at("2026-01-07T21:00:00Z");
    let choice = decide(&question, facts(&profile, &curve, &week, &policy)).unwrap();
    let mut room = Room::default();
    for taken in [
        "15:50", "15:59", "16:00", "17:10", "19:40", "19:50", "20:00", "20:01",
    ] {
        room.take("esp", at(&format!("2026-01-07T{taken}:30Z")));
    }
    let room = room.of("esp", 1);
    let free = room.free(&choice.candidates, &week);
    let (mut all, mut full) = (0, 0);
    for range in &choice.candidates {
        let mut minute = range.start;
        while minute < range.end {
            let delay = week.arriving_at(minute).expect("it is a candidate");
            let is_free = room.is_free(minute.plus_millis(-delay.as_millis()));
            let found = free.iter().any(|range| range.contains(&minute));
            assert_eq!(found, is_free, "{minute}");
            all += 1;
            full += i64::from(!is_free);
            minute = minute.plus_millis(MINUTE_MS);
        }
    }
    // From 16:01 to 16:19 no mail arrives. Mail handed over from 19:41 on would arrive when later mail does.
    assert_eq!((all, full), (6 * 60 - 19, 7));
}

#[test]
fn only_who_finds_a_minute_full_has_moved() {
    let (policy, latency) = (InferenceConfig::default().policy, latency(0.0));
    let one = &crowd(1)[0];
    let facts = facts(&one.profile, &one.curve, &latency, &policy);
    let config = ExperimentConfig {
        control_share: 0.2,
        exploration_share: 0.8,
        salt: String::new(),
    };
    // The best tenth is full: less is then nearly as good as the best that is free, and more quarter hours can be drawn.
    let mut room = Room::default();
    for range in &one.choice.candidates {
        let mut minute = range.start;
        while minute < range.end {
            if one.choice.value_at(minute, facts) > 0.9 * one.choice.value {
                room.take("esp", minute);
            }
            minute = minute.plus_millis(MINUTE_MS);
        }
    }
    let (mut moved, mut drawn_anew) = (0, 0);
    for number in 0..400 {
        let draw = Draw::of(&config, &person(number), None, now());
        let mut alone = one.choice.clone();
        alone.draw(Some(&draw), None, facts);
        let placed = one.choice.placed(Some(&draw), facts, room.of("esp", 1)).unwrap();
        let was_free = room.of("esp", 1).is_free(alone.trigger_at);
        assert_eq!(placed.moved.is_none(), was_free, "{number}");
        assert!(
            placed.moved.is_none_or(|moved| moved.from == alone.arrive_at),
            "{number}"
        );
        moved += usize::from(!was_free);
        drawn_anew += usize::from(was_free && placed.arrive_at != alone.arrive_at);
    }
    assert!(moved > 0 && drawn_anew > 0, "{moved} {drawn_anew}");
}
