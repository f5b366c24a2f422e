mod capacity;

use store::events::{StoredExplanation, Trial};

use super::*;
use crate::mail::fixture::{self, Stores};

/// A deterministic generator for a seed (Steele and others, SplitMix64), uniform between 0 and 1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// People with some mails each, who answer at a rate of their own that is multiplied by their group's factor; a tenth
/// are control.
fn people(seed: u64, count: usize, lift: f64) -> Vec<Vec<Outcome>> {
    let mut numbers = Numbers(seed);
    let mut people = Vec::with_capacity(count);
    for _ in 0..count {
        let (group, factor) = if numbers.next() < 0.1 {
            (TrialGroup::Control, 1.0)
        } else {
            (TrialGroup::Treated, 1.0 + lift)
        };
        // From 0 to 20 %: people differ far more than the groups do.
        let rate = 0.2 * numbers.next() * factor;
        let mails = 1 + (numbers.next() * 5.0) as usize;
        let outcome = |numbers: &mut Numbers| Outcome {
            group,
            weight: if group == TrialGroup::Treated {
                1.0 / 0.9
            } else {
                0.0
            },
            answered: Some(numbers.next() < rate),
            is_under_another_campaign: false,
        };
        people.push((0..mails).map(|_| outcome(&mut numbers)).collect());
    }
    people
}

fn compared(seed: u64, count: usize, lift: f64) -> Lift {
    compare(
        &people(seed, count, lift),
        1.0,
        Timestamp::default(),
        Timestamp::default(),
    )
}

#[test]
fn the_interval_covers_the_truth_as_often_as_it_says() {
    let truth = 0.1 * 0.3;
    let seeds = 400;
    let covered = (0..seeds).filter(|seed| {
        let difference = compared(*seed, 4_000, 0.3).difference.unwrap();
        (difference.low..=difference.high).contains(&truth)
    });
    // 95 % of 400 are 380, with a standard deviation of 4.4.
    let covered = covered.count();
    assert!((362..=396).contains(&covered), "{covered} of {seeds}");
}

#[test]
fn a_lift_is_found_where_there_is_one() {
    let lift = compared(1, 40_000, 0.3);
    assert_eq!(lift.verdict.code, "better", "{:?}", lift.verdict);
    let relative = lift.relative_lift.unwrap();
    assert!(relative.low < 0.3 && 0.3 < relative.high, "{relative:?}");
    let snips = lift.model.unwrap().snips;
    assert!((snips.value - 0.13).abs() < 0.01, "{snips:?}");
    assert_eq!(compared(1, 40_000, -0.3).verdict.code, "worse");
}

#[test]
fn none_is_found_where_there_is_none() {
    let mut found = 0;
    for seed in 0..100 {
        let code = compared(seed, 4_000, 0.0).verdict.code;
        found += usize::from(code == "better" || code == "worse");
    }
    assert!(found <= 2, "{found} of 100");
}

#[test]
fn looking_every_day_seldom_finds_what_is_not_there() {
    const DAYS: usize = 90;
    const PER_DAY: usize = 12;
    const RUNS: u64 = 100;
    // Nine of ten mails are answered in both groups, so that the number of mails that is planned for a lift of a tenth is soon
    // reached.
    let is_found = |people: &[Vec<Outcome>]| {
        let verdict = compare(people, 1.0, Timestamp::default(), Timestamp::default()).verdict;
        ["better", "worse"].contains(&verdict.code)
    };
    let (mut found_since_the_beginning, mut found_in_four_weeks) = (0, 0);
    for seed in 0..RUNS {
        let mut numbers = Numbers(seed);
        let person = |number: usize| {
            let outcome = Outcome {
                group: [TrialGroup::Treated, TrialGroup::Control][number % 2],
                weight: 1.0,
                answered: Some(numbers.next() < 0.9),
                is_under_another_campaign: false,
            };
            vec![outcome]
        };
        let people: Vec<Vec<Outcome>> = (0..DAYS * PER_DAY).map(person).collect();
        let mut looks = (1..=DAYS).map(|day| &people[..day * PER_DAY]);
        found_since_the_beginning += usize::from(looks.clone().any(is_found));
        let four_weeks = |seen: &[Vec<Outcome>]| is_found(&seen[seen.len().saturating_sub(28 * PER_DAY)..]);
        found_in_four_weeks += usize::from(looks.any(four_weeks));
    }
    assert!(
        found_since_the_beginning <= 5 && found_in_four_weeks <= 5,
        "{found_since_the_beginning} and {found_in_four_weeks} of {RUNS}"
    );
}

