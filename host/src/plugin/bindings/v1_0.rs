//! Contract version 1.0, generated from `wit/1.0.0`, and its conversions to the newest version's types.
//!
//! Frozen with its contract: binaries for 1.0 will always be served. Texts and lists are moved; only the tables of
//! headers and settings are copied, and the body is borrowed.

// Parameters are borrowed, so that a request needs no copy of its body.
wasmtime::component::bindgen!({
    path: "../wit/1.0.0",
    world: "connector",
    ownership: Borrowing { duplicate_if_necessary: true },
    additional_derives: [PartialEq],
    exports: { default: async },
});

use sendflowr::connector::types;

use super::types as newest;
use crate::plugin::sandbox::Sandbox;

impl types::Host for Sandbox {}

/// A request in the types of this contract version.
pub(crate) struct RequestParts<'a> {
    headers: Vec<types::HeaderParam<'a>>,
    settings: Vec<types::Setting<'a>>,
    secrets: Vec<&'a str>,
    whole: &'a newest::Request,
}

impl<'a> RequestParts<'a> {
    pub(crate) fn of(whole: &'a newest::Request) -> Self {
        let headers = whole.headers.iter().map(|header| types::HeaderParam {
            name: &header.name,
            value: &header.value,
        });
        let settings = whole.settings.iter().map(|setting| types::Setting {
            name: &setting.name,
            value: &setting.value,
        });
        Self {
            headers: headers.collect(),
            settings: settings.collect(),
            secrets: whole.secrets.iter().map(String::as_str).collect(),
            whole,
        }
    }

    pub(crate) fn request(&self) -> types::Request<'_> {
        types::Request {
            method: &self.whole.method,
            path: &self.whole.path,
            query: &self.whole.query,
            headers: &self.headers,
            body: &self.whole.body,
            received_at_ms: self.whole.received_at_ms,
            settings: &self.settings,
            secrets: &self.secrets,
        }
    }
}

fn all<Old, New: From<Old>>(list: Vec<Old>) -> Vec<New> {
    list.into_iter().map(New::from).collect()
}

/// Converts records whose fields have not changed since 1.0, field by field.
macro_rules! same_record {
    ($($name:ident { $($field:ident),+ $(,)? })+) => {$(
        impl From<types::$name> for newest::$name {
            fn from(old: types::$name) -> Self {
                Self { $($field: old.$field.into()),+ }
            }
        }
    )+};
}

/// Converts enums whose cases have not changed since 1.0.
macro_rules! same_enum {
    ($($name:ident { $($case:ident),+ $(,)? })+) => {$(
        impl From<types::$name> for newest::$name {
            fn from(old: types::$name) -> Self {
                match old { $(types::$name::$case => Self::$case),+ }
            }
        }
    )+};
}

same_enum! {
    Encoding { Utf8, Hex, Base64 }
    Hash { Sha1, Sha256, Sha512 }
    HashConstruction { Hmac, KeyThenMessage }
    SignatureScheme { EcdsaP256Sha256, RsaPkcs1Sha1, RsaPkcs1Sha256, Ed25519 }
    EventType {
        Sent, Delivered, Deferred, Bounced, Rejected, Opened, Clicked, Unsubscribed, Resubscribed, MarkedSpam, Replied,
        Converted, SiteVisit, ProductView, SmsClick, PushClick, SupportTicket,
    }
    BounceType { Hard, Soft }
    IdentifierKind { PhoneNumber, KlaviyoId, EspUserId, ShopifyCustomerId, ExternalId }
}

same_record! {
    SecretSpec { name, summary, required }
    SettingSpec { name, summary, required }
    Statuses { unproven, malformed, unavailable }
    Signature { text, encoding }
    SecretKey { name, encoding, strip_prefix }
    SharedSecret { source, secret, presented }
    BasicAuth { authorization, user, password }
    Freshness { source, signed_at_ms, tolerance_ms }
    Identifier { kind, value }
    Pair { name, value }
    Skipped { index, provider_type, reason }
    Rejected { index, reason }
}

impl From<types::Descriptor> for newest::Descriptor {
    fn from(old: types::Descriptor) -> Self {
        Self {
            slug: old.slug,
            display_name: old.display_name,
            version: old.version,
            docs_url: old.docs_url,
            secrets: all(old.secrets),
            settings: all(old.settings),
            hosts: old.hosts,
            statuses: old.statuses.into(),
        }
    }
}

