//! Delays: what decisions make of them, and the audit of arrivals, from decisions and deliveries to rows, drift and metric.

use std::time::SystemTime;

use axum::http::StatusCode;
use event::{
    EventType, MailboxProvider, Timestamp,
    grid::{DAY_MS, HOUR_MS, MINUTE_MS},
};
use serde_json::{Value, json};
use store::{
    events::{Enrichment, Forecast, LatencySample, StoredEvent, StoredExplanation},
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

/// What mail of the provider takes: 20 minutes if it is handed over on a weekday from 16:00 to 20:00 UTC, 20 seconds otherwise.
fn late_in_the_afternoon(sent_at: Timestamp) -> i64 {
    // The Unix epoch was a Thursday.
    let weekday = (sent_at.as_millis() / DAY_MS + 3) % 7;
    let hour = sent_at.as_millis() % DAY_MS / HOUR_MS;
    if weekday < 5 && (16..20).contains(&hour) {
        1_200_000
    } else {
        20_000
    }
}

async fn app_of_a_late_provider() -> TestApp {
    let stores = Stores::default();
    let clock = Timestamp::from(SystemTime::now());
    let sample = |minutes_ago: i64| {
        let sent_at = clock.plus_millis(-minutes_ago * MINUTE_MS);
        let latency_ms = late_in_the_afternoon(sent_at);
        LatencySample {
            universal_id: id_of("ann@gmail.com"),
            esp: "sendgrid".into(),
            campaign_id: None,
            campaign_type: None,
            payload_bytes: None,
            mailbox_provider: Some(MailboxProvider::Gmail),
            delivered_at: sent_at.plus_millis(latency_ms),
            latency_ms,
            stands_for: 1,
        }
    };
    let samples = (30..28 * 24 * 60).step_by(19).map(sample);
    stores.events.latencies.lock().unwrap().extend(samples);
    let app = TestApp::start(stores);
    eventually("delays are learned", async || {
        !app.get("/latency").await.1["learned_at"].is_null()
    })
    .await;
    app
}

#[tokio::test]
async fn the_parts_of_the_week_are_shown_as_decisions_use_them() {
    let app = app_of_a_late_provider().await;
    let (_, summary) = app.get("/latency").await;
    assert_eq!(
        summary["rows"][0]["parts"],
        json!([]),
        "all providers have one delay"
    );
    let row = &summary["rows"][2];
    assert_eq!(
        (&row["mailbox_provider"], &row["p50_seconds"]),
        (&json!("gmail"), &json!(20.0))
    );
    let parts = row["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 12);
    let late = &parts[4];
    assert_eq!(
        (&late["days"], &late["hours"], &late["p50_seconds"]),
        (&json!("weekdays"), &json!("16:00-20:00"), &json!(1200.0))
    );
    let seconds = late["expected_seconds"].as_f64().unwrap();
    assert!((1_080.0..=1_320.0).contains(&seconds), "{late}");
    let of_parts: u64 = parts.iter().map(|part| part["samples"].as_u64().unwrap()).sum();
    assert_eq!(row["samples"], of_parts);

    let question = json!({
        "email": "ann@gmail.com", "esp": "sendgrid", "experiment": false, "now": NOW,
        "window": {"start": "2026-01-07T18:00:00Z", "end": "2026-01-07T18:01:00Z"},
    });
    let (status, decision) = app.post("/timing/decide", &question).await;
    assert_eq!(status, StatusCode::OK, "{decision}");
    assert_eq!(decision["latency"]["part_samples"], late["samples"]);
    assert_eq!(decision["expected_latency_seconds"], late["expected_seconds"]);
    let sentence = format!(
        "`sendgrid` is expected to take {seconds:.1} s (learned from {} deliveries, {} of them to gmail handed over on weekdays \
         from 16:00 to 20:00 UTC): the trigger comes that much earlier.",
        row["samples"], late["samples"]
    );
    let why = decision["why"].as_array().unwrap();
    assert!(why.contains(&json!(sentence)), "{decision:#}");
}

#[tokio::test]
async fn where_the_delay_steps_mail_arrives_in_an_allowed_minute() {
    let app = app_of_a_late_provider().await;
    let at = |time: &str| -> Timestamp { format!("2026-01-07T{time}:00Z").parse().unwrap() };
    let ask = async |start: &str, end: &str| {
        let question = json!({
            "email": "ann@gmail.com", "esp": "sendgrid", "experiment": false, "now": NOW,
            "quiet_hours": {"start": "00:00", "end": "16:00"},
            "window": {"start": at(start).to_string(), "end": at(end).to_string()},
        });
        app.post("/timing/decide", &question).await
    };
    let (_, summary) = app.get("/latency").await;
    let late = summary["rows"][2]["parts"][4]["expected_seconds"]
        .as_f64()
        .unwrap();
    for (start, end, target) in [
        // Handed over before the step, 20 s before the first allowed minute.
        ("15:40", "16:10", "16:00"),
        ("16:30", "16:31", "16:30"),
        ("19:59", "20:00", "19:59"),
        // The later of the two triggers: after the step.
        ("20:01", "20:02", "20:01"),
    ] {
        let (status, decision) = ask(start, end).await;
        assert_eq!(status, StatusCode::OK, "{decision}");
        assert_eq!(decision["arrive_at"], at(target).to_string(), "{decision}");
        let trigger: Timestamp = decision["trigger_at"].as_str().unwrap().parse().unwrap();
        let took_ms = late_in_the_afternoon(trigger);
        let off_ms = trigger.plus_millis(took_ms).millis_since(at(target));
        // What remains is the error of the expected delay.
        assert!(off_ms.abs() <= took_ms / 10, "{off_ms}: {decision}");
        let replay = app
            .get(&format!(
                "/explanations/{}?replay=true",
                decision["decision_id"].as_str().unwrap()
            ))
            .await
            .1;
        assert_eq!(replay["verdict"], "same", "{replay:#}");
    }
    // What is handed over before 16:00 has arrived by then, and nothing else has.
    let (status, refused) = ask("16:01", "16:15").await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
    assert_eq!(refused["error"]["reason"], "latency");
    let first: Timestamp = refused["error"]["first_allowed_at"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let earliest = at("16:00").plus_millis((1_000.0 * late) as i64);
    assert!(
        (0..MINUTE_MS).contains(&first.millis_since(earliest)),
        "{refused}"
    );
}
