use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn rules(zone: &str) -> LocalRules {
    LocalRules {
        zone: TimeZone::get(zone).unwrap(),
        allowed: Vec::new(),
        quiet: None,
        blackout_dates: Vec::new(),
        blackout_weekdays: [false; 7],
    }
}

const QUIET_NIGHT: DaySpan = DaySpan {
    start: 22 * 60,
    end: 7 * 60,
};

fn texts(minutes: &Minutes) -> Vec<String> {
    let text = |minute: i64| moment(minute).to_jiff().strftime("%a %H:%M").to_string();
    minutes
        .0
        .iter()
        .map(|range| format!("{} - {}", text(range.start), text(range.end)))
        .collect()
}

#[test]
fn quiet_hours_go_over_midnight_and_the_weeks_end() {
    let window = Minutes::starting_in(at("2026-01-11T12:00:00Z"), at("2026-01-12T12:00:00Z"));
    let rules = LocalRules {
        quiet: Some(QUIET_NIGHT),
        ..rules("UTC")
    };
    let left = window.subtract(&rules.quiet(&window));
    assert_eq!(texts(&left), ["Sun 12:00 - Sun 22:00", "Mon 07:00 - Mon 12:00"]);
}

#[test]
fn quiet_hours_move_with_the_clocks() {
    let rules = LocalRules {
        quiet: Some(QUIET_NIGHT),
        ..rules("Europe/Berlin")
    };
    // Clocks go forward on 2026-03-29: before, 22:00 is 21:00 UTC; after, 07:00 is 05:00 UTC.
    let window = Minutes::starting_in(at("2026-03-28T12:00:00Z"), at("2026-03-29T12:00:00Z"));
    let quiet = rules.quiet(&window);
    assert_eq!(texts(&quiet), ["Sat 21:00 - Sun 05:00"]);
    assert_eq!(quiet.count(), 8 * 60, "one hour of that night does not exist");
    // They go back on 2026-10-25: after, 07:00 is 06:00 UTC.
    let window = Minutes::starting_in(at("2026-10-24T12:00:00Z"), at("2026-10-25T12:00:00Z"));
    let quiet = rules.quiet(&window);
    assert_eq!(texts(&quiet), ["Sat 20:00 - Sun 06:00"]);
    assert_eq!(quiet.count(), 10 * 60, "one hour of that night comes twice");
}

#[test]
fn an_hour_that_comes_twice_is_quiet_twice() {
    // New York, 2026-11-01: the hour from 01:00 to 02:00 local time occurs at 05:00 and at 06:00 UTC.
    let rules = LocalRules {
        quiet: Some(DaySpan { start: 60, end: 90 }),
        ..rules("America/New_York")
    };
    let window = Minutes::starting_in(at("2026-11-01T04:00:00Z"), at("2026-11-01T08:00:00Z"));
    assert_eq!(
        texts(&rules.quiet(&window)),
        ["Sun 05:00 - Sun 05:30", "Sun 06:00 - Sun 06:30"]
    );
}

#[test]
fn an_hour_that_is_skipped_is_never_allowed() {
    let rules = LocalRules {
        allowed: vec![DaySpan {
            start: 2 * 60,
            end: 3 * 60,
        }],
        ..rules("America/New_York")
    };
    let window = Minutes::starting_in(at("2026-03-08T05:00:00Z"), at("2026-03-08T12:00:00Z"));
    assert!(window.subtract(&rules.outside_allowed(&window)).is_empty());
}

#[test]
fn blackout_days_are_the_persons_days() {
    let friday = day_number(jiff::civil::date(2026, 1, 9));
    let mut rules = LocalRules {
        blackout_dates: vec![friday],
        ..rules("Asia/Tokyo")
    };
    rules.blackout_weekdays[6] = true;
    let window = Minutes::starting_in(at("2026-01-08T00:00:00Z"), at("2026-01-12T00:00:00Z"));
    assert_eq!(
        texts(&rules.blackout(&window)),
        ["Thu 15:00 - Fri 15:00", "Sat 15:00 - Sun 15:00"]
    );
}

#[test]
fn minutes_that_begin_before_the_window_are_not_in_it() {
    let window = Minutes::starting_in(at("2026-01-08T00:00:30Z"), at("2026-01-08T00:02:30Z"));
    assert_eq!(texts(&window), ["Thu 00:01 - Thu 00:03"]);
    assert!(Minutes::starting_in(at("2026-01-08T00:00:30Z"), at("2026-01-08T00:00:40Z")).is_empty());
}

