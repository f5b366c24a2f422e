//! Decisions, batches and explanations.

use std::{sync::atomic::Ordering, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use event::{EventType, Identifier, IdentifierKind, MailboxProvider, Timestamp, UniversalId};
use sendflowr_inference::{Dependencies, InferenceConfig, RawInferenceConfig, Server};
use serde_json::{Value, json};
use store::{
    events::{Enrichment, LatencySample, StoredEvent},
    testing::eventually,
};
use tokio_util::sync::CancellationToken;

use crate::{
    NOW, TestApp,
    batch::Warnings,
    call,
    fakes::{Stores, evening_clicks, event, id_of},
    now,
};

fn moment(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_stranger_gets_the_populations_answer() {
    let app = TestApp::start(Stores::default());
    let (status, decision) = app
        .post(
            "/timing/decide",
            &json!({"email": "nobody@example.com", "now": NOW}),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(decision["evidence"]["source"], "population_prior");
    assert_eq!(decision["evidence"]["n"], 0);
    assert_eq!(decision["universal_id"], id_of("nobody@example.com").as_str());
    assert!(
        decision["why"][0]
            .as_str()
            .unwrap()
            .starts_with("Nothing is known")
    );
    let arrive_at = moment(&decision["arrive_at"]);
    assert!(arrive_at >= now() && arrive_at < now().plus_millis(24 * 3_600_000));
    assert_eq!(decision["target_minute"], event::grid::slot(arrive_at));
    assert_eq!(decision["expected_latency_seconds"], 60.0);
    assert_eq!(decision["latency"]["source"], "default");
    assert_eq!(arrive_at.millis_since(moment(&decision["trigger_at"])), 60_000);
    assert!(!decision.to_string().contains("nobody@"));
}

#[tokio::test]
async fn mail_that_was_not_answered_is_said_to_bend_the_curve() {
    let stores = Stores::default();
    for week in 0..50 {
        let at = now().plus_millis(-week * 7 * 24 * 3_600_000 - 3_600_000);
        let mut mail = event("ann@example.com", EventType::Delivered, at);
        mail.message_id = Some(format!("m{week}"));
        stores.consume(mail);
    }
    let app = TestApp::start(stores);
    let (_, decision) = app
        .post("/timing/decide", &json!({"email": "ann@example.com", "now": NOW}))
        .await;
    assert_eq!(
        (&decision["evidence"]["n"], &decision["evidence"]["mails"]),
        (&json!(0), &json!(50)),
        "{decision:#}"
    );
    let why = decision["why"][0].as_str().unwrap();
    assert!(why.contains("only 50 mails without an answer"), "{why}");
}

#[tokio::test]
async fn a_person_who_clicks_in_the_evening_gets_mail_before_it() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 40, now());
    let app = TestApp::start(stores);
    let (status, decision) = app
        .post("/timing/decide", &json!({"email": "ann@example.com", "now": NOW}))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(decision["evidence"]["source"], "person");
    assert_eq!(decision["evidence"]["profile_source"], "stored");
    let minute_of_day = decision["target_minute"].as_u64().unwrap() % 1_440;
    assert!((16 * 60..=20 * 60 + 30).contains(&minute_of_day), "{decision:#}");
}

#[tokio::test]
async fn the_same_question_has_the_same_answer_byte_for_byte() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 20, now());
    let request = json!({
        "email": "ann@example.com", "now": NOW, "window_hours": 48, "time_zone": "Europe/Berlin", "explain": true,
        "quiet_hours": {"start": "22:00", "end": "07:00"}, "signals": [{"type": "site_visit", "age_seconds": 60}],
    });
    let (_, first) = TestApp::start(stores.clone())
        .post("/timing/decide", &request)
        .await;
    let app = TestApp::start(stores);
    let (_, cold) = app.post("/timing/decide", &request).await;
    let (_, cached) = app.post("/timing-decision", &request).await;
    assert_eq!(first.to_string(), cold.to_string());
    assert_eq!(cold.to_string(), cached.to_string());
    assert_eq!(first["explanation"]["explanation_ref"], first["decision_id"]);
}

