//! Explanations: everything that a decision was based on, stored in the background and readable by its reference.

mod inputs;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use event::{MailboxProvider, Timestamp};
use serde::{Deserialize, Serialize};
use store::{
    StoreError,
    events::{Events, Forecast, StoredExplanation, Trial, TrialGroup},
};
use tokio::{sync::mpsc, task::JoinHandle};
use utoipa::ToSchema;

pub(crate) use inputs::{Base64, Exact, Inputs, Policy, Seed};

use crate::{
    decision::{Breaker, GuardEffect, WarmPath},
    error::ApiError,
    latency::ExpectedLatency,
    metrics::Metrics,
    person::{IdentitySource, ProfileSource},
};

/// How well founded a decision is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Evidence {
    /// `population_prior` if no act of the person is known, otherwise `person`.
    #[schema(example = "person")]
    pub source: &'static str,
    /// Number of the person's human events that were used.
    pub n: usize,
    /// The same, each weighted by its age.
    pub effective_n: f64,
    /// Number of the person's mails that were used, answered or not: even without an act, mail that was not answered bends the
    /// curve.
    pub mails: usize,
    /// Share of the evidence that comes from other people, 0 to 1, averaged over all hours of the week: hours of which nothing is
    /// known of this person count as much as those in which they act.
    pub prior_weight: f64,
    /// Weight of the short memory, 0 to 1: in it the weight of what happened halves every two weeks, otherwise every 150 days.
    pub recent_weight: f64,
    /// `population`, `sparse`, `blended` or `personal`.
    #[schema(example = "blended")]
    pub rung: &'static str,
    /// Version of the population tables that were used.
    pub population_version: String,
    /// Where the profile came from.
    pub profile_source: ProfileSource,
    /// Where the person's ids came from.
    pub identity_source: IdentitySource,
}

/// A span of real time, half-open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Window {
    /// First moment.
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    /// Moment after the last.
    #[schema(value_type = String, format = DateTime)]
    pub end: Timestamp,
}

/// The request as the service understood it, without any raw identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NormalizedRequest {
    /// The requested window.
    pub window: Window,
    /// Earliest moment of arrival.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_before: Option<Timestamp>,
    /// Latest moment of arrival.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline: Option<Timestamp>,
    /// Time zone of hours and days.
    pub time_zone: String,
    /// Parts of the day in which mail may arrive, `HH:MM-HH:MM`; empty if there is no such limit.
    pub allowed_hours: Vec<String>,
    /// Part of the day in which no mail may arrive.
    pub quiet_hours: Option<String>,
    /// Days on which no mail may arrive: dates, then days of the week.
    pub blackout_days: Vec<String>,
    /// Minimum number of seconds after the last mail that was sent or delivered.
    pub minimum_gap_seconds: Option<f64>,
    /// Provider.
    pub esp: Option<String>,
    /// Campaign.
    pub campaign_id: Option<String>,
    /// Type of campaign; absent if the request does not give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign_type: Option<String>,
    /// Size of the mail in bytes; absent if the request does not give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, maximum = 4_294_967_295_u32)]
    pub payload_bytes: Option<u32>,
    /// The caller's estimate of the delay in seconds.
    pub caller_latency_seconds: Option<f64>,
    /// Mails handed to the provider in the ten minutes before; absent if the request does not give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, maximum = 4_294_967_295_u32)]
    pub queue_depth: Option<u32>,
    /// Signals that the caller reported.
    pub signals: Vec<ToldSignal>,
}

/// A signal that the caller reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ToldSignal {
    /// Type of the signal.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it occurred.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// One minute of the week under the decision's curve.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Point {
    /// Slot of the week, 0 to 10,079; 0 is Monday 00:00 UTC.
    pub slot: usize,
    /// The minute's first occurrence in the window, or after the window's start if the window does not contain it.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Whether it could be chosen: it is in the window, reachable, and allowed by every guard.
    pub candidate: bool,
    /// Share of the person's weekly activity that falls into this minute.
    pub p_base: f64,
    /// Π(1 + ω) over the hot paths.
    pub factor: f64,
    /// `p_base` times `factor`.
    pub p_final: f64,
    /// Expected response to a mail that arrives in this minute, relative to a random minute of the week, before `factor`.
    pub response: f64,
}

/// What the experiment did to a decision.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Experiment {
    /// `treated`, `control` or `exploration`.
    #[schema(value_type = String, example = "treated")]
    pub group: TrialGroup,
    /// The probability, over the draw of group and minute, that the decision fell into the quarter hour of the chosen
    /// minute. Minutes that were full in a batch could not be drawn.
    pub propensity: f64,
    /// What the model would have chosen among the free minutes; the same as `chosen` for `treated`.
    pub model_choice: Point,
    /// The value of `model_choice`, hot paths included, relative to a random minute of the week.
    pub model_value: f64,
    /// Number of quarter hours that are nearly as good as the best, one of which exploration takes.
    pub quarters_near_best: usize,
    /// Share of people in the control group.
    pub control_share: f64,
    /// Share of the other people's decisions that explore.
    pub exploration_share: f64,
    /// Whether the decision counts in `GET /lift`; it does not if the request set `now`.
    pub counted: bool,
}

