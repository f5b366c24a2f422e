//! Conversions between events and rows.

use clickhouse::Row;
use event::{
    BounceType, EmailHash, Event, EventType, Identifier, IdentifierKind, MailboxProvider, Timestamp,
    UniversalId, profile::Occurrence,
};
use serde::{Deserialize, Serialize};

use super::error::malformed;
use crate::{
    StoreError,
    events::{
        Enrichment, Forecast, LatencySample, StoredEvent, StoredExplanation, StoredForecast, StoredTrial,
        Touch, TouchKind, Trial, TrialGroup, campaign_type, payload_bytes,
    },
};

const EVENTS: &str = "email_events";

/// A row of `email_events`; its fields are the columns. Times are in milliseconds, as in `DateTime64(3)`.
#[derive(Row, Serialize, Deserialize)]
pub(super) struct EventRow<'a> {
    event_id: &'a str,
    event_type: &'a str,
    timestamp: i64,
    esp: &'a str,
    universal_id: &'a str,
    #[serde(borrow)]
    recipient_email_hash: Option<&'a str>,
    #[serde(borrow)]
    campaign_id: Option<&'a str>,
    #[serde(borrow)]
    campaign_name: Option<&'a str>,
    #[serde(borrow)]
    message_id: Option<&'a str>,
    #[serde(borrow)]
    subject: Option<&'a str>,
    #[serde(borrow)]
    click_url: Option<&'a str>,
    #[serde(borrow)]
    bounce_type: Option<&'a str>,
    #[serde(borrow)]
    user_agent: Option<&'a str>,
    #[serde(borrow)]
    ip_address: Option<&'a str>,
    #[serde(borrow)]
    metadata: Vec<(&'a str, &'a str)>,
    ingested_at: i64,
    schema_version: u16,
    account: &'a str,
    #[serde(borrow)]
    mailbox_provider: Option<&'a str>,
    #[serde(borrow)]
    identifiers: Vec<(&'a str, &'a str)>,
    #[serde(borrow)]
    reason: Option<&'a str>,
    #[serde(borrow)]
    tags: Vec<&'a str>,
    is_machine: Option<bool>,
    #[serde(borrow)]
    provider_event_id: Option<&'a str>,
    plugin: &'a str,
    machine: bool,
    #[serde(borrow)]
    machine_reasons: Vec<&'a str>,
    delivery_latency_ms: Option<i64>,
    trace_id: Option<String>,
}

impl<'a> From<&'a StoredEvent> for EventRow<'a> {
    fn from(StoredEvent { event, enrichment }: &'a StoredEvent) -> Self {
        Self {
            event_id: &event.event_id,
            event_type: event.event_type.as_str(),
            timestamp: event.timestamp.as_millis(),
            esp: &event.esp,
            universal_id: event.universal_id.as_str(),
            recipient_email_hash: event.recipient_email_hash.as_ref().map(EmailHash::as_str),
            campaign_id: event.campaign_id.as_deref(),
            campaign_name: event.campaign_name.as_deref(),
            message_id: event.message_id.as_deref(),
            subject: event.subject.as_deref(),
            click_url: event.click_url.as_deref(),
            bounce_type: event.bounce_type.map(BounceType::as_str),
            user_agent: event.user_agent.as_deref(),
            ip_address: event.ip_address.as_deref(),
            metadata: event
                .metadata
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
            ingested_at: event.ingested_at.as_millis(),
            schema_version: event.schema_version,
            account: &event.account,
            mailbox_provider: event.mailbox_provider.map(MailboxProvider::as_str),
            identifiers: event
                .identifiers
                .iter()
                .map(|identifier| (identifier.kind.as_str(), identifier.value.as_str()))
                .collect(),
            reason: event.reason.as_deref(),
            tags: event.tags.iter().map(String::as_str).collect(),
            is_machine: event.is_machine,
            provider_event_id: event.provider_event_id.as_deref(),
            plugin: &event.plugin,
            machine: enrichment.machine,
            machine_reasons: enrichment.machine_reasons.iter().map(String::as_str).collect(),
            delivery_latency_ms: enrichment.delivery_latency_ms,
            trace_id: enrichment.trace_id.map(|id| id.to_string()),
        }
    }
}

