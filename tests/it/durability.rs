//! Acknowledged events are stored, exactly once, whatever happens to the process.

use std::{collections::BTreeSet, time::Duration};

use event::{Hasher, UniversalId};
use integration_tests::{System, eventually};
use serde_json::json;

use crate::{POSTMARK, postmark_click, postmark_headers};

/// Deliveries sent before the process is killed, and after it is back.
const BEFORE: usize = 400;
const AFTER: usize = 50;

fn click(number: usize) -> String {
    let at = format!(
        "2026-01-05T{:02}:{:02}:{:02}Z",
        number / 3600,
        number / 60 % 60,
        number % 60
    );
    postmark_click(
        &format!("person{}@example.com", number % 20),
        &format!("message-{number}"),
        &at,
    )
}

#[tokio::test]
async fn the_same_delivery_twice_is_one_event() {
    let system = System::start(POSTMARK, &["postmark"]).await;
    for _ in 0..3 {
        let answer = system.webhook("postmark", &postmark_headers(), click(1)).await;
        assert_eq!(
            (answer.status, answer.body["accepted"].as_u64()),
            (200, Some(1)),
            "{}",
            answer.text
        );
    }
    let answer = system.webhook("postmark", &postmark_headers(), click(2)).await;
    assert_eq!(answer.status, 200);
    eventually("both events are stored", || async {
        system.stored_events().await == 2
    })
    .await;
}

#[tokio::test]
async fn every_acknowledged_event_survives_a_kill_exactly_once() {
    let mut system = System::start(POSTMARK, &["postmark"]).await;
    // Many at once, so that the kill hits deliveries in every stage.
    let mut deliveries = tokio::task::JoinSet::new();
    for number in 0..BEFORE {
        let (http, url) = (
            system.http.clone(),
            format!("http://{}/webhooks/postmark", system.host),
        );
        deliveries.spawn(async move {
            loop {
                let mut request = http.post(&url).body(click(number));
                for (name, value) in postmark_headers() {
                    request = request.header(name, value);
                }
                match request.send().await {
                    Ok(response) if response.status().is_success() => return Some(number),
                    // So many at once may be too many: like providers, try again.
                    Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(_) => return None,
                }
            }
        });
    }
    let mut acknowledged = BTreeSet::new();
    while let Some(done) = deliveries.join_next().await {
        acknowledged.extend(done.expect("a delivery does not panic"));
        if acknowledged.len() == BEFORE / 2 {
            system.kill();
        }
    }
    assert!(
        (BEFORE / 2..BEFORE).contains(&acknowledged.len()),
        "{} were acknowledged",
        acknowledged.len()
    );
    system.launch().await;
    for number in BEFORE..BEFORE + AFTER {
        let answer = system
            .webhook("postmark", &postmark_headers(), click(number))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        acknowledged.insert(number);
    }
    let expected = acknowledged.len();
    let mut stored = Vec::new();
    eventually("every acknowledged event is stored", || async {
        messages(&system).await.iter().collect::<BTreeSet<_>>().len() >= expected
    })
    .await;
    stored.extend(messages(&system).await);
    let distinct: BTreeSet<&String> = stored.iter().collect();
    assert_eq!(distinct.len(), stored.len(), "an event is stored twice");
    for number in &acknowledged {
        assert!(
            distinct.contains(&format!("message-{number}")),
            "message {number} was acknowledged and is lost"
        );
    }
    assert!(system.stop().await);
}

/// Returns the message ids of all stored events of the twenty people.
async fn messages(system: &System) -> Vec<String> {
    let stores = system.stores().await;
    let mut messages = Vec::new();
    for person in 0..20 {
        let identifier = Hasher::new()
            .email_identifier(&format!("person{person}@example.com"))
            .expect("an address");
        let id = UniversalId::from_identifier(&identifier);
        let since = event::Timestamp::default();
        let history = stores
            .events
            .history(&[id], since, 10_000)
            .await
            .expect("the history is readable");
        messages.extend(history.into_iter().filter_map(|stored| stored.event.message_id));
    }
    stores.close().await;
    messages
}

#[tokio::test]
async fn a_stop_finishes_what_was_begun_and_a_start_goes_on() {
    let mut system = System::start(POSTMARK, &["postmark"]).await;
    for number in 0..20 {
        let answer = system
            .webhook("postmark", &postmark_headers(), click(number))
            .await;
        assert_eq!(answer.status, 200);
    }
    assert!(system.stop().await, "{}", system.log());
    system.launch().await;
    eventually("all events are stored", || async {
        system.stored_events().await == 20
    })
    .await;
    let question = json!({ "email": "person3@example.com", "now": "2026-01-06T00:00:00Z" });
    let known = system.ask("/timing/decide", &question).await;
    assert_eq!(known.status, 200);
    assert!(
        known.body["evidence"]["n"].as_f64().unwrap_or_default() > 0.0,
        "{}",
        known.text
    );
}
