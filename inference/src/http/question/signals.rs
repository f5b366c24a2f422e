//! What the caller knows about the person's latest actions.

use event::Timestamp;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Moment;
use crate::{decision::SeenSignal, error::ApiError, http::body::Object, inquiry::signal_named};

/// Maximum number of signals in a request.
const MAX_SIGNALS: usize = 100;

/// A sign of the person's presence or displeasure that has not yet arrived as an event.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignalInput {
    /// `site_visit`, `product_view`, `sms_click`, `push_click`, `marked_spam`, `support_ticket`, `unsubscribed` or
    /// `resubscribed`.
    #[serde(rename = "type")]
    #[schema(example = "site_visit")]
    pub kind: String,
    /// When it occurred. The caller's clock may be ahead: up to a day later than the server's clock counts as now, unless the
    /// request sets `now`.
    pub at: Option<Moment>,
    /// How many seconds ago it occurred, instead of `at`.
    #[schema(example = 120, minimum = 0)]
    pub age_seconds: Option<f64>,
}

/// Reads the signals; none may be later than `horizon`, and what is later than now counts as now.
pub(super) fn signals(
    inputs: Vec<Object<SignalInput>>,
    now: Timestamp,
    horizon: Timestamp,
) -> Result<Vec<SeenSignal>, ApiError> {
    if inputs.len() > MAX_SIGNALS {
        return Err(ApiError::field(
            "signals",
            format!("must have at most {MAX_SIGNALS} elements"),
        ));
    }
    let mut signals = Vec::with_capacity(inputs.len());
    for (index, Object(input)) in inputs.into_iter().enumerate() {
        let signal = signal_named(&input.kind).ok_or_else(|| {
            ApiError::field(
                format!("signals[{index}].type"),
                "must be one of `site_visit`, `product_view`, `sms_click`, `push_click`, `marked_spam`, `support_ticket`, \
                 `unsubscribed`, `resubscribed`",
            )
        })?;
        let at = match (input.at, input.age_seconds) {
            (Some(Moment(at)), None) if at <= horizon => at.min(now),
            (Some(_), None) => {
                return Err(ApiError::field(
                    format!("signals[{index}].at"),
                    "must not be later than now",
                ));
            }
            (None, Some(age)) if age >= 0.0 => now.plus_millis((age * -1_000.0).round() as i64),
            (None, Some(_)) => {
                return Err(ApiError::field(
                    format!("signals[{index}].age_seconds"),
                    "must be at least 0",
                ));
            }
            _ => {
                return Err(ApiError::field(
                    format!("signals[{index}].at"),
                    "must be given, or `age_seconds` instead of it",
                ));
            }
        };
        signals.push(SeenSignal { signal, at });
    }
    Ok(signals)
}
