//! The event store: enriched events, a person's history, training data for models, and explanations of decisions.

mod clickhouse;
mod forecast;
mod shares;
mod sqlite;
mod trial;

use std::time::Duration;

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

/// An event with what the consumer derived about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// The event as read from the bus.
    #[serde(flatten)]
    pub event: Event,
    /// What the consumer derived.
    #[serde(flatten)]
    pub enrichment: Enrichment,
}

/// What the consumer adds to an event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Enrichment {
    /// Whether a machine, not the person, opened or clicked. `false` for all other event types.
    pub machine: bool,
    /// Names of the rules that indicate a machine, with their points: `click_within_2s:3`.
    pub machine_reasons: Vec<String>,
    /// For a delivered event: milliseconds from the sent event of the same message to this one.
    pub delivery_latency_ms: Option<i64>,
    /// The trace of the delivery that first brought the event, from the header of its record on the bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
}

/// What a write changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteReport {
    /// Events that were not stored before (at least; an engine that deduplicates later counts all).
    pub inserted: usize,
    /// Events that were already stored.
    pub duplicates: usize,
}

/// Number of days for which explanations are kept: questions about a decision arise within weeks of its mail, and a thousand
/// decisions per day add up to about 300 MB in that time.
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
    /// Campaign, if known.
    pub campaign_id: Option<String>,
    /// Type of campaign, if the sender attached it.
    pub campaign_type: Option<String>,
    /// Size of the message, if the sender attached it as a number of bytes.
    pub payload_bytes: Option<u32>,
    /// Class of the mailbox, if known.
    pub mailbox_provider: Option<MailboxProvider>,
    /// When it was delivered.
    pub delivered_at: Timestamp,
    /// The delay in milliseconds.
    pub latency_ms: i64,
    /// Number of the provider's deliveries that this one stands for, itself included: more than 1 if only a share of them was
    /// read.
    pub stands_for: u32,
}

/// Maximum length of a campaign type; anything longer is not the name of a type.
const MAX_CAMPAIGN_TYPE_BYTES: usize = 256;

/// Returns the type of campaign from a message's metadata.
fn campaign_type(told: Option<String>) -> Option<String> {
    told.filter(|name| !name.is_empty() && name.len() <= MAX_CAMPAIGN_TYPE_BYTES)
}

/// Returns the size of the message from its metadata.
fn payload_bytes(told: Option<&str>) -> Option<u32> {
    told?.trim().parse().ok()
}

/// A stored explanation of a decision.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredExplanation {
    /// The reference in the response to the decision request.
    pub reference: String,
    /// The person.
    pub universal_id: UniversalId,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// The explanation, JSON.
    pub body: String,
    /// What it means for the comparison with the control group; `None` if it takes no part in the comparison.
    pub trial: Option<Trial>,
    /// When it expects the mail to go out and to arrive; `None` if it is excluded from the audit of arrivals.
    pub forecast: Option<Forecast>,
}

/// How much is stored about a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Holdings {
    /// Number of distinct events.
    pub events: u64,
    /// Number of distinct explanations of decisions.
    pub explanations: u64,
}

/// A consumer that could not update profiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileDoubt {
    /// The name that the consumer gave itself.
    pub consumer: String,
    /// How long ago it last said so.
    pub told_before: Duration,
}

impl ProfileDoubt {
    /// Returns the doubt of a consumer that spoke so many milliseconds ago; a clock that was set back may make them negative.
    fn told_before(consumer: String, millis: i64) -> Self {
        Self {
            consumer,
            told_before: Duration::from_millis(millis.max(0).unsigned_abs()),
        }
    }
}

/// Rows that cannot be read, and are left out of the profiles that a call builds.
#[derive(Debug, Default)]
struct LeftOut {
    rows: usize,
    first: Option<StoreError>,
}

impl LeftOut {
    fn note(&mut self, error: StoreError) {
        self.rows += 1;
        self.first.get_or_insert(error);
    }

    /// Logs them in one line, since there may be many.
    fn tell(self) {
        if let Some(error) = self.first {
            tracing::error!(
                events.left_out = self.rows,
                %error,
                "stored events that cannot be read are left out of profiles: correct or delete the rows"
            );
        }
    }
}

/// Stores events and explanations, and whether profiles, which are made from events, can be believed.
#[async_trait]
pub trait Events: Send + Sync {
    /// Writes a batch. An event whose id is already stored changes nothing, even if it has another time now.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] when the batch contains something that can never be stored; nothing of it is stored then.
    /// [`StoreError::TooMuch`] and [`StoreError::Unavailable`] when the write may be retried; some of the batch may be stored,
    /// and it is right to write all of it again.
    async fn write(&self, batch: &[StoredEvent]) -> Result<WriteReport, StoreError>;

