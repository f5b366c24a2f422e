//! Without failures: from signed deliveries of every provider to exact rows and an explained decision.

use std::{collections::BTreeMap, time::SystemTime};

use event::{IdentifierKind, Timestamp, UniversalId};
use integration_tests::{eventually, named, scaled::System};
use serde_json::{Value, json};
use store::events::Events;
use synth::delivery::{Account, Action, Kind, PROVIDERS};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn deliveries_of_every_provider_become_exact_rows_and_an_explained_decision() {
    let url = |provider: &str| format!("https://hooks.example.com/webhooks/{provider}");
    let accounts: Vec<Account> = PROVIDERS
        .iter()
        .filter_map(|provider| Account::generate(provider, &url(provider)))
        .collect();
    let system = System::start(&accounts).await;
    let consumer = system.consumer().await;
    let now = Timestamp::from(SystemTime::now());
    let email = |provider: &str| format!("{provider}-{}@example.com", system.servers.mark);
    let (mut accepted, mut people) = (BTreeMap::new(), BTreeMap::new());
    for account in &accounts {
        let provider = account.provider();
        let actions =
            [(Kind::Delivered, 120), (Kind::Opened, 60), (Kind::Clicked, 30)].map(|(kind, minutes)| Action {
                kind,
                at: now.plus_millis(-minutes * 60_000),
                email: email(provider),
                message: format!("{provider}-{}", system.servers.mark),
            });
        for delivery in account.deliver(&actions, now) {
            let answer = system.deliver(provider, &delivery).await;
            assert_eq!(answer.status, 200, "{provider}: {}", answer.text);
            *accepted.entry(provider).or_insert(0) += answer.body["accepted"].as_u64().unwrap();
            people
                .entry(provider)
                .or_insert_with(|| named(account, &email(provider), &delivery));
            // Send it again, as providers do that have missed the answer.
            let again = system.deliver(provider, &delivery).await;
            assert_eq!(again.status, 200, "{provider}: {}", again.text);
        }
    }
    assert_eq!(accepted.len(), PROVIDERS.len());
    let events = system.servers.events().await;
    for (provider, accepted) in accepted {
        let identifier = &people[provider];
        let id = UniversalId::from_identifier(identifier);
        let history = async || {
            let ids = std::slice::from_ref(&id);
            events.history(ids, Timestamp::default(), 100).await.unwrap()
        };
        eventually("the events are stored", async || {
            history().await.len() as u64 >= accepted
        })
        .await;
        let history = history().await;
        assert_eq!(history.len() as u64, accepted, "{provider}");
        for stored in history {
            assert_eq!(
                (stored.event.esp.as_str(), &stored.event.universal_id),
                (provider, &id)
            );
            assert_eq!(
                stored
                    .event
                    .recipient_email_hash
                    .as_ref()
                    .map(|hash| hash.as_str()),
                (identifier.kind == IdentifierKind::EmailHash).then_some(identifier.value.as_str())
            );
        }
    }

    let question = json!({ "email": email("sendgrid"), "window_hours": 24, "esp": "sendgrid" });
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
