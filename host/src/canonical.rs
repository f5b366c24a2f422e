//! Converts what a plugin read to canonical events.
//!
//! Raw addresses go no further than this module: they are hashed, and removed from every text. A plugin's output is not trusted
//! to be short or well-formed either: every field has a limit, so that no delivery produces records that a store refuses.
//!
//! | field | limit | if it is longer |
//! |---|---|---|
//! | ids of events, messages, campaigns, people | 512 bytes | is replaced by its SHA-256, because ids must stay distinct |
//! | `click_url` | 4,096 bytes | is truncated |
//! | `reason` | 2,048 bytes | is truncated |
//! | `campaign_name`, `subject`, `user_agent`, metadata values | 1,024 bytes | is truncated |
//! | tags, metadata names | 256 bytes | is truncated |
//! | tags, metadata pairs | 64 each | the rest is dropped |
//! | identifiers | 16 | the rest is dropped |

pub(crate) mod scrub;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr};

use event::{
    Event, EventType, Hasher, Identifier, IdentifierKind, MAX_AHEAD_MS, MailboxProvider, SCHEMA_VERSION,
    Timestamp, UniversalId, event_id,
    identity::{normalize_email, scoped_esp_user_id},
    latency,
};

use self::scrub::Scrubber;
use crate::plugin::types;

/// Longest `click_url`. Real ones with tracking parameters stay below 2,000; browsers and servers accept 4,096 and more.
const MAX_URL_BYTES: usize = 4096;

/// Longest `reason`. SMTP replies of many lines stay below.
const MAX_REASON_BYTES: usize = 2048;

/// Longest single-line text. RFC 5322 limits a subject to 998.
const MAX_LINE_BYTES: usize = 1024;

/// Longest tag or metadata name: twice what the most generous provider allows.
const MAX_NAME_BYTES: usize = 256;

/// Maximum number of tags, and of metadata pairs. Providers allow 10 to 50.
const MAX_ENTRIES: usize = 64;

/// Maximum number of identifiers; there are five kinds.
const MAX_IDENTIFIERS: usize = 16;

/// 2000-01-01T00:00:00Z, before any of the providers existed. Seconds that are misread as milliseconds end up in January 1970.
const EARLIEST_MS: i64 = 946_684_800_000;

/// What all events of one delivery have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) provider: &'a str,
    pub(crate) account: &'a str,
    /// `slug@version`.
    pub(crate) plugin: &'a str,
    pub(crate) received_at: Timestamp,
    /// Whose people the sender's own ids refer to, if known.
    pub(crate) external_id_scope: Option<&'a str>,
    /// The time of conversion: later than the receipt when the delivery is replayed.
    pub(crate) now: Timestamp,
}

/// An element that yields no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedElement {
    /// Its position in the delivery, from 0.
    pub index: u32,
    /// Why, without addresses.
    pub reason: String,
}

/// The result of converting a batch.
#[derive(Debug, Default)]
pub(crate) struct Converted {
    pub(crate) events: Vec<Event>,
    /// The plugin's own rejections and the host's, by index.
    pub(crate) rejected: Vec<RejectedElement>,
    pub(crate) skipped: Vec<types::Skipped>,
    /// Identifiers that were empty or not a phone number, or that contained an address.
    pub(crate) identifiers_dropped: u64,
}

/// Returns about how much memory a batch takes: the cost of converting it grows with that.
pub(crate) fn bytes_of(batch: &types::Batch) -> usize {
    let mut bytes =
        size_of_val(&*batch.events) + size_of_val(&*batch.skipped) + size_of_val(&*batch.rejected);
    for event in &batch.events {
        let texts = [
            &event.provider_event_id,
            &event.recipient_email,
            &event.campaign_id,
            &event.campaign_name,
            &event.message_id,
            &event.subject,
            &event.click_url,
            &event.user_agent,
            &event.ip_address,
            &event.reason,
        ];
        bytes += texts.into_iter().flatten().map(String::len).sum::<usize>();
        bytes += size_of_val(&*event.identifiers) + size_of_val(&*event.tags) + size_of_val(&*event.metadata);
        for identifier in &event.identifiers {
            bytes += identifier.value.len();
        }
        for tag in &event.tags {
            bytes += tag.len();
        }
        for types::Pair { name, value } in &event.metadata {
            bytes += name.len() + value.len();
        }
    }
    for skipped in &batch.skipped {
        bytes += skipped.provider_type.len() + skipped.reason.len();
    }
    for rejected in &batch.rejected {
        bytes += rejected.reason.len();
    }
    bytes
}

/// Converts a batch.
pub(crate) fn convert(batch: types::Batch, hasher: &Hasher, origin: &Origin<'_>) -> Converted {
    let mut converted = Converted {
        skipped: batch.skipped,
        ..Converted::default()
    };
    for rejected in batch.rejected {
        let reason = scrub::sentence(&rejected.reason);
        converted.rejected.push(RejectedElement {
            index: rejected.index,
            reason,
        });
    }
    converted.events.reserve(batch.events.len());
    for raw in batch.events {
        let index = raw.index;
        match convert_event(raw, hasher, origin, &mut converted.identifiers_dropped) {
            Ok(event) => converted.events.push(event),
            Err(reason) => converted.rejected.push(RejectedElement {
                index,
                reason: reason.to_owned(),
            }),
        }
    }
    converted.rejected.sort_by_key(|rejected| rejected.index);
    converted
}

