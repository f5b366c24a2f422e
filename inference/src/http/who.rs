//! Identities as callers send them. Addresses are hashed here immediately; no later code sees them.

use std::borrow::Cow;

use event::{
    EmailHash, Hasher, Identifier, IdentifierKind, MailboxProvider, UniversalId, identity, redact::Redactor,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Object;
use crate::{
    error::ApiError,
    inquiry::{Identity, Name},
};

/// Longest value of a weak identifier; the longest that providers are known to use has 255 bytes.
const MAX_VALUE_BYTES: usize = 512;

/// Maximum number of identifiers of one person in one request.
const MAX_IDENTIFIERS: usize = 32;

/// One identifier of a person.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentifierInput {
    /// `email`, `email_hash`, `phone_number`, `klaviyo_id`, `shopify_customer_id`, `external_id` or `esp_user_id`.
    #[schema(example = "klaviyo_id")]
    pub kind: String,
    /// Its value. For `email` a raw address, and for `email_hash` its hash, as 64 hexadecimal digits; for `phone_number` a number in
    /// E.164 form or its hash; for the other kinds the id, which may not look like an address, at most 512 bytes. Raw addresses and
    /// numbers are hashed immediately and never stored.
    #[schema(example = "01HXYZ")]
    pub value: String,
    /// The provider to which the id belongs, for `esp_user_id`.
    pub esp: Option<String>,
    /// The account at that provider, for `esp_user_id`, spelled as in the host's configuration. Default `default`.
    pub account: Option<String>,
}

/// An identifier as it is stored: addresses and phone numbers are hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct IdentifierOutput {
    /// Its kind.
    #[schema(example = "email_hash")]
    pub kind: &'static str,
    /// Its value.
    pub value: String,
}

impl From<&Identifier> for IdentifierOutput {
    fn from(identifier: &Identifier) -> Self {
        Self {
            kind: identifier.kind.as_str(),
            value: identifier.value.clone(),
        }
    }
}

/// Names one person by any of `universal_id`, `email`, `email_hash`, `phone_number` and `identifiers`. If several are given and
/// the identity graph holds them for different people, they are taken for one person in this request.
#[derive(Deserialize, ToSchema)]
#[schema(as = PersonRequest, example = json!({"email": "ann@example.com"}))]
#[serde(deny_unknown_fields)]
pub(crate) struct Who {
    /// The person's id.
    #[schema(pattern = "^sf_[0-9a-f]{32}$")]
    pub universal_id: Option<String>,
    /// The person's e-mail address. Hashed immediately; never stored, logged or repeated.
    #[schema(example = "ann@example.com")]
    pub email: Option<String>,
    /// Hash of the person's e-mail address: SHA-256 of the address, normalized to Unicode NFKC, trimmed and in lower case, as 64
    /// hexadecimal digits; if `identity.pepper` is set, HMAC-SHA-256 with the pepper as the key.
    #[schema(pattern = "^[0-9A-Fa-f]{64}$")]
    pub email_hash: Option<String>,
    /// The person's phone number in E.164 form. Hashed immediately.
    pub phone_number: Option<String>,
    /// Identifiers of the person.
    #[schema(value_type = Option<Vec<IdentifierInput>>, max_items = 32)]
    pub identifiers: Option<Vec<Object<IdentifierInput>>>,
}

impl Who {
    /// Returns the class of the mailbox of the first address that is given raw; of a hash nobody can tell.
    pub(crate) fn mailbox_provider(&self) -> Option<MailboxProvider> {
        let identifiers = self.identifiers.iter().flatten();
        let addresses = identifiers
            .filter(|Object(input)| input.kind == "email")
            .map(|Object(input)| &input.value);
        let address = self.email.iter().chain(addresses).next()?;
        let normalized = identity::normalize_email(address).ok()?;
        Some(MailboxProvider::of_address(&normalized))
    }

