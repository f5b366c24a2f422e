//! The control group: from decisions and what people did to the comparison.

use std::time::SystemTime;

use axum::http::StatusCode;
use event::{EventType, Timestamp, grid::DAY_MS};
use sendflowr_inference::{InferenceConfig, RawInferenceConfig};
use serde_json::{Value, json};
use store::testing::eventually;

use crate::{
    NOW, TestApp,
    fakes::{Stores, event},
};

/// Enough people that no group is empty by chance.
const PEOPLE: usize = 400;

fn email(number: usize) -> String {
    format!("person{number}@example.com")
}

async fn decide(app: &TestApp, question: &Value) -> Value {
    let (status, decision) = app.post("/timing/decide", question).await;
    assert_eq!(status, StatusCode::OK, "{decision}");
    decision
}

/// Returns the comparison once all decisions are three days old. `asked` decisions were made; `decisions` of them
/// count.
async fn lift(app: &TestApp, asked: usize, decisions: u64) -> Value {
    eventually("all are stored", async || {
        app.events.explanations.lock().unwrap().len() == asked
    })
    .await;
    let earlier = |moment: &mut Timestamp| *moment = moment.plus_millis(-3 * DAY_MS);
    for explanation in app.events.explanations.lock().unwrap().values_mut() {
        earlier(&mut explanation.decided_at);
        if let Some(trial) = &mut explanation.trial {
            earlier(&mut trial.target_at);
            earlier(&mut trial.model_at);
        }
    }
    for stored in app.events.stored.lock().unwrap().iter_mut() {
        earlier(&mut stored.event.timestamp);
    }
    let (status, lift) = app.get("/lift").await;
    assert_eq!(status, StatusCode::OK, "{lift}");
    let of = |group: &str| lift[group]["decisions"].as_u64().unwrap();
    assert_eq!(
        of("treated") + of("control") + of("exploration"),
        decisions,
        "{lift}"
    );
    lift
}

#[tokio::test]
async fn chosen_times_are_compared_with_random_ones() {
    let app = TestApp::start(Stores::default());
    let mut groups = std::collections::BTreeMap::new();
    for number in 0..PEOPLE {
        let decision = decide(&app, &json!({"email": email(number), "explain": true})).await;
        let group = decision["group"].as_str().unwrap().to_owned();
        let experiment = &decision["explanation"]["experiment"];
        assert_eq!(experiment["group"], group.as_str());
        let propensity = experiment["propensity"].as_f64().unwrap();
        assert!(propensity > 0.0 && propensity <= 1.0);
        let why = decision["why"][0].as_str().unwrap();
        assert_eq!(why.contains("control group"), group == "control", "{why}");
        assert_eq!(why.contains("explore"), group == "exploration", "{why}");

        // Everybody gets the mail; those in the treated group answer.
        let arrive_at: Timestamp = decision["arrive_at"].as_str().unwrap().parse().unwrap();
        app.store_event(event(&email(number), EventType::Delivered, arrive_at));
        if group == "treated" {
            app.store_event(event(
                &email(number),
                EventType::Clicked,
                arrive_at.plus_millis(60_000),
            ));
        }
        *groups.entry(group).or_insert(0_u64) += 1;
    }
    let lift = lift(&app, PEOPLE, PEOPLE as u64).await;
    for (group, count) in &groups {
        assert_eq!(lift[group]["mails"], *count, "{group}");
        assert_eq!(lift[group]["people"], *count, "{group}");
    }
    assert!(groups["control"] > 15 && groups["control"] < 70, "{groups:?}");
    assert_eq!(lift["treated"]["answered"], groups["treated"]);
    assert_eq!(lift["control"]["answered"], 0);
    assert_eq!(lift["difference"]["value"], 1.0);
    assert!(lift["model"]["snips"]["value"].as_f64().unwrap() > 0.8);
    // A difference is only reported if each group has at least ten answers.
    assert_eq!(lift["verdict"]["code"], "not_enough_data");
}

#[tokio::test]
async fn decisions_whose_mail_came_under_another_campaign_are_counted() {
    let app = TestApp::start(Stores::default());
    let of_nobody: &[Option<&str>] = &[];
    let mails = [
        (1, &[Some("77")] as &[_]),
        (2, &[Some("77"), Some("78")]),
        (3, &[Some("77"), Some("spring")]),
        (4, &[Some("77"), None]),
        (5, of_nobody),
    ];
    for (number, campaigns) in mails {
        let decision = decide(&app, &json!({"email": email(number), "campaign_id": "spring"})).await;
        let arrive_at: Timestamp = decision["arrive_at"].as_str().unwrap().parse().unwrap();
        for campaign in campaigns {
            let mut mail = event(&email(number), EventType::Delivered, arrive_at);
            mail.campaign_id = campaign.map(str::to_owned);
            app.store_event(mail);
        }
    }
    let lift = lift(&app, 5, 5).await;
    let mails = |group: &str| lift[group]["mails"].as_u64().unwrap();
    assert_eq!(
        mails("treated") + mails("control") + mails("exploration"),
        2,
        "{lift}"
    );
    assert_eq!(lift["under_another_campaign"], 2, "{lift}");
}

