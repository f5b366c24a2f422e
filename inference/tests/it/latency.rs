//! The audit of arrivals: from decisions and deliveries to rows, drift and metric.

use std::time::SystemTime;

use axum::http::StatusCode;
use event::{EventType, MailboxProvider, Timestamp, grid::HOUR_MS};
use serde_json::{Value, json};
use store::{
    events::{Enrichment, Forecast, StoredEvent, StoredExplanation},
    testing::eventually,
};

use crate::{
    NOW, TestApp,
    fakes::{Stores, event, id_of},
};

/// Stores a decision that expected a mail of `hours_ago` to take ten seconds, and the mail, which took `seconds`.
fn decided_and_sent(stores: &Stores, hours_ago: i64, seconds: i64) {
    let now = Timestamp::from(SystemTime::now());
    let trigger_at = now.plus_millis(-hours_ago * HOUR_MS);
    let address = format!("person{hours_ago}@example.com");
    let explanation = StoredExplanation {
        reference: format!("dec_{hours_ago}"),
        universal_id: id_of(&address),
        decided_at: trigger_at.plus_millis(-HOUR_MS),
        body: "{}".into(),
        trial: None,
        forecast: Some(Forecast {
            trigger_at,
            target_at: trigger_at.plus_millis(10_000),
            esp: Some("sendgrid".into()),
            mailbox_provider: Some(MailboxProvider::Gmail),
            campaign_id: None,
        }),
    };
    let reference = explanation.reference.clone();
    stores
        .events
        .explanations
        .lock()
        .unwrap()
        .insert(reference, explanation);
    // The caller is two minutes late.
    let delivered_at = trigger_at.plus_millis(120_000 + seconds * 1_000);
    stores.events.stored.lock().unwrap().push(StoredEvent {
        event: event(&address, EventType::Delivered, delivered_at),
        enrichment: Enrichment {
            delivery_latency_ms: Some(seconds * 1_000),
            ..Enrichment::default()
        },
    });
}

async fn audited(app: &TestApp, query: &str) -> Value {
    let (status, latency) = app.get(&format!("/latency{query}")).await;
    assert_eq!(status, StatusCode::OK, "{latency}");
    latency["arrivals"].clone()
}

async fn drift_metric(app: &TestApp) -> Option<String> {
    let (_, metrics) = app.get("/metrics").await;
    let name = "sendflowr_inference_latency_drift{esp=\"sendgrid\"} ";
    let metrics = metrics.as_str().unwrap().to_owned();
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::to_owned)
}

#[tokio::test]
async fn arrivals_are_compared_with_what_was_expected() {
    let stores = Stores::default();
    for hours_ago in 2..200 {
        decided_and_sent(&stores, hours_ago, 8 + hours_ago % 5);
    }
    let app = TestApp::start(stores);
    assert_eq!(drift_metric(&app).await, None, "before the first audit");
    let arrivals = audited(&app, "").await;
    assert_eq!(
        (&arrivals["decisions"], &arrivals["mails"]),
        (&json!(198), &json!(198))
    );
    let rows = arrivals["rows"].as_array().unwrap();
    let names: Vec<_> = rows
        .iter()
        .map(|row| (&row["esp"], &row["mailbox_provider"]))
        .collect();
    let (esp, mailbox) = (json!("sendgrid"), json!("gmail"));
    assert_eq!(
        names,
        [
            (&Value::Null, &Value::Null),
            (&esp, &Value::Null),
            (&esp, &mailbox)
        ]
    );
    let row = &rows[1];
    assert_eq!(
        (&row["expected_p50_seconds"], &row["actual_p50_seconds"]),
        (&json!(10.0), &json!(10.0))
    );
    assert_eq!(
        (&row["bias_seconds"], &row["error_p50_seconds"]),
        (&json!(0.0), &json!(1.0))
    );
    assert_eq!(
        row["off_target_p50_seconds"], 120.0,
        "the caller's lateness is told apart"
    );
    assert!((row["coverage"].as_f64().unwrap() - 0.6).abs() < 0.02, "{row}");
    assert_eq!(arrivals["drift"][0]["state"], "ok");
    assert_eq!(drift_metric(&app).await.as_deref(), Some("0"));
    let of_a_day = audited(&app, "?days=1").await;
    assert!(of_a_day["mails"].as_u64().unwrap() < 30, "{of_a_day}");
    assert_eq!(of_a_day["drift"][0]["state"], "not_enough_data");
    assert_eq!(
        drift_metric(&app).await.as_deref(),
        Some("0"),
        "the usual time alone counts"
    );
}

