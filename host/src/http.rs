//! The HTTP API: its routes, and what applies to every request.

mod admin;
mod body;
mod health;
mod webhook;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodFilter, get, on, post},
};
use listener::{Access, Callers, ErrorNote, LogRates, RequestTrace, SharedReadiness, Unanswered, guard};
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::body::Room;
use crate::{HostConfig, error::ApiError, intake::Intake};

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
            server_errors: LogRates::of_server_errors(),
            readiness: SharedReadiness::default(),
            shutdown,
        }))
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
        .route_layer(middleware::from_fn_with_state(
            app.access.clone(),
            listener::protect,
        ));
    let metrics =
        Router::new()
            .route("/metrics", get(health::metrics))
            .route_layer(middleware::from_fn_with_state(
                app.access.for_metrics(),
                listener::protect,
            ));
    router
        .merge(for_operators)
        .merge(metrics)
        .route("/", get(admin::index))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .fallback(|| async { ApiError::not_found() })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(middleware::from_fn_with_state(app.clone(), surround))
        .with_state(app)
}

/// Gives every request a place in a trace, and what [`guard`] gives it.
async fn surround(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let trace = RequestTrace::begin(&request, Callers::Strangers);
    request.extensions_mut().insert(trace.clone());
    request.extensions_mut().insert(Began(Instant::now()));
    let unanswered = |why| match why {
        Unanswered::TimedOut => ApiError::timed_out().into_response(),
        Unanswered::Panicked => ApiError::panicked().into_response(),
    };
    let response = guard(request, next, app.request_timeout, &app.server_errors, unanswered)
        .instrument(trace.span().clone())
        .await;
    // Wherever it was caught: in the handler, or on the threads of plugins and of decompression.
    if let Some(ErrorNote { code, .. }) = response.extensions().get()
        && *code == ApiError::PANICKED
    {
        app.intake.metrics.panics.inc();
    }
    trace.answered(response.status());
    response
}
