#![doc = include_str!("../README.md")]

use sendflowr_plugin_sdk::{
    BounceType, Descriptor, Element, Encoding, Event, EventType, Hash, Identifier, IdentifierKind, KeyedHash,
    Outcome, Part, Plugin, Proof, Proofs, Rejection, Request, Value, export, proof, reject, skip, time,
};

/// The plugin.
pub struct Klaviyo;

export!(Klaviyo);

/// Klaviyo prescribes no tolerance; its own verification samples and most schemes of this kind use five minutes.
const TOLERANCE_SECONDS: u64 = 300;

/// How far the header's time may be ahead of the signed body's: five hours in Klaviyo's own example, of a January. That is how far
/// UTC is ahead of the time at Klaviyo's seat in winter, so it is taken to be four in summer.
const HEADER_AHEAD_MS: [i64; 2] = [5 * HOUR_MS, 4 * HOUR_MS];

const HOUR_MS: i64 = 60 * 60 * 1000;

/// How far it may be from that: the two are not written at the same moment.
const HEADER_AHEAD_WITHIN_MS: u64 = 60 * 1000;

impl Plugin for Klaviyo {
    fn describe() -> Descriptor {
        let docs = "https://developers.klaviyo.com/en/docs/working_with_system_webhooks";
        Descriptor::new("klaviyo", "Klaviyo", env!("CARGO_PKG_VERSION"), docs)
            .required_secret("signing_secret", "The secret given when the webhook was created.")
            .timestamp_tolerance_within(TOLERANCE_SECONDS)
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        if !request.has_secret("signing_secret") {
            return Ok(proofs.finish());
        }
        if let Some(signature) = request
            .header("x-klaviyo-signature")
            .filter(|_| !is_system_webhook(request))
        {
            let hash = KeyedHash::hmac(Hash::Sha256, "signing_secret", "header `x-klaviyo-signature`");
            proofs.push(hash.message([Part::Body]).signature(signature, Encoding::Base64));
            return Ok(proofs.finish());
        }
        let signature = request.proof_header("klaviyo-signature")?;
        let timestamp = request.proof_header("klaviyo-timestamp")?;
        // A body that is not JSON is refused by `normalize`, once its signature has been verified.
        let document = request.json().ok();
        let meta = document.as_ref().map(|document| document.root().get("meta"));
        prove_fresh(&mut proofs, request.received_at_ms, timestamp, meta)?;
        let hash = KeyedHash::hmac(Hash::Sha256, "signing_secret", "header `klaviyo-signature`");
        // The header's own text is signed, so it is never replaced by a date formatted again.
        proofs.push(
            hash.message([Part::Body, proof::part(timestamp)])
                .signature(signature, Encoding::Hex),
        );
        if let Some(meta) = meta {
            check_webhook_id(request, meta)?;
        }
        Ok(proofs.finish())
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        let document = request.json_object()?;
        let data = document.root().get("data");
        if data.is_array() {
            return Outcome::of_elements(data.elements().map(system_event));
        }
        if data.is_object() {
            return Ok(Outcome::of_one(single_event(data)));
        }
        Err(Rejection::Malformed(
            "the body has neither a list nor an object `data`".to_owned(),
        ))
    }
}

/// The two shapes are told apart by their signature headers.
fn is_system_webhook(request: &Request) -> bool {
    request.header("klaviyo-signature").is_some()
}

fn date_or_seconds(text: &str) -> Option<i64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        time::seconds(text)
    } else {
        time::rfc2822(text)
    }
}

