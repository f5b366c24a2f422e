#![doc = include_str!("../README.md")]

use sendflowr_plugin_sdk::{
    BasicAuth, BounceType, Descriptor, Event, EventType, Identifier, IdentifierKind, Outcome, Plugin, Proof,
    Proofs, Rejection, Request, Unused, Value, export, reject, skip, time,
};

/// The type of authentication that is assumed if none is configured.
const BASIC: &str = "Basic";

/// The plugin.
pub struct Iterable;

export!(Iterable);

impl Plugin for Iterable {
    fn describe() -> Descriptor {
        let docs = "https://support.iterable.com/hc/en-us/articles/208013936-System-Webhooks";
        Descriptor::new("iterable", "Iterable", env!("CARGO_PKG_VERSION"), docs)
            .secret(
                "auth_token",
                "Token of the webhook's authentication, as entered in Iterable.",
            )
            .setting(
                "auth_type",
                "Type of the webhook's authentication: Basic or OAuth2.",
            )
            .basic_auth()
            .shared_header()
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        if request.has_secret("auth_token") {
            let authorization = request.proof_header("authorization")?.trim_ascii();
            let token = token(
                authorization,
                request.setting("auth_type").unwrap_or(BASIC).trim(),
            )?;
            proofs.shared_secret("header `authorization`", "auth_token", [token]);
        }
        basic_auth(request, &mut proofs)?;
        proofs.shared_header()?;
        Ok(proofs.finish())
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        let document = request.json_object()?;
        let root = document.root();
        if root.text("eventName").is_none() {
            return Err(Rejection::Malformed("the body has no `eventName`".to_owned()));
        }
        Ok(Outcome::of_one(event(root, request.received_at_ms)))
    }
}

/// Returns the token after the word of the configured type. With Basic, Iterable also sends the bare token, so after any other
/// word the whole value is compared, and therefore refused.
fn token<'a>(authorization: &'a str, auth_type: &str) -> Result<&'a str, Rejection> {
    match authorization.split_once(' ') {
        Some((word, token)) if word.eq_ignore_ascii_case(auth_type) => Ok(token.trim_ascii()),
        _ if auth_type.eq_ignore_ascii_case(BASIC) => Ok(authorization),
        _ => Err(Rejection::InvalidProof(
            "header `authorization` does not begin with the configured `auth_type`".to_owned(),
        )),
    }
}

/// Requires basic authentication if it is configured, like [`Proofs::basic_auth`], but without the word `Basic` too.
fn basic_auth(request: &Request, proofs: &mut Proofs<'_>) -> Result<(), Rejection> {
    let (user, password) = ("basic_auth_user", "basic_auth_password");
    if request.has_secret(user) || request.has_secret(password) {
        let presented = request.proof_header("authorization")?.trim();
        let authorization = if presented.contains(' ') {
            presented.to_owned()
        } else {
            format!("{BASIC} {presented}")
        };
        proofs.push(Proof::BasicAuth(BasicAuth {
            authorization,
            user: user.to_owned(),
            password: password.to_owned(),
        }));
    }
    Ok(())
}

fn event(root: Value<'_>, received_at_ms: i64) -> Result<Event, Unused> {
    let name = root.str("eventName");
    let kind = match name.as_ref() {
        "emailSend" => EventType::Sent,
        "emailOpen" => EventType::Opened,
        "emailClick" => EventType::Clicked,
        "emailBounce" => EventType::Bounced,
        "emailComplaint" => EventType::MarkedSpam,
        "emailSendSkip" => EventType::Rejected,
        "emailUnSubscribe" => EventType::Unsubscribed,
        "emailSubscribe" => EventType::Resubscribed,
        "smsClick" => EventType::SmsClick,
        "pushOpen" | "webPushClick" => EventType::PushClick,
        "hostedUnsubscribeClick" => {
            return Err(skip(name, "the unsubscription follows as an event of its own"));
        }
        _ => return Err(skip(name, "not used")),
    };
    let fields = root.get("dataFields");
    let created = fields.get("createdAt");
    let timestamp = match created.as_text() {
        // Skipped sends may come without any field.
        None => received_at_ms,
        Some(text) => time::rfc3339(&text).ok_or_else(|| reject("`createdAt` is not a valid time"))?,
    };
    let either = |name| root.text(name).or_else(|| fields.text(name));
    let machine = matches!(kind, EventType::Opened | EventType::Clicked) && fields.is_true("isBot");
    Ok(Event {
        recipient_email: either("email"),
        identifiers: Identifier::list([(IdentifierKind::ExternalId, either("userId"))]),
        campaign_id: fields.text("campaignId"),
        campaign_name: fields.text("campaignName"),
        message_id: fields.text("messageId"),
        subject: fields.text("emailSubject"),
        click_url: match kind {
            EventType::Clicked => fields.first_text(["url", "linkUrl"]),
            EventType::SmsClick => fields.text("clickedUrl"),
            _ => None,
        },
        user_agent: fields.text("userAgent"),
        ip_address: fields.text("ip"),
        bounce_type: match (kind, fields.str("recipientState").as_ref()) {
            (EventType::Bounced, "HardBounce") => Some(BounceType::Hard),
            (EventType::Bounced, "SoftBounce") => Some(BounceType::Soft),
            _ => None,
        },
        reason: match kind {
            EventType::Rejected => fields.text("reason"),
            EventType::Bounced => fields.text("bounceMessage"),
            _ => None,
        },
        tags: fields.list("labels"),
        is_machine: machine.then_some(true),
        ..Event::new(kind, timestamp)
    })
}

#[cfg(test)]
mod tests;
