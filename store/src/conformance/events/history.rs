//! Events: written once, and read back by person, message and type.

use event::{
    BounceType, EventType, MailboxProvider, Timestamp, UniversalId,
    profile::{LASTING, Profile, SIGNAL_TIMES, Signal},
};

use super::{bare, full, person};
use crate::{
    conformance::{moment, unique},
    events::{Events, StoredEvent},
};

pub(super) async fn events_come_back_whole(store: &dyn Events) {
    let person = person("whole");
    let full = full(&person);
    let bare = bare(&person, EventType::Opened, moment("2026-01-10T12:00:01.000Z"));
    store.write(&[full.clone(), bare.clone()]).await.unwrap();
    let history = store.history(&[person], Timestamp::default(), 10).await.unwrap();
    assert_eq!(history, [full, bare]);
}

pub(super) async fn writing_twice_changes_nothing(store: &dyn Events) {
    let person = person("twice");
    let one = bare(&person, EventType::Opened, moment("2026-01-10T12:00:00Z"));
    let two = bare(&person, EventType::Opened, moment("2026-01-10T12:00:01Z"));
    let report = store.write(&[one.clone(), one.clone()]).await.unwrap();
    assert!(report.inserted >= 1, "{report:?}");
    assert_eq!(report.inserted + report.duplicates, 2);
    let report = store.write(&[one.clone(), two.clone()]).await.unwrap();
    assert!(report.inserted >= 1, "{report:?}");
    assert_eq!(report.inserted + report.duplicates, 2);
    assert_eq!(store.write(&[]).await.unwrap(), Default::default());
    let history = store.history(&[person], Timestamp::default(), 10).await.unwrap();
    assert_eq!(history, [one, two]);
}

pub(super) async fn history_is_the_newest_in_order(store: &dyn Events) {
    let (own, alias, stranger) = (person("own"), person("alias"), person("stranger"));
    let start = moment("2026-01-10T12:00:00Z");
    let at = |seconds: i64| start.plus_millis(seconds * 1_000);
    let mut expected = Vec::new();
    for second in 0..10 {
        let id = if second % 2 == 0 { &own } else { &alias };
        expected.push(bare(id, EventType::Clicked, at(second)));
    }
    let mut batch = expected.clone();
    batch.reverse();
    batch.push(bare(&stranger, EventType::Clicked, at(5)));
    store.write(&batch).await.unwrap();

    let ids = [own.clone(), alias, own.clone()];
    assert_eq!(
        store.history(&ids, Timestamp::default(), 100).await.unwrap(),
        expected
    );
    assert_eq!(
        store.history(&ids, at(4), 100).await.unwrap(),
        expected[4..],
        "since is included"
    );
    assert_eq!(
        store.history(&ids, Timestamp::default(), 3).await.unwrap(),
        expected[7..],
        "the newest are kept"
    );
    assert_eq!(
        store.history(&ids, at(4).plus_millis(1), 100).await.unwrap(),
        expected[5..]
    );
    assert_eq!(store.history(&[], Timestamp::default(), 100).await.unwrap(), []);
    assert_eq!(
        store
            .history(&[person("nobody")], Timestamp::default(), 100)
            .await
            .unwrap(),
        []
    );
}

/// A shop that gives its own phone number becomes a person with thousands of ids.
pub(super) async fn a_history_has_any_number_of_ids(store: &dyn Events) {
    let ids: Vec<UniversalId> = (0..12_000).map(|n| person(&format!("many {n}"))).collect();
    let start = moment("2026-01-10T12:00:00Z");
    let mut expected: Vec<StoredEvent> = [7_000, 3, 11_999, 0]
        .into_iter()
        .zip(0..)
        .map(|(index, second): (usize, i64)| {
            bare(&ids[index], EventType::Clicked, start.plus_millis(second * 1_000))
        })
        .collect();
    store.write(&expected).await.unwrap();
    assert_eq!(
        store.history(&ids, Timestamp::default(), 10).await.unwrap(),
        expected
    );
    assert_eq!(
        store.history(&ids, Timestamp::default(), 2).await.unwrap(),
        expected.split_off(2),
        "the newest are kept"
    );
}

