//! Conversions between events and rows of `email_events`.

use event::{
    BounceType, EmailHash, Event, EventType, MailboxProvider, Timestamp, UniversalId, profile::Occurrence,
};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{QueryBuilder, Row, Sqlite, sqlite::SqliteRow};

use crate::{
    StoreError,
    events::{Enrichment, StoredEvent},
    sqlite::{classify, malformed},
};

/// The columns of an event, in the order in which [`insert`] binds and [`read`] reads them.
macro_rules! columns {
    () => {
        "event_id, event_type, timestamp, esp, universal_id, recipient_email_hash, campaign_id, campaign_name, message_id, \
         subject, click_url, bounce_type, user_agent, ip_address, metadata, ingested_at, schema_version, account, \
         mailbox_provider, identifiers, reason, tags, is_machine, provider_event_id, plugin, machine, machine_reasons, \
         delivery_latency_ms, trace_id"
    };
}

const INSERT: &str = concat!("INSERT INTO email_events (", columns!(), ") ");

/// Selects the newest events of one id; the columns are those that [`read`] expects.
pub(super) const HISTORY: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM email_events WHERE universal_id = ?1 AND timestamp >= ?2 ORDER BY timestamp DESC, event_id DESC LIMIT ?3"
);

/// Selects the first events of one id after a time and an event; the columns are those that [`read`] expects.
pub(super) const PAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM email_events WHERE universal_id = ?1 AND timestamp >= ?2 AND (timestamp, event_id) > (?2, ?3) \
     ORDER BY timestamp, event_id LIMIT ?4"
);

/// Selects what a profile needs of the newest events of one id; the columns are those that [`occurrence`] expects.
pub(super) const OCCURRENCES: &str = "\
SELECT event_type, timestamp, bounce_type, mailbox_provider, message_id, machine \
FROM email_events WHERE universal_id = ?1 AND timestamp >= ?2 ORDER BY timestamp DESC, event_id DESC LIMIT ?3";

/// Selects what a profile needs of the newest ?4 events of one id of each type of ?3, of bounces only the permanent ones. Reads all
/// events of the id from ?2 on, so it is for the few people with more events than are otherwise read.
pub(super) const LASTING: &str = "\
SELECT event_type, timestamp, bounce_type, mailbox_provider, message_id, machine \
FROM (SELECT *, row_number() OVER (PARTITION BY event_type ORDER BY timestamp DESC, event_id DESC) AS place \
FROM email_events WHERE universal_id = ?1 AND timestamp >= ?2 AND event_type IN (SELECT value FROM json_each(?3)) \
AND (event_type <> 'bounced' OR bounce_type = 'hard')) WHERE place <= ?4";

/// Builds the statement that inserts events that are not stored yet.
pub(super) fn insert(batch: &[StoredEvent]) -> QueryBuilder<Sqlite> {
    let mut insert = QueryBuilder::new(INSERT);
    insert.push_values(batch, |mut row, StoredEvent { event, enrichment }| {
        row.push_bind(&event.event_id)
            .push_bind(event.event_type.as_str())
            .push_bind(event.timestamp.to_string())
            .push_bind(&event.esp)
            .push_bind(event.universal_id.as_str())
            .push_bind(event.recipient_email_hash.as_ref().map(EmailHash::as_str))
            .push_bind(&event.campaign_id)
            .push_bind(&event.campaign_name)
            .push_bind(&event.message_id)
            .push_bind(&event.subject)
            .push_bind(&event.click_url)
            .push_bind(event.bounce_type.map(BounceType::as_str))
            .push_bind(&event.user_agent)
            .push_bind(&event.ip_address)
            .push_bind(json(&event.metadata))
            .push_bind(event.ingested_at.to_string())
            .push_bind(event.schema_version)
            .push_bind(&event.account)
            .push_bind(event.mailbox_provider.map(MailboxProvider::as_str))
            .push_bind(json(&event.identifiers))
            .push_bind(&event.reason)
            .push_bind(json(&event.tags))
            .push_bind(event.is_machine)
            .push_bind(&event.provider_event_id)
            .push_bind(&event.plugin)
            .push_bind(enrichment.machine)
            .push_bind(json(&enrichment.machine_reasons))
            .push_bind(enrichment.delivery_latency_ms)
            .push_bind(enrichment.trace_id.map(|id| id.to_string()));
    });
    insert.push(" ON CONFLICT (event_id) DO NOTHING");
    insert
}