impl EventRow<'_> {
    /// Reads the event in the row.
    pub(super) fn read(&self) -> Result<StoredEvent, StoreError> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let recipient_email_hash = match self.recipient_email_hash {
            None => None,
            Some(hash) => {
                Some(EmailHash::parse(hash).ok_or_else(|| malformed(EVENTS, "recipient_email_hash"))?)
            }
        };
        let mut identifiers = Vec::with_capacity(self.identifiers.len());
        for (kind, value) in &self.identifiers {
            identifiers.push(Identifier {
                kind: IdentifierKind::parse(kind).ok_or_else(|| malformed(EVENTS, "identifiers"))?,
                value: (*value).to_owned(),
            });
        }
        let trace_id = match &self.trace_id {
            Some(id) => Some(id.parse().map_err(|_| malformed(EVENTS, "trace_id"))?),
            None => None,
        };
        let event = Event {
            schema_version: self.schema_version,
            event_id: self.event_id.to_owned(),
            event_type: event_type(self.event_type)?,
            timestamp: timestamp(self.timestamp, EVENTS, "timestamp")?,
            esp: self.esp.to_owned(),
            account: self.account.to_owned(),
            universal_id: universal_id(self.universal_id, EVENTS)?,
            recipient_email_hash,
            mailbox_provider: mailbox_provider(self.mailbox_provider)?,
            identifiers,
            campaign_id: owned(self.campaign_id),
            campaign_name: owned(self.campaign_name),
            message_id: owned(self.message_id),
            subject: owned(self.subject),
            click_url: owned(self.click_url),
            bounce_type: bounce_type(self.bounce_type)?,
            reason: owned(self.reason),
            user_agent: owned(self.user_agent),
            ip_address: owned(self.ip_address),
            tags: self.tags.iter().map(|tag| (*tag).to_owned()).collect(),
            metadata: self
                .metadata
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            is_machine: self.is_machine,
            provider_event_id: owned(self.provider_event_id),
            plugin: self.plugin.to_owned(),
            ingested_at: timestamp(self.ingested_at, EVENTS, "ingested_at")?,
        };
        let enrichment = Enrichment {
            machine: self.machine,
            machine_reasons: self.machine_reasons.iter().map(|why| (*why).to_owned()).collect(),
            delivery_latency_ms: self.delivery_latency_ms,
            trace_id,
        };
        Ok(StoredEvent { event, enrichment })
    }
}

/// What a profile needs from a row of `email_events`.
#[derive(Row, Deserialize)]
pub(super) struct OccurrenceRow<'a> {
    pub(super) universal_id: &'a str,
    event_type: &'a str,
    timestamp: i64,
    #[serde(borrow)]
    bounce_type: Option<&'a str>,
    #[serde(borrow)]
    mailbox_provider: Option<&'a str>,
    #[serde(borrow)]
    message_id: Option<&'a str>,
    machine: bool,
}

impl OccurrenceRow<'_> {
    pub(super) fn read(&self) -> Result<Occurrence<'_>, StoreError> {
        Ok(Occurrence {
            event_type: event_type(self.event_type)?,
            timestamp: timestamp(self.timestamp, EVENTS, "timestamp")?,
            bounce_type: bounce_type(self.bounce_type)?,
            mailbox_provider: mailbox_provider(self.mailbox_provider)?,
            message_id: self.message_id,
            machine: self.machine,
        })
    }
}

/// What the latency model learns from a delivered event.
#[derive(Row, Deserialize)]
pub(super) struct LatencyRow {
    universal_id: String,
    pub(super) esp: String,
    campaign_id: Option<String>,
    campaign_type: String,
    payload_bytes: String,
    mailbox_provider: Option<String>,
    delivered_at: i64,
    latency_ms: i64,
}

impl LatencyRow {
    /// Converts the row to a sample that stands for `stands_for` deliveries.
    pub(super) fn read(self, stands_for: u32) -> Result<LatencySample, StoreError> {
        Ok(LatencySample {
            universal_id: universal_id(&self.universal_id, EVENTS)?,
            esp: self.esp,
            campaign_id: self.campaign_id,
            campaign_type: campaign_type(Some(self.campaign_type)),
            payload_bytes: payload_bytes(Some(&self.payload_bytes)),
            mailbox_provider: mailbox_provider(self.mailbox_provider.as_deref())?,
            delivered_at: timestamp(self.delivered_at, EVENTS, "timestamp")?,
            latency_ms: self.latency_ms,
            stands_for,
        })
    }
}

