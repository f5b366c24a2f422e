//! Decisions and their explanations.

use axum::{
    Json,
    extract::{Path, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    App,
    body::{self, Body, RawPath, RawQuery},
    question::DecideRequest,
};
use crate::{
    error::{ApiError, ErrorBody},
    explanation::Explanation,
    service::{Decision, Replay},
};

/// Decides when one person should get the next mail. A decision is not permission to send: the rules that suppress mail here
/// (`suppressed`) end after hours or days. Keep your own suppression list.
#[utoipa::path(
    post, path = "/timing/decide", tag = "decisions", request_body = DecideRequest,
    responses(
        (status = 200, description = "The decision; from the population's curve if the person is unknown", body = Decision),
        (status = 409, description = "`suppressed`: no mail may arrive within the window; `reason` says why, `first_allowed_at` when it may", body = ErrorBody),
        (status = 422, description = "A field is invalid; `field` names it", body = ErrorBody),
        (status = 503, description = "A store does not respond: try again", body = ErrorBody),
    )
)]
pub(crate) async fn decide(
    State(app): State<App>,
    Body(request): Body<DecideRequest>,
) -> Result<Json<Decision>, ApiError> {
    let clock = app.clock();
    let inquiry = request.check(&app.service.dependencies.hasher, clock)?;
    app.service.decide(inquiry).await.map(Json)
}

/// The same as `POST /timing/decide`.
#[utoipa::path(
    post, path = "/timing-decision", tag = "decisions", request_body = DecideRequest,
    responses(
        (status = 200, description = "The decision", body = Decision),
        (status = 409, description = "As for `/timing/decide`", body = ErrorBody),
        (status = 422, description = "As for `/timing/decide`", body = ErrorBody),
        (status = 503, description = "As for `/timing/decide`", body = ErrorBody),
    )
)]
pub(crate) async fn decide_alias(
    state: State<App>,
    request: Body<DecideRequest>,
) -> Result<Json<Decision>, ApiError> {
    decide(state, request).await
}

/// How an explanation is returned.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExplanationQuery {
    /// `true` recomputes the decision from its explanation and returns whether the result is the same, byte for byte.
    #[param(value_type = Option<bool>, example = true)]
    replay: Option<Switch>,
}

/// `true` or `false` in a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Switch {
    True,
    False,
}

/// The responses of `GET /explanations/{reference}`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(
    dead_code,
    reason = "describes the responses; the explanation is returned as it is stored"
)]
enum Told {
    Explanation(Box<Explanation>),
    Replay(Replay),
}

/// What a decision was based on, as it was stored; or whether recomputing it gives the same result.
#[utoipa::path(
    get, path = "/explanations/{reference}", tag = "decisions",
    params(("reference" = String, Path, description = "The decision's `explanation_ref`"), ExplanationQuery),
    responses(
        (status = 200, description = "The explanation; with `replay=true`, the result of the replay", body = Told),
        (status = 404, description = "No decision has this reference", body = ErrorBody),
        (status = 422, description = "A parameter is invalid; `field` names it", body = ErrorBody),
        (status = 503, description = "The event store does not respond: try again", body = ErrorBody),
    )
)]
pub(crate) async fn explanation(
    State(app): State<App>,
    path: RawPath,
    query: RawQuery,
) -> Result<Response, ApiError> {
    let not_found = || ApiError::NotFound("no decision has this reference");
    let Path(reference) = path.map_err(|_| not_found())?;
    let ExplanationQuery { replay } = body::parse_query(query, "replay=true")?;
    let found = app.service.explanations.get(&reference).await;
    match found.map_err(|error| ApiError::unavailable("the event store", error))? {
        Some(body) if replay == Some(Switch::True) => {
            // It may read tables from a file and computes a whole curve: too long for a thread that serves requests.
            let replaying = tokio::task::spawn_blocking(move || app.service.replay(&reference, &body));
            let replay = replaying.await.map_err(|_| ApiError::Internal)?;
            Ok(Json(replay).into_response())
        }
        Some(body) => Ok(([(CONTENT_TYPE, "application/json")], body).into_response()),
        None => Err(not_found()),
    }
}
