//! The canonical event: what every provider's deliveries become, on the bus and in the event store.

use std::{collections::BTreeMap, fmt};

use memchr::memmem;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{EmailHash, Identifier, MailboxProvider, Timestamp, UniversalId};

/// The version of [`Event`]'s stored form that this build writes. It reads every version up to it.
pub const SCHEMA_VERSION: u16 = 1;

/// Room that the JSON of an event begins with: most have some 800 bytes, and need no other.
const USUAL_JSON_BYTES: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the names are the documentation; wit/1.1.0/connector.wit tells each in a sentence"
)]
pub enum EventType {
    Sent,
    Delivered,
    Deferred,
    Bounced,
    Rejected,
    Opened,
    Clicked,
    Unsubscribed,
    Resubscribed,
    MarkedSpam,
    Replied,
    Converted,
    SiteVisit,
    ProductView,
    SmsClick,
    PushClick,
    SupportTicket,
}

impl EventType {
    /// All types, in the order of the contract.
    pub const ALL: [Self; 17] = [
        Self::Sent,
        Self::Delivered,
        Self::Deferred,
        Self::Bounced,
        Self::Rejected,
        Self::Opened,
        Self::Clicked,
        Self::Unsubscribed,
        Self::Resubscribed,
        Self::MarkedSpam,
        Self::Replied,
        Self::Converted,
        Self::SiteVisit,
        Self::ProductView,
        Self::SmsClick,
        Self::PushClick,
        Self::SupportTicket,
    ];

    /// The type's name in stored data and APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Bounced => "bounced",
            Self::Rejected => "rejected",
            Self::Opened => "opened",
            Self::Clicked => "clicked",
            Self::Unsubscribed => "unsubscribed",
            Self::Resubscribed => "resubscribed",
            Self::MarkedSpam => "marked_spam",
            Self::Replied => "replied",
            Self::Converted => "converted",
            Self::SiteVisit => "site_visit",
            Self::ProductView => "product_view",
            Self::SmsClick => "sms_click",
            Self::PushClick => "push_click",
            Self::SupportTicket => "support_ticket",
        }
    }

    /// The type with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|event_type| event_type.as_str() == name)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a bounce is for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BounceType {
    /// For good.
    Hard,
    /// For now.
    Soft,
}

impl BounceType {
    /// The name in stored data and APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        }
    }
}

/// One event about one person. Holds no raw address: the host hashes identities and redacts free text before it
/// makes one. Serialized as JSON on the bus; additions only append, and bump [`SCHEMA_VERSION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Version of this form, see [`SCHEMA_VERSION`].
    pub schema_version: u16,
    /// Deterministic id, see [`event_id`].
    pub event_id: String,
    /// What happened.
    pub event_type: EventType,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The provider's slug.
    pub esp: String,
    /// The operator's account at the provider.
    pub account: String,
    /// The person, as this event alone tells it.
    pub universal_id: UniversalId,
    /// Hash of the recipient's address, where the event has one.
    pub recipient_email_hash: Option<EmailHash>,
    /// Coarse class of the recipient's mailbox, where the event has an address.
    pub mailbox_provider: Option<MailboxProvider>,
    /// All identities that the event shows, strongest first, the address's hash included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identifiers: Vec<Identifier>,
    /// Campaign id.
    pub campaign_id: Option<String>,
    /// Campaign name.
    pub campaign_name: Option<String>,
    /// The provider's id of the message.
    pub message_id: Option<String>,
    /// Subject.
    pub subject: Option<String>,
    /// Link that was followed.
    pub click_url: Option<String>,
    /// Hard or soft, for bounces.
    pub bounce_type: Option<BounceType>,
    /// The provider's words.
    pub reason: Option<String>,
    /// User agent of the recipient.
    pub user_agent: Option<String>,
    /// Network address of the recipient's device.
    pub ip_address: Option<String>,
    /// Tags or categories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What the sender attached.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The provider's own word on whether a machine did it.
    pub is_machine: Option<bool>,
    /// The provider's own id of this event.
    pub provider_event_id: Option<String>,
    /// Plugin that read it, `slug@version`.
    pub plugin: String,
    /// When the host took it in.
    pub ingested_at: Timestamp,
}

