//! Decisions and their explanations.

use axum::{
    Json,
    extract::{Path, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};

use super::{App, body::Body, question::DecideRequest};
use crate::{
    error::{ApiError, ErrorBody},
    explanation::Explanation,
    service::Decision,
};

/// Decides when one person should get the next mail.
#[utoipa::path(
    post, path = "/timing/decide", tag = "decisions", request_body = DecideRequest,
    responses(
        (status = 200, description = "The decision; from the population's curve where the person is unknown", body = Decision),
        (status = 400, description = "Not JSON", body = ErrorBody),
        (status = 409, description = "Nothing may arrive within the window; `first_allowed_at` tells when it may", body = ErrorBody),
        (status = 413, description = "Body too large", body = ErrorBody),
        (status = 422, description = "A field cannot be taken as it is; `field` names it", body = ErrorBody),
        (status = 503, description = "A store does not answer: try again", body = ErrorBody),
    )
)]
pub(crate) async fn decide(
    State(app): State<App>,
    Body(request): Body<DecideRequest>,
) -> Result<Json<Decision>, ApiError> {
    let clock = app.clock();
    let inquiry = request.check(&app.service.dependencies.hasher, clock)?;
    app.service.decide(inquiry, clock).await.map(Json)
}

/// The same as `POST /timing/decide`.
#[utoipa::path(
    post, path = "/timing-decision", tag = "decisions", request_body = DecideRequest,
    responses(
        (status = 200, description = "The decision", body = Decision),
        (status = "4XX", description = "As for `/timing/decide`", body = ErrorBody),
    )
)]
pub(crate) async fn decide_alias(
    state: State<App>,
    request: Body<DecideRequest>,
) -> Result<Json<Decision>, ApiError> {
    decide(state, request).await
}

/// What a decision was made of, as it was stored.
#[utoipa::path(
    get, path = "/explanations/{reference}", tag = "decisions",
    params(("reference" = String, Path, description = "The decision's `explanation_ref`")),
    responses(
        (status = 200, description = "The explanation", body = Explanation),
        (status = 404, description = "No decision has this reference", body = ErrorBody),
        (status = 503, description = "The event store does not answer: try again", body = ErrorBody),
    )
)]
pub(crate) async fn explanation(
    State(app): State<App>,
    Path(reference): Path<String>,
) -> Result<Response, ApiError> {
    let found = app.service.explanations.get(&reference).await;
    match found.map_err(|error| ApiError::unavailable("the event store", error))? {
        Some(body) => Ok(([(CONTENT_TYPE, "application/json")], body).into_response()),
        None => Err(ApiError::NotFound("no decision has this reference")),
    }
}
