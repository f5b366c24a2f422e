//! From validated inquiries to decisions: reads people, computes curves, decides, and hands explanations over to be stored.

mod batch;
mod narrative;
mod record;
mod replay;

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use event::{Timestamp, UniversalId, grid::HOUR_MS, profile::Profile};
use quick_cache::sync::Cache;
use serde::Serialize;
use store::events::{StoredExplanation, TrialGroup};
use tracing::{Instrument, field::Empty};
use utoipa::ToSchema;

pub(crate) use batch::{Batch, WINDOW_LINES};
pub use replay::{Difference, Replay, ReplayVerdict, replay};

use crate::{
    Arrivals, Dependencies, ExperimentConfig, InferenceConfig, PolicyConfig, arrivals,
    decision::{self, Choice, Draw, Facts, Suppressed},
    error::ApiError,
    explanation::{Displacement, Evidence, Explanation, Explanations, Window},
    inquiry::Inquiry,
    latency::{ExpectedLatency, LatencyContext, LatencyModel, WeekOfLatency},
    metrics::Metrics,
    model::{Curve, Population},
    person::{IdentitySource, Known, People, ProfileDigest},
    population::CurrentPopulation,
};

/// Number of the week's peaks kept with a curve: enough to see a person's morning and evening on work days and at weekends.
const PEAKS: usize = 5;

/// Days whose arrivals are audited: one against the thirteen before it, each day of the week twice.
pub const AUDITED_DAYS: i64 = 14;

/// A decision: when to hand the mail over, so that it arrives at the best minute.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Decision {
    /// Determined by everything that entered the decision: the same question about the same past has the same id.
    #[schema(example = "dec_0123456789abcdef0123456789abcdef")]
    pub decision_id: String,
    /// The person, under the id by which they are addressed.
    pub universal_id: String,
    /// Slot of the week at which the mail should arrive, 0 to 10,079; 0 is Monday 00:00 UTC.
    #[schema(example = 3810)]
    pub target_minute: usize,
    /// The same as a point in time.
    #[schema(value_type = String, format = DateTime)]
    pub target_timestamp: Timestamp,
    /// The same as `target_timestamp`.
    #[schema(value_type = String, format = DateTime)]
    pub arrive_at: Timestamp,
    /// When to hand the mail to the provider: arrival minus the expected delay. Never before `decided_at`.
    #[schema(value_type = String, format = DateTime)]
    pub trigger_at: Timestamp,
    /// Probability that the person acts within `confidence_span_seconds` of arrival, given that they act at all between
    /// the first allowed minute and the last, or the end of that span.
    pub confidence: f64,
    /// The time that `confidence` is about: while half of the initial attention to a mail is left, and at least two hours.
    pub confidence_span_seconds: i64,
    /// Expected response relative to a mail that arrives at a random minute of the week; hot paths included.
    pub response_value: f64,
    /// The expected delay.
    pub expected_latency_seconds: f64,
    /// Where that delay comes from.
    pub latency: ExpectedLatency,
    /// Where the whole explanation can be read: `GET /explanations/{explanation_ref}`. Always the same as `decision_id`.
    pub explanation_ref: String,
    /// How the minute was chosen: `treated`, by the model; `control`, at random, because the person is in the control
    /// group; `exploration`, at random among nearly as good minutes. Absent if there is no experiment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "treated")]
    pub group: Option<TrialGroup>,
    /// Where the decision was before it had to make room in a batch; absent if it was not moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved: Option<Displacement>,
    /// How well founded the decision is.
    pub evidence: Evidence,
    /// The requested window.
    pub window: Window,
    /// The moment that counted as now.
    #[schema(value_type = String, format = DateTime)]
    pub decided_at: Timestamp,
    /// The decision in sentences.
    pub why: Vec<String>,
    /// The explanation itself, if the request asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// A person's curve with its peaks.
#[derive(Debug)]
pub(crate) struct PersonCurve {
    pub(crate) curve: Curve,
    pub(crate) peaks: Vec<(usize, f64)>,
    pub(crate) as_of: Timestamp,
}