    /// Checks the fields.
    pub(crate) fn identity(self, hasher: &Hasher) -> Result<Identity, ApiError> {
        let mut names = Vec::new();
        if let Some(text) = &self.universal_id {
            names.push(Name {
                field: "universal_id".into(),
                id: universal_id(text)?,
                identifier: None,
            });
        }
        for (field, identifier) in self.identifiers(hasher)? {
            names.push(Name {
                field,
                id: UniversalId::from_identifier(&identifier),
                identifier: Some(identifier),
            });
        }
        if names.is_empty() {
            return Err(ApiError::field(
                "universal_id",
                "is missing: name the person by `universal_id`, `email`, `email_hash`, `phone_number` or `identifiers`",
            ));
        }
        Ok(Identity::new(names))
    }

    /// Returns all identifiers that were given with their fields, strongest first, without duplicates.
    pub(crate) fn identifiers(
        self,
        hasher: &Hasher,
    ) -> Result<Vec<(Cow<'static, str>, Identifier)>, ApiError> {
        let mut identifiers: Vec<(Cow<'static, str>, Identifier)> = Vec::new();
        if let Some(email) = self.email {
            identifiers.push(("email".into(), email_identifier(hasher, "email", &email)?));
        }
        if let Some(hash) = self.email_hash {
            let hashed = hash_identifier("email_hash", &hash)?;
            if identifiers.iter().any(|(_, email)| *email != hashed) {
                return Err(ApiError::field(
                    "email_hash",
                    "is not the hash of the address in `email`: give one of them, and hash as the documentation says, with the \
                     pepper if one is set",
                ));
            }
            identifiers.push(("email_hash".into(), hashed));
        }
        if let Some(phone) = self.phone_number {
            let phone = phone_identifier(hasher, "phone_number", &phone)?;
            identifiers.push(("phone_number".into(), phone));
        }
        let given = self.identifiers.unwrap_or_default();
        if given.len() > MAX_IDENTIFIERS {
            return Err(ApiError::field(
                "identifiers",
                format!("must have at most {MAX_IDENTIFIERS} elements"),
            ));
        }
        for (index, Object(input)) in given.into_iter().enumerate() {
            let field = format!("identifiers[{index}]");
            let identifier = identifier(hasher, &field, input)?;
            identifiers.push((field.into(), identifier));
        }
        identifiers.sort_by(|(_, a), (_, b)| a.cmp(b));
        identifiers.dedup_by(|(_, a), (_, b)| a == b);
        Ok(identifiers)
    }
}

/// Parses a universal id from a path or a body.
pub(crate) fn universal_id(text: &str) -> Result<UniversalId, ApiError> {
    UniversalId::parse(text).ok_or_else(|| {
        ApiError::field(
            "universal_id",
            "must be `sf_` and 32 lower-case hexadecimal digits",
        )
    })
}

fn identifier(hasher: &Hasher, path: &str, input: IdentifierInput) -> Result<Identifier, ApiError> {
    let value_path = format!("{path}.value");
    let is_esp_user_id = input.kind == IdentifierKind::EspUserId.as_str();
    if !is_esp_user_id && (input.esp.is_some() || input.account.is_some()) {
        return Err(ApiError::field(
            format!("{path}.esp"),
            "belongs to identifiers of kind `esp_user_id` only",
        ));
    }
    let kind = match IdentifierKind::parse(&input.kind) {
        None if input.kind == "email" => return email_identifier(hasher, &value_path, &input.value),
        None => {
            return Err(ApiError::field(
                format!("{path}.kind"),
                "must be one of `email`, `email_hash`, `phone_number`, `klaviyo_id`, `shopify_customer_id`, `external_id`, \
                 `esp_user_id`",
            ));
        }
        Some(IdentifierKind::EmailHash) => return hash_identifier(&value_path, &input.value),
        Some(IdentifierKind::PhoneNumber) => return phone_identifier(hasher, &value_path, &input.value),
        Some(kind) => kind,
    };
    let value = input.value.trim();
    if value.is_empty() || value.len() > MAX_VALUE_BYTES {
        return Err(ApiError::field(
            value_path,
            format!("must have 1 to {MAX_VALUE_BYTES} bytes"),
        ));
    }
    if Redactor::default().text(value) != value {
        return Err(ApiError::field(
            value_path,
            "looks like an address: give it as kind `email`, so that it is hashed",
        ));
    }
    let value = if is_esp_user_id {
        let Some(esp) = input.esp else {
            return Err(ApiError::field(
                format!("{path}.esp"),
                "is missing: an `esp_user_id` belongs to one provider",
            ));
        };
        let esp = provider(&format!("{path}.esp"), &esp)?;
        let name = input.account.as_deref().unwrap_or("default");
        let account = account(&format!("{path}.account"), name)?;
        identity::scoped_esp_user_id(&esp, account, value)
    } else {
        value.to_owned()
    };
    Ok(Identifier { kind, value })
}

/// Checks the name of an account by the host's rules.
fn account<'a>(path: &str, name: &'a str) -> Result<&'a str, ApiError> {
    if identity::is_account_name(name) {
        Ok(name)
    } else {
        let most = identity::MAX_ACCOUNT_NAME;
        let problem = format!("must have 1 to {most} letters, digits, hyphens, underscores or dots");
        Err(ApiError::field(path, problem))
    }
}

