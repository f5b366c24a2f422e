//! Hashing addresses, and deriving universal ids from hashes and provider ids.
//!
//! Raw addresses, and the phone numbers that a plugin reports as such ([`IdentifierKind::PhoneNumber`]), never leave the host: only
//! the hashes that [`Hasher`] computes do. A phone number within a text or another id is not recognized. Every function here is
//! deterministic, so that ingestion never waits for a database: the universal id of an event follows from the event alone, and if
//! two ids later turn out to belong to one person, that is recorded as aliases.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Unexpected, Visitor},
};
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

/// Hexadecimal SHA-256 of a normalized address, or its HMAC-SHA-256 if a pepper is configured. 64 lower-case digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EmailHash(String);

impl EmailHash {
    /// Accepts a hash computed elsewhere (by the caller of an API); `None` if it is not 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| Self(text.to_ascii_lowercase()))
    }

    /// Returns the 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The kind of an identifier. Kinds are ordered by strength: the universal id follows from the first kind present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentifierKind {
    /// Hash of an e-mail address. Strong.
    EmailHash,
    /// Hash of an E.164 phone number. Strong.
    PhoneNumber,
    /// Klaviyo profile id.
    KlaviyoId,
    /// Shopify customer id.
    ShopifyCustomerId,
    /// The sender's own id for the person.
    ExternalId,
    /// A provider's own id for the person; its value is prefixed with provider and account.
    EspUserId,
}

impl IdentifierKind {
    /// All kinds, strongest first.
    pub const ALL: [Self; 6] = [
        Self::EmailHash,
        Self::PhoneNumber,
        Self::KlaviyoId,
        Self::ShopifyCustomerId,
        Self::ExternalId,
        Self::EspUserId,
    ];

    /// Returns the kind's name in stored data and APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EmailHash => "email_hash",
            Self::PhoneNumber => "phone_number",
            Self::KlaviyoId => "klaviyo_id",
            Self::ShopifyCustomerId => "shopify_customer_id",
            Self::ExternalId => "external_id",
            Self::EspUserId => "esp_user_id",
        }
    }

    /// Returns the kind with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Checks whether it identifies a person on its own. Weak identifiers attach to strong ones, never the other way round.
    pub fn is_strong(self) -> bool {
        matches!(self, Self::EmailHash | Self::PhoneNumber)
    }
}

/// One identity of a person in a form that may be stored: addresses and phone numbers are hashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identifier {
    /// Its kind.
    pub kind: IdentifierKind,
    /// Its value, hashed if the kind requires it.
    pub value: String,
}

/// The prefix of every universal id.
const UNIVERSAL_ID_PREFIX: &[u8; 3] = b"sf_";

/// The id of a person: `sf_` and 32 hexadecimal digits, or 128 bits, so that the ids of a billion people do not collide.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UniversalId([u8; UNIVERSAL_ID_PREFIX.len() + 32]);

impl UniversalId {
    /// Derives the id from one identifier: the first 128 bits of a SHA-256 of kind and value.
    pub fn from_identifier(identifier: &Identifier) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"sendflowr/universal-id/1\0");
        hash.update(identifier.kind.as_str().as_bytes());
        hash.update(b"\0");
        hash.update(identifier.value.as_bytes());
        Self::of_hash(&hash.finalize())
    }

    /// Makes the id from the first 128 bits of a hash.
    fn of_hash(hash: &[u8]) -> Self {
        let mut text = [0; _];
        let (prefix, digits) = text.split_at_mut(UNIVERSAL_ID_PREFIX.len());
        prefix.copy_from_slice(UNIVERSAL_ID_PREFIX);
        hex::encode_to_slice(&hash[..16], digits).expect("there is room for 32 digits");
        Self(text)
    }

    /// Derives the id from the strongest of `identifiers`, or returns `None` if there are none. Among several of the
    /// strongest kind, the first in text order is used, so that their order of arrival does not matter.
    pub fn from_identifiers(identifiers: &[Identifier]) -> Option<Self> {
        identifiers.iter().min().map(Self::from_identifier)
    }

    /// Parses an id from outside; `None` if it does not have the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let text: [u8; _] = text.as_bytes().try_into().ok()?;
        let digits = text.strip_prefix(UNIVERSAL_ID_PREFIX)?;
        let valid = digits
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        valid.then_some(Self(text))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("it has only ASCII characters")
    }
}

impl fmt::Debug for UniversalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UniversalId").field(&self.as_str()).finish()
    }
}

impl Serialize for UniversalId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for UniversalId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Id;
        impl Visitor<'_> for Id {
            type Value = UniversalId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a universal id: `sf_` and 32 hexadecimal digits in lower case")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<UniversalId, E> {
                // The text itself may be personal data, so that the error does not repeat it.
                UniversalId::parse(text)
                    .ok_or_else(|| E::invalid_value(Unexpected::Other("another text"), &self))
            }
        }
        deserializer.deserialize_str(Id)
    }
}

