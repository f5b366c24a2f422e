#![doc = include_str!("../README.md")]

use sendflowr_plugin_sdk::{
    BounceType, Descriptor, Element, Event, EventType, Outcome, Plugin, Proof, Proofs, Rejection, Request,
    Unused, Value, export, reject, skip, time,
};

/// The plugin.
pub struct SparkPost;

export!(SparkPost);

impl Plugin for SparkPost {
    fn describe() -> Descriptor {
        let docs = "https://developers.sparkpost.com/api/webhooks/";
        Descriptor::new("sparkpost", "SparkPost (Bird)", env!("CARGO_PKG_VERSION"), docs)
            .basic_auth()
            .bearer_token()
            .shared_header()
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        Proofs::credentials(request)
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        Outcome::of_array(&request.body, element)
    }
}

/// Reads an element `{"msys": {"<class>": {…}}}`; the event's own type decides, not its class.
fn element(element: Value<'_>) -> Element {
    let classes = element.get("msys");
    match classes.entries().next() {
        Some((_, event)) => read(event),
        None if classes.is_object() => Err(skip("test", "the request by which a webhook is tested")),
        None => Err(reject("there is no object `msys`")),
    }
}

fn read(event: Value<'_>) -> Element {
    let name = event.str("type");
    let (kind, bounce_type) = match name.as_ref() {
        "injection" => (EventType::Sent, None),
        "delivery" => (EventType::Delivered, None),
        "delay" => (EventType::Deferred, None),
        "bounce" | "out_of_band" => bounce(&event.str("bounce_class"))?,
        "policy_rejection" | "generation_rejection" | "generation_failure" => (EventType::Rejected, None),
        "spam_complaint" => (EventType::MarkedSpam, None),
        "open" | "amp_open" => (EventType::Opened, None),
        "click" | "amp_click" => (EventType::Clicked, None),
        "list_unsubscribe" | "link_unsubscribe" => (EventType::Unsubscribed, None),
        "initial_open" | "amp_initial_open" => {
            return Err(skip(name, "the same view also fires `open`, which is counted"));
        }
        _ => return Err(skip(name, "not about a recipient of an outgoing message")),
    };
    let Some(timestamp) = event
        .time("timestamp", time::seconds)
        .or_else(|| event.time("timestamp", time::rfc3339))
    else {
        return Err(reject("`timestamp` is not a valid time"));
    };
    let reason = match kind {
        EventType::Bounced | EventType::Deferred | EventType::Rejected => {
            event.first_text(["raw_reason", "reason"])
        }
        _ => None,
    };
    // By a mail program that loads pictures before the person looks. `is_proxy` is not that: Gmail's loads them when the person does.
    let is_prefetched = event.get("user_agent_parsed").is_true("is_prefetched");
    // In message events this is the receiving mail server's address.
    let shows_device = matches!(kind, EventType::Opened | EventType::Clicked);
    Ok(Event {
        provider_event_id: event.text("event_id"),
        recipient_email: event.first_text(["raw_rcpt_to", "rcpt_to"]),
        campaign_id: event.text("campaign_id"),
        message_id: event.first_text(["message_id", "transmission_id"]),
        subject: event.text("subject"),
        click_url: if kind == EventType::Clicked {
            event.text("target_link_url")
        } else {
            None
        },
        user_agent: event.text("user_agent"),
        ip_address: if shows_device {
            event.text("ip_address")
        } else {
            None
        },
        bounce_type,
        reason,
        tags: event.list("rcpt_tags"),
        metadata: event.pairs("rcpt_meta"),
        is_machine: (shows_device && is_prefetched).then_some(true),
        sent_at_ms: event.time("injection_time", time::rfc3339),
        ..Event::new(kind, timestamp)
    })
}

/// Classifies a bounce by SparkPost's number.
fn bounce(class: &str) -> Result<(EventType, Option<BounceType>), Unused> {
    match class {
        // Invalid recipient, no recipient, suppressed by an administrator.
        "10" | "30" | "25" => Ok((EventType::Bounced, Some(BounceType::Hard))),
        "90" => Ok((EventType::Unsubscribed, None)),
        "60" | "80" | "100" => Err(skip(
            "bounce",
            format!("class {class} is an automatic answer, not a bounce"),
        )),
        _ => Ok((EventType::Bounced, Some(BounceType::Soft))),
    }
}

#[cfg(test)]
mod tests;
