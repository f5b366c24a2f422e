//! Delays from which the latency model learns.

use event::{EventType, MailboxProvider, Timestamp, UniversalId};

use super::{bare, busy_person, is_among, person};
use crate::{
    conformance::{moment, unique},
    events::{Events, StoredEvent},
};

pub(super) async fn latency_samples_come_newest_first(store: &dyn Events) {
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

pub(super) async fn the_first_delay_of_an_event_counts(store: &dyn Events) {
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

pub(super) async fn providers_with_many_samples_are_thinned_by_person(store: &dyn Events) {
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

pub(super) async fn one_person_does_not_bring_all_samples(store: &dyn Events) {
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