/// Reads the event in a row of [`HISTORY`].
pub(super) fn read(row: &SqliteRow) -> Result<StoredEvent, StoreError> {
    let text = |index: usize| row.try_get::<&str, _>(index).map_err(classify);
    let owned = |index: usize| row.try_get::<String, _>(index).map_err(classify);
    let optional = |index: usize| row.try_get::<Option<String>, _>(index).map_err(classify);
    let bounce_type = bounce_type(optional(11)?.as_deref())?;
    let recipient_email_hash = match optional(5)? {
        Some(hash) => Some(EmailHash::parse(&hash).ok_or_else(|| unreadable("recipient_email_hash"))?),
        None => None,
    };
    let trace_id = match row.try_get::<Option<&str>, _>(28).map_err(classify)? {
        Some(id) => Some(id.parse().map_err(|_| unreadable("trace_id"))?),
        None => None,
    };
    let event = Event {
        event_id: owned(0)?,
        event_type: event_type(text(1)?)?,
        timestamp: timestamp(text(2)?, "timestamp")?,
        esp: owned(3)?,
        universal_id: universal_id(text(4)?)?,
        recipient_email_hash,
        campaign_id: optional(6)?,
        campaign_name: optional(7)?,
        message_id: optional(8)?,
        subject: optional(9)?,
        click_url: optional(10)?,
        bounce_type,
        user_agent: optional(12)?,
        ip_address: optional(13)?,
        metadata: parsed(text(14)?, "metadata")?,
        ingested_at: timestamp(text(15)?, "ingested_at")?,
        schema_version: row.try_get(16).map_err(classify)?,
        account: owned(17)?,
        mailbox_provider: mailbox_provider(row.try_get(18).map_err(classify)?)?,
        identifiers: parsed(text(19)?, "identifiers")?,
        reason: optional(20)?,
        tags: parsed(text(21)?, "tags")?,
        is_machine: row.try_get(22).map_err(classify)?,
        provider_event_id: optional(23)?,
        plugin: owned(24)?,
    };
    let enrichment = Enrichment {
        machine: row.try_get(25).map_err(classify)?,
        machine_reasons: parsed(text(26)?, "machine_reasons")?,
        delivery_latency_ms: row.try_get(27).map_err(classify)?,
        trace_id,
    };
    Ok(StoredEvent { event, enrichment })
}

/// Reads what a profile needs from a row of [`OCCURRENCES`] or [`LASTING`].
pub(super) fn occurrence(row: &SqliteRow) -> Result<Occurrence<'_>, StoreError> {
    let text = |index: usize| row.try_get::<&str, _>(index).map_err(classify);
    let optional = |index: usize| row.try_get::<Option<&str>, _>(index).map_err(classify);
    Ok(Occurrence {
        event_type: event_type(text(0)?)?,
        timestamp: timestamp(text(1)?, "timestamp")?,
        bounce_type: bounce_type(optional(2)?)?,
        mailbox_provider: mailbox_provider(optional(3)?)?,
        message_id: optional(4)?,
        machine: row.try_get(5).map_err(classify)?,
    })
}

fn event_type(name: &str) -> Result<EventType, StoreError> {
    EventType::parse(name).ok_or_else(|| unreadable("event_type"))
}

fn bounce_type(name: Option<&str>) -> Result<Option<BounceType>, StoreError> {
    name.map(|name| BounceType::parse(name).ok_or_else(|| unreadable("bounce_type")))
        .transpose()
}

pub(super) fn timestamp(text: &str, column: &str) -> Result<Timestamp, StoreError> {
    text.parse().map_err(|_| unreadable(column))
}

pub(super) fn universal_id(text: &str) -> Result<UniversalId, StoreError> {
    UniversalId::parse(text).ok_or_else(|| unreadable("universal_id"))
}

pub(super) fn mailbox_provider(name: Option<&str>) -> Result<Option<MailboxProvider>, StoreError> {
    name.map(|name| MailboxProvider::parse(name).ok_or_else(|| unreadable("mailbox_provider")))
        .transpose()
}

fn unreadable(column: &str) -> StoreError {
    malformed("email_events", column)
}

pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("lists and maps of texts are always valid JSON")
}

fn parsed<T: DeserializeOwned>(text: &str, column: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| unreadable(column))
}