impl fmt::Display for UniversalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Hashes addresses and phone numbers, with the operator's pepper if there is one.
#[derive(Clone, Default)]
pub struct Hasher {
    pepper: Option<Vec<u8>>,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher")
            .field("peppered", &self.pepper.is_some())
            .finish()
    }
}

/// A string is not an e-mail address; the string itself is not repeated, because it may be personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an e-mail address")]
pub struct InvalidEmail;

/// A string is not a phone number in E.164 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a phone number in E.164 form (`+` and 7 to 15 digits)")]
pub struct InvalidPhone;

/// Longest address that SMTP can carry (RFC 5321, 4.5.3.1.3), with room for multi-byte letters.
pub const MAX_EMAIL_BYTES: usize = 1024;

/// Returns the form of an address that is hashed: NFKC, trimmed, lower case.
///
/// # Errors
/// [`InvalidEmail`] if the part before or after the last `@` is missing, if there is white space or a control character
/// inside, or if it is longer than [`MAX_EMAIL_BYTES`].
pub fn normalize_email(raw: &str) -> Result<String, InvalidEmail> {
    if raw.len() > MAX_EMAIL_BYTES {
        return Err(InvalidEmail);
    }
    let composed: String = raw.nfkc().collect();
    // Lower-casing can undo the composition, so the text is composed once more: normalizing twice changes nothing.
    let normalized: String = composed.trim().to_lowercase().nfkc().collect();
    let (local, domain) = normalized.rsplit_once('@').ok_or(InvalidEmail)?;
    let blank = normalized.chars().any(|c| c.is_whitespace() || c.is_control());
    if local.is_empty() || domain.is_empty() || blank {
        return Err(InvalidEmail);
    }
    Ok(normalized)
}

/// Returns the form of a phone number that is hashed: `+` and digits. White space, dots, hyphens and parentheses are dropped.
///
/// # Errors
/// [`InvalidPhone`] if the remaining text is not E.164.
fn normalize_phone(raw: &str) -> Result<String, InvalidPhone> {
    let compact: String = raw
        .chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, '-' | '.' | '(' | ')'))
        .collect();
    let digits = compact.strip_prefix('+').ok_or(InvalidPhone)?;
    let valid = (7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if valid { Ok(compact) } else { Err(InvalidPhone) }
}

impl Hasher {
    /// Creates a hasher without a pepper: plain SHA-256, as used by other systems that match on hashed addresses.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a hasher that uses HMAC-SHA-256 with `pepper`, so that a leaked store cannot be searched for known
    /// addresses. An empty pepper counts as none.
    pub fn with_pepper(pepper: Vec<u8>) -> Self {
        Self {
            pepper: (!pepper.is_empty()).then_some(pepper),
        }
    }

    /// Returns the hash of an address in any form.
    ///
    /// # Errors
    /// [`InvalidEmail`] if it is not an address.
    pub fn email(&self, raw: &str) -> Result<EmailHash, InvalidEmail> {
        normalize_email(raw).map(|normalized| EmailHash(self.digest(normalized.as_bytes())))
    }

    /// Returns the identifier of an address in any form.
    ///
    /// # Errors
    /// [`InvalidEmail`] if it is not an address.
    pub fn email_identifier(&self, raw: &str) -> Result<Identifier, InvalidEmail> {
        Ok(Identifier {
            kind: IdentifierKind::EmailHash,
            value: self.email(raw)?.0,
        })
    }

    /// Returns the identifier of a phone number.
    ///
    /// # Errors
    /// [`InvalidPhone`] if it is not in E.164 form.
    pub fn phone_identifier(&self, raw: &str) -> Result<Identifier, InvalidPhone> {
        let value = self.digest(normalize_phone(raw)?.as_bytes());
        Ok(Identifier {
            kind: IdentifierKind::PhoneNumber,
            value,
        })
    }

    /// Returns the universal id of a recipient of whom only a message is known: `message` is provider, account and message id,
    /// `recipient` whatever the provider gives in place of an address. The same arguments always give the same id; it
    /// is nobody's identity, and no identifier leads to it.
    pub fn recipient_of(&self, message: [&str; 3], recipient: &str) -> UniversalId {
        let [provider, account, message] = message;
        let parts = [
            "sendflowr/recipient-of-message/1",
            provider,
            account,
            message,
            recipient,
        ];
        UniversalId::of_hash(&self.hash(parts.join("\0").as_bytes()))
    }

    /// Returns the hash of any other text, as it is, in hexadecimal digits.
    pub fn text(&self, text: &str) -> String {
        self.digest(text.as_bytes())
    }

    fn digest(&self, bytes: &[u8]) -> String {
        hex::encode(self.hash(bytes))
    }

    fn hash(&self, bytes: &[u8]) -> [u8; 32] {
        match &self.pepper {
            None => Sha256::digest(bytes).into(),
            Some(pepper) => {
                let mut mac = Hmac::<Sha256>::new_from_slice(pepper).expect("HMAC takes keys of any length");
                mac.update(bytes);
                mac.finalize().into_bytes().into()
            }
        }
    }
}

