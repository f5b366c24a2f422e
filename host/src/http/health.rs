//! Whether the host lives, whether it can take deliveries, and what it has counted.

use std::{sync::PoisonError, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::App;
use crate::error::ApiError;

/// Longest wait for the bus. Orchestrators give a probe one second by default, and ask again.
const PING_TIMEOUT: Duration = Duration::from_millis(900);

/// Whether the process serves requests. Looks at nothing else.
pub(super) async fn health() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// Whether deliveries can be taken now.
pub(super) async fn ready(State(app): State<App>) -> Response {
    if app.shutdown.is_cancelled() {
        return not_ready("stopping", "the host is stopping");
    }
    match tokio::time::timeout(PING_TIMEOUT, app.intake.bus.ping()).await {
        Ok(Ok(())) => {
            let plugins = app.intake.plugins.slugs().len();
            Json(json!({ "status": "ready", "plugins": plugins })).into_response()
        }
        Ok(Err(error)) => {
            tracing::warn!(error = %error, "not ready, the bus does not answer: {error}");
            not_ready("bus_unavailable", "the bus does not answer")
        }
        Err(_elapsed) => not_ready("bus_unavailable", "the bus does not answer in time"),
    }
}

fn not_ready(code: &'static str, message: &str) -> Response {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
        .retry_after(1)
        .into_response()
}

/// Everything counted, in the OpenMetrics text format.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let mut text = String::new();
    let encoded = {
        let registry = app.registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)
    };
    match encoded {
        Ok(()) => (
            [(
                CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(std::fmt::Error) => ApiError::panicked().into_response(),
    }
}