/// A decision of a batch that had to make room because the provider takes a limited number of mails per minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub(crate) struct Displacement {
    /// The minute that the person would have got outside the batch.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// What the move costs, relative to a mail that arrives at a random minute of the week. Negative if the experiment
    /// draws a better minute than the full one.
    pub value_lost: f64,
    /// How many mails the provider takes per minute.
    #[schema(maximum = 10_000_000)]
    pub capacity_per_minute: u32,
}

/// Everything that a decision was based on.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Explanation {
    /// The reference under which the explanation is stored, derived from everything below.
    #[schema(example = "dec_0123456789abcdef0123456789abcdef")]
    pub explanation_ref: String,
    /// The person.
    pub universal_id: String,
    /// The moment that was taken as now.
    #[schema(value_type = String, format = DateTime)]
    pub decided_at: Timestamp,
    /// Version of the service.
    pub service_version: String,
    /// The request as the service understood it.
    pub request: NormalizedRequest,
    /// How well founded the curve is.
    pub evidence: Evidence,
    /// Digest of the profile that was used.
    pub profile_digest: String,
    /// The curve uses what happened up to this moment; nothing is known about the time from it to `decided_at`.
    #[schema(value_type = String, format = DateTime)]
    pub curve_as_of: Timestamp,
    /// Minutes in the requested window.
    pub minutes_asked: i64,
    /// Minutes that the guards left to choose from.
    pub minutes_left: i64,
    /// What each guard removed, in the order in which the guards were applied.
    pub guards: Vec<GuardEffect>,
    /// Breakers that were open at the time of the decision.
    pub breakers: Vec<Breaker>,
    /// Hot paths that were warm at the time of the decision.
    pub hot_paths: Vec<WarmPath>,
    /// The delay expected for the chosen minute.
    pub latency: ExpectedLatency,
    /// The class of the person's mailbox, for which that delay is expected.
    #[schema(value_type = Option<String>, example = "gmail")]
    pub mailbox_provider: Option<MailboxProvider>,
    /// Version of the table of delays that it comes from; absent if nothing was learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_version: Option<String>,
    /// The chosen minute.
    pub chosen: Point,
    /// Where the decision was before it had to make room; absent if it did not move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved: Option<Displacement>,
    /// What the experiment did; absent if the decision takes no part in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Experiment>,
    /// The best minutes of the week, best first, whether or not they could be chosen.
    pub peaks: Vec<Point>,
    /// When to hand the mail to the provider.
    #[schema(value_type = String, format = DateTime)]
    pub trigger_at: Timestamp,
    /// Probability that the person acts within `confidence_span_seconds` of arrival, given that they act at all between the first
    /// allowed minute and the last, or the end of that span.
    pub confidence: f64,
    /// The time that `confidence` refers to: the time during which at least half of the first attention to a mail is left, and at
    /// least two hours.
    pub confidence_span_seconds: i64,
    /// The decision in sentences.
    pub why: Vec<String>,
    /// What else the decision was computed from, so that it can be recomputed (`?replay=true`).
    pub inputs: Inputs,
}

impl Explanation {
    /// Returns what the audit of arrivals uses; `None` if the request set `now`, because no mail is sent for a test or a
    /// replay.
    pub(crate) fn forecast(&self) -> Option<Forecast> {
        (!self.inputs.now_was_told).then(|| Forecast {
            trigger_at: self.trigger_at,
            target_at: self.chosen.at,
            esp: self.request.esp.clone(),
            mailbox_provider: self.mailbox_provider,
            campaign_id: self.request.campaign_id.clone(),
        })
    }

    /// Returns what the comparison with the control group uses; `None` if the decision does not count in it.
    pub(crate) fn trial(&self) -> Option<Trial> {
        let experiment = self.experiment.as_ref().filter(|experiment| experiment.counted)?;
        Some(Trial {
            group: experiment.group,
            target_at: self.chosen.at,
            model_at: experiment.model_choice.at,
            propensity: experiment.propensity,
            campaign_id: self.request.campaign_id.clone(),
        })
    }
}

/// Pauses between attempts to store explanations: they double from 100 ms, so that a brief failure costs little, up to 5 s, so
/// that a store that recovers is soon used again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long shutdown waits for the last explanations.
const DRAIN: Duration = Duration::from_secs(10);

/// Number of concurrent writers. The embedded store has one writer anyway; four hide the round trips to a remote one.
const WRITERS: usize = 4;

/// Maximum number of waiting explanations that a writer stores together: some 800 kB, at which the cost of a statement and of a
/// transaction hardly matters any more.
const STORED_TOGETHER: usize = 256;

/// Explanations that are not yet stored, by reference; they can be read already.
type Pending = Arc<Mutex<HashMap<String, Arc<StoredExplanation>>>>;

