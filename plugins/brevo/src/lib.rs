#![doc = include_str!("../README.md")]

use sendflowr_plugin_sdk::{
    BounceType, Descriptor, Document, Element, Event, EventType, Identifier, IdentifierKind, Outcome, Plugin,
    Proof, Proofs, Rejection, Request, Value, export, json, reject, skip, text::present, time,
};

/// The plugin.
pub struct Brevo;

export!(Brevo);

impl Plugin for Brevo {
    fn describe() -> Descriptor {
        let docs = "https://developers.brevo.com/docs/transactional-webhooks";
        Descriptor::new("brevo", "Brevo", env!("CARGO_PKG_VERSION"), docs)
            .basic_auth()
            .bearer_token()
            .shared_header()
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        Proofs::credentials(request)
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        let document = request.json()?;
        let root = document.root();
        if root.is_array() {
            return Outcome::of_elements(root.elements().map(event));
        }
        if root.text("event").is_none() && !is_of_other_channel(root) {
            return Err(Rejection::Malformed(
                "the body is neither a list nor an object with an `event`".to_owned(),
            ));
        }
        Ok(Outcome::of_one(event(root)))
    }
}

/// Checks whether this is about SMS or WhatsApp; such an object may lack the `event`.
fn is_of_other_channel(root: Value<'_>) -> bool {
    root.text("email").is_none() && (root.text("to").is_some() || root.text("msg_status").is_some())
}

/// Reads one event; transactional and marketing webhooks name some fields differently.
fn event(root: Value<'_>) -> Element {
    let name = root.str("event");
    if is_of_other_channel(root) {
        let name = present(&name).unwrap_or("sms-or-whatsapp");
        return Err(skip(name, "about SMS or WhatsApp"));
    }
    let (kind, bounce_type) = match name.as_ref() {
        "request" | "sent" => (EventType::Sent, None),
        "delivered" => (EventType::Delivered, None),
        "deferred" => (EventType::Deferred, None),
        "hard_bounce" | "invalid_email" => (EventType::Bounced, Some(BounceType::Hard)),
        "soft_bounce" => (EventType::Bounced, Some(BounceType::Soft)),
        "blocked" | "error" => (EventType::Rejected, None),
        "unique_opened" | "opened" | "unique_proxy_open" | "proxy_open" => (EventType::Opened, None),
        "click" => (EventType::Clicked, None),
        "spam" | "complaint" => (EventType::MarkedSpam, None),
        "unsubscribed" | "unsubscribe" => (EventType::Unsubscribed, None),
        _ => return Err(skip(name, "not about a message")),
    };
    let Some(timestamp) = timestamp(root) else {
        return Err(reject("no `ts_epoch`, `ts_event` or `ts` is a time"));
    };
    // Loaded by a privacy proxy, whether or not the person looked at the message.
    let proxy = matches!(name.as_ref(), "unique_proxy_open" | "proxy_open");
    let gives_reason = matches!(
        kind,
        EventType::Bounced | EventType::Deferred | EventType::Rejected
    );
    let shows_device = matches!(kind, EventType::Opened | EventType::Clicked);
    let of_device = |name| if shows_device { root.text(name) } else { None };
    Ok(Event {
        recipient_email: root.text("email"),
        // 0 if there is no such contact.
        identifiers: Identifier::list([(IdentifierKind::EspUserId, root.id("contact_id"))]),
        campaign_id: root.text("camp_id"),
        campaign_name: root.text("campaign name"),
        message_id: root.text("message-id"),
        subject: root.text("subject"),
        click_url: if kind == EventType::Clicked {
            root.first_text(["link", "URL"])
        } else {
            None
        },
        user_agent: of_device("user_agent"),
        ip_address: of_device("ip"),
        bounce_type,
        reason: if gives_reason { root.text("reason") } else { None },
        tags: tags(root),
        metadata: root
            .get("X-Mailin-custom")
            .string()
            .and_then(|text| json::pairs_in(&text))
            .unwrap_or_default(),
        is_machine: proxy.then_some(true),
        ..Event::new(kind, timestamp)
    })
}

/// Returns the first usable time, 0 being none; the texts in `date…` have no offset and are in the account's own time zone.
fn timestamp(root: Value<'_>) -> Option<i64> {
    let clocks: [(_, fn(&str) -> _); 4] = [
        ("ts_epoch", time::seconds_or_milliseconds),
        ("ts_event", time::seconds),
        ("ts", time::seconds),
        // A misspelling in Brevo's documentation.
        ("s_epoch", time::seconds_or_milliseconds),
    ];
    clocks
        .into_iter()
        .find_map(|(name, read)| root.time(name, read).filter(|at| *at > 0))
}

/// Returns `tags`, or otherwise `tag`: a list, the text of a list, or one plain tag.
fn tags(root: Value<'_>) -> Vec<String> {
    let tags = root.list("tags");
    if !tags.is_empty() {
        return tags;
    }
    match root.get("tag").string() {
        Some(text) if text.trim_start().starts_with('[') => match Document::parse(text.as_bytes()) {
            Ok(list) => list.root().to_list(),
            Err(_) => vec![text.into_owned()],
        },
        Some(text) => present(&text).map(str::to_owned).into_iter().collect(),
        None => root.list("tag"),
    }
}

#[cfg(test)]
mod tests;
