//! The audit of arrivals: the delays that decisions expected of providers, compared with the actual ones.
//!
//! A decision is audited if its mail was sent near the trigger, according to the sent and delivered events. The audit
//! compares the delay between these two events with the delay that the decision expected: a caller who triggers some
//! minutes late is no evidence against the table of delays.

mod drift;

use std::{collections::BTreeMap, ops::Range};

use event::{MailboxProvider, Timestamp, grid::MINUTE_MS};
use serde::Serialize;
use store::{
    events::{Events, Sample, StoredForecast, Touch, TouchKind},
    identity::Identities,
};
use utoipa::ToSchema;

use crate::{
    latency::quantile,
    mail::{self, MailError},
};
pub use drift::{Drift, DriftState};

/// A mail counts for a decision if it was sent up to a quarter of an hour before or after the trigger: callers trigger
/// in ticks, and a mail further away is a different mail, or follows a different plan.
const NEAR_MS: i64 = 15 * MINUTE_MS;

/// A mail that has not arrived an hour after its target is no longer waited for: by then, mailboxes that defer a first
/// attempt have accepted the second. One that arrives later still counts.
const LATE_MS: i64 = 60 * MINUTE_MS;

/// Mail is looked for up to this long after its target: anything slower is an outage, not a delay.
const LOOK_MS: i64 = 12 * 60 * MINUTE_MS;

/// The approximate number of decisions that are read. If there are more, those of a share of the people are read, so
/// that no hour is left out: each row then rests on thousands of decisions, read within seconds, in 40 MB.
const WANTED_FORECASTS: usize = 100_000;

/// Expected and actual delays of one provider, or of one of its mailbox classes.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ArrivalRow {
    /// Provider; `null` in the row of all providers.
    #[schema(example = "sendgrid")]
    pub esp: Option<String>,
    /// Class of the mailbox; `null` in rows of all classes.
    #[schema(value_type = Option<String>, example = "gmail")]
    pub mailbox_provider: Option<MailboxProvider>,
    /// Mails that were sent near a decision's trigger.
    pub mails: usize,
    /// Median of the expected delays.
    pub expected_p50_seconds: f64,
    /// Median of the actual delays.
    pub actual_p50_seconds: f64,
    /// 90th percentile of the actual delays.
    pub actual_p90_seconds: f64,
    /// Median of actual minus expected delay: above 0, mail arrives later than expected.
    pub bias_seconds: f64,
    /// Median of the absolute difference between the two.
    pub error_p50_seconds: f64,
    /// 90th percentile of the absolute difference.
    pub error_p90_seconds: f64,
    /// Share of the mails that took no longer than expected; to be compared with `quantile`.
    pub coverage: f64,
    /// Median of the absolute distance between arrival and target, including the part that the caller causes.
    pub off_target_p50_seconds: f64,
}

/// Expected against actual arrival.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Arrivals {
    /// Decisions from this moment on …
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// … up to this one, the time of the audit.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// Decisions whose mail should have arrived; of several decisions for the same minute only the last counts.
    pub decisions: usize,
    /// The audited ones: those whose mail was sent within 15 minutes of the trigger and has arrived.
    pub mails: usize,
    /// Mails that arrived near a target but have no sent event to say when they went out.
    pub unmeasured: usize,
    /// Decisions without a mail, near which only mail of other campaigns was sent. If these are many, `campaign_id` is not the
    /// provider's own id.
    pub under_another_campaign: usize,
    /// Decisions whose mail may still be on its way.
    pub pending: usize,
    /// The share of the people whose decisions are audited, which the counts cover: less than 1 if there are more than
    /// 100,000 decisions.
    #[schema(example = 1.0)]
    pub people_share: f64,
    /// All providers, then each provider, followed by its mailbox classes.
    pub rows: Vec<ArrivalRow>,
    /// For each provider, whether it has become slower or faster than before.
    pub drift: Vec<Drift>,
}

/// A mail that was sent near its trigger.
#[derive(Debug, Clone, PartialEq)]
struct Arrival {
    esp: String,
    mailbox_provider: Option<MailboxProvider>,
    sent_at: Timestamp,
    expected_ms: i64,
    actual_ms: i64,
    off_target_ms: i64,
}