#[test]
fn few_mails_are_not_enough_and_it_says_how_many_are() {
    let lift = compared(1, 200, 0.3);
    assert_eq!(lift.verdict.code, "not_enough_data");
    let missing = lift.power.mails_missing.to_string();
    assert!(lift.verdict.text.contains(&missing), "{}", lift.verdict.text);
    let nothing = compare(&[], 1.0, Timestamp::default(), Timestamp::default());
    assert_eq!(nothing.verdict.code, "not_enough_data");
    assert_eq!((nothing.difference, nothing.model), (None, None));
}

#[test]
fn groups_whose_mail_does_not_arrive_alike_are_not_compared() {
    let mut people = people(1, 4_000, 0.3);
    for (number, outcomes) in people.iter_mut().enumerate() {
        if outcomes[0].group == TrialGroup::Control && number % 2 == 0 {
            outcomes.iter_mut().for_each(|outcome| outcome.answered = None);
        }
    }
    let lift = compare(&people, 1.0, Timestamp::default(), Timestamp::default());
    assert_eq!(lift.verdict.code, "groups_differ", "{:?}", lift.verdict);
}

#[test]
fn a_handful_of_decisions_does_not_show_that_the_groups_differ() {
    let outcomes = |group, count: usize, arrived: usize| {
        let one = move |number| Outcome {
            group,
            weight: 1.0,
            answered: (number < arrived).then_some(false),
            is_under_another_campaign: false,
        };
        (0..count).map(move |number| vec![one(number)])
    };
    let code = |treated: (usize, usize), control: (usize, usize)| {
        let people: Vec<Vec<Outcome>> = outcomes(TrialGroup::Treated, treated.0, treated.1)
            .chain(outcomes(TrialGroup::Control, control.0, control.1))
            .collect();
        compare(&people, 1.0, Timestamp::default(), Timestamp::default())
            .verdict
            .code
    };
    assert_eq!(code((20, 18), (3, 0)), "not_enough_data");
    assert_eq!(code((540, 486), (60, 0)), "groups_differ");
}

#[test]
fn many_mails_to_a_few_people_decide_nothing() {
    let mut people = Vec::new();
    for (group, answered) in [(TrialGroup::Treated, true), (TrialGroup::Control, false)] {
        for _ in 0..10 {
            let outcome = |number: usize| Outcome {
                group,
                weight: 1.0,
                answered: Some(answered || number.is_multiple_of(2)),
                is_under_another_campaign: false,
            };
            people.push((0..40).map(outcome).collect());
        }
    }
    let lift = compare(&people, 1.0, Timestamp::default(), Timestamp::default());
    assert_eq!(lift.verdict.code, "not_enough_data", "{:?}", lift.verdict);
}

#[tokio::test]
async fn of_more_decisions_than_are_compared_a_share_of_the_people_is() {
    const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
    let start: Timestamp = "2026-01-05T09:00:00Z".parse().unwrap();
    // Everybody gets a mail a day for six days; for the last two, the day after the mail is not over.
    let (mut decisions, mut mails) = (Vec::new(), Vec::new());
    for number in 0..200 {
        for day in 0..6 {
            let decided_at = start.plus_millis(day * DAY_MS + number as i64 * 1_000);
            let target_at = decided_at.plus_millis(60 * MINUTE_MS);
            let group = if number % 5 == 0 {
                TrialGroup::Control
            } else {
                TrialGroup::Treated
            };
            decisions.push(StoredExplanation {
                reference: format!("dec_{number}_{day}"),
                universal_id: fixture::person(number),
                decided_at,
                body: "{}".into(),
                trial: Some(Trial {
                    group,
                    target_at,
                    model_at: target_at,
                    propensity: 0.9,
                    campaign_id: None,
                }),
                forecast: None,
            });
            mails.push(fixture::mail(&fixture::person(number), target_at, 1_000));
        }
    }
    let stores = Stores::with(&decisions, &mails).await;
    let until = start.plus_millis(5 * DAY_MS + 120 * MINUTE_MS - 1);
    let lift = async |wanted| {
        lift_of(wanted, &stores.events, &stores.identities, start, until)
            .await
            .unwrap()
    };

    let all = lift(2_000).await;
    assert_eq!((all.people_share, all.pending), (1.0, 400));
    assert_eq!((all.treated.mails, all.control.mails), (640, 160));
    assert!(
        !all.verdict.text.contains("control_share"),
        "{}",
        all.verdict.text
    );

    // The newest 300 would all be too recent.
    let some = lift(300).await;
    assert_eq!(some.people_share, 0.25);
    let people = some.treated.people + some.control.people;
    assert!((30..=70).contains(&people), "{people}");
    assert_eq!(some.treated.mails + some.control.mails, 4 * people);
    assert_eq!(some.pending, 2 * people);
    assert!(
        some.verdict.text.contains("of 25.0 % of the people"),
        "{}",
        some.verdict.text
    );
}
