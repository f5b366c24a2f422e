//! Reads the SNS envelope: what is signed, and by whom.

use std::borrow::Cow;

use sendflowr_plugin_sdk::{
    Document, Encoding, Proofs, PublicKey, PublicKeySignature, Rejection, Request, SignatureScheme, Value,
    proof, time,
};

/// The type of a message from SNS.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Notification,
    SubscriptionConfirmation,
    UnsubscribeConfirmation,
}

impl Kind {
    /// Returns the fields that are signed, in this order; absent ones are left out.
    fn signed_fields(self) -> &'static [&'static str] {
        match self {
            Kind::Notification => &["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"],
            Kind::SubscriptionConfirmation | Kind::UnsubscribeConfirmation => &[
                "Message",
                "MessageId",
                "SubscribeURL",
                "Timestamp",
                "Token",
                "TopicArn",
                "Type",
            ],
        }
    }
}

pub(crate) struct Envelope<'a> {
    pub(crate) kind: Kind,
    fields: Value<'a>,
}

/// Checks whether the delivery is the event itself, without an envelope.
pub(crate) fn is_raw(request: &Request) -> bool {
    request
        .header("x-amz-sns-rawdelivery")
        .is_some_and(|raw| raw.trim().eq_ignore_ascii_case("true"))
}

/// Returns what follows `https://sns.<region>.amazonaws.com/`, or the same for the Chinese regions; `None` if the text begins
/// otherwise.
///
/// The text itself is checked, not what a URL parser makes of it: `https:\\` or a leading blank would still lead somewhere.
pub(crate) fn path_at_sns(url: &str) -> Option<&str> {
    let (region, rest) = url.strip_prefix("https://sns.")?.split_once('.')?;
    let path = rest
        .strip_prefix("amazonaws.com/")
        .or_else(|| rest.strip_prefix("amazonaws.com.cn/"))?;
    is_region(region).then_some(path)
}

/// Checks for words and a number with hyphens between them: `eu-west-1`, `us-gov-east-1`. `sns.s3.amazonaws.com` and
/// `sns.s3-eu-west-1.amazonaws.com` do not belong to regions but to buckets, which anybody might own.
fn is_region(name: &str) -> bool {
    let Some((words, number)) = name.rsplit_once('-') else {
        return false;
    };
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    words.contains('-')
        && words.split('-').all(is_word)
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Checks whether the URL is a file `<name>.pem` at SNS, and nothing else: with a query the sender could choose the response, and
/// escapes, folders and the like would give one certificate many URLs.
fn is_certificate(url: &str) -> bool {
    let name = path_at_sns(url).and_then(|path| path.strip_suffix(".pem"));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(is_plain))
}

/// Refuses a raw delivery of another topic than the configured one. Only the header names the topic, which is no proof of it.
pub(crate) fn check_topic_header(request: &Request) -> Result<(), Rejection> {
    match (
        request.setting("topic_arn"),
        request.header("x-amz-sns-topic-arn"),
    ) {
        (Some(expected), Some(named)) if named.trim() != expected.trim() => Err(Rejection::InvalidProof(
            "header `x-amz-sns-topic-arn` is not the configured topic".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Refuses a body without a signature, whatever it is, for that: it may be an event without an envelope.
pub(crate) fn check_signed(fields: Value<'_>) -> Result<(), Rejection> {
    proof_field(fields, "Signature").map(|_| ())
}

/// Returns a field that the proof needs.
fn proof_field(fields: Value<'_>, name: &str) -> Result<String, Rejection> {
    fields
        .text(name)
        .ok_or_else(|| Rejection::MissingProof(format!("field `{name}` is missing or empty")))
}

impl<'a> Envelope<'a> {
    pub(crate) fn of(document: &'a Document<'a>) -> Result<Envelope<'a>, Rejection> {
        let fields = document.root();
        let kind = match fields.str("Type").as_ref() {
            "Notification" => Kind::Notification,
            "SubscriptionConfirmation" => Kind::SubscriptionConfirmation,
            "UnsubscribeConfirmation" => Kind::UnsubscribeConfirmation,
            _ => {
                return Err(Rejection::Malformed(
                    "the body is not an SNS envelope: SNS has no such `Type`".to_owned(),
                ));
            }
        };
        Ok(Envelope { kind, fields })
    }

    /// Demands SNS's signature, the topic and, if a tolerance is set, a recent time.
    pub(crate) fn prove(&self, request: &Request, proofs: &mut Proofs<'_>) -> Result<(), Rejection> {
        match request.setting("topic_arn") {
            Some(expected) if self.fields.str("TopicArn") == expected.trim() => {}
            Some(_) => {
                return Err(Rejection::InvalidProof(
                    "`TopicArn` is not the configured topic".to_owned(),
                ));
            }
            // The operator's own user and password also say whose topic it is.
            None if request.has_secret("basic_auth_user") => {}
            None => {
                return Err(Rejection::InvalidProof(
                    "setting `topic_arn` is not set: SNS's signature alone proves only that some AWS account sent it"
                        .to_owned(),
                ));
            }
        }
        let proof_field = |name| proof_field(self.fields, name);
        let signature = proof_field("Signature")?;
        let url = proof_field("SigningCertURL")?;
        let scheme = match proof_field("SignatureVersion")?.as_str() {
            "1" => SignatureScheme::RsaPkcs1Sha1,
            "2" => SignatureScheme::RsaPkcs1Sha256,
            _ => {
                return Err(Rejection::InvalidProof(
                    "`SignatureVersion` is neither 1 nor 2".to_owned(),
                ));
            }
        };
        if !is_certificate(&url) {
            return Err(Rejection::InvalidProof(
                "`SigningCertURL` is not where SNS keeps its certificates".to_owned(),
            ));
        }
        let signed = PublicKeySignature::new(scheme, PublicKey::CertificateUrl(url), "field `Signature`");
        proofs.push(
            signed
                .message([proof::part(self.signed_text())])
                .signature(&signature, Encoding::Base64),
        );
        proofs.fresh("field `Timestamp`", &proof_field("Timestamp")?, time::rfc3339)
    }

    /// Returns name and value of each signed field, each followed by a line feed.
    fn signed_text(&self) -> String {
        let mut text = String::new();
        for name in self.kind.signed_fields() {
            if let Some(value) = self.fields.get(name).string() {
                text.push_str(name);
                text.push('\n');
                text.push_str(&value);
                text.push('\n');
            }
        }
        text
    }

    /// Returns a field that the envelope must have.
    pub(crate) fn text(&self, name: &str) -> Result<Cow<'a, str>, Rejection> {
        self.fields
            .get(name)
            .string()
            .ok_or_else(|| Rejection::Malformed(format!("the envelope has no text `{name}`")))
    }

    pub(crate) fn optional(&self, name: &str) -> Option<String> {
        self.fields.text(name)
    }

    pub(crate) fn time(&self) -> Option<i64> {
        self.fields.time("Timestamp", time::rfc3339)
    }
}
