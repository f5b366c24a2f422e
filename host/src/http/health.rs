//! Liveness, readiness, and metrics.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use listener::{Readiness, probe};
use serde_json::json;
use store::StoreError;

use super::App;
use crate::error::ApiError;

/// Returns whether the process serves requests. Checks nothing else.
pub(super) async fn health() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// Returns whether deliveries can be accepted now.
pub(super) async fn ready(State(app): State<App>) -> Response {
    if app.shutdown.is_cancelled() {
        return Readiness::stopping().into_response();
    }
    let intake = Arc::clone(&app.intake);
    let probes = async move {
        // Without dead letters, deliveries that can be read are still taken.
        let (bus, letters, accounts) = tokio::join!(
            probe("bus", true, intake.bus.ping()),
            probe("dead_letters", false, async { Ok::<_, StoreError>(()) }),
            probe("accounts", false, intake.accounts.refresh())
        );
        let unusable = intake.accounts.unusable();
        let sealed_otherwise = (unusable > 0).then(|| {
            format!("{unusable} stored accounts cannot be used, usually because another `host.seal_key` sealed them")
        });
        [
            bus.or_unusable(intake.denials.events.reason()),
            letters.or_unusable(intake.denials.letters.reason()),
            accounts.or_unusable(sealed_otherwise),
        ]
    };
    app.readiness.ask(probes).await.into_response()
}

/// Returns all metrics, in the OpenMetrics text format.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    listener::exposition(&app.registry).unwrap_or_else(|std::fmt::Error| ApiError::panicked().into_response())
}