/// A stored event has a form that this build does not know.
#[derive(Debug, thiserror::Error)]
pub enum UnsupportedSchema {
    /// Written by a newer build.
    #[error("event has schema version {found}, this build reads up to {SCHEMA_VERSION}: upgrade the reader")]
    TooNew {
        /// The version found.
        found: u16,
    },
    /// Not an event at all.
    #[error("not an event")]
    Malformed(#[from] serde_json::Error),
}

impl Event {
    /// An event that tells what happened, when and to whom. Texts are empty, all else is absent.
    pub fn bare(event_type: EventType, timestamp: Timestamp, universal_id: UniversalId) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            event_id: String::new(),
            event_type,
            timestamp,
            esp: String::new(),
            account: String::new(),
            universal_id,
            recipient_email_hash: None,
            mailbox_provider: None,
            identifiers: Vec::new(),
            campaign_id: None,
            campaign_name: None,
            message_id: None,
            subject: None,
            click_url: None,
            bounce_type: None,
            reason: None,
            user_agent: None,
            ip_address: None,
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            is_machine: None,
            provider_event_id: None,
            plugin: String::new(),
            ingested_at: Timestamp::default(),
        }
    }

    /// The event as it is written to the bus.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(USUAL_JSON_BYTES);
        serde_json::to_writer(&mut json, self)
            .expect("an event has only string keys and serializable values");
        json
    }

    /// Reads an event of any version up to [`SCHEMA_VERSION`].
    ///
    /// # Errors
    /// [`UnsupportedSchema`] when it is newer than that, or no event.
    pub fn from_json(bytes: &[u8]) -> Result<Self, UnsupportedSchema> {
        read(bytes, |event: &Self| event.schema_version)
    }
}

/// Who an event is about: what the identity graph learns from it, read without the rest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Identified {
    schema_version: u16,
    /// The event's id.
    pub event_id: String,
    /// All identities that the event shows, strongest first.
    #[serde(default)]
    pub identifiers: Vec<Identifier>,
    /// When the host took it in.
    pub ingested_at: Timestamp,
}

impl Identified {
    /// Reads these fields of an event of any version up to [`SCHEMA_VERSION`]. What else is in it is not looked at.
    ///
    /// # Errors
    /// [`UnsupportedSchema`] when it is newer than that, or lacks them.
    pub fn from_json(bytes: &[u8]) -> Result<Self, UnsupportedSchema> {
        read(bytes, |identified: &Self| identified.schema_version)
    }

    /// The text of the list of identifiers in an event, brackets included, found without reading the rest; `None` where it has none,
    /// or is not written as [`Event::to_json`] writes it. Equal texts are equal lists.
    pub fn identifiers_text(bytes: &[u8]) -> Option<&[u8]> {
        // Quotes within texts are escaped, and no other field, however deep, is a list under this name.
        const NAME: &[u8] = b"\"identifiers\":[";
        let start = memmem::find(bytes, NAME)? + NAME.len() - 1;
        let list = &bytes[start..];
        let (mut in_text, mut escaped) = (false, false);
        for (at, byte) in list.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = !in_text,
                // An identifier has no list in it.
                b']' if !in_text => return Some(&list[..=at]),
                _ => {}
            }
        }
        None
    }
}

/// Reads a form of an event that knows its version.
fn read<T: DeserializeOwned>(bytes: &[u8], version: fn(&T) -> u16) -> Result<T, UnsupportedSchema> {
    #[derive(Deserialize)]
    struct Version {
        schema_version: u16,
    }
    // Nearly all are of this version: the text is only gone through a second time when something is wrong with it.
    let read: Result<T, serde_json::Error> = serde_json::from_slice(bytes);
    let found = match &read {
        Ok(value) => version(value),
        Err(_) => serde_json::from_slice::<Version>(bytes)?.schema_version,
    };
    if found > SCHEMA_VERSION {
        return Err(UnsupportedSchema::TooNew { found });
    }
    Ok(read?)
}