/// Demands a signing time near the time of receipt: that of the header. If it is four or five hours ahead of `meta.timestamp`
/// in the body, which is signed as well, one of the two clocks shows the local time of another zone, and the nearer one counts.
/// No other `meta.timestamp` counts, because it would make a stale header fresh.
fn prove_fresh(
    proofs: &mut Proofs<'_>,
    received_at_ms: i64,
    header: &str,
    meta: Option<Value<'_>>,
) -> Result<(), Rejection> {
    let away = |at: i64| at.abs_diff(received_at_ms);
    let in_body = meta.map(|meta| meta.str("timestamp")).unwrap_or_default();
    match (date_or_seconds(header), time::rfc3339(&in_body)) {
        (Some(of_header), Some(of_body))
            if HEADER_AHEAD_MS
                .iter()
                .any(|ahead| (of_header - of_body).abs_diff(*ahead) <= HEADER_AHEAD_WITHIN_MS)
                && away(of_body) < away(of_header) =>
        {
            proofs.fresh_within(TOLERANCE_SECONDS, "`meta.timestamp`", &in_body, time::rfc3339)
        }
        _ => proofs.fresh_within(
            TOLERANCE_SECONDS,
            "header `klaviyo-timestamp`",
            header,
            date_or_seconds,
        ),
    }
}

/// Klaviyo advises comparing the id in the body, which is signed, with the one in the header.
fn check_webhook_id(request: &Request, meta: Value<'_>) -> Result<(), Rejection> {
    let in_body = meta.str("klaviyo_webhook_id");
    let in_header = request.header("klaviyo-webhook-id").unwrap_or_default();
    if in_body.trim() == in_header.trim() {
        return Ok(());
    }
    let message = "header `klaviyo-webhook-id` differs from `meta.klaviyo_webhook_id` in the body";
    Err(Rejection::InvalidProof(message.to_owned()))
}

/// Reads one element of a system webhook.
fn system_event(element: Value<'_>) -> Element {
    let topic = element.str("topic");
    let (integration, slug) = topic
        .trim_start_matches("event:")
        .split_once('.')
        .unwrap_or(("", &topic));
    let kind = kind_of_topic(integration, slug).map_err(|reason| skip(topic.as_ref(), reason))?;
    let payload = element.get("payload");
    let event = payload.get("data");
    let attributes = event.get("attributes");
    let properties = attributes.get("event_properties");
    let timestamp = attributes
        .time("datetime", time::rfc3339)
        .or_else(|| attributes.time("timestamp", time::seconds));
    let Some(timestamp) = timestamp else {
        return Err(reject("neither `datetime` nor `timestamp` is a time"));
    };
    let profile_id = event.get("relationships").get("profile").get("data").text("id");
    let profile = payload
        .get("included")
        .elements()
        .find(|included| included.str("type") == "profile")
        .map(|included| included.get("attributes"));
    let of_profile = |name| profile.and_then(|profile| profile.text(name));
    Ok(Event {
        provider_event_id: element.text("external_id"),
        // Events about mail and events about consent name it differently.
        recipient_email: of_profile("email")
            .or_else(|| properties.first_text(["Recipient Email Address", "email_address"])),
        identifiers: Identifier::list([
            (IdentifierKind::KlaviyoId, profile_id),
            (IdentifierKind::PhoneNumber, of_profile("phone_number")),
            (IdentifierKind::ExternalId, of_profile("external_id")),
        ]),
        campaign_id: properties.first_text(["$flow", "$message"]),
        campaign_name: properties.text("Campaign Name"),
        message_id: properties.text("$message"),
        subject: properties.text("Subject"),
        click_url: properties.text("URL"),
        bounce_type: bounce_type(kind, properties),
        is_machine: is_machine(kind, properties),
        ..Event::new(kind, timestamp)
    })
}

/// Reads the only event of the JSON:API shape.
fn single_event(data: Value<'_>) -> Element {
    let attributes = data.get("attributes");
    let of = |name| attributes.get(name).get("data");
    let metric = of("metric").get("attributes").str("name");
    let kind = kind_of_metric(&metric).map_err(|reason| skip(metric.as_ref(), reason))?;
    let Some(timestamp) = attributes.time("datetime", time::rfc3339) else {
        return Err(reject("`datetime` is not a valid time"));
    };
    let profile = of("profile");
    let campaign = of("campaign");
    let properties = attributes.get("event_properties");
    Ok(Event {
        provider_event_id: data.text("id"),
        recipient_email: profile.get("attributes").text("email"),
        identifiers: Identifier::list([(IdentifierKind::KlaviyoId, profile.text("id"))]),
        campaign_id: campaign.text("id"),
        campaign_name: campaign.get("attributes").text("name"),
        message_id: attributes.text("message_id"),
        subject: attributes.text("subject"),
        click_url: attributes.text("url"),
        user_agent: attributes.text("user_agent"),
        ip_address: attributes.text("ip_address"),
        bounce_type: bounce_type(kind, properties),
        is_machine: is_machine(kind, properties),
        ..Event::new(kind, timestamp)
    })
}

