//! What timing gains.

use axum::{Json, extract::State};
use serde::Deserialize;
use store::events::EXPLANATION_DAYS;
use utoipa::IntoParams;

use super::{
    App,
    body::{self, RawQuery},
    question::Moment,
};
use crate::{
    error::{ApiError, ErrorBody},
    lift::{self, Lift},
};

/// Which decisions are compared.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LiftQuery {
    /// Decisions from this moment on, at most 90 days ago, as RFC 3339 or seconds since 1970. Default: 28 days before `until`, or 90 days ago if that is later.
    #[param(value_type = Option<String>)]
    since: Option<Moment>,
    /// Decisions before this moment, as things stood then. Default and latest value: now.
    #[param(value_type = Option<String>)]
    until: Option<Moment>,
}

/// Compares chosen times with those of the control group, by what people did.
#[utoipa::path(
    get, path = "/lift", tag = "learning", params(LiftQuery),
    responses(
        (status = 200, description = "The comparison and its verdict", body = Lift),
        (status = 422, description = "A parameter is invalid; `field` names it", body = ErrorBody),
        (status = 503, description = "A store does not respond: try again", body = ErrorBody),
    )
)]
pub(crate) async fn lift(State(app): State<App>, query: RawQuery) -> Result<Json<Lift>, ApiError> {
    let query: LiftQuery = body::parse_query(query, "since=…&until=…")?;
    let clock = app.clock();
    let until = query.until.map_or(clock, |moment| moment.0.min(clock));
    let since = match query.since {
        Some(moment) if moment.0 < until && lift::is_kept(moment.0, clock) => moment.0,
        Some(_) => {
            return Err(ApiError::field(
                "since",
                format!(
                    "must be earlier than `until` and at most {EXPLANATION_DAYS} days ago: older decisions are gone"
                ),
            ));
        }
        None => lift::since_by_default(until, clock),
    };
    if since >= until {
        return Err(ApiError::field(
            "until",
            format!("must be less than {EXPLANATION_DAYS} days ago: older decisions are gone"),
        ));
    }
    let stores = &app.service.dependencies;
    let _only_one = app.service.reckoning.lock().await;
    let lift = lift::lift(&*stores.events, &*stores.identities, since, until).await;
    Ok(Json(lift?))
}
