//! Compares events with what a case expects.

use sendflowr_plugin_sdk::{BounceType, Event, EventType, IdentifierKind, Outcome};
use serde_json::{Map, Value, json};

use crate::case::Case;

/// Returns the differences between the outcome and what the case expects.
pub(crate) fn differences(case: &Case, slug: &str, outcome: Outcome) -> Vec<String> {
    let mut differences = Vec::new();
    let (events, unused) = match outcome {
        Outcome::Events(batch) => (batch.events, batch.skipped.len() + batch.rejected.len()),
        Outcome::Reply(_) | Outcome::Confirm(_) => (Vec::new(), 0),
    };
    if let Some(expected) = case.skipped
        && expected != unused
    {
        differences.push(format!(
            "expected {expected} elements without an event, got {unused}"
        ));
    }
    let Some(expected) = &case.events else {
        return differences;
    };
    if events.len() != expected.len() {
        differences.push(format!(
            "expected {} events, got {}",
            expected.len(),
            events.len()
        ));
    }
    for (position, (event, expected)) in events.iter().zip(expected).enumerate() {
        let actual = canonical(slug, event);
        for (field, expected) in expected.as_object().into_iter().flatten() {
            let actual = actual.get(field);
            if !fits(field, expected, actual) {
                let actual = actual.map_or("no such field".to_owned(), Value::to_string);
                differences.push(format!(
                    "event {position}, `{field}`: expected {expected}, got {actual}"
                ));
            }
        }
    }
    differences
}

/// Checks whether a field of an event, if there is one with this name, is what a case expects. The host compares in the same way:
/// one table tests both.
pub(crate) fn fits(field: &str, expected: &Value, actual: Option<&Value>) -> bool {
    let Some(actual) = actual else {
        return false;
    };
    if expected.is_null() {
        return actual.is_null()
            || actual.as_array().is_some_and(Vec::is_empty)
            || actual.as_object().is_some_and(Map::is_empty);
    }
    match (field, expected, actual) {
        ("timestamp" | "sent_at", Value::String(expected), Value::String(actual)) => {
            let expected = expected.parse::<jiff::Timestamp>();
            expected.is_ok() && expected.ok() == actual.parse().ok()
        }
        // The order of a person's identities has no meaning.
        ("identifiers", Value::Array(expected), Value::Array(actual)) => {
            let sorted = |values: &[Value]| {
                let mut texts: Vec<String> = values.iter().map(Value::to_string).collect();
                texts.sort();
                texts
            };
            sorted(expected) == sorted(actual)
        }
        _ => expected == actual,
    }
}

/// Returns the event under the canonical names.
fn canonical(slug: &str, event: &Event) -> Value {
    let time = |ms| {
        jiff::Timestamp::from_millisecond(ms)
            .map(|at| at.to_string())
            .ok()
    };
    let identifiers: Vec<_> = event
        .identifiers
        .iter()
        .map(|identifier| json!({ "kind": identifier_kind(identifier.kind), "value": identifier.value }))
        .collect();
    let metadata: Map<_, _> = event
        .metadata
        .iter()
        .map(|pair| (pair.name.clone(), Value::from(pair.value.clone())))
        .collect();
    let bounce_type = event.bounce_type.map(|bounce_type| match bounce_type {
        BounceType::Hard => "hard",
        BounceType::Soft => "soft",
    });
    json!({
        "event_type": event_type(event.event_type),
        "timestamp": time(event.timestamp_ms),
        "esp": slug,
        "provider_event_id": event.provider_event_id,
        "recipient_email": event.recipient_email,
        "identifiers": identifiers,
        "campaign_id": event.campaign_id,
        "campaign_name": event.campaign_name,
        "message_id": event.message_id,
        "subject": event.subject,
        "click_url": event.click_url,
        "user_agent": event.user_agent,
        "ip_address": event.ip_address,
        "bounce_type": bounce_type,
        "reason": event.reason,
        "tags": event.tags,
        "metadata": metadata,
        "is_machine": event.is_machine,
        "sent_at": event.sent_at_ms.and_then(time),
    })
}

fn event_type(event_type: EventType) -> &'static str {
    match event_type {
        EventType::Sent => "sent",
        EventType::Delivered => "delivered",
        EventType::Deferred => "deferred",
        EventType::Bounced => "bounced",
        EventType::Rejected => "rejected",
        EventType::Opened => "opened",
        EventType::Clicked => "clicked",
        EventType::Unsubscribed => "unsubscribed",
        EventType::Resubscribed => "resubscribed",
        EventType::MarkedSpam => "marked_spam",
        EventType::Replied => "replied",
        EventType::Converted => "converted",
        EventType::SiteVisit => "site_visit",
        EventType::ProductView => "product_view",
        EventType::SmsClick => "sms_click",
        EventType::PushClick => "push_click",
        EventType::SupportTicket => "support_ticket",
    }
}

fn identifier_kind(kind: IdentifierKind) -> &'static str {
    match kind {
        IdentifierKind::PhoneNumber => "phone_number",
        IdentifierKind::KlaviyoId => "klaviyo_id",
        IdentifierKind::EspUserId => "esp_user_id",
        IdentifierKind::ShopifyCustomerId => "shopify_customer_id",
        IdentifierKind::ExternalId => "external_id",
    }
}
