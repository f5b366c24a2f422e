//! The canonical event: the form that every provider's deliveries are translated into, on the bus and in the event store.

use std::{collections::BTreeMap, fmt};

use memchr::memmem;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{EmailHash, Identifier, MailboxProvider, Timestamp, UniversalId, grid::DAY_MS};

/// The version of [`Event`]'s stored form that this build writes. It can read this version and all earlier ones.
pub const SCHEMA_VERSION: u16 = 1;

/// Initial capacity of the buffer for an event's JSON: most events take some 800 bytes, so that it need not grow.
const USUAL_JSON_BYTES: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the names are the documentation; wit/1.1.0/connector.wit describes each in a sentence"
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

    /// Returns whether it reports on the way of a message, and not on what a person did.
    pub fn is_of_transport(self) -> bool {
        matches!(
            self,
            Self::Sent | Self::Delivered | Self::Deferred | Self::Bounced | Self::Rejected
        )
    }

    /// Returns the type's name in stored data and APIs.
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

    /// Returns the type with this name.
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

/// Whether a bounce is permanent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BounceType {
    /// Permanent.
    Hard,
    /// Temporary.
    Soft,
}

impl BounceType {
    /// Both types.
    pub const ALL: [Self; 2] = [Self::Hard, Self::Soft];

    /// Returns the name in stored data and APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        }
    }

    /// Returns the type with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|bounce_type| bounce_type.as_str() == name)
    }
}

/// One event about one person. It contains no raw address: the host hashes identities and redacts free text before it
/// creates an event. Serialized as JSON on the bus; new fields are only ever appended, and bump [`SCHEMA_VERSION`].
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
    /// The person, as derived from this event alone.
    pub universal_id: UniversalId,
    /// Hash of the recipient's address, if the event has one.
    pub recipient_email_hash: Option<EmailHash>,
    /// Coarse class of the recipient's mailbox, if the event has an address.
    pub mailbox_provider: Option<MailboxProvider>,
    /// All identities in the event, strongest first, including the hash of the address.
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
    /// The reason, in the provider's words.
    pub reason: Option<String>,
    /// User agent of the recipient.
    pub user_agent: Option<String>,
    /// Network address of the recipient's device.
    pub ip_address: Option<String>,
    /// Tags or categories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Metadata that the sender attached.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Whether a machine caused the event, according to the provider.
    pub is_machine: Option<bool>,
    /// The provider's own id of this event.
    pub provider_event_id: Option<String>,
    /// Plugin that parsed it, as `slug@version`.
    pub plugin: String,
    /// When the host ingested it.
    pub ingested_at: Timestamp,
}

/// A stored event is in a form that this build cannot read.
#[derive(Debug, thiserror::Error)]
pub enum UnsupportedSchema {
    /// Written by a newer build.
    #[error("event has schema version {found}, this build reads up to {SCHEMA_VERSION}: upgrade the reader")]
    TooNew {
        /// The version found.
        found: u16,
    },
    /// An event of another program. It would count as a repetition of the last one without an id, and be lost.
    #[error("event has no `event_id`")]
    NoId,
    /// It is not an event at all.
    #[error("not an event")]
    Malformed(#[from] serde_json::Error),
}

impl Event {
    /// Creates an event that only has a type, a time and a person. Strings are empty, all other fields are absent.
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

    /// Serializes the event as it is written to the bus.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(USUAL_JSON_BYTES);
        serde_json::to_writer(&mut json, self)
            .expect("an event has only string keys and serializable values");
        json
    }

    /// Reads an event of any version up to [`SCHEMA_VERSION`].
    ///
    /// # Errors
    /// [`UnsupportedSchema`] if its version is newer, if the bytes are not an event, or if its id is empty.
    pub fn from_json(bytes: &[u8]) -> Result<Self, UnsupportedSchema> {
        let event = read(bytes, |event: &Self| event.schema_version)?;
        if event.event_id.is_empty() {
            return Err(UnsupportedSchema::NoId);
        }
        Ok(event)
    }
}

