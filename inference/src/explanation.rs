//! Explanations: everything that a decision was made of, stored behind the answer and readable by its reference.

mod inputs;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
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

pub(crate) use inputs::{Base64, Exact, Inputs, Policy};

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
    /// `population_prior` when nothing is known of the person, else `person`.
    #[schema(example = "person")]
    pub source: &'static str,
    /// The person's human events that were used.
    pub n: usize,
    /// The same, each weighed by its age.
    pub effective_n: f64,
    /// How much of the curve comes from other people, 0 to 1.
    pub prior_weight: f64,
    /// `population`, `sparse`, `blended` or `personal`.
    #[schema(example = "blended")]
    pub rung: &'static str,
    /// The population tables used.
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

/// The request as it was understood, without any raw identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NormalizedRequest {
    /// The window asked for.
    pub window: Window,
    /// No arrival before it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_before: Option<Timestamp>,
    /// No arrival after it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline: Option<Timestamp>,
    /// Zone of hours and days.
    pub time_zone: String,
    /// Parts of the day in which mail may arrive, `HH:MM-HH:MM`; empty for any.
    pub allowed_hours: Vec<String>,
    /// Part of the day in which no mail may arrive.
    pub quiet_hours: Option<String>,
    /// Days on which no mail may arrive: dates, then days of the week.
    pub blackout_days: Vec<String>,
    /// Least number of seconds after the last delivered mail.
    pub minimum_gap_seconds: Option<f64>,
    /// Provider.
    pub esp: Option<String>,
    /// Campaign.
    pub campaign_id: Option<String>,
    /// Type of campaign; absent where the caller does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign_type: Option<String>,
    /// Size of the mail, bytes; absent where the caller does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<u32>,
    /// The caller's estimate of the delay.
    pub caller_latency_seconds: Option<f64>,
    /// Mails handed to the provider in the ten minutes before; absent where the caller does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_depth: Option<u32>,
    /// Signals that the caller told.
    pub signals: Vec<ToldSignal>,
}

/// A signal that the caller told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ToldSignal {
    /// What it was.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// One minute of the week under the decision's curve.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Point {
    /// Slot of the week, 0 to 10,079; 0 is Monday 00:00 UTC.
    pub slot: usize,
    /// The minute's first occurrence in the window, or after its start where it has none.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Whether it could be chosen: in the window, reachable, and allowed by every guard.
    pub candidate: bool,
    /// Share of the person's weekly activity in this minute.
    pub p_base: f64,
    /// Π(1 + ω) over the hot paths.
    pub factor: f64,
    /// `p_base` times `factor`.
    pub p_final: f64,
    /// Expected response to a mail that arrives then, relative to a random minute of the week, before `factor`.
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
    /// What the model would have chosen of the minutes that were free; the same as `chosen` for `treated`.
    pub model_choice: Point,
    /// What that is worth, hot paths included, relative to a random minute of the week.
    pub model_value: f64,
    /// Quarter hours that are nearly as good, of which exploration takes one.
    pub quarters_near_best: usize,
    /// Share of the people in the control group.
    pub control_share: f64,
    /// Share of the others' decisions that explore.
    pub exploration_share: f64,
    /// Whether the decision counts in `GET /lift`; one that was asked for another `now` than the server's does not.
    pub counted: bool,
}

/// A decision of a batch that had to make room, because the provider takes only so many mails a minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub(crate) struct Displacement {
    /// The minute that the person would have got alone.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// What the move costs, relative to a mail that arrives at a random minute of the week. Below 0 where the experiment
    /// draws a better minute than the full one.
    pub value_lost: f64,
    /// What the provider takes in a minute.
    pub capacity_per_minute: u32,
}