/// What a curve is determined by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CurveKey {
    profile: ProfileDigest,
    population: Arc<str>,
    as_of: Timestamp,
}

/// Everything that is needed to answer requests.
pub(crate) struct Service {
    pub(crate) dependencies: Dependencies,
    pub(crate) policy: PolicyConfig,
    pub(crate) experiment: Option<ExperimentConfig>,
    /// Held while a lift or an audit is computed: one at a time, since each reads the decisions of weeks.
    pub(crate) reckoning: tokio::sync::Mutex<()>,
    pub(crate) people: People,
    pub(crate) explanations: Explanations,
    pub(crate) population: CurrentPopulation,
    model_folder: Option<PathBuf>,
    pub(crate) latency: ArcSwap<LatencyModel>,
    pub(crate) metrics: Metrics,
    curves: Cache<CurveKey, Arc<PersonCurve>>,
}

impl Service {
    pub(crate) fn new(
        config: &InferenceConfig,
        dependencies: Dependencies,
        explanations: Explanations,
        population: CurrentPopulation,
        metrics: Metrics,
    ) -> Self {
        Self {
            policy: config.policy,
            experiment: config.experiment.clone(),
            reckoning: tokio::sync::Mutex::default(),
            people: People::new(config, dependencies.clone(), metrics.clone()),
            explanations,
            population,
            model_folder: config.model_folder.clone(),
            latency: ArcSwap::from_pointee(LatencyModel::empty(config.latency)),
            curves: Cache::new(config.curve_cache_entries),
            metrics,
            dependencies,
        }
    }

    /// Decides one inquiry.
    pub(crate) async fn decide(&self, inquiry: Inquiry) -> Result<Decision, ApiError> {
        let span = tracing::debug_span!("decide", sendflowr.outcome = Empty, sendflowr.rung = Empty);
        let deciding = async {
            let wanted = [inquiry.wanted()];
            let reading = self.people.read(&wanted);
            let known = reading
                .instrument(tracing::debug_span!("read person"))
                .await
                .remove(0);
            let explain = inquiry.explain;
            let weighed = known.and_then(|known| self.weigh(inquiry, known));
            let told = weighed.map(|mut weighed| {
                weighed.draw_alone();
                weighed.told()
            });
            self.deliver(told, explain).await
        };
        let decided = deciding.instrument(span.clone()).await;
        match &decided {
            Ok(decision) => {
                span.record("sendflowr.outcome", "decided");
                span.record("sendflowr.rung", decision.evidence.rung);
            }
            Err(error) => {
                span.record("sendflowr.outcome", error.code());
            }
        }
        decided
    }

    /// Hands the explanation over before the decision is returned, and counts the outcome.
    async fn deliver(
        &self,
        answer: Result<(Decision, Explanation), ApiError>,
        explain: bool,
    ) -> Result<Decision, ApiError> {
        let kept = match answer {
            // Boxed, because it contains both twice and would make the futures of batches too large for a stack.
            Ok((decision, explanation)) => Box::pin(self.keep(decision, explanation, explain)).await,
            Err(error) => Err(error),
        };
        match &kept {
            Ok(decision) => self.metrics.decision("decided", decision.evidence.rung),
            Err(error) => self.metrics.decision(error.code(), "none"),
        }
        kept
    }

    async fn keep(
        &self,
        mut decision: Decision,
        explanation: Explanation,
        explain: bool,
    ) -> Result<Decision, ApiError> {
        let body = serde_json::to_string(&explanation)
            .expect("an explanation has only string keys and finite numbers");
        let stored = StoredExplanation {
            reference: explanation.explanation_ref.clone(),
            universal_id: UniversalId::parse(&explanation.universal_id)
                .expect("it was made from a universal id"),
            decided_at: explanation.decided_at,
            body,
            trial: explanation.trial(),
            forecast: explanation.forecast(),
        };
        self.explanations.save(stored).await?;
        if explain {
            decision.explanation = Some(explanation);
        }
        Ok(decision)
    }

