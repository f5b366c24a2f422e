//! For each provider a signed delivery over HTTP into the event store.

use std::{collections::BTreeMap, time::SystemTime};

use event::{EventType, Hasher, Timestamp, UniversalId};
use integration_tests::{System, eventually};
use serde_json::Value;
use synth::delivery::{Account, Action, Kind, PROVIDERS};

fn actions(provider: &str, now: Timestamp) -> Vec<Action> {
    [
        (Kind::Delivered, 120),
        (Kind::Opened, 60),
        (Kind::Clicked, 30),
        (Kind::Unsubscribed, 10),
        (Kind::Unknown, 5),
    ]
    .into_iter()
    .map(|(kind, minutes)| Action {
        kind,
        at: now.plus_millis(-minutes * 60_000),
        email: format!("{provider}@example.com"),
        message: format!("{provider}-m"),
    })
    .collect()
}

fn configuration(accounts: &[Account]) -> String {
    let mut configuration = String::new();
    for account in accounts {
        configuration.push_str(&format!("[accounts.{}.default]\n", account.provider()));
        for (name, value) in account.config() {
            configuration.push_str(&format!("{name} = {}\n", Value::from(value.clone())));
        }
    }
    configuration
}

#[tokio::test]
async fn signed_deliveries_of_every_provider_become_rows() {
    let now = Timestamp::from(SystemTime::now());
    let url = |provider: &str| format!("https://hooks.example.com/webhooks/{provider}");
    let accounts: Vec<Account> = PROVIDERS
        .iter()
        .filter_map(|provider| Account::generate(provider, &url(provider)))
        .collect();
    let system = System::start(&configuration(&accounts), &[]).await;
    let mut accepted = BTreeMap::new();
    for account in &accounts {
        let provider = account.provider();
        for delivery in account.deliver(&actions(provider, now), now) {
            let path = match delivery.query.is_empty() {
                true => provider.to_owned(),
                false => format!("{provider}?{}", delivery.query),
            };
            let answer = system
                .webhook(&path, &delivery.headers, delivery.body.clone())
                .await;
            assert_eq!(answer.status, 200, "{provider}: {}", answer.text);
            assert_eq!(answer.body["rejected"], 0, "{provider}: {}", answer.text);
            *accepted.entry(provider).or_insert(0) += answer.body["accepted"].as_u64().unwrap_or_default();

            // One bit of the body turned: refused, for every provider that signs the body.
            let mut tampered = delivery.clone();
            tampered.headers.retain(|(name, _)| name == "content-type");
            let path = provider.to_owned();
            let signs_inside = provider == "mailgun";
            if signs_inside {
                tampered.body = String::from_utf8_lossy(&tampered.body)
                    .replace("\"token\":\"", "\"token\":\"x")
                    .into_bytes();
            }
            let refused = system.webhook(&path, &tampered.headers, tampered.body).await;
            assert_eq!(refused.status, 401, "{provider}: {}", refused.text);
        }
    }
    assert!(accepted.values().all(|events| *events >= 1), "{accepted:?}");
    let total: u64 = accepted.values().sum();
    eventually("all events are stored", || async {
        system.stored_events().await == total
    })
    .await;

    let stores = system.stores().await;
    for provider in PROVIDERS {
        // One provider names contacts, not addresses.
        if provider == "hubspot" {
            continue;
        }
        let identifier = Hasher::new()
            .email_identifier(&format!("{provider}@example.com"))
            .expect("an address");
        let id = UniversalId::from_identifier(&identifier);
        let history = stores
            .events
            .history(std::slice::from_ref(&id), Timestamp::default(), 100)
            .await
            .expect("a history");
        assert_eq!(history.len() as u64, accepted[provider], "{provider}");
        for stored in history {
            let event = stored.event;
            assert_eq!(
                (event.esp.as_str(), event.account.as_str()),
                (provider, "default")
            );
            assert_eq!(event.universal_id, id);
            assert_eq!(
                event.recipient_email_hash.as_ref().map(|hash| hash.as_str()),
                Some(identifier.value.as_str())
            );
            assert!(
                event.timestamp <= now && now.millis_since(event.timestamp) <= 121 * 60_000,
                "{provider}"
            );
            assert!(
                event.plugin.starts_with(&format!("{provider}@")),
                "{}",
                event.plugin
            );
            if event.event_type == EventType::Clicked {
                assert_eq!(
                    event.click_url.as_deref(),
                    Some("https://shop.example.com/offer"),
                    "{provider}"
                );
            }
        }
    }
    stores.close().await;
}
