#![doc = include_str!("../README.md")]

mod legacy;

use sendflowr_plugin_sdk::text::{bare_address, present};
use sendflowr_plugin_sdk::{
    Batch, BounceType, Descriptor, Element, Encoding, Event, EventType, Form, Hash, KeyedHash, Outcome,
    Plugin, Proof, Proofs, Rejection, Request, Statuses, Value, export, proof, reject, skip, time,
};

/// The plugin.
pub struct Mailgun;

export!(Mailgun);

impl Plugin for Mailgun {
    fn describe() -> Descriptor {
        let docs = "https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhooks";
        Descriptor::new("mailgun", "Mailgun", env!("CARGO_PKG_VERSION"), docs)
            .secret(
                "signing_key",
                "HTTP webhook signing key, under Sending > Webhooks; not the API key.",
            )
            .basic_auth()
            .timestamp_tolerance()
            // 406 is the only status after which Mailgun does not send the delivery again.
            .statuses(Statuses {
                unproven: 401,
                malformed: 406,
                unavailable: 503,
            })
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        proofs.basic_auth()?;
        if request.has_secret("signing_key") {
            let signed = if is_form(request) {
                signed_form(&Form::of(request)?)
            } else {
                signed_json(request)?
            };
            let Some(Signed {
                timestamp,
                token,
                signatures,
            }) = signed
            else {
                return Err(Rejection::MissingProof(
                    "`signature` lacks its timestamp, token or signature".to_owned(),
                ));
            };
            proofs.fresh("field `signature.timestamp`", &timestamp, time::seconds)?;
            let message = [proof::part(&timestamp), proof::part(&token)];
            let mut hash = KeyedHash::hmac(Hash::Sha256, "signing_key", "field `signature`").message(message);
            for signature in signatures {
                hash = hash.signature(&signature, Encoding::Hex);
            }
            proofs.push(hash);
        }
        Ok(proofs.finish())
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        if is_form(request) {
            return Ok(Outcome::of_one(legacy::event(&Form::of(request)?)));
        }
        let document = request.json_object()?;
        let data = document.root().get("event-data");
        if !data.is_object() {
            return Err(Rejection::Malformed(
                "the body has no object `event-data`".to_owned(),
            ));
        }
        let mut batch = Batch::new();
        match event(data) {
            // Of a message to several recipients, a rejection names nobody. `Batch::add` would not take it.
            Ok(event) if is_to_several(data) && event.message_id.is_some() => batch.events.push(event),
            element => batch.add(0, element),
        }
        Ok(Outcome::Events(batch))
    }
}

/// Checks whether this is the rejection of a message to several recipients.
fn is_to_several(data: Value<'_>) -> bool {
    let to = data.get("message").get("headers").text("to");
    data.str("event") == "rejected"
        && data.text("recipient").is_none()
        && to.is_some_and(|to| bare_address(&to).is_none())
}

/// Checks whether the request is a form: webhooks created before mid-2018 post forms.
fn is_form(request: &Request) -> bool {
    request
        .header("content-type")
        .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().contains("form"))
}

/// The parts of a delivery's signature.
struct Signed {
    timestamp: String,
    token: String,
    /// The account's own signature; for a subaccount's delivery, also the primary account's. Either may match the configured key.
    signatures: Vec<String>,
}

fn signed_json(request: &Request) -> Result<Option<Signed>, Rejection> {
    let document = request.json()?;
    let signature = document.root().get("signature");
    let (Some(timestamp), Some(token)) = (signature.text("timestamp"), signature.text("token")) else {
        return Ok(None);
    };
    let signatures: Vec<String> = ["signature", "parent-signature"]
        .into_iter()
        .filter_map(|name| signature.text(name))
        .collect();
    Ok((!signatures.is_empty()).then_some(Signed {
        timestamp,
        token,
        signatures,
    }))
}

fn signed_form(form: &Form) -> Option<Signed> {
    // The sender's variables are merged into the form; the last of the fields with these names is Mailgun's.
    let field = |name| form.last(name).and_then(present).map(str::to_owned);
    Some(Signed {
        timestamp: field("timestamp")?,
        token: field("token")?,
        signatures: vec![field("signature")?],
    })
}

fn event(data: Value<'_>) -> Element {
    let name = data.str("event");
    if data.get("flags").is_true("is-test-mode") {
        return Err(skip(name, "sent in test mode, to nobody"));
    }
    let headers = data.get("message").get("headers");
    let (kind, bounce_type) = match name.as_ref() {
        "accepted" => (EventType::Sent, None),
        "delivered" => (EventType::Delivered, None),
        "failed" => failed(data),
        "rejected" => (EventType::Rejected, None),
        "opened" => (EventType::Opened, None),
        "clicked" => (EventType::Clicked, None),
        "unsubscribed" => (EventType::Unsubscribed, None),
        "complained" => (EventType::MarkedSpam, None),
        other => return Err(skip(other, "not about a recipient of an outgoing message")),
    };
    let Some(timestamp) = data.time("timestamp", time::seconds) else {
        return Err(reject("`timestamp` is not a valid time"));
    };
    let status = data.get("delivery-status");
    let reason = match name.as_ref() {
        "failed" => status
            .first_text(["message", "description"])
            .or_else(|| data.text("reason")),
        "rejected" => data.get("reject").text("reason"),
        _ => None,
    };
    let recipient = data
        .text("recipient")
        .or_else(|| bare_address(&headers.str("to")).map(str::to_owned));
    let campaign = data.get("campaigns").element(0);
    let client = data.get("client-info");
    Ok(Event {
        provider_event_id: data.text("id"),
        recipient_email: recipient,
        campaign_id: campaign.text("id"),
        campaign_name: campaign.text("name"),
        message_id: headers.text("message-id").and_then(without_brackets),
        subject: headers.text("subject"),
        click_url: if kind == EventType::Clicked {
            data.text("url")
        } else {
            None
        },
        user_agent: client.text("user-agent"),
        ip_address: data.text("ip"),
        bounce_type,
        reason,
        tags: data.list("tags"),
        metadata: data.pairs("user-variables"),
        // `apple`, `gmail` or `generic`: whose machine it was.
        is_machine: client.text("bot").map(|_| true),
        ..Event::new(kind, timestamp)
    })
}

/// Classifies a failure: a deferral while Mailgun keeps trying, a rejection if it never tried, otherwise a bounce.
fn failed(data: Value<'_>) -> (EventType, Option<BounceType>) {
    let reason = data.str("reason");
    if data.str("severity") == "temporary" {
        return (EventType::Deferred, None);
    }
    if matches!(
        reason.as_ref(),
        "suppress-bounce" | "suppress-complaint" | "suppress-unsubscribe"
    ) {
        return (EventType::Rejected, None);
    }
    let bounce_type = match data.get("delivery-status").str("bounce-type").as_ref() {
        "hard" => BounceType::Hard,
        "soft" => BounceType::Soft,
        _ if matches!(reason.as_ref(), "old" | "espblock" | "greylisted") => BounceType::Soft,
        _ => BounceType::Hard,
    };
    (EventType::Bounced, Some(bounce_type))
}

/// Returns a message id without the angle brackets that some deliveries have around it.
fn without_brackets(id: String) -> Option<String> {
    let bare = id.trim().trim_start_matches('<').trim_end_matches('>');
    present(bare).map(str::to_owned)
}

#[cfg(test)]
mod tests;
