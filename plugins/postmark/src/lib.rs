#![doc = include_str!("../README.md")]

use std::borrow::Cow;

use sendflowr_plugin_sdk::{
    BounceType, Descriptor, Element, Event, EventType, Outcome, Plugin, Proof, Proofs, Rejection, Request,
    Unused, Value, reject, skip, time,
};

/// The plugin.
pub struct Postmark;

impl Plugin for Postmark {
    fn describe() -> Descriptor {
        // The usual status codes: Postmark has always given up at 403, which is not among them. Its pages disagree on whether it
        // tries again after 401; temporary failures are 503, which it always repeats.
        Descriptor::new(
            "postmark",
            "Postmark",
            env!("CARGO_PKG_VERSION"),
            "https://postmarkapp.com/developer/webhooks/webhooks-overview",
        )
        .basic_auth()
        .shared_header()
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        Proofs::credentials(request)
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        let document = request.json_object()?;
        Ok(Outcome::of_one(event(document.root())))
    }
}

fn event(record: Value<'_>) -> Element {
    let (event_type, bounce_type) = classify(record)?;
    let time_field = ["DeliveredAt", "BouncedAt", "ReceivedAt", "ChangedAt"];
    let at = time_field
        .into_iter()
        .find_map(|name| record.time(name, time::rfc3339))
        .ok_or_else(|| reject("the record has no readable time"))?;
    let recipient_email = record
        .first_text(["Recipient", "Email"])
        .ok_or_else(|| reject("the record has no address"))?;
    let failed = matches!(
        event_type,
        EventType::Bounced | EventType::Deferred | EventType::Rejected
    );
    // In other records these would be something else.
    let is_report = matches!(record.str("RecordType").as_ref(), "Bounce" | "SpamComplaint");
    Ok(Event {
        provider_event_id: record.id("ID").filter(|_| is_report),
        recipient_email: Some(recipient_email),
        message_id: record.text("MessageID"),
        subject: record.text("Subject").filter(|_| is_report),
        click_url: record
            .text("OriginalLink")
            .filter(|_| event_type == EventType::Clicked),
        user_agent: record.text("UserAgent"),
        ip_address: record.get("Geo").text("IP"),
        bounce_type,
        reason: record.first_text(["Details", "Description"]).filter(|_| failed),
        tags: record.list("Tag"),
        metadata: record.pairs("Metadata"),
        ..Event::new(event_type, at)
    })
}

type Class = Result<(EventType, Option<BounceType>), Unused>;

fn classify(record: Value<'_>) -> Class {
    match record.str("RecordType").as_ref() {
        "Delivery" => Ok((EventType::Delivered, None)),
        "Open" => Ok((EventType::Opened, None)),
        "Click" => Ok((EventType::Clicked, None)),
        "SpamComplaint" => Ok((EventType::MarkedSpam, None)),
        "SubscriptionChange" => subscription_change(record),
        "Bounce" => bounce(record.str("Type")),
        // Not every record of an incoming message has a type.
        "Inbound" | "" => Err(skip("Inbound", "an incoming message")),
        other => Err(skip(other, "unknown `RecordType`")),
    }
}

fn subscription_change(record: Value<'_>) -> Class {
    match record.get("SuppressSending").as_bool() {
        Some(false) => return Ok((EventType::Resubscribed, None)),
        Some(true) => {}
        None => return Err(reject("`SuppressSending` is neither true nor false")),
    }
    match record.str("SuppressionReason").as_ref() {
        "HardBounce" => Ok((EventType::Bounced, Some(BounceType::Hard))),
        "SpamComplaint" => Ok((EventType::MarkedSpam, None)),
        _ => Ok((EventType::Unsubscribed, None)),
    }
}

/// Classifies bounces by name: published samples have type codes that contradict it.
fn bounce(name: Cow<'_, str>) -> Class {
    match name.as_ref() {
        "HardBounce" => Ok((EventType::Bounced, Some(BounceType::Hard))),
        "Transient" | "DnsError" => Ok((EventType::Deferred, None)),
        "Unsubscribe" => Ok((EventType::Unsubscribed, None)),
        "Subscribe" => Ok((EventType::Resubscribed, None)),
        "SpamNotification" | "SpamComplaint" => Ok((EventType::MarkedSpam, None)),
        "BadEmailAddress"
        | "ManuallyDeactivated"
        | "Unconfirmed"
        | "SMTPApiError"
        | "DMARCPolicy"
        | "TemplateRenderingFailed" => Ok((EventType::Rejected, None)),
        "AutoResponder" | "AddressChange" | "OpenRelayTest" | "ChallengeVerification" | "InboundError" => {
            Err(skip(
                format!("Bounce/{name}"),
                "not about the fate of a sent message",
            ))
        }
        // SoftBounce, Blocked, Unknown, VirusNotification, and any that Postmark adds later.
        _ => Ok((EventType::Bounced, Some(BounceType::Soft))),
    }
}

sendflowr_plugin_sdk::export!(Postmark);

#[cfg(test)]
mod tests;
