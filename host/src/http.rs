//! The HTTP API: its routes, and what applies to every request.

mod admin;
mod body;
mod health;
mod webhook;

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodFilter, get, on, post},
};
use futures::FutureExt;
use listener::{Access, Callers, RequestTrace, SharedReadiness};
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::body::Room;
use crate::{
    HostConfig,
    error::{ApiError, ErrorNote},
    intake::Intake,
    log_rate::LogRates,
};

/// The header that carries a request's id in both directions.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Rate of lines about requests that were answered with a server error, for each code. One says as much as the thousands of an
/// outage.
const SERVER_ERRORS_PER_SECOND: u32 = 1;

/// Longest request id accepted from a caller; a trace id has 55 characters.
const MAX_REQUEST_ID: usize = 128;

/// The shared state of the handlers.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) intake: Arc<Intake>,
    pub(crate) registry: Arc<std::sync::Mutex<Registry>>,
    pub(crate) permits: Semaphore,
    pub(crate) room: Arc<Room>,
    pub(crate) max_body_bytes: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) allow_mock_events: bool,
    pub(crate) access: Access,
    server_errors: LogRates,
    pub(crate) readiness: SharedReadiness,
    pub(crate) shutdown: CancellationToken,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    pub(crate) fn new(
        config: &HostConfig,
        intake: Arc<Intake>,
        registry: Arc<std::sync::Mutex<Registry>>,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            intake,
            registry,
            permits: Semaphore::new(config.max_concurrent_deliveries),
            room: Arc::new(Room::for_bodies_of(config.max_body_bytes)),
            max_body_bytes: config.max_body_bytes,
            body_timeout: config.body_timeout,
            request_timeout: config.request_timeout,
            allow_mock_events: config.allow_mock_events,
            access: config.access.clone(),
            server_errors: LogRates::per_second(SERVER_ERRORS_PER_SECOND),
            readiness: SharedReadiness::default(),
            shutdown,
        }))
    }
}

/// A request's id: the caller's, or a generated one.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    fn of(request: &Request) -> Self {
        let given = request.headers().get(&REQUEST_ID);
        let usable = given.filter(|id| {
            let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
            // It goes into logs and dead letters: without `@` and `%` it cannot contain an address.
            !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.as_bytes().iter().all(is_plain)
        });
        Self(usable.cloned().unwrap_or_else(|| {
            let id = uuid::Uuid::now_v7().to_string();
            HeaderValue::try_from(id).expect("a UUID has only letters that a header may have")
        }))
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// When processing of a request began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Began(Instant);

/// Builds the router with all routes.
pub(crate) fn router(app: App) -> Router {
    // Providers validate webhook URLs with GET and HEAD; plugins decide what those mean.
    let methods = MethodFilter::POST.or(MethodFilter::GET).or(MethodFilter::HEAD);
    let mut router = Router::new();
    for prefix in ["/webhooks", "/api/webhook"] {
        router = router
            .route(
                &format!("{prefix}/{{provider}}"),
                on(methods, webhook::default_account),
            )
            .route(
                &format!("{prefix}/{{provider}}/"),
                on(methods, webhook::default_account),
            )
            .route(
                &format!("{prefix}/{{provider}}/{{account}}"),
                on(methods, webhook::account),
            )
            .route(
                &format!("{prefix}/{{provider}}/{{account}}/"),
                on(methods, webhook::account),
            );
    }
    let for_operators = Router::new()
        .route("/plugins", get(admin::plugins))
        .route("/api/mock/events/generate", post(admin::generate))
        .route("/metrics", get(health::metrics))
        .route_layer(middleware::from_fn_with_state(
            app.access.clone(),
            listener::protect,
        ));
    router
        .merge(for_operators)
        .route("/", get(admin::index))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .fallback(|| async { ApiError::not_found() })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(middleware::from_fn_with_state(app.clone(), surround))
        .with_state(app)
}

/// Gives every request a place in a trace, in addition to what [`guarded`] does.
async fn surround(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let trace = RequestTrace::begin(&request, Callers::Strangers);
    request.extensions_mut().insert(trace.clone());
    let response = guarded(&app, request, next)
        .instrument(trace.span().clone())
        .await;
    trace.answered(response.status());
    response
}

/// Gives a request an id, limits its time, catches panics, and logs server errors.
async fn guarded(app: &App, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(Began(Instant::now()));
    // Handlers share nothing that a panic could leave half changed: what each lock protects is valid at every step.
    let answer =
        AssertUnwindSafe(tokio::time::timeout(app.request_timeout, next.run(request))).catch_unwind();
    let mut response = match answer.await {
        Ok(Ok(response)) => response,
        Ok(Err(_elapsed)) => ApiError::timed_out().into_response(),
        Err(_panic) => {
            // The panic hook has logged where and why.
            app.intake.metrics.panics.inc();
            ApiError::panicked().into_response()
        }
    };
    // `/ready` has no note: its probes log each change once, instead of every request.
    if response.status().is_server_error()
        && let Some(ErrorNote { code, message }) = response.extensions().get()
        && let Some(left_out) = app.server_errors.admit(code)
    {
        tracing::warn!(
            request.id = id.as_str(),
            http.status = response.status().as_u16(),
            code,
            left_out = left_out.0,
            "request `{}` was answered with {}: {message}{left_out}",
            id.as_str(),
            response.status().as_u16()
        );
    }
    response.headers_mut().insert(REQUEST_ID, id.0);
    response
}
