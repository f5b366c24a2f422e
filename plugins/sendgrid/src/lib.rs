#![doc = include_str!("../README.md")]

use sendflowr_plugin_sdk::{
    BounceType, Descriptor, Element, Encoding, Event, EventType, Outcome, Pair, Part, Plugin, Proof, Proofs,
    PublicKey, PublicKeySignature, Rejection, Request, SignatureScheme, Unused, Value, proof, reject, skip,
    text, time,
};

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";

/// The plugin.
pub struct SendGrid;

impl Plugin for SendGrid {
    fn describe() -> Descriptor {
        Descriptor::new(
            "sendgrid",
            "SendGrid",
            env!("CARGO_PKG_VERSION"),
            "https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event",
        )
        .secret(
            "public_key",
            "Verification key of the Signed Event Webhook, base64 or PEM.",
        )
        .basic_auth()
        .timestamp_tolerance()
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        proofs.basic_auth()?;
        if request.has_secret("public_key") {
            let signature = request.proof_header(SIGNATURE)?;
            let timestamp = request.proof_header(TIMESTAMP)?;
            let key = PublicKey::Secret("public_key".to_owned());
            proofs.push(
                PublicKeySignature::new(
                    SignatureScheme::EcdsaP256Sha256,
                    key,
                    &format!("header `{SIGNATURE}`"),
                )
                .message([proof::part(timestamp), Part::Body])
                .signature(signature, Encoding::Base64),
            );
            proofs.fresh(&format!("header `{TIMESTAMP}`"), timestamp, time::seconds)?;
        }
        Ok(proofs.finish())
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        Outcome::of_array(&request.body, event)
    }
}

fn event(element: Value<'_>) -> Element {
    let fields = Fields::read(element);
    let (event_type, bounce_type) = classify(&fields)?;
    let email = fields
        .email
        .to_text()
        .ok_or_else(|| reject("`email` is missing"))?;
    let at = fields
        .timestamp
        .as_text()
        .and_then(|text| time::seconds_or_milliseconds(&text));
    let at = at.ok_or_else(|| reject("`timestamp` is missing or unreadable"))?;

    use EventType::{Bounced, Clicked, Deferred, Opened, Rejected, Resubscribed, Unsubscribed};
    // For other types `ip` is SendGrid's own address, and the unsubscribe events have a `url` that nobody
    // clicked.
    let of_recipient = matches!(event_type, Opened | Clicked | Unsubscribed | Resubscribed);
    Ok(Event {
        provider_event_id: fields.sg_event_id.to_text(),
        recipient_email: Some(email),
        message_id: fields
            .sg_message_id
            .to_text()
            .or_else(|| fields.smtp_id.to_text()),
        campaign_id: fields.campaign_id.into_iter().find_map(Value::to_text),
        campaign_name: fields.campaign_name.into_iter().find_map(Value::to_text),
        click_url: if event_type == Clicked {
            fields.url.to_text()
        } else {
            None
        },
        user_agent: fields.useragent.to_text(),
        ip_address: if of_recipient { fields.ip.to_text() } else { None },
        bounce_type,
        reason: match event_type {
            Bounced | Rejected => fields.reason.to_text(),
            Deferred => fields.response.to_text(),
            _ => None,
        },
        tags: fields.category.to_list(),
        metadata: fields.metadata,
        is_machine: (fields.sg_machine_open.as_bool() == Some(true)).then_some(true),
        ..Event::new(event_type, at)
    })
}

/// Returns the event type by name, and for a bounce whether it is permanent.
fn classify(fields: &Fields<'_>) -> Result<(EventType, Option<BounceType>), Unused> {
    let name = fields.event.as_text().unwrap_or_default();
    Ok(match name.to_ascii_lowercase().as_str() {
        "processed" => (EventType::Sent, None),
        "delivered" => (EventType::Delivered, None),
        "deferred" => (EventType::Deferred, None),
        "bounce" => (EventType::Bounced, Some(bounce_type(fields))),
        "dropped" => (EventType::Rejected, None),
        "open" => (EventType::Opened, None),
        "click" => (EventType::Clicked, None),
        "spamreport" => (EventType::MarkedSpam, None),
        "unsubscribe" | "group_unsubscribe" => (EventType::Unsubscribed, None),
        "group_resubscribe" => (EventType::Resubscribed, None),
        "account_status_change" => return Err(skip(name, "about the account, not about a message")),
        "" => return Err(reject("`event` is missing")),
        _ => return Err(skip(name, "unknown event")),
    })
}