/// Compares the arrivals that the decisions of `[since, until)` expected with the actual ones, as known at `until`.
///
/// # Errors
/// [`MailError`] when a store cannot be read.
pub async fn arrivals(
    events: &dyn Events,
    identities: &dyn Identities,
    since: Timestamp,
    until: Timestamp,
) -> Result<Arrivals, MailError> {
    arrivals_of(WANTED_FORECASTS, events, identities, since, until).await
}

/// Like [`arrivals`], for about `wanted` decisions.
async fn arrivals_of(
    wanted: usize,
    events: &dyn Events,
    identities: &dyn Identities,
    since: Timestamp,
    until: Timestamp,
) -> Result<Arrivals, MailError> {
    let Sample {
        rows: mut forecasts,
        share,
    } = events
        .forecasts(since, until, wanted)
        .await
        .map_err(MailError::Events)?;
    let all = forecasts.len();
    forecasts.retain(|forecast| forecast.forecast.target_at.plus_millis(LATE_MS) <= until);
    let pending = all - forecasts.len();
    let span = |forecast: &StoredForecast| -> Range<Timestamp> {
        let forecast = &forecast.forecast;
        forecast.trigger_at.plus_millis(-NEAR_MS)..forecast.target_at.plus_millis(LOOK_MS).min(until)
    };
    let take = |audited: &mut Audited, forecasts: &[StoredForecast], touches: Vec<&Touch>| {
        audited.take(forecasts.iter().collect(), touches);
    };
    let audited = mail::with_touches(events, identities, forecasts, span, take).await?;
    Ok(Arrivals {
        since,
        until,
        decisions: audited.decisions,
        mails: audited.arrivals.len(),
        unmeasured: audited.unmeasured,
        under_another_campaign: audited.under_another_campaign,
        pending,
        people_share: share,
        rows: rows(&audited.arrivals),
        drift: drift::by_provider(&audited.arrivals, until),
    })
}

#[derive(Debug, Default)]
struct Audited {
    decisions: usize,
    unmeasured: usize,
    under_another_campaign: usize,
    arrivals: Vec<Arrival>,
}

impl Audited {
    /// Adds the decisions about one person.
    fn take(&mut self, mut forecasts: Vec<&StoredForecast>, mut touches: Vec<&Touch>) {
        forecasts.sort_by(|a, b| key(a).cmp(&key(b)));
        touches.sort_by_key(|touch| touch.at);
        // A caller that asks again for the same mail gets the same minute: that is one decision, made at the last request.
        let mut decisions: Vec<&StoredForecast> = Vec::with_capacity(forecasts.len());
        for forecast in forecasts {
            if decisions
                .last()
                .is_some_and(|last| minute(last) == minute(forecast))
            {
                decisions.pop();
            }
            decisions.push(forecast);
        }
        self.decisions += decisions.len();
        let mails = mail::assign(&decisions, &touches, was_sent_near);
        for (decision, mail) in decisions.iter().zip(&mails) {
            let Some(mail) = mail else { continue };
            let Some(sent_at) = sent_at(mail) else { continue };
            let forecast = &decision.forecast;
            self.arrivals.push(Arrival {
                esp: mail.esp.clone(),
                mailbox_provider: forecast.mailbox_provider,
                sent_at,
                expected_ms: forecast.target_at.millis_since(forecast.trigger_at),
                actual_ms: mail.at.millis_since(sent_at),
                off_target_ms: mail.at.millis_since(forecast.target_at),
            });
        }
        let is_unmeasured = |touch: &&&Touch| {
            touch.kind == TouchKind::Delivered
                && touch.delivery_latency_ms.is_none()
                && decisions
                    .iter()
                    .any(|decision| arrived_near(touch, decision) && mail::is_of_campaign(touch, *decision))
        };
        self.unmeasured += touches.iter().filter(is_unmeasured).count();
        let is_near = |touch: &Touch, decision: &StoredForecast| match touch.delivery_latency_ms {
            Some(_) => was_sent_near(touch, decision),
            None => arrived_near(touch, decision),
        };
        let under_another = mail::under_another_campaign(&decisions, &mails, &touches, is_near);
        self.under_another_campaign += under_another
            .iter()
            .filter(|is_under_another| **is_under_another)
            .count();
    }
}

