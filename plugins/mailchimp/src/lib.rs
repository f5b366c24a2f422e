#![doc = include_str!("../README.md")]

use sendflowr_plugin_sdk::{
    BounceType, Descriptor, Element, Encoding, Event, EventType, Form, Hash, Identifier, IdentifierKind,
    KeyedHash, Outcome, Part, Plugin, Proof, Proofs, Rejection, Request, export, proof, reject, skip,
    text::present, time,
};

/// The plugin.
pub struct Mailchimp;

export!(Mailchimp);

/// The age of a signature that Mailchimp's guide prescribes.
const TOLERANCE_SECONDS: u64 = 300;

impl Plugin for Mailchimp {
    fn describe() -> Descriptor {
        let docs = "https://mailchimp.com/developer/marketing/guides/sync-audience-data-webhooks/";
        Descriptor::new(
            "mailchimp",
            "Mailchimp (Marketing)",
            env!("CARGO_PKG_VERSION"),
            docs,
        )
        .secret(
            "url_secret",
            "Value of the parameter `secret` in the webhook's URL.",
        )
        .secret(
            "signing_secret",
            "Secret shown once when a webhook with signatures is created.",
        )
        .timestamp_tolerance_within(TOLERANCE_SECONDS)
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        if request.has_secret("url_secret") {
            let Some(presented) = request.query_parameter("secret") else {
                return Err(Rejection::MissingProof(
                    "query parameter `secret` is missing or empty".to_owned(),
                ));
            };
            proofs.shared_secret("query parameter `secret`", "url_secret", [presented.as_str()]);
        }
        // The validation is unsigned, but has the URL's secret.
        if request.has_secret("signing_secret") && !is_validation(request) {
            signature(request, &mut proofs)?;
        }
        let proofs = proofs.finish();
        if proofs.is_empty() && is_validation(request) {
            return Ok(vec![Proof::Handshake]);
        }
        Ok(proofs)
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        if is_validation(request) {
            return Ok(Outcome::nothing());
        }
        let form = Form::of(request)?;
        let Some(kind) = field(&form, "type") else {
            return Err(Rejection::Malformed("the form has no field `type`".to_owned()));
        };
        Ok(Outcome::of_one(event(kind, &form)))
    }
}

/// When a webhook is saved, Mailchimp sends a GET to its URL.
fn is_validation(request: &Request) -> bool {
    matches!(request.method.as_str(), "GET" | "HEAD")
}

/// Reads `t=<seconds>,v1=<hex>`, possibly with several `v1`, and with blanks around everything.
fn signature(request: &Request, proofs: &mut Proofs<'_>) -> Result<(), Rejection> {
    let header = request.proof_header("x-mailchimp-signature")?;
    let parts = || {
        header.split(',').filter_map(|part| {
            let (name, value) = part.split_once('=')?;
            Some((name.trim(), value.trim()))
        })
    };
    let Some((_, signed_at)) = parts().find(|(name, _)| *name == "t") else {
        return Err(Rejection::MissingProof(
            "header `x-mailchimp-signature` has no part `t`".to_owned(),
        ));
    };
    let mut hash = KeyedHash::hmac(Hash::Sha256, "signing_secret", "header `x-mailchimp-signature`")
        .message([proof::part(signed_at), proof::part("."), Part::Body]);
    for (_, signature) in parts().filter(|(name, _)| *name == "v1") {
        hash = hash.signature(signature, Encoding::Hex);
    }
    if hash.signatures.is_empty() {
        return Err(Rejection::MissingProof(
            "header `x-mailchimp-signature` has no part `v1`".to_owned(),
        ));
    }
    proofs.fresh_within(
        TOLERANCE_SECONDS,
        "header `x-mailchimp-signature`",
        signed_at,
        time::seconds,
    )?;
    proofs.push(hash);
    Ok(())
}

/// Returns the first field with this name that is not blank: fields occur twice, and empty.
fn field<'a>(form: &'a Form, name: &str) -> Option<&'a str> {
    form.all(name).find_map(present)
}

fn event(name: &str, form: &Form) -> Element {
    let text = |name| field(form, name).map(str::to_owned);
    let reason = field(form, "data[reason]").unwrap_or_default();
    let (kind, bounce_type) = match (name, reason) {
        // This includes the very first subscription: there is no other type for opting in.
        ("subscribe", _) => (EventType::Resubscribed, None),
        ("unsubscribe" | "cleaned", "abuse") => (EventType::MarkedSpam, None),
        ("unsubscribe", _) => (EventType::Unsubscribed, None),
        ("cleaned", _) => (EventType::Bounced, Some(BounceType::Hard)),
        ("profile" | "upemail", _) => return Err(skip(name, "a change of the profile")),
        ("campaign", _) => return Err(skip(name, "about a campaign, not about a recipient")),
        _ => return Err(skip(name, "not used")),
    };
    let Some(timestamp) = field(form, "fired_at").and_then(time::utc) else {
        return Err(reject("`fired_at` is not a valid time"));
    };
    Ok(Event {
        recipient_email: text("data[email]"),
        identifiers: Identifier::list([(IdentifierKind::EspUserId, text("data[id]"))]),
        campaign_id: match name {
            "unsubscribe" | "cleaned" => text("data[campaign_id]"),
            _ => None,
        },
        bounce_type,
        reason: if name == "cleaned" {
            text("data[reason]")
        } else {
            None
        },
        ..Event::new(kind, timestamp)
    })
}

#[cfg(test)]
mod tests;