#[tokio::test]
async fn a_signal_of_a_clock_that_is_ahead_counts_as_of_now() {
    let app = TestApp::start(Stores::default());
    let ask = async |hours: i64| {
        let at = Timestamp::from(std::time::SystemTime::now()).plus_millis(hours * 3_600_000);
        let signals = json!([{"type": "site_visit", "at": at.to_string()}]);
        let question = json!({"email": "ann@example.com", "signals": signals, "explain": true});
        app.post("/timing/decide", &question).await
    };
    let (status, decision) = ask(23).await;
    assert_eq!(status, StatusCode::OK, "{decision}");
    let told = &decision["explanation"]["request"]["signals"][0];
    assert_eq!(told["at"], decision["explanation"]["decided_at"], "{told}");
    let (status, refused) = ask(25).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    assert_eq!(refused["error"]["field"], "signals[0].at");
}

#[tokio::test]
async fn the_explanation_is_readable_at_once_and_stored_behind() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 20, now());
    let app = TestApp::start(stores);
    // With the store switched off, the explanation can only wait.
    app.events.down.store(true, Ordering::SeqCst);
    let request = json!({
        "email": "ann@example.com", "now": NOW, "campaign_id": "spring to bob@example.com",
        "campaign_type": "note to bob@example.com", "payload_bytes": 9_000,
        "quiet_hours": {"start": "18:00", "end": "20:00"}, "explain": true,
    });
    let (status, decision) = app.post("/timing/decide", &request).await;
    assert_eq!(status, StatusCode::OK);
    let path = format!("/explanations/{}", decision["explanation_ref"].as_str().unwrap());
    let (status, waiting) = app.get(&path).await;
    assert_eq!((status, &waiting), (StatusCode::OK, &decision["explanation"]));
    assert_eq!(
        waiting["guards"],
        json!([
            {"guard": "latency", "minutes_removed": 1}, {"guard": "quiet_hours", "minutes_removed": 120}
        ])
    );
    assert_eq!(waiting["request"]["campaign_id"], "spring to [address]");
    assert_eq!(waiting["request"]["campaign_type"], "note to [address]");
    assert_eq!(waiting["request"]["payload_bytes"], 9_000);
    assert_eq!(waiting["minutes_left"], 1_440 - 121);
    assert_eq!(waiting["chosen"]["candidate"], true);

    app.events.down.store(false, Ordering::SeqCst);
    let stores = app.stores.clone();
    app.server.stop().await;
    let stored = stores.events.explanations.lock().unwrap();
    let stored = &stored[decision["explanation_ref"].as_str().unwrap()];
    assert_eq!(serde_json::from_str::<Value>(&stored.body).unwrap(), waiting);
    assert!(!stored.body.contains("example.com"));
}

#[tokio::test]
async fn a_store_that_takes_no_explanations_is_logged_once() {
    let warnings = Warnings::default();
    // This test runs on one thread.
    let _logging = tracing::subscriber::set_default(warnings.clone());
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 20, now());
    let app = TestApp::start(stores);
    for outage in 1..=2 {
        app.events.down.store(true, Ordering::SeqCst);
        for mail in 0..3 {
            let campaign = format!("{outage}-{mail}");
            let request = json!({"email": "ann@example.com", "now": NOW, "campaign_id": campaign});
            assert_eq!(app.post("/timing/decide", &request).await.0, StatusCode::OK);
        }
        // Several writers fail, each several times.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(warnings.0.load(Ordering::SeqCst), outage);
        app.events.down.store(false, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(app.stores.events.explanations.lock().unwrap().len(), 3 * outage);
    }
    let (_, metrics) = app.get("/metrics").await;
    let retries = metrics.as_str().unwrap().lines().find_map(|line| {
        line.strip_prefix("sendflowr_inference_explanation_retries_total ")?
            .parse::<usize>()
            .ok()
    });
    assert!(retries.is_some_and(|retries| retries > 4), "{retries:?}");
}

#[tokio::test]
async fn an_event_changes_the_next_decision() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 20, now());
    let app = TestApp::start(stores);
    let request = json!({"email": "ann@example.com", "now": NOW});
    assert_eq!(app.post("/timing/decide", &request).await.0, StatusCode::OK);
    app.consume(event(
        "ann@example.com",
        EventType::MarkedSpam,
        now().plus_millis(-1_000),
    ));
    let (status, refusal) = app.post("/timing/decide", &request).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(refusal["error"]["code"], "suppressed");
    assert_eq!(refusal["error"]["reason"], "marked_spam");
    assert_eq!(refusal["error"]["first_allowed_at"], "2026-01-09T10:00:00.000Z");
}

