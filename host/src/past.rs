//! Events that came with no delivery: what a provider reported before it was connected.

use event::{Event, EventType, Hasher, Timestamp, identity::normalize_email};

use crate::{
    canonical::{self, Origin},
    plugin::types,
};

/// What stands in [`Event::plugin`] of such an event.
const IMPORTED: &str = concat!("import@", env!("CARGO_PKG_VERSION"));

/// An event of the past, with raw addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastEvent {
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub event_type: EventType,
    /// The person's address.
    pub email: Option<String>,
    /// The sender's own id of the person, or the person's address.
    pub user_id: Option<String>,
    /// The provider's id of the message.
    pub message_id: Option<String>,
    /// The campaign's id.
    pub campaign_id: Option<String>,
    /// What opened or clicked.
    pub user_agent: Option<String>,
    /// The network address that it came from.
    pub ip_address: Option<String>,
    /// Whether a machine caused it, if known.
    pub is_machine: Option<bool>,
}

/// The account that reported it, or would have.
#[derive(Debug, Clone, Copy)]
pub struct PastOrigin<'a> {
    /// The provider's slug.
    pub provider: &'a str,
    /// The account's name.
    pub account: &'a str,
    /// The account's `external_id_scope`.
    pub external_id_scope: Option<&'a str>,
    /// The time of the import.
    pub now: Timestamp,
}

/// Why an event of the past is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPastEvent {
    /// [`PastEvent::email`] is not an address.
    #[error("not an email address")]
    Email,
    /// It cannot have happened at [`PastEvent::at`].
    #[error("{0}")]
    Time(&'static str),
    /// It is about nobody.
    #[error("{0}")]
    Nobody(&'static str),
}

impl PastEvent {
    /// Converts the event as if a plugin had read it: addresses are hashed and removed from all texts, and the limits on fields
    /// hold. The same event gives the same id each time.
    ///
    /// # Errors
    /// [`InvalidPastEvent`] if it cannot be stored.
    pub fn convert(self, hasher: &Hasher, origin: &PastOrigin<'_>) -> Result<Event, InvalidPastEvent> {
        if self
            .email
            .as_deref()
            .is_some_and(|email| normalize_email(email).is_err())
        {
            return Err(InvalidPastEvent::Email);
        }
        let user_id = self.user_id.map(|value| types::Identifier {
            kind: types::IdentifierKind::ExternalId,
            value,
        });
        let raw = types::Event {
            index: 0,
            event_type: contract_type(self.event_type),
            timestamp_ms: self.at.as_millis(),
            provider_event_id: None,
            recipient_email: self.email,
            identifiers: Vec::from_iter(user_id),
            campaign_id: self.campaign_id,
            campaign_name: None,
            message_id: self.message_id,
            subject: None,
            click_url: None,
            user_agent: self.user_agent,
            ip_address: self.ip_address,
            bounce_type: None,
            reason: None,
            is_machine: self.is_machine,
            tags: Vec::new(),
            metadata: Vec::new(),
            sent_at_ms: None,
        };
        let origin = Origin {
            provider: origin.provider,
            account: origin.account,
            plugin: IMPORTED,
            received_at: origin.now,
            external_id_scope: origin.external_id_scope,
            now: origin.now,
        };
        canonical::timestamp(raw.timestamp_ms, &origin).map_err(InvalidPastEvent::Time)?;
        canonical::convert_event(raw, hasher, &origin, &mut 0).map_err(InvalidPastEvent::Nobody)
    }
}

fn contract_type(event_type: EventType) -> types::EventType {
    match event_type {
        EventType::Sent => types::EventType::Sent,
        EventType::Delivered => types::EventType::Delivered,
        EventType::Deferred => types::EventType::Deferred,
        EventType::Bounced => types::EventType::Bounced,
        EventType::Rejected => types::EventType::Rejected,
        EventType::Opened => types::EventType::Opened,
        EventType::Clicked => types::EventType::Clicked,
        EventType::Unsubscribed => types::EventType::Unsubscribed,
        EventType::Resubscribed => types::EventType::Resubscribed,
        EventType::MarkedSpam => types::EventType::MarkedSpam,
        EventType::Replied => types::EventType::Replied,
        EventType::Converted => types::EventType::Converted,
        EventType::SiteVisit => types::EventType::SiteVisit,
        EventType::ProductView => types::EventType::ProductView,
        EventType::SmsClick => types::EventType::SmsClick,
        EventType::PushClick => types::EventType::PushClick,
        EventType::SupportTicket => types::EventType::SupportTicket,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(past: PastEvent) -> Result<Event, InvalidPastEvent> {
        let origin = PastOrigin {
            provider: "sendgrid",
            account: "default",
            external_id_scope: Some("shop"),
            now: "2026-01-05T00:00:00Z".parse().unwrap(),
        };
        past.convert(&Hasher::new(), &origin)
    }

    fn past(email: Option<&str>, user_id: Option<&str>) -> PastEvent {
        PastEvent {
            at: "2025-12-01T09:30:00Z".parse().unwrap(),
            event_type: EventType::Clicked,
            email: email.map(str::to_owned),
            user_id: user_id.map(str::to_owned),
            message_id: Some("m-1".to_owned()),
            campaign_id: Some("for ann@example.com".to_owned()),
            user_agent: None,
            ip_address: Some("192.0.2.7".to_owned()),
            is_machine: Some(true),
        }
    }

    #[test]
    fn every_type_is_kept() {
        for event_type in EventType::ALL {
            let past = PastEvent {
                event_type,
                ..past(Some("ann@example.com"), None)
            };
            let event = convert(past).unwrap();
            assert_eq!(event.event_type, event_type);
        }
    }

    #[test]
    fn people_are_known_by_address_and_own_id_and_no_address_is_left() {
        let ann = convert(past(Some(" Ann@Example.com"), Some("7"))).unwrap();
        let hash = Hasher::new().email("ann@example.com").unwrap();
        assert_eq!(ann.recipient_email_hash, Some(hash));
        let ids: Vec<&str> = ann
            .identifiers
            .iter()
            .map(|identifier| &*identifier.value)
            .collect();
        assert_eq!(
            ids,
            [ann.recipient_email_hash.as_ref().unwrap().as_str(), "shop:7"]
        );
        let text = String::from_utf8(ann.to_json()).unwrap();
        assert!(!text.to_ascii_lowercase().contains("ann@"), "{text}");
        // An address as the own id is the address.
        let same = convert(past(None, Some("ann@example.com"))).unwrap();
        assert_eq!(same.universal_id, ann.universal_id);
        let own = convert(past(None, Some("7"))).unwrap();
        assert_ne!(own.universal_id, ann.universal_id);
    }

    #[test]
    fn what_cannot_be_stored_is_refused_without_naming_it() {
        let refused = |past: PastEvent| convert(past).unwrap_err().to_string();
        assert_eq!(refused(past(Some("ann"), Some("7"))), "not an email address");
        assert_eq!(
            refused(past(None, None)),
            "there is no address and no other identity of the recipient"
        );
        let old = PastEvent {
            at: Timestamp::from_millis_clamped(1_000),
            ..past(None, Some("7"))
        };
        assert_eq!(refused(old), "its time is before the year 2000");
    }
}