/// The id of an event: the first 128 bits of a SHA-256, as 32 hexadecimal digits, over provider, account, type,
/// time, person and the provider's event id; where it gives none, over everything that the event says. The same
/// delivery read twice gives the same ids; the people of one fanned-out message get different ones.
///
/// `event.event_id`, `plugin`, `ingested_at` and `schema_version` do not enter it.
pub fn event_id(event: &Event) -> String {
    let mut hash = Sha256::new();
    // Length-prefixed, so that no two different lists of fields give the same bytes.
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(b"sendflowr/event-id/1");
    field(event.esp.as_bytes());
    field(event.account.as_bytes());
    field(event.event_type.as_str().as_bytes());
    field(&event.timestamp.as_millis().to_le_bytes());
    field(event.universal_id.as_str().as_bytes());
    match &event.provider_event_id {
        Some(id) => {
            field(b"provider");
            field(id.as_bytes());
        }
        None => {
            field(b"content");
            let optional = [
                &event.campaign_id,
                &event.campaign_name,
                &event.message_id,
                &event.subject,
                &event.click_url,
                &event.reason,
                &event.user_agent,
                &event.ip_address,
            ];
            for text in optional {
                field(text.as_deref().unwrap_or_default().as_bytes());
            }
            field(event.bounce_type.map_or("", BounceType::as_str).as_bytes());
            field(&[event.is_machine.map_or(2, u8::from)]);
            for tag in &event.tags {
                field(tag.as_bytes());
            }
            for (name, value) in &event.metadata {
                field(name.as_bytes());
                field(value.as_bytes());
            }
        }
    }
    hex::encode(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hasher;

    fn sample() -> Event {
        let identifier = Hasher::new().email_identifier("ann@example.com").unwrap();
        let universal_id = UniversalId::from_identifier(&identifier);
        Event {
            esp: "sendgrid".into(),
            account: "default".into(),
            recipient_email_hash: EmailHash::parse(&identifier.value),
            mailbox_provider: Some(MailboxProvider::Other),
            identifiers: vec![identifier],
            message_id: Some("m1".into()),
            click_url: Some("https://example.com/".into()),
            tags: vec!["news".into()],
            metadata: BTreeMap::from([("order".into(), "42".into())]),
            plugin: "sendgrid@1.0.0".into(),
            ingested_at: "2026-01-10T12:00:01.000Z".parse().unwrap(),
            ..Event::bare(
                EventType::Clicked,
                "2026-01-10T12:00:00.123Z".parse().unwrap(),
                universal_id,
            )
        }
    }

    #[test]
    fn survives_the_bus() {
        let event = sample();
        assert_eq!(Event::from_json(&event.to_json()).unwrap(), event);
    }

    /// One sample of every version is kept for good: a build that cannot read one of them must not ship.
    #[test]
    fn reads_every_stored_version() {
        let v1 = include_bytes!("../samples/event-v1.json");
        let event = Event::from_json(v1).unwrap();
        assert_eq!(event.event_type, EventType::Clicked);
        assert_eq!(event.metadata["order"], "42");
    }

    #[test]
    fn refuses_newer_versions_by_name() {
        let mut event = sample();
        event.schema_version = SCHEMA_VERSION + 1;
        let error = Event::from_json(&event.to_json()).unwrap_err();
        assert!(matches!(error, UnsupportedSchema::TooNew { found } if found == SCHEMA_VERSION + 1));
        assert!(matches!(
            Event::from_json(b"{}"),
            Err(UnsupportedSchema::Malformed(_))
        ));
    }

    #[test]
    fn who_an_event_is_about_is_read_alone() {
        let mut event = sample();
        let identified = Identified::from_json(&event.to_json()).unwrap();
        assert_eq!(
            (
                &identified.event_id,
                &identified.identifiers,
                identified.ingested_at
            ),
            (&event.event_id, &event.identifiers, event.ingested_at)
        );
        event.schema_version = SCHEMA_VERSION + 1;
        assert!(matches!(
            Identified::from_json(&event.to_json()),
            Err(UnsupportedSchema::TooNew { .. })
        ));
    }

    #[test]
    fn the_text_of_the_identifiers_is_found_whatever_else_an_event_says() {
        let text = |event: &Event| {
            let json = event.to_json();
            String::from_utf8(Identified::identifiers_text(&json)?.to_vec()).ok()
        };
        let mut event = sample();
        event.subject = Some(r#""identifiers":[1] and \"#.to_owned());
        event.tags = vec!["identifiers".to_owned(), "identifiers\":[".to_owned()];
        event.metadata.insert("identifiers".to_owned(), "[]".to_owned());
        for value in ["plain", r#"]}"\"#, "[]", "\\\""] {
            event.identifiers[0].value = value.to_owned();
            let read: Vec<Identifier> = serde_json::from_str(&text(&event).unwrap()).unwrap();
            assert_eq!(read, event.identifiers);
        }
        event.identifiers.clear();
        assert_eq!(text(&event), None);
        assert_eq!(Identified::identifiers_text(br#"{"identifiers": []}"#), None);
        assert_eq!(
            Identified::identifiers_text(br#"{"identifiers":[{"kind":""#),
            None
        );
    }

    #[test]
    fn the_id_follows_from_what_happened_only() {
        let event = sample();
        let id = event_id(&event);
        let later = Event {
            ingested_at: event.ingested_at.plus_millis(5),
            plugin: "x@2".into(),
            ..event.clone()
        };
        assert_eq!(event_id(&later), id);
        let other_url = Event {
            click_url: Some("https://example.com/2".into()),
            ..event.clone()
        };
        assert_ne!(event_id(&other_url), id);

        let named = Event {
            provider_event_id: Some("e1".into()),
            ..event
        };
        let renamed_link = Event {
            click_url: None,
            ..named.clone()
        };
        assert_eq!(
            event_id(&named),
            event_id(&renamed_link),
            "the provider's id speaks for the content"
        );
        let other_account = Event {
            account: "eu".into(),
            ..named.clone()
        };
        assert_ne!(event_id(&other_account), event_id(&named));
    }

    #[test]
    fn every_type_has_one_name() {
        for event_type in EventType::ALL {
            assert_eq!(EventType::parse(event_type.as_str()), Some(event_type));
            assert_eq!(serde_json::to_value(event_type).unwrap(), event_type.as_str());
        }
        assert_eq!(EventType::parse("open"), None);
    }
}
