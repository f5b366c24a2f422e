//! Reads SES's reports: one message, with one event for each recipient that it is about.

use std::borrow::Cow;

use sendflowr_plugin_sdk::{
    Batch, BounceType, Event, EventType, Pair, Unused, Value, reject, skip,
    text::{bare_address, present},
    time,
};

/// A recipient, and what was said about them. One without an address stays in the list, so that it is rejected.
struct About {
    address: Option<String>,
    reason: Option<String>,
}

/// Returns the events of one SES message. `message_id` is SNS's; `received` stands in for a missing time.
pub(crate) fn batch(message: Value<'_>, message_id: Option<String>, received: Option<i64>) -> Batch {
    Batch::of_recipients(events(message, message_id, received))
}

fn events(
    message: Value<'_>,
    message_id: Option<String>,
    received: Option<i64>,
) -> Result<Vec<Event>, Unused> {
    let mail = message.get("mail");
    // Event publishing has `eventType`, identity notifications have `notificationType`; otherwise they have the same shape.
    let name = message
        .first_text(["eventType", "notificationType"])
        .unwrap_or_default();
    let about =
        |part: Value<'_>, recipients: &str, address: &str| of_recipients(part.get(recipients), address);
    let (kind, part, people) = match name.as_str() {
        "Send" => (EventType::Sent, mail, destinations(mail, None)),
        "Delivery" => {
            let part = message.get("delivery");
            let people = part
                .list("recipients")
                .into_iter()
                .map(|address| About {
                    address: Some(address),
                    reason: None,
                })
                .collect();
            (EventType::Delivered, part, people)
        }
        "Bounce" => {
            let part = message.get("bounce");
            (
                EventType::Bounced,
                part,
                about(part, "bouncedRecipients", "emailAddress"),
            )
        }
        "DeliveryDelay" => {
            let part = message.get("deliveryDelay");
            (
                EventType::Deferred,
                part,
                about(part, "delayedRecipients", "emailAddress"),
            )
        }
        "Complaint" => complaint(message.get("complaint"))?,
        "Reject" => (
            EventType::Rejected,
            mail,
            destinations(mail, message.get("reject").text("reason")),
        ),
        "Rendering Failure" => (
            EventType::Rejected,
            mail,
            destinations(mail, message.get("failure").text("errorMessage")),
        ),
        "Open" => (EventType::Opened, message.get("open"), destinations(mail, None)),
        "Click" => (EventType::Clicked, message.get("click"), destinations(mail, None)),
        "Subscription" => {
            let part = message.get("subscription");
            (subscription(part)?, part, destinations(mail, None))
        }
        other => return Err(skip(other, "not about a recipient of an outgoing message")),
    };
    let Some(timestamp) = part.time("timestamp", time::rfc3339).or(received) else {
        return Err(reject("`timestamp` is not a valid time"));
    };
    // Of several events it is the id of none.
    let event_id = message_id.filter(|_| people.len() == 1);
    let shows_device = matches!(kind, EventType::Opened | EventType::Clicked);
    let of_device = |name| if shows_device { part.text(name) } else { None };
    let event = |person: About| Event {
        provider_event_id: event_id.clone(),
        recipient_email: person
            .address
            .as_deref()
            .and_then(bare_address)
            .map(str::to_owned),
        message_id: mail.text("messageId"),
        subject: mail.get("commonHeaders").text("subject"),
        click_url: if kind == EventType::Clicked {
            part.text("link")
        } else {
            None
        },
        user_agent: of_device("userAgent"),
        ip_address: of_device("ipAddress"),
        bounce_type: bounce_type(kind, part),
        reason: person.reason,
        metadata: tags(mail.get("tags")),
        sent_at_ms: mail.time("timestamp", time::rfc3339),
        ..Event::new(kind, timestamp)
    };
    Ok(people.into_iter().map(event).collect())
}