/// A row of `timing_explanations`.
#[derive(Row, Serialize, Deserialize)]
pub(super) struct ExplanationRow {
    reference: String,
    universal_id: String,
    decided_at: i64,
    body: String,
    trial_group: Option<String>,
    trial_target_at: Option<i64>,
    trial_model_at: Option<i64>,
    trial_propensity: Option<f64>,
    trial_campaign_id: Option<String>,
    forecast_trigger_at: Option<i64>,
    forecast_target_at: Option<i64>,
    forecast_esp: Option<String>,
    forecast_mailbox_provider: Option<String>,
    forecast_campaign_id: Option<String>,
}

const EXPLANATIONS: &str = "timing_explanations";

impl From<&StoredExplanation> for ExplanationRow {
    fn from(explanation: &StoredExplanation) -> Self {
        let trial = explanation.trial.as_ref();
        let forecast = explanation.forecast.as_ref();
        Self {
            reference: explanation.reference.clone(),
            universal_id: explanation.universal_id.as_str().to_owned(),
            decided_at: explanation.decided_at.as_millis(),
            body: explanation.body.clone(),
            trial_group: trial.map(|trial| trial.group.as_str().to_owned()),
            trial_target_at: trial.map(|trial| trial.target_at.as_millis()),
            trial_model_at: trial.map(|trial| trial.model_at.as_millis()),
            trial_propensity: trial.map(|trial| trial.propensity),
            trial_campaign_id: trial.and_then(|trial| trial.campaign_id.clone()),
            forecast_trigger_at: forecast.map(|forecast| forecast.trigger_at.as_millis()),
            forecast_target_at: forecast.map(|forecast| forecast.target_at.as_millis()),
            forecast_esp: forecast.and_then(|forecast| forecast.esp.clone()),
            forecast_mailbox_provider: forecast
                .and_then(|forecast| forecast.mailbox_provider)
                .map(|class| class.as_str().to_owned()),
            forecast_campaign_id: forecast.and_then(|forecast| forecast.campaign_id.clone()),
        }
    }
}

impl ExplanationRow {
    pub(super) fn read(self) -> Result<StoredExplanation, StoreError> {
        let trial = match self.trial_group {
            None => None,
            Some(group) => Some(trial(
                &group,
                self.trial_target_at,
                self.trial_model_at,
                self.trial_propensity,
                self.trial_campaign_id,
            )?),
        };
        let forecast = match self.forecast_trigger_at {
            None => None,
            trigger_at => Some(forecast(
                trigger_at,
                self.forecast_target_at,
                self.forecast_esp,
                self.forecast_mailbox_provider.as_deref(),
                self.forecast_campaign_id,
            )?),
        };
        Ok(StoredExplanation {
            reference: self.reference,
            universal_id: universal_id(&self.universal_id, EXPLANATIONS)?,
            decided_at: timestamp(self.decided_at, EXPLANATIONS, "decided_at")?,
            body: self.body,
            trial,
            forecast,
        })
    }
}

/// The columns of a row of `timing_explanations` that the comparison with the control group reads.
#[derive(Row, Deserialize)]
pub(super) struct TrialRow {
    reference: String,
    universal_id: String,
    decided_at: i64,
    trial_group: Option<String>,
    trial_target_at: Option<i64>,
    trial_model_at: Option<i64>,
    trial_propensity: Option<f64>,
    trial_campaign_id: Option<String>,
}

impl TrialRow {
    pub(super) fn read(self) -> Result<StoredTrial, StoreError> {
        Ok(StoredTrial {
            reference: self.reference,
            universal_id: universal_id(&self.universal_id, EXPLANATIONS)?,
            decided_at: timestamp(self.decided_at, EXPLANATIONS, "decided_at")?,
            trial: trial(
                self.trial_group.as_deref().unwrap_or_default(),
                self.trial_target_at,
                self.trial_model_at,
                self.trial_propensity,
                self.trial_campaign_id,
            )?,
        })
    }
}

