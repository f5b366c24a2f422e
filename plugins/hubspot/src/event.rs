//! The two kinds of objects that reach this webhook.

use sendflowr_plugin_sdk::{
    BounceType, Element, Event, EventType, Identifier, IdentifierKind, Unused, Value, reject, skip, time,
};

/// Reads an object: those of the Email Events API have a `type`, notifications about contacts a
/// `subscriptionType`.
pub(crate) fn read(element: Value<'_>) -> Element {
    if element.text("subscriptionType").is_some() {
        return notification(element);
    }
    if element.text("type").is_some() {
        return email_event(element);
    }
    Err(reject("there is neither a `subscriptionType` nor a `type`"))
}

/// Reads a changed property of a contact. It names no address and no message.
fn notification(element: Value<'_>) -> Element {
    let subscription = element.str("subscriptionType");
    let about_contact = match subscription.as_ref() {
        "contact.propertyChange" => true,
        "object.propertyChange" => element.str("objectTypeId") == "0-1",
        _ => false,
    };
    if !about_contact {
        return Err(skip(subscription, "not a property of a contact"));
    }
    let property = element.str("propertyName");
    let kind = property_kind(&property, element.get("propertyValue"))?;
    let is_date = property.starts_with("hs_email_last_");
    let timestamp = if is_date {
        element.time("propertyValue", time::milliseconds)
    } else {
        element.time("occurredAt", time::milliseconds)
    };
    let Some(timestamp) = timestamp else {
        return Err(reject(if is_date {
            "`propertyValue` is not a valid time"
        } else {
            "`occurredAt` is not a valid time"
        }));
    };
    let bounced = kind == EventType::Bounced;
    Ok(Event {
        provider_event_id: element.text("eventId"),
        identifiers: Identifier::list([(IdentifierKind::EspUserId, element.text("objectId"))]),
        bounce_type: bounced.then_some(BounceType::Hard),
        reason: if bounced {
            element.text("propertyValue")
        } else {
            None
        },
        ..Event::new(kind, timestamp)
    })
}

fn property_kind(property: &str, value: Value<'_>) -> Result<EventType, Unused> {
    let kind = match property {
        "hs_email_optout" => return opt_out(property, value),
        "hs_email_last_send_date" => EventType::Sent,
        "hs_email_last_open_date" => EventType::Opened,
        "hs_email_last_click_date" => EventType::Clicked,
        "hs_email_last_reply_date" => EventType::Replied,
        "hs_email_hard_bounce_reason_enum" => EventType::Bounced,
        _ if property.starts_with("hs_email_optout_") => return Err(skip(property, "one subscription type")),
        _ => return Err(skip(property, "a counter, a copy, or not about mail")),
    };
    if value.as_text().is_none() {
        Err(skip(property, "a value was cleared"))
    } else {
        Ok(kind)
    }
}

/// Reads whether the contact has opted out. A cleared value, empty or null, means that it has not; a value that is not there says
/// nothing.
fn opt_out(property: &str, value: Value<'_>) -> Result<EventType, Unused> {
    match value.as_bool() {
        Some(true) => Ok(EventType::Unsubscribed),
        Some(false) => Ok(EventType::Resubscribed),
        None if value.is_missing() => Err(skip(property, "there is no value")),
        None if value.is_null() || value.string().is_some_and(|text| text.is_empty()) => {
            Ok(EventType::Resubscribed)
        }
        None => Err(skip(property, "neither true nor false")),
    }
}

/// Reads an object of the Email Events API, forwarded by a relay.
fn email_event(element: Value<'_>) -> Element {
    let name = element.str("type");
    let kind = match name.as_ref() {
        "SENT" => EventType::Sent,
        "DELIVERED" => EventType::Delivered,
        "DEFERRED" => EventType::Deferred,
        "DROPPED" => EventType::Rejected,
        "BOUNCE" => EventType::Bounced,
        "OPEN" => EventType::Opened,
        "CLICK" => EventType::Clicked,
        "SPAMREPORT" => EventType::MarkedSpam,
        "STATUSCHANGE" => match element.str("portalSubscriptionStatus").as_ref() {
            "UNSUBSCRIBED" => EventType::Unsubscribed,
            "SUBSCRIBED" => EventType::Resubscribed,
            _ => return Err(skip(name, "one subscription type")),
        },
        _ => return Err(skip(name, "not used")),
    };
    let Some(timestamp) = element.time("created", time::milliseconds) else {
        return Err(reject("`created` is not a valid time"));
    };
    // The event of the sending, which all later events of the message name.
    let sending = element.get("sentBy");
    Ok(Event {
        provider_event_id: element.text("id"),
        recipient_email: element.text("recipient"),
        campaign_id: element.text("emailCampaignId"),
        message_id: if kind == EventType::Sent {
            element.text("id")
        } else {
            sending.text("id")
        },
        subject: element.text("subject"),
        click_url: if kind == EventType::Clicked {
            element.text("url")
        } else {
            None
        },
        user_agent: element.text("userAgent"),
        ip_address: element.text("ipAddress"),
        bounce_type: if kind == EventType::Bounced {
            bounce_type(element)
        } else {
            None
        },
        reason: match kind {
            EventType::Deferred | EventType::Bounced => element.text("response"),
            EventType::Rejected => element.first_text(["dropMessage", "dropReason"]),
            _ => None,
        },
        sent_at_ms: sending.time("created", time::milliseconds),
        ..Event::new(kind, timestamp)
    })
}

/// Decides by the SMTP status if there is one, otherwise by HubSpot's category.
fn bounce_type(element: Value<'_>) -> Option<BounceType> {
    match (
        element.str("status").bytes().next(),
        element.str("category").as_ref(),
    ) {
        (Some(b'5'), _) | (None, "UNKNOWN_USER") => Some(BounceType::Hard),
        (Some(b'4'), _) => Some(BounceType::Soft),
        (None, category) if category == "MAILBOX_FULL" || category.starts_with("TEMPORARY") => {
            Some(BounceType::Soft)
        }
        _ => None,
    }
}