pub(super) async fn profiles_are_what_events_make(store: &dyn Events) {
    let (busy, quiet, nobody) = (person("busy"), person("quiet"), person("without events"));
    let start = moment("2026-01-10T12:00:00Z");
    let event = |person: &UniversalId, event_type, minutes: i64, message: Option<&str>| {
        let mut stored = bare(person, event_type, start.plus_millis(minutes * 60_000));
        stored.event.message_id = message.map(str::to_owned);
        stored
    };
    let mut batch = Vec::new();
    for number in 0..6 {
        let message = format!("<m{number}@mail>");
        for (step, event_type) in [
            EventType::Sent,
            EventType::Delivered,
            EventType::Opened,
            EventType::Clicked,
        ]
        .into_iter()
        .enumerate()
        {
            let minutes = number * 100 + step as i64;
            let mut stored = event(&busy, event_type, minutes, Some(&message));
            stored.event.mailbox_provider = (number == 3).then_some(MailboxProvider::Icloud);
            // Of machine events a profile counts only the opens, and keeps them separate from those of the person.
            stored.enrichment.machine = number == 4 && step > 1;
            batch.push(stored);
        }
    }
    batch.push(event(&quiet, EventType::Unsubscribed, 10, None));
    for (minutes, bounce_type) in [(20, BounceType::Hard), (30, BounceType::Soft)] {
        let mut bounce = event(&quiet, EventType::Bounced, minutes, Some("<m9@mail>"));
        bounce.event.bounce_type = Some(bounce_type);
        batch.push(bounce);
    }
    store.write(&batch).await.unwrap();
    // An event that is written again keeps its first version.
    let mut again = batch.clone();
    for stored in &mut again {
        stored.enrichment.machine = !stored.enrichment.machine;
    }
    store.write(&again).await.unwrap();

    // For each id, the newest `limit` events from `since` on, and the newest of the types that hold for long.
    let expected = |person: &UniversalId, since: Timestamp, limit: usize| {
        let mut profile = Profile::default();
        let mut events: Vec<&StoredEvent> = batch.iter().rev().collect();
        events.retain(|stored| stored.event.universal_id == *person && stored.event.timestamp >= since);
        let of_type = |event_type| {
            let of_type = events
                .iter()
                .filter(move |stored| stored.event.event_type == event_type);
            of_type.take(SIGNAL_TIMES)
        };
        let lasting = LASTING.into_iter().flat_map(of_type);
        for stored in events.iter().take(limit).chain(lasting) {
            profile.apply(&stored.event, stored.enrichment.machine);
        }
        profile
    };
    let beginning = Timestamp::default();
    let ids = [quiet.clone(), nobody.clone(), busy.clone(), quiet.clone()];
    for (since, limit) in [
        (beginning, 1_000),
        (start.plus_millis(301 * 60_000), 1_000),
        (beginning, 5),
    ] {
        let profiles = store.profiles(&ids, since, limit).await.unwrap();
        let wanted: Vec<Profile> = ids.iter().map(|id| expected(id, since, limit)).collect();
        assert_eq!(profiles, wanted, "since {since}, at most {limit}");
    }
    assert_ne!(expected(&busy, beginning, 5), expected(&busy, beginning, 1_000));
    // More ids than an engine looks up at once.
    let many = vec![ids; 150].concat();
    let profiles = store.profiles(&many, beginning, 1_000).await.unwrap();
    let wanted: Vec<Profile> = many.iter().map(|id| expected(id, beginning, 1_000)).collect();
    assert!(profiles == wanted, "many at once");
    assert_eq!(store.profiles(&[], beginning, 10).await.unwrap(), []);
    assert_eq!(
        store.profiles(&[nobody], beginning, 10).await.unwrap(),
        [Profile::default()]
    );
}

pub(super) async fn sent_times_answer_in_order(store: &dyn Events) {
    let (ann, bob) = (person("ann"), person("bob"));
    let start = moment("2026-01-10T12:00:00Z");
    let message = |person: &UniversalId, event_type, id: &str, seconds: i64| {
        let mut stored = bare(person, event_type, start.plus_millis(seconds * 1_000));
        stored.event.message_id = Some(id.to_owned());
        stored
    };
    store
        .write(&[
            message(&ann, EventType::Sent, "m1", 1),
            message(&ann, EventType::Sent, "m \"2\"", 2),
            message(&ann, EventType::Sent, "m \"2\"", 9),
            message(&ann, EventType::Delivered, "m3", 3),
            message(&bob, EventType::Sent, "m1", 4),
        ])
        .await
        .unwrap();
    let asked = [
        (bob.clone(), "m1".to_owned()),
        (ann.clone(), "m3".to_owned()),
        (ann.clone(), "m1".to_owned()),
        (ann.clone(), "m \"2\"".to_owned()),
        (bob, "m \"2\"".to_owned()),
        (ann, "m1".to_owned()),
    ];
    let after = |seconds: i64| Some(start.plus_millis(seconds * 1_000));
    let times = store.sent_times(&asked).await.unwrap();
    assert_eq!(
        times,
        [after(4), None, after(1), after(2), None, after(1)],
        "the first time of a message counts"
    );
    assert_eq!(store.sent_times(&[]).await.unwrap(), []);
}

