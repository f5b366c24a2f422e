//! The answer of `/metrics`.

use std::sync::{Mutex, PoisonError};

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use prometheus_client::registry::Registry;

/// Everything counted, in the OpenMetrics text format.
///
/// # Errors
/// When a metric cannot be written, which would be a mistake in that metric.
pub fn exposition(registry: &Mutex<Registry>) -> Result<Response, std::fmt::Error> {
    let mut text = String::new();
    {
        // Whatever happened to a thread that held it: it holds numbers only.
        let registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}