#[tokio::test]
async fn who_wants_the_models_choice_gets_it_and_is_not_counted() {
    let app = TestApp::start(Stores::default());
    for number in 0..100 {
        let decision = decide(
            &app,
            &json!({"email": email(number), "experiment": false, "explain": true}),
        )
        .await;
        assert_eq!(
            (&decision["group"], &decision["explanation"]["experiment"]),
            (&Value::Null, &Value::Null)
        );
    }
    // A decision about another moment than now is a test or a replay: it takes part but does not count.
    let told = decide(&app, &json!({"email": email(1), "now": NOW, "explain": true})).await;
    assert_eq!(told["explanation"]["experiment"]["counted"], false);
    decide(&app, &json!({"email": email(1)})).await;
    lift(&app, 102, 1).await;
}

#[tokio::test]
async fn mail_with_a_deadline_waits_for_no_experiment() {
    let app = TestApp::start(Stores::default());
    let clock = Timestamp::from(SystemTime::now());
    for number in 0..100 {
        let question = json!({"email": email(number), "deadline": clock.plus_millis(DAY_MS / 2).to_string(), "explain": true});
        let decision = decide(&app, &question).await;
        assert_eq!(
            (&decision["group"], &decision["explanation"]["experiment"]),
            (&Value::Null, &Value::Null)
        );
    }
    decide(&app, &json!({"email": email(1)})).await;
    lift(&app, 101, 1).await;
}

#[tokio::test]
async fn no_decision_is_over_before_its_time() {
    let app = TestApp::start(Stores::default());
    decide(&app, &json!({"email": email(1)})).await;
    let next_week = Timestamp::from(SystemTime::now()).plus_millis(7 * DAY_MS);
    eventually("the decision is stored", async || {
        let (_, lift) = app.get(&format!("/lift?until={next_week}")).await;
        assert_eq!(lift["treated"]["decisions"], 0, "{lift}");
        assert_eq!(lift["control"]["decisions"], 0, "{lift}");
        assert!(lift["until"].as_str().unwrap() < next_week.to_string().as_str());
        lift["pending"] == 1
    })
    .await;
}

#[tokio::test]
async fn one_setting_switches_it_off() {
    let raw: RawInferenceConfig = serde_json::from_value(json!({"experiment": {"enabled": false}})).unwrap();
    let app = TestApp::start_with(Stores::default(), &InferenceConfig::try_from(raw).unwrap());
    for number in 0..100 {
        let decision = decide(&app, &json!({"email": email(number)})).await;
        assert_eq!(decision["group"], Value::Null);
    }
    let share = json!({"experiment": {"control_share": 0.6}});
    let raw: RawInferenceConfig = serde_json::from_value(share).unwrap();
    let error = InferenceConfig::try_from(raw).unwrap_err().to_string();
    assert!(error.contains("experiment.control_share"), "{error}");
}

#[tokio::test]
async fn decisions_are_compared_as_far_back_as_they_are_kept() {
    let app = TestApp::start(Stores::default());
    let clock = Timestamp::from(SystemTime::now());
    let ago = |days: i64| clock.plus_millis(-days * DAY_MS);
    // The service reads its clock a little later.
    let (status, lift) = app.get(&format!("/lift?since={}", ago(90))).await;
    assert_eq!(status, StatusCode::OK, "{lift}");
    // Four weeks before it, decisions are gone: those that are left are compared.
    let (status, lift) = app.get(&format!("/lift?until={}", ago(70))).await;
    assert_eq!(status, StatusCode::OK, "{lift}");
    let since: Timestamp = lift["since"].as_str().unwrap().parse().unwrap();
    let days = ago(70).millis_since(since) as f64 / DAY_MS as f64;
    assert!((19.9..=20.0).contains(&days), "{days}");
}

#[tokio::test]
async fn questions_that_make_no_sense_are_refused() {
    let app = TestApp::start(Stores::default());
    for (query, field) in [
        ("since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z", "since"),
        ("since=1999-01-01T00:00:00Z", "since"),
        // Gone, although it is near `until`.
        ("since=2020-01-01T00:00:00Z&until=2020-01-08T00:00:00Z", "since"),
        ("until=2020-01-08T00:00:00Z", "until"),
        ("since=yesterday", "since"),
        ("from=2026-01-01T00:00:00Z", "from"),
    ] {
        let (status, answer) = app.get(&format!("/lift?{query}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{query}: {answer}");
        assert_eq!(answer["error"]["field"], field, "{query}: {answer}");
    }
}
