//! A stored decision: from HTTP to `sendflowr explain --replay`, and to the audit of when its mail arrived.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::time::SystemTime;

use event::{Event, EventType, Timestamp};
use integration_tests::{System, eventually, run, told};
use serde_json::{Value, json};
use store::events::{Enrichment, Forecast, StoredEvent, StoredExplanation};

use crate::{POSTMARK, postmark_click, postmark_headers};

/// Runs `sendflowr explain`; returns its exit code and output.
fn explain(system: &System, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(
        system.folder(),
        &[&["--data", "data", "explain"], arguments].concat(),
    );
    (output.status.code(), told(&output))
}

/// Ann clicks on some evenings of the last weeks.
async fn clicks(system: &System, days_ago: std::ops::Range<i64>) {
    for day in days_ago {
        let today = Timestamp::from(SystemTime::now());
        let evening =
            today.as_millis().div_euclid(86_400_000) * 86_400_000 - day * 86_400_000 + 18 * 3_600_000;
        let at = Timestamp::from_millis_clamped(evening + day * 60_000).to_string();
        let click = postmark_click("ann@example.com", &format!("m-{day}"), &at);
        let answer = system.webhook("postmark", &postmark_headers(), click).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_decision_comes_out_again_after_more_has_happened() {
    let system = System::start(POSTMARK, &["postmark"]).await;
    clicks(&system, 20..40).await;
    eventually("the clicks are stored", || async {
        system.stored_events().await == 20
    })
    .await;
    let question = json!({
        "email": "ann@example.com", "window_hours": 48, "time_zone": "Europe/Berlin", "campaign_id": "spring",
        "quiet_hours": {"start": "22:00", "end": "07:00"}, "blackout_days": ["sunday", "2026-12-24"],
        "allowed_hours": [8, 9, 10, 18, 19], "minimum_gap_hours": 1.5, "latency_seconds": 0.1, "esp": "postmark",
        "signals": [{"type": "site_visit", "age_seconds": 61.5}],
    });
    let decided = system.ask("/timing/decide", &question).await;
    assert_eq!(decided.status, 200, "{}", decided.text);
    let id = decided.body["decision_id"].as_str().unwrap().to_owned();
    eventually("the explanation is stored", || async {
        explain(&system, &[&id]).0 == Some(0)
    })
    .await;

    // More is learned about the person; replaying the old decision from what was known then must still give
    // the same result.
    clicks(&system, 1..20).await;
    eventually("more clicks are stored", || async {
        system.stored_events().await == 39
    })
    .await;
    let again = system.ask("/timing/decide", &question).await;
    assert_ne!(again.body["decision_id"], id.as_str());
    let by_http = system.look(&format!("/explanations/{id}?replay=true")).await;
    assert_eq!(by_http.body["verdict"], "same", "{}", by_http.text);
    let (ended, told) = explain(&system, &[&id, "--replay"]);
    assert!(ended == Some(0) && told.contains("byte for byte"), "{told}");
    let (ended, told) = explain(&system, &[&id]);
    assert!(
        ended == Some(0) && told.contains("The curve rests on") && told.contains("delay"),
        "{told}"
    );
    assert!(!told.contains("ann@"));
    let (ended, told) = explain(&system, &["dec_00000000000000000000000000000000"]);
    assert!(
        ended == Some(2) && told.contains("no decision is stored"),
        "{told}"
    );

    // Somebody tampers with what is stored.
    let body = system.look(&format!("/explanations/{id}")).await.text;
    let mut changed: Value = serde_json::from_str(&body).unwrap();
    changed["confidence"] = json!(0.99);
    changed["explanation_ref"] = json!("dec_tampered");
    let mut old: Value = serde_json::from_str(&body).unwrap();
    old.as_object_mut().unwrap().remove("inputs");
    let stores = system.stores().await;
    for (reference, body) in [
        ("dec_tampered", changed.to_string()),
        ("dec_old", old.to_string()),
        ("dec_moved", body),
        ("dec_nothing", "{}".to_owned()),
    ] {
        let explanation = StoredExplanation {
            reference: reference.to_owned(),
            universal_id: event::UniversalId::parse(changed["universal_id"].as_str().unwrap()).unwrap(),
            decided_at: changed["decided_at"].as_str().unwrap().parse().unwrap(),
            body,
            trial: None,
            forecast: None,
        };
        stores.events.save_explanations(&[&explanation]).await.unwrap();
    }
    drop(stores);
    let (ended, told) = explain(&system, &["dec_tampered", "--replay"]);
    assert!(
        ended == Some(1) && told.contains("confidence") && told.contains("0.99"),
        "{told}"
    );
    let (ended, told) = explain(&system, &["dec_old", "--replay"]);
    assert!(
        ended == Some(2) && told.contains("did not keep what decisions were computed from"),
        "{told}"
    );
    let (ended, told) = explain(&system, &["dec_nothing", "--replay"]);
    assert!(ended == Some(2) && told.contains("universal_id"), "{told}");
    let (ended, told) = explain(&system, &["dec_moved", "--replay"]);
    assert!(
        ended == Some(1) && told.contains("the reference asked for"),
        "{told}"
    );
}

#[tokio::test]
async fn decisions_show_in_the_audit_of_arrivals() {
    let system = System::start("", &["postmark"]).await;
    let answer = system
        .ask(
            "/timing/decide",
            &json!({"email": "ann@example.com", "esp": "postmark"}),
        )
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    eventually("the decision is audited", || async {
        system.look("/latency?days=1").await.body["arrivals"]["pending"] == 1
    })
    .await;
    // A decision of yesterday, and its mail, which took a minute longer than the expected minute.
    let stores = system.stores().await;
    let yesterday = Timestamp::from(SystemTime::now()).plus_millis(-86_400_000);
    let person = event::UniversalId::parse(answer.body["universal_id"].as_str().unwrap()).unwrap();
    let explanation = StoredExplanation {
        reference: "dec_yesterday".to_owned(),
        universal_id: person.clone(),
        decided_at: yesterday,
        body: "{}".to_owned(),
        trial: None,
        forecast: Some(Forecast {
            trigger_at: yesterday.plus_millis(60_000),
            target_at: yesterday.plus_millis(120_000),
            esp: Some("postmark".to_owned()),
            mailbox_provider: None,
            campaign_id: None,
        }),
    };
    stores.events.save_explanations(&[&explanation]).await.unwrap();
    let delivered = Event {
        event_id: "delivered".to_owned(),
        esp: "postmark".to_owned(),
        ..Event::bare(EventType::Delivered, yesterday.plus_millis(180_000), person)
    };
    let delivered = StoredEvent {
        event: delivered,
        enrichment: Enrichment {
            delivery_latency_ms: Some(120_000),
            ..Enrichment::default()
        },
    };
    stores.events.write(&[delivered]).await.unwrap();
    drop(stores);
    let audited = system.look("/latency").await.body["arrivals"].clone();
    assert_eq!(audited["rows"][1]["bias_seconds"], 60.0, "{audited}");
    assert_eq!(audited["drift"][0]["state"], "not_enough_data");
    let latency = |arguments: &[&str]| {
        let output = run(
            system.folder(),
            &[&["--data", "data", "latency"], arguments].concat(),
        );
        assert!(output.status.success());
        told(&output)
    };
    let by_command: Value = serde_json::from_str(&latency(&["--format", "json"])).unwrap();
    assert_eq!(by_command["rows"], audited["rows"]);
    let text = latency(&[]);
    assert!(
        text.contains("+60.0 s") && text.contains("not enough data"),
        "{text}"
    );
}
