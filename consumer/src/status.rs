//! The consumer's status over HTTP: its liveness, its readiness and its metrics.

use std::{
    io,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use listener::{Limits, Readiness, SharedReadiness, probe};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Dependencies, EVENTS_GROUP, IDENTITY_GROUP, StatusConfig};

#[derive(Clone)]
struct Status {
    dependencies: Dependencies,
    registry: Arc<Mutex<Registry>>,
    readiness: SharedReadiness,
}

/// Serves `/health`, `/ready` and `/metrics` on `listener` until `shutdown`.
///
/// # Errors
/// If the certificate cannot be used.
pub async fn serve_status(
    config: StatusConfig,
    dependencies: Dependencies,
    registry: Arc<Mutex<Registry>>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let StatusConfig { access, tls, .. } = config;
    let status = Status {
        dependencies,
        registry,
        readiness: SharedReadiness::default(),
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route_layer(middleware::from_fn_with_state(
            access.for_metrics(),
            listener::protect,
        ))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .fallback(|| async {
            refusal(
                StatusCode::NOT_FOUND,
                "not_found",
                "no such path: use `/health`, `/ready` or `/metrics`",
            )
        })
        .method_not_allowed_fallback(|| async {
            refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path only supports `GET`",
            )
        })
        .with_state(status);
    listener::serve(listener, router, tls, Limits::default(), shutdown).await
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({ "error": { "code": code, "message": message } });
    (status, Json(body)).into_response()
}

/// Reports that the process serves requests. Checks nothing else.
async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Reports whether events can be moved from the bus into the event store.
async fn ready(State(status): State<Status>) -> Readiness {
    let dependencies = status.dependencies;
    let health = dependencies.metrics.health();
    let [bus_trouble, events_trouble] =
        ["bus", "events"].map(|store| health.lasting_trouble(EVENTS_GROUP, store));
    let identities_trouble = ["bus", "record"]
        .into_iter()
        .find_map(|store| health.lasting_trouble(IDENTITY_GROUP, store));
    let probes = async move {
        // Profiles and the identity graph catch up when they are back.
        let (bus, events, identities, profiles) = tokio::join!(
            probe("bus", true, dependencies.bus.ping()),
            probe("events", true, dependencies.events.ping()),
            probe("identities", false, dependencies.identities.ping()),
            probe("profiles", false, dependencies.profiles.ping())
        );
        // They may answer, and refuse what is needed: for lack of a right, or of room. The identity graph needs the bus, too.
        [
            bus.or_unusable(bus_trouble),
            events.or_unusable(events_trouble),
            identities.or_unusable(identities_trouble),
            profiles,
        ]
    };
    status.readiness.ask(probes).await
}

async fn metrics(State(status): State<Status>) -> Response {
    listener::exposition(&status.registry).unwrap_or_else(|std::fmt::Error| {
        refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "a metric cannot be encoded",
        )
    })
}
