//! Every error of the service, and the one place where errors become responses.

use std::sync::Arc;

use axum::{
    Json,
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use event::{Timestamp, redact::Redactor};
use listener::ErrorNote;
use serde::{Deserialize, Serialize};
use store::StoreError;
use utoipa::ToSchema;

use crate::mail::MailError;

/// Why [`crate::run`] ended early or could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferenceError {
    /// The listener failed.
    #[error("the decision service cannot serve")]
    Serve(#[from] std::io::Error),
}

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{message}")]
    MalformedJson { message: String },
    #[error("`{field}` {message}")]
    InvalidField { field: String, message: String },
    #[error(
        "the body has more than {limit_bytes} bytes, which no request needs; to decide for many people, use `POST \
         /timing/decide/batch`"
    )]
    BodyTooLarge { limit_bytes: usize },
    #[error(
        "the body did not arrive whole, or not within the time allowed: send as many bytes as `content-length` says, at once"
    )]
    IncompleteBody,
    #[error(
        "a body with the header `content-encoding` is not read: send it uncompressed, without that header"
    )]
    UnsupportedEncoding,
    #[error("{message}")]
    Suppressed {
        reason: &'static str,
        message: String,
        first_allowed_at: Option<Timestamp>,
    },
    #[error(
        "every allowed minute is full at a capacity of {per_minute} a minute: ask for a longer window, or raise the capacity"
    )]
    OverCapacity { per_minute: u32 },
    #[error("a line of a batch has at most {limit_bytes} bytes")]
    LineTooLong { limit_bytes: usize },
    #[error("{0}")]
    NotFound(&'static str),
    #[error("this path does not support that method: see `/docs`")]
    MethodNotAllowed,
    #[error("{what} cannot be read now: try again")]
    Unavailable {
        what: &'static str,
        #[source]
        source: Arc<StoreError>,
    },
    #[error("no answer within the time allowed: try again")]
    TimedOut,
    #[error("the service is stopping: try again")]
    Stopping,
    #[error("an internal error occurred; the log has the details under the request id")]
    Internal,
    #[error("an internal error broke the batch before this line: send the lines without a decision again")]
    BrokenBatch,
}

impl From<MailError> for ApiError {
    fn from(error: MailError) -> Self {
        match error {
            MailError::Events(source) => Self::unavailable("the event store", source),
            MailError::Identities(source) => Self::unavailable("the identity graph", source),
        }
    }
}

impl ApiError {
    /// Returns the error for an invalid field. `message` continues after the field's name: "must be …".
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidField {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Returns the error for a store that did not respond. `what` completes "… cannot be read now".
    pub(crate) fn unavailable(what: &'static str, source: StoreError) -> Self {
        Self::Unavailable {
            what,
            source: Arc::new(source),
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::MalformedJson { .. } => StatusCode::BAD_REQUEST,
            Self::IncompleteBody => StatusCode::REQUEST_TIMEOUT,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidField { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BodyTooLarge { .. } | Self::LineTooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Suppressed { .. } | Self::OverCapacity { .. } => StatusCode::CONFLICT,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unavailable { .. } | Self::TimedOut | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal | Self::BrokenBatch => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the stable code, which is also a label of metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::MalformedJson { .. } => "malformed_json",
            Self::InvalidField { .. } => "invalid_field",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::IncompleteBody => "incomplete_body",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::Suppressed { .. } => "suppressed",
            Self::OverCapacity { .. } => "over_capacity",
            Self::LineTooLong { .. } => "line_too_long",
            Self::NotFound(_) => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Unavailable { .. } => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Stopping => "stopping",
            Self::Internal | Self::BrokenBatch => "internal",
        }
    }

    /// Returns what the caller reads. It may repeat text from the request, but never anything that looks like an address.
    pub(crate) fn body(&self) -> ErrorDetails {
        let redactor = Redactor::default();
        let mut details = ErrorDetails {
            code: self.code().to_owned(),
            message: redactor.text(&self.to_string()).into_owned(),
            field: None,
            reason: None,
            first_allowed_at: None,
        };
        match self {
            Self::InvalidField { field, .. } => details.field = Some(redactor.text(field).into_owned()),
            Self::Suppressed {
                reason,
                first_allowed_at,
                ..
            } => {
                details.reason = Some((*reason).to_owned());
                details.first_allowed_at = *first_allowed_at;
            }
            _ => {}
        }
        details
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(ErrorBody { error: self.body() })).into_response();
        // Why a store failed is for the log; the caller only learns that it did.
        response.extensions_mut().insert(ErrorNote {
            code: self.code(),
            message: event::chain(&self),
        });
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
        }
        response
    }
}

/// The body of every response that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorDetails,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetails {
    /// Stable code. 400 `malformed_json`; 401 `unauthorized`; 403 `foreign_origin`; 404 `not_found`; 405 `method_not_allowed`;
    /// 408 `incomplete_body`; 409 `suppressed`; 413 `body_too_large`; 415 `unsupported_encoding`; 422 `invalid_field`; 500
    /// `internal`, a bug; 503 `unavailable` (a store does not respond), `timed_out` or `stopping`: ask again. Lines of a batch may also have `line_too_long` or `over_capacity`.
    #[schema(example = "invalid_field")]
    pub code: String,
    /// One human-readable sentence.
    #[schema(example = "`window_hours` must be a number from 1 to 336")]
    pub message: String,
    /// The invalid field, for `invalid_field`: `signals[0].type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What removed the last minutes, for `suppressed`. Something the person did: `unsubscribed`, `marked_spam`,
    /// `support_ticket`, `hard_bounce`. A rule of the request: `not_before`, `deadline`, `minimum_gap`, `allowed_hours`,
    /// `quiet_hours`, `blackout_days`. `latency`: no mail handed over from now on is expected then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The first moment at which mail may arrive again, for `suppressed`; absent if there is none up to the request's `deadline`
    /// and within 400 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first_allowed_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn every_code_is_described() {
        let description = serde_json::to_value(ErrorDetails::schema()).unwrap();
        let description = description["properties"]["code"]["description"].as_str().unwrap();
        let (_, codes) = include_str!("error.rs").split_once("fn code(").unwrap();
        let (codes, _) = codes.split_once("\n    }\n").unwrap();
        let codes: Vec<&str> = codes.split('"').skip(1).step_by(2).collect();
        assert_eq!(codes.len(), 14);
        // The listener answers the last two.
        for code in codes.into_iter().chain(["unauthorized", "foreign_origin"]) {
            assert!(
                description.contains(&format!("`{code}`")),
                "{code}: {description}"
            );
        }
    }
}
