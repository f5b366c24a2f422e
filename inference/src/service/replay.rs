//! Computes a stored decision again, from its explanation and the population's tables that it names, and compares the two.

use std::{path::Path, sync::Arc};

use event::{MailboxProvider, Timestamp, UniversalId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::identity::Person;
use utoipa::ToSchema;

use super::{Basis, PersonCurve, curve_as_of, record};
use crate::{
    decision::{DaySpan, LocalRules, Question, SeenSignal},
    error::ApiError,
    explanation::{Explanation, Inputs, NormalizedRequest},
    inquiry::{self, Identity, Inquiry, Name},
    latency::{ExpectedLatency, WeekOfLatency},
    model::Population,
    person::{IdentitySource, Known, ProfileDigest, ProfileSource},
    population,
};

/// Maximum number of differences that are reported: to investigate one, the first few are enough, and the rest follow from them.
const MAX_DIFFERENCES: usize = 50;

/// The result of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReplayVerdict {
    /// The same explanation, byte for byte, once it has the sentences of the version that decided.
    Same,
    /// A different explanation: `differences` says where.
    Different,
    /// It was stored before explanations included what this version computes a decision from.
    NoInputs,
    /// The population's tables that it names are no longer in use and not in the model folder.
    TablesGone,
    /// What is stored is not an explanation.
    Unreadable,
}

/// A value that differs.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Difference {
    /// Path of the value, such as `chosen.at`.
    #[schema(example = "chosen.at")]
    pub field: String,
    /// The stored value; `null` if there is none.
    #[schema(value_type = Value)]
    pub stored: Value,
    /// The replayed value; `null` if there is none.
    #[schema(value_type = Value)]
    pub replayed: Value,
}

/// A decision that was computed again.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Replay {
    /// The decision.
    pub explanation_ref: String,
    /// The result.
    pub verdict: ReplayVerdict,
    /// The same as a sentence.
    pub text: String,
    /// Version of the service that decided; `null` if it cannot be read.
    pub decided_by: Option<String>,
    /// Version that replayed.
    pub replayed_by: &'static str,
    /// Where the two differ, at most 50 places.
    pub differences: Vec<Difference>,
}

/// The parts of an explanation that a replay reads. Everything else is computed again.
#[derive(Deserialize)]
struct Stored {
    universal_id: String,
    decided_at: Timestamp,
    service_version: String,
    request: NormalizedRequest,
    evidence: StoredEvidence,
    latency: ExpectedLatency,
    mailbox_provider: Option<MailboxProvider>,
    latency_version: Option<String>,
    moved: Option<StoredMove>,
    inputs: Option<Inputs>,
}

#[derive(Deserialize)]
struct StoredEvidence {
    population_version: String,
    /// Absent in explanations of earlier models.
    recent_weight: Option<f64>,
    profile_source: ProfileSource,
    identity_source: IdentitySource,
}

#[derive(Deserialize)]
struct StoredMove {
    capacity_per_minute: u32,
}

/// Why nothing could be compared.
struct Failure(ReplayVerdict, String);

impl Failure {
    fn unreadable(why: impl std::fmt::Display) -> Self {
        Self(
            ReplayVerdict::Unreadable,
            format!("what is stored under this reference is not an explanation: {why}"),
        )
    }
}

/// Computes the decision stored under `reference` again. The population's tables are those `in_use`, the built-in ones,
/// or those in `model_folder`, whichever the explanation names.
pub fn replay(
    reference: &str,
    body: &str,
    in_use: Option<&Arc<Population>>,
    model_folder: Option<&Path>,
) -> Replay {
    let mut replay = Replay {
        explanation_ref: reference.to_owned(),
        verdict: ReplayVerdict::Same,
        text: String::new(),
        decided_by: None,
        replayed_by: env!("CARGO_PKG_VERSION"),
        differences: Vec::new(),
    };
    match reckon(body, in_use, model_folder, &mut replay.decided_by) {
        Ok(explanation) => compare(reference, body, explanation, &mut replay),
        Err(Failure(verdict, text)) => (replay.verdict, replay.text) = (verdict, text),
    }
    replay
}