impl From<types::Part> for newest::Part {
    fn from(old: types::Part) -> Self {
        match old {
            types::Part::Bytes(bytes) => Self::Bytes(bytes),
            types::Part::Body => Self::Body,
        }
    }
}

impl From<types::HashKey> for newest::HashKey {
    fn from(old: types::HashKey) -> Self {
        match old {
            types::HashKey::Secret(key) => Self::Secret(key.into()),
            types::HashKey::Published(bytes) => Self::Published(bytes),
        }
    }
}

impl From<types::PublicKey> for newest::PublicKey {
    fn from(old: types::PublicKey) -> Self {
        match old {
            types::PublicKey::Secret(name) => Self::Secret(name),
            types::PublicKey::CertificateUrl(url) => Self::CertificateUrl(url),
        }
    }
}

impl From<types::KeyedHash> for newest::KeyedHash {
    fn from(old: types::KeyedHash) -> Self {
        Self {
            source: old.source,
            construction: old.construction.into(),
            hash: old.hash.into(),
            key: old.key.into(),
            messages: old.messages.into_iter().map(all).collect(),
            signatures: all(old.signatures),
        }
    }
}

impl From<types::PublicKeySignature> for newest::PublicKeySignature {
    fn from(old: types::PublicKeySignature) -> Self {
        Self {
            source: old.source,
            scheme: old.scheme.into(),
            key: old.key.into(),
            messages: old.messages.into_iter().map(all).collect(),
            signatures: all(old.signatures),
        }
    }
}

impl From<types::Proof> for newest::Proof {
    fn from(old: types::Proof) -> Self {
        match old {
            types::Proof::KeyedHash(proof) => Self::KeyedHash(proof.into()),
            types::Proof::PublicKey(proof) => Self::PublicKey(proof.into()),
            types::Proof::SharedSecret(proof) => Self::SharedSecret(proof.into()),
            types::Proof::BasicAuth(proof) => Self::BasicAuth(proof.into()),
            types::Proof::Fresh(proof) => Self::Fresh(proof.into()),
            types::Proof::Handshake => Self::Handshake,
        }
    }
}

impl From<types::Rejection> for newest::Rejection {
    fn from(old: types::Rejection) -> Self {
        match old {
            types::Rejection::MissingProof(text) => Self::MissingProof(text),
            types::Rejection::InvalidProof(text) => Self::InvalidProof(text),
            types::Rejection::Malformed(text) => Self::Malformed(text),
        }
    }
}

impl From<types::Event> for newest::Event {
    fn from(old: types::Event) -> Self {
        Self {
            index: old.index,
            event_type: old.event_type.into(),
            timestamp_ms: old.timestamp_ms,
            provider_event_id: old.provider_event_id,
            recipient_email: old.recipient_email,
            identifiers: all(old.identifiers),
            campaign_id: old.campaign_id,
            campaign_name: old.campaign_name,
            message_id: old.message_id,
            subject: old.subject,
            click_url: old.click_url,
            user_agent: old.user_agent,
            ip_address: old.ip_address,
            bounce_type: old.bounce_type.map(Into::into),
            reason: old.reason,
            tags: old.tags,
            metadata: all(old.metadata),
            is_machine: old.is_machine,
            // New in 1.1.
            sent_at_ms: None,
        }
    }
}

impl From<types::Reply> for newest::Reply {
    fn from(old: types::Reply) -> Self {
        let headers = old.headers.into_iter().map(|header| newest::Header {
            name: header.name,
            value: header.value,
        });
        Self {
            status: old.status,
            headers: headers.collect(),
            body: old.body,
        }
    }
}

impl From<types::Outcome> for newest::Outcome {
    fn from(old: types::Outcome) -> Self {
        match old {
            types::Outcome::Events(batch) => Self::Events(newest::Batch {
                events: all(batch.events),
                skipped: all(batch.skipped),
                rejected: all(batch.rejected),
            }),
            types::Outcome::Reply(reply) => Self::Reply(reply.into()),
            types::Outcome::Confirm(url) => Self::Confirm(url),
        }
    }
}

pub(crate) fn proofs(
    answer: Result<Vec<types::Proof>, types::Rejection>,
) -> Result<Vec<newest::Proof>, newest::Rejection> {
    answer.map(all).map_err(Into::into)
}

pub(crate) fn outcome(
    answer: Result<types::Outcome, types::Rejection>,
) -> Result<newest::Outcome, newest::Rejection> {
    answer.map(Into::into).map_err(Into::into)
}
