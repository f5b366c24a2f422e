//! Moments, and windows of them.

use std::{fmt, ops::Range};

use event::Timestamp;
use serde::{Deserialize, Deserializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat, Type},
};

use super::{HOUR_MS, in_range};
use crate::{
    error::ApiError,
    http::body::Object,
    inquiry::{MAX_WINDOW_HOURS, check_window},
};

/// Length of the window if the request gives none.
const DEFAULT_WINDOW_HOURS: f64 = 24.0;

/// A moment: RFC 3339 text, or a number of seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub Timestamp);

impl PartialSchema for Moment {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
        let seconds = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0));
        OneOfBuilder::new()
            .description(Some(
                "A moment: RFC 3339 text, or a number of seconds since 1970.",
            ))
            .item(text)
            .item(seconds)
            .examples(["2026-01-07T10:00:00Z"])
            .into()
    }
}

impl ToSchema for Moment {}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Moment;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time or seconds since 1970, between 1970 and 9999")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Moment, E> {
                text.parse()
                    .map(Moment)
                    .map_err(|_| E::invalid_value(de::Unexpected::Other("text"), &self))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Moment, E> {
                let moment = seconds.checked_mul(1_000).and_then(Timestamp::try_from_millis);
                moment
                    .map(Moment)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(seconds), &self))
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Moment, E> {
                self.visit_i64(i64::try_from(seconds).unwrap_or(i64::MAX))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Moment, E> {
                // The cast saturates: a number out of range stays out of range.
                let moment = Timestamp::try_from_millis((seconds * 1_000.0).round() as i64);
                moment
                    .filter(|_| seconds.is_finite())
                    .map(Moment)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Float(seconds), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// A span of real time, half-open.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowInput {
    /// First moment.
    pub start: Moment,
    /// Moment after the last.
    pub end: Moment,
}

/// Reads the window of arrival, which begins now if only its length is given.
pub(super) fn window(
    now: Timestamp,
    hours: Option<f64>,
    window: Option<Object<WindowInput>>,
) -> Result<Range<Timestamp>, ApiError> {
    let Some(Object(WindowInput {
        start: Moment(start),
        end: Moment(end),
    })) = window
    else {
        let hours = in_range("window_hours", hours, 1.0, MAX_WINDOW_HOURS)?.unwrap_or(DEFAULT_WINDOW_HOURS);
        return Ok(now..now.plus_millis((hours * HOUR_MS).round() as i64));
    };
    if hours.is_some() {
        return Err(ApiError::field(
            "window",
            "must not be given together with `window_hours`",
        ));
    }
    let window = start..end;
    check_window(now, &window)?;
    Ok(window)
}
