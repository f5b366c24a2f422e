use event::{Hasher, UniversalId, grid::HOUR_MS};

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-01-07T10:05:00Z")
}

fn person(number: usize) -> UniversalId {
    let email = format!("person{number}@example.com");
    UniversalId::from_identifier(&Hasher::new().email_identifier(&email).unwrap())
}

fn config(control_share: f64, exploration_share: f64) -> ExperimentConfig {
    ExperimentConfig {
        control_share,
        exploration_share,
        salt: String::new(),
    }
}

fn draw(config: &ExperimentConfig, number: usize) -> Draw {
    Draw::of(config, &person(number), Some("spring"), now())
}

/// Returns a day with a gap at night; no boundary is on a quarter hour.
fn candidates() -> Vec<Range<Timestamp>> {
    let hours = |from: i64, to: i64| now().plus_millis(from * HOUR_MS)..now().plus_millis(to * HOUR_MS);
    vec![hours(0, 9), hours(20, 24)]
}

/// Returns a value that is highest two hours after [`now`] and falls with the distance from there.
fn value(at: Timestamp) -> f64 {
    let distance = at.millis_since(best()).abs() as f64 / HOUR_MS as f64;
    2.0 / (1.0 + distance)
}

fn best() -> Timestamp {
    now().plus_millis(2 * HOUR_MS)
}

fn take(draw: &Draw) -> Drawn {
    draw.take(&candidates(), best(), value)
}

#[test]
fn groups_have_their_shares() {
    let config = config(0.1, 0.02);
    let mut counts = [0_usize; 3];
    for number in 0..20_000 {
        counts[draw(&config, number).group as usize] += 1;
    }
    let [treated, control, exploration] = counts;
    // Five standard deviations around 2,000 and 360.
    assert!(control.abs_diff(2_000) < 212, "{counts:?}");
    assert!(exploration.abs_diff(360) < 95, "{counts:?}");
    assert_eq!(treated + control + exploration, 20_000);
}

#[test]
fn a_person_stays_in_the_control_group() {
    let config = config(0.5, 0.5);
    for number in 0..200 {
        let is_control =
            |campaign, from| Draw::of(&config, &person(number), campaign, from).group == TrialGroup::Control;
        let first = is_control(None, now());
        assert_eq!(first, is_control(Some("spring"), now()));
        assert_eq!(
            first,
            is_control(Some("summer"), now().plus_millis(500 * HOUR_MS))
        );
    }
    let salted = ExperimentConfig {
        salt: "another".to_owned(),
        ..config
    };
    let moved = (0..200).filter(|number| {
        let group = |config: &ExperimentConfig| draw(config, *number).group == TrialGroup::Control;
        group(&salted) != group(&self::config(0.5, 0.5))
    });
    assert!(moved.count() > 50, "another salt draws others");
}

#[test]
fn nothing_is_drawn_that_the_guards_forbid() {
    for (number, config) in (0..3_000).map(|number| (number, config(0.5, 0.5))) {
        let drawn = take(&draw(&config, number));
        let allowed = candidates();
        assert!(allowed.iter().any(|range| range.contains(&drawn.at)), "{drawn:?}");
        assert_eq!(drawn.at.as_millis() % MINUTE_MS, 0);
        match drawn.group {
            TrialGroup::Treated => assert_eq!(drawn.at, best()),
            TrialGroup::Exploration => assert!(value(drawn.at) >= NEAR_BEST * value(best()), "{drawn:?}"),
            TrialGroup::Control => {}
        }
    }
}

#[test]
fn control_takes_every_minute_alike() {
    let config = config(0.5, 0.0);
    let (mut early, mut all) = (0, 0);
    for number in 0..20_000 {
        let drawn = take(&draw(&config, number));
        if drawn.group == TrialGroup::Control {
            all += 1;
            early += usize::from(drawn.at < now().plus_millis(9 * HOUR_MS));
        }
    }
    // Nine of thirteen hours; five standard deviations of some 10,000.
    let share = f64::from(early as u32) / f64::from(all);
    assert!((share - 9.0 / 13.0).abs() < 0.025, "{share}");
}

#[test]
fn propensities_are_those_of_the_draw() {
    let config = config(0.3, 0.4);
    let mut seen: std::collections::BTreeMap<Timestamp, (usize, f64)> = Default::default();
    let people = 30_000;
    for number in 0..people {
        let drawn = take(&draw(&config, number));
        let entry = seen.entry(quarter_of(drawn.at)).or_insert((0, drawn.propensity));
        entry.0 += 1;
        assert_eq!(entry.1, drawn.propensity, "a quarter hour has one probability");
    }
    // Every quarter hour was drawn by somebody.
    let total: f64 = seen.values().map(|(_, propensity)| propensity).sum();
    assert!((total - 1.0).abs() < 1e-9, "{total}");
    for (quarter, (count, propensity)) in seen {
        let expected = propensity * people as f64;
        let tolerance = 5.0 * expected.sqrt() + 1.0;
        assert!(
            (count as f64 - expected).abs() < tolerance,
            "{quarter}: {count}, not {expected}"
        );
    }
}

#[test]
fn who_asks_again_gets_the_same_minute_while_it_is_allowed() {
    let config = config(0.5, 0.0);
    for number in 0..500 {
        let draw = draw(&config, number);
        let first = take(&draw);
        if first.group != TrialGroup::Control {
            continue;
        }
        // An hour later, the window starts later.
        let later: Vec<Range<Timestamp>> = candidates()
            .into_iter()
            .map(|range| range.start.plus_millis(HOUR_MS)..range.end)
            .collect();
        let again = draw.take(&later, best(), value);
        if later.iter().any(|range| range.contains(&first.at)) {
            assert_eq!(again.at, first.at);
        }
    }
}

#[test]
fn shares_of_nothing_leave_everything_to_the_model() {
    let config = config(0.0, 0.0);
    for number in 0..500 {
        let drawn = take(&draw(&config, number));
        assert_eq!((drawn.group, drawn.at), (TrialGroup::Treated, best()));
        assert_eq!(drawn.propensity, 1.0);
    }
}