fn bounce_type(fields: &Fields<'_>) -> BounceType {
    match fields.kind.as_text().unwrap_or_default().as_ref() {
        "bounce" => BounceType::Hard,
        "blocked" | "expired" => BounceType::Soft,
        _ if fields
            .status
            .as_text()
            .is_some_and(|status| status.starts_with('4')) =>
        {
            BounceType::Soft
        }
        _ => BounceType::Hard,
    }
}

/// The fields of one element, sorted in one pass: those with names that SendGrid reserves, and the sender's
/// custom arguments.
struct Fields<'a> {
    /// Of a marketing campaign, a single send, or an automation: a mail is of one of them.
    campaign_id: [Value<'a>; 3],
    campaign_name: [Value<'a>; 3],
    category: Value<'a>,
    email: Value<'a>,
    event: Value<'a>,
    ip: Value<'a>,
    kind: Value<'a>,
    reason: Value<'a>,
    response: Value<'a>,
    sg_event_id: Value<'a>,
    sg_machine_open: Value<'a>,
    sg_message_id: Value<'a>,
    smtp_id: Value<'a>,
    status: Value<'a>,
    timestamp: Value<'a>,
    url: Value<'a>,
    useragent: Value<'a>,
    metadata: Vec<Pair>,
}

impl<'a> Fields<'a> {
    fn read(element: Value<'a>) -> Fields<'a> {
        let none = Value::MISSING;
        let mut fields = Fields {
            campaign_id: [none; 3],
            campaign_name: [none; 3],
            category: none,
            email: none,
            event: none,
            ip: none,
            kind: none,
            reason: none,
            response: none,
            sg_event_id: none,
            sg_machine_open: none,
            sg_message_id: none,
            smtp_id: none,
            status: none,
            timestamp: none,
            url: none,
            useragent: none,
            metadata: Vec::new(),
        };
        for (name, value) in element.entries() {
            match name.as_bytes() {
                b"category" => fields.category = value,
                b"email" => fields.email = value,
                b"event" => fields.event = value,
                b"ip" => fields.ip = value,
                b"marketing_campaign_id" => fields.campaign_id[0] = value,
                b"marketing_campaign_name" => fields.campaign_name[0] = value,
                b"mc_auto_id" => fields.campaign_id[2] = value,
                b"mc_auto_name" => fields.campaign_name[2] = value,
                b"reason" => fields.reason = value,
                b"response" => fields.response = value,
                b"sg_event_id" => fields.sg_event_id = value,
                b"sg_machine_open" => fields.sg_machine_open = value,
                b"sg_message_id" => fields.sg_message_id = value,
                b"singlesend_id" => fields.campaign_id[1] = value,
                b"singlesend_name" => fields.campaign_name[1] = value,
                b"smtp-id" => fields.smtp_id = value,
                b"status" => fields.status = value,
                b"timestamp" => fields.timestamp = value,
                b"type" => fields.kind = value,
                b"url" => fields.url = value,
                b"useragent" => fields.useragent = value,
                b"asm_group_id"
                | b"attempt"
                | b"bounce_classification"
                | b"cert_err"
                | b"domain"
                | b"from"
                | b"marketing_campaign_split_id"
                | b"marketing_campaign_version"
                | b"mc_auto_msg_id"
                | b"mc_auto_step_id"
                | b"mc_auto_unique_id"
                | b"mc_pod_id"
                | b"mc_stats"
                | b"newsletter"
                | b"phase_id"
                | b"pool"
                | b"post_type"
                | b"send_at"
                | b"sg_content_type"
                | b"sg_template_id"
                | b"sg_template_name"
                | b"sg_user_id"
                | b"template_hash"
                | b"template_id"
                | b"template_version_id"
                | b"tls"
                | b"url_offset" => {}
                _ => {
                    if let Some(value) = value.to_metadata() {
                        fields.metadata.push(Pair {
                            name: text::owned(name),
                            value,
                        });
                    }
                }
            }
        }
        fields
    }
}

sendflowr_plugin_sdk::export!(SendGrid);

#[cfg(test)]
mod tests;