/// Checks whether the event would be converted.
pub(crate) fn check(raw: &types::Event, hasher: &Hasher, origin: &Origin<'_>) -> Result<(), &'static str> {
    convert_event(raw.clone(), hasher, origin, &mut 0).map(drop)
}

pub(crate) fn convert_event(
    raw: types::Event,
    hasher: &Hasher,
    origin: &Origin<'_>,
    identifiers_dropped: &mut u64,
) -> Result<Event, &'static str> {
    let timestamp = timestamp(raw.timestamp_ms, origin)?;
    let address = address(&raw);
    let scrubber = Scrubber::new(raw.recipient_email.as_deref(), address.as_deref());

    let recipient_email_hash = match &address {
        Some(address) => hasher.email(address).ok(),
        None => None,
    };
    let mailbox_provider = address.as_deref().map(MailboxProvider::of_address);
    let mut identifiers = Vec::with_capacity(1 + raw.identifiers.len().min(MAX_IDENTIFIERS));
    if let Some(hash) = &recipient_email_hash {
        identifiers.push(Identifier {
            kind: IdentifierKind::EmailHash,
            value: hash.as_str().to_owned(),
        });
    }
    for identifier in raw.identifiers.into_iter().take(MAX_IDENTIFIERS) {
        match convert_identifier(identifier, hasher, &scrubber, origin) {
            Some(identifier) => identifiers.push(identifier),
            None => *identifiers_dropped += 1,
        }
    }
    identifiers.sort();
    identifiers.dedup();
    let message_id = raw.message_id.and_then(|id| scrubber.id(id, hasher));
    // Some reports name only a message, and what bounces is not always an address. They are stored too, under nobody's id. What
    // somebody did is not: an opt-out that holds for nobody must not pass for stored.
    let is_report = event_type(raw.event_type).is_of_transport();
    let universal_id = match (UniversalId::from_identifiers(&identifiers), &message_id) {
        (Some(id), _) => id,
        (None, Some(message)) if is_report => hasher.recipient_of(
            [origin.provider, origin.account, message],
            raw.recipient_email.as_deref().unwrap_or_default(),
        ),
        (None, _) => return Err("there is no address and no other identity of the recipient"),
    };

    let mut tags = Vec::with_capacity(raw.tags.len().min(MAX_ENTRIES));
    for tag in raw.tags.into_iter().take(MAX_ENTRIES) {
        tags.extend(scrubber.text(tag, MAX_NAME_BYTES));
    }
    let mut metadata = BTreeMap::new();
    for types::Pair { name, value } in raw.metadata.into_iter().take(MAX_ENTRIES) {
        if let Some(name) = scrubber.text(name, MAX_NAME_BYTES) {
            metadata.insert(name, scrubber.text(value, MAX_LINE_BYTES).unwrap_or_default());
        }
    }
    let line = |text: Option<String>| text.and_then(|text| scrubber.text(text, MAX_LINE_BYTES));
    let mut event = Event {
        schema_version: SCHEMA_VERSION,
        event_id: String::new(),
        event_type: event_type(raw.event_type),
        timestamp,
        esp: origin.provider.to_owned(),
        account: origin.account.to_owned(),
        universal_id,
        recipient_email_hash,
        mailbox_provider,
        identifiers,
        campaign_id: raw
            .campaign_id
            .and_then(|id| scrubber.text(id, usize::MAX))
            .map(scrub::shorten_id),
        campaign_name: line(raw.campaign_name),
        message_id,
        subject: line(raw.subject),
        click_url: raw.click_url.and_then(|url| scrubber.text(url, MAX_URL_BYTES)),
        bounce_type: raw.bounce_type.map(|bounce_type| match bounce_type {
            types::BounceType::Hard => event::BounceType::Hard,
            types::BounceType::Soft => event::BounceType::Soft,
        }),
        reason: raw
            .reason
            .and_then(|reason| scrubber.text(reason, MAX_REASON_BYTES)),
        user_agent: line(raw.user_agent),
        ip_address: raw
            .ip_address
            .and_then(|text| text.trim().parse::<IpAddr>().ok())
            .map(|address| address.to_string()),
        tags,
        metadata,
        is_machine: raw.is_machine,
        provider_event_id: raw.provider_event_id.and_then(|id| scrubber.id(id, hasher)),
        plugin: origin.plugin.to_owned(),
        ingested_at: origin.received_at,
    };
    event.event_id = event_id(&event);
    // Added after the id is computed: a plugin that starts to report the time of sending must not give a repeated
    // delivery other ids.
    if let (EventType::Delivered, Some(sent_at_ms)) = (event.event_type, raw.sent_at_ms) {
        let latency_ms = timestamp.as_millis().saturating_sub(sent_at_ms);
        if latency::is_believable(latency_ms) {
            let seconds = format!("{}.{:03}", latency_ms / 1_000, latency_ms % 1_000);
            event
                .metadata
                .entry(latency::METADATA_KEY.to_owned())
                .or_insert(seconds);
        }
    }
    Ok(event)
}

