use std::{collections::BTreeMap, sync::Arc};

use event::{
    BounceType, EmailHash, Event, EventType, IdentifierKind, MailboxProvider, Timestamp, UniversalId,
    profile::Profile,
};

use super::{identifier, moment, unique};
use crate::events::{
    Enrichment, Events, Forecast, Holdings, StoredEvent, StoredExplanation, StoredForecast, StoredTrial,
    Touch, TouchKind, Trial, TrialGroup,
};

/// Checks an event store.
pub async fn events(store: Arc<dyn Events>) {
    let store = store.as_ref();
    store.ping().await.unwrap();
    events_come_back_whole(store).await;
    writing_twice_changes_nothing(store).await;
    history_is_the_newest_in_order(store).await;
    profiles_are_what_events_make(store).await;
    sent_times_answer_in_order(store).await;
    people_are_known_by_their_events(store).await;
    people_are_listed_page_by_page(store).await;
    latency_samples_come_newest_first(store).await;
    the_first_delay_of_an_event_counts(store).await;
    providers_with_many_samples_are_thinned_by_person(store).await;
    one_person_does_not_bring_all_samples(store).await;
    counts_are_by_provider_and_type(store).await;
    explanations_stay_as_they_are(store).await;
    trials_come_newest_first(store).await;
    forecasts_come_newest_first(store).await;
    many_decisions_are_thinned_by_person(store).await;
    one_person_does_not_bring_all_decisions(store).await;
    touches_are_deliveries_and_human_answers(store).await;
    the_first_verdict_on_an_event_counts(store).await;
    all_events_of_an_id_are_read_page_by_page(store).await;
    people_are_erased_and_others_stay(store).await;
}

fn person(name: &str) -> UniversalId {
    UniversalId::from_identifier(&identifier(&unique("run"), IdentifierKind::ExternalId, name))
}

/// Creates an event with only the required fields.
fn bare(person: &UniversalId, event_type: EventType, timestamp: Timestamp) -> StoredEvent {
    let event = Event {
        event_id: unique("event"),
        esp: "sendgrid".into(),
        account: "default".into(),
        plugin: "sendgrid@1.0.0".into(),
        ingested_at: timestamp.plus_millis(1_500),
        ..Event::bare(event_type, timestamp, person.clone())
    };
    StoredEvent {
        event,
        enrichment: Enrichment::default(),
    }
}

fn full(person: &UniversalId) -> StoredEvent {
    let hash = EmailHash::parse(&"0f".repeat(32)).unwrap();
    let mut stored = bare(person, EventType::Bounced, moment("2026-01-10T12:00:00.007Z"));
    let event = &mut stored.event;
    event.identifiers = vec![
        event::Identifier {
            kind: IdentifierKind::EmailHash,
            value: hash.as_str().to_owned(),
        },
        identifier("run", IdentifierKind::EspUserId, "sendgrid/default/7"),
    ];
    event.recipient_email_hash = Some(hash);
    event.mailbox_provider = Some(MailboxProvider::Icloud);
    event.campaign_id = Some("c1".into());
    event.campaign_name = Some("Größe, 'quoted' \"twice\"".into());
    event.message_id = Some("<m1@mail>".into());
    event.subject = Some(String::new());
    event.click_url = Some("https://example.com/?a=1&b=%20".into());
    event.bounce_type = Some(BounceType::Soft);
    event.reason = Some("452 mailbox full\n\ttry later \u{1F4EC}".into());
    event.user_agent = Some("agent/1.0".into());
    event.ip_address = Some("2001:db8::1".into());
    event.tags = vec!["b".into(), "a".into(), String::new()];
    event.metadata = BTreeMap::from([("order.id".into(), "42".into()), ("empty".into(), String::new())]);
    event.is_machine = Some(false);
    event.provider_event_id = Some("e-1".into());
    stored.enrichment = Enrichment {
        machine: true,
        machine_reasons: vec!["click_within_2s:3".into(), "data_centre:2".into()],
        delivery_latency_ms: Some(-5),
        trace_id: event::TraceId::new(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736),
    };
    stored
}

