use proptest::prelude::*;

use super::*;
use crate::{
    Hasher, UniversalId,
    grid::{HOUR_MS, MINUTE_MS},
};

fn event(event_type: EventType, ms: i64, message_id: Option<&str>) -> Event {
    let identifier = Hasher::new().email_identifier("ann@example.com").unwrap();
    let universal_id = UniversalId::from_identifier(&identifier);
    Event {
        esp: "sendgrid".into(),
        account: "default".into(),
        identifiers: vec![identifier],
        message_id: message_id.map(str::to_owned),
        bounce_type: (event_type == EventType::Bounced).then_some(BounceType::Hard),
        plugin: "sendgrid@1.0.0".into(),
        ..Event::bare(event_type, Timestamp::try_from_millis(ms).unwrap(), universal_id)
    }
}

const START_MS: i64 = 1_767_571_200_000; // 2026-01-05, a Monday

fn at(hours: i64) -> Timestamp {
    Timestamp::try_from_millis(START_MS + hours * HOUR_MS).unwrap()
}

fn profile_of<'a>(events: impl IntoIterator<Item = &'a (Event, bool)>) -> Profile {
    let mut profile = Profile::default();
    for (event, machine) in events {
        profile.apply(event, *machine);
    }
    profile
}

#[test]
fn a_click_timed_shortly_before_its_delivery_is_of_that_mail() {
    let clicked_at = |before_ms: i64| {
        let mut profile = Profile::default();
        for (event_type, at_ms) in [
            (EventType::Clicked, START_MS + HOUR_MS - before_ms),
            (EventType::Delivered, START_MS + HOUR_MS),
        ] {
            profile.apply(&event(event_type, at_ms, Some("m1")), false);
        }
        let history = profile.history(at(10));
        (history.mails[0].clicked_at, history.activities.len())
    };
    assert_eq!(clicked_at(100), (Some(at(1)), 0));
    assert_eq!(clicked_at(CLOCKS_APART_MS), (Some(at(1)), 0));
    assert_eq!(clicked_at(CLOCKS_APART_MS + 100), (None, 1));
}

#[test]
fn a_click_before_its_delivery_event_finds_its_mail() {
    let mut profile = Profile::default();
    profile.apply(
        &event(EventType::Clicked, START_MS + 2 * HOUR_MS, Some("m1")),
        false,
    );
    profile.apply(
        &event(EventType::Clicked, START_MS + 3 * HOUR_MS, Some("m2")),
        false,
    );
    profile.apply(
        &event(EventType::Delivered, START_MS + HOUR_MS, Some("m1")),
        false,
    );
    profile.apply(&event(EventType::Opened, START_MS + HOUR_MS, Some("m1")), true);
    let history = profile.history(at(10));
    assert_eq!(
        history.mails,
        [Mail {
            delivered_at: at(1),
            opened_at: None,
            clicked_at: Some(at(2))
        }]
    );
    assert_eq!(
        history.activities,
        [Activity {
            at: at(3),
            strong: true
        }]
    );
    assert_eq!(history.machine_opens, 1);
    assert_eq!(profile.last_delivered("m1", at(9)), Some(at(1)));
    assert_eq!(profile.last_delivered("m2", at(9)), None);
    assert_eq!(profile.last_human_activity(at(10)), Some(at(3)));
    assert_eq!(profile.deliveries(at(0), at(1)), [at(1)]);
    assert_eq!(profile.deliveries(at(1), at(9)), []);
}

#[test]
fn a_message_delivered_again_has_several_deliveries() {
    let mut profile = Profile::default();
    for hour in [49, 0, 1, 25] {
        let delivery = event(EventType::Delivered, START_MS + hour * HOUR_MS + 1, Some("step"));
        profile.apply(&delivery, false);
    }
    profile.apply(
        &event(EventType::Delivered, START_MS + 30 * HOUR_MS, Some("other")),
        false,
    );
    let last = |until: Timestamp| profile.last_delivered("step", until);
    let tick = |hour| Some(at(hour).plus_millis(100));
    assert_eq!(last(at(100)), tick(49));
    assert_eq!(
        last(at(49).plus_millis(1)),
        tick(49),
        "rounded up, and not after itself"
    );
    assert_eq!(last(at(49)), tick(25));
    // Of one day only the first is kept.
    assert_eq!(last(at(20)), tick(0));
    assert_eq!(last(at(0)), None);
}

#[test]
fn machine_opens_are_counted_since_as_many_mails() {
    let mut profile = Profile::default();
    for hour in 0..200 {
        let message = format!("m{hour}");
        let delivered = START_MS + hour * HOUR_MS;
        profile.apply(&event(EventType::Delivered, delivered, Some(&message)), false);
        if hour % 20 == 0 {
            profile.apply(&event(EventType::Opened, delivered + 1_000, Some(&message)), true);
        }
    }
    assert_eq!(profile.history(at(200)).machine_opens, 1, "of the last 32 mails");
    assert_eq!(
        profile.history(at(21)).machine_opens,
        2,
        "of all, where there are fewer"
    );
}