/// Who an event is about: the part that the identity graph uses, parsed without the rest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Identified {
    schema_version: u16,
    /// The event's id.
    pub event_id: String,
    /// All identities in the event, strongest first.
    #[serde(default)]
    pub identifiers: Vec<Identifier>,
    /// When the host ingested it.
    pub ingested_at: Timestamp,
}

impl Identified {
    /// Reads these fields of an event of any version up to [`SCHEMA_VERSION`]. All other fields are ignored.
    ///
    /// # Errors
    /// [`UnsupportedSchema`] if its version is newer, or if it lacks these fields.
    pub fn from_json(bytes: &[u8]) -> Result<Self, UnsupportedSchema> {
        read(bytes, |identified: &Self| identified.schema_version)
    }

    /// Returns the text of an event's list of identifiers, including the brackets, without parsing the rest; `None` if the event
    /// has none, or is not written the way [`Event::to_json`] writes it. Equal texts mean equal lists.
    pub fn identifiers_text(bytes: &[u8]) -> Option<&[u8]> {
        // Quotes inside strings are escaped, and no other field, at any depth, is a list with this name.
        const NAME: &[u8] = b"\"identifiers\":[";
        let start = memmem::find(bytes, NAME)? + NAME.len() - 1;
        let list = &bytes[start..];
        let (mut in_text, mut escaped) = (false, false);
        for (at, byte) in list.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = !in_text,
                // An identifier contains no list.
                b']' if !in_text => return Some(&list[..=at]),
                _ => {}
            }
        }
        None
    }
}

/// Deserializes an event, or a part of one, and checks its schema version.
fn read<T: DeserializeOwned>(bytes: &[u8], version: fn(&T) -> u16) -> Result<T, UnsupportedSchema> {
    #[derive(Deserialize)]
    struct Version {
        schema_version: u16,
    }
    // Nearly all events are of this version: the text is only parsed a second time if something is wrong with it.
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

/// Computes the id of an event: the first 128 bits of a SHA-256, as 32 hexadecimal digits, of provider, account, type,
/// time, person and the provider's event id or, if there is none, the content of the event. Reading the same delivery
/// twice gives the same ids; the people of one fanned-out message get different ones. If the time of a message's report is
/// that of receipt, because the provider gives none, only its UTC day is part of the hash: a delivery that is repeated on
/// the same day gives the same ids. What a person does may happen twice a day, so it keeps its time.
///
/// `event.event_id`, `plugin`, `schema_version`, `mailbox_provider`, and identities other than `universal_id` are not part of
/// the hash.
pub fn event_id(event: &Event) -> String {
    let mut hash = Sha256::new();
    // Fields are length-prefixed, so that no two different lists of fields give the same bytes.
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(b"sendflowr/event-id/1");
    field(event.esp.as_bytes());
    field(event.account.as_bytes());
    field(event.event_type.as_str().as_bytes());
    let time_ms = event.timestamp.as_millis();
    let time_ms = if event.event_type.is_of_transport() && event.timestamp == event.ingested_at {
        time_ms - time_ms.rem_euclid(DAY_MS)
    } else {
        time_ms
    };
    field(&time_ms.to_le_bytes());
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
            event_id: "e1".into(),
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

    /// One sample of every version is kept forever: a build that cannot read one of them must not be released.
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
            "the provider's id replaces the content"
        );
        let other_account = Event {
            account: "eu".into(),
            ..named.clone()
        };
        assert_ne!(event_id(&other_account), event_id(&named));
    }

    #[test]
    fn a_report_without_a_time_of_its_own_has_one_id_a_day() {
        let received = |event_type, at: &str| {
            let at: Timestamp = at.parse().unwrap();
            event_id(&Event {
                event_type,
                timestamp: at,
                ingested_at: at,
                ..sample()
            })
        };
        let (morning, night) = ("2026-01-10T00:00:00.000Z", "2026-01-10T23:59:59.999Z");
        for event_type in EventType::ALL {
            let first = received(event_type, morning);
            assert_eq!(received(event_type, night) == first, event_type.is_of_transport());
            assert_ne!(received(event_type, "2026-01-11T00:00:00.000Z"), first);
        }
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
