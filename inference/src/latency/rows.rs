//! The table of delays as `GET /latency` shows it.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    cells::{Cell, of_part, quantile},
    week::{PARTS, days_and_hours},
};

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LatencyRow {
    /// Provider; `null` in the row of all providers.
    #[schema(example = "sendgrid")]
    pub esp: Option<String>,
    /// Class of the mailbox; `null` in rows of all classes.
    #[schema(example = "gmail")]
    pub mailbox_provider: Option<&'static str>,
    /// Number of deliveries.
    pub samples: usize,
    /// The delay expected at the configured quantile, over the whole week, shrunk towards the row above. It is what decisions
    /// expect only in the row of all providers: see `parts`.
    pub expected_seconds: f64,
    /// Median of the deliveries' delays.
    pub p50_seconds: f64,
    /// 90th percentile.
    pub p90_seconds: f64,
    /// 99th percentile.
    pub p99_seconds: f64,
    /// What decisions expect, by the part of the week in which the mail is handed over; empty in the row of all providers,
    /// of which one delay is expected all week.
    pub parts: Vec<LatencyPart>,
}

/// One part of the week in a row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LatencyPart {
    /// `weekdays` or `weekend`, in UTC.
    #[schema(example = "weekdays")]
    pub days: &'static str,
    /// Hours of UTC in which the mail was handed over.
    #[schema(example = "16:00-20:00")]
    pub hours: String,
    /// Number of deliveries.
    pub samples: usize,
    /// The delay that decisions expect, at the configured quantile and shrunk towards the row's.
    pub expected_seconds: f64,
    /// Median of the deliveries' delays; `null` without any.
    pub p50_seconds: Option<f64>,
    /// 90th percentile.
    pub p90_seconds: Option<f64>,
}

/// How much longer, or less long, a mail takes if a request gives this value.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct LatencyFactor {
    /// Provider.
    #[schema(example = "sendgrid")]
    pub(crate) esp: String,
    /// Field of the request: `queue_depth`, `campaign_type`, `campaign_id` or `payload_bytes`.
    #[schema(example = "payload_bytes")]
    pub(crate) field: &'static str,
    /// Its value: a name, or the first and the last number of a class.
    #[schema(example = "16383-65534")]
    pub(crate) value: String,
    /// Number of deliveries.
    pub(crate) samples: usize,
    /// Factor on the delay of the provider's table, shrunk towards 1 if there are few deliveries. If a request gives
    /// several fields, what their factors have in common counts once.
    #[schema(example = 1.4)]
    pub(crate) factor: f64,
}

fn seconds(ln: f64) -> f64 {
    ln.exp().round() / 1_000.0
}

/// Returns the row of a cell, without parts.
pub(super) fn row(
    esp: Option<&str>,
    mailbox_provider: Option<&'static str>,
    sorted_ln: &[f64],
    cell: &Cell,
) -> LatencyRow {
    let at = |q| quantile(sorted_ln, q).map_or(0.0, seconds);
    LatencyRow {
        esp: esp.map(str::to_owned),
        mailbox_provider,
        samples: sorted_ln.len(),
        expected_seconds: seconds(cell.expected_ln),
        p50_seconds: at(0.5),
        p90_seconds: at(0.9),
        p99_seconds: at(0.99),
        parts: Vec::new(),
    }
}

/// Returns the parts of a row, from its delays and its cells.
pub(super) fn parts(delays: &[(usize, f64)], cells: &[Cell; PARTS]) -> Vec<LatencyPart> {
    let part = |(part, cell): (usize, &Cell)| {
        let (days, hours) = days_and_hours(part);
        let mut of_part = of_part(delays, part);
        of_part.sort_unstable_by(f64::total_cmp);
        LatencyPart {
            days,
            hours: format!("{:02}:00-{:02}:00", hours.start, hours.end),
            samples: cell.samples,
            expected_seconds: seconds(cell.expected_ln),
            p50_seconds: quantile(&of_part, 0.5).map(seconds),
            p90_seconds: quantile(&of_part, 0.9).map(seconds),
        }
    };
    cells.iter().enumerate().map(part).collect()
}