fn reckon(
    body: &str,
    in_use: Option<&Arc<Population>>,
    model_folder: Option<&Path>,
    decided_by: &mut Option<String>,
) -> Result<Explanation, Failure> {
    let mut deserializer = serde_json::Deserializer::from_str(body);
    let stored: Stored = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        Failure::unreadable(format_args!("`{path}`: {}", error.inner()))
    })?;
    *decided_by = Some(stored.service_version.clone());
    let Some(inputs) = &stored.inputs else {
        return Err(Failure(
            ReplayVerdict::NoInputs,
            format!(
                "the explanation was stored by version {}, which did not keep what decisions were computed from: it can be \
                 read but not replayed",
                stored.service_version
            ),
        ));
    };
    if stored.evidence.recent_weight.is_none() {
        return Err(Failure(
            ReplayVerdict::NoInputs,
            format!(
                "the explanation was stored by version {}, whose model let a single old event count for as much as a fresh one and \
                 did not tell `recent_weight`: it can be read but not replayed",
                stored.service_version
            ),
        ));
    }
    let population = tables(&stored.evidence.population_version, in_use, model_folder)?;
    let wrong = |field: &str| Failure::unreadable(format_args!("`{field}` is invalid"));
    let profile = inputs.profile().ok_or_else(|| wrong("inputs.profile"))?;
    let latency = WeekOfLatency::of_milliseconds(&inputs.latency_ms, stored.latency)
        .ok_or_else(|| wrong("inputs.latency_ms"))?;
    // Delays that differ over the week were once looked up by the time of arrival, and came without `part_samples`.
    if inputs.latency_ms.len() > 1 && stored.latency.part_samples.is_none() {
        return Err(Failure(
            ReplayVerdict::NoInputs,
            format!(
                "the explanation was stored by version {}, which took delays to depend on when a mail arrives; here they depend on \
                 when it is handed over: it can be read but not replayed",
                stored.service_version
            ),
        ));
    }
    let id = UniversalId::parse(&stored.universal_id).ok_or_else(|| wrong("universal_id"))?;
    let inquiry = inquiry(&stored, inputs, id.clone()).map_err(|error| match error {
        ApiError::InvalidField { field, message } => {
            Failure::unreadable(format_args!("`request`: `{field}` {message}"))
        }
        other => Failure::unreadable(other),
    })?;
    let as_of = curve_as_of(&profile, stored.decided_at);
    let basis = Basis {
        inquiry,
        curve: Arc::new(PersonCurve::new(&population, &profile, as_of)),
        known: Known {
            person: Arc::new(Person::unknown(id)),
            identity_source: stored.evidence.identity_source,
            digest: ProfileDigest::of(&profile),
            profile,
            profile_source: stored.evidence.profile_source,
        },
        latency,
        latency_version: stored.latency_version.as_deref().map(Arc::from),
        policy: (&inputs.policy).into(),
        draw: inputs.draw.clone(),
    };
    let mut weighed = basis.choose().map_err(|suppressed| {
        Failure(
            ReplayVerdict::Different,
            format!(
                "recomputed, no minute of the window is allowed: the last were removed by `{}`",
                suppressed.reason
            ),
        )
    })?;
    match &inputs.full_minutes {
        None => weighed.draw_alone(),
        Some(full) => {
            let free = full.leave(&weighed.choice.candidates);
            // Recorded only for decisions that were moved; for one that keeps its minute the value does not matter.
            let per_minute = stored.moved.as_ref().map_or(0, |moved| moved.capacity_per_minute);
            let Basis { draw, .. } = &weighed.basis;
            let facts = weighed.basis.facts();
            let placed = weighed
                .choice
                .placed_among(&free, draw.as_ref(), facts, per_minute);
            weighed.choice = placed.ok_or_else(|| {
                Failure(
                    ReplayVerdict::Different,
                    "recomputed, every minute of the window is full".to_owned(),
                )
            })?;
        }
    }
    Ok(record::explanation(&weighed, &stored.service_version))
}

fn tables(
    version: &str,
    in_use: Option<&Arc<Population>>,
    model_folder: Option<&Path>,
) -> Result<Arc<Population>, Failure> {
    if let Some(population) = in_use.filter(|population| population.version() == version) {
        return Ok(Arc::clone(population));
    }
    match population::of_version(version, model_folder) {
        Ok(Some(population)) => Ok(Arc::new(population)),
        Ok(None) => Err(Failure(
            ReplayVerdict::TablesGone,
            format!(
                "the population tables `{version}` that it was computed from are not in use and not in {}: keep \
                 `population-*.json` there as long as explanations are kept",
                match model_folder {
                    Some(folder) => format!("the model folder `{}`", folder.display()),
                    None => "a model folder, because none is configured".to_owned(),
                }
            ),
        )),
        Err(error) => Err(Failure(ReplayVerdict::TablesGone, event::chain(&error))),
    }
}

