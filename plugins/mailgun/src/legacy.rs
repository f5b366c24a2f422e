//! Reads the forms that webhooks created before mid-2018 post.

use sendflowr_plugin_sdk::{
    BounceType, Document, Element, Event, EventType, Form, Pair, json, reject, skip, text, time,
};

use crate::without_brackets;

/// Mailgun's own fields; every other field is a variable of the sender's.
const RESERVED: [&str; 29] = [
    "event",
    "recipient",
    "domain",
    "timestamp",
    "token",
    "signature",
    "Message-Id",
    "message-id",
    "message-headers",
    "code",
    "error",
    "notification",
    "description",
    "reason",
    "tag",
    "X-Mailgun-Tag",
    "url",
    "ip",
    "user-agent",
    "country",
    "region",
    "city",
    "device-type",
    "campaign-id",
    "campaign-name",
    "mailing-list",
    "X-Mailgun-Sid",
    "attachment-count",
    "h",
];

pub(crate) fn event(form: &Form) -> Element {
    let Some(name) = form.first("event") else {
        return Err(skip(
            "inbound",
            "the form has no field `event`: an inbound message",
        ));
    };
    let kind = match name {
        "delivered" => EventType::Delivered,
        "dropped" => EventType::Rejected,
        "bounced" => EventType::Bounced,
        "complained" => EventType::MarkedSpam,
        "unsubscribed" => EventType::Unsubscribed,
        "opened" => EventType::Opened,
        "clicked" => EventType::Clicked,
        other => return Err(skip(other, "not about a recipient of an outgoing message")),
    };
    let Some(timestamp) = form.last("timestamp").and_then(time::seconds) else {
        return Err(reject("`timestamp` is not a valid time"));
    };
    let reason = match kind {
        EventType::Rejected => form.text("description").or_else(|| form.text("reason")),
        EventType::Bounced => form.text("error").or_else(|| form.text("notification")),
        _ => None,
    };
    let soft = form
        .first("code")
        .is_some_and(|code| code.trim_start().starts_with('4'));
    let headers = form.first("message-headers").unwrap_or_default();
    Ok(Event {
        recipient_email: form.text("recipient"),
        campaign_id: form.text("campaign-id"),
        campaign_name: form.text("campaign-name"),
        message_id: form
            .text("Message-Id")
            .or_else(|| form.text("message-id"))
            .and_then(without_brackets),
        subject: header_values(headers, "Subject").into_iter().next(),
        click_url: if kind == EventType::Clicked {
            form.text("url")
        } else {
            None
        },
        user_agent: form.text("user-agent"),
        ip_address: form.text("ip"),
        bounce_type: match kind {
            EventType::Bounced if soft => Some(BounceType::Soft),
            EventType::Bounced => Some(BounceType::Hard),
            _ => None,
        },
        reason,
        tags: tags(form),
        metadata: metadata(form, headers),
        ..Event::new(kind, timestamp)
    })
}

fn tags(form: &Form) -> Vec<String> {
    let named = |name| {
        form.all(name)
            .filter_map(text::present)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let tags = named("tag");
    if tags.is_empty() {
        named("X-Mailgun-Tag")
    } else {
        tags
    }
}

/// Returns the variables in the message's headers if it has such a header, even one without variables, otherwise every field that
/// is not Mailgun's own.
fn metadata(form: &Form, headers: &str) -> Vec<Pair> {
    let variables = header_values(headers, "X-Mailgun-Variables");
    let objects: Vec<Vec<Pair>> = variables.iter().filter_map(|text| json::pairs_in(text)).collect();
    if !objects.is_empty() {
        return objects.concat();
    }
    let own = |name: &str| !RESERVED.contains(&name) && !name.starts_with("client-");
    form.fields()
        .iter()
        .filter(|(name, _)| own(name))
        .map(|(name, value)| Pair::new(name, value))
        .collect()
}

/// Returns the values of one header in `message-headers`, a JSON list of [name, value].
fn header_values(headers: &str, name: &str) -> Vec<String> {
    let Ok(document) = Document::parse(headers.as_bytes()) else {
        return Vec::new();
    };
    let list = document.root();
    list.elements()
        .filter(|header| {
            header
                .element(0)
                .as_text()
                .is_some_and(|found| found.eq_ignore_ascii_case(name))
        })
        .filter_map(|header| header.element(1).to_text())
        .collect()
}
