#![doc = include_str!("../README.md")]

use sendflowr_plugin_sdk::text::smtp_bounce;
use sendflowr_plugin_sdk::{
    Batch, BounceType, Descriptor, Element, Event, EventType, Identifier, IdentifierKind, Outcome, Pair,
    Plugin, Proof, Proofs, Rejection, Request, Unused, Value, export, reject, skip, time,
};

/// The plugin.
pub struct Braze;

export!(Braze);

impl Plugin for Braze {
    fn describe() -> Descriptor {
        let docs = "https://www.braze.com/docs/user_guide/data/distribution/braze_currents/setting_up_currents/custom_http_connector";
        Descriptor::new("braze", "Braze", env!("CARGO_PKG_VERSION"), docs)
            .bearer_token()
            .shared_header()
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        Proofs::credentials(request)
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        // Braze tests the credentials with an empty body or an empty list.
        if request.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Outcome::nothing());
        }
        let document = request.json_object()?;
        let root = document.root();
        if root.get("events").is_array() {
            return Outcome::of_elements(root.get("events").elements().map(currents));
        }
        if root.text("dispatch_id").is_some() && root.text("status").is_some() {
            return Ok(match postback(root) {
                // It names the message and nobody, which a batch would reject.
                Ok(event) => Outcome::Events(Batch {
                    events: vec![event],
                    ..Batch::new()
                }),
                unused => Outcome::of_one(unused),
            });
        }
        Err(Rejection::Malformed(
            "the body is neither a Currents batch nor a transactional postback".to_owned(),
        ))
    }
}

/// Reads one event of a Currents batch.
fn currents(event: Value<'_>) -> Element {
    let name = event.str("event_type");
    let properties = event.get("properties");
    let (kind, bounce_type) = kind(&name, properties)?;
    let Some(timestamp) = event.time("time", time::seconds) else {
        return Err(reject("`time` is not a valid time"));
    };
    let user = event.get("user");
    // A message belongs to a campaign or to a canvas: take both id and name from the same one.
    let campaign = if properties.text("campaign_id").is_some() {
        "campaign"
    } else {
        "canvas"
    };
    let machine = match kind {
        EventType::Opened => properties.is_true("machine_open"),
        EventType::Clicked | EventType::SmsClick => properties.is_true("is_suspected_bot_click"),
        _ => false,
    };
    Ok(Event {
        provider_event_id: event.text("id"),
        recipient_email: properties.text("email_address"),
        identifiers: Identifier::list([
            (IdentifierKind::EspUserId, user.text("user_id")),
            (IdentifierKind::ExternalId, user.text("external_user_id")),
            (IdentifierKind::PhoneNumber, properties.text("user_phone_number")),
        ]),
        campaign_id: properties.text(&format!("{campaign}_id")),
        campaign_name: properties.text(&format!("{campaign}_name")),
        message_id: properties.text("dispatch_id"),
        click_url: properties.text("url"),
        user_agent: properties.text("user_agent"),
        bounce_type,
        reason: properties.first_text(["bounce_reason", "deferral_reason"]),
        is_machine: machine.then_some(true),
        ..Event::new(kind, timestamp)
    })
}

fn kind(name: &str, properties: Value<'_>) -> Result<(EventType, Option<BounceType>), Unused> {
    let kind = match name.strip_prefix("users.").unwrap_or(name) {
        "messages.email.Send" => EventType::Sent,
        "messages.email.Delivery" => EventType::Delivered,
        "messages.email.Deferral" => EventType::Deferred,
        "messages.email.Open" => EventType::Opened,
        "messages.email.Click" => EventType::Clicked,
        // Dropped by the sender's own provider without an attempt.
        "messages.email.Bounce" if properties.is_true("is_drop") => EventType::Rejected,
        "messages.email.Bounce" => return Ok((EventType::Bounced, Some(BounceType::Hard))),
        "messages.email.SoftBounce" => return Ok((EventType::Bounced, Some(BounceType::Soft))),
        "messages.email.MarkAsSpam" => EventType::MarkedSpam,
        "messages.email.Unsubscribe" => EventType::Unsubscribed,
        "behaviors.subscription.GlobalStateChange" => subscription(name, properties)?,
        "campaigns.Conversion" | "canvas.Conversion" | "behaviors.Purchase" => EventType::Converted,
        "messages.sms.ShortLinkClick" => EventType::SmsClick,
        "messages.pushnotification.Open" => EventType::PushClick,
        "messages.email.Abort" | "messages.email.Retry" => return Err(skip(name, "nothing was sent yet")),
        "behaviors.subscriptiongroup.StateChange" => return Err(skip(name, "one topic, not the address")),
        _ => return Err(skip(name, "not used")),
    };
    Ok((kind, None))
}

fn subscription(name: &str, properties: Value<'_>) -> Result<EventType, Unused> {
    if !matches!(properties.str("channel").as_ref(), "" | "email") {
        return Err(skip(name, "another channel than mail"));
    }
    // Published samples differ in the case of letters.
    let status = properties.str("subscription_status").to_ascii_lowercase();
    match status.as_str() {
        "unsubscribed" => Ok(EventType::Unsubscribed),
        "subscribed" | "opted in" => Ok(EventType::Resubscribed),
        _ => Err(skip(name, "a status that is not used")),
    }
}

/// Reads the status of one transactional mail. It names nobody, only the message.
fn postback(root: Value<'_>) -> Element {
    let metadata = root.get("metadata");
    let reason = metadata.text("reason");
    let status = root.str("status");
    let (kind, time) = match status.as_ref() {
        "sent" => (EventType::Sent, "sent_at"),
        "delivered" => (EventType::Delivered, "delivered_at"),
        "bounced" => (EventType::Bounced, "bounced_at"),
        "aborted" => (EventType::Rejected, "aborted_at"),
        "processed" => return Err(skip(status, "between sent and delivered")),
        _ => return Err(skip(status, "not used")),
    };
    let Some(timestamp) = metadata.time(time, time::rfc3339) else {
        return Err(reject(format!("`metadata.{time}` is not a valid time")));
    };
    let external = metadata
        .text("external_send_id")
        .map(|id| Pair::new("external_send_id", id));
    Ok(Event {
        campaign_id: metadata.text("campaign_api_id"),
        message_id: root.text("dispatch_id"),
        bounce_type: if kind == EventType::Bounced {
            reason.as_deref().and_then(smtp_bounce)
        } else {
            None
        },
        reason,
        metadata: external.into_iter().collect(),
        ..Event::new(kind, timestamp)
    })
}

#[cfg(test)]
mod tests;
