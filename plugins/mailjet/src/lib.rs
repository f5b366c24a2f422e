#![doc = include_str!("../README.md")]

use sendflowr_plugin_sdk::{
    BounceType, Descriptor, Element, Event, EventType, Identifier, IdentifierKind, Outcome, Pair, Plugin,
    Proof, Proofs, Rejection, Request, Value, export, json, reject, skip, text::present, time,
};

/// The plugin.
pub struct Mailjet;

export!(Mailjet);

impl Plugin for Mailjet {
    fn describe() -> Descriptor {
        let docs = "https://dev.mailjet.com/email/guides/webhooks/";
        Descriptor::new("mailjet", "Mailjet", env!("CARGO_PKG_VERSION"), docs).basic_auth()
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        Proofs::credentials(request)
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        let document = request.json()?;
        let root = document.root();
        // An empty list is accepted; a list without any object is not a list of events.
        let is_list = root.elements().next().is_none() || root.elements().any(Value::is_object);
        if root.is_array() && is_list {
            return Outcome::of_elements(root.elements().map(event));
        }
        if root.is_object() {
            return Ok(Outcome::of_one(event(root)));
        }
        Err(Rejection::Malformed(
            "the body is neither an object nor a list of objects".to_owned(),
        ))
    }
}

fn event(root: Value<'_>) -> Element {
    if !root.is_object() {
        return Err(reject("not an object"));
    }
    let name = root.str("event");
    let (kind, bounce_type) = match name.as_ref() {
        // Reported once the recipient's server has accepted the message.
        "sent" => (EventType::Delivered, None),
        "open" => (EventType::Opened, None),
        "click" => (EventType::Clicked, None),
        "bounce" if root.is_true("hard_bounce") => (EventType::Bounced, Some(BounceType::Hard)),
        "bounce" if root.str("error") == "greylisted" => (EventType::Deferred, None),
        "bounce" => (EventType::Bounced, Some(BounceType::Soft)),
        "blocked" => (EventType::Rejected, None),
        "spam" => (EventType::MarkedSpam, None),
        "unsub" => (EventType::Unsubscribed, None),
        _ => return Err(skip(name, "not used")),
    };
    let Some(timestamp) = root.time("time", time::seconds) else {
        return Err(reject("`time` is not a valid time"));
    };
    let reason = match name.as_ref() {
        "bounce" => root.first_text(["comment", "error"]),
        "blocked" => root.text("error"),
        _ => None,
    };
    // In other events these would not be about the recipient.
    let is_by_person = matches!(
        kind,
        EventType::Opened | EventType::Clicked | EventType::Unsubscribed
    );
    let of_person = |name| root.text(name).filter(|_| is_by_person);
    Ok(Event {
        recipient_email: root.text("email"),
        identifiers: Identifier::list([(IdentifierKind::EspUserId, root.id("mj_contact_id"))]),
        campaign_id: root.id("mj_campaign_id"),
        campaign_name: root.text("customcampaign"),
        message_id: root.id("MessageID").or_else(|| root.id("mj_message_id")),
        click_url: if kind == EventType::Clicked {
            root.text("url")
        } else {
            None
        },
        user_agent: of_person("agent"),
        ip_address: of_person("ip"),
        bounce_type,
        reason,
        metadata: metadata(root),
        ..Event::new(kind, timestamp)
    })
}

/// Returns what the sender attached: the entries of a payload that is a JSON object, or otherwise the payload as it is, and the
/// custom id.
fn metadata(root: Value<'_>) -> Vec<Pair> {
    let payload = root.get("Payload").string().unwrap_or_default();
    let mut pairs = json::pairs_in(&payload).unwrap_or_else(|| {
        let whole = present(&payload).map(|text| Pair::new("payload", text));
        whole.into_iter().collect()
    });
    pairs.extend(root.text("CustomID").map(|id| Pair::new("custom_id", id)));
    pairs
}

#[cfg(test)]
mod tests;
