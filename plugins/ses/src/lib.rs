#![doc = include_str!("../README.md")]

mod event;
mod sns;

use sendflowr_plugin_sdk::{
    Descriptor, Document, Outcome, Plugin, Proof, Proofs, Rejection, Request, export, skip,
};

use crate::sns::{Envelope, Kind};

/// The plugin.
pub struct Ses;

export!(Ses);

/// The text that SES publishes once when a topic is attached.
const TOPIC_VALIDATION: &str = "Successfully validated SNS topic for Amazon SES event publishing.";

impl Plugin for Ses {
    fn describe() -> Descriptor {
        let docs = "https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html";
        Descriptor::new("ses", "Amazon SES (through SNS)", env!("CARGO_PKG_VERSION"), docs)
            .required_setting(
                "topic_arn",
                "ARN of the SNS topic; a good signature alone only proves that some AWS account sent it.",
            )
            .basic_auth()
            .timestamp_tolerance()
            .host("sns.*.amazonaws.com")
            .host("sns.*.amazonaws.com.cn")
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        if !is_configured(request) {
            // A signature would prove nothing: the host refuses the delivery unless the account accepts unsigned ones.
            return Ok(proofs.finish());
        }
        proofs.basic_auth()?;
        if sns::is_raw(request) {
            // Without the envelope there is no signature: only basic authentication can prove the delivery.
            sns::check_topic_header(request)?;
            return Ok(proofs.finish());
        }
        let document = request.json_object()?;
        sns::check_signed(document.root())?;
        Envelope::of(&document)?.prove(request, &mut proofs)?;
        Ok(proofs.finish())
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        let document = request.json_object()?;
        if sns::is_raw(request) {
            let id = request.header("x-amz-sns-message-id").map(str::to_owned);
            return Ok(Outcome::Events(event::batch(document.root(), id, None)));
        }
        let envelope = Envelope::of(&document)?;
        match envelope.kind {
            Kind::SubscriptionConfirmation => {
                let url = envelope.text("SubscribeURL")?;
                if sns::path_at_sns(&url).is_none() {
                    return Err(Rejection::InvalidProof("`SubscribeURL` is not at SNS".to_owned()));
                }
                Ok(Outcome::Confirm(url.into_owned()))
            }
            // Fetching this one's URL would subscribe again.
            Kind::UnsubscribeConfirmation => Ok(Outcome::nothing()),
            Kind::Notification => notification(&envelope),
        }
    }
}

/// Checks whether anything is configured that tells whose deliveries are accepted.
fn is_configured(request: &Request) -> bool {
    request.setting("topic_arn").is_some()
        || request.has_secret("basic_auth_user")
        || request.has_secret("basic_auth_password")
}

fn notification(envelope: &Envelope<'_>) -> Result<Outcome, Rejection> {
    let message = envelope.text("Message")?;
    let inner = Document::parse(message.as_bytes());
    let Some(inner) = inner.ok().filter(|inner| inner.root().is_object()) else {
        let unused = if message.trim() == TOPIC_VALIDATION {
            skip("topic-validation", "sent once, when the topic is attached")
        } else {
            // Anything can be published to a topic, for example from the SNS console.
            skip(
                "not-json",
                "`Message` is not a JSON object, so it is not from SES",
            )
        };
        return Ok(Outcome::of_one(Err(unused)));
    };
    Ok(Outcome::Events(event::batch(
        inner.root(),
        envelope.optional("MessageId"),
        envelope.time(),
    )))
}

#[cfg(test)]
mod tests;