pub(super) async fn people_are_known_by_their_events(store: &dyn Events) {
    let (ann, bob, nobody) = (person("ann"), person("bob"), person("nobody"));
    assert!(store.known(&[]).await.unwrap().is_empty());
    let at = moment("2026-01-10T12:00:00Z");
    let batch = [&ann, &bob, &bob].map(|person| bare(person, EventType::Sent, at));
    store.write(&batch).await.unwrap();
    assert_eq!(
        store.known(&[nobody, bob.clone(), ann, bob]).await.unwrap(),
        [false, true, true, true],
        "in the order asked"
    );
}

pub(super) async fn people_are_listed_page_by_page(store: &dyn Events) {
    let start = moment("2031-01-01T00:00:00Z");
    let mut ours: Vec<UniversalId> = (0..7).map(|n| person(&n.to_string())).collect();
    let early = person("early");
    let mut batch = vec![bare(&early, EventType::Opened, start.plus_millis(-1))];
    for person in &ours {
        batch.push(bare(person, EventType::Opened, start));
        batch.push(bare(person, EventType::Clicked, start.plus_millis(5)));
    }
    store.write(&batch).await.unwrap();
    ours.sort();

    let mut listed: Vec<UniversalId> = Vec::new();
    loop {
        let page = store.people(start, listed.last(), 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    assert!(
        listed.windows(2).all(|pair| pair[0] < pair[1]),
        "in the order of their ids, each once"
    );
    assert!(ours.iter().all(|person| listed.contains(person)));
    assert!(!listed.contains(&early));
}

pub(super) async fn the_first_verdict_on_an_event_counts(store: &dyn Events) {
    let person = person("judged twice");
    let start = moment("2026-01-10T12:00:00Z");
    let at = |seconds: i64| start.plus_millis(seconds * 1_000);
    let click = |seconds: i64, machine: bool| {
        let mut stored = bare(&person, EventType::Clicked, at(seconds));
        stored.event.message_id = Some(format!("m{seconds}"));
        stored.enrichment.machine = machine;
        stored
    };
    let first = [click(0, true), click(1, false)];
    store.write(&first).await.unwrap();
    let mut second = first.clone();
    for stored in &mut second {
        stored.enrichment.machine = !stored.enrichment.machine;
    }
    // Each by itself, then together: a repeated write need not have the same batch.
    store.write(&second[..1]).await.unwrap();
    store.write(&second).await.unwrap();

    let ids = std::slice::from_ref(&person);
    let touches = store.touches(ids, start, at(60)).await.unwrap();
    let answered: Vec<Timestamp> = touches.iter().map(|touch| touch.at).collect();
    assert_eq!(answered, [at(1)], "a machine's click stays one");
    let mut profile = Profile::default();
    for stored in first.iter().rev() {
        profile.apply(&stored.event, stored.enrichment.machine);
    }
    let beginning = Timestamp::default();
    assert_eq!(store.profiles(ids, beginning, 10).await.unwrap(), [profile]);
    assert_eq!(store.history(ids, beginning, 10).await.unwrap(), first);
    assert_eq!(store.holdings(ids).await.unwrap().events, 2);
}

/// A report on a message without a time of its own has that of its receipt, and one id all day.
pub(super) async fn of_one_id_with_two_times_the_first_counts(store: &dyn Events) {
    let (person, esp) = (person("told twice"), unique("esp"));
    // Earlier than the times that the other checks of delays read.
    let noon = moment("2030-06-01T12:00:00Z");
    let at = |hours: i64| noon.plus_millis(hours * 3_600_000);
    let report = |hours: i64| {
        let mut stored = bare(&person, EventType::Delivered, at(hours));
        stored.event.esp = esp.clone();
        stored.event.message_id = Some(format!("m{hours}"));
        stored.enrichment.delivery_latency_ms = Some(hours * 1_000);
        stored
    };
    let first = [report(0), report(2), report(4)];
    // Received again later, and earlier: dead letters are put back with their first time.
    let mut again = first.clone();
    for (stored, hours) in again.iter_mut().zip([1, 6, -3]) {
        stored.event.timestamp = at(hours);
        stored.event.message_id = Some("again".into());
        stored.enrichment.delivery_latency_ms = Some(hours * 1_000);
    }
    store.write(&first).await.unwrap();
    store.write(&again[..1]).await.unwrap();
    store.write(&again).await.unwrap();

    let ids = std::slice::from_ref(&person);
    assert_eq!(store.holdings(ids).await.unwrap().events, 3);
    // What begins or ends between the two times has the event if its first time is in it.
    for since in [-4, -2, 1, 3, 5] {
        let kept = first.iter().filter(|stored| stored.event.timestamp >= at(since));
        let kept: Vec<StoredEvent> = kept.cloned().collect();
        assert_eq!(
            store.history(ids, at(since), 10).await.unwrap(),
            kept,
            "since {since}"
        );
        let newest = kept.len().saturating_sub(1);
        assert_eq!(
            store.history(ids, at(since), 1).await.unwrap(),
            kept[newest..],
            "since {since}"
        );
        let mut profile = Profile::default();
        for stored in kept.iter().rev() {
            profile.apply(&stored.event, stored.enrichment.machine);
        }
        assert_eq!(store.profiles(ids, at(since), 10).await.unwrap(), [profile]);
        let mut reached: Vec<Timestamp> = store
            .touches(ids, at(since), at(20))
            .await
            .unwrap()
            .iter()
            .map(|touch| touch.at)
            .collect();
        reached.sort_unstable();
        let times: Vec<Timestamp> = kept.iter().map(|stored| stored.event.timestamp).collect();
        assert_eq!(reached, times, "since {since}");
        let mut delays: Vec<i64> = store
            .latency_samples(at(since), 1_000_000)
            .await
            .unwrap()
            .iter()
            .filter(|sample| sample.esp == esp)
            .map(|sample| sample.latency_ms)
            .collect();
        delays.sort_unstable();
        let measured: Vec<i64> = kept
            .iter()
            .filter_map(|stored| stored.enrichment.delivery_latency_ms)
            .collect();
        assert_eq!(delays, measured, "since {since}");
    }
    let before = store.touches(ids, at(-4), at(1)).await.unwrap();
    assert_eq!(before.len(), 1, "the third was first stored with a later time");
    for limit in [1, 2, 10] {
        let mut read: Vec<StoredEvent> = Vec::new();
        loop {
            let last = read.last().map(|stored| &stored.event);
            let mut page = store.events_of(&person, last, limit).await.unwrap();
            if page.is_empty() {
                break;
            }
            read.append(&mut page);
        }
        assert_eq!(read, first, "by {limit}");
    }
}

pub(super) async fn what_holds_for_long_is_not_hidden_by_later_events(store: &dyn Events) {
    const LATER: i64 = 40;
    let (person, stranger) = (person("opted out"), person("visitor"));
    let start = moment("2026-01-10T12:00:00Z");
    let at = |minute: i64| start.plus_millis(minute * 60_000);
    let mut batch = Vec::new();
    for (minute, event_type) in (0..).zip(LASTING) {
        for repeat in 0..2 * SIGNAL_TIMES as i64 {
            let mut stored = bare(&person, event_type, at(minute + 10 * repeat));
            stored.event.bounce_type = (event_type == EventType::Bounced).then_some(BounceType::Hard);
            batch.push(stored);
        }
    }
    for minute in 0..LATER {
        for id in [&person, &stranger] {
            batch.push(bare(id, EventType::ProductView, at(1_000 + minute)));
            let mut bounce = bare(id, EventType::Bounced, at(2_000 + minute));
            bounce.event.bounce_type = Some(BounceType::Soft);
            batch.push(bounce);
        }
    }
    store.write(&batch).await.unwrap();

    let ids = [stranger, person];
    let profiles = store.profiles(&ids, start, 10).await.unwrap();
    let until = at(10_000);
    for signal in [
        Signal::Unsubscribed,
        Signal::Resubscribed,
        Signal::MarkedSpam,
        Signal::SupportTicket,
        Signal::HardBounce,
    ] {
        assert!(profiles[1].latest(signal, until).is_some(), "{signal:?}");
        assert!(profiles[0].latest(signal, until).is_none(), "{signal:?}");
    }
    // All that is kept of these types is that of the whole history, and nothing from before `since` is.
    let whole = store.profiles(&ids, start, 1_000).await.unwrap();
    for since_earlier in [at(20), at(35), until] {
        for signal in [Signal::Unsubscribed, Signal::Resubscribed] {
            assert_eq!(
                profiles[1].latest(signal, since_earlier),
                whole[1].latest(signal, since_earlier)
            );
        }
    }
    assert_eq!(
        profiles[1].last_mail_at_latest(until),
        whole[1].last_mail_at_latest(until)
    );
    let late = store.profiles(&ids, at(500), 10).await.unwrap();
    assert_eq!(late[1].latest(Signal::Unsubscribed, until), None);
}
