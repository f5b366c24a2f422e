#![doc = include_str!("../README.md")]

use sendflowr_plugin_sdk::{
    BounceType, Descriptor, Element, Encoding, Event, EventType, Form, Hash, KeyedHash, Outcome, Part,
    Plugin, Proof, Proofs, Rejection, Request, Value, export, reject, skip, time,
};

/// The largest number of fields of a form. Mandrill sends one, and all of them are signed in the order of their names; putting the
/// thousands of a stranger in order could take all the time that a delivery has.
const MOST_FIELDS: usize = 32;

/// The plugin.
pub struct Mandrill;

export!(Mandrill);

impl Plugin for Mandrill {
    fn describe() -> Descriptor {
        let docs = "https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/";
        Descriptor::new(
            "mandrill",
            "Mandrill (Mailchimp Transactional)",
            env!("CARGO_PKG_VERSION"),
            docs,
        )
        .required_secret("webhook_key", "The webhook's own key, under Settings > Webhooks.")
        .required_setting(
            "webhook_url",
            "The webhook's URL exactly as it was entered in Mandrill; it is signed.",
        )
        .basic_auth()
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        if is_address_check(request) {
            return Ok(vec![Proof::Handshake]);
        }
        let mut proofs = Proofs::new(request);
        proofs.basic_auth()?;
        if request.has_secret("webhook_key") {
            let signature = request.proof_header("x-mandrill-signature")?;
            let Some(url) = request.setting("webhook_url").map(str::trim) else {
                return Err(Rejection::InvalidProof(
                    "setting `webhook_url`, which Mandrill signs, is not set".to_owned(),
                ));
            };
            // Of a body that is no form, only the URL can have been signed; `normalize` refuses it once that is verified.
            let form = form(request).ok();
            let mut fields: Vec<&(String, String)> = form.iter().flat_map(Form::fields).collect();
            fields.sort_by(|one, other| one.0.cmp(&other.0));
            // Joined into one part, of which a message may have 256 only: the fields of a form are the sender's choice.
            let bytes = fields.iter().map(|(name, value)| name.len() + value.len());
            let mut message = String::with_capacity(url.len() + bytes.sum::<usize>());
            message.push_str(url);
            for (name, value) in fields {
                message.push_str(name);
                message.push_str(value);
            }
            let hash = KeyedHash::hmac(Hash::Sha1, "webhook_key", "header `x-mandrill-signature`");
            proofs.push(
                hash.message([Part::Bytes(message.into_bytes())])
                    .signature(signature, Encoding::Base64),
            );
        }
        Ok(proofs.finish())
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        if is_address_check(request) {
            return Ok(Outcome::nothing());
        }
        let form = form(request)?;
        let Some(events) = form.first("mandrill_events") else {
            return Err(Rejection::Malformed(
                "the form has no field `mandrill_events`".to_owned(),
            ));
        };
        Outcome::of_array(events.as_bytes(), event)
    }
}

fn form(request: &Request) -> Result<Form, Rejection> {
    let form = Form::of(request)?;
    if form.fields().len() > MOST_FIELDS {
        let message = format!("the form has more than {MOST_FIELDS} fields");
        return Err(Rejection::Malformed(message));
    }
    Ok(form)
}

/// Mandrill checks whether the address exists before the webhook has a key to sign with: with HEAD or, if that does not arrive, with
/// an empty list, which gives no event, whoever sends it.
fn is_address_check(request: &Request) -> bool {
    let list = request.body.strip_prefix(b"mandrill_events=");
    request.method == "HEAD" || list.is_some_and(|list| list == b"[]" || list.eq_ignore_ascii_case(b"%5B%5D"))
}

fn event(element: Value<'_>) -> Element {
    let name = element.str("event");
    let (kind, bounce_type) = match name.as_ref() {
        "send" => (EventType::Sent, None),
        "delivered" => (EventType::Delivered, None),
        "deferral" => (EventType::Deferred, None),
        "hard_bounce" => (EventType::Bounced, Some(BounceType::Hard)),
        "soft_bounce" => (EventType::Bounced, Some(BounceType::Soft)),
        "open" => (EventType::Opened, None),
        "click" => (EventType::Clicked, None),
        "spam" => (EventType::MarkedSpam, None),
        "unsub" => (EventType::Unsubscribed, None),
        "reject" => (EventType::Rejected, None),
        "inbound" => return Err(skip("inbound", "an incoming message")),
        "" => {
            return Err(skip(
                element.str("type"),
                "synchronisation of a list, not about a message",
            ));
        }
        other => return Err(skip(other, "not used")),
    };
    let Some(timestamp) = element.time("ts", time::seconds) else {
        return Err(reject("`ts` is not a valid time"));
    };
    let message = element.get("msg");
    let reason = match kind {
        EventType::Bounced => message.first_text(["diag", "bounce_description"]),
        // The event is about the last attempt; not every attempt has a text.
        EventType::Deferred => message
            .get("smtp_events")
            .elements()
            .filter_map(|attempt| attempt.text("diag"))
            .last(),
        _ => None,
    };
    let robot = element
        .get("user_agent_parsed")
        .str("type")
        .eq_ignore_ascii_case("robot");
    Ok(Event {
        recipient_email: message.text("email"),
        message_id: message.text("_id").or_else(|| element.text("_id")),
        subject: message.text("subject"),
        click_url: if kind == EventType::Clicked {
            element.text("url")
        } else {
            None
        },
        user_agent: element.text("user_agent"),
        ip_address: element.text("ip"),
        bounce_type,
        reason,
        tags: message.list("tags"),
        metadata: message.pairs("metadata"),
        is_machine: robot.then_some(true),
        sent_at_ms: message.time("ts", time::seconds),
        ..Event::new(kind, timestamp)
    })
}

#[cfg(test)]
mod tests;
