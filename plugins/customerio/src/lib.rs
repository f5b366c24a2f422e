#![doc = include_str!("../README.md")]

use sendflowr_plugin_sdk::text::smtp_bounce;
use sendflowr_plugin_sdk::{
    Descriptor, Element, Encoding, Event, EventType, Hash, Identifier, IdentifierKind, KeyedHash, Outcome,
    Part, Plugin, Proof, Proofs, Rejection, Request, Unused, Value, export, proof, reject, skip, time,
};

/// The plugin.
pub struct CustomerIo;

export!(CustomerIo);

/// Customer.io prescribes no tolerance; five minutes is usual for schemes of this kind.
const TOLERANCE_SECONDS: u64 = 300;

impl Plugin for CustomerIo {
    fn describe() -> Descriptor {
        let docs = "https://docs.customer.io/integrations/api/webhooks";
        Descriptor::new("customerio", "Customer.io", env!("CARGO_PKG_VERSION"), docs)
            .required_secret(
                "signing_secret",
                "Webhook signing key, on the webhook's settings page.",
            )
            .timestamp_tolerance_within(TOLERANCE_SECONDS)
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        if request.has_secret("signing_secret") {
            let timestamp = request.proof_header("x-cio-timestamp")?;
            let signature = request.proof_header("x-cio-signature")?;
            proofs.fresh_within(
                TOLERANCE_SECONDS,
                "header `x-cio-timestamp`",
                timestamp,
                time::seconds,
            )?;
            let message = [
                proof::part("v0:"),
                proof::part(timestamp),
                proof::part(":"),
                Part::Body,
            ];
            // The documentation shows the bare digest; some deliveries put the version in front.
            let digest = signature.strip_prefix("v0=").unwrap_or(signature);
            let hash = KeyedHash::hmac(Hash::Sha256, "signing_secret", "header `x-cio-signature`");
            proofs.push(hash.message(message).signature(digest, Encoding::Hex));
        }
        Ok(proofs.finish())
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        let document = request.json_object()?;
        Ok(Outcome::of_one(event(document.root())))
    }
}

fn event(event: Value<'_>) -> Element {
    let (object, metric) = (event.str("object_type"), event.str("metric"));
    if object.is_empty() || metric.is_empty() {
        return Err(reject("`object_type` or `metric` is missing"));
    }
    let kind = kind(&object, &metric)?;
    let Some(timestamp) = event.time("timestamp", time::seconds) else {
        return Err(reject("`timestamp` is not a valid time"));
    };
    let data = event.get("data");
    let identifiers = data.get("identifiers");
    // The recipient of an SMS is a phone number, that of a push message is a device.
    let address = if object == "email" {
        data.text("recipient")
    } else {
        None
    };
    let phone = if object == "sms" {
        data.text("recipient")
    } else {
        None
    };
    let external_id = identifiers.text("id").or_else(|| data.text("customer_id"));
    let machine = match kind {
        EventType::Opened => data.is_true("prefetched"),
        EventType::Clicked | EventType::SmsClick | EventType::PushClick => data.is_true("machine"),
        _ => false,
    };
    let failure = data.text("failure_message");
    Ok(Event {
        provider_event_id: event.text("event_id"),
        recipient_email: address
            .or_else(|| data.text("email_address"))
            .or_else(|| identifiers.text("email")),
        identifiers: Identifier::list([
            (IdentifierKind::EspUserId, identifiers.text("cio_id")),
            (IdentifierKind::ExternalId, external_id),
            (IdentifierKind::PhoneNumber, phone),
        ]),
        campaign_id: data.first_text([
            "campaign_id",
            "broadcast_id",
            "newsletter_id",
            "transactional_message_id",
        ]),
        message_id: data.text("delivery_id"),
        subject: data.text("subject"),
        click_url: data.text("href"),
        bounce_type: if kind == EventType::Bounced {
            failure.as_deref().and_then(smtp_bounce)
        } else {
            None
        },
        reason: failure,
        is_machine: machine.then_some(true),
        ..Event::new(kind, timestamp)
    })
}

fn kind(object: &str, metric: &str) -> Result<EventType, Unused> {
    let name = || format!("{object}_{metric}");
    Ok(match (object, metric) {
        (_, "cio_subscription_preferences_changed") => return Err(skip(name(), "topics, not the address")),
        ("email", "sent") => EventType::Sent,
        ("email", "delivered") => EventType::Delivered,
        ("email", "opened") => EventType::Opened,
        ("email", "clicked") => EventType::Clicked,
        ("email", "converted") => EventType::Converted,
        ("email", "bounced") => EventType::Bounced,
        ("email", "attempted") => EventType::Deferred,
        ("email", "dropped" | "failed" | "undeliverable") => EventType::Rejected,
        ("email", "spammed") => EventType::MarkedSpam,
        ("email" | "customer", "unsubscribed") => EventType::Unsubscribed,
        ("email" | "customer", "subscribed") => EventType::Resubscribed,
        ("email", "drafted") => return Err(skip(name(), "nothing was sent")),
        ("sms", "clicked") => EventType::SmsClick,
        ("push", "clicked") => EventType::PushClick,
        _ => return Err(skip(name(), "not used")),
    })
}

#[cfg(test)]
mod tests;
