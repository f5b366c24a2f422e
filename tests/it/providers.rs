//! Sends a signed delivery of each provider over HTTP into the event store.

use std::{collections::BTreeMap, fs, time::SystemTime};

use event::{Event, EventType, IdentifierKind, Timestamp, UniversalId};
use integration_tests::{System, eventually, named, plugins, repository};
use serde_json::{Map, Value, json};
use synth::delivery::{ADDRESS, AGENT, Account, Action, Kind, LINK, PROVIDERS};

/// What happened, and how many minutes ago.
const ACTIONS: [(Kind, i64); 5] = [
    (Kind::Delivered, 120),
    (Kind::Opened, 60),
    (Kind::Clicked, 30),
    (Kind::Unsubscribed, 10),
    (Kind::Unknown, 5),
];

/// Providers that sign what they send. The others prove who sends it, by a password or token, except one that signs a token of
/// its own inside the body.
const SIGN_THE_BODY: [&str; 7] = [
    "customerio",
    "hubspot",
    "klaviyo",
    "mailersend",
    "mandrill",
    "resend",
    "sendgrid",
];

/// Columns for what the provider said about an event, besides type, time and person.
const SAID: [&str; 13] = [
    "provider_event_id",
    "campaign_id",
    "campaign_name",
    "message_id",
    "subject",
    "click_url",
    "bounce_type",
    "reason",
    "user_agent",
    "ip_address",
    "tags",
    "metadata",
    "is_machine",
];

fn actions(provider: &str, now: Timestamp) -> Vec<Action> {
    let action = |(kind, minutes): (Kind, i64)| Action {
        kind,
        at: now.plus_millis(-minutes * 60_000),
        email: email(provider),
        message: format!("{provider}-m"),
    };
    ACTIONS.into_iter().map(action).collect()
}

fn email(provider: &str) -> String {
    format!("{provider}@example.com")
}

/// Returns the type of event that a provider's report of this kind becomes, if it has one.
fn event_type(provider: &str, kind: Kind) -> Option<EventType> {
    match (provider, kind) {
        ("hubspot" | "mailchimp", Kind::Delivered)
        | ("mailchimp", Kind::Opened)
        | ("resend", Kind::Unsubscribed)
        | (_, Kind::Unknown) => None,
        ("iterable", Kind::Delivered) => Some(EventType::Sent),
        // It reports changes of the list's members.
        ("mailchimp", Kind::Clicked) => Some(EventType::Resubscribed),
        (_, Kind::Delivered) => Some(EventType::Delivered),
        (_, Kind::Opened) => Some(EventType::Opened),
        (_, Kind::Clicked) => Some(EventType::Clicked),
        (_, Kind::Unsubscribed) => Some(EventType::Unsubscribed),
    }
}

/// Returns what the provider says about a click.
fn click(provider: &str) -> Value {
    let message = match provider {
        "brevo" => "<brevo-m@demo>".to_owned(),
        _ => format!("{provider}-m"),
    };
    let mut click =
        json!({ "message_id": message, "click_url": LINK, "user_agent": AGENT, "ip_address": ADDRESS });
    let event = format!("{provider}-m-c");
    let more = match provider {
        "braze" => {
            json!({ "provider_event_id": event, "campaign_id": "demo", "campaign_name": "Demo", "ip_address": null })
        }
        "brevo" => json!({ "subject": "Demo", "tags": ["demo"] }),
        "customerio" => {
            json!({ "provider_event_id": event, "campaign_id": "5", "subject": "Demo", "user_agent": null,
                "ip_address": null })
        }
        // Neither message nor link.
        "hubspot" => json!({ "message_id": null, "click_url": null, "user_agent": null, "ip_address": null }),
        "iterable" => json!({ "campaign_id": "7", "campaign_name": "Demo" }),
        "klaviyo" => {
            json!({ "provider_event_id": event, "campaign_id": message, "subject": "Demo", "user_agent": null,
                "ip_address": null })
        }
        "mailersend" => {
            json!({ "provider_event_id": event, "subject": "Demo", "tags": ["demo"], "user_agent": null })
        }
        "mailgun" => {
            json!({ "provider_event_id": event, "tags": ["demo"], "metadata": { "campaign": "demo" } })
        }
        "mailjet" => json!({ "message_id": null, "campaign_id": "9", "campaign_name": "demo" }),
        "mandrill" => json!({ "subject": "Demo", "tags": ["demo"] }),
        "postmark" => json!({ "tags": ["demo"] }),
        "resend" => json!({ "subject": "Demo" }),
        "sendgrid" => json!({ "provider_event_id": event, "tags": ["demo"] }),
        "ses" => json!({ "subject": "Demo", "metadata": { "campaign": "demo" } }),
        "sparkpost" => json!({ "provider_event_id": event, "campaign_id": "demo" }),
        other => panic!("`{other}` reports no clicks"),
    };
    for (name, value) in more.as_object().into_iter().flatten() {
        click[name] = value.clone();
    }
    without_blanks(click)
}