    /// Chooses the minute that the model would give this person if there were no others.
    fn weigh(&self, inquiry: Inquiry, known: Known) -> Result<Weighed, ApiError> {
        let learned = self.latency.load();
        let basis = Basis {
            curve: self.curve(&known, inquiry.question.now),
            latency: learned.week(
                inquiry.esp.as_deref(),
                inquiry.mailbox_provider_of(&known.profile),
                inquiry.caller_latency_seconds,
                LatencyContext {
                    campaign_id: inquiry.campaign_id.as_deref(),
                    campaign_type: inquiry.campaign_type.as_deref(),
                    payload_bytes: inquiry.payload_bytes,
                    queue_depth: inquiry.queue_depth,
                },
            ),
            latency_version: learned.version(),
            policy: self.policy,
            draw: self.draw(&inquiry, &known),
            inquiry,
            known,
        };
        let deadline = basis.inquiry.question.deadline;
        basis
            .choose()
            .map_err(|suppressed| refusal(&suppressed, deadline))
    }

    /// Returns how the experiment treats a decision, if there is an experiment and the request takes part. While the
    /// identity graph does not respond, nobody takes part: under another id, the person could change groups. Neither does
    /// mail with a deadline: it must not wait for an experiment.
    fn draw(&self, inquiry: &Inquiry, known: &Known) -> Option<Draw> {
        let config = self.experiment.as_ref()?;
        let question = &inquiry.question;
        let takes_part = inquiry.experiment
            && question.deadline.is_none()
            && known.identity_source == IdentitySource::Graph;
        takes_part.then(|| {
            let from = question.window.start.max(question.now);
            Draw::of(
                config,
                &known.person.canonical,
                inquiry.campaign_id.as_deref(),
                from,
            )
        })
    }

    /// Returns the person's curve.
    pub(crate) fn curve(&self, known: &Known, now: Timestamp) -> Arc<PersonCurve> {
        let population = self.population.load_full();
        let as_of = curve_as_of(&known.profile, now);
        let key = CurveKey {
            profile: known.digest,
            population: population.version().into(),
            as_of,
        };
        let cached = self.curves.get(&key);
        self.metrics.cache("curve", cached.is_some());
        if let Some(curve) = cached {
            return curve;
        }
        let curve = Arc::new(PersonCurve::new(&population, &known.profile, as_of));
        self.curves.insert(key, Arc::clone(&curve));
        curve
    }

    /// Returns how well founded a curve is.
    pub(crate) fn evidence(curve: &PersonCurve, known: &Known) -> Evidence {
        let evidence = curve.curve.evidence();
        Evidence {
            source: if evidence.events == 0 {
                "population_prior"
            } else {
                "person"
            },
            n: evidence.events,
            effective_n: evidence.effective_events,
            mails: evidence.mails,
            prior_weight: evidence.prior_weight,
            recent_weight: evidence.recent_weight,
            rung: evidence.rung.as_str(),
            population_version: evidence.population_version.to_string(),
            profile_source: known.profile_source,
            identity_source: known.identity_source,
        }
    }

    /// Compares the delays that the decisions of the last `days` expected of providers with the actual ones. If `days`
    /// is the usual number, the drift metric is updated.
    pub(crate) async fn arrivals(&self, days: i64, now: Timestamp) -> Result<Arrivals, ApiError> {
        let stores = &self.dependencies;
        let since = now.plus_millis(-days * 24 * HOUR_MS);
        let _only_one = self.reckoning.lock().await;
        let audited = arrivals(&*stores.events, &*stores.identities, since, now).await?;
        if days == AUDITED_DAYS {
            self.metrics.drift(&audited.drift);
        }
        Ok(audited)
    }

    /// Computes a stored decision again.
    pub(crate) fn replay(&self, reference: &str, body: &str) -> Replay {
        let in_use = self.population();
        replay(reference, body, Some(&in_use), self.model_folder.as_deref())
    }

    /// Returns the tables in use.
    pub(crate) fn population(&self) -> Arc<Population> {
        self.population.load_full()
    }
}