#[test]
fn a_mail_that_machines_open_again_and_again_is_one() {
    let mut profile = Profile::default();
    for hour in 0..32 {
        let message = format!("m{hour}");
        profile.apply(
            &event(EventType::Delivered, START_MS + hour * HOUR_MS, Some(&message)),
            false,
        );
    }
    for minute in 1..=10 {
        let opened = START_MS + 7 * HOUR_MS + minute * 60_000;
        profile.apply(&event(EventType::Opened, opened, Some("m7")), true);
    }
    assert_eq!(profile.history(at(40)).machine_opens, 1);
}

#[test]
fn a_delivery_without_message_may_stand_for_a_later_one() {
    let minute = |minute: i64| at(0).plus_millis(minute * MINUTE_MS);
    let mut profile = Profile::default();
    for minute in [3, 25] {
        profile.apply(
            &event(EventType::Delivered, START_MS + minute * MINUTE_MS, None),
            false,
        );
    }
    assert_eq!(
        profile.deliveries(minute(0), minute(600)),
        [minute(3)],
        "one for each half hour"
    );
    let latest = |profile: &Profile, now| profile.last_mail_at_latest(now);
    assert_eq!(latest(&profile, minute(2)), None);
    assert_eq!(latest(&profile, minute(10)), Some(minute(10)));
    assert_eq!(
        latest(&profile, minute(600)),
        Some(minute(30).plus_millis(-1_000))
    );
    profile.apply(
        &event(EventType::Delivered, START_MS + 90 * MINUTE_MS, Some("m1")),
        false,
    );
    assert_eq!(
        latest(&profile, minute(600)),
        Some(minute(90)),
        "with a message id its time is known exactly"
    );
}

#[test]
fn mail_that_was_sent_counts_before_its_delivery_is_told() {
    let mut profile = Profile::default();
    for hour in [8, 1, 5, 3, 7, 5] {
        profile.apply(&event(EventType::Sent, START_MS + hour * HOUR_MS, None), false);
    }
    assert_eq!(profile.last_mail_at_latest(at(9)), Some(at(8)));
    assert_eq!(profile.last_mail_at_latest(at(6)), Some(at(5)));
    assert_eq!(
        profile.last_mail_at_latest(at(2)),
        None,
        "the oldest of five is forgotten"
    );
    profile.apply(
        &event(EventType::Delivered, START_MS + 9 * HOUR_MS, Some("m1")),
        false,
    );
    assert_eq!(profile.last_mail_at_latest(at(10)), Some(at(9)));
    assert_eq!(profile.history(at(10)).mails.len(), 1, "it teaches nothing");
}

#[test]
fn nothing_after_now_is_seen() {
    let mut profile = Profile::default();
    profile.apply(&event(EventType::Delivered, START_MS, Some("m1")), false);
    profile.apply(
        &event(EventType::Clicked, START_MS + 5 * HOUR_MS, Some("m1")),
        false,
    );
    profile.apply(&event(EventType::SiteVisit, START_MS + 5 * HOUR_MS, None), false);
    profile.apply(&event(EventType::SiteVisit, START_MS + HOUR_MS, None), false);
    let history = profile.history(at(4));
    assert_eq!(
        history.mails,
        [Mail {
            delivered_at: at(0),
            opened_at: None,
            clicked_at: None
        }]
    );
    assert_eq!(profile.latest(Signal::SiteVisit, at(4)), Some(at(1)));
    assert_eq!(profile.latest(Signal::SiteVisit, at(6)), Some(at(5)));
    assert_eq!(profile.last_human_activity(at(4)), None);
}

#[test]
fn a_long_life_fits_and_the_newest_stays() {
    let mut profile = Profile::default();
    for hour in 0..20_000_i64 {
        let message = format!("m{}", hour / 3);
        let kind = [EventType::Delivered, EventType::Opened, EventType::Clicked][hour as usize % 3];
        profile.apply(&event(kind, START_MS + hour * HOUR_MS, Some(&message)), false);
        profile.apply(
            &event(EventType::Opened, START_MS + hour * HOUR_MS, Some(&message)),
            true,
        );
        profile.apply(
            &event(EventType::ProductView, START_MS + hour * HOUR_MS, None),
            false,
        );
    }
    let bytes = profile.to_bytes();
    assert!(bytes.len() <= MAX_BYTES, "{} bytes", bytes.len());
    assert!(
        bytes.len() > MAX_BYTES * 9 / 10,
        "the room is used: {} bytes",
        bytes.len()
    );
    assert_eq!(profile.last_delivered("m6666", at(20_000)), Some(at(19_998)));
    assert_eq!(profile.last_delivered("m6000", at(20_000)), None);
}