/// Rebuilds the inquiry from what was recorded of it.
fn inquiry(stored: &Stored, inputs: &Inputs, id: UniversalId) -> Result<Inquiry, ApiError> {
    let request = &stored.request;
    let now = stored.decided_at;
    let window = request.window.start..request.window.end;
    inquiry::check_window(now, &window)?;
    let (zone, time_zone) = inquiry::time_zone(&request.time_zone)?;
    let (blackout_dates, blackout_weekdays) = inquiry::blackout_days(&request.blackout_days)?;
    let allowed = request
        .allowed_hours
        .iter()
        .map(|text| day_span("allowed_hours", text));
    let quiet = request
        .quiet_hours
        .as_deref()
        .map(|text| day_span("quiet_hours", text));
    let signals = request.signals.iter().map(|reported| {
        let signal = inquiry::signal_named(&reported.kind)
            .ok_or_else(|| ApiError::field("signals.type", "must be a signal that callers report"))?;
        Ok(SeenSignal {
            signal,
            at: reported.at,
        })
    });
    let question = Question {
        now,
        now_was_told: inputs.now_was_told,
        window,
        not_before: request.not_before,
        deadline: request.deadline,
        local: LocalRules {
            zone,
            allowed: allowed.collect::<Result<_, ApiError>>()?,
            quiet: quiet.transpose()?,
            blackout_dates,
            blackout_weekdays,
        },
        minimum_gap_ms: request
            .minimum_gap_seconds
            .map(|seconds| (seconds * 1_000.0).round() as i64),
        signals: signals.collect::<Result<_, ApiError>>()?,
    };
    Ok(Inquiry {
        identity: Identity::new(vec![Name {
            field: "universal_id".into(),
            id,
            identifier: None,
        }]),
        // The address that it may come from is not stored.
        mailbox_provider: stored.mailbox_provider,
        question,
        time_zone,
        esp: request.esp.clone(),
        campaign_id: request.campaign_id.clone(),
        campaign_type: request.campaign_type.clone(),
        payload_bytes: request.payload_bytes,
        caller_latency_seconds: inputs.caller_latency_seconds.map(|seconds| seconds.0),
        queue_depth: request.queue_depth,
        experiment: inputs.draw.is_some(),
        explain: false,
    })
}

/// Reads a part of the day as written in explanations, `HH:MM-HH:MM`.
fn day_span(field: &str, text: &str) -> Result<DaySpan, ApiError> {
    let (start, end) = text.split_once('-').unwrap_or((text, ""));
    inquiry::day_span(field, start, end)
}

fn compare(reference: &str, body: &str, mut explanation: Explanation, replay: &mut Replay) {
    let value = |text| serde_json::from_str::<Value>(text).unwrap_or_default();
    let stored = value(body);
    // Another version may say the same in other words. Sentences that were changed since do not agree with the reference.
    let told = Vec::deserialize(&stored["why"]).unwrap_or_default();
    let is_reworded = explanation.why != told;
    if is_reworded {
        explanation.why = told;
        record::refer(&mut explanation);
    }
    let again =
        serde_json::to_string(&explanation).expect("an explanation has only string keys and finite numbers");
    let replayed = value(&again);
    if stored["explanation_ref"] != reference {
        replay.differences.push(Difference {
            field: "the reference asked for".to_owned(),
            stored: reference.into(),
            replayed: replayed["explanation_ref"].clone(),
        });
    }
    differences("", &stored, &replayed, &mut replay.differences);
    let more = replay.differences.len().saturating_sub(MAX_DIFFERENCES);
    replay.differences.truncate(MAX_DIFFERENCES);
    if replay.differences.is_empty() && again == body {
        replay.text = format!("the same, byte for byte ({} bytes)", body.len());
        if is_reworded {
            replay.text += "; this version words `why` differently";
        }
        return;
    }
    replay.verdict = ReplayVerdict::Different;
    replay.text = match (replay.differences.first(), more) {
        (None, _) => "the same values in a different form: the stored explanation was changed".to_owned(),
        (Some(_), 0) => format!("different in {} places", replay.differences.len()),
        (Some(_), more) => format!("different in {} places", MAX_DIFFERENCES + more),
    };
    let decided_by = replay.decided_by.as_deref().unwrap_or_default();
    if decided_by != replay.replayed_by {
        replay.text += &format!(
            "; it was decided by version {decided_by} and replayed by {}, which may compute a different result",
            replay.replayed_by
        );
    }
}

fn differences(path: &str, stored: &Value, replayed: &Value, found: &mut Vec<Difference>) {
    let child = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    match (stored, replayed) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, value) in a {
                differences(&child(name), value, b.get(name).unwrap_or(&Value::Null), found);
            }
            for (name, value) in b.iter().filter(|(name, _)| !a.contains_key(*name)) {
                differences(&child(name), &Value::Null, value, found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for index in 0..a.len().max(b.len()) {
                let at = |list: &[Value]| list.get(index).cloned().unwrap_or_default();
                differences(&format!("{path}[{index}]"), &at(a), &at(b), found);
            }
        }
        (stored, replayed) if stored != replayed => found.push(Difference {
            field: path.to_owned(),
            stored: stored.clone(),
            replayed: replayed.clone(),
        }),
        _ => {}
    }
}