/// What a decision was made of.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Explanation {
    /// The reference under which this is stored: follows from everything below.
    #[schema(example = "dec_0123456789abcdef0123456789abcdef")]
    pub explanation_ref: String,
    /// The person.
    pub universal_id: String,
    /// The moment that counted as now.
    #[schema(value_type = String, format = DateTime)]
    pub decided_at: Timestamp,
    /// Version of the service.
    pub service_version: String,
    /// The request as it was understood.
    pub request: NormalizedRequest,
    /// How well founded the curve is.
    pub evidence: Evidence,
    /// Digest of the profile that was read.
    pub profile_digest: String,
    /// The curve uses what happened up to this moment; nothing is known of the time from it to `decided_at`.
    #[schema(value_type = String, format = DateTime)]
    pub curve_as_of: Timestamp,
    /// Minutes in the window as asked.
    pub minutes_asked: i64,
    /// Minutes that the guards left to choose from.
    pub minutes_left: i64,
    /// What each guard took away, in the order in which they were applied.
    pub guards: Vec<GuardEffect>,
    /// Breakers open at the time of the decision.
    pub breakers: Vec<Breaker>,
    /// Hot paths warm at the time of the decision.
    pub hot_paths: Vec<WarmPath>,
    /// The delay expected for the chosen minute.
    pub latency: ExpectedLatency,
    /// The class of the person's mailbox, for which it is expected.
    #[schema(value_type = Option<String>, example = "gmail")]
    pub mailbox_provider: Option<MailboxProvider>,
    /// The table of delays that it comes from; absent where nothing was learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_version: Option<String>,
    /// The chosen minute.
    pub chosen: Point,
    /// Where the decision was before it had to make room; absent where it is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved: Option<Displacement>,
    /// What the experiment did; absent where the decision takes no part in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Experiment>,
    /// The week's best minutes, best first, whether they could be chosen or not.
    pub peaks: Vec<Point>,
    /// When to hand the mail to the provider.
    #[schema(value_type = String, format = DateTime)]
    pub trigger_at: Timestamp,
    /// Probability that the person acts within `confidence_span_seconds` of arrival, given that they act at all from the first
    /// allowed minute to the last, or to the end of that span.
    pub confidence: f64,
    /// The time that `confidence` speaks of: while half of the first attention to a mail is left, and at least two hours.
    pub confidence_span_seconds: i64,
    /// The decision in sentences.
    pub why: Vec<String>,
    /// What else it was reckoned from, so that it can be reckoned again (`?replay=true`).
    pub inputs: Inputs,
}

impl Explanation {
    /// What the audit of arrivals reads of it; `None` where it was asked for another `now` than the server's: no mail goes out
    /// for a test or a replay.
    pub(crate) fn forecast(&self) -> Option<Forecast> {
        (!self.inputs.now_was_told).then(|| Forecast {
            trigger_at: self.trigger_at,
            target_at: self.chosen.at,
            esp: self.request.esp.clone(),
            mailbox_provider: self.mailbox_provider,
            campaign_id: self.request.campaign_id.clone(),
        })
    }

    /// What the comparison with the control group reads of it.
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

/// Pauses between attempts to store an explanation: doubling from 100 ms, so that a blip costs little, to 5 s, so that a
/// store that comes back is used soon.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long the end of the service waits for the last explanations.
const DRAIN: Duration = Duration::from_secs(10);

/// Writers at once. The embedded store has one writer anyway; a remote one hides its round trip behind four.
const WRITERS: usize = 4;

/// Explanations that a writer stores together, of those that wait: some 800 kB, and a statement's and a transaction's cost
/// is hardly seen any more.
const STORED_TOGETHER: usize = 256;

/// Explanations on their way to the store, by reference: readable before they are stored.
type Pending = Arc<Mutex<HashMap<String, Arc<StoredExplanation>>>>;

/// Stores explanations behind the answers.
///
/// Nothing is lost while the process lives: a full queue makes decisions wait instead of dropping an explanation, and a
/// store that fails is tried again until it takes it.
pub(crate) struct Explanations {
    events: Arc<dyn Events>,
    pending: Pending,
    queue: mpsc::Sender<Arc<StoredExplanation>>,
    metrics: Metrics,
}

/// The writers of an [`Explanations`].
pub(crate) struct ExplanationWriters(Vec<JoinHandle<()>>);

impl Explanations {
    /// Starts the writers. They end when the last [`Explanations`] is gone and everything is stored.
    pub(crate) fn start(
        events: Arc<dyn Events>,
        capacity: usize,
        metrics: Metrics,
    ) -> (Self, ExplanationWriters) {
        let (queue, receiver) = mpsc::channel(capacity);
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        let pending: Pending = Pending::default();
        let mut writers = Vec::with_capacity(WRITERS);
        for _ in 0..WRITERS {
            let writer = Writer {
                events: Arc::clone(&events),
                pending: Arc::clone(&pending),
                receiver: Arc::clone(&receiver),
                metrics: metrics.clone(),
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

    /// Hands an explanation over to be stored; waits while too many wait already.
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

    /// The explanation with this reference, stored or on its way.
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
                // One that can never be stored must not take the others with it.
                for explanation in explanations {
                    if let Err(error) = self.store(&[explanation]).await {
                        tracing::error!(
                            explanation.reference = explanation.reference,
                            error = %error,
                            "explanation `{}` is refused and given up: {error}",
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

    /// Stores explanations, however long it takes; fails only when they are refused.
    async fn store(&self, explanations: &[&StoredExplanation]) -> Result<(), StoreError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.events.save_explanations(explanations).await {
                Err(error @ StoreError::Rejected { .. }) => return Err(error),
                Err(error) => error,
                Ok(()) => return Ok(()),
            };
            self.metrics.explanation_retries.inc();
            tracing::warn!(error = %error, "explanations cannot be stored and are tried again: {error}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl ExplanationWriters {
    /// Waits until everything handed over is stored. The [`Explanations`] must be dropped before.
    pub(crate) async fn drain(self) {
        let all = futures::future::join_all(self.0);
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            tracing::error!(
                "explanations could not be stored before the end: the event store does not take them"
            );
        }
    }
}
