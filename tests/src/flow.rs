//! Sends signed deliveries of every provider, and compares the rows that come of them: the same on the embedded engines and on
//! the servers.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{collections::BTreeMap, time::SystemTime};

use event::{Event, EventType, Identifier, IdentifierKind, Timestamp, TraceContext, UniversalId};
use serde_json::{Map, Value, json};
use store::events::{Events, StoredEvent};
use synth::delivery::{ADDRESS, AGENT, Account, Action, Delivery, Kind, LINK, PROVIDERS};

use crate::{Answer, eventually, named};

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

/// A person at each provider, to whom a mail is sent that they answer.
pub struct Flow {
    /// The providers' accounts.
    pub accounts: Vec<Account>,
    mark: String,
    now: Timestamp,
    people: BTreeMap<&'static str, Identifier>,
}

impl Flow {
    /// Creates the accounts. The mark is part of the names of people and messages.
    pub fn new(mark: &str) -> Self {
        let url = |provider: &str| format!("https://hooks.example.com/webhooks/{provider}");
        // Most providers report whole seconds.
        let now = Timestamp::from(SystemTime::now());
        Self {
            accounts: PROVIDERS
                .iter()
                .filter_map(|provider| Account::generate(provider, &url(provider)))
                .collect(),
            mark: mark.to_owned(),
            now: now.plus_millis(-now.as_millis().rem_euclid(1_000)),
            people: BTreeMap::new(),
        }
    }

    /// Returns the address of the provider's person.
    pub fn email(&self, provider: &str) -> String {
        format!("{provider}-{}@example.com", self.mark)
    }

    fn message(&self, provider: &str) -> String {
        format!("{provider}-{}", self.mark)
    }

    fn actions(&self, provider: &str) -> Vec<Action> {
        let action = |(kind, minutes): (Kind, i64)| Action {
            kind,
            at: self.now.plus_millis(-minutes * 60_000),
            email: self.email(provider),
            message: self.message(provider),
        };
        ACTIONS.into_iter().map(action).collect()
    }

    /// Sends every provider's delivery, forged once and genuine twice, as providers do that have missed the answer. Only the
    /// genuine ones are accepted. Returns the number of events in them.
    pub async fn deliver(&mut self, send: impl AsyncFn(&str, &Delivery) -> Answer) -> u64 {
        let mut total = 0;
        for account in &self.accounts {
            let provider = account.provider();
            let (mut accepted, mut skipped) = (0, 0);
            for mut delivery in account.deliver(&self.actions(provider), self.now) {
                let forged = send(provider, &forged(provider, &delivery)).await;
                assert_eq!(forged.status, 401, "{provider}: {}", forged.text);

                delivery.headers.push(("traceparent".to_owned(), trace(provider)));
                let answer = send(provider, &delivery).await;
                assert_eq!(answer.status, 200, "{provider}: {}", answer.text);
                assert_eq!(answer.body["rejected"], 0, "{provider}: {}", answer.text);
                accepted += answer.body["accepted"].as_u64().unwrap_or_default();
                skipped += answer.body["skipped"].as_u64().unwrap_or_default();
                let again = send(provider, &delivery).await;
                assert_eq!(again.status, 200, "{provider}: {}", again.text);
                self.people.entry(provider).or_insert_with(|| {
                    named(
                        account,
                        &format!("{provider}-{}@example.com", self.mark),
                        &delivery,
                    )
                });
            }
            let reported = ACTIONS
                .iter()
                .filter(|(kind, _)| event_type(provider, *kind).is_some());
            assert_eq!((accepted, skipped), (reported.count() as u64, 1), "{provider}");
            total += accepted;
        }
        total
    }

    /// Waits for the rows of all deliveries, and compares every column that a delivery determines.
    pub async fn compare(&self, events: &dyn Events) {
        for provider in PROVIDERS {
            let expected: Vec<_> = self
                .actions(provider)
                .into_iter()
                .filter_map(|action| Some((event_type(provider, action.kind)?, action.at)))
                .collect();
            let id = UniversalId::from_identifier(&self.people[provider]);
            let history = async || {
                let ids = std::slice::from_ref(&id);
                events.history(ids, Timestamp::default(), 100).await.unwrap()
            };
            eventually("the events are stored", async || {
                history().await.len() >= expected.len()
            })
            .await;
            let history = history().await;
            let stored: Vec<_> = history
                .iter()
                .map(|stored| (stored.event.event_type, stored.event.timestamp))
                .collect();
            assert_eq!(stored, expected, "{provider}");
            for stored in &history {
                self.compare_row(provider, stored);
            }
        }
    }

    fn compare_row(&self, provider: &str, stored: &StoredEvent) {
        let identifier = &self.people[provider];
        let event = &stored.event;
        assert_eq!(
            (event.esp.as_str(), event.account.as_str()),
            (provider, "default")
        );
        assert_eq!(event.universal_id, UniversalId::from_identifier(identifier));
        assert!(event.identifiers.contains(identifier), "{provider}");
        let hash = event.recipient_email_hash.as_ref().map(|hash| hash.as_str());
        let address = (identifier.kind == IdentifierKind::EmailHash).then_some(identifier.value.as_str());
        assert_eq!(hash, address, "{provider}");
        assert!(
            event.plugin.starts_with(&format!("{provider}@")),
            "{}",
            event.plugin
        );
        let caller: TraceContext = trace(provider).parse().unwrap();
        assert_eq!(stored.enrichment.trace_id, Some(caller.trace_id()), "{provider}");
        let mut said = said(event);
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
            return;
        }
        let click = click(provider, &self.message(provider));
        assert_eq!(said["message_id"], click["message_id"], "{provider}");
        if event.event_type == EventType::Clicked {
            assert_eq!(said, click, "{provider}");
        }
    }
}

/// Returns the `traceparent` of the provider's requests, in each a trace of its own.
fn trace(provider: &str) -> String {
    let number = PROVIDERS.iter().position(|known| *known == provider).unwrap();
    format!("00-4bf92f3577b34da6a3ce929d0e0e47{number:02x}-00f067aa0ba902b7-01")
}

/// Returns the delivery as somebody would send it who does not have the account's secret.
fn forged(provider: &str, delivery: &Delivery) -> Delivery {
    let mut forged = delivery.clone();
    if SIGN_THE_BODY.contains(&provider) {
        // Flip one bit of the body: in a digit, which stays a digit.
        let digit = forged.body.iter_mut().find(|byte| byte.is_ascii_digit());
        *digit.expect("there is a number in every body") ^= 1;
    } else if provider == "mailgun" {
        forged.body = String::from_utf8_lossy(&forged.body)
            .replace("\"token\":\"", "\"token\":\"x")
            .into_bytes();
    } else {
        // Without the password.
        forged.headers.retain(|(name, _)| name == "content-type");
        forged.query.clear();
    }
    forged
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

/// Returns what the provider says about a click in this message.
fn click(provider: &str, message: &str) -> Value {
    let event = format!("{message}-c");
    let message = match provider {
        "brevo" => format!("<{message}@demo>"),
        _ => message.to_owned(),
    };
    let mut click =
        json!({ "message_id": message, "click_url": LINK, "user_agent": AGENT, "ip_address": ADDRESS });
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