/// Stores explanations in the background.
///
/// Nothing is lost while the process runs: a full queue makes decisions wait instead of dropping an explanation, and if the
/// store fails, writing is retried until it succeeds. Only explanations that the store rejects are dropped.
pub(crate) struct Explanations {
    events: Arc<dyn Events>,
    pending: Pending,
    queue: mpsc::Sender<Arc<StoredExplanation>>,
    metrics: Metrics,
}

/// The writers of an [`Explanations`].
pub(crate) struct ExplanationWriters(Vec<JoinHandle<()>>);

impl Explanations {
    /// Starts the writers. They end when the [`Explanations`] is dropped and everything is stored.
    pub(crate) fn start(
        events: Arc<dyn Events>,
        capacity: usize,
        metrics: Metrics,
    ) -> (Self, ExplanationWriters) {
        let (queue, receiver) = mpsc::channel(capacity);
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        let pending: Pending = Pending::default();
        let is_failing = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::with_capacity(WRITERS);
        for _ in 0..WRITERS {
            let writer = Writer {
                events: Arc::clone(&events),
                pending: Arc::clone(&pending),
                receiver: Arc::clone(&receiver),
                metrics: metrics.clone(),
                is_failing: Arc::clone(&is_failing),
            };
            writers.push(tokio::spawn(writer.run()));
        }
        (
            Self {
                events,
                pending,
                queue,
                metrics,
            },
            ExplanationWriters(writers),
        )
    }

    /// Queues an explanation to be stored; waits while the queue is full.
    pub(crate) async fn save(&self, explanation: StoredExplanation) -> Result<(), ApiError> {
        let permit = self.queue.reserve().await.map_err(|_| ApiError::Stopping)?;
        let explanation = Arc::new(explanation);
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.insert(explanation.reference.clone(), Arc::clone(&explanation));
        self.metrics
            .explanations_pending
            .set(i64::try_from(pending.len()).unwrap_or(i64::MAX));
        permit.send(explanation);
        Ok(())
    }

    /// Returns the explanation with this reference, whether it is stored or still queued.
    pub(crate) async fn get(&self, reference: &str) -> Result<Option<String>, StoreError> {
        let pending = {
            let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.get(reference).map(|explanation| explanation.body.clone())
        };
        match pending {
            Some(body) => Ok(Some(body)),
            None => Ok(self
                .events
                .explanation(reference)
                .await?
                .map(|explanation| explanation.body)),
        }
    }
}

struct Writer {
    events: Arc<dyn Events>,
    pending: Pending,
    receiver: Arc<tokio::sync::Mutex<mpsc::Receiver<Arc<StoredExplanation>>>>,
    metrics: Metrics,
    /// Whether the last attempt of any writer failed, so that an outage is logged once.
    is_failing: Arc<AtomicBool>,
}

impl Writer {
    async fn run(self) {
        let mut taken: Vec<Arc<StoredExplanation>> = Vec::with_capacity(STORED_TOGETHER);
        loop {
            let mut queue = self.receiver.lock().await;
            let count = queue.recv_many(&mut taken, STORED_TOGETHER).await;
            drop(queue);
            if count == 0 {
                return;
            }
            let explanations: Vec<&StoredExplanation> = taken.iter().map(Arc::as_ref).collect();
            if self.store(&explanations).await.is_err() {
                // One that the store rejects must not prevent the others from being stored.
                for explanation in explanations {
                    if let Err(error) = self.store(&[explanation]).await {
                        tracing::error!(
                            explanation.reference = explanation.reference,
                            error = %error,
                            "the event store rejects explanation `{}`, which is dropped: {error}",
                            explanation.reference
                        );
                    }
                }
            }
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            for explanation in taken.drain(..) {
                pending.remove(&explanation.reference);
            }
            self.metrics
                .explanations_pending
                .set(i64::try_from(pending.len()).unwrap_or(i64::MAX));
        }
    }

    /// Stores explanations, retrying for as long as it takes; fails only if the store rejects them.
    async fn store(&self, explanations: &[&StoredExplanation]) -> Result<(), StoreError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.events.save_explanations(explanations).await {
                Err(error @ StoreError::Rejected { .. }) => return Err(error),
                Err(error) => error,
                Ok(()) => {
                    if self.is_failing.swap(false, Ordering::Relaxed) {
                        tracing::info!("explanations are stored again");
                    }
                    return Ok(());
                }
            };
            self.metrics.explanation_retries.inc();
            if !self.is_failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    store.what = "explanations",
                    error = %error,
                    "explanations cannot be stored, retrying until it works again: {error}"
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl ExplanationWriters {
    /// Waits until everything that was queued is stored, for at most [`DRAIN`]. The [`Explanations`] must be dropped before.
    pub(crate) async fn drain(self) {
        let all = futures::future::join_all(self.0);
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            tracing::error!(
                "explanations could not be stored before shutdown: the event store does not accept them"
            );
        }
    }
}