/// Returns the moment up to which a curve uses events: the beginning of the hour of `now`, or the last event before `now` if
/// that is later. So every event takes effect immediately, and the curve depends only on profile and `now`, cached or not.
fn curve_as_of(profile: &Profile, now: Timestamp) -> Timestamp {
    let hour = now.plus_millis(-now.as_millis().rem_euclid(HOUR_MS));
    let last_delivery = profile.deliveries(hour, now).last().copied();
    let last_activity = profile.last_human_activity(now);
    hour.max(last_delivery.unwrap_or(hour))
        .max(last_activity.unwrap_or(hour))
}

impl PersonCurve {
    fn new(population: &Population, profile: &Profile, as_of: Timestamp) -> Self {
        let known = (!profile.is_empty()).then_some(profile);
        let curve = population.curve(known, as_of);
        let peaks = curve.peaks(PEAKS);
        Self { curve, peaks, as_of }
    }
}

/// Everything that determines a choice: read for a decision, or taken from its explanation for a replay.
struct Basis {
    inquiry: Inquiry,
    known: Known,
    curve: Arc<PersonCurve>,
    latency: WeekOfLatency,
    latency_version: Option<Arc<str>>,
    policy: PolicyConfig,
    draw: Option<Draw>,
}

impl Basis {
    /// Chooses the minute that the model would give the person alone, before the experiment draws.
    fn choose(self) -> Result<Weighed, Suppressed> {
        let facts = self.facts();
        let mut choice = decision::decide(&self.inquiry.question, facts)?;
        if self.curve.curve.evidence().events == 0 {
            choice = choice.apart(&self.known.person.canonical, facts);
        }
        Ok(Weighed { basis: self, choice })
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            profile: &self.known.profile,
            curve: &self.curve.curve,
            latency: &self.latency,
            policy: &self.policy,
        }
    }
}

/// A choice and what it was computed from.
struct Weighed {
    basis: Basis,
    choice: Choice,
}

impl Weighed {
    /// Lets the experiment draw for a person who does not have to make room.
    fn draw_alone(&mut self) {
        let mut choice = self.choice.clone();
        choice.draw(self.basis.draw.as_ref(), None, self.basis.facts());
        self.choice = choice;
    }

    fn told(&self) -> (Decision, Explanation) {
        let explanation = record::explanation(self, env!("CARGO_PKG_VERSION"));
        (answer(&self.basis.known, &self.choice, &explanation), explanation)
    }
}

fn refusal(suppressed: &Suppressed, deadline: Option<Timestamp>) -> ApiError {
    let Suppressed {
        reason,
        first_allowed_at,
    } = *suppressed;
    let until = match (first_allowed_at, deadline) {
        (Some(moment), _) => format!("the first minute allowed is {moment}"),
        (None, Some(deadline)) => {
            format!("no minute of the next 400 days up to the deadline, {deadline}, is allowed")
        }
        (None, None) => "no minute of the next 400 days is allowed".to_owned(),
    };
    let message = format!("no minute of the window is allowed, the last were removed by `{reason}`: {until}");
    ApiError::Suppressed {
        reason,
        message,
        first_allowed_at,
    }
}

fn answer(known: &Known, choice: &Choice, explanation: &Explanation) -> Decision {
    Decision {
        decision_id: explanation.explanation_ref.clone(),
        universal_id: known.person.canonical.to_string(),
        target_minute: choice.target_minute(),
        target_timestamp: choice.arrive_at,
        arrive_at: choice.arrive_at,
        trigger_at: choice.trigger_at,
        confidence: choice.confidence,
        confidence_span_seconds: choice.confidence_span_seconds,
        response_value: choice.value,
        expected_latency_seconds: choice.latency.seconds,
        latency: choice.latency,
        explanation_ref: explanation.explanation_ref.clone(),
        group: choice.experiment.map(|drawn| drawn.group),
        moved: explanation.moved,
        evidence: explanation.evidence.clone(),
        window: explanation.request.window.clone(),
        decided_at: explanation.decided_at,
        why: explanation.why.clone(),
        explanation: None,
    }
}