/// Checks the slug of a provider and converts it to lower case.
pub(crate) fn provider(path: &str, text: &str) -> Result<String, ApiError> {
    let slug = text.to_ascii_lowercase();
    if identity::is_slug(&slug) {
        Ok(slug)
    } else {
        let most = identity::MAX_SLUG;
        let problem = format!("must have 1 to {most} letters, digits and inner hyphens");
        Err(ApiError::field(path, problem))
    }
}

/// Longest name of a source, which is written to the audit log: long enough for the name of a system.
const MAX_SOURCE_BYTES: usize = 64;

/// Checks the name of the source of a link and converts it to lower case.
pub(crate) fn source(path: &str, text: &str) -> Result<String, ApiError> {
    let valid = (1..=MAX_SOURCE_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if valid {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(ApiError::field(
            path,
            format!("must have 1 to {MAX_SOURCE_BYTES} letters, digits, hyphens or underscores"),
        ))
    }
}

fn email_identifier(hasher: &Hasher, path: &str, raw: &str) -> Result<Identifier, ApiError> {
    let identifier = hasher.email_identifier(raw);
    let identifier = identifier.map_err(|error| ApiError::field(path, format!("is {error}")))?;
    if !is_one_address(raw) {
        return Err(ApiError::field(
            path,
            "must be one bare e-mail address, without `mailto:`, name, brackets or another address",
        ));
    }
    Ok(identifier)
}

/// Characters that stand in no address outside of quotes, but around it or between several.
const AROUND_ADDRESSES: [char; 8] = ['@', ',', ';', '<', '>', '(', ')', '"'];

/// Checks that a text that can be hashed as an address is a single one. The host hashes whatever a provider reports, so that no
/// event is lost; in a request, such a text is a mistake that would otherwise name a stranger.
fn is_one_address(raw: &str) -> bool {
    let Ok(address) = identity::normalize_email(raw) else {
        return false;
    };
    let Some((local, domain)) = address.rsplit_once('@') else {
        return false;
    };
    let quoted = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let is_local_well = match quoted {
        Some(quoted) => !quoted.replace("\\\"", "").contains('"'),
        None => !local.contains(AROUND_ADDRESSES) && !local.contains(':'),
    };
    is_local_well && !domain.contains(AROUND_ADDRESSES)
}

fn hash_identifier(path: &str, text: &str) -> Result<Identifier, ApiError> {
    match EmailHash::parse(text) {
        Some(hash) => Ok(Identifier {
            kind: IdentifierKind::EmailHash,
            value: hash.as_str().to_owned(),
        }),
        None => Err(ApiError::field(
            path,
            "must be the 64 hexadecimal digits of a hashed address",
        )),
    }
}

/// Reads a phone number, raw or, if it has the form of a hash, already hashed.
fn phone_identifier(hasher: &Hasher, path: &str, text: &str) -> Result<Identifier, ApiError> {
    match EmailHash::parse(text) {
        Some(hash) => Ok(Identifier {
            kind: IdentifierKind::PhoneNumber,
            value: hash.as_str().to_owned(),
        }),
        None => hasher
            .phone_identifier(text)
            .map_err(|error| ApiError::field(path, format!("is {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(kind: &str, value: &str) -> IdentifierInput {
        IdentifierInput {
            kind: kind.to_owned(),
            value: value.to_owned(),
            esp: None,
            account: None,
        }
    }

    fn identified(input: IdentifierInput) -> Result<Identifier, ApiError> {
        identifier(&Hasher::new(), "identifiers[0]", input)
    }

    #[test]
    fn raw_and_hashed_addresses_are_one_identity() {
        let raw = identified(input("email", " Ann@Example.com ")).unwrap();
        assert_eq!(
            identified(input("email_hash", &raw.value.to_uppercase())).unwrap(),
            raw
        );
        let phone = identified(input("phone_number", "+1 (415) 555-0100")).unwrap();
        assert_eq!(identified(input("phone_number", &phone.value)).unwrap(), phone);
    }

    #[test]
    fn what_is_not_a_single_address_is_refused() {
        for text in [
            "a@x.com,b@x.com",
            "a@x.com;b@x.com",
            "a@x.com,",
            "mailto:a@x.com",
            "a@@x.com",
            "<a@x.com>",
            "\"ann\"<a@x.com>",
            "\"a\"@x.com,\"b\"@x.com",
            "a@x.com\u{ff0c}b@x.com",
        ] {
            assert!(identified(input("email", text)).is_err(), "{text}");
        }
        for text in [
            " Ann.O'Hara+news@example.com ",
            "a=b/c{d}|e@example.com",
            "\"a@b,c\"@example.com",
            r#""a\"b"@example.com"#,
            "a@[ipv6:2001:db8::1]",
            "jörg@bücher.example",
        ] {
            let hashed = Hasher::new().email_identifier(text).unwrap();
            assert_eq!(identified(input("email", text)).unwrap(), hashed, "{text}");
        }
    }

    #[test]
    fn provider_ids_are_scoped_as_in_events() {
        let given = IdentifierInput {
            esp: Some("Braze".into()),
            ..input("esp_user_id", "7")
        };
        assert_eq!(identified(given).unwrap().value, "braze:default:7");
        // The host uses an account's name exactly as written in its configuration.
        let of_account = |name: &str| IdentifierInput {
            esp: Some("braze".into()),
            account: Some(name.to_owned()),
            ..input("esp_user_id", "7")
        };
        for name in ["EU.shop", "eu.shop", "a_b-9"] {
            let value = identity::scoped_esp_user_id("braze", name, "7");
            assert_eq!(identified(of_account(name)).unwrap().value, value);
        }
        for name in ["", "a:b", "a b", &"a".repeat(65)] {
            assert!(identified(of_account(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn refusals_name_the_field_and_repeat_no_address() {
        let field = |input| match identified(input) {
            Err(ApiError::InvalidField { field, message }) => {
                assert!(!message.contains("ann"), "{message}");
                field
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(field(input("email", "ann")), "identifiers[0].value");
        assert_eq!(
            field(input("external_id", "ann@example.com")),
            "identifiers[0].value"
        );
        assert_eq!(field(input("cookie", "x")), "identifiers[0].kind");
        assert_eq!(field(input("esp_user_id", "x")), "identifiers[0].esp");
        assert_eq!(field(input("klaviyo_id", " ")), "identifiers[0].value");
    }
}