/// Profiles that these versions have written stay readable.
#[test]
fn reads_every_version() {
    let mut profile = Profile::default();
    profile.apply(&event(EventType::Delivered, START_MS, Some("m1")), false);
    profile.apply(&event(EventType::Clicked, START_MS + HOUR_MS, None), false);
    profile.apply(&event(EventType::MarkedSpam, START_MS + HOUR_MS, None), false);
    let first = "010000000000000000000100010000000000000100000000ca0df20060dfd841100d5b69028006ab8b9b010000";
    assert_eq!(
        Profile::from_bytes(&hex::decode(first).unwrap()),
        Ok(profile.clone())
    );
    profile.apply(&event(EventType::Sent, START_MS, Some("m1")), false);
    let second = "02000000000000000000010001000000000000010000000001ca0df20060dfd841100d5b69028006ab8b9b0100000018748b9b010000";
    assert_eq!(hex::encode(profile.to_bytes()), second);
    assert_eq!(Profile::from_bytes(&profile.to_bytes()), Ok(profile));
}

fn any_event() -> impl Strategy<Value = (Event, bool)> {
    // Few messages and hours, so that duplicates, ties and the boundaries of days and visits occur.
    let message = prop_oneof![Just(None), (0..40_u32).prop_map(Some)];
    (
        0..EventType::ALL.len(),
        0..300_i64,
        0..4_i64,
        message,
        any::<bool>(),
    )
        .prop_map(|(kind, hours, minutes, message, machine)| {
            let ms = START_MS + hours * HOUR_MS + minutes * 17 * 60_000;
            let message = message.map(|number| format!("m{number}"));
            let mut event = event(EventType::ALL[kind], ms, message.as_deref());
            event.mailbox_provider = (hours % 3 == 0).then_some(MailboxProvider::ALL[hours as usize % 5]);
            (event, machine && hours % 2 == 0)
        })
}

/// Enough engagement to overflow the record budget several times.
fn crowded() -> impl Strategy<Value = Vec<(Event, bool)>> {
    prop::collection::vec((0..6_usize, 0..4_000_i64, 0..3_000_u32, any::<bool>()), 0..1_200).prop_map(
        |rows| {
            let kinds = [
                EventType::Delivered,
                EventType::Opened,
                EventType::Clicked,
                EventType::Replied,
                EventType::Converted,
                EventType::Sent,
            ];
            let event_of = |(kind, hours, message, known): (usize, i64, u32, bool)| {
                let message = known.then(|| format!("m{message}"));
                (
                    event(kinds[kind], START_MS + hours * HOUR_MS, message.as_deref()),
                    false,
                )
            };
            rows.into_iter().map(event_of).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn order_and_duplicates_do_not_matter(
        (events, shuffled) in prop::collection::vec(any_event(), 0..120)
            .prop_flat_map(|events| { let twice = [events.clone(), events.clone()].concat(); (Just(events), Just(twice).prop_shuffle()) }),
    ) {
        let profile = profile_of(&events);
        prop_assert_eq!(&profile, &profile_of(&shuffled));
        prop_assert_eq!(Profile::from_bytes(&profile.to_bytes()), Ok(profile));
    }

    #[test]
    fn order_does_not_matter_when_records_are_forgotten(
        (events, shuffled) in crowded().prop_flat_map(|events| (Just(events.clone()), Just(events).prop_shuffle())),
    ) {
        let profile = profile_of(&events);
        prop_assert!(profile.to_bytes().len() <= MAX_BYTES);
        prop_assert_eq!(&profile, &profile_of(&shuffled));
        prop_assert_eq!(Profile::from_bytes(&profile.to_bytes()), Ok(profile));
    }

    #[test]
    fn merging_equals_taking_in_all(events in crowded(), cut in 0.0..1.0_f64) {
        let (left, right) = events.split_at((events.len() as f64 * cut) as usize);
        let (mut merged, other) = (profile_of(left), profile_of(right));
        let mut reversed = other.clone();
        reversed.merge(&merged);
        merged.merge(&other);
        prop_assert_eq!(&merged, &reversed);
        prop_assert_eq!(&merged, &profile_of(&events));
    }

    #[test]
    fn foreign_bytes_are_refused_or_read_back_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let versioned = |version| [vec![version, 0], bytes.clone()].concat();
        for bytes in [versioned(1), versioned(2), bytes.clone()] {
            if let Ok(profile) = Profile::from_bytes(&bytes) {
                profile.history(at(0));
                prop_assert_eq!(Profile::from_bytes(&profile.to_bytes()), Ok(profile));
            }
        }
    }

    #[test]
    fn damaged_bytes_never_panic(events in prop::collection::vec(any_event(), 0..40), place in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = profile_of(&events).to_bytes();
        let place = place.index(bytes.len());
        bytes[place] = value;
        if let Ok(profile) = Profile::from_bytes(&bytes) {
            profile.history(at(100));
            profile.counts();
        }
    }
}
