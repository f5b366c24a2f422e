//! The event store: enriched events, a person's history, what models learn from, and explanations.

mod clickhouse;
mod forecast;
mod shares;
mod sqlite;
mod trial;

use async_trait::async_trait;
use event::{Event, MailboxProvider, Timestamp, TraceId, UniversalId, profile::Profile};
use serde::{Deserialize, Serialize};

pub use self::{
    clickhouse::{ClickHouseConfig, ClickHouseEvents, InvalidClickHouseConfig, RawClickHouseConfig},
    forecast::{Forecast, StoredForecast},
    shares::Sample,
    sqlite::{SqliteEvents, SqliteEventsConfig},
    trial::{StoredTrial, Touch, TouchKind, Trial, TrialGroup},
};
use crate::StoreError;

/// An event with what the consumer found out about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// The event as it came over the bus.
    #[serde(flatten)]
    pub event: Event,
    /// The consumer's findings.
    #[serde(flatten)]
    pub enrichment: Enrichment,
}

/// What the consumer adds to an event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Enrichment {
    /// Whether a machine, not the person, opened or clicked. `false` for all other types.
    pub machine: bool,
    /// Rules that speak for a machine, by name, with their points: `click_within_2s:3`.
    pub machine_reasons: Vec<String>,
    /// Of a delivered event: milliseconds from the sent event of the same message to it.
    pub delivery_latency_ms: Option<i64>,
    /// The trace of the delivery that brought it first, from the header of its record on the bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
}

/// What a write changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteReport {
    /// Events that were not there before (at least; an engine that dedupes later counts all).
    pub inserted: usize,
    /// Events that were there already.
    pub duplicates: usize,
}

/// Days for which explanations are kept: questions about a decision come within weeks of its mail, and a thousand decisions a day
/// come to some 300 MB in that time.
pub const EXPLANATION_DAYS: u64 = 90;

/// One observed delay from sending to delivery.
///
/// `campaign_type` and `payload_bytes` are what the sender attached to the message under these names (custom arguments,
/// variables, metadata), which providers repeat in its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatencySample {
    /// The person, so that samples can be split by person.
    pub universal_id: UniversalId,
    /// Provider.
    pub esp: String,
    /// Campaign, where known.
    pub campaign_id: Option<String>,
    /// Type of campaign, where the sender attached it.
    pub campaign_type: Option<String>,
    /// Size of the message, where the sender attached it as a number of bytes.
    pub payload_bytes: Option<u32>,
    /// Class of the mailbox, where known.
    pub mailbox_provider: Option<MailboxProvider>,
    /// When it was delivered.
    pub delivered_at: Timestamp,
    /// The delay, milliseconds.
    pub latency_ms: i64,
    /// How many deliveries of the provider this one stands for, itself included: more than 1 where only a share of them was
    /// read.
    pub stands_for: u32,
}

/// Longest type of campaign that is believed; what is longer is no name of a type.
const MAX_CAMPAIGN_TYPE_BYTES: usize = 256;

/// The type of campaign that a message's metadata tell.
fn campaign_type(told: Option<String>) -> Option<String> {
    told.filter(|name| !name.is_empty() && name.len() <= MAX_CAMPAIGN_TYPE_BYTES)
}

/// The size of the message that its metadata tell.
fn payload_bytes(told: Option<&str>) -> Option<u32> {
    told?.trim().parse().ok()
}

/// How many events there are of one provider and type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventCount {
    /// Provider.
    pub esp: String,
    /// Type.
    pub event_type: String,
    /// Distinct events.
    pub events: u64,
}

/// A stored explanation of a decision.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredExplanation {
    /// The reference that the decision's answer carries.
    pub reference: String,
    /// The person.
    pub universal_id: UniversalId,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// The explanation, JSON.
    pub body: String,
    /// What it means for the comparison with the control group; `None` where it takes no part in it.
    pub trial: Option<Trial>,
    /// What it expects of the mail's way; `None` where it is left out of the audit of arrivals.
    pub forecast: Option<Forecast>,
}

/// How much is stored about a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Holdings {
    /// Distinct events.
    pub events: u64,
    /// Distinct explanations of decisions.
    pub explanations: u64,
}