    /// Returns the events of one person under all of `ids` (a person's id and its aliases) from `since` on: the newest `limit`
    /// of them, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn history(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// Returns for each of these ids the profile built from its events from `since` on, in the order of the ids: the newest
    /// `limit` events of each id, and the newest [`SIGNAL_TIMES`] of each type in [`LASTING`], so that no number of later events
    /// hides an unsubscription. Reads no more of an event than a profile needs. An event that cannot be read, which no build has
    /// written, is left out with an error in the log: nobody else's profile waits for it.
    ///
    /// [`LASTING`]: event::profile::LASTING
    /// [`SIGNAL_TIMES`]: event::profile::SIGNAL_TIMES
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn profiles(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<Profile>, StoreError>;

    /// Returns for each of these people, in their order, whether any event is stored. People whose events have expired may
    /// still count as known.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn known(&self, ids: &[UniversalId]) -> Result<Vec<bool>, StoreError>;

    /// Returns when the messages of these (universal id, message id) pairs were sent; `None` if no sent event is stored.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn sent_times(
        &self,
        messages: &[(UniversalId, String)],
    ) -> Result<Vec<Option<Timestamp>>, StoreError>;

    /// Returns people with events at or after `since`, in the order of their ids, starting after `after`; at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn people(
        &self,
        since: Timestamp,
        after: Option<&UniversalId>,
        limit: usize,
    ) -> Result<Vec<UniversalId>, StoreError>;

    /// Returns delivery delays observed at or after `since`, newest first. For each provider these are all delays or, if it has
    /// more than `per_provider`, those of one in n people over the whole time, so that about `per_provider` are left. In total
    /// at most twice `per_provider` times the number of providers, the newest.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn latency_samples(
        &self,
        since: Timestamp,
        per_provider: usize,
    ) -> Result<Vec<LatencySample>, StoreError>;

    /// Stores explanations, all of them or none; one whose reference is already stored stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] when one of them can never be stored, other errors when the call may be retried.
    async fn save_explanations(&self, explanations: &[&StoredExplanation]) -> Result<(), StoreError>;

    /// Returns the explanation with this reference.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn explanation(&self, reference: &str) -> Result<Option<StoredExplanation>, StoreError>;

    /// Returns decisions of `[since, until)` that take part in the comparison with the control group, newest first. These are
    /// all of them or, if there are more than `wanted`, those about a share of the people (by the decision's id) over the whole
    /// time, chosen so that about `wanted` are left. At most twice `wanted`, the newest.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn trials(
        &self,
        since: Timestamp,
        until: Timestamp,
        wanted: usize,
    ) -> Result<Sample<StoredTrial>, StoreError>;

    /// Returns decisions of `[since, until)` that are audited, like [`trials`](Self::trials).
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn forecasts(
        &self,
        since: Timestamp,
        until: Timestamp,
        wanted: usize,
    ) -> Result<Sample<StoredForecast>, StoreError>;

    /// Returns mails that reached these people (under any of `ids`) in `[since, until)`, and their strong responses, in no
    /// particular order.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn touches(
        &self,
        ids: &[UniversalId],
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Touch>, StoreError>;

    /// Returns the events stored under one id, ordered by time and then by event id, starting after the event `after`; at most
    /// `limit`. With it all events can be read page by page, however many there are.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn events_of(
        &self,
        id: &UniversalId,
        after: Option<&Event>,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// Returns the references of all explanations of decisions about these people, in text order. May take minutes:
    /// explanations are not indexed by person, because nothing else looks them up that way.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn explanations_about(&self, ids: &[UniversalId]) -> Result<Vec<String>, StoreError>;

    /// Returns how much is stored under these ids. May take minutes.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn holdings(&self, ids: &[UniversalId]) -> Result<Holdings, StoreError>;

    /// Erases everything that is stored under these ids, and what was derived from it, and returns how much that was. From then
    /// on no reader finds any of it. Events that are written later are stored as usual. May take minutes.
    ///
    /// # Errors
    /// [`StoreError`] when some of it may be left: erasing again removes the rest.
    async fn erase(&self, ids: &[UniversalId]) -> Result<Holdings, StoreError>;

    /// Notes that this consumer stored events that it could not add to profiles: until [`trust_profiles`](Self::trust_profiles), no
    /// stored profile may be believed. To be called again while it lasts, so that others see that the consumer is alive.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be noted.
    async fn doubt_profiles(&self, consumer: &str) -> Result<(), StoreError>;

    /// Notes that profiles have all events that this consumer stored, or are gone.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be noted.
    async fn trust_profiles(&self, consumer: &str) -> Result<(), StoreError>;

    /// Returns the consumers that doubt profiles, in no particular order.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn profile_doubts(&self) -> Result<Vec<ProfileDoubt>, StoreError>;

    /// Checks that the store can be read and written.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot.
    async fn ping(&self) -> Result<(), StoreError>;
}
