//! Decisions and their explanations.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    App,
    body::{self, Body},
    question::DecideRequest,
};
use crate::{
    error::{ApiError, ErrorBody, ErrorDetails},
    explanation::Explanation,
    service::Decision,
};

/// Most requests in a batch: a second of work on one core in the worst case, when no curve is cached.
const MAX_BATCH: usize = 1_000;

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
    app.service.decide(&inquiry, clock).await.map(Json)
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

/// Many requests at once.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchRequest {
    /// 1 to 1,000 requests, each as for `/timing/decide`.
    #[schema(value_type = Vec<DecideRequest>)]
    pub requests: Vec<Value>,
}

/// The answer to a batch.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchAnswer {
    /// One result for each request, in their order.
    pub results: Vec<BatchResult>,
    /// How many of them are decisions.
    pub decided: usize,
    /// How many of them are errors.
    pub failed: usize,
}

/// A decision or an error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchResult {
    /// Place of the request, from 0.
    pub index: usize,
    /// The status that the request would have had alone.
    #[schema(example = 200)]
    pub status: u16,
    /// The decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetails>,
}

/// Decides for many people at once; one bad request does not harm the others.
#[utoipa::path(
    post, path = "/timing/decide/batch", tag = "decisions", request_body = BatchRequest,
    responses(
        (status = 200, description = "One result for each request, in their order", body = BatchAnswer),
        (status = 400, description = "Not JSON", body = ErrorBody),
        (status = 413, description = "Body too large", body = ErrorBody),
        (status = 422, description = "No requests, or more than 1,000", body = ErrorBody),
    )
)]
pub(crate) async fn decide_batch(
    State(app): State<App>,
    Body(batch): Body<BatchRequest>,
) -> Result<Json<BatchAnswer>, ApiError> {
    if !(1..=MAX_BATCH).contains(&batch.requests.len()) {
        return Err(ApiError::field(
            "requests",
            format!("must have 1 to {MAX_BATCH} elements"),
        ));
    }
    let clock = app.clock();
    let mut results: Vec<Option<Result<Decision, ApiError>>> = Vec::with_capacity(batch.requests.len());
    let mut inquiries = Vec::with_capacity(batch.requests.len());
    for request in batch.requests {
        let checked = body::parse_value::<DecideRequest>(request)
            .and_then(|request| request.check(&app.service.dependencies.hasher, clock));
        match checked {
            Ok(inquiry) => {
                inquiries.push(inquiry);
                results.push(None);
            }
            Err(error) => results.push(Some(Err(error))),
        }
    }
    let mut decisions = Arc::clone(&app.service)
        .decide_all(inquiries, clock)
        .await
        .into_iter();
    let mut answer = BatchAnswer {
        results: Vec::with_capacity(results.len()),
        decided: 0,
        failed: 0,
    };
    for (index, refused) in results.into_iter().enumerate() {
        let result = refused
            .or_else(|| decisions.next())
            .expect("every request was refused or decided");
        answer.results.push(match result {
            Ok(decision) => {
                answer.decided += 1;
                BatchResult {
                    index,
                    status: 200,
                    decision: Some(decision),
                    error: None,
                }
            }
            Err(error) => {
                answer.failed += 1;
                BatchResult {
                    index,
                    status: error.status().as_u16(),
                    decision: None,
                    error: Some(error.body()),
                }
            }
        });
    }
    Ok(Json(answer))
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
