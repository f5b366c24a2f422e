#![doc = include_str!("../README.md")]

use hmac::{Hmac, KeyInit, Mac};
use sendflowr_plugin_sdk::{
    BounceType, Descriptor, Element, Encoding, Event, EventType, Hash, HashKey, Identifier, IdentifierKind,
    KeyedHash, Outcome, Part, Plugin, Proof, Proofs, Rejection, Request, Value, export, reject, skip, time,
};
use sha2::Sha256;

/// The plugin.
pub struct MailerSend;

export!(MailerSend);

/// The key that MailerSend publishes for the ping that tests a new webhook: the receiver cannot know the webhook's own key yet.
const PING_KEY: &str = "test_Am3L1GuOIc4blLUuHqAPxxwkZaJyEk8G";

/// The `type` of the ping.
const PING: &str = "webhook.test";

impl Plugin for MailerSend {
    fn describe() -> Descriptor {
        let docs = "https://developers.mailersend.com/api/v1/webhooks.html";
        Descriptor::new("mailersend", "MailerSend", env!("CARGO_PKG_VERSION"), docs)
            .required_secret("signing_secret", "Signing secret of the webhook.")
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        if request.has_secret("signing_secret") {
            let signature = request.proof_header("signature")?;
            let mut hash = KeyedHash::hmac(Hash::Sha256, "signing_secret", "header `signature`");
            if is_ping(request) && is_signed_with_ping_key(&request.body, signature) {
                hash = hash.key(HashKey::Published(PING_KEY.as_bytes().to_vec()));
            }
            proofs.push(hash.message([Part::Body]).signature(signature, Encoding::Hex));
        }
        Ok(proofs.finish())
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        let document = request.json_object()?;
        if document.root().text("type").is_none() {
            return Err(Rejection::Malformed("the body has no `type`".to_owned()));
        }
        Ok(Outcome::of_one(event(document.root())))
    }
}

/// The published key proves nothing, so it is accepted only for a body that gives no event.
fn is_ping(request: &Request) -> bool {
    request
        .json()
        .is_ok_and(|document| document.root().str("type") == PING)
}

/// Checks whether the published key signed this ping. The webhook's own secret signs pings too, and a proof can demand only one
/// key. The host checks the proof as well; what is decided here is only whose key it is held against.
fn is_signed_with_ping_key(body: &[u8], signature: &str) -> bool {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(PING_KEY.as_bytes()) else {
        return false;
    };
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    signature.trim().eq_ignore_ascii_case(&hex)
}

fn event(root: Value<'_>) -> Element {
    let name = root.str("type");
    let (kind, bounce_type) = match name.strip_prefix("activity.").unwrap_or_default() {
        "sent" => (EventType::Sent, None),
        "delivered" => (EventType::Delivered, None),
        "deferred" => (EventType::Deferred, None),
        "soft_bounced" => (EventType::Bounced, Some(BounceType::Soft)),
        "hard_bounced" => (EventType::Bounced, Some(BounceType::Hard)),
        "opened" | "opened_unique" => (EventType::Opened, None),
        "clicked" | "clicked_unique" => (EventType::Clicked, None),
        "unsubscribed" => (EventType::Unsubscribed, None),
        "spam_complaint" => (EventType::MarkedSpam, None),
        _ if name == PING => return Err(skip(name, "the ping by which a webhook is tested")),
        _ => return Err(skip(name, "not about a recipient of an outgoing message")),
    };
    let data = root.get("data");
    let email = data.get("email");
    // Version 2 of the webhooks, the only one from December 2026 on, has flattened `data` and keeps the time beside it.
    let (dated, about) = if email.is_object() {
        (data, email)
    } else {
        (root, data)
    };
    let Some(timestamp) = dated.time("created_at", time::rfc3339) else {
        return Err(reject(if email.is_object() {
            "`data.created_at` is not a valid time"
        } else {
            "`created_at` is not a valid time"
        }));
    };
    // Version 2 is documented with the address in `email` but comes with it in `recipient`, which in version 1 is an object.
    let recipient = if email.is_object() {
        email.get("recipient")
    } else {
        data.get("recipient")
    };
    // Their content depends on the event; null, or an empty list, for events that have nothing to add.
    let (morph, meta) = (data.get("morph"), data.get("meta"));
    let of_visit = |name| morph.text(name).or_else(|| meta.text(name));
    let is_visit = matches!(kind, EventType::Opened | EventType::Clicked);
    Ok(Event {
        provider_event_id: data.text("id"),
        recipient_email: recipient
            .text("email")
            .or_else(|| data.first_text(["recipient", "email"])),
        identifiers: Identifier::list([(IdentifierKind::EspUserId, recipient.text("id"))]),
        message_id: email
            .get("message")
            .text("id")
            .or_else(|| data.text("message_id")),
        subject: about.text("subject"),
        click_url: of_visit("url").filter(|_| kind == EventType::Clicked),
        ip_address: of_visit("ip").filter(|_| is_visit),
        user_agent: meta.text("user_agent").filter(|_| is_visit),
        bounce_type,
        reason: match kind {
            EventType::Bounced | EventType::Deferred => morph
                .first_text(["readable_reason", "reason"])
                .or_else(|| meta.first_text(["bounce_reason", "readable_reason", "reason"])),
            _ => None,
        },
        tags: about.list("tags"),
        ..Event::new(kind, timestamp)
    })
}

#[cfg(test)]
mod tests;
