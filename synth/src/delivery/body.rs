//! The providers' formats: one element for each action, and how elements are combined into a body.

use event::Timestamp;
use serde_json::{Value, json};

use super::{Action, Kind};

/// A body that is not signed yet.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: &'static str,
    /// Decoded form fields, for the provider that signs these.
    pub(super) fields: Vec<(&'static str, String)>,
    /// Number of actions that it reports.
    pub(super) actions: usize,
}

/// The user agent of everybody who opens or clicks.
pub const AGENT: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15";
/// The network address of everybody who opens or clicks, from the block reserved for documentation (RFC 5737).
pub const ADDRESS: &str = "203.0.113.24";
/// The link that everybody clicks.
pub const LINK: &str = "https://shop.example.com/offer";

/// Returns the bodies in which `provider` reports `actions`.
pub(super) fn bodies(provider: &str, actions: &[Action], now: Timestamp) -> Vec<Body> {
    let elements: Vec<Value> = actions
        .iter()
        .filter_map(|action| element(provider, action))
        .collect();
    if elements.is_empty() {
        return Vec::new();
    }
    let count = elements.len();
    match provider {
        "sendgrid" | "sparkpost" | "hubspot" | "brevo" | "mailjet" => {
            vec![json_body(&Value::from(elements), count)]
        }
        "braze" => vec![json_body(&json!({ "events": elements }), count)],
        "klaviyo" => {
            let meta = json!({ "klaviyo_webhook_id": "demo-webhook", "klaviyo_account_id": "DEMO01",
                "timestamp": now.to_string(), "version": "2024-10-15" });
            vec![json_body(&json!({ "data": elements, "meta": meta }), count)]
        }
        "mandrill" => vec![form_body(
            vec![("mandrill_events", Value::from(elements).to_string())],
            count,
        )],
        "mailchimp" => elements
            .iter()
            .map(|element| form_body(flat_fields(element), 1))
            .collect(),
        _ => elements.iter().map(|element| json_body(element, 1)).collect(),
    }
}

fn json_body(value: &Value, actions: usize) -> Body {
    Body {
        bytes: value.to_string().into_bytes(),
        content_type: "application/json",
        fields: Vec::new(),
        actions,
    }
}

