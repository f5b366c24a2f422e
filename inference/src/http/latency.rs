//! What was learned about delays, and how well it matches what happened.

use axum::{Json, extract::State};
use event::Timestamp;
use serde::{Deserialize, Serialize};
use store::events::EXPLANATION_DAYS;
use utoipa::{IntoParams, ToSchema};

use super::{
    App,
    body::{self, RawQuery},
};
use crate::{
    arrivals::Arrivals,
    error::{ApiError, ErrorBody},
    latency::{LatencyContext, LatencyFactor, LatencyRow, LatencySource},
    service::AUDITED_DAYS,
};

/// Longest period that can be audited: explanations are not kept longer.
const MAX_DAYS: i64 = EXPLANATION_DAYS as i64;

/// Which decisions are audited.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LatencyQuery {
    /// Decisions of the last so many days, 1 to 90. Default 14.
    #[param(value_type = Option<i64>, example = 14, minimum = 1, maximum = 90)]
    days: Option<i64>,
}

/// What was learned about delays from trigger to delivery.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LatencySummary {
    /// When it was last learned; `null` before the first time.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub learned_at: Option<Timestamp>,
    /// The table's version, which explanations name; `null` as long as nothing is known.
    #[schema(example = "0123456789abcdef")]
    pub version: Option<String>,
    /// The quantile that decisions use as the expected delay.
    #[schema(example = 0.5)]
    pub quantile: f64,
    /// The expected delay in seconds if neither data nor the caller provide one.
    pub default_seconds: f64,
    /// Where the expected delay of a decision that names no provider comes from.
    pub without_provider: LatencySource,
    /// All providers together, then each provider, followed by its mailbox classes. Empty if nothing was learned.
    pub rows: Vec<LatencyRow>,
    /// What else a request may give, and its effect on the delay.
    pub factors: Vec<LatencyFactor>,
    /// What decisions expected, compared with what happened.
    pub arrivals: Arrivals,
}

/// What was learned about the delays of each provider, and how arrivals compare with what decisions expected.
#[utoipa::path(
    get, path = "/latency", tag = "learning", params(LatencyQuery),
    responses(
        (status = 200, description = "Delays by provider and mailbox class, and the audit of arrivals", body = LatencySummary),
        (status = 422, description = "A parameter is invalid; `field` names it", body = ErrorBody),
        (status = 503, description = "A store does not respond: try again", body = ErrorBody),
    )
)]
pub(crate) async fn latency(
    State(app): State<App>,
    query: RawQuery,
) -> Result<Json<LatencySummary>, ApiError> {
    let LatencyQuery { days } = body::parse_query(query, "days=14")?;
    let days = days.unwrap_or(AUDITED_DAYS);
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(ApiError::field(
            "days",
            format!("must be a whole number from 1 to {MAX_DAYS}"),
        ));
    }
    let arrivals = app.service.arrivals(days, app.clock()).await?;
    let model = app.service.latency.load();
    let config = model.config();
    Ok(Json(LatencySummary {
        learned_at: model.learned_at(),
        version: model.version().as_deref().map(str::to_owned),
        quantile: config.quantile,
        default_seconds: config.default.as_secs_f64(),
        without_provider: model
            .week(None, None, None, LatencyContext::default())
            .handed_over_at(Timestamp::default())
            .source,
        rows: model.rows().to_vec(),
        factors: model.factors(),
        arrivals,
    }))
}