/// Topics are `event:<integration>.<slug>`; those about mail are Klaviyo's own, those about a shop are of any integration.
fn kind_of_topic(integration: &str, slug: &str) -> Result<EventType, &'static str> {
    match slug {
        "active_on_site" => return Ok(EventType::SiteVisit),
        "viewed_product" => return Ok(EventType::ProductView),
        "placed_order" => return Ok(EventType::Converted),
        _ if integration != "klaviyo" => return Err("an event of another integration that is not used"),
        _ => {}
    }
    Ok(match slug {
        "sent_email" => EventType::Sent,
        "received_email" | "email_delivered" => EventType::Delivered,
        "opened_email" => EventType::Opened,
        "clicked_email" => EventType::Clicked,
        "bounced_email" => EventType::Bounced,
        "dropped_email" => EventType::Rejected,
        "marked_email_as_spam" => EventType::MarkedSpam,
        "unsubscribed_from_email_marketing" => EventType::Unsubscribed,
        "subscribed_to_email_marketing" => EventType::Resubscribed,
        "clicked_sms" => EventType::SmsClick,
        "opened_push" => EventType::PushClick,
        "clicked_email_to_unsubscribe" => return Err("the unsubscription follows as an event of its own"),
        _ if slug.starts_with("manually_") => return Err("done by an operator, not by the recipient"),
        "updated_email_preferences" => return Err("not a global state"),
        _ => return Err("not used"),
    })
}

fn kind_of_metric(metric: &str) -> Result<EventType, &'static str> {
    Ok(match metric {
        "Sent Email" => EventType::Sent,
        "Received Email" => EventType::Delivered,
        "Opened Email" => EventType::Opened,
        "Clicked Email" => EventType::Clicked,
        "Bounced Email" => EventType::Bounced,
        "Dropped Email" => EventType::Rejected,
        "Marked Email as Spam" => EventType::MarkedSpam,
        "Unsubscribed" | "Unsubscribed from Email Marketing" | "Unsubscribed from List" => {
            EventType::Unsubscribed
        }
        "Subscribed to Email Marketing" => EventType::Resubscribed,
        "Clicked SMS" => EventType::SmsClick,
        "Opened Push" => EventType::PushClick,
        "Active on Site" => EventType::SiteVisit,
        "Viewed Product" => EventType::ProductView,
        "Placed Order" => EventType::Converted,
        _ => return Err("a metric that is not used"),
    })
}

/// Reads `Hard`, `HardBounce`, `soft` … by its prefix; not every bounce has one.
fn bounce_type(kind: EventType, properties: Value<'_>) -> Option<BounceType> {
    let kind = (kind == EventType::Bounced).then(|| properties.str("Bounce Type").to_ascii_lowercase())?;
    match kind.as_str() {
        hard if hard.starts_with("hard") => Some(BounceType::Hard),
        soft if soft.starts_with("soft") => Some(BounceType::Soft),
        _ => None,
    }
}

/// Returns true for opens that a mail program made in advance, and for clicks of scanners. Nothing is said about people.
fn is_machine(kind: EventType, properties: Value<'_>) -> Option<bool> {
    let is_machine = match kind {
        EventType::Opened => properties.is_true("machine_open"),
        EventType::Clicked => properties.is_true("Bot Click"),
        _ => false,
    };
    is_machine.then_some(true)
}

#[cfg(test)]
mod tests;