#[tokio::test]
async fn mail_that_is_allowed_only_after_its_deadline_is_not_put_off() {
    let app = TestApp::start(Stores::default());
    let refusal = async |window_end: &str, deadline: &str| {
        let request = json!({
            "email": "ann@example.com", "now": NOW, "window": {"start": "2026-01-07T15:00:00Z", "end": window_end},
            "quiet_hours": {"start": "15:00", "end": "20:00"}, "deadline": deadline,
        });
        let (status, refusal) = app.post("/timing/decide", &request).await;
        assert_eq!(status, StatusCode::CONFLICT, "{refusal}");
        refusal["error"].clone()
    };
    let too_late = refusal("2026-01-08T10:00:00Z", "2026-01-07T17:33:00Z").await;
    assert_eq!(too_late["first_allowed_at"], Value::Null, "{too_late}");
    let message = too_late["message"].as_str().unwrap();
    assert!(
        message.contains("up to the deadline, 2026-01-07T17:33:00"),
        "{message}"
    );
    let in_time = refusal("2026-01-07T19:00:00Z", "2026-01-07T20:00:00Z").await;
    assert_eq!(
        in_time["first_allowed_at"], "2026-01-07T20:00:00.000Z",
        "{in_time}"
    );
}

#[tokio::test]
async fn lost_profiles_are_rebuilt_and_never_put() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 20, now());
    let config = InferenceConfig {
        rebuilt_profile_cache: Duration::ZERO,
        ..InferenceConfig::default()
    };
    let app = TestApp::start_with(stores, &config);
    let request = json!({"email": "ann@example.com", "now": NOW});
    let (_, stored) = app.post("/timing/decide", &request).await;
    app.profiles.stored.lock().unwrap().clear();
    let (_, rebuilt) = app.post("/timing/decide", &request).await;
    assert_eq!(rebuilt["evidence"]["profile_source"], "history");
    assert_eq!(rebuilt["arrive_at"], stored["arrive_at"]);
    // Events that arrive in the meantime count for the next decision.
    app.store_event(event("ann@example.com", EventType::Unsubscribed, now()));
    assert_eq!(app.post("/timing/decide", &request).await.0, StatusCode::CONFLICT);
    assert_eq!(app.profiles.puts.load(Ordering::SeqCst), 0);
}

