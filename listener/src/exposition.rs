//! The response of `/metrics`.

use std::sync::{Mutex, PoisonError};

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use prometheus_client::registry::Registry;

/// Returns all metrics in the OpenMetrics text format.
///
/// # Errors
/// If a metric cannot be encoded, which would be a bug in that metric.
pub fn exposition(registry: &Mutex<Registry>) -> Result<Response, std::fmt::Error> {
    let mut text = String::new();
    {
        // A poisoned lock does not matter: the registry only contains numbers.
        let registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}