impl Minutes {
    fn contains(&self, minute: i64) -> bool {
        self.0.iter().any(|range| range.contains(&minute))
    }
}

/// Returns minutes as a plain list, for comparison.
fn listed(minutes: &Minutes) -> Vec<i64> {
    minutes.0.iter().cloned().flatten().collect()
}

fn any_minutes() -> impl Strategy<Value = Minutes> {
    let range = (0..60_i64, 0..12_i64).prop_map(|(start, length)| start..start + length);
    prop::collection::vec(range, 0..6).prop_map(Minutes::of_ranges)
}

proptest! {
    #[test]
    fn sets_behave_like_sets(a in any_minutes(), b in any_minutes()) {
        let both: Vec<i64> = listed(&a).into_iter().filter(|minute| b.contains(*minute)).collect();
        let only_a: Vec<i64> = listed(&a).into_iter().filter(|minute| !b.contains(*minute)).collect();
        prop_assert_eq!(a.subtract(&b).count(), only_a.len() as i64);
        prop_assert_eq!(listed(&a.intersect(&b)), both);
        prop_assert_eq!(listed(&a.subtract(&b)), only_a);
    }
}

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Apia",
];

/// Generates a part of the day, which spans midnight in half of the cases.
pub(in crate::decision) fn any_span() -> impl Strategy<Value = DaySpan> {
    (0..1440_u16, 1..=1440_u16)
        .prop_filter("an empty part of the day", |(start, end)| start != end)
        .prop_map(|(start, end)| DaySpan { start, end })
}

/// Returns whether a minute of the day lies in a part of the day.
pub(in crate::decision) fn holds(span: DaySpan, minute_of_day: u16) -> bool {
    if span.start < span.end {
        (span.start..span.end).contains(&minute_of_day)
    } else {
        minute_of_day >= span.start || minute_of_day < span.end
    }
}

/// Checks one generated case against the local times that the calendar gives for single minutes. A case checks the boundaries
/// of all ranges, where mistakes occur, instead of all minutes.
fn check(
    zone: &str,
    start_minute: i64,
    length: i64,
    allowed: &[DaySpan],
    quiet: Option<DaySpan>,
    weekday_off: usize,
) -> Result<(), TestCaseError> {
    let mut rules = LocalRules {
        allowed: allowed.to_vec(),
        quiet,
        ..rules(zone)
    };
    rules.blackout_weekdays[weekday_off] = true;
    let window = Minutes::between(start_minute, start_minute + length);
    let mut left = window.subtract(&rules.outside_allowed(&window));
    left = left.subtract(&rules.quiet(&left));
    left = left.subtract(&rules.blackout(&left));

    let obeys = |minute: i64| {
        let local = moment(minute).to_jiff().to_zoned_datetime(rules.zone.clone());
        let minute_of_day =
            u16::try_from(local.hour()).unwrap() * 60 + u16::try_from(local.minute()).unwrap();
        let weekday = usize::try_from(local.weekday().to_monday_zero_offset()).unwrap();
        (allowed.is_empty() || allowed.iter().any(|span| holds(*span, minute_of_day)))
            && !quiet.is_some_and(|span| holds(span, minute_of_day))
            && weekday != weekday_off
    };
    for range in &left.0 {
        for inside in [range.start, (range.start + range.end) / 2, range.end - 1] {
            prop_assert!(obeys(inside), "minute {inside} breaks a rule");
            prop_assert!(window.contains(inside));
        }
        for outside in [range.start - 1, range.end] {
            prop_assert!(
                !window.contains(outside) || !obeys(outside),
                "minute {outside} was taken without need"
            );
        }
    }
    for probe in 0..4 {
        let minute = start_minute + probe * length / 4;
        prop_assert_eq!(left.contains(minute), obeys(minute));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    // Five years from 2024 on: every zone with daylight saving time changes its clocks ten times.
    #[test]
    fn no_minute_breaks_a_local_rule_and_none_is_taken_without_need(
        zone in prop::sample::select(&ZONES[..]),
        start in 28_400_000..31_030_000_i64,
        length in 1..20_160_i64,
        allowed in prop::collection::vec(any_span(), 0..3),
        quiet in prop::option::of(any_span()),
        weekday_off in 0..7_usize,
    ) {
        check(zone, start, length, &allowed, quiet, weekday_off)?;
    }
}
