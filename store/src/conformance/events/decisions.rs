//! Explanations, and what comparisons and audits read.

use event::{EventType, MailboxProvider, Timestamp, UniversalId};

use super::{bare, busy_person, is_among, person};
use crate::{
    conformance::{moment, unique},
    events::{
        Events, Forecast, StoredExplanation, StoredForecast, StoredTrial, Touch, TouchKind, Trial, TrialGroup,
    },
};

pub(super) async fn explanations_stay_as_they_are(store: &dyn Events) {
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

pub(super) async fn trials_come_newest_first(store: &dyn Events) {
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

pub(super) async fn forecasts_come_newest_first(store: &dyn Events) {
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

pub(super) async fn many_decisions_are_thinned_by_person(store: &dyn Events) {
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

pub(super) async fn one_person_does_not_bring_all_decisions(store: &dyn Events) {
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

pub(super) async fn touches_are_deliveries_and_human_answers(store: &dyn Events) {
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