fn form_body(fields: Vec<(&'static str, String)>, actions: usize) -> Body {
    let encoded: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{}={}", form_encode(name), form_encode(value)))
        .collect();
    Body {
        bytes: encoded.join("&").into_bytes(),
        content_type: "application/x-www-form-urlencoded",
        fields,
        actions,
    }
}

fn form_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                encoded.push(char::from(byte))
            }
            b' ' => encoded.push('+'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Returns the form fields of Mailchimp's element, which is represented as an object with the names of the form.
fn flat_fields(element: &Value) -> Vec<(&'static str, String)> {
    let names = [
        "type",
        "fired_at",
        "data[email]",
        "data[id]",
        "data[list_id]",
        "data[reason]",
        "data[action]",
    ];
    names
        .into_iter()
        .filter_map(|name| Some((name, element.get(name)?.as_str()?.to_owned())))
        .collect()
}

/// Returns one action in the provider's format, or `None` if the provider has no event for it.
fn element(provider: &str, action: &Action) -> Option<Value> {
    let Action {
        kind,
        at,
        email,
        message,
    } = action;
    let seconds = at.as_seconds();
    let id = format!("{message}-{}", name(*kind, ["d", "o", "c", "u", "x"])?);
    let pick = |names: [&'static str; 5]| name(*kind, names);
    Some(match provider {
        "sendgrid" => {
            let mut element = json!({ "email": email, "timestamp": seconds, "sg_event_id": id, "sg_message_id": message,
                "event": pick(["delivered", "open", "click", "unsubscribe", "teleported"])?, "category": ["demo"] });
            if *kind == Kind::Delivered {
                element["latency_seconds"] = json!("12");
            } else {
                element["useragent"] = json!(AGENT);
                element["ip"] = json!(ADDRESS);
            }
            if *kind == Kind::Clicked {
                element["url"] = json!(LINK);
            }
            element
        }
        "mailgun" => {
            json!({ "event-data": { "event": pick(["delivered", "opened", "clicked", "unsubscribed", "stored"])?,
            "id": id, "timestamp": seconds, "recipient": email, "url": LINK, "ip": ADDRESS,
            "client-info": { "user-agent": AGENT }, "message": { "headers": { "message-id": message } },
            "user-variables": { "campaign": "demo" }, "tags": ["demo"] } })
        }
        "klaviyo" => {
            let topic = pick([
                "received_email",
                "opened_email",
                "clicked_email",
                "unsubscribed_from_email_marketing",
                "ate_lunch",
            ])?;
            json!({ "external_id": id, "topic": format!("event:klaviyo.{topic}"), "payload": { "data": {
                "type": "event", "id": id,
                "attributes": { "timestamp": seconds, "datetime": at.to_string(), "event_properties": {
                    "$message": message, "Subject": "Demo", "URL": LINK, "Recipient Email Address": email } },
                "relationships": { "profile": { "data": { "type": "profile", "id": format!("01DEMO{message}") } } } } } })
        }
        "postmark" => {
            let time = pick([
                "DeliveredAt",
                "ReceivedAt",
                "ReceivedAt",
                "ChangedAt",
                "ReceivedAt",
            ])?;
            json!({ "RecordType": pick(["Delivery", "Open", "Click", "SubscriptionChange", "Inbound"])?, "MessageID": message,
                "Recipient": email, time: at.to_string(), "Tag": "demo", "OriginalLink": LINK, "UserAgent": AGENT,
                "Geo": { "IP": ADDRESS }, "SuppressSending": true, "SuppressionReason": "ManualSuppression" })
        }
        "mandrill" => {
            json!({ "event": pick(["delivered", "open", "click", "unsub", "inbound"])?, "ts": seconds, "_id": message,
            "url": LINK, "ip": ADDRESS, "user_agent": AGENT,
            "msg": { "_id": message, "ts": seconds, "email": email, "subject": "Demo", "tags": ["demo"], "metadata": [] } })
        }
        "ses" => {
            let part = pick(["delivery", "open", "click", "subscription", "received"])?;
            json!({ "eventType": pick(["Delivery", "Open", "Click", "Subscription", "Received"])?,
                "mail": { "timestamp": at.to_string(), "messageId": message, "destination": [email],
                    "commonHeaders": { "subject": "Demo" }, "tags": { "campaign": ["demo"] } },
                part: { "timestamp": at.to_string(), "recipients": [email], "link": LINK, "ipAddress": ADDRESS,
                    "userAgent": AGENT, "oldTopicPreferences": { "unsubscribeAll": false },
                    "newTopicPreferences": { "unsubscribeAll": true } } })
        }
        "sparkpost" => {
            let class = pick([
                "message_event",
                "track_event",
                "track_event",
                "unsubscribe_event",
                "relay_event",
            ])?;
            json!({ "msys": { class: {
                "type": pick(["delivery", "open", "click", "list_unsubscribe", "relay_delivery"])?, "event_id": id,
                "timestamp": seconds.to_string(), "raw_rcpt_to": email, "message_id": message, "campaign_id": "demo",
                "target_link_url": LINK, "ip_address": ADDRESS, "user_agent": AGENT } } })
        }
        "mailchimp" => {
            let fired = at.to_string().replace('T', " ");
            json!({ "type": name(*kind, ["", "", "subscribe", "unsubscribe", "profile"])?, "fired_at": fired[..19],
                "data[email]": email, "data[id]": message, "data[list_id]": "demo", "data[reason]": "manual",
                "data[action]": "unsub" })
        }
        "braze" => {
            let kind = pick(["Delivery", "Open", "Click", "Unsubscribe", "Retry"])?;
            json!({ "event_type": format!("users.messages.email.{kind}"), "id": id, "time": seconds,
                "user": { "user_id": format!("braze-{message}"), "external_user_id": format!("customer-{message}") },
                "properties": { "email_address": email, "campaign_id": "demo", "campaign_name": "Demo",
                    "dispatch_id": message, "url": LINK, "user_agent": AGENT } })
        }
        "customerio" => json!({ "event_id": id, "object_type": "email", "timestamp": seconds,
            "metric": pick(["delivered", "opened", "clicked", "unsubscribed", "drafted"])?,
            "data": { "delivery_id": message, "campaign_id": 5, "recipient": email, "subject": "Demo", "href": LINK,
                "identifiers": { "id": format!("customer-{message}"), "email": email } } }),
        "iterable" => {
            let moment = at.to_string().replace('T', " ");
            json!({ "email": email, "eventName": name(*kind, ["emailSend", "emailOpen", "emailClick", "emailUnSubscribe",
                "hostedUnsubscribeClick"])?, "dataFields": { "createdAt": format!("{} +00:00", &moment[..19]),
                "messageId": message, "campaignId": 7, "campaignName": "Demo", "url": LINK, "userAgent": AGENT,
                "ip": ADDRESS } })
        }
        "hubspot" => {
            let property = name(
                *kind,
                [
                    "",
                    "hs_email_last_open_date",
                    "hs_email_last_click_date",
                    "hs_email_optout",
                    "favourite_colour",
                ],
            )?;
            let value = if *kind == Kind::Unsubscribed {
                "true".to_owned()
            } else {
                at.as_millis().to_string()
            };
            json!({ "eventId": contact_number(&id), "subscriptionId": 1, "portalId": 1, "occurredAt": at.as_millis(),
                "subscriptionType": "contact.propertyChange", "attemptNumber": 0, "objectId": contact_number(email),
                "propertyName": property, "propertyValue": value })
        }
        "resend" => json!({ "created_at": at.to_string(),
            "type": name(*kind, ["email.delivered", "email.opened", "email.clicked", "", "contact.created"])?,
            "data": { "email_id": message, "to": [email], "subject": "Demo", "created_at": at.to_string(),
                "click": { "link": LINK, "ipAddress": ADDRESS, "userAgent": AGENT, "timestamp": at.to_string() } } }),
        "brevo" => {
            json!({ "event": pick(["delivered", "unique_opened", "click", "unsubscribed", "contact_updated"])?,
            "email": email, "id": 1, "message-id": format!("<{message}@demo>"), "ts_epoch": at.as_millis(), "subject": "Demo",
            "tags": ["demo"], "link": LINK, "ip": ADDRESS, "user_agent": AGENT })
        }
        "mailjet" => {
            json!({ "event": pick(["sent", "open", "click", "unsub", "parsed"])?, "time": seconds, "email": email,
            "MessageID": contact_number(message), "mj_campaign_id": 9, "mj_contact_id": contact_number(email),
            "customcampaign": "demo", "url": LINK, "ip": ADDRESS, "agent": AGENT })
        }
        "mailersend" => {
            let kind = pick(["delivered", "opened", "clicked", "unsubscribed", "inactive"])?;
            json!({ "type": format!("activity.{kind}"), "created_at": at.to_string(), "data": { "object": "activity",
                "id": id, "type": kind, "created_at": at.to_string(),
                "email": { "object": "email", "id": message, "subject": "Demo", "tags": ["demo"],
                    "message": { "id": message }, "recipient": { "email": email } },
                "morph": { "object": kind, "created_at": at.to_string(), "ip": ADDRESS, "url": LINK } } })
        }
        _ => return None,
    })
}

/// Returns the provider's name for a kind; `names` are in the order delivered, opened, clicked, unsubscribed, unknown. `None`
/// if the provider has none (an empty name).
fn name(kind: Kind, names: [&'static str; 5]) -> Option<&'static str> {
    let [delivered, opened, clicked, unsubscribed, unknown] = names;
    let name = match kind {
        Kind::Delivered => delivered,
        Kind::Opened => opened,
        Kind::Clicked => clicked,
        Kind::Unsubscribed => unsubscribed,
        Kind::Unknown => unknown,
    };
    (!name.is_empty()).then_some(name)
}

/// Returns a stable number for a text, for the providers whose ids are numbers. FNV-1a, kept below 2^53 so that any JSON
/// parser reads it exactly.
fn contact_number(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    hash >> 11
}
