//! Routes about the service itself.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use listener::{Readiness, probe};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use crate::error::ApiError;

/// What this service is and where its documentation is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Index {
    /// The service's name.
    #[schema(example = "sendflowr-inference")]
    pub service: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Version of the population tables in use.
    pub population_version: String,
    /// Where the routes are documented for people.
    pub docs: &'static str,
    /// Where the routes are described for programs.
    pub openapi: &'static str,
}

/// What this service is and where its documentation is.
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

/// States that the process serves requests.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    #[schema(example = "ok")]
    pub status: &'static str,
}

/// Returns whether the process serves requests. Checks nothing else.
#[utoipa::path(get, path = "/health", tag = "service", responses((status = 200, description = "It does", body = Health)))]
pub(crate) async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Returns whether the stores respond.
#[utoipa::path(
    get, path = "/ready", tag = "service",
    responses(
        (status = 200, description = "The service can decide", body = Readiness),
        (status = 503, description = "The event store does not respond, or the service is stopping", body = Readiness),
    )
)]
pub(crate) async fn ready(State(app): State<App>) -> Response {
    if app.stopping.is_cancelled() {
        return Readiness::stopping().into_response();
    }
    let dependencies = app.service.dependencies.clone();
    let probes = async move {
        // Without the identity graph, people are identified by the request alone; without the profile store, profiles are rebuilt
        // from events.
        let (events, identities, profiles) = tokio::join!(
            probe("events", true, dependencies.events.ping()),
            probe("identities", false, dependencies.identities.ping()),
            probe("profiles", false, dependencies.profiles.ping())
        );
        [events, identities, profiles]
    };
    app.readiness.ask(probes).await.into_response()
}

/// Returns the metrics for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses((status = 200, description = "Metrics in the OpenMetrics text format", body = String, content_type = "application/openmetrics-text"))
)]
pub(crate) async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    listener::exposition(&app.service.dependencies.registry).map_err(|std::fmt::Error| ApiError::Internal)
}
