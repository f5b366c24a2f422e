//! `[inference.latency]`: expected delays.

use std::{ops::RangeInclusive, time::Duration};

use event::settings::{OutOfRange, number};
use serde::Deserialize;

use super::seconds;

/// `[inference.latency]`: the delay between trigger and delivery.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLatencyConfig {
    /// Quantile of the observed delays that is used as the expected delay, 0.01 to 0.99. Default 0.5, the median.
    pub quantile: Option<f64>,
    /// Expected delay in seconds when nothing is known. 0 to 86,400, default 60.
    pub default_seconds: Option<u64>,
    /// Seconds between two readings of the observed delays. 1 to 86,400, default 60.
    pub refresh_seconds: Option<u64>,
    /// How many seconds back delays are considered. 3,600 to 31,536,000, default 2,592,000 (30 days).
    pub window_seconds: Option<u64>,
}

/// How delays are learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyConfig {
    /// Quantile of the observed delays that is used as the expected delay.
    pub quantile: f64,
    /// Expected delay when nothing is known.
    pub default: Duration,
    /// Time between two readings of the observed delays.
    pub refresh: Duration,
    /// How far back delays are considered.
    pub window: Duration,
}

const QUANTILE: RangeInclusive<f64> = 0.01..=0.99;
/// More than a day is not the delay of a provider.
const DELAY_SECONDS: RangeInclusive<u64> = 0..=86_400;
const LATENCY_REFRESH_SECONDS: RangeInclusive<u64> = 1..=86_400;
/// A month has enough samples of most providers, and follows their changes.
pub(super) const WINDOW_SECONDS: u64 = 30 * 86_400;
/// An hour has few samples, and what a provider did a year ago says nothing about today.
const LATENCY_WINDOW_SECONDS: RangeInclusive<u64> = 3_600..=365 * 86_400;

impl RawLatencyConfig {
    pub(super) fn check(self) -> Result<LatencyConfig, OutOfRange> {
        let quantile = self.quantile.unwrap_or(0.5);
        Ok(LatencyConfig {
            quantile: number("inference", "latency.quantile", quantile, QUANTILE)?,
            default: seconds("latency.default_seconds", self.default_seconds, 60, DELAY_SECONDS)?,
            refresh: seconds(
                "latency.refresh_seconds",
                self.refresh_seconds,
                60,
                LATENCY_REFRESH_SECONDS,
            )?,
            window: seconds(
                "latency.window_seconds",
                self.window_seconds,
                WINDOW_SECONDS,
                LATENCY_WINDOW_SECONDS,
            )?,
        })
    }
}
