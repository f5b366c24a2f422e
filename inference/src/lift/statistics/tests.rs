use super::*;

/// People with one trial each.
fn tally(trials: usize, hits: usize) -> Tally {
    let mut tally = Tally::default();
    for number in 0..trials {
        tally.person(1, usize::from(number < hits));
    }
    tally
}

/// The design effect of people with one trial each is `n / (n - 1)`, which widens the intervals in the third decimal place.
fn near(value: f64, expected: f64) -> bool {
    (value - expected).abs() < 0.002
}

#[test]
fn intervals_agree_with_those_published() {
    // Newcombe 1998 ("Interval estimation for the difference between independent proportions"), table II, method 10.
    for ((m, a), (n, b), low, high) in [
        ((70, 56), (80, 48), 0.0524, 0.3339),
        ((56, 0), (29, 0), -0.0642, 0.1162),
    ] {
        let found = difference(&tally(m, a), &tally(n, b), Z_95).unwrap();
        // For two rates of zero the paper's bounds are mirrored by the order of the groups.
        let is_mirrored = a == 0 && b == 0;
        let (low, high) = if is_mirrored { (-high, -low) } else { (low, high) };
        assert!(near(found.low, low) && near(found.high, high), "{found:?}");
    }
    // Newcombe 1998 ("Two-sided confidence intervals for the single proportion"), table I, method 3: 15 of 148.
    let wilson = tally(148, 15).wilson(Z_95);
    assert!(
        near(wilson.low, 0.0624) && near(wilson.high, 0.1605),
        "{wilson:?}"
    );
}

#[test]
fn mails_of_few_people_tell_less() {
    let mut clustered = Tally::default();
    for number in 0..100 {
        // Everybody answers all mails or none: ten mails say as much as one.
        clustered.person(10, if number < 30 { 10 } else { 0 });
    }
    let effect = clustered.design_effect();
    assert!((9.9..10.3).contains(&effect), "{effect}");
    let (by_mail, by_person) = (clustered.wilson(Z_95), tally(100, 30).wilson(Z_95));
    assert!((by_mail.low - by_person.low).abs() < 0.01 && (by_mail.high - by_person.high).abs() < 0.01);
    assert_eq!(tally(100, 30).design_effect().round(), 1.0);
}

#[test]
fn groups_without_mails_or_answers_have_no_comparison() {
    assert_eq!(difference(&Tally::default(), &tally(10, 1), Z_95), None);
    assert_eq!(relative(&tally(10, 0), &tally(10, 1)), None);
    let doubled = relative(&tally(1_000, 200), &tally(1_000, 100)).unwrap();
    assert!((doubled.value - 1.0).abs() < 1e-9 && doubled.low > 0.5 && doubled.high < 1.6);
}

#[test]
fn weighed_trials_stand_for_those_that_were_not_drawn() {
    let mut weighted = Weighted::default();
    // The policy's own action is drawn half of the time, and then hits 4 times in 10.
    for number in 0..1_000_u32 {
        let weight = f64::from(number % 2) * 2.0;
        weighted.person([(weight, number % 10 < 4)].into_iter());
    }
    let estimate = weighted.estimate().unwrap();
    assert_eq!(estimate.mails, 500);
    assert!((estimate.effective_sample_size - 500.0).abs() < 1e-9);
    // Of the drawn numbers (the odd ones) 1 and 3 of every ten hit: two of five.
    assert!((estimate.snips.value - 0.4).abs() < 1e-9 && (estimate.ips.value - 0.4).abs() < 1e-9);
    assert!(estimate.snips.low < 0.4 && estimate.snips.high > 0.4);
    assert_eq!(Weighted::default().estimate(), None);
}
