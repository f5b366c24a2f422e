//! The proof of a delivery for each provider, from the sender's side.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use event::Timestamp;
use ring::{hmac, rand::SystemRandom, signature};
use serde_json::Value;

use super::{Delivery, body::Body};

/// Signs bodies for one account.
pub(super) enum Signer {
    /// Headers that never change: basic authentication or a bearer token.
    Headers(Vec<(&'static str, String)>),
    /// A query parameter.
    Query(String),
    SendGrid(signature::EcdsaKeyPair),
    /// HMAC-SHA1 over the URL and the decoded form fields.
    Mandrill {
        key: String,
        url: String,
    },
    /// HMAC-SHA256 inside the body.
    Mailgun(String),
    /// HMAC-SHA256 over the body and the date header.
    Klaviyo(String),
    /// HMAC-SHA256 over `v0:time:body`.
    CustomerIo(String),
    /// HMAC-SHA256 over method, URL, body and time.
    HubSpot {
        secret: String,
        url: String,
    },
    /// HMAC-SHA256 over the body, in hexadecimal.
    MailerSend(String),
    /// HMAC-SHA256 over `id.time.body`.
    Svix(Vec<u8>),
}

/// Generates a new account's configuration and its signer.
pub(super) fn generate(provider: &str, webhook_url: &str) -> (BTreeMap<String, String>, Signer) {
    let secret = random_text();
    let (config, signer) = match provider {
        "sendgrid" => {
            let (pair, public_key) = ecdsa_pair();
            (vec![("public_key", public_key)], Signer::SendGrid(pair))
        }
        "mailgun" => (vec![("signing_key", secret.clone())], Signer::Mailgun(secret)),
        "klaviyo" => (vec![("signing_secret", secret.clone())], Signer::Klaviyo(secret)),
        "customerio" => (
            vec![("signing_secret", secret.clone())],
            Signer::CustomerIo(secret),
        ),
        "mailersend" => (
            vec![("signing_secret", secret.clone())],
            Signer::MailerSend(secret),
        ),
        "resend" => {
            let key = secret.into_bytes();
            (
                vec![("signing_secret", format!("whsec_{}", STANDARD.encode(&key)))],
                Signer::Svix(key),
            )
        }
        "mandrill" => (
            vec![
                ("webhook_key", secret.clone()),
                ("webhook_url", webhook_url.to_owned()),
            ],
            Signer::Mandrill {
                key: secret,
                url: webhook_url.to_owned(),
            },
        ),
        "hubspot" => (
            vec![
                ("client_secret", secret.clone()),
                ("webhook_url", webhook_url.to_owned()),
            ],
            Signer::HubSpot {
                secret,
                url: webhook_url.to_owned(),
            },
        ),
        "mailchimp" => (
            vec![("url_secret", secret.clone())],
            Signer::Query(format!("secret={secret}")),
        ),
        "braze" => (
            vec![("bearer_token", secret.clone())],
            Signer::Headers(vec![("authorization", format!("Bearer {secret}"))]),
        ),
        "iterable" => (
            vec![("auth_type", "Basic".to_owned()), ("auth_token", secret.clone())],
            Signer::Headers(vec![("authorization", format!("Basic {secret}"))]),
        ),
        // postmark, ses, sparkpost, brevo, mailjet
        _ => {
            let authorization = format!("Basic {}", STANDARD.encode(format!("demo:{secret}")));
            let mut headers = vec![("authorization", authorization)];
            let mut config = vec![
                ("basic_auth_user", "demo".to_owned()),
                ("basic_auth_password", secret),
            ];
            if provider == "ses" {
                // Raw delivery: the event without the envelope that would contain a signature.
                headers.push(("x-amz-sns-rawdelivery", "true".to_owned()));
                let topic = "arn:aws:sns:us-east-1:123456789012:demo";
                config.push(("topic_arn", topic.to_owned()));
            }
            (config, Signer::Headers(headers))
        }
    };
    (
        config
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        signer,
    )
}

impl Signer {
    /// Returns the delivery of this body, including its proof.
    pub(super) fn sign(&self, body: Body, now: Timestamp) -> Delivery {
        let Body {
            mut bytes,
            content_type,
            fields,
            actions,
        } = body;
        let mut headers = vec![("content-type".to_owned(), content_type.to_owned())];
        let mut header = |name: &str, value: String| headers.push((name.to_owned(), value));
        let mut query = String::new();
        let seconds = now.as_seconds().to_string();
        match self {
            Self::Headers(fixed) => fixed.iter().for_each(|(name, value)| header(name, value.clone())),
            Self::Query(parameter) => query.clone_from(parameter),
            Self::SendGrid(pair) => {
                let message = [seconds.as_bytes(), &bytes].concat();
                let signed = pair
                    .sign(&SystemRandom::new(), &message)
                    .expect("the system's random source works");
                header("x-twilio-email-event-webhook-signature", STANDARD.encode(signed));
                header("x-twilio-email-event-webhook-timestamp", seconds);
            }
            Self::Mandrill { key, url } => {
                let mut sorted = fields;
                sorted.sort();
                let pairs: String = sorted
                    .iter()
                    .map(|(name, value)| format!("{name}{value}"))
                    .collect();
                let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
                header(
                    "x-mandrill-signature",
                    STANDARD.encode(hmac::sign(&key, format!("{url}{pairs}").as_bytes())),
                );
            }
            Self::Mailgun(key) => {
                let token = random_text();
                let signed = hex::encode(hmac_sha256(
                    key.as_bytes(),
                    &[seconds.as_bytes(), token.as_bytes()],
                ));
                let mut value: Value = serde_json::from_slice(&bytes).expect("the body was made here");
                value["signature"] =
                    serde_json::json!({ "timestamp": seconds, "token": token, "signature": signed });
                bytes = value.to_string().into_bytes();
            }
            Self::Klaviyo(key) => {
                let date = now.to_jiff().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                header(
                    "klaviyo-signature",
                    hex::encode(hmac_sha256(key.as_bytes(), &[&bytes, date.as_bytes()])),
                );
                header("klaviyo-timestamp", date);
                header("klaviyo-webhook-id", "demo-webhook".to_owned());
            }
            Self::CustomerIo(key) => {
                let signed = hmac_sha256(key.as_bytes(), &[b"v0:", seconds.as_bytes(), b":", &bytes]);
                header("x-cio-signature", hex::encode(signed));
                header("x-cio-timestamp", seconds);
            }
            Self::HubSpot { secret, url } => {
                let millis = now.as_millis().to_string();
                let signed = hmac_sha256(
                    secret.as_bytes(),
                    &[b"POST", url.as_bytes(), &bytes, millis.as_bytes()],
                );
                header("x-hubspot-signature-v3", STANDARD.encode(signed));
                header("x-hubspot-request-timestamp", millis);
            }
            Self::MailerSend(key) => header("signature", hex::encode(hmac_sha256(key.as_bytes(), &[&bytes]))),
            Self::Svix(key) => {
                let id = format!("msg_{}", random_text());
                let signed = hmac_sha256(key, &[id.as_bytes(), b".", seconds.as_bytes(), b".", &bytes]);
                header("svix-id", id);
                header("svix-timestamp", seconds);
                header("svix-signature", format!("v1,{}", STANDARD.encode(signed)));
            }
        }
        Delivery {
            query,
            headers,
            body: bytes,
            actions,
        }
    }
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    context.sign()
}

/// Returns 32 hexadecimal digits from the system's random source.
fn random_text() -> String {
    let bytes: [u8; 16] = ring::rand::generate(&SystemRandom::new())
        .expect("the system's random source works")
        .expose();
    hex::encode(bytes)
}

/// The DER prefix of a SubjectPublicKeyInfo for an uncompressed P-256 point (RFC 5480): everything before the point.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Generates a key pair, and its public key as the provider shows it: base64 of the SubjectPublicKeyInfo.
fn ecdsa_pair() -> (signature::EcdsaKeyPair, String) {
    let algorithm = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    let random = SystemRandom::new();
    let document = signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random)
        .expect("the system's random source works");
    let pair = signature::EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random)
        .expect("a key pair that was just made is valid");
    let point = signature::KeyPair::public_key(&pair);
    let public_key = STANDARD.encode([&P256_SPKI_PREFIX[..], point.as_ref()].concat());
    (pair, public_key)
}