/// Returns the columns of [`SAID`] that are not empty.
fn said(event: &Event) -> Value {
    let mut columns = serde_json::to_value(event).expect("an event becomes JSON");
    if let Some(columns) = columns.as_object_mut() {
        columns.retain(|name, _| SAID.contains(&name.as_str()));
    }
    without_blanks(columns)
}

fn without_blanks(mut columns: Value) -> Value {
    if let Some(columns) = columns.as_object_mut() {
        columns.retain(|_, value| {
            !value.is_null()
                && !value.as_array().is_some_and(Vec::is_empty)
                && !value.as_object().is_some_and(Map::is_empty)
        });
    }
    columns
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
    // Most providers report whole seconds.
    let now = Timestamp::from(SystemTime::now());
    let now = now.plus_millis(-now.as_millis().rem_euclid(1_000));
    let url = |provider: &str| format!("https://hooks.example.com/webhooks/{provider}");
    let accounts: Vec<Account> = PROVIDERS
        .iter()
        .filter_map(|provider| Account::generate(provider, &url(provider)))
        .collect();
    let system = System::start(&configuration(&accounts), &[]).await;
    let mut people = BTreeMap::new();
    let mut total = 0;
    for account in &accounts {
        let provider = account.provider();
        let (mut accepted, mut skipped) = (0, 0);
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
            accepted += answer.body["accepted"].as_u64().unwrap_or_default();
            skipped += answer.body["skipped"].as_u64().unwrap_or_default();
            people
                .entry(provider)
                .or_insert_with(|| named(account, &email(provider), &delivery));

            let mut forged = delivery.clone();
            if SIGN_THE_BODY.contains(&provider) {
                // Flip one bit of the body: in a digit, which stays a digit.
                let digit = forged.body.iter_mut().find(|byte| byte.is_ascii_digit());
                *digit.expect("there is a number in every body") ^= 1;
            } else if provider == "mailgun" {
                forged.body = String::from_utf8_lossy(&forged.body)
                    .replace("\"token\":\"", "\"token\":\"x")
                    .into_bytes();
            }
            let refused = if forged.body == delivery.body {
                // Without the password.
                forged.headers.retain(|(name, _)| name == "content-type");
                system.webhook(provider, &forged.headers, forged.body).await
            } else {
                system.webhook(&path, &forged.headers, forged.body).await
            };
            assert_eq!(refused.status, 401, "{provider}: {}", refused.text);
        }
        let reported = ACTIONS
            .iter()
            .filter(|(kind, _)| event_type(provider, *kind).is_some());
        assert_eq!((accepted, skipped), (reported.count() as u64, 1), "{provider}");
        total += accepted;
    }
    eventually("all events are stored", || async {
        system.stored_events().await == total
    })
    .await;

    let stores = system.stores().await;
    for provider in PROVIDERS {
        let identifier = &people[provider];
        let id = UniversalId::from_identifier(identifier);
        let history = stores
            .events
            .history(std::slice::from_ref(&id), Timestamp::default(), 100)
            .await
            .expect("a history");
        let stored: Vec<_> = history
            .iter()
            .map(|stored| (stored.event.event_type, stored.event.timestamp))
            .collect();
        let expected: Vec<_> = actions(provider, now)
            .into_iter()
            .filter_map(|action| Some((event_type(provider, action.kind)?, action.at)))
            .collect();
        assert_eq!(stored, expected, "{provider}");
        for stored in history {
            let event = stored.event;
            assert_eq!(
                (event.esp.as_str(), event.account.as_str()),
                (provider, "default")
            );
            assert_eq!(event.universal_id, id);
            assert!(event.identifiers.contains(identifier), "{provider}");
            let hash = event.recipient_email_hash.as_ref().map(|hash| hash.as_str());
            let address = (identifier.kind == IdentifierKind::EmailHash).then_some(identifier.value.as_str());
            assert_eq!(hash, address, "{provider}");
            assert!(
                event.plugin.starts_with(&format!("{provider}@")),
                "{}",
                event.plugin
            );
            let mut said = said(&event);
            // Ids that are random or made by a hash: it is only known that there is one.
            let unknown = match provider {
                "hubspot" | "resend" => Some("provider_event_id"),
                "mailjet" => Some("message_id"),
                _ => None,
            };
            if let Some(name) = unknown {
                let id = said.as_object_mut().and_then(|said| said.remove(name));
                assert!(id.is_some(), "{provider} gives no `{name}`");
            }
            // It reports no clicks and no messages.
            if provider == "mailchimp" {
                assert_eq!(said, json!({}));
                continue;
            }
            let click = click(provider);
            assert_eq!(said["message_id"], click["message_id"], "{provider}");
            if event.event_type == EventType::Clicked {
                assert_eq!(said, click, "{provider}");
            }
        }
    }
    stores.close().await;
}

