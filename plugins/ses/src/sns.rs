//! The SNS envelope: what is signed, and by whom.

use std::borrow::Cow;

use sendflowr_plugin_sdk::{
    Document, Encoding, Proofs, PublicKey, PublicKeySignature, Rejection, Request, SignatureScheme, Value,
    proof, time,
};

/// What SNS sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Notification,
    SubscriptionConfirmation,
    UnsubscribeConfirmation,
}

impl Kind {
    /// The fields that are signed, in this order; absent ones are left out.
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

/// Whether the delivery is the event itself, without an envelope.
pub(crate) fn is_raw(request: &Request) -> bool {
    request
        .header("x-amz-sns-rawdelivery")
        .is_some_and(|raw| raw.trim().eq_ignore_ascii_case("true"))
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
                    "the body is no SNS envelope: `Type` is none that SNS has".to_owned(),
                ));
            }
        };
        Ok(Envelope { kind, fields })
    }

    /// Demands SNS's signature, the topic and, where a tolerance is set, a recent time.
    pub(crate) fn prove(&self, request: &Request, proofs: &mut Proofs<'_>) -> Result<(), Rejection> {
        if let Some(expected) = request.setting("topic_arn")
            && self.fields.str("TopicArn") != expected.trim()
        {
            return Err(Rejection::InvalidProof(
                "`TopicArn` is not the configured topic".to_owned(),
            ));
        }
        let proof_field = |name| {
            self.fields
                .text(name)
                .ok_or_else(|| Rejection::MissingProof(format!("field `{name}` is missing or empty")))
        };
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
        if !url.ends_with(".pem") {
            return Err(Rejection::InvalidProof(
                "`SigningCertURL` names no .pem file".to_owned(),
            ));
        }
        // `sns.s3.amazonaws.com` fits the pattern of SNS's hosts and is a bucket that anybody might own.
        if url.to_ascii_lowercase().starts_with("https://sns.s3") {
            return Err(Rejection::InvalidProof(
                "`SigningCertURL` lies in a bucket, not at SNS".to_owned(),
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

    /// Name and value of each signed field, each followed by a line feed.
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

    /// A field that the envelope must have.
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