fn minute(forecast: &StoredForecast) -> (Timestamp, &Option<String>) {
    (forecast.forecast.target_at, &forecast.forecast.campaign_id)
}

fn key(forecast: &StoredForecast) -> (Timestamp, &Option<String>, Timestamp) {
    let (target_at, campaign_id) = minute(forecast);
    (target_at, campaign_id, forecast.decided_at)
}

fn sent_at(mail: &Touch) -> Option<Timestamp> {
    Some(mail.at.plus_millis(-mail.delivery_latency_ms?))
}

fn was_sent_near(mail: &Touch, decision: &StoredForecast) -> bool {
    let Some(sent_at) = sent_at(mail) else {
        return false;
    };
    let off_ms = sent_at.millis_since(decision.forecast.trigger_at);
    // The event's clock is the provider's, the decision's is ours: a mail may seem to have been sent shortly before its decision.
    (-NEAR_MS..=NEAR_MS).contains(&off_ms)
        && decision.decided_at <= sent_at.plus_millis(MINUTE_MS)
        && is_of_provider(mail, decision)
}

fn arrived_near(mail: &Touch, decision: &StoredForecast) -> bool {
    let off_ms = mail.at.millis_since(decision.forecast.target_at);
    (-NEAR_MS..=LATE_MS).contains(&off_ms) && decision.decided_at <= mail.at && is_of_provider(mail, decision)
}

fn is_of_provider(mail: &Touch, decision: &StoredForecast) -> bool {
    decision.forecast.esp.as_ref().is_none_or(|esp| *esp == mail.esp)
}

fn rows(arrivals: &[Arrival]) -> Vec<ArrivalRow> {
    let mut groups: BTreeMap<(Option<&str>, Option<MailboxProvider>), Vec<&Arrival>> = BTreeMap::new();
    for arrival in arrivals {
        let esp = Some(arrival.esp.as_str());
        let mut keys = vec![(None, None), (esp, None)];
        if arrival.mailbox_provider.is_some() {
            keys.push((esp, arrival.mailbox_provider));
        }
        for key in keys {
            groups.entry(key).or_default().push(arrival);
        }
    }
    groups
        .iter()
        .map(|((esp, mailbox), group)| row(*esp, *mailbox, group))
        .collect()
}

fn row(esp: Option<&str>, mailbox_provider: Option<MailboxProvider>, group: &[&Arrival]) -> ArrivalRow {
    let seconds = |q: f64, of: &dyn Fn(&Arrival) -> i64| {
        let mut values: Vec<f64> = group.iter().map(|arrival| of(arrival) as f64 / 1_000.0).collect();
        values.sort_unstable_by(f64::total_cmp);
        quantile(&values, q).unwrap_or_default()
    };
    let error_ms = |arrival: &Arrival| arrival.actual_ms - arrival.expected_ms;
    let in_time = group.iter().filter(|arrival| error_ms(arrival) <= 0).count();
    ArrivalRow {
        esp: esp.map(str::to_owned),
        mailbox_provider,
        mails: group.len(),
        expected_p50_seconds: seconds(0.5, &|arrival| arrival.expected_ms),
        actual_p50_seconds: seconds(0.5, &|arrival| arrival.actual_ms),
        actual_p90_seconds: seconds(0.9, &|arrival| arrival.actual_ms),
        bias_seconds: seconds(0.5, &error_ms),
        error_p50_seconds: seconds(0.5, &|arrival| error_ms(arrival).abs()),
        error_p90_seconds: seconds(0.9, &|arrival| error_ms(arrival).abs()),
        coverage: in_time as f64 / group.len() as f64,
        off_target_p50_seconds: seconds(0.5, &|arrival| arrival.off_target_ms.abs()),
    }
}

#[cfg(test)]
mod tests;