#[tokio::test]
async fn decisions_whose_mail_was_sent_under_another_campaign_are_counted() {
    let stores = Stores::default();
    for hours_ago in 2..6 {
        decided_and_sent(&stores, hours_ago, 10);
    }
    let decided_for = |number: i64, campaign: &str| {
        let mut explanations = stores.events.explanations.lock().unwrap();
        let explanation = explanations.get_mut(&format!("dec_{number}")).unwrap();
        explanation.forecast.as_mut().unwrap().campaign_id = Some(campaign.to_owned());
    };
    for (number, campaign) in [(2, "spring"), (3, "spring"), (4, "77")] {
        decided_for(number, campaign);
    }
    for stored in stores.events.stored.lock().unwrap().iter_mut() {
        stored.event.campaign_id = Some("77".to_owned());
        // Of a provider that reports no sent events.
        if stored.event.universal_id == id_of("person3@example.com") {
            stored.enrichment.delivery_latency_ms = None;
        }
    }
    let app = TestApp::start(stores);
    let arrivals = audited(&app, "").await;
    assert_eq!(
        (&arrivals["decisions"], &arrivals["mails"]),
        (&json!(4), &json!(2))
    );
    assert_eq!(arrivals["under_another_campaign"], 2, "{arrivals}");
}

#[tokio::test]
async fn a_provider_that_slows_down_raises_the_alarm() {
    let stores = Stores::default();
    for hours_ago in 2..200 {
        let seconds = if hours_ago < 24 { 30 } else { 10 };
        decided_and_sent(&stores, hours_ago, seconds + hours_ago % 3);
    }
    let app = TestApp::start(stores);
    let arrivals = audited(&app, "").await;
    let drift = &arrivals["drift"][0];
    assert_eq!(
        (&drift["esp"], &drift["state"]),
        (&json!("sendgrid"), &json!("drifting")),
        "{drift}"
    );
    assert!(drift["recent_ratio"].as_f64().unwrap() > 2.5, "{drift}");
    assert_eq!(drift_metric(&app).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn decisions_are_audited_from_now_on() {
    let app = TestApp::start(Stores::default());
    let ask = async |question: Value| {
        let (status, decision) = app.post("/timing/decide", &question).await;
        assert_eq!(status, StatusCode::OK, "{decision}");
        decision
    };
    // Decisions without an experiment count too; a test about another moment does not announce a mail.
    let decision = ask(json!({"email": "ann@example.com", "esp": "sendgrid", "experiment": false})).await;
    ask(json!({"email": "ann@example.com", "now": NOW})).await;
    let reference = decision["decision_id"].as_str().unwrap();
    eventually("both are stored", async || {
        app.events.explanations.lock().unwrap().len() == 2
    })
    .await;
    let arrivals = audited(&app, "").await;
    assert_eq!(
        (&arrivals["pending"], &arrivals["decisions"]),
        (&json!(1), &json!(0))
    );
    let stored = app.events.explanations.lock().unwrap()[reference].clone();
    let forecast = stored.forecast.unwrap();
    assert_eq!(forecast.esp.as_deref(), Some("sendgrid"));
    assert_eq!(decision["trigger_at"], forecast.trigger_at.to_string());
    assert_eq!(decision["arrive_at"], forecast.target_at.to_string());

    for query in ["?days=0", "?days=91", "?days=x", "?since=1"] {
        let (status, refused) = app.get(&format!("/latency{query}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{query}: {refused}");
    }
    app.events.down.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(app.get("/latency").await.0, StatusCode::SERVICE_UNAVAILABLE);
}
