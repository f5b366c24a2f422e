//! The HTTP API: its routes, the layers around every request, and the OpenAPI description.

mod batch;
mod body;
mod curves;
mod decide;
mod latency;
mod lift;
mod people;
mod question;
mod status;
mod who;

pub(crate) use batch::MAX_BATCHES;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use event::Timestamp;
use listener::{Access, Callers, LogRates, RequestTrace, SharedReadiness, Unanswered, guard};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use utoipa::{
    OpenApi as _,
    openapi::{
        ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use crate::{error::ApiError, service::Service};

/// The state of the handlers.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) service: Arc<Service>,
    pub(crate) max_body_bytes: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) access: Access,
    pub(crate) readiness: SharedReadiness,
    pub(crate) stopping: CancellationToken,
    pub(crate) batches: Arc<Semaphore>,
    pub(crate) capacity_per_minute: Arc<BTreeMap<String, u32>>,
    pub(crate) server_errors: Arc<LogRates>,
}

impl App {
    /// Reads the server's clock; done once per request.
    pub(crate) fn clock(&self) -> Timestamp {
        Timestamp::from(SystemTime::now())
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "SendFlowr decisions",
        description = "When should this person get the next mail? Ask `POST /timing/decide`. Every response that is not a \
                       success has the body `{\"error\": {\"code\", \"message\", …}}` with a stable code, but for `/ready`, which \
                       says with 503 what is not ready. Any other path than \
                       these gets 404 `not_found`, any other method 405 `method_not_allowed`."
    ),
    tags(
        (name = "decisions", description = "When to send, and why."),
        (name = "people", description = "What is known about a person."),
        (name = "learning", description = "What was learned about providers and people in general."),
        (name = "service", description = "The service itself.")
    )
)]
struct Description;

/// Returns all routes, each described by the code that serves it.
fn described(access: &Access) -> OpenApiRouter<App> {
    let metrics =
        OpenApiRouter::new()
            .routes(routes!(status::metrics))
            .route_layer(middleware::from_fn_with_state(
                access.for_metrics(),
                listener::protect,
            ));
    let mut for_callers = OpenApiRouter::new()
        .routes(routes!(decide::decide))
        .routes(routes!(decide::decide_alias))
        .routes(routes!(batch::decide_batch))
        .routes(routes!(decide::explanation))
        .routes(routes!(curves::predict))
        .routes(routes!(latency::latency))
        .routes(routes!(lift::lift))
        .routes(routes!(people::features))
        .routes(routes!(people::compute_features))
        .routes(routes!(people::compute_features_of))
        .routes(routes!(people::resolve_identity))
        .routes(routes!(people::link_identifiers))
        .route_layer(middleware::from_fn_with_state(access.clone(), listener::protect))
        .merge(metrics);
    describe_failures(for_callers.get_openapi_mut());
    describe_token(for_callers.get_openapi_mut());
    describe_bodies(for_callers.get_openapi_mut());
    OpenApiRouter::with_openapi(Description::openapi())
        .merge(for_callers)
        .routes(routes!(status::index))
        .routes(routes!(status::health))
        .routes(routes!(status::ready))
}

/// Adds to every operation the errors that any request may get through no fault of its own (see [`observe`]).
fn describe_failures(openapi: &mut OpenApi) {
    for item in openapi.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            for (status, description) in [
                (
                    "500",
                    "`internal`: a bug; the log has the details under the response's `x-request-id`",
                ),
                ("503", "`timed_out`: no answer within the time allowed; try again"),
            ] {
                let responses = &mut operation.responses.responses;
                responses
                    .entry(status.to_owned())
                    .or_insert_with(|| refusal(description).into());
            }
        }
    }
}

/// Adds to every operation that it may require the token, and the response if the token is missing.
fn describe_token(openapi: &mut OpenApi) {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "The token of `inference.token`, if one is configured. `/metrics` also takes that of `inference.metrics_token`.",
        ))
        .build();
    openapi
        .components
        .get_or_insert_default()
        .add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let refusals = [
        ("401", "A token is configured, but the request does not carry it"),
        (
            "403",
            "`foreign_origin`: no token is configured, and the request comes from a web page at another host or port",
        ),
    ];
    for item in openapi.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            let asked_for = SecurityRequirement::new("bearer", Vec::<String>::new());
            // The empty requirement makes the token optional.
            operation.security = Some(vec![SecurityRequirement::default(), asked_for]);
            for (status, description) in refusals {
                let refusal = refusal(description).into();
                operation.responses.responses.insert(status.to_owned(), refusal);
            }
        }
    }
}

/// Adds to every operation that reads a body the responses to a body that cannot be read (see [`body`]).
fn describe_bodies(openapi: &mut OpenApi) {
    for item in openapi.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            let Some(RefOr::T(body)) = &operation.request_body else {
                continue;
            };
            let encoded = ("415", "`unsupported_encoding`: the body is compressed");
            let of_json = [
                ("400", "`malformed_json`: not JSON, or empty"),
                (
                    "408",
                    "`incomplete_body`: the body did not arrive whole, or not in time",
                ),
                ("413", "`body_too_large`"),
            ];
            let is_json = body.content.contains_key(JSON);
            for (status, description) in [encoded].iter().chain(of_json.iter().filter(|_| is_json)) {
                let refusal = refusal(description).into();
                operation
                    .responses
                    .responses
                    .insert((*status).to_owned(), refusal);
            }
        }
    }
}

/// Returns the description of an error response.
fn refusal(description: &str) -> utoipa::openapi::Response {
    let error = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody")));
    ResponseBuilder::new()
        .description(description)
        .content(JSON, error.build())
        .build()
}

const JSON: &str = "application/json";

/// Returns the description as served under `/openapi.json`.
pub(crate) fn openapi() -> OpenApi {
    described(&Access::open()).into_openapi()
}

/// Returns the router of the whole service.
pub(crate) fn router(app: App) -> Router {
    let (router, openapi) = described(&app.access).split_for_parts();
    let max_body_bytes = app.max_body_bytes;
    router
        .merge(SwaggerUi::new("/docs").url("/openapi.json", openapi))
        .fallback(|| async { ApiError::NotFound("there is nothing at this path: see `/docs`") })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .layer(middleware::from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

/// Counts a request and gives it a place in a trace, and what [`guard`] gives it.
async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => "none".to_owned(),
    };
    let callers = if app.access.admits(request.headers()) {
        Callers::Known
    } else {
        Callers::Strangers
    };
    let trace = RequestTrace::begin(&request, callers);
    let unanswered = |why| match why {
        Unanswered::TimedOut => ApiError::TimedOut.into_response(),
        Unanswered::Panicked => ApiError::Internal.into_response(),
    };
    let response = guard(request, next, app.request_timeout, &app.server_errors, unanswered)
        .instrument(trace.span().clone())
        .await;
    let status = response.status();
    trace.answered(status);
    app.service
        .metrics
        .request(&route, status.as_u16(), started.elapsed());
    response
}
