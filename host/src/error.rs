//! All failures of the HTTP API, and the one place where failures become responses.

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use listener::ErrorNote;
use serde_json::{Map, Value, json};

use crate::{config::InvalidConfig, plugin::PluginError, seal::SealKeyError};

/// Why the host cannot start, or stopped early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The key of the dead letters is not usable.
    #[error(transparent)]
    SealKey(#[from] SealKeyError),
    /// Plugins cannot be served at all.
    #[error("plugins cannot be run")]
    Plugins(#[from] PluginError),
    /// The listener failed.
    #[error("the host cannot accept connections")]
    Listener(#[source] std::io::Error),
}

/// An error response: `{"error": {"code", "message", …details}}`.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    message: String,
    cause: Option<String>,
    retry_after_seconds: Option<u32>,
    asks_for_basic_auth: bool,
    details: Map<String, Value>,
}

impl ApiError {
    /// The code of a panic: each is counted when it is answered.
    pub(crate) const PANICKED: &str = "internal_error";

    /// Creates an error with a stable code and a sentence that says what is wrong and what to do.
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            cause: None,
            retry_after_seconds: None,
            asks_for_basic_auth: false,
            details: Map::new(),
        }
    }

    /// Adds the cause, which only the log gets.
    pub(crate) fn because(mut self, cause: &dyn std::error::Error) -> Self {
        self.cause = Some(event::chain(cause));
        self
    }

    /// Sets how many seconds the caller should wait before it retries.
    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// Asks for user and password if the status is 401; other statuses do not mean that credentials are missing.
    pub(crate) fn ask_for_basic_auth(mut self) -> Self {
        self.asks_for_basic_auth = self.status == StatusCode::UNAUTHORIZED;
        self
    }

    /// Adds a detail next to code and message.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Returns what went wrong, for the log.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is nothing at this path: `GET /` lists the routes",
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "this path does not support that method: `GET /` lists the routes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    pub(crate) fn body_too_large(limit_bytes: usize) -> Self {
        let message = format!("the body is larger than {limit_bytes} bytes, or decompresses to more");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message).with("limit_bytes", limit_bytes)
    }

    pub(crate) fn ambiguous_authorization(status: StatusCode) -> Self {
        let message = "the request has several `Authorization` headers: send one; a proxy that adds its own must replace the original";
        // Somebody has to change the proxy first.
        Self::new(status, "ambiguous_authorization", message).retry_after(60)
    }

    pub(crate) fn overloaded(unavailable: StatusCode) -> Self {
        let message = "too many deliveries are in progress: send it again later";
        Self::new(unavailable, "overloaded", message).retry_after(1)
    }

    pub(crate) fn timed_out() -> Self {
        let message = "the request was not answered in time: send it again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timed_out", message).retry_after(5)
    }

    pub(crate) fn panicked() -> Self {
        let message = "an internal error occurred; the log has the details under the request id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Self::PANICKED, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut error = Map::new();
        error.insert("code".to_owned(), self.code.into());
        error.insert("message".to_owned(), self.message.clone().into());
        error.extend(self.details);
        let mut response = (self.status, Json(json!({ "error": error }))).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if self.asks_for_basic_auth {
            let challenge = HeaderValue::from_static("Basic realm=\"sendflowr\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        let message = match self.cause {
            Some(cause) => format!("{}: {cause}", self.message),
            None => self.message,
        };
        response.extensions_mut().insert(ErrorNote {
            code: self.code,
            message,
        });
        response
    }
}
