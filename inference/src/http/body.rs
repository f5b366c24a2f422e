//! Reads request bodies and queries, with a size limit and with errors that name the field.

use std::{fmt, marker::PhantomData};

use axum::{
    body::Bytes,
    extract::{
        FromRequest, Path, Query, Request,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_ENCODING, CONTENT_LENGTH},
    },
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

use super::App;
use crate::error::ApiError;

/// A path parameter before it is checked: it may not be valid UTF-8.
pub(crate) type RawPath = Result<Path<String>, PathRejection>;

/// A query before it is parsed.
pub(crate) type RawQuery = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// The share of the time allowed for a request within which its body must arrive: what is left suffices for an answer, so that
/// a caller who is too slow is told so, and not that the service is.
const SHARE_FOR_BODY: f64 = 0.9;

/// A JSON body, which is all of the request: there are no parameters in the query.
pub(crate) struct Body<T>(pub(crate) T);

/// Refuses a body that is compressed.
pub(crate) fn refuse_encoded(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    if encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        Ok(())
    } else {
        Err(ApiError::UnsupportedEncoding)
    }
}

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let limit_bytes = app.max_body_bytes;
        if request.uri().query().is_some_and(|query| !query.is_empty()) {
            return Err(ApiError::field(
                "query",
                "must be empty: the fields of this request belong into its body",
            ));
        }
        refuse_encoded(request.headers())?;
        let time_allowed = app.request_timeout.mul_f64(SHARE_FOR_BODY);
        let announced = request.headers().get(CONTENT_LENGTH);
        let announced: Option<u64> = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|bytes| bytes > limit_bytes as u64) {
            let (head, body) = request.into_parts();
            listener::discard(&head.headers, body, time_allowed).await;
            return Err(ApiError::BodyTooLarge { limit_bytes });
        }
        let read = tokio::time::timeout(time_allowed, Bytes::from_request(request, app));
        let bytes =
            read.await
                .map_err(|_| ApiError::IncompleteBody)?
                .map_err(|rejection| match rejection {
                    BytesRejection::FailedToBufferBody(failure)
                        if failure.status() == StatusCode::PAYLOAD_TOO_LARGE =>
                    {
                        ApiError::BodyTooLarge { limit_bytes }
                    }
                    _ => ApiError::IncompleteBody,
                })?;
        if bytes.is_empty() {
            return Err(ApiError::MalformedJson {
                message: "the body is empty: send an object with the fields of the request".to_owned(),
            });
        }
        parse(&bytes).map(Self)
    }
}

/// An object. By itself, serde also reads a struct from the list of its fields' values, in which a field that is added or left
/// out would give the others new meanings.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMap<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfMap<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(OfMap(PhantomData))
    }
}

/// Parses a whole JSON text that is an object.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let Object(value) = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
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
    let mut values = serde_json::Map::new();
    for (name, text) in query {
        let value = text.parse::<i64>().map_or(Value::String(text), Value::from);
        if values.insert(name.clone(), value).is_some() {
            return Err(ApiError::field(name, "is given twice"));
        }
    }
    parse_value(Value::Object(values))
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
        "u32" => "a whole number from 0 to 4294967295",
        "u8" | "usize" | "i64" => "a whole number",
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
