//! The decision service through its router, on stores in memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod bad_input;
mod batch;
mod decide;
mod fakes;
mod latency;
mod lift;
mod openapi;
mod people;
mod replay;
mod service;

use std::ops::Deref;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use event::Timestamp;
use futures::StreamExt;
use sendflowr_inference::{InferenceConfig, Server};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use fakes::Stores;

/// A Wednesday morning.
const NOW: &str = "2026-01-07T10:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A running service without a listener.
struct TestApp {
    stores: Stores,
    server: Server,
}

impl Deref for TestApp {
    type Target = Stores;

    fn deref(&self) -> &Stores {
        &self.stores
    }
}

impl TestApp {
    fn start(stores: Stores) -> Self {
        Self::start_with(stores, &InferenceConfig::default())
    }

    fn start_with(stores: Stores, config: &InferenceConfig) -> Self {
        let server = Server::start(config, stores.dependencies(), CancellationToken::new());
        Self { stores, server }
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        call(
            self.server.router(),
            Request::get(path).body(Body::empty()).unwrap(),
        )
        .await
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.post_text(path, body.to_string()).await
    }

    async fn post_text(&self, path: &str, body: String) -> (StatusCode, Value) {
        call(
            self.server.router(),
            Request::post(path).body(Body::from(body)).unwrap(),
        )
        .await
    }
}

/// Returns the status and the body, as JSON if it is JSON.
async fn call(router: Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let mut body = Vec::new();
    let mut chunks = response.into_body().into_data_stream();
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.unwrap());
    }
    let text = String::from_utf8(body).unwrap();
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, value)
}