/// Keeps events and explanations.
#[async_trait]
pub trait Events: Send + Sync {
    /// Writes a batch. An event whose id is already there changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] when the batch holds something that can never be stored, [`StoreError::Unavailable`]
    /// when it may be tried again. Nothing of the batch is stored then.
    async fn write(&self, batch: &[StoredEvent]) -> Result<WriteReport, StoreError>;

    /// The events of one person, under all of `ids` (a person's id and its aliases), from `since` on, oldest first; the
    /// newest `limit` of them.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn history(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// The profile that the events of each of these ids from `since` on make, in the order of the ids; of each id the newest
    /// `limit` events. Reads no more of an event than a profile takes in.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn profiles(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<Profile>, StoreError>;

    /// Whether any event of each of these people is stored, in their order. Whose events have aged out may still be known.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn known(&self, ids: &[UniversalId]) -> Result<Vec<bool>, StoreError>;

    /// When the messages of these (universal id, message id) pairs were sent; `None` where no sent event is stored.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn sent_times(
        &self,
        messages: &[(UniversalId, String)],
    ) -> Result<Vec<Option<Timestamp>>, StoreError>;

    /// People with events at or after `since`, in the order of their ids, beginning after `after`; at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn people(
        &self,
        since: Timestamp,
        after: Option<&UniversalId>,
        limit: usize,
    ) -> Result<Vec<UniversalId>, StoreError>;

    /// Delivery delays observed at or after `since`, newest first: all of a provider's, or where it has more than
    /// `per_provider` those of one person in so many that about as many are left, of the whole time. In all at most twice
    /// `per_provider` times the number of providers, the newest.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn latency_samples(
        &self,
        since: Timestamp,
        per_provider: usize,
    ) -> Result<Vec<LatencySample>, StoreError>;

    /// Distinct events by provider and type.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn counts(&self) -> Result<Vec<EventCount>, StoreError>;

    /// Keeps explanations, all of them or none; one that is there already under its reference stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] when one of them can never be kept, others when they may be tried again.
    async fn save_explanations(&self, explanations: &[&StoredExplanation]) -> Result<(), StoreError>;

    /// The explanation with this reference.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn explanation(&self, reference: &str) -> Result<Option<StoredExplanation>, StoreError>;

    /// Decisions of `[since, until)` that take part in the comparison with the control group, newest first: all, or where there
    /// are more than `wanted` those about a share of the people (by the decision's id) that leaves about as many, of the whole
    /// time. At most twice `wanted`, the newest.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn trials(
        &self,
        since: Timestamp,
        until: Timestamp,
        wanted: usize,
    ) -> Result<Sample<StoredTrial>, StoreError>;

    /// Decisions of `[since, until)` that are audited, like [`trials`](Self::trials).
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn forecasts(
        &self,
        since: Timestamp,
        until: Timestamp,
        wanted: usize,
    ) -> Result<Sample<StoredForecast>, StoreError>;

    /// Mails that reached these people (under any of `ids`) in `[since, until)`, and their strong answers, in no particular
    /// order.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn touches(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Touch>, StoreError>;

    /// The events that stand under one id, by their time and then by their id, beginning behind the event `after`; at most
    /// `limit`. So all of them can be read page by page, however many there are.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn events_of(
        &self,
        id: &UniversalId,
        after: Option<&Event>,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// References of all explanations of decisions about these people, in text order. May take minutes: nobody else finds
    /// explanations by their person.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn explanations_about(&self, ids: &[UniversalId]) -> Result<Vec<String>, StoreError>;

    /// How much is stored under these ids. May take minutes.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn holdings(&self, ids: &[UniversalId]) -> Result<Holdings, StoreError>;

    /// Erases all that is stored under these ids, and what was derived from it; answers how much that was. No reader finds any of
    /// it from then on. Events that are written later are stored as if nothing had been. May take minutes.
    ///
    /// # Errors
    /// [`StoreError`] when some of it may be left: erasing again takes up what is.
    async fn erase(&self, ids: &[UniversalId]) -> Result<Holdings, StoreError>;

    /// Checks that the store takes reads and writes.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    async fn ping(&self) -> Result<(), StoreError>;
}