fn trial(
    group: &str,
    target_at: Option<i64>,
    model_at: Option<i64>,
    propensity: Option<f64>,
    campaign_id: Option<String>,
) -> Result<Trial, StoreError> {
    Ok(Trial {
        group: TrialGroup::parse(group).ok_or_else(|| malformed(EXPLANATIONS, "trial_group"))?,
        target_at: moment(target_at, "trial_target_at")?,
        model_at: moment(model_at, "trial_model_at")?,
        propensity: propensity.ok_or_else(|| malformed(EXPLANATIONS, "trial_propensity"))?,
        campaign_id,
    })
}

/// Reads a time that must be present in the row of a trial or forecast.
fn moment(ms: Option<i64>, column: &str) -> Result<Timestamp, StoreError> {
    let ms = ms.ok_or_else(|| malformed(EXPLANATIONS, column))?;
    timestamp(ms, EXPLANATIONS, column)
}

/// The columns of a row of `timing_explanations` that the audit of arrivals reads.
#[derive(Row, Deserialize)]
pub(super) struct ForecastRow {
    reference: String,
    universal_id: String,
    decided_at: i64,
    forecast_trigger_at: Option<i64>,
    forecast_target_at: Option<i64>,
    forecast_esp: Option<String>,
    forecast_mailbox_provider: Option<String>,
    forecast_campaign_id: Option<String>,
}

impl ForecastRow {
    pub(super) fn read(self) -> Result<StoredForecast, StoreError> {
        Ok(StoredForecast {
            reference: self.reference,
            universal_id: universal_id(&self.universal_id, EXPLANATIONS)?,
            decided_at: timestamp(self.decided_at, EXPLANATIONS, "decided_at")?,
            forecast: forecast(
                self.forecast_trigger_at,
                self.forecast_target_at,
                self.forecast_esp,
                self.forecast_mailbox_provider.as_deref(),
                self.forecast_campaign_id,
            )?,
        })
    }
}

fn forecast(
    trigger_at: Option<i64>,
    target_at: Option<i64>,
    esp: Option<String>,
    mailbox: Option<&str>,
    campaign_id: Option<String>,
) -> Result<Forecast, StoreError> {
    Ok(Forecast {
        trigger_at: moment(trigger_at, "forecast_trigger_at")?,
        target_at: moment(target_at, "forecast_target_at")?,
        esp,
        mailbox_provider: mailbox_provider(mailbox)?,
        campaign_id,
    })
}

/// A delivery or strong response in `email_events`.
#[derive(Row, Deserialize)]
pub(super) struct TouchRow {
    universal_id: String,
    timestamp: i64,
    event_type: String,
    message_id: Option<String>,
    campaign_id: Option<String>,
    esp: String,
    delivery_latency_ms: Option<i64>,
}

impl TouchRow {
    pub(super) fn read(self) -> Result<Touch, StoreError> {
        Ok(Touch {
            universal_id: universal_id(&self.universal_id, EVENTS)?,
            at: timestamp(self.timestamp, EVENTS, "timestamp")?,
            kind: TouchKind::of(&self.event_type),
            message_id: self.message_id,
            campaign_id: self.campaign_id,
            esp: self.esp,
            delivery_latency_ms: self.delivery_latency_ms,
        })
    }
}

pub(super) fn timestamp(ms: i64, table: &str, column: &str) -> Result<Timestamp, StoreError> {
    Timestamp::try_from_millis(ms).ok_or_else(|| malformed(table, column))
}

pub(super) fn universal_id(text: &str, table: &str) -> Result<UniversalId, StoreError> {
    UniversalId::parse(text).ok_or_else(|| malformed(table, "universal_id"))
}

fn event_type(name: &str) -> Result<EventType, StoreError> {
    EventType::parse(name).ok_or_else(|| malformed(EVENTS, "event_type"))
}

fn bounce_type(name: Option<&str>) -> Result<Option<BounceType>, StoreError> {
    name.map(|name| BounceType::parse(name).ok_or_else(|| malformed(EVENTS, "bounce_type")))
        .transpose()
}

fn mailbox_provider(name: Option<&str>) -> Result<Option<MailboxProvider>, StoreError> {
    name.map(|name| MailboxProvider::parse(name).ok_or_else(|| malformed(EVENTS, "mailbox_provider")))
        .transpose()
}