/// On the real event store: it chooses which events a profile is rebuilt from.
#[tokio::test]
async fn no_number_of_later_events_hides_an_opt_out_or_the_last_mail_from_a_rebuilt_profile() {
    let folder = tempfile::tempdir().unwrap();
    let embedded = store::testing::open_embedded(folder.path()).await.unwrap();
    let mut past = vec![
        event(
            "ann@example.com",
            EventType::Unsubscribed,
            now().plus_millis(-100 * 86_400_000),
        ),
        event("bob@example.com", EventType::Sent, now().plus_millis(-7_200_000)),
    ];
    for person in ["ann@example.com", "bob@example.com"] {
        for minute in 1..=50 {
            past.push(event(
                person,
                EventType::ProductView,
                now().plus_millis(-minute * 60_000),
            ));
        }
    }
    let past: Vec<StoredEvent> = past
        .into_iter()
        .map(|event| StoredEvent {
            event,
            enrichment: Enrichment::default(),
        })
        .collect();
    embedded.events.write(&past).await.unwrap();
    let raw = json!({"breakers": {"unsubscribed_seconds": 31_536_000}});
    let raw: RawInferenceConfig = serde_json::from_value(raw).unwrap();
    let config = InferenceConfig {
        history_events: 20,
        ..InferenceConfig::try_from(raw).unwrap()
    };
    let dependencies = Dependencies {
        events: embedded.events.clone(),
        identities: embedded.identities.clone(),
        profiles: embedded.profiles.clone(),
        ..Stores::default().dependencies()
    };
    let server = Server::start(&config, dependencies, CancellationToken::new());
    for (person, reason, first_allowed_at) in [
        ("ann@example.com", "unsubscribed", "2026-09-29T10:00:00.000Z"),
        ("bob@example.com", "minimum_gap", "2026-01-08T20:00:00.000Z"),
    ] {
        let question = json!({"email": person, "now": NOW, "minimum_gap_hours": 36});
        let request = Request::post("/timing/decide")
            .body(Body::from(question.to_string()))
            .unwrap();
        let (status, refusal) = call(server.router(), request).await;
        assert_eq!(status, StatusCode::CONFLICT, "{refusal}");
        assert_eq!(refusal["error"]["reason"], reason, "{refusal}");
        assert_eq!(
            refusal["error"]["first_allowed_at"], first_allowed_at,
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn a_rebuilt_profile_goes_as_far_back_as_its_moment_asks_for() {
    const YEAR_MS: i64 = 365 * 86_400_000;
    let stores = Stores::default();
    let clock = Timestamp::from(std::time::SystemTime::now());
    let then = clock.plus_millis(-3 * YEAR_MS);
    evening_clicks(&stores, "ann@example.com", 20, then);
    stores.profiles.stored.lock().unwrap().clear();
    let app = TestApp::start(stores);
    let known = async |now: Option<Timestamp>| {
        let (status, decision) = app
            .post("/timing/decide", &json!({"email": "ann@example.com", "now": now}))
            .await;
        assert_eq!(status, StatusCode::OK, "{decision}");
        assert_eq!(decision["evidence"]["profile_source"], "history");
        decision["evidence"]["n"].as_u64()
    };
    // The first profile goes back for a year and is remembered; it says nothing of the years before.
    assert_eq!(known(None).await, Some(0));
    assert_eq!(known(Some(then)).await, Some(20));
    assert_eq!(known(None).await, Some(0));
    assert_eq!(app.events.profile_queries.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_rebuilt_profile_is_remembered_for_a_moment() {
    let app = TestApp::start(Stores::default());
    let request = json!({"email": "ann@example.com", "now": NOW});
    for _ in 0..5 {
        assert_eq!(app.post("/timing/decide", &request).await.0, StatusCode::OK);
    }
    assert_eq!(app.events.profile_queries.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn ids_of_one_person_share_their_past() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 10, now());
    let app = TestApp::start(stores);
    let link =
        json!({"email": "ann@example.com", "identifiers": [{"kind": "email", "value": "ann@work.example"}]});
    assert_eq!(app.post("/link-identifiers", &link).await.0, StatusCode::OK);
    let (_, decision) = app
        .post(
            "/timing/decide",
            &json!({"email": "ann@work.example", "now": NOW}),
        )
        .await;
    assert_eq!(decision["evidence"]["source"], "person");
}

#[tokio::test]
async fn ids_without_events_cost_no_look_at_the_event_store_until_they_have_some() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 10, now());
    let app = TestApp::start(stores);
    let link =
        json!({"email": "ann@example.com", "identifiers": [{"kind": "external_id", "value": "customer-7"}]});
    assert_eq!(app.post("/link-identifiers", &link).await.0, StatusCode::OK);
    let request = json!({"email": "ann@example.com", "now": NOW});
    let (_, decision) = app.post("/timing/decide", &request).await;
    assert_eq!(decision["evidence"]["profile_source"], "stored");
    assert_eq!(app.events.profile_queries.load(Ordering::SeqCst), 0);

    // The graph need not know about it yet.
    let mut opt_out = event("ann@example.com", EventType::Unsubscribed, now());
    opt_out.universal_id = UniversalId::from_identifier(&Identifier {
        kind: IdentifierKind::ExternalId,
        value: "customer-7".to_owned(),
    });
    app.consume(opt_out);
    assert_eq!(app.post("/timing/decide", &request).await.0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn an_opt_out_under_another_id_holds_while_the_graph_is_away() {
    let stores = Stores::default();
    // Cached no longer than the request takes.
    let config = InferenceConfig {
        person_cache: Duration::ZERO,
        ..InferenceConfig::default()
    };
    let app = TestApp::start_with(stores, &config);
    for name in ["ann", "bob"] {
        let customer = json!([{"kind": "external_id", "value": format!("customer-{name}")}]);
        let link = json!({"email": format!("{name}@example.com"), "identifiers": customer});
        assert_eq!(app.post("/link-identifiers", &link).await.0, StatusCode::OK);
    }
    let mut opt_out = event("ann@example.com", EventType::Unsubscribed, now());
    opt_out.universal_id = UniversalId::from_identifier(&Identifier {
        kind: IdentifierKind::ExternalId,
        value: "customer-ann".to_owned(),
    });
    app.consume(opt_out);
    let request = |name: &str| json!({"email": format!("{name}@example.com"), "now": NOW});
    assert_eq!(
        app.post("/timing/decide", &request("ann")).await.0,
        StatusCode::CONFLICT
    );
    let (_, with_graph) = app.post("/timing/decide", &request("bob")).await;

    app.identities.down.store(true, Ordering::SeqCst);
    assert_eq!(
        app.post("/timing/decide", &request("ann")).await.0,
        StatusCode::CONFLICT
    );
    let (_, remembered) = app.post("/timing/decide", &request("bob")).await;
    assert_eq!(remembered["universal_id"], with_graph["universal_id"]);
    assert_eq!(
        remembered["evidence"]["identity_source"],
        "remembered_graph_unreachable"
    );
    assert!(remembered["why"].to_string().contains("as they were remembered"));
    let (_, unknown) = app.post("/timing/decide", &request("cid")).await;
    assert_eq!(
        unknown["evidence"]["identity_source"],
        "request_graph_unreachable"
    );
    let reference = remembered["explanation_ref"].as_str().unwrap();
    let (_, replay) = app.get(&format!("/explanations/{reference}?replay=true")).await;
    assert_eq!(replay["verdict"], "same", "{replay:#}");
}

/// If the minute is not the best one, the sentences say so.
#[tokio::test]
async fn the_sentences_say_whose_choice_the_minute_is() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 40, now());
    let config = InferenceConfig {
        experiment: None,
        ..InferenceConfig::default()
    };
    let app = TestApp::start_with(stores, &config);
    let quiet = json!({"start": "22:00", "end": "07:00"});
    let request =
        |name: &str| json!({"email": format!("{name}@example.com"), "now": NOW, "quiet_hours": quiet});
    let guards = |decision: &Value| -> String {
        let why = decision["why"].as_array().unwrap().iter();
        let mut sentences = why.map(|sentence| sentence.as_str().unwrap().to_owned());
        sentences
            .find(|sentence| sentence.contains("minutes asked for"))
            .unwrap()
    };
    let (_, known) = app.post("/timing/decide", &request("ann")).await;
    assert!(
        guards(&known).ends_with("the best of the 899 left was chosen."),
        "{}",
        guards(&known)
    );
    let (_, stranger) = app.post("/timing/decide", &request("stranger")).await;
    let told = guards(&stranger);
    assert!(
        told.contains("of the 899 left one worth at least 99 % of the best"),
        "{told}"
    );

    let mut line = request("ann");
    line["esp"] = "ses".into();
    let (_, answers) = app
        .post_text(
            "/timing/decide/batch?capacity_per_minute=1",
            format!("{line}\n{line}"),
        )
        .await;
    let second: Value = serde_json::from_str(answers.as_str().unwrap().lines().nth(1).unwrap()).unwrap();
    let decision = &second["decision"];
    assert!(!decision["moved"].is_null(), "{decision}");
    assert!(
        guards(decision).ends_with("; 899 were left."),
        "{}",
        guards(decision)
    );
    assert!(
        decision["why"]
            .to_string()
            .contains("the best free minute was taken")
    );
}

#[tokio::test]
async fn exploration_is_not_said_to_draw_from_all_minutes() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 40, now());
    let raw = json!({"experiment": {"control_share": 0.001, "exploration_share": 0.5}});
    let raw: RawInferenceConfig = serde_json::from_value(raw).unwrap();
    let app = TestApp::start_with(stores, &InferenceConfig::try_from(raw).unwrap());
    // Whether a decision explores depends on the campaign.
    for campaign in 0..100 {
        let request = json!({
            "email": "ann@example.com", "now": NOW, "campaign_id": campaign.to_string(),
            "quiet_hours": {"start": "22:00", "end": "07:00"}, "signals": [{"type": "site_visit", "age_seconds": 60}],
        });
        let (_, decision) = app.post("/timing/decide", &request).await;
        if decision["group"] != "exploration" {
            continue;
        }
        let why = decision["why"].to_string();
        assert!(why.contains("the quarter hour was drawn at random"), "{why}");
        assert!(
            why.contains("; 899 were left.") && !why.contains("left was drawn"),
            "{why}"
        );
        assert!(why.contains("A site visit 1 minute ago"), "{why}");
        return;
    }
    panic!("no decision explored");
}

/// The profile store answers here, but a consumer could not write to it.
#[tokio::test]
async fn doubted_profiles_are_not_used() {
    let stores = Stores::default();
    for email in ["ann@example.com", "bob@example.com"] {
        evening_clicks(&stores, email, 10, now());
    }
    let unsubscribed = event(
        "ann@example.com",
        EventType::Unsubscribed,
        now().plus_millis(-1_000),
    );
    stores.store_event(unsubscribed);
    stores.events.profiles_doubted.store(true, Ordering::SeqCst);
    let app = TestApp::start(stores);
    let about = |email: &str| json!({"email": email, "now": NOW});
    let (_, refused) = app.post("/timing/decide", &about("ann@example.com")).await;
    assert_eq!(refused["error"]["reason"], "unsubscribed", "{refused}");

    let (_, decision) = app.post("/timing/decide", &about("bob@example.com")).await;
    let source = &decision["evidence"]["profile_source"];
    assert_eq!(source, "history_profiles_doubted", "{decision}");
    let why = decision["why"].to_string();
    assert!(why.contains("Stored profiles lack events"), "{why}");
    let gauge = async || {
        let (_, metrics) = app.get("/metrics").await;
        let metrics = metrics.as_str().unwrap();
        metrics.contains("\nsendflowr_inference_profiles_doubted 1\n")
    };
    assert!(gauge().await);

    app.events.profiles_doubted.store(false, Ordering::SeqCst);
    eventually("profiles are believed again", async || {
        let (_, decision) = app.post("/timing/decide", &about("bob@example.com")).await;
        decision["evidence"]["profile_source"] == "stored"
    })
    .await;
    assert!(!gauge().await);
}

#[tokio::test]
async fn stores_that_do_not_answer_cost_evidence_before_they_cost_answers() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 10, now());
    let app = TestApp::start(stores);
    let request = json!({"email": "ann@example.com", "now": NOW});
    app.identities.down.store(true, Ordering::SeqCst);
    app.profiles.down.store(true, Ordering::SeqCst);
    let (status, decision) = app.post("/timing/decide", &request).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        decision["evidence"]["identity_source"],
        "request_graph_unreachable"
    );
    assert_eq!(
        decision["evidence"]["profile_source"],
        "history_profiles_unreachable"
    );
    assert!(decision["evidence"]["n"].as_u64().unwrap() > 0);
    let (status, ready) = app.get("/ready").await;
    assert_eq!((status, &ready["status"]), (StatusCode::OK, &json!("degraded")));

    // No store is left that could say whether the person may be mailed at all: no decision.
    app.events.down.store(true, Ordering::SeqCst);
    let (status, refusal) = app
        .post("/timing/decide", &json!({"email": "bob@example.com", "now": NOW}))
        .await;
    assert_eq!(
        (status, &refusal["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable"))
    );
    // The previous answer is repeated for a second.
    eventually("it is not ready", async || {
        app.get("/ready").await.0 == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
}

#[tokio::test]
async fn delays_are_learned_by_provider() {
    let stores = Stores::default();
    let clock = Timestamp::from(std::time::SystemTime::now());
    let sample = LatencySample {
        universal_id: id_of("ann@example.com"),
        esp: "sendgrid".into(),
        campaign_id: None,
        campaign_type: None,
        payload_bytes: None,
        mailbox_provider: Some(MailboxProvider::Gmail),
        delivered_at: clock,
        latency_ms: 12_000,
        stands_for: 1,
    };
    let mut samples = vec![sample.clone(); 50];
    for (campaign_type, bytes, seconds) in [("receipt", 9_000, 3), ("promotion", 400_000, 48)] {
        let attached = LatencySample {
            esp: "mailjet".into(),
            campaign_type: Some(campaign_type.into()),
            payload_bytes: Some(bytes),
            latency_ms: 1_000 * seconds,
            ..sample.clone()
        };
        samples.extend(vec![attached; 400]);
    }
    stores.events.latencies.lock().unwrap().extend(samples);
    let app = TestApp::start(stores);
    let summary = async || app.get("/latency").await.1;
    eventually("delays are learned", async || {
        !summary().await["learned_at"].is_null()
    })
    .await;
    let summary = summary().await;
    assert_eq!(summary["rows"].as_array().unwrap().len(), 5);
    assert_eq!(summary["rows"][3]["esp"], "sendgrid");
    assert_eq!(summary["rows"][3]["p50_seconds"], 12.0);
    let of_mailjet: Vec<(&str, &str, u64)> = summary["factors"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|factor| factor["esp"] == "mailjet" && factor["field"] != "queue_depth")
        .map(|factor| {
            let text = |name: &str| factor[name].as_str().unwrap();
            (text("field"), text("value"), factor["samples"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(
        of_mailjet,
        [
            ("campaign_type", "promotion", 400),
            ("campaign_type", "receipt", 400),
            ("payload_bytes", "4095-16382", 400),
            ("payload_bytes", "262143-1048574", 400),
        ]
    );
    let request = json!({"email": "ann@example.com", "esp": "SendGrid", "latency_seconds": 99});
    let (_, decision) = app.post("/timing/decide", &request).await;
    // How many of them belong to the same part of the week depends on when the test runs.
    let part_samples = decision["latency"]["part_samples"].as_u64().unwrap();
    assert!([0, 50].contains(&part_samples), "{decision}");
    assert_eq!(
        decision["latency"],
        json!({"seconds": 12.0, "source": "learned", "samples": 50, "part_samples": part_samples})
    );
    let request = json!({"email": "ann@example.com", "esp": "mailgun", "latency_estimate_seconds": 99});
    let (_, decision) = app.post("/timing/decide", &request).await;
    assert_eq!(
        decision["latency"],
        json!({"seconds": 99.0, "source": "caller", "samples": 0})
    );

    // What senders attach to their messages and give in their requests.
    let mut expected = Vec::new();
    for told in [
        json!({"campaign_type": "receipt"}),
        json!({"campaign_type": "promotion"}),
        json!({"payload_bytes": 9_000}),
        json!({"payload_bytes": 400_000}),
    ] {
        let mut request = json!({"email": "ann@example.com", "esp": "mailjet", "explain": true});
        request
            .as_object_mut()
            .unwrap()
            .extend(told.as_object().unwrap().clone());
        let (status, decision) = app.post("/timing/decide", &request).await;
        assert_eq!(status, StatusCode::OK, "{decision}");
        for (name, value) in told.as_object().unwrap() {
            assert_eq!(&decision["explanation"]["request"][name], value);
        }
        expected.push(decision["latency"]["seconds"].as_f64().unwrap());
    }
    let [receipt, promotion, small, large] = expected[..] else {
        panic!("there are four")
    };
    assert!(promotion > 10.0 * receipt, "{promotion} {receipt}");
    assert!(large > 10.0 * small, "{large} {small}");
}

#[tokio::test]
async fn the_week_by_the_hour_sums_to_one() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 40, now());
    let app = TestApp::start(stores);
    let (status, prediction) = app
        .post(
            "/predict",
            &json!({"email": "ann@example.com", "now": NOW, "top": 3}),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    let hours: Vec<f64> = serde_json::from_value(prediction["probabilities"].clone()).unwrap();
    assert_eq!(hours.len(), 168);
    assert!((hours.iter().sum::<f64>() - 1.0).abs() < 1e-3);
    assert_eq!(prediction["best_hours"].as_array().unwrap().len(), 3);
    // The clicks come at 19:30, so either of the two hours around it may be the best.
    let hour = prediction["best_hours"][0]["hour"].as_u64().unwrap();
    assert!((19..=20).contains(&hour), "{hour}");
}

#[tokio::test]
async fn what_is_older_than_the_history_does_not_count_although_it_is_stored() {
    const DAY_MS: i64 = 86_400_000;
    let stores = Stores::default();
    let clock = Timestamp::from(std::time::SystemTime::now());
    evening_clicks(&stores, "ann@example.com", 30, clock.plus_millis(-380 * DAY_MS));
    let opt_out = event(
        "ann@example.com",
        EventType::Unsubscribed,
        clock.plus_millis(-400 * DAY_MS),
    );
    stores.consume(opt_out);
    let app = TestApp::start(stores);
    let (_, decision) = app
        .post("/timing/decide", &json!({"email": "ann@example.com"}))
        .await;
    assert_eq!(
        (
            &decision["evidence"]["n"],
            &decision["evidence"]["profile_source"]
        ),
        (&json!(0), &json!("stored"))
    );
    let (_, features) = app.get(&format!("/features/{}", id_of("ann@example.com"))).await;
    assert_eq!(
        (&features["known"], &features["counts"]["clicks"]),
        (&json!(false), &json!(0))
    );
    assert_eq!(features["signals"], json!({}));
    let (_, recomputed) = app
        .post("/compute-features", &json!({"email": "ann@example.com"}))
        .await;
    assert_eq!(features["profile_digest"], recomputed["profile_digest"]);

    // The limit is that of the decision's own moment.
    let then = clock.plus_millis(-300 * DAY_MS).to_string();
    let request = json!({"email": "ann@example.com", "now": then});
    let (_, decision) = app.post("/timing/decide", &request).await;
    assert_eq!(decision["evidence"]["n"], 30);
}

#[tokio::test]
async fn of_an_opt_out_and_a_return_at_the_same_moment_the_opt_out_holds() {
    use EventType::{Resubscribed, Unsubscribed};
    let moment = now().plus_millis(-60_000);
    for order in [[Unsubscribed, Resubscribed], [Resubscribed, Unsubscribed]] {
        let stores = Stores::default();
        for kind in order {
            stores.consume(event("ann@example.com", kind, moment));
        }
        let app = TestApp::start(stores);
        let request = json!({"email": "ann@example.com", "now": NOW});
        let (status, refused) = app.post("/timing/decide", &request).await;
        assert_eq!(status, StatusCode::CONFLICT, "{order:?}");
        assert_eq!(refused["error"]["reason"], "unsubscribed");
        // A return a moment later counts.
        app.consume(event("ann@example.com", Resubscribed, moment.plus_millis(1)));
        assert_eq!(app.post("/timing/decide", &request).await.0, StatusCode::OK);

        let signals: Vec<Value> = order
            .iter()
            .map(|kind| json!({"type": kind.to_string(), "age_seconds": 5}))
            .collect();
        let told = json!({"email": "bob@example.com", "now": NOW, "signals": signals});
        assert_eq!(app.post("/timing/decide", &told).await.0, StatusCode::CONFLICT);
    }
}

/// A caller who names a person in several ways knows that these are one, whether or not the graph does.
#[tokio::test]
async fn several_names_count_together_and_the_most_careful_one_holds() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 10, now());
    let at = |minutes: i64| now().plus_millis(-minutes * 60_000);
    stores.consume(event("gone@example.com", EventType::Unsubscribed, at(60)));
    // Came back under this address, which does not speak for the other one.
    stores.consume(event("back@example.com", EventType::Unsubscribed, at(50)));
    stores.consume(event("back@example.com", EventType::Resubscribed, at(40)));
    stores.consume(event("mailed@example.com", EventType::Sent, at(30)));
    stores.consume(event(
        "once@example.com",
        EventType::Unsubscribed,
        at(100 * 24 * 60),
    ));
    let app = TestApp::start(stores);
    let ask = async |names: Value, gap_hours: f64| {
        let mut request = names;
        request["now"] = NOW.into();
        request["window_hours"] = 2.into();
        request["minimum_gap_hours"] = gap_hours.into();
        app.post("/timing/decide", &request).await
    };
    let address = |name: &str| json!([{"kind": "email", "value": format!("{name}@example.com")}]);
    let ann = id_of("ann@example.com");

    let (status, alone) = ask(json!({"universal_id": ann}), 0.0).await;
    assert_eq!((status, &alone["evidence"]["n"]), (StatusCode::OK, &json!(10)));
    for names in [
        json!({"universal_id": ann, "email": "gone@example.com"}),
        json!({"email": "ann@example.com", "identifiers": address("gone")}),
        json!({"email": "gone@example.com", "identifiers": address("back")}),
    ] {
        let (status, refused) = ask(names.clone(), 0.0).await;
        assert_eq!(status, StatusCode::CONFLICT, "{names}: {refused}");
        assert_eq!(refused["error"]["reason"], "unsubscribed");
    }
    let names = json!({"universal_id": ann, "email": "mailed@example.com"});
    let (status, refused) = ask(names, 24.0).await;
    assert_eq!(
        (status, &refused["error"]["reason"]),
        (StatusCode::CONFLICT, &json!("minimum_gap"))
    );

    // What is known of each counts, and the person is addressed under the first name.
    let names = json!({"universal_id": id_of("stranger@example.com"), "email": "ann@example.com"});
    let (status, together) = ask(names, 0.0).await;
    assert_eq!((status, &together["evidence"]["n"]), (StatusCode::OK, &json!(10)));
    assert_eq!(together["universal_id"], id_of("stranger@example.com").as_str());
    let back = json!({"email": "back@example.com", "identifiers": address("ann")});
    assert_eq!(ask(back, 0.0).await.0, StatusCode::OK);
    // An unsubscription that is over does not bring back one that was taken back.
    let over = json!({"email": "back@example.com", "identifiers": address("once")});
    assert_eq!(ask(over, 0.0).await.0, StatusCode::OK);

    let line = json!({"universal_id": ann, "email": "gone@example.com", "now": NOW}).to_string();
    let (_, answer) = app.post_text("/timing/decide/batch", line).await;
    assert_eq!(answer["status"], 409, "{answer}");
}
