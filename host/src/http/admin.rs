//! What the host reports about itself, and mock events for trying things out.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use event::Timestamp;
use listener::RequestTrace;
use serde::Deserialize;
use serde_json::{Value, json};
use store::bus::NewRecord;

use super::App;
use crate::error::ApiError;

/// Number of mock events if the caller does not give one.
const DEFAULT_MOCK_EVENTS: usize = 5;

/// Most mock events per request; they are built in memory, some 2 KB each.
const MAX_MOCK_EVENTS: usize = 10_000;

/// Most events shown in the response.
const SHOWN_EVENTS: usize = 20;

/// Describes the service and its routes.
pub(super) async fn index(State(app): State<App>) -> Json<Value> {
    Json(json!({
        "service": "sendflowr-host",
        "version": env!("CARGO_PKG_VERSION"),
        "providers": app.intake.plugins.slugs(),
        "routes": [
            "POST /webhooks/{provider}",
            "POST /webhooks/{provider}/{account}",
            "POST /api/webhook/{provider}",
            "POST /api/webhook/{provider}/{account}",
            "POST /api/mock/events/generate?count=5",
            "GET /plugins",
            "GET /health",
            "GET /ready",
            "GET /metrics",
        ],
    }))
}

/// Lists the plugins: what is running, how it is doing, and how the configured accounts match it.
pub(super) async fn plugins(State(app): State<App>) -> Response {
    let mut plugins = Vec::new();
    let accounts = app.intake.accounts();
    for status in app.intake.plugins.status() {
        let plugin = status
            .plugin
            .as_ref()
            .and_then(|details| app.intake.plugins.get(&details.slug));
        let mut shown = match serde_json::to_value(&status) {
            Ok(Value::Object(shown)) => shown,
            _ => unreachable!("a status is a record of serializable fields"),
        };
        if let Some(plugin) = plugin {
            let descriptor = plugin.descriptor();
            let findings = accounts.findings(descriptor);
            shown.insert("accounts".to_owned(), json!(findings));
            shown.insert(
                "skipped_types".to_owned(),
                json!(app.intake.skipped.of(&descriptor.slug)),
            );
        }
        plugins.push(Value::Object(shown));
    }
    Json(json!({ "plugins": plugins })).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Generate {
    count: Option<usize>,
    /// The same seed at the same time yields the same people.
    seed: Option<u64>,
}

/// Generates events of made-up people and appends them to the bus.
pub(super) async fn generate(
    State(app): State<App>,
    Extension(trace): Extension<RequestTrace>,
    query: Result<Query<Generate>, QueryRejection>,
) -> Result<Response, ApiError> {
    if !app.allow_mock_events {
        let message =
            "mock events are off because the host does not listen on loopback: set `host.allow_mock_events`";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "mock_events_off", message));
    }
    let invalid = |message: String| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_query", message);
    let Query(Generate { count, seed }) = query.map_err(|_| {
        invalid("`count` and `seed` must be numbers, and there are no other parameters".to_owned())
    })?;
    let count = count.unwrap_or(DEFAULT_MOCK_EVENTS);
    if !(1..=MAX_MOCK_EVENTS).contains(&count) {
        return Err(invalid(format!(
            "`count` must be between 1 and {MAX_MOCK_EVENTS}"
        )));
    }
    let now = Timestamp::from(SystemTime::now());
    let seed = seed.unwrap_or(now.as_millis().unsigned_abs());
    let intake = Arc::clone(&app.intake);
    let trace = trace.context();
    let made = tokio::task::spawn_blocking(move || {
        let events = synth::mock_events(count, seed, now, &intake.hasher);
        let records = events.iter().map(|event| NewRecord::of_event(event, Some(trace)));
        let records = records.collect::<Vec<_>>();
        (events, records)
    });
    let (events, records) = made.await.map_err(|_| ApiError::panicked())?;
    app.intake.append(records).await.map_err(|error| {
        let message = format!("the bus does not accept events: {error}");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "bus_unavailable", message).retry_after(5)
    })?;
    let shown = events.iter().take(SHOWN_EVENTS).map(|event| {
        json!({
            "event_id": event.event_id,
            "event_type": event.event_type,
            "timestamp": event.timestamp,
            "esp": event.esp,
            "universal_id": event.universal_id,
        })
    });
    let shown: Vec<Value> = shown.collect();
    Ok(Json(json!({ "generated": events.len(), "seed": seed, "events": shown })).into_response())
}