/// Returns the event's normalized address: the recipient's, or else the first identifier that is an address, because
/// some senders use addresses as their own ids.
fn address(raw: &types::Event) -> Option<String> {
    let email = raw
        .recipient_email
        .as_deref()
        .and_then(|email| normalize_email(email).ok());
    email.or_else(|| {
        let kept = raw.identifiers.iter().take(MAX_IDENTIFIERS);
        kept.filter(|identifier| identifier.kind != types::IdentifierKind::PhoneNumber)
            .find_map(|identifier| normalize_email(&identifier.value).ok())
    })
}

/// Converts an identifier to its stored form. Returns `None` when it is empty, not a phone number, or contains an address.
fn convert_identifier(
    raw: types::Identifier,
    hasher: &Hasher,
    scrubber: &Scrubber,
    origin: &Origin<'_>,
) -> Option<Identifier> {
    let kind = match raw.kind {
        types::IdentifierKind::PhoneNumber => return hasher.phone_identifier(&raw.value).ok(),
        types::IdentifierKind::KlaviyoId => IdentifierKind::KlaviyoId,
        types::IdentifierKind::EspUserId => IdentifierKind::EspUserId,
        types::IdentifierKind::ShopifyCustomerId => IdentifierKind::ShopifyCustomerId,
        types::IdentifierKind::ExternalId => IdentifierKind::ExternalId,
    };
    let value = scrub::without_nul(raw.value);
    let value = value.trim();
    // Redacting would merge all people whose ids contain an address into one, so such an id is not used. The first one
    // that is an address has become the event's address if it had none.
    if value.is_empty() || scrubber.shows_address(value) {
        return None;
    }
    let value = scrub::shorten_id(value.to_owned());
    let value = match (kind, origin.external_id_scope) {
        (IdentifierKind::EspUserId, _) => scoped_esp_user_id(origin.provider, origin.account, &value),
        (IdentifierKind::ExternalId, Some(scope)) => format!("{scope}:{value}"),
        _ => value,
    };
    Some(Identifier { kind, value })
}

pub(crate) fn timestamp(ms: i64, origin: &Origin<'_>) -> Result<Timestamp, &'static str> {
    let timestamp = Timestamp::try_from_millis(ms).ok_or("its time is outside the years 1970 to 9999")?;
    if ms < EARLIEST_MS {
        return Err("its time is before the year 2000");
    }
    // The clock may have been behind at the time of receipt, and so may the clock of a host that replays.
    if timestamp.millis_since(origin.received_at.max(origin.now)) > MAX_AHEAD_MS {
        return Err("its time is more than a day after its receipt");
    }
    Ok(timestamp)
}

fn event_type(event_type: types::EventType) -> EventType {
    match event_type {
        types::EventType::Sent => EventType::Sent,
        types::EventType::Delivered => EventType::Delivered,
        types::EventType::Deferred => EventType::Deferred,
        types::EventType::Bounced => EventType::Bounced,
        types::EventType::Rejected => EventType::Rejected,
        types::EventType::Opened => EventType::Opened,
        types::EventType::Clicked => EventType::Clicked,
        types::EventType::Unsubscribed => EventType::Unsubscribed,
        types::EventType::Resubscribed => EventType::Resubscribed,
        types::EventType::MarkedSpam => EventType::MarkedSpam,
        types::EventType::Replied => EventType::Replied,
        types::EventType::Converted => EventType::Converted,
        types::EventType::SiteVisit => EventType::SiteVisit,
        types::EventType::ProductView => EventType::ProductView,
        types::EventType::SmsClick => EventType::SmsClick,
        types::EventType::PushClick => EventType::PushClick,
        types::EventType::SupportTicket => EventType::SupportTicket,
    }
}

/// Returns the canonical name of an event type.
pub(crate) fn event_type_name(raw: types::EventType) -> &'static str {
    event_type(raw).as_str()
}

/// Returns the canonical name of an identifier's kind.
pub(crate) fn identifier_kind_name(kind: types::IdentifierKind) -> &'static str {
    match kind {
        types::IdentifierKind::PhoneNumber => IdentifierKind::PhoneNumber.as_str(),
        types::IdentifierKind::KlaviyoId => IdentifierKind::KlaviyoId.as_str(),
        types::IdentifierKind::EspUserId => IdentifierKind::EspUserId.as_str(),
        types::IdentifierKind::ShopifyCustomerId => IdentifierKind::ShopifyCustomerId.as_str(),
        types::IdentifierKind::ExternalId => IdentifierKind::ExternalId.as_str(),
    }
}
