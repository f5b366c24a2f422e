//! Without failures: from signed deliveries of every provider to exact rows and an explained decision.

use integration_tests::{
    eventually,
    flow::Flow,
    scaled::{Servers, System},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn deliveries_of_every_provider_become_exact_rows_and_an_explained_decision() {
    let servers = Servers::take().await;
    let mut flow = Flow::new(&servers.mark);
    let system = System::start_on(servers, &flow.accounts, "").await;
    let consumer = system.consumer().await;
    flow.deliver(async |provider, delivery| system.deliver(provider, delivery).await)
        .await;
    flow.compare(&system.servers.events().await).await;
    let email = |provider: &str| flow.email(provider);

    // Its person has not unsubscribed.
    let question = json!({ "email": email("resend"), "window_hours": 24, "esp": "resend" });
    let decision = || system.ask("/timing/decide", &question);
    eventually("the click shows in decisions", async || {
        decision().await.body["evidence"]["n"]
            .as_f64()
            .unwrap_or_default()
            >= 1.0
    })
    .await;
    let decision = decision().await;
    assert_eq!(
        decision.body["evidence"]["profile_source"], "stored",
        "{}",
        decision.text
    );
    let reference = decision.body["explanation_ref"].as_str().unwrap();
    let explanation = system
        .get(&system.inference, &format!("/explanations/{reference}"))
        .await;
    assert_eq!(explanation.status, 200, "{}", explanation.text);
    assert_eq!(
        explanation.body["explanation_ref"],
        decision.body["explanation_ref"]
    );
    let person = system
        .ask("/resolve-identity", &json!({ "email": email("sendgrid") }))
        .await;
    assert_eq!(person.status, 200, "{}", person.text);

    // Another name that a provider has for a person is an id too, but has no events of its own: it is not
    // searched.
    let question = json!({ "email": email("klaviyo") });
    eventually("the person has another id", async || {
        let person = system.ask("/resolve-identity", &question).await;
        person.body["aliases"]
            .as_array()
            .is_some_and(|aliases| !aliases.is_empty())
    })
    .await;
    // Longer than the week for which an unsubscription counts.
    let question = json!({ "email": email("klaviyo"), "window_hours": 240 });
    let decision = system.ask("/timing/decide", &question).await;
    assert_eq!(
        decision.body["evidence"]["profile_source"], "stored",
        "{}",
        decision.text
    );

    for (role, dependencies) in [(&system.host, 3), (&consumer, 4), (&system.inference, 3)] {
        let ready = system.get(role, "/ready").await;
        assert_eq!(
            (ready.status, &ready.body["status"]),
            (200, &json!("ready")),
            "{}",
            ready.text
        );
        let told = ready.body["dependencies"].as_object().unwrap();
        assert_eq!(told.len(), dependencies, "{}", ready.text);
        assert!(
            told.values().all(|dependency| dependency["latency_ms"].is_f64()),
            "{}",
            ready.text
        );
        assert_eq!(system.get(role, "/health").await.status, 200);
    }
    for group in ["sendflowr-events", "sendflowr-identity"] {
        eventually("the lag is reported as zero", async || {
            let lag = format!("sendflowr_consumer_lag_records{{group=\"{group}\"}}");
            system.metric(&consumer, &lag).await == Some(0.0)
        })
        .await;
    }

    // All that is stored about a person can be exported and erased.
    let person = |what: &[&str]| {
        let told = system.run(&[&["person"], what].concat());
        let told: Value = serde_json::from_str(&told).unwrap();
        told
    };
    let address = email("klaviyo");
    let exported = person(&["export", "--email", &address]);
    assert!(exported["profile"]["mails"].is_array(), "{exported}");
    let counts = ["events", "explanations", "identifiers", "identity_log"].map(|part| {
        let count = exported[part].as_array().map(Vec::len).unwrap_or_default();
        assert_ne!(count, 0, "{part}: {exported}");
        count
    });
    let erased = person(&["erase", "--email", &address, "--format", "json"])["erased"].clone();
    let [events, explanations, identifiers, identity_log] = counts;
    assert_eq!(
        erased,
        json!({
            "events": events, "explanations": explanations, "profiles": erased["profiles"], "identifiers": identifiers,
            "identity_log": identity_log,
        })
    );
    assert_ne!(erased["profiles"], 0);
    let known = system
        .ask("/resolve-identity", &json!({ "email": address }))
        .await;
    assert_eq!(known.body["known"], false, "{}", known.text);
    let others = person(&["export", "--email", &email("sendgrid")]);
    assert!(
        others["events"]
            .as_array()
            .is_some_and(|events| !events.is_empty())
    );
    system.until_committed(&consumer).await;
    system.clean().await;
}
