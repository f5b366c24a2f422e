//! Rules in the person's local time.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::{decision::DaySpan, error::ApiError, http::body::Object, inquiry};

/// A part of the day; it spans midnight if `start` is later than `end`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DaySpanInput {
    /// First minute, `HH:MM`.
    #[schema(example = "22:00", pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    pub start: String,
    /// Minute after the last, `HH:MM`; `24:00` is the end of the day.
    #[schema(example = "07:00", pattern = "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")]
    pub end: String,
}

impl DaySpanInput {
    pub(super) fn read(&self, field: &str) -> Result<DaySpan, ApiError> {
        inquiry::day_span(field, &self.start, &self.end)
    }
}

/// Reads the part of the day in which no mail may arrive.
pub(super) fn quiet(span: Option<Object<DaySpanInput>>) -> Result<Option<DaySpan>, ApiError> {
    let Some(Object(input)) = span else {
        return Ok(None);
    };
    let span = input.read("quiet_hours")?;
    // Forms that are not filled in send 00:00 to 00:00, which would forbid every minute.
    if input.start == input.end {
        return Err(inquiry::same_ends("quiet_hours"));
    }
    Ok(Some(span))
}

/// Reads the parts of the day in which mail may arrive; none means all.
pub(super) fn allowed(
    window: Option<Object<DaySpanInput>>,
    hours: Option<Vec<u8>>,
) -> Result<Vec<DaySpan>, ApiError> {
    match (window, hours) {
        (Some(_), Some(_)) => Err(ApiError::field(
            "allowed_hours",
            "must not be given together with `allowed_window`",
        )),
        (Some(Object(span)), None) => Ok(vec![span.read("allowed_window")?]),
        (None, Some(hours)) if hours.is_empty() => Err(ApiError::field(
            "allowed_hours",
            "must name at least one hour, or be left out",
        )),
        (None, Some(hours)) => {
            let mut spans = Vec::with_capacity(hours.len());
            for (index, hour) in hours.into_iter().enumerate() {
                if hour > 23 {
                    return Err(ApiError::field(
                        format!("allowed_hours[{index}]"),
                        "must be an hour from 0 to 23",
                    ));
                }
                let start = u16::from(hour) * 60;
                spans.push(DaySpan {
                    start,
                    end: start + 60,
                });
            }
            spans.sort_unstable_by_key(|span| span.start);
            spans.dedup();
            Ok(spans)
        }
        (None, None) => Ok(Vec::new()),
    }
}
