#![doc = include_str!("../README.md")]

use sendflowr_plugin_sdk::text::bare_address;
use sendflowr_plugin_sdk::{
    BounceType, Descriptor, Element, Encoding, Event, EventType, Hash, HashKey, KeyedHash, Outcome, Pair,
    Part, Plugin, Proof, Proofs, Rejection, Request, SecretKey, Value, export, proof, reject, skip, time,
};

/// The plugin.
pub struct Resend;

export!(Resend);

/// The tolerance of the libraries of Svix, which signs for Resend.
const TOLERANCE_SECONDS: u64 = 300;

impl Plugin for Resend {
    fn describe() -> Descriptor {
        Descriptor::new(
            "resend",
            "Resend",
            env!("CARGO_PKG_VERSION"),
            "https://resend.com/docs/webhooks/event-types",
        )
        .required_secret(
            "signing_secret",
            "Signing secret of the webhook, beginning with whsec_.",
        )
        .timestamp_tolerance_within(TOLERANCE_SECONDS)
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        if !request.has_secret("signing_secret") {
            return Ok(proofs.finish());
        }
        let id = request.proof_header("svix-id")?;
        let timestamp = request.proof_header("svix-timestamp")?;
        let signatures = request.proof_header("svix-signature")?;
        proofs.fresh_within(
            TOLERANCE_SECONDS,
            "header `svix-timestamp`",
            timestamp,
            time::seconds,
        )?;
        let key = SecretKey {
            name: "signing_secret".to_owned(),
            encoding: Encoding::Base64,
            strip_prefix: "whsec_".to_owned(),
        };
        let mut hash = KeyedHash::hmac(Hash::Sha256, "signing_secret", "header `svix-signature`")
            .key(HashKey::Secret(key))
            .message([
                proof::part(id),
                proof::part("."),
                proof::part(timestamp),
                proof::part("."),
                Part::Body,
            ]);
        // After a rotation there is one signature for each valid key; other versions are asymmetric.
        for signature in signatures
            .split_whitespace()
            .filter_map(|entry| entry.strip_prefix("v1,"))
        {
            hash = hash.signature(signature, Encoding::Base64);
        }
        if hash.signatures.is_empty() {
            let message = "header `svix-signature` has no signature of version v1";
            return Err(Rejection::MissingProof(message.to_owned()));
        }
        proofs.push(hash);
        Ok(proofs.finish())
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        let document = request.json_object()?;
        if document.root().text("type").is_none() {
            return Err(Rejection::Malformed("the body has no `type`".to_owned()));
        }
        // The id stays the same through retries and replays.
        let id = request.header("svix-id").map(str::to_owned);
        Ok(Outcome::of_one(event(document.root(), id)))
    }
}

fn event(root: Value<'_>, id: Option<String>) -> Element {
    let name = root.str("type");
    let kind = match name.as_ref() {
        "email.sent" => EventType::Sent,
        "email.delivered" => EventType::Delivered,
        "email.delivery_delayed" => EventType::Deferred,
        "email.bounced" => EventType::Bounced,
        "email.suppressed" | "email.failed" => EventType::Rejected,
        "email.opened" => EventType::Opened,
        "email.clicked" => EventType::Clicked,
        "email.complained" => EventType::MarkedSpam,
        "email.scheduled" => return Err(skip(name, "not sent yet")),
        "email.received" => return Err(skip(name, "an incoming message")),
        _ => return Err(skip(name, "not about a message")),
    };
    let Some(timestamp) = root.time("created_at", time::rfc3339) else {
        return Err(reject("`created_at` is not a valid time"));
    };
    let data = root.get("data");
    let bounce = data.get("bounce");
    // Several recipients cannot be told apart; the first one stands for the message.
    let to = data.list("to").into_iter().next();
    let click = data.get("click");
    Ok(Event {
        provider_event_id: id,
        recipient_email: to.as_deref().and_then(bare_address).map(str::to_owned),
        campaign_id: data.text("broadcast_id"),
        message_id: data.text("email_id"),
        subject: data.text("subject"),
        click_url: click.text("link"),
        user_agent: click.text("userAgent"),
        ip_address: click.text("ipAddress"),
        bounce_type: match (kind, bounce.str("type").to_ascii_lowercase().as_str()) {
            (EventType::Bounced, "transient") => Some(BounceType::Soft),
            // Payloads from before the type existed are permanent refusals.
            (EventType::Bounced, "permanent" | "") => Some(BounceType::Hard),
            _ => None,
        },
        reason: match name.as_ref() {
            "email.bounced" => bounce.text("message"),
            "email.failed" => data.get("failed").text("reason"),
            "email.suppressed" => data.get("suppressed").text("message"),
            _ => None,
        },
        metadata: tags(data.get("tags")),
        ..Event::new(kind, timestamp)
    })
}

/// Reads an object of text or, in older payloads, a list of names and values.
fn tags(tags: Value<'_>) -> Vec<Pair> {
    if tags.is_object() {
        return tags.to_pairs();
    }
    let pair = |tag: Value<'_>| Some(Pair::new(tag.text("name")?, tag.get("value").to_metadata()?));
    tags.elements().filter_map(pair).collect()
}

#[cfg(test)]
mod tests;
