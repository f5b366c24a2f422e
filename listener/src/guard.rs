//! What every request gets, whatever its handler does: an id, an answer in time, and a line in the log if that is a server error.

use std::{panic::AssertUnwindSafe, time::Duration};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use futures::FutureExt;

use crate::LogRates;

/// The header that carries a request's id in both directions.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id accepted from a caller; a trace id has 55 characters.
const MAX_REQUEST_ID: usize = 128;

/// A request's id: the caller's, or a generated one. Handlers find it among the request's extensions.
#[derive(Debug, Clone)]
pub struct RequestId(HeaderValue);

impl RequestId {
    fn of(request: &Request) -> Self {
        let given = request.headers().get(&REQUEST_ID);
        let usable = given.filter(|id| {
            let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+".contains(byte);
            // It goes into logs and into what is stored: without `@`, `%` and `=` it contains no address as providers write them.
            !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.as_bytes().iter().all(is_plain)
        });
        Self(usable.cloned().unwrap_or_else(|| {
            let id = uuid::Uuid::now_v7().to_string();
            HeaderValue::try_from(id).expect("a UUID has only letters that a header may have")
        }))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// The code, message and cause of an error, attached to its response for metrics and the log.
#[derive(Debug, Clone)]
pub struct ErrorNote {
    /// The stable code that the caller reads.
    pub code: &'static str,
    /// What went wrong, with its cause.
    pub message: String,
}

/// Why a handler gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// It took longer than a request may.
    TimedOut,
    /// It panicked; the panic hook has reported where and why.
    Panicked,
}

/// Gives a request an id, limits its time, catches panics, and logs server errors that have an [`ErrorNote`]. `unanswered`
/// returns the response for a handler that gave none.
pub async fn guard(
    mut request: Request,
    next: Next,
    within: Duration,
    server_errors: &LogRates,
    unanswered: impl FnOnce(Unanswered) -> Response,
) -> Response {
    let id = RequestId::of(&request);
    request.extensions_mut().insert(id.clone());
    let route = request.extensions().get::<MatchedPath>().cloned();
    // Handlers share nothing that a panic could leave half changed: what each lock protects is valid at every step.
    let answer = AssertUnwindSafe(tokio::time::timeout(within, next.run(request))).catch_unwind();
    let mut response = match answer.await {
        Ok(Ok(response)) => response,
        Ok(Err(_elapsed)) => unanswered(Unanswered::TimedOut),
        Err(_panic) => unanswered(Unanswered::Panicked),
    };
    // `/ready` has no note: its probes log each change once, instead of every request.
    if response.status().is_server_error()
        && let Some(ErrorNote { code, message }) = response.extensions().get()
        && let Some(left_out) = server_errors.admit(code)
    {
        let (id, status) = (id.as_str(), response.status().as_u16());
        tracing::warn!(
            request.id = id,
            http.route = route.as_ref().map(MatchedPath::as_str),
            http.status = status,
            code,
            left_out = left_out.0,
            "request `{id}` was answered with {status}: {message}{left_out}"
        );
    }
    response.headers_mut().insert(REQUEST_ID, id.0);
    response
}
