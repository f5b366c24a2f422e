//! What is stored of a person is read, and erased.

use event::{EventType, Timestamp, UniversalId, profile::Profile};

use super::{bare, full, person};
use crate::{
    conformance::{moment, unique},
    events::{Events, Forecast, Holdings, StoredEvent, StoredExplanation, Trial, TrialGroup},
};

pub(super) async fn all_events_of_an_id_are_read_page_by_page(store: &dyn Events) {
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

pub(super) async fn people_are_erased_and_others_stay(store: &dyn Events) {
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

pub(super) async fn whoever_gets_events_during_an_erasure_is_known(store: &dyn Events) {
    let people: Vec<UniversalId> = (0..20).map(|n| person(&format!("erased {n}"))).collect();
    let start = moment("2026-01-10T12:00:00Z");
    let events = |event_type: EventType| -> Vec<StoredEvent> {
        let of_each = people.iter().map(|person| bare(person, event_type, start));
        of_each.collect()
    };
    store.write(&events(EventType::Sent)).await.unwrap();
    let writing = async {
        for event in events(EventType::Unsubscribed) {
            store.write(&[event]).await.unwrap();
        }
    };
    let (erased, ()) = tokio::join!(store.erase(&people), writing);
    erased.unwrap();
    for (person, known) in people.iter().zip(store.known(&people).await.unwrap()) {
        let id = std::slice::from_ref(person);
        let history = store.history(id, Timestamp::default(), 10).await.unwrap();
        assert!(known || history.is_empty(), "{history:?}");
    }
}