/// The sizes in the overview's table are measured by hand. Instructions and times go with them.
#[test]
fn the_overview_tells_the_size_of_every_plugin() {
    let page = fs::read_to_string(repository().join("docs/providers.md")).expect("it is there");
    let rows: Vec<(&str, u64)> = page
        .lines()
        .filter_map(|line| {
            let (slug, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some((slug, rest.split(" | ").next()?.parse().ok()?))
        })
        .collect();
    assert_eq!(rows.len(), PROVIDERS.len());
    for (slug, documented) in rows {
        let file = plugins().join(format!("{slug}.wasm"));
        let kilobytes = fs::metadata(&file).expect("it is built").len() / 1_000;
        assert!(
            kilobytes.abs_diff(documented) * 10 <= documented,
            "docs/providers.md says that `{slug}` has {documented} kB, it has {kilobytes}: run `sendflowr plugin bench` and copy its table"
        );
    }
}

/// What callers give as `campaign_id` must be what the plugins read.
#[test]
fn the_overview_names_the_campaign_id_of_every_plugin() {
    let page = fs::read_to_string(repository().join("docs/providers.md")).expect("it is there");
    let rows = |heading: &str| {
        let (_, rest) = page.split_once(heading).expect("it has this part");
        let part = rest.split("\n## ").next().unwrap_or(rest).to_owned();
        let cells = |line: &str| {
            let (name, cell) = line.strip_prefix("| ")?.split_once(" | ")?;
            Some((name.to_owned(), cell.split(" |").next()?.to_owned()))
        };
        // Without the header.
        part.lines().filter_map(cells).skip(1).collect::<Vec<_>>()
    };
    let slugs: BTreeMap<String, String> = rows("# Providers").into_iter().collect();
    let campaign_ids = rows("## Campaign ids");
    assert_eq!(campaign_ids.len(), PROVIDERS.len());
    for (provider, told) in campaign_ids {
        let slug = slugs[&provider].trim_matches('`');
        let folder = repository().join("plugins").join(slug);
        let mut read = String::new();
        for part in ["src", "cases"] {
            for file in fs::read_dir(folder.join(part)).expect("it is there") {
                read += &fs::read_to_string(file.expect("it is listed").path()).expect("it is text");
            }
        }
        assert_eq!(told == "none", !read.contains("campaign_id:"), "{slug}: {told}");
        for field in told.split('`').skip(1).step_by(2) {
            assert!(read.contains(field), "{slug} reads no `{field}`");
        }
    }
}
