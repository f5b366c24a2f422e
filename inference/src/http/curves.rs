//! A person's curve by the hour.

use axum::{Json, extract::State};
use event::grid;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    body::{Body, Object},
    question::Moment,
    who::{IdentifierInput, Who},
};
use crate::{
    error::{ApiError, ErrorBody},
    explanation::Evidence,
    inquiry::WEEKDAYS,
    model::Curve,
    person::Wanted,
    service::Service,
};

/// Hours in a week.
const WEEK_HOURS: usize = 168;

/// Number of best hours returned if the request does not give one.
const DEFAULT_TOP: usize = 5;

/// Asks for a person's week by the hour. The person is named as for `POST /timing/decide`.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"email": "ann@example.com"}))]
#[serde(deny_unknown_fields)]
pub(crate) struct PredictRequest {
    /// The person's id.
    pub universal_id: Option<String>,
    /// The person's e-mail address. Hashed immediately; never stored, logged or repeated.
    #[schema(example = "ann@example.com")]
    pub email: Option<String>,
    /// Hash of the person's e-mail address, made as for `POST /timing/decide`.
    pub email_hash: Option<String>,
    /// The person's phone number in E.164 form. Hashed immediately.
    pub phone_number: Option<String>,
    /// Identifiers of the person.
    #[schema(value_type = Option<Vec<IdentifierInput>>, max_items = 32)]
    pub identifiers: Option<Vec<Object<IdentifierInput>>>,
    /// How many best hours to return, 1 to 168. Default 5.
    #[schema(example = 5, minimum = 1, maximum = 168)]
    pub top: Option<usize>,
    /// Predicts as if it were this moment. Default: the server's clock.
    pub now: Option<Moment>,
}

/// A person's week by the hour.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Prediction {
    /// The person.
    pub universal_id: String,
    /// The best hours, best first.
    pub best_hours: Vec<HourShare>,
    /// For each hour of the week, the share of the person's activity that falls into it; the first is Monday 00:00 to 01:00
    /// UTC. Sums to 1.
    pub probabilities: Vec<f64>,
    /// How well founded the prediction is.
    pub evidence: Evidence,
}

/// An hour of the week.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct HourShare {
    /// Hour of the week, 0 to 167; 0 is Monday 00:00 to 01:00 UTC.
    pub hour_of_week: usize,
    /// Day of the week, in UTC.
    #[schema(example = "monday")]
    pub weekday: &'static str,
    /// Hour of the day, in UTC.
    pub hour: usize,
    /// Share of the person's weekly activity.
    pub probability: f64,
}

/// Returns a person's week by the hour, for callers that plan by the hour.
#[utoipa::path(
    post, path = "/predict", tag = "decisions", request_body = PredictRequest,
    responses(
        (status = 200, description = "The week by the hour", body = Prediction),
        (status = 422, description = "A field is invalid; `field` names it", body = ErrorBody),
        (status = 503, description = "A store does not respond: try again", body = ErrorBody),
    )
)]
pub(crate) async fn predict(
    State(app): State<App>,
    Body(request): Body<PredictRequest>,
) -> Result<Json<Prediction>, ApiError> {
    let clock = app.clock();
    let top = request.top.unwrap_or(DEFAULT_TOP);
    if !(1..=WEEK_HOURS).contains(&top) {
        return Err(ApiError::field(
            "top",
            format!("must be a whole number from 1 to {WEEK_HOURS}"),
        ));
    }
    let now = request.now.map_or(clock, |moment| moment.0);
    let who = Who {
        universal_id: request.universal_id,
        email: request.email,
        email_hash: request.email_hash,
        phone_number: request.phone_number,
        identifiers: request.identifiers,
    };
    let wanted = Wanted {
        ids: who.identity(&app.service.dependencies.hasher)?.ids(),
        now,
        now_was_told: request.now.is_some(),
    };
    let known = app.service.people.read(&[wanted]).await.remove(0)?;
    let curve = app.service.curve(&known, now);
    let probabilities = by_hour(&curve.curve);
    Ok(Json(Prediction {
        universal_id: known.person.canonical.to_string(),
        best_hours: best_hours(&probabilities, top),
        probabilities,
        evidence: Service::evidence(&curve, &known),
    }))
}

/// Returns the share of activity in each hour of the week.
pub(super) fn by_hour(curve: &Curve) -> Vec<f64> {
    let minutes = curve.minutes();
    let hours = minutes.chunks(grid::SLOTS / WEEK_HOURS);
    hours
        .map(|hour| hour.iter().copied().map(f64::from).sum())
        .collect()
}

/// Returns the hours with the highest shares, best first; the earlier first among equals.
pub(super) fn best_hours(probabilities: &[f64], count: usize) -> Vec<HourShare> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]).then(a.cmp(b)));
    let best = order.into_iter().take(count).map(|hour_of_week| HourShare {
        hour_of_week,
        weekday: WEEKDAYS[hour_of_week / 24],
        hour: hour_of_week % 24,
        probability: probabilities[hour_of_week],
    });
    best.collect()
}
