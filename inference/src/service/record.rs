//! Records what a decision was computed from.

use event::{Timestamp, grid};
use sha2::{Digest, Sha256};

use super::{Basis, Service, Weighed, narrative};
use crate::{
    decision::{Choice, DaySpan, date},
    explanation::{
        Displacement, Exact, Experiment, Explanation, Inputs, NormalizedRequest, Point, Policy, ToldSignal,
        Window,
    },
    inquiry::{Inquiry, WEEKDAYS},
    service::PersonCurve,
};

/// Returns the explanation of a choice by this version of the service, under the reference that is derived from its content.
pub(super) fn explanation(weighed: &Weighed, service_version: &str) -> Explanation {
    let Weighed { basis, choice } = weighed;
    let Basis {
        inquiry,
        known,
        curve,
        ..
    } = basis;
    let question = &inquiry.question;
    let mut explanation = Explanation {
        explanation_ref: String::new(),
        universal_id: known.person.canonical.to_string(),
        decided_at: question.now,
        service_version: service_version.to_owned(),
        request: normalized(inquiry),
        evidence: Service::evidence(curve, known),
        profile_digest: known.digest.to_hex(),
        curve_as_of: curve.as_of,
        minutes_asked: choice.minutes_asked,
        minutes_left: choice.minutes_left,
        guards: choice.guards.clone(),
        breakers: choice.breakers.clone(),
        hot_paths: choice.hot_paths.clone(),
        latency: choice.latency,
        mailbox_provider: inquiry.mailbox_provider_of(&known.profile),
        latency_version: basis.latency_version.as_deref().map(str::to_owned),
        chosen: point(curve, choice, choice.arrive_at),
        moved: displacement(choice),
        experiment: experiment(inquiry, curve, choice),
        peaks: Vec::with_capacity(curve.peaks.len()),
        trigger_at: choice.trigger_at,
        confidence: choice.confidence,
        confidence_span_seconds: choice.confidence_span_seconds,
        why: Vec::new(),
        inputs: inputs(basis, choice),
    };
    let start = question.window.start.max(question.now);
    for (slot, _) in &curve.peaks {
        explanation
            .peaks
            .push(point(curve, choice, next_occurrence(*slot, start)));
    }
    explanation.why = narrative::sentences(inquiry, choice, &explanation);
    refer(&mut explanation);
    explanation
}

/// Sets the reference, a digest of everything else.
pub(super) fn refer(explanation: &mut Explanation) {
    explanation.explanation_ref.clear();
    let content =
        serde_json::to_vec(&explanation).expect("an explanation has only string keys and finite numbers");
    let digest = Sha256::digest(&content);
    let prefix = u128::from_be_bytes(digest[..16].try_into().expect("a SHA-256 has 32 bytes"));
    explanation.explanation_ref = format!("dec_{prefix:032x}");
}

fn inputs(basis: &Basis, choice: &Choice) -> Inputs {
    Inputs {
        now_was_told: basis.inquiry.question.now_was_told,
        caller_latency_seconds: basis.inquiry.caller_latency_seconds.map(Exact),
        profile: Inputs::profile_of(&basis.known.profile),
        latency_ms: Inputs::latency_of(&basis.latency),
        policy: Policy::from(&basis.policy),
        draw: basis.draw.clone(),
        full_minutes: choice.full_minutes.clone(),
    }
}

fn displacement(choice: &Choice) -> Option<Displacement> {
    let moved = choice.moved?;
    Some(Displacement {
        from: moved.from,
        value_lost: moved.value - choice.value,
        capacity_per_minute: moved.per_minute,
    })
}

fn experiment(inquiry: &Inquiry, curve: &PersonCurve, choice: &Choice) -> Option<Experiment> {
    let drawn = choice.experiment?;
    Some(Experiment {
        group: drawn.group,
        propensity: drawn.propensity,
        model_choice: point(curve, choice, drawn.model_at),
        model_value: drawn.model_value,
        quarters_near_best: drawn.quarters_near_best,
        control_share: drawn.control_share,
        exploration_share: drawn.exploration_share,
        counted: !inquiry.question.now_was_told,
    })
}

fn point(curve: &PersonCurve, choice: &Choice, at: Timestamp) -> Point {
    let p_base = curve.curve.density(at);
    let factor = choice.factor_at(at);
    Point {
        slot: grid::slot(at),
        at,
        candidate: choice.was_candidate(at),
        p_base,
        factor,
        p_final: p_base * factor,
        response: curve.curve.score(at),
    }
}

/// Returns the first moment at or after `start` at which `slot` begins.
fn next_occurrence(slot: usize, start: Timestamp) -> Timestamp {
    let offset_ms = slot as i64 * grid::MINUTE_MS - grid::week_offset_ms(start);
    start.plus_millis(offset_ms.rem_euclid(grid::WEEK_MS))
}

fn normalized(inquiry: &Inquiry) -> NormalizedRequest {
    let question = &inquiry.question;
    let local = &question.local;
    let mut blackout_days: Vec<String> = Vec::new();
    for day in &local.blackout_dates {
        blackout_days.push(date(*day).to_string());
    }
    for (name, out) in WEEKDAYS.iter().zip(local.blackout_weekdays) {
        if out {
            blackout_days.push((*name).to_owned());
        }
    }
    NormalizedRequest {
        window: Window {
            start: question.window.start,
            end: question.window.end,
        },
        not_before: question.not_before,
        deadline: question.deadline,
        time_zone: inquiry.time_zone.clone(),
        allowed_hours: local.allowed.iter().copied().map(span_text).collect(),
        quiet_hours: local.quiet.map(span_text),
        blackout_days,
        minimum_gap_seconds: question.minimum_gap_ms.map(|ms| ms as f64 / 1_000.0),
        esp: inquiry.esp.clone(),
        campaign_id: inquiry.campaign_id.clone(),
        campaign_type: inquiry.campaign_type.clone(),
        payload_bytes: inquiry.payload_bytes,
        caller_latency_seconds: inquiry.caller_latency_seconds,
        queue_depth: inquiry.queue_depth,
        signals: question
            .signals
            .iter()
            .map(|seen| ToldSignal {
                kind: seen.signal.as_str().to_owned(),
                at: seen.at,
            })
            .collect(),
    }
}

fn span_text(span: DaySpan) -> String {
    let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    format!("{}-{}", time(span.start), time(span.end))
}