fn of_recipients(list: Value<'_>, address: &str) -> Vec<About> {
    let about = |entry: Value<'_>| About {
        address: entry.text(address),
        reason: entry.text("diagnosticCode"),
    };
    list.elements().map(about).collect()
}

/// Returns everybody to whom the message went: it cannot say who of them opened or clicked.
fn destinations(mail: Value<'_>, reason: Option<String>) -> Vec<About> {
    let about = |address| About {
        address: Some(address),
        reason: reason.clone(),
    };
    mail.list("destination").into_iter().map(about).collect()
}

/// Only the type decides; undetermined bounces are reported after SES has given up, and may work another time.
fn bounce_type(kind: EventType, bounce: Value<'_>) -> Option<BounceType> {
    match (kind, bounce.str("bounceType").as_ref()) {
        (EventType::Bounced, "Permanent") => Some(BounceType::Hard),
        (EventType::Bounced, _) => Some(BounceType::Soft),
        _ => None,
    }
}

fn complaint(part: Value<'_>) -> Result<(EventType, Value<'_>, Vec<About>), Unused> {
    if part.str("complaintFeedbackType") == "not-spam" {
        return Err(skip("Complaint", "the recipient says that it is not spam"));
    }
    let mut people = of_recipients(part.get("complainedRecipients"), "emailAddress");
    let sub_type = part.str("complaintSubType");
    if sub_type != "OnAccountSuppressionList" {
        return Ok((EventType::MarkedSpam, part, people));
    }
    // Never sent: the address is on the account's own suppression list.
    for person in &mut people {
        person.reason = Some(sub_type.clone().into_owned());
    }
    Ok((EventType::Rejected, part, people))
}

/// Returns what a change of preferences amounts to: leaving or rejoining everything, otherwise leaving or joining a topic.
fn subscription(part: Value<'_>) -> Result<EventType, Unused> {
    let (old, new) = (part.get("oldTopicPreferences"), part.get("newTopicPreferences"));
    match (old.is_true("unsubscribeAll"), new.is_true("unsubscribeAll")) {
        (false, true) => return Ok(EventType::Unsubscribed),
        (true, false) => return Ok(EventType::Resubscribed),
        _ => {}
    }
    let mut rejoined = false;
    for topic in new.get(CHOSEN).elements() {
        let before = status(old, &topic.str("topicName"));
        match (before.as_ref(), topic.str("subscriptionStatus").as_ref()) {
            // An opt-out must not be lost where the status before is not known.
            ("OptIn" | "", "OptOut") => return Ok(EventType::Unsubscribed),
            ("OptOut", "OptIn") => rejoined = true,
            _ => {}
        }
    }
    if !rejoined {
        return Err(skip("Subscription", "no preference changed"));
    }
    if new.is_true("unsubscribeAll") {
        return Err(skip("Subscription", "still unsubscribed from everything"));
    }
    Ok(EventType::Resubscribed)
}

/// The list of the topics whose status the contact has chosen.
const CHOSEN: &str = "topicSubscriptionStatus";

/// The list of the topics' statuses for contacts who have not chosen.
const DEFAULT: &str = "topicDefaultSubscriptionStatus";

/// Returns the status of a topic in these preferences; blank if they do not contain the topic.
fn status<'a>(preferences: Value<'a>, topic: &str) -> Cow<'a, str> {
    [CHOSEN, DEFAULT]
        .into_iter()
        .flat_map(|list| preferences.get(list).elements())
        .find(|entry| entry.str("topicName") == topic)
        .map(|entry| entry.str("subscriptionStatus"))
        .unwrap_or_default()
}

/// Returns the sender's message tags: names and values, joined with a comma. SES's own begin with `ses:`.
fn tags(tags: Value<'_>) -> Vec<Pair> {
    tags.entries()
        .filter(|(name, _)| !name.starts_with("ses:"))
        .map(|(name, values)| Pair::new(name, values.to_list().join(",")))
        .filter(|pair| present(&pair.value).is_some())
        .collect()
}