async fn events_come_back_whole(store: &dyn Events) {
    let person = person("whole");
    let full = full(&person);
    let bare = bare(&person, EventType::Opened, moment("2026-01-10T12:00:01.000Z"));
    store.write(&[full.clone(), bare.clone()]).await.unwrap();
    let history = store.history(&[person], Timestamp::default(), 10).await.unwrap();
    assert_eq!(history, [full, bare]);
}

async fn writing_twice_changes_nothing(store: &dyn Events) {
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

async fn history_is_the_newest_in_order(store: &dyn Events) {
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

async fn profiles_are_what_events_make(store: &dyn Events) {
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

    // For each id, the newest `limit` events from `since` on.
    let expected = |person: &UniversalId, since: Timestamp, limit: usize| {
        let mut profile = Profile::default();
        let mut events: Vec<&StoredEvent> = batch.iter().collect();
        events.retain(|stored| stored.event.universal_id == *person && stored.event.timestamp >= since);
        for stored in events.iter().rev().take(limit) {
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

async fn sent_times_answer_in_order(store: &dyn Events) {
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

async fn people_are_known_by_their_events(store: &dyn Events) {
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

async fn people_are_listed_page_by_page(store: &dyn Events) {
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

async fn latency_samples_come_newest_first(store: &dyn Events) {
    let person = person("latency");
    let start = moment("2032-01-01T00:00:00Z");
    let mut batch = vec![bare(&person, EventType::Delivered, start.plus_millis(1))];
    for n in 0..4 {
        let mut stored = bare(&person, EventType::Delivered, start.plus_millis(n * 1_000));
        stored.event.esp = "mailgun".into();
        stored.event.campaign_id = (n > 0).then(|| "c".into());
        let (campaign_type, size) = [
            ("", "0 kB"),
            ("receipt", ""),
            ("Grüße", " 52000 "),
            ("a'b", "4294967296"),
        ][n as usize];
        for (name, value) in [("campaign_type", campaign_type), ("payload_bytes", size)] {
            if !value.is_empty() {
                stored.event.metadata.insert(name.into(), value.into());
            }
        }
        stored.event.mailbox_provider = Some(MailboxProvider::Gmail);
        stored.enrichment.delivery_latency_ms = Some(n * 10);
        batch.push(stored);
    }
    store.write(&batch).await.unwrap();
    let samples = store.latency_samples(start, 1_000).await.unwrap();
    let ours: Vec<_> = samples
        .iter()
        .filter(|sample| sample.universal_id == person)
        .collect();
    let delays: Vec<i64> = ours.iter().map(|sample| sample.latency_ms).collect();
    assert_eq!(delays, [30, 20, 10, 0]);
    assert_eq!(ours[0].esp, "mailgun");
    assert_eq!(
        (&ours[0].campaign_id, &ours[3].campaign_id),
        (&Some("c".into()), &None)
    );
    let attached: Vec<_> = ours
        .iter()
        .map(|sample| (sample.campaign_type.as_deref(), sample.payload_bytes))
        .collect();
    assert_eq!(
        attached,
        [
            (Some("a'b"), None),
            (Some("Grüße"), Some(52_000)),
            (Some("receipt"), None),
            (None, None)
        ]
    );
    assert_eq!(ours[0].mailbox_provider, Some(MailboxProvider::Gmail));
    assert_eq!(ours[0].delivered_at, start.plus_millis(3_000));
    assert!(
        store
            .latency_samples(start.plus_millis(1), 1_000)
            .await
            .unwrap()
            .len()
            < samples.len()
    );
    assert!(
        ours.iter().all(|sample| sample.stands_for == 1),
        "nothing is left out"
    );
}

async fn the_first_delay_of_an_event_counts(store: &dyn Events) {
    let (person, esp) = (person("measured twice"), unique("esp"));
    // Earlier than the times that the other checks read.
    let start = moment("2031-01-01T00:00:00Z");
    let delays = [None, Some(1_000), Some(2_000)];
    let first: Vec<StoredEvent> = (0..)
        .zip(delays)
        .map(|(second, delay)| {
            let mut stored = bare(&person, EventType::Delivered, start.plus_millis(second * 1_000));
            stored.event.esp = esp.clone();
            stored.enrichment.delivery_latency_ms = delay;
            stored
        })
        .collect();
    store.write(&first).await.unwrap();
    let mut second = first.clone();
    for (stored, delay) in second.iter_mut().zip([Some(3_000), None, Some(4_000)]) {
        stored.enrichment.delivery_latency_ms = delay;
    }
    store.write(&second).await.unwrap();
    let samples = store.latency_samples(start, 1_000).await.unwrap();
    let ours: Vec<i64> = samples
        .iter()
        .filter(|sample| sample.esp == esp)
        .map(|sample| sample.latency_ms)
        .collect();
    assert_eq!(ours, [2_000, 1_000]);
}

/// Returns whether a person is in the sample of a share of the people.
fn is_among(person: &UniversalId, share: f64) -> bool {
    let hash = u64::from_str_radix(&person.as_str()["sf_".len()..][..16], 16).unwrap();
    (hash as f64) < u64::MAX as f64 * share
}

async fn providers_with_many_samples_are_thinned_by_person(store: &dyn Events) {
    let start = moment("2035-01-01T00:00:00Z");
    let hour = |n: i64| start.plus_millis(n * 3_600_000);
    let (large, small) = (unique("large"), unique("small"));
    let delivery = |esp: &str, person: &UniversalId, at: Timestamp| {
        let mut stored = bare(person, EventType::Delivered, at);
        stored.event.esp = esp.to_owned();
        stored.enrichment.delivery_latency_ms = Some(1_000);
        stored
    };
    // 400 people get a mail early, one in the middle and one late; 40 others get one each, before all of those.
    let people: Vec<UniversalId> = (0..400).map(|n| person(&format!("large {n}"))).collect();
    let mut batch = Vec::new();
    for (n, person) in people.iter().enumerate() {
        for day in [1, 15, 29] {
            batch.push(delivery(
                &large,
                person,
                hour(day * 24).plus_millis(n as i64 * 1_000),
            ));
        }
    }
    for n in 0..40 {
        batch.push(delivery(&small, &person(&format!("small {n}")), hour(1)));
    }
    store.write(&batch).await.unwrap();
    store.write(&batch).await.unwrap();

    // If 100 of 1,200 are wanted, one in 12 is left; an engine that deduplicates later may count all of them twice.
    let samples = store.latency_samples(start, 100).await.unwrap();
    assert!(
        samples.is_sorted_by(|a, b| a.delivered_at >= b.delivered_at),
        "newest first"
    );
    let of = |esp: &str| -> Vec<_> { samples.iter().filter(|sample| sample.esp == esp).collect() };
    assert_eq!(
        of(&small).len(),
        40,
        "the other provider keeps all of its samples"
    );
    assert!(of(&small).iter().all(|sample| sample.stands_for == 1));
    let of_large = of(&large);
    let one_in = of_large[0].stands_for;
    assert!((12..=24).contains(&one_in), "{one_in}");
    assert!(of_large.iter().all(|sample| sample.stands_for == one_in));
    let mut read: Vec<&UniversalId> = of_large.iter().map(|sample| &sample.universal_id).collect();
    read.sort_unstable();
    let mut among: Vec<&UniversalId> = people.iter().collect();
    among.retain(|person| is_among(person, 1.0 / f64::from(one_in)));
    among.sort_unstable();
    let expected: Vec<&UniversalId> = among.iter().flat_map(|person| [*person; 3]).collect();
    assert_eq!(
        read, expected,
        "all samples of a share of the people, early and late"
    );
}

/// Returns a person whose id is within the first hundredth of all ids.
fn busy_person() -> UniversalId {
    let mut names = 0..;
    let busy = names.find_map(|n: u32| Some(person(&format!("busy {n}"))).filter(|id| is_among(id, 0.01)));
    busy.expect("one name in a hundred will do")
}

async fn one_person_does_not_bring_all_samples(store: &dyn Events) {
    let start = moment("2036-01-01T00:00:00Z");
    let busy = busy_person();
    let mut batch = Vec::new();
    for n in 0..200 {
        let mut stored = bare(&busy, EventType::Delivered, start.plus_millis(n * 1_000));
        stored.enrichment.delivery_latency_ms = Some(n);
        batch.push(stored);
    }
    store.write(&batch).await.unwrap();
    let samples = store.latency_samples(start, 4).await.unwrap();
    let delays: Vec<i64> = samples.iter().map(|sample| sample.latency_ms).collect();
    assert_eq!(
        delays,
        (192..200).rev().collect::<Vec<i64>>(),
        "the newest twice as many"
    );
}

async fn counts_are_by_provider_and_type(store: &dyn Events) {
    let (person, esp) = (person("counts"), unique("esp"));
    let start = moment("2026-01-10T12:00:00Z");
    let mut batch = Vec::new();
    for event_type in [EventType::Opened, EventType::Opened, EventType::MarkedSpam] {
        let mut stored = bare(&person, event_type, start);
        stored.event.esp = esp.clone();
        batch.push(stored);
    }
    store.write(&batch).await.unwrap();
    store.write(&batch).await.unwrap();
    let counts = store.counts().await.unwrap();
    let mut ours: Vec<(&str, u64)> = counts
        .iter()
        .filter(|count| count.esp == esp)
        .map(|count| (count.event_type.as_str(), count.events))
        .collect();
    ours.sort_unstable();
    assert_eq!(ours, [("marked_spam", 1), ("opened", 2)]);
}

async fn explanations_stay_as_they_are(store: &dyn Events) {
    let reference = unique("explanation");
    assert_eq!(store.explanation(&reference).await.unwrap(), None);
    let explanation = StoredExplanation {
        reference: reference.clone(),
        universal_id: person("decided"),
        decided_at: moment("2026-01-10T12:00:00.250Z"),
        body: r#"{"why": "größer"}"#.into(),
        trial: None,
        forecast: None,
    };
    store.save_explanations(&[&explanation]).await.unwrap();
    let other = StoredExplanation {
        body: "{}".into(),
        ..explanation.clone()
    };
    store.save_explanations(&[&other]).await.unwrap();
    assert_eq!(
        store.explanation(&reference).await.unwrap(),
        Some(explanation.clone())
    );
    // Together with new ones, and in a batch of any size.
    let many: Vec<StoredExplanation> = (0..300)
        .map(|_| StoredExplanation {
            reference: unique("explanation"),
            ..explanation.clone()
        })
        .collect();
    let batch: Vec<&StoredExplanation> = many.iter().chain([&other]).collect();
    store.save_explanations(&batch).await.unwrap();
    store.save_explanations(&[]).await.unwrap();
    for kept in [&explanation, &many[0], &many[299]] {
        assert_eq!(
            store.explanation(&kept.reference).await.unwrap().as_ref(),
            Some(kept)
        );
    }
}

async fn trials_come_newest_first(store: &dyn Events) {
    // A year that only this test uses: the store may hold other decisions.
    let start = moment("2033-01-01T00:00:00Z");
    let at = |minutes: i64| start.plus_millis(minutes * 60_000);
    let mut expected = Vec::new();
    for (n, group) in TrialGroup::ALL.into_iter().enumerate() {
        let minutes = n as i64;
        let trial = Trial {
            group,
            target_at: at(minutes + 60),
            model_at: at(minutes + 90),
            propensity: 0.1 + minutes as f64 / 3.0,
            campaign_id: (n > 0).then(|| "größe".into()),
        };
        let explanation = StoredExplanation {
            reference: unique("trial"),
            universal_id: person("tried"),
            decided_at: at(minutes),
            body: "{}".into(),
            trial: Some(trial.clone()),
            forecast: None,
        };
        store.save_explanations(&[&explanation]).await.unwrap();
        // A second write changes nothing.
        let mut other = explanation.clone();
        other.trial.as_mut().unwrap().propensity = 1.0;
        store.save_explanations(&[&other]).await.unwrap();
        assert_eq!(
            store.explanation(&explanation.reference).await.unwrap(),
            Some(explanation.clone())
        );
        expected.insert(
            0,
            StoredTrial {
                reference: explanation.reference,
                universal_id: explanation.universal_id,
                decided_at: explanation.decided_at,
                trial,
            },
        );
    }
    let outside = StoredExplanation {
        reference: unique("no trial"),
        universal_id: person("tried"),
        decided_at: at(1),
        body: "{}".into(),
        trial: None,
        forecast: None,
    };
    store.save_explanations(&[&outside]).await.unwrap();

    let ours = |trials: Vec<StoredTrial>| -> Vec<StoredTrial> {
        let is_ours = |trial: &StoredTrial| expected.iter().any(|own| own.reference == trial.reference);
        trials.into_iter().filter(is_ours).collect()
    };
    let sample = store.trials(start, at(10), 1_000).await.unwrap();
    assert_eq!(sample.share, 1.0);
    let all = sample.rows;
    assert!(all.iter().all(|trial| trial.reference != outside.reference));
    assert_eq!(ours(all), expected);
    assert_eq!(
        ours(store.trials(at(1), at(2), 1_000).await.unwrap().rows),
        expected[1..2],
        "since is included, until is not"
    );
}

async fn forecasts_come_newest_first(store: &dyn Events) {
    // A year that only this test uses: the store may hold other decisions.
    let start = moment("2034-01-01T00:00:00Z");
    let at = |minutes: i64| start.plus_millis(minutes * 60_000);
    let mut expected = Vec::new();
    for minutes in 0..3 {
        let is_told = minutes > 0;
        let forecast = Forecast {
            trigger_at: at(minutes + 59),
            target_at: at(minutes + 60),
            esp: is_told.then(|| "sendgrid".into()),
            mailbox_provider: is_told.then_some(MailboxProvider::Outlook),
            campaign_id: is_told.then(|| "größe".into()),
        };
        let explanation = StoredExplanation {
            reference: unique("forecast"),
            universal_id: person("awaited"),
            decided_at: at(minutes),
            body: "{}".into(),
            trial: None,
            forecast: Some(forecast.clone()),
        };
        store.save_explanations(&[&explanation]).await.unwrap();
        // A second write changes nothing.
        let mut other = explanation.clone();
        other.forecast.as_mut().unwrap().esp = Some("mailgun".into());
        store.save_explanations(&[&other]).await.unwrap();
        assert_eq!(
            store.explanation(&explanation.reference).await.unwrap(),
            Some(explanation.clone())
        );
        expected.insert(
            0,
            StoredForecast {
                reference: explanation.reference,
                universal_id: explanation.universal_id,
                decided_at: explanation.decided_at,
                forecast,
            },
        );
    }
    let ours = |forecasts: Vec<StoredForecast>| -> Vec<StoredForecast> {
        let is_ours = |found: &StoredForecast| expected.iter().any(|own| own.reference == found.reference);
        forecasts.into_iter().filter(is_ours).collect()
    };
    let sample = store.forecasts(start, at(10), 1_000).await.unwrap();
    assert_eq!(sample.share, 1.0);
    let all = sample.rows;
    assert_eq!(ours(all), expected);
    assert_eq!(
        ours(store.forecasts(at(1), at(2), 1_000).await.unwrap().rows),
        expected[1..2],
        "since is included, until is not"
    );
}

/// Creates a decision that is both compared and audited.
fn decision(person: &UniversalId, decided_at: Timestamp) -> StoredExplanation {
    let target_at = decided_at.plus_millis(60_000);
    StoredExplanation {
        reference: unique("decision"),
        universal_id: person.clone(),
        decided_at,
        body: "{}".into(),
        trial: Some(Trial {
            group: TrialGroup::Treated,
            target_at,
            model_at: target_at,
            propensity: 0.5,
            campaign_id: None,
        }),
        forecast: Some(Forecast {
            trigger_at: decided_at,
            target_at,
            esp: None,
            mailbox_provider: None,
            campaign_id: None,
        }),
    }
}

async fn many_decisions_are_thinned_by_person(store: &dyn Events) {
    let start = moment("2037-01-01T00:00:00Z");
    let day = |n: i64| start.plus_millis(n * 86_400_000);
    let people: Vec<UniversalId> = (0..200).map(|n| person(&format!("thinned {n}"))).collect();
    let mut decisions = Vec::new();
    for (n, person) in people.iter().enumerate() {
        for at in [day(1), day(14), day(27)] {
            decisions.push(decision(person, at.plus_millis(n as i64 * 1_000)));
        }
    }
    let batch: Vec<&StoredExplanation> = decisions.iter().collect();
    store.save_explanations(&batch).await.unwrap();

    // All decisions of a share of the people, early and late.
    let expected = |share: f64| {
        assert!(share > 0.0 && share <= 0.25, "{share}");
        let of_share = decisions
            .iter()
            .filter(|decision| is_among(&decision.universal_id, share));
        let mut references: Vec<&str> = of_share.map(|decision| decision.reference.as_str()).collect();
        references.sort_unstable();
        references
    };
    let trials = store.trials(start, day(30), 150).await.unwrap();
    assert!(
        trials.rows.is_sorted_by(|a, b| a.decided_at >= b.decided_at),
        "newest first"
    );
    let mut read: Vec<&str> = trials.rows.iter().map(|row| row.reference.as_str()).collect();
    read.retain(|reference| decisions.iter().any(|own| own.reference == *reference));
    read.sort_unstable();
    assert_eq!(read, expected(trials.share));
    let forecasts = store.forecasts(start, day(30), 150).await.unwrap();
    let mut read: Vec<&str> = forecasts.rows.iter().map(|row| row.reference.as_str()).collect();
    read.retain(|reference| decisions.iter().any(|own| own.reference == *reference));
    read.sort_unstable();
    assert_eq!(read, expected(forecasts.share));
}

async fn one_person_does_not_bring_all_decisions(store: &dyn Events) {
    let start = moment("2038-01-01T00:00:00Z");
    let busy = busy_person();
    let decisions: Vec<StoredExplanation> = (0..100)
        .map(|n| decision(&busy, start.plus_millis(n * 1_000)))
        .collect();
    let batch: Vec<&StoredExplanation> = decisions.iter().collect();
    store.save_explanations(&batch).await.unwrap();
    let end = start.plus_millis(86_400_000);
    let newest: Vec<&str> = decisions[92..]
        .iter()
        .rev()
        .map(|own| own.reference.as_str())
        .collect();
    let trials = store.trials(start, end, 4).await.unwrap().rows;
    let read: Vec<&str> = trials.iter().map(|row| row.reference.as_str()).collect();
    assert_eq!(read, newest, "the newest twice as many");
    let forecasts = store.forecasts(start, end, 4).await.unwrap().rows;
    let read: Vec<&str> = forecasts.iter().map(|row| row.reference.as_str()).collect();
    assert_eq!(read, newest);
}

async fn touches_are_deliveries_and_human_answers(store: &dyn Events) {
    let (ann, bob, other) = (person("ann"), person("bob"), person("other"));
    let start = moment("2026-01-10T12:00:00Z");
    let at = |seconds: i64| start.plus_millis(seconds * 1_000);
    let mut batch = Vec::new();
    for event_type in EventType::ALL {
        let mut stored = bare(&ann, event_type, start);
        stored.event.message_id = Some("m1".into());
        stored.event.campaign_id = Some("c1".into());
        batch.push(stored);
    }
    let mut scanner = bare(&bob, EventType::Clicked, at(1));
    scanner.enrichment.machine = true;
    batch.push(scanner);
    let mut measured = bare(&bob, EventType::Delivered, at(2));
    measured.enrichment.delivery_latency_ms = Some(1_500);
    batch.push(measured);
    batch.push(bare(&bob, EventType::Delivered, at(-1)));
    batch.push(bare(&bob, EventType::Delivered, at(5)));
    batch.push(bare(&other, EventType::Delivered, start));
    store.write(&batch).await.unwrap();
    store.write(&batch).await.unwrap();

    let asked = [bob.clone(), ann.clone(), bob.clone(), person("nobody")];
    let mut touches = store.touches(&asked, start, at(5)).await.unwrap();
    touches.sort_by_key(|touch| (touch.at, touch.kind == TouchKind::Answered));
    let of_ann = |kind| Touch {
        universal_id: ann.clone(),
        at: start,
        kind,
        message_id: Some("m1".into()),
        campaign_id: Some("c1".into()),
        esp: "sendgrid".into(),
        delivery_latency_ms: None,
    };
    let of_bob = Touch {
        universal_id: bob.clone(),
        at: at(2),
        kind: TouchKind::Delivered,
        message_id: None,
        campaign_id: None,
        esp: "sendgrid".into(),
        delivery_latency_ms: Some(1_500),
    };
    let answered = of_ann(TouchKind::Answered);
    let expected = [
        of_ann(TouchKind::Delivered),
        // Clicked, replied and converted.
        answered.clone(),
        answered.clone(),
        answered,
        of_bob,
    ];
    assert_eq!(touches, expected);
    assert_eq!(store.touches(&[], start, at(5)).await.unwrap(), []);
}

async fn the_first_verdict_on_an_event_counts(store: &dyn Events) {
    let (person, esp) = (person("judged twice"), unique("esp"));
    let start = moment("2026-01-10T12:00:00Z");
    let at = |seconds: i64| start.plus_millis(seconds * 1_000);
    let click = |seconds: i64, machine: bool| {
        let mut stored = bare(&person, EventType::Clicked, at(seconds));
        stored.event.esp = esp.clone();
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
    let counts = store.counts().await.unwrap();
    let ours: Vec<u64> = counts
        .iter()
        .filter(|count| count.esp == esp)
        .map(|count| count.events)
        .collect();
    assert_eq!(ours, [2]);
}

async fn all_events_of_an_id_are_read_page_by_page(store: &dyn Events) {
    let (own, other) = (person("own"), person("other"));
    let start = moment("2026-01-10T12:00:00Z");
    let mut expected = vec![full(&own)];
    for second in [0, 1, 1, 1, 2, 86_400, 40 * 86_400] {
        expected.push(bare(&own, EventType::Opened, start.plus_millis(second * 1_000)));
    }
    expected
        .sort_by(|a, b| (a.event.timestamp, &a.event.event_id).cmp(&(b.event.timestamp, &b.event.event_id)));
    let mut batch = expected.clone();
    batch.reverse();
    batch.push(bare(&other, EventType::Opened, start));
    store.write(&batch).await.unwrap();
    store.write(&batch[..3]).await.unwrap();
    for limit in [1, 2, 3, 100] {
        let mut read: Vec<StoredEvent> = Vec::new();
        loop {
            let last = read.last().map(|stored| &stored.event);
            let mut page = store.events_of(&own, last, limit).await.unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            read.append(&mut page);
        }
        assert_eq!(read, expected, "by {limit}");
    }
}

async fn people_are_erased_and_others_stay(store: &dyn Events) {
    let (ann, alias, bob) = (person("ann"), person("alias"), person("bob"));
    let run = unique("decision");
    let start = moment("2026-01-10T12:00:00Z");
    let sent = |person: &UniversalId, message: &str| {
        let mut stored = bare(person, EventType::Sent, start);
        stored.event.message_id = Some(message.to_owned());
        stored
    };
    let delivered = |person: &UniversalId| {
        let mut stored = bare(person, EventType::Delivered, start.plus_millis(2_000));
        stored.enrichment.delivery_latency_ms = Some(2_000);
        stored
    };
    // Events of two months, stored twice.
    let batch = [
        sent(&ann, "m1"),
        delivered(&ann),
        bare(&ann, EventType::Clicked, start.plus_millis(40 * 86_400_000)),
        sent(&alias, "m2"),
        full(&alias),
        sent(&bob, "m1"),
        delivered(&bob),
    ];
    let explanations: Vec<StoredExplanation> = [&ann, &alias, &bob, &ann]
        .into_iter()
        .enumerate()
        .map(|(number, person)| StoredExplanation {
            reference: format!("{run}-{number}"),
            universal_id: person.clone(),
            decided_at: start,
            body: "{}".into(),
            trial: Some(Trial {
                group: TrialGroup::Control,
                target_at: start,
                model_at: start,
                propensity: 0.5,
                campaign_id: None,
            }),
            forecast: Some(Forecast {
                trigger_at: start,
                target_at: start,
                esp: None,
                mailbox_provider: None,
                campaign_id: None,
            }),
        })
        .collect();
    let fill = async || {
        store.write(&batch).await.unwrap();
        store.write(&batch[..2]).await.unwrap();
        let explanations: Vec<&StoredExplanation> = explanations.iter().collect();
        store.save_explanations(&explanations).await.unwrap();
    };
    fill().await;
    let ids = [ann.clone(), alias.clone()];
    let held = Holdings {
        events: 5,
        explanations: 3,
    };
    assert_eq!(store.holdings(&ids).await.unwrap(), held);
    let about = [0, 1, 3].map(|number| format!("{run}-{number}"));
    assert_eq!(store.explanations_about(&ids).await.unwrap(), about);
    let of_bob = [bob.clone()];
    let untouched = Holdings {
        events: 2,
        explanations: 1,
    };

    // Erases again when nothing is left, and again after everything has been written once more.
    for round in [held, Holdings::default(), held] {
        if round == held {
            fill().await;
        }
        assert_eq!(store.erase(&ids).await.unwrap(), round);
        assert_eq!(store.holdings(&ids).await.unwrap(), Holdings::default());
        assert_eq!(
            store.explanations_about(&ids).await.unwrap(),
            Vec::<String>::new()
        );
        for reference in &about {
            assert_eq!(store.explanation(reference).await.unwrap(), None);
        }
        let (beginning, end) = (Timestamp::default(), moment("2030-01-01T00:00:00Z"));
        assert_eq!(store.history(&ids, beginning, 10).await.unwrap(), []);
        assert_eq!(store.events_of(&ann, None, 10).await.unwrap(), []);
        assert_eq!(
            store.profiles(&ids, beginning, 10).await.unwrap(),
            [Profile::default(), Profile::default()]
        );
        assert_eq!(store.known(&ids).await.unwrap(), [false, false]);
        assert_eq!(store.touches(&ids, beginning, end).await.unwrap(), []);
        let messages = [(ann.clone(), "m1".to_owned()), (alias.clone(), "m2".to_owned())];
        assert_eq!(store.sent_times(&messages).await.unwrap(), [None, None]);
        let of_them = |person: &UniversalId| ids.contains(person);
        let trials = store.trials(beginning, end, 1_000_000).await.unwrap().rows;
        assert!(!trials.iter().any(|trial| of_them(&trial.universal_id)));
        assert!(trials.iter().any(|trial| trial.universal_id == bob));
        let forecasts = store.forecasts(beginning, end, 1_000_000).await.unwrap().rows;
        assert!(!forecasts.iter().any(|forecast| of_them(&forecast.universal_id)));
        assert!(forecasts.iter().any(|forecast| forecast.universal_id == bob));
        let samples = store.latency_samples(beginning, 1_000_000).await.unwrap();
        assert!(!samples.iter().any(|sample| of_them(&sample.universal_id)));
        assert!(samples.iter().any(|sample| sample.universal_id == bob));

        assert_eq!(store.holdings(&of_bob).await.unwrap(), untouched);
        assert_eq!(store.known(&of_bob).await.unwrap(), [true]);
        let message = [(bob.clone(), "m1".to_owned())];
        assert_eq!(store.sent_times(&message).await.unwrap(), [Some(start)]);
    }
    assert_eq!(store.holdings(&[]).await.unwrap(), Holdings::default());
    assert_eq!(store.erase(&[]).await.unwrap(), Holdings::default());
}