/// Longest name of an account. Names become part of paths, keys and stored ids.
pub const MAX_ACCOUNT_NAME: usize = 64;

/// Checks whether this can be the name of an account: 1 to [`MAX_ACCOUNT_NAME`] letters, digits, hyphens, underscores and
/// dots. Names are case-sensitive.
pub fn is_account_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_ACCOUNT_NAME).contains(&name.len()) && name.bytes().all(is_plain)
}

/// Longest slug of a provider, as defined by the plugins' contract. Slugs become part of paths, keys and stored values.
pub const MAX_SLUG: usize = 32;

/// Checks whether this can be the slug of a provider: 1 to [`MAX_SLUG`] lower-case letters, digits and inner hyphens.
pub fn is_slug(slug: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_SLUG).contains(&slug.len())
        && slug.bytes().all(is_plain)
        && !slug.starts_with('-')
        && !slug.ends_with('-')
}

/// Returns the stored value of a provider's own user id, which is unique only within provider and account.
pub fn scoped_esp_user_id(esp: &str, account: &str, value: &str) -> String {
    format!("{esp}:{account}:{value}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hashes_what_other_systems_hash() {
        let hash = Hasher::new().email("  Ann.Example@Example.COM ").unwrap();
        // printf 'ann.example@example.com' | sha256sum
        assert_eq!(
            hash.as_str(),
            hex::encode(Sha256::digest(b"ann.example@example.com"))
        );
        assert_ne!(
            Hasher::with_pepper(b"p".to_vec()).email("a@b").unwrap(),
            Hasher::new().email("a@b").unwrap()
        );
        assert_eq!(
            Hasher::with_pepper(vec![]).email("a@b").unwrap(),
            Hasher::new().email("a@b").unwrap()
        );
    }

    #[test]
    fn full_width_letters_are_the_same_person() {
        assert_eq!(normalize_email("ａｎｎ@example.com").unwrap(), "ann@example.com");
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in ["", "ann", "@example.com", "ann@", "a b@example.com", "a\n@b.c"] {
            assert_eq!(normalize_email(text), Err(InvalidEmail), "{text:?}");
        }
    }

    #[test]
    fn phone_numbers_lose_their_punctuation() {
        assert_eq!(normalize_phone("+1 (415) 555-0100").unwrap(), "+14155550100");
        assert_eq!(normalize_phone("415 555 0100"), Err(InvalidPhone));
    }

    #[test]
    fn the_strongest_identifier_decides() {
        let email = Hasher::new().email_identifier("a@b.c").unwrap();
        let weak = Identifier {
            kind: IdentifierKind::KlaviyoId,
            value: "01H".into(),
        };
        let id = UniversalId::from_identifiers(&[weak.clone(), email.clone()]).unwrap();
        assert_eq!(id, UniversalId::from_identifier(&email));
        assert_eq!(UniversalId::parse(id.as_str()), Some(id));
        assert_ne!(
            UniversalId::from_identifiers(&[weak]).unwrap(),
            UniversalId::from_identifier(&email)
        );
        assert_eq!(UniversalId::from_identifiers(&[]), None);
    }

    /// All stored data depends on it.
    #[test]
    fn the_id_of_an_identifier_stays_what_it_was() {
        let identifier = Identifier {
            kind: IdentifierKind::EmailHash,
            value: "0123456789abcdef".repeat(4),
        };
        let id = UniversalId::from_identifier(&identifier);
        assert_eq!(id.as_str(), "sf_9124fd812856fb85415c52c570e9533a");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, "\"sf_9124fd812856fb85415c52c570e9533a\"");
        assert_eq!(serde_json::from_str::<UniversalId>(&json).unwrap(), id);
    }

    #[test]
    fn what_is_no_universal_id_is_refused_and_not_repeated() {
        for text in [
            "",
            "sf_9124fd812856fb85415c52c570e9533",
            "sf_9124fd812856fb85415c52c570e9533a0",
            "sf_9124FD812856fb85415c52c570e9533a",
            "sf_9124fd812856fb85415c52c570e953é",
            "xf_9124fd812856fb85415c52c570e9533a",
            "ann@example.com",
        ] {
            assert_eq!(UniversalId::parse(text), None, "{text}");
            let json = serde_json::to_string(text).unwrap();
            let error = serde_json::from_str::<UniversalId>(&json)
                .unwrap_err()
                .to_string();
            assert!(error.contains("`sf_` and 32 hexadecimal digits"), "{error}");
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }

    #[test]
    fn debug_hides_the_pepper() {
        assert_eq!(
            format!("{:?}", Hasher::with_pepper(b"secret".to_vec())),
            "Hasher { peppered: true }"
        );
    }

    proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(raw in "\\PC{0,20}@\\PC{0,20}") {
            if let Ok(once) = normalize_email(&raw) {
                prop_assert_eq!(normalize_email(&once), Ok(once));
            }
        }
    }
}
