//! Reads request bodies and queries, with a size limit and with errors that name the field.

use std::collections::BTreeMap;

use axum::{
    body::Bytes,
    extract::{
        FromRequest, Path, Query, Request,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::App;
use crate::error::ApiError;

/// A path parameter before it is checked: it may not be valid UTF-8.
pub(crate) type RawPath = Result<Path<String>, PathRejection>;

/// A query before it is parsed.
pub(crate) type RawQuery = Result<Query<BTreeMap<String, String>>, QueryRejection>;

/// A JSON body. If the body is missing or empty, `T` is read from `{}`.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let limit_bytes = app.max_body_bytes;
        let bytes = Bytes::from_request(request, app)
            .await
            .map_err(|rejection| match rejection {
                BytesRejection::FailedToBufferBody(failure)
                    if failure.status() == StatusCode::PAYLOAD_TOO_LARGE =>
                {
                    ApiError::BodyTooLarge { limit_bytes }
                }
                _ => ApiError::MalformedJson {
                    message: "the body is incomplete: send it again".to_owned(),
                },
            })?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        parse(text).map(Self)
    }
}

/// Parses a whole JSON text.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| explain(".", &error))?;
    Ok(value)
}

fn parse_value<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, error.inner())
    })
}

/// Parses a query like `example`. Whole numbers become numbers, everything else is text.
pub(crate) fn parse_query<T: DeserializeOwned>(query: RawQuery, example: &str) -> Result<T, ApiError> {
    let Query(query) = query.map_err(|_| ApiError::field("query", format!("must be like `{example}`")))?;
    let values = query.into_iter().map(|(name, text)| {
        let value = text.parse::<i64>().map_or(Value::String(text), Value::from);
        (name, value)
    });
    parse_value(values.collect())
}

/// Rewords the parser's error. It repeats the invalid value, which may be an address: only what was expected is passed on.
fn explain(path: &str, error: &serde_json::Error) -> ApiError {
    if error.is_syntax() || error.is_eof() {
        let message = format!(
            "the body is not JSON: line {}, column {}",
            error.line(),
            error.column()
        );
        return ApiError::MalformedJson { message };
    }
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let parent = if path == "." { "" } else { path };
    if let Some(name) = quoted_after(text, "missing field ") {
        return ApiError::field(join(parent, name), "is missing");
    }
    if let Some(name) = quoted_after(text, "unknown field ") {
        return ApiError::field(place(parent, name), "is not a field of this request: see `/docs`");
    }
    if let Some(name) = quoted_after(text, "duplicate field ") {
        return ApiError::field(place(parent, name), "is given twice");
    }
    let field = if parent.is_empty() { "body" } else { parent };
    match text.rsplit_once(", expected ") {
        Some((_, expected)) => ApiError::field(field, format!("must be {}", in_plain_words(expected))),
        None => ApiError::field(field, format!("is {text}")),
    }
}

/// Replaces Rust's type names, such as `struct DecideRequest`, by words that the caller knows.
fn in_plain_words(expected: &str) -> &str {
    match expected {
        "f64" => "a number",
        "u8" | "u16" | "u32" | "usize" => "a whole number",
        "a sequence" => "a list",
        expected if expected.starts_with("struct ") || expected == "a map" => "an object",
        expected => expected,
    }
}

fn quoted_after<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix)?.strip_prefix('`')?.split('`').next()
}

/// Returns the path of a field that the parser rejected; `path` may or may not already end in its name.
fn place(path: &str, name: &str) -> String {
    let before = path.strip_suffix(name);
    let ends_in_name = before.is_some_and(|before| before.is_empty() || before.ends_with('.'));
    if ends_in_name {
        path.to_owned()
    } else {
        join(path, name)
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}.{name}")
    }
}
