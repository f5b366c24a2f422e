//! The service about itself.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use store::StoreError;
use utoipa::ToSchema;

use super::{App, registry};
use crate::error::ApiError;

/// What this is and where to read on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Index {
    /// The service's name.
    #[schema(example = "sendflowr-inference")]
    pub service: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The population tables in use.
    pub population_version: String,
    /// Where people read about the routes.
    pub docs: &'static str,
    /// Where programs do.
    pub openapi: &'static str,
}

/// What this is and where to read on.
#[utoipa::path(get, path = "/", tag = "service", responses((status = 200, description = "The service", body = Index)))]
pub(crate) async fn index(State(app): State<App>) -> Json<Index> {
    Json(Index {
        service: "sendflowr-inference",
        version: env!("CARGO_PKG_VERSION"),
        population_version: app.service.population().version().to_owned(),
        docs: "/docs/",
        openapi: "/openapi.json",
    })
}

/// That the process serves requests.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    #[schema(example = "ok")]
    pub status: &'static str,
}

/// Whether the process serves requests. Looks at nothing else.
#[utoipa::path(get, path = "/health", tag = "service", responses((status = 200, description = "It does", body = Health)))]
pub(crate) async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// What the service needs, and whether it answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready`, `degraded` (answers are given, with less behind them) or `not_ready`.
    #[schema(example = "ready")]
    pub status: &'static str,
    /// The event store, without which new people and explanations have no place.
    pub events: &'static str,
    /// The identity graph, without which people are taken as named.
    pub identities: &'static str,
    /// The profile store, without which profiles are rebuilt from events.
    pub profiles: &'static str,
}

/// Whether the stores answer.
#[utoipa::path(
    get, path = "/ready", tag = "service",
    responses(
        (status = 200, description = "Decisions are given", body = Readiness),
        (status = 503, description = "The event store does not answer", body = Readiness),
    )
)]
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let dependencies = &app.service.dependencies;
    let (events, identities, profiles) = tokio::join!(
        dependencies.events.ping(),
        dependencies.identities.ping(),
        dependencies.profiles.ping()
    );
    let status = match (&events, &identities, &profiles) {
        (Err(_), _, _) => "not_ready",
        (Ok(()), Ok(()), Ok(())) => "ready",
        _ => "degraded",
    };
    let told = |result: &Result<(), StoreError>| if result.is_ok() { "ok" } else { "unreachable" };
    let readiness = Readiness {
        status,
        events: told(&events),
        identities: told(&identities),
        profiles: told(&profiles),
    };
    let code = if events.is_ok() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(readiness)).into_response()
}

/// Numbers for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses((status = 200, description = "Metrics in the OpenMetrics text format", body = String))
)]
pub(crate) async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let mut text = String::new();
    let encoded = prometheus_client::encoding::text::encode(&mut text, &registry(&app));
    encoded.map_err(|_| ApiError::Internal)?;
    Ok((
        [(
            CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    )
        .into_response())
}
