//! Stored decisions that are computed again.

use axum::http::StatusCode;
use event::{EventType, MailboxProvider};
use sendflowr_inference::{InferenceConfig, save_population, train};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::{events::LatencySample, testing::eventually};

use crate::{
    NOW, TestApp,
    fakes::{Stores, evening_clicks, event, id_of},
    now,
};

async fn replayed(app: &TestApp, reference: &str) -> Value {
    let (status, replay) = app.get(&format!("/explanations/{reference}?replay=true")).await;
    assert_eq!(status, StatusCode::OK, "{replay}");
    replay
}

fn reference(decision: &Value) -> String {
    decision["explanation_ref"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn decisions_of_every_group_come_out_again() {
    let stores = Stores::default();
    for person in 0..10 {
        evening_clicks(&stores, &format!("person{person}@example.com"), 3 * person, now());
    }
    let app = TestApp::start(stores);
    let mut groups = std::collections::BTreeSet::new();
    for person in 0..120 {
        let question = json!({
            "email": format!("person{person}@example.com"), "now": NOW, "window_hours": 24 + person,
            "minimum_gap_hours": 2.5, "experiment": person % 5 != 0, "latency_seconds": 0.1 + 0.2,
            "campaign_type": "newsletter", "payload_bytes": 1_000 * person, "queue_depth": person,
            "quiet_hours": {"start": "22:00", "end": "06:30"}, "blackout_days": ["2026-01-08", "sat", "1969-12-31", "-009999-01-01"],
            "signals": [{"type": "product_view", "age_seconds": 77}, {"type": "resubscribed", "age_seconds": 9}],
        });
        let (status, decision) = app.post("/timing/decide", &question).await;
        assert_eq!(status, StatusCode::OK, "{decision}");
        let replay = replayed(&app, &reference(&decision)).await;
        assert_eq!(replay["verdict"], "same", "{person}: {replay:#}");
        groups.insert(decision["group"].to_string());
    }
    assert!(groups.len() >= 3, "the control group, too: {groups:?}");
}

#[tokio::test]
async fn a_decision_of_a_batch_that_had_to_move_comes_out_again() {
    let app = TestApp::start(Stores::default());
    let line = |person: usize| {
        json!({
            "email": format!("person{person}@example.com"), "now": NOW, "window_hours": 6, "esp": "ses", "explain": true,
        })
    };
    let lines: String = (0..250).map(|person| format!("{}\n", line(person))).collect();
    let (status, answers) = app
        .post_text("/timing/decide/batch?capacity_per_minute=1", lines)
        .await;
    assert_eq!(status, StatusCode::OK);
    let (mut moved, mut passed_over) = (0, 0);
    for answer in answers.as_str().unwrap().lines() {
        let answer: Value = serde_json::from_str(answer).unwrap();
        let decision = &answer["decision"];
        moved += usize::from(!decision["moved"].is_null());
        let full = &decision["explanation"]["inputs"]["full_minutes"];
        passed_over += usize::from(!full.is_null());
        let replay = replayed(&app, &reference(decision)).await;
        assert_eq!(replay["verdict"], "same", "{replay:#}");
    }
    assert!(moved > 20 && passed_over > 20, "{moved}, {passed_over}");
}

#[tokio::test]
async fn a_decision_that_heeded_an_opt_out_from_the_future_comes_out_again() {
    let stores = Stores::default();
    let clock = event::Timestamp::from(std::time::SystemTime::now());
    evening_clicks(&stores, "ann@example.com", 20, clock);
    stores.consume(event(
        "ann@example.com",
        EventType::Unsubscribed,
        clock.plus_millis(20 * 3_600_000),
    ));
    let app = TestApp::start(stores);
    let (status, refusal) = app
        .post("/timing/decide", &json!({"email": "ann@example.com"}))
        .await;
    assert_eq!(status, StatusCode::CONFLICT, "{refusal}");
    assert_eq!(refusal["error"]["reason"], "unsubscribed");
    let after_it = json!({"email": "ann@example.com", "window_hours": 336, "explain": true});
    let (status, decision) = app.post("/timing/decide", &after_it).await;
    assert_eq!(status, StatusCode::OK, "{decision}");
    let breaker = &decision["explanation"]["breakers"][0];
    assert_eq!(
        (&breaker["reason"], &breaker["since"]),
        (&json!("unsubscribed"), &decision["decided_at"])
    );
    let replay = replayed(&app, &reference(&decision)).await;
    assert_eq!(replay["verdict"], "same", "{replay:#}");
    // A caller who gives a moment as `now` gets a decision without anything that came after it.
    let told = json!({"email": "ann@example.com", "now": clock.to_string(), "explain": true});
    let (status, decision) = app.post("/timing/decide", &told).await;
    assert_eq!(status, StatusCode::OK, "{decision}");
    assert_eq!(decision["explanation"]["breakers"], json!([]));
    assert_eq!(replayed(&app, &reference(&decision)).await["verdict"], "same");
}

#[tokio::test]
async fn what_is_learned_later_changes_no_replay() {
    let stores = Stores::default();
    evening_clicks(&stores, "ann@example.com", 20, now());
    let app = TestApp::start(stores);
    let (_, decision) = app
        .post("/timing/decide", &json!({"email": "ann@example.com", "now": NOW}))
        .await;
    // Events from before the decision that arrive late, and a service with other settings.
    app.consume(event(
        "ann@example.com",
        EventType::Clicked,
        now().plus_millis(-3_600_000),
    ));
    app.consume(event(
        "ann@example.com",
        EventType::MarkedSpam,
        now().plus_millis(-60_000),
    ));
    let reference = reference(&decision);
    assert_eq!(replayed(&app, &reference).await["verdict"], "same");
    let mut config = InferenceConfig::default();
    config.policy.site_visit.weight = 9.0;
    config.experiment = None;
    let stores = app.stores.clone();
    app.server.stop().await;
    let elsewhere = TestApp::start_with(stores, &config);
    assert_eq!(replayed(&elsewhere, &reference).await["verdict"], "same");
}

/// Before the first mail, the address of the request tells whose servers will receive it.
#[tokio::test]
async fn services_that_share_a_model_folder_decide_alike_and_replay_each_others_decisions() {
    let stores = Stores::default();
    for person in 0..60 {
        evening_clicks(&stores, &format!("p{person}@example.com"), 12, now());
    }
    let folder = tempfile::tempdir().unwrap();
    let shared = InferenceConfig {
        model_folder: Some(folder.path().to_owned()),
        ..InferenceConfig::default()
    };
    let (one, other) = (
        TestApp::start_with(stores.clone(), &shared),
        TestApp::start_with(stores.clone(), &shared),
    );
    let alone = TestApp::start_with(stores.clone(), &InferenceConfig::default());
    let question = json!({"email": "nobody@example.com", "now": NOW});
    let (_, before) = one.post("/timing/decide", &question).await;
    let fit = train(
        &shared,
        &*stores.events,
        &*stores.identities,
        &*stores.profiles,
        now(),
    );
    let tables = fit.await.unwrap().unwrap();
    save_population(folder.path(), &tables).unwrap();
    eventually("both services use the tables", async || {
        let version = async |app: &TestApp| app.get("/").await.1["population_version"].clone();
        version(&one).await == tables.version() && version(&other).await == tables.version()
    })
    .await;
    let (_, after) = one.post("/timing/decide", &question).await;
    assert_eq!(after["evidence"]["population_version"], tables.version());
    assert_eq!(other.post("/timing/decide", &question).await.1, after);
    eventually("both decisions are stored", async || {
        stores.events.explanations.lock().unwrap().len() == 2
    })
    .await;
    for decision in [before, after.clone()] {
        let replay = replayed(&other, &reference(&decision)).await;
        assert_eq!(replay["verdict"], "same", "{replay:#}");
    }
    let replay = replayed(&alone, &reference(&after)).await;
    assert_eq!(replay["verdict"], "tables_gone", "{replay:#}");
}

#[tokio::test]
async fn delays_of_a_first_mail_are_those_of_the_mailbox_and_come_out_again() {
    let stores = Stores::default();
    let sample = |mailbox_provider, seconds: i64| LatencySample {
        universal_id: id_of("ann@example.com"),
        esp: "sendgrid".into(),
        campaign_id: None,
        campaign_type: None,
        payload_bytes: None,
        mailbox_provider: Some(mailbox_provider),
        delivered_at: event::Timestamp::from(std::time::SystemTime::now()),
        latency_ms: 1_000 * seconds,
        stands_for: 1,
    };
    let mut samples = vec![sample(MailboxProvider::Gmail, 10); 500];
    samples.extend(vec![sample(MailboxProvider::Outlook, 200); 500]);
    stores.events.latencies.lock().unwrap().extend(samples);
    let app = TestApp::start(stores);
    eventually("delays are learned", async || {
        !app.get("/latency").await.1["learned_at"].is_null()
    })
    .await;
    let hash = event::Hasher::new().email("new@hotmail.com").unwrap();
    let raw = json!([{"kind": "email", "value": " New@Hotmail.com"}]);
    for (who, class, seconds) in [
        (
            json!({"email": "new@hotmail.com"}),
            json!("outlook"),
            150.0..=200.0,
        ),
        (json!({"identifiers": raw}), json!("outlook"), 150.0..=200.0),
        (json!({"email": "new@gmail.com"}), json!("gmail"), 10.0..=15.0),
        // Of a hash nobody can tell.
        (json!({"email_hash": hash.as_str()}), Value::Null, 10.0..=200.0),
    ] {
        let mut request = who.clone();
        request["esp"] = json!("sendgrid");
        request["explain"] = json!(true);
        let (status, decision) = app.post("/timing/decide", &request).await;
        assert_eq!(status, StatusCode::OK, "{decision}");
        let explanation = &decision["explanation"];
        assert_eq!(explanation["mailbox_provider"], class, "{who}");
        let expected = decision["expected_latency_seconds"].as_f64().unwrap();
        assert!(seconds.contains(&expected), "{who}: {expected}");
        assert!(!explanation.to_string().contains("hotmail"), "{explanation}");
        assert_eq!(replayed(&app, &reference(&decision)).await["verdict"], "same");
    }
}

#[tokio::test]
async fn what_cannot_be_replayed_says_why() {
    let app = TestApp::start(Stores::default());
    let (_, decision) = app
        .post("/timing/decide", &json!({"email": "ann@example.com", "now": NOW}))
        .await;
    let path = format!("/explanations/{}", reference(&decision));
    let (_, stored) = app.get(&path).await;
    let keep = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut body = stored.clone();
        change(&mut body);
        let explanation = store::events::StoredExplanation {
            reference: name.to_owned(),
            universal_id: id_of("ann@example.com"),
            decided_at: now(),
            body: body.to_string(),
            trial: None,
            forecast: None,
        };
        let mut explanations = app.events.explanations.lock().unwrap();
        explanations.insert(name.to_owned(), explanation);
    };
    keep("old", &|body| {
        drop(body.as_object_mut().unwrap().remove("inputs"))
    });
    keep("gone", &|body| {
        body["evidence"]["population_version"] = json!("p1-000000000000")
    });
    keep("outside", &|body| {
        body["evidence"]["population_version"] = json!("../../etc/p1")
    });
    keep("profile", &|body| body["inputs"]["profile"] = json!("AAAA"));
    keep("week", &|body| body["inputs"]["latency_ms"] = json!([1, 2]));
    keep("by-arrival", &|body| {
        body["inputs"]["latency_ms"] = json!([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        body["latency"] = json!({"seconds": 0.001, "source": "learned", "samples": 50});
    });
    keep("echo", &|body| {
        drop(body["evidence"].as_object_mut().unwrap().remove("recent_weight"))
    });
    keep("window", &|body| body["request"]["window"]["end"] = json!(NOW));
    keep("zone", &|body| {
        body["request"]["time_zone"] = json!("Europe/Nowhere")
    });
    for (name, verdict, text) in [
        ("old", "no_inputs", "did not keep"),
        ("gone", "tables_gone", "p1-000000000000"),
        ("outside", "tables_gone", "not in use"),
        ("profile", "unreadable", "inputs.profile"),
        ("week", "unreadable", "inputs.latency_ms"),
        ("by-arrival", "no_inputs", "on when it is handed over"),
        ("echo", "no_inputs", "`recent_weight`"),
        ("window", "unreadable", "window.end"),
        ("zone", "unreadable", "time_zone"),
    ] {
        let replay = replayed(&app, name).await;
        assert_eq!(replay["verdict"], verdict, "{name}: {replay:#}");
        assert!(replay["text"].as_str().unwrap().contains(text), "{replay:#}");
    }

    let reference = reference(&decision);
    for (change, field) in [
        (json!({"trigger_at": NOW}), "trigger_at"),
        (json!({"minutes_left": 3}), "minutes_left"),
        (json!({"added": 1}), "added"),
        (json!({"why": ["Because."]}), "explanation_ref"),
    ] {
        keep(&reference, &|body| {
            let body = body.as_object_mut().unwrap();
            body.extend(change.as_object().unwrap().clone());
        });
        // The stored explanation is read only after the writers have stored the pending one.
        eventually("the changed one is read", async || {
            replayed(&app, &reference).await["verdict"] == "different"
        })
        .await;
        let replay = replayed(&app, &reference).await;
        let fields: Vec<&str> = replay["differences"]
            .as_array()
            .unwrap()
            .iter()
            .map(|difference| difference["field"].as_str().unwrap())
            .collect();
        assert_eq!(fields, [field], "{replay:#}");
    }
    let (status, refused) = app.get(&format!("{path}?replay=perhaps")).await;
    assert_eq!(
        (status, &refused["error"]["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("replay"))
    );
}

/// Stores an explanation with another content, under the reference that follows from it.
fn store_changed(app: &TestApp, reference: &str, change: impl Fn(&str) -> String) -> String {
    let mut explanations = app.events.explanations.lock().unwrap();
    let mut stored = explanations[reference].clone();
    let content = change(&stored.body).replace(reference, "");
    let digest = Sha256::digest(&content)[..16].try_into().unwrap();
    stored.reference = format!("dec_{:032x}", u128::from_be_bytes(digest));
    stored.body = content.replacen("\"\"", &format!("\"{}\"", stored.reference), 1);
    let changed = stored.reference.clone();
    explanations.insert(changed.clone(), stored);
    changed
}

#[tokio::test]
async fn a_seed_is_text_and_was_a_number() {
    let app = TestApp::start(Stores::default());
    let mut groups = std::collections::BTreeSet::new();
    for person in 0..60 {
        let question = json!({"email": format!("person{person}@example.com"), "now": NOW, "explain": true});
        let (_, decision) = app.post("/timing/decide", &question).await;
        let seed = &decision["explanation"]["inputs"]["draw"]["seed"];
        let seed = seed.as_str().unwrap();
        assert!(seed.parse::<u64>().is_ok(), "{seed}");
        let reference = reference(&decision);
        eventually("the explanation is stored", async || {
            app.events.explanations.lock().unwrap().contains_key(&reference)
        })
        .await;
        let as_text = format!("\"seed\":\"{seed}\"");
        let older = store_changed(&app, &reference, |body| {
            assert!(body.contains(&as_text), "{body}");
            body.replace(&as_text, &format!("\"seed\":{seed}"))
        });
        assert_ne!(older, reference);
        let replay = replayed(&app, &older).await;
        assert_eq!(replay["verdict"], "same", "{replay:#}");
        assert!(
            replay["text"].as_str().unwrap().contains("byte for byte"),
            "{replay:#}"
        );
        groups.insert(decision["group"].to_string());
        if groups.contains("\"control\"") && seed.len() == 20 {
            return;
        }
    }
    panic!("nobody is in the control group: {groups:?}");
}

#[tokio::test]
async fn a_version_that_says_the_same_in_other_words_comes_to_the_same() {
    let app = TestApp::start(Stores::default());
    let (_, decision) = app
        .post("/timing/decide", &json!({"email": "ann@example.com", "now": NOW}))
        .await;
    let reference = reference(&decision);
    eventually("the explanation is stored", async || {
        app.events.explanations.lock().unwrap().contains_key(&reference)
    })
    .await;
    let sentence = decision["why"][0].as_str().unwrap();
    let older = store_changed(&app, &reference, |body| {
        assert!(body.contains(sentence), "{body}");
        body.replace(sentence, "Nobody knows.")
    });

    let replay = replayed(&app, &older).await;
    assert_eq!(replay["verdict"], "same", "{replay:#}");
    let text = replay["text"].as_str().unwrap();
    assert!(text.contains("words `why` differently"), "{text}");
}
