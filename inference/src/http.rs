//! Routes.
use axum::{Router, routing::get};
use crate::{Dependencies, InferenceConfig, error::ApiError, metrics::Metrics};

pub(crate) fn router(_config: &InferenceConfig, dependencies: &Dependencies) -> Router {
    let mut registry = dependencies.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _metrics = Metrics::register(&mut registry);
    Router::new().route("/health", get(|| async { "ok" })).fallback(|| async { ApiError::NotFound("no such path: see `/docs`") })
}
