//! Log lines of plugins, and about their failures.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use event::redact::Redactor;
use wasmtime::component::{ComponentType, Lift};

use super::{error::PluginError, limits::Limits, metrics::PluginStats};

/// The severity that a plugin gives a line: `level` in every version of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "the runtime creates them from what a plugin passes")]
pub(crate) enum Severity {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

/// A plugin's log: limited in rate and length, without addresses. Shared by all deliveries of the plugin.
pub(crate) struct PluginLog {
    tag: String,
    line_bytes: usize,
    bucket: Mutex<Bucket>,
    failures: Mutex<Bucket>,
    failures_left_out: AtomicU64,
    stats: Arc<PluginStats>,
}

/// Size of a burst, in seconds' worth of lines.
const LOG_BURST_SECONDS: u32 = 10;

/// Rate of lines about failures. Metrics count all of them; a few lines are enough to explain them.
const FAILURES_PER_SECOND: u32 = 1;

/// Bytes read beyond a line's length, so that a line that is shortened by redaction is still full. Enough for a long
/// address or two.
const MARGIN_BYTES: usize = 1024;

impl PluginLog {
    /// Creates a log whose lines carry `tag`.
    pub(crate) fn new(tag: String, limits: &Limits, stats: Arc<PluginStats>) -> Self {
        let now = Instant::now();
        Self {
            tag,
            line_bytes: limits.log_line_bytes,
            bucket: Mutex::new(Bucket::full(limits.log_lines_per_second, now)),
            failures: Mutex::new(Bucket::full(FAILURES_PER_SECOND, now)),
            failures_left_out: AtomicU64::new(0),
            stats,
        }
    }

    /// Writes one line, or drops it.
    pub(crate) fn write(&self, severity: Severity, message: &str) {
        if !take(&self.bucket) {
            self.stats.log_lines_dropped.inc();
            return;
        }
        let line = printable(message, self.line_bytes);
        match severity {
            Severity::Debug => tracing::debug!(plugin = %self.tag, "{line}"),
            Severity::Info => tracing::info!(plugin = %self.tag, "{line}"),
            Severity::Warn => tracing::warn!(plugin = %self.tag, "{line}"),
            Severity::Error => tracing::error!(plugin = %self.tag, "{line}"),
        }
    }

    /// Logs that the plugin returned no result for a delivery, and why.
    pub(crate) fn failure(&self, error: &PluginError, request_id: &str) {
        let why = match error {
            // The metrics already say everything.
            PluginError::Busy { .. } | PluginError::Quarantined { .. } => return,
            PluginError::Guest {
                limit, call, detail, ..
            } => format!("its limit `{limit}` in `{call}`: {detail}"),
            PluginError::WallClock { waited, .. } => format!("it took longer than {} ms", waited.as_millis()),
            PluginError::Load(_) | PluginError::Lock(_) | PluginError::Host { .. } => event::chain(error),
        };
        if !take(&self.failures) {
            self.failures_left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let left_out = self.failures_left_out.swap(0, Ordering::Relaxed);
        let remark = match left_out {
            0 => String::new(),
            _ => format!("; {left_out} similar lines before it were suppressed"),
        };
        let why = printable(&why, self.line_bytes);
        tracing::warn!(
            plugin = %self.tag,
            request.id = request_id,
            plugin.failures_left_out = left_out,
            "plugin `{}` gave no answer to request `{request_id}`: {why}{remark}",
            self.tag
        );
    }
}

/// Takes a token, if there is one.
fn take(bucket: &Mutex<Bucket>) -> bool {
    let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
    bucket.take(Instant::now())
}

/// Returns `message` as one line of at most `limit` bytes without addresses and control characters.
fn printable(message: &str, limit: usize) -> String {
    let mut seen = cut(message, limit + MARGIN_BYTES);
    if seen.len() < message.len() {
        // The last word may be part of an address, which would not be recognised.
        seen = seen.trim_end_matches(|letter: char| !letter.is_whitespace());
    }
    let redacted = Redactor::default().text(seen).into_owned();
    let line = cut(&redacted, limit);
    line.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

/// Returns the longest prefix of `text` with at most `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A token bucket.
struct Bucket {
    per_second: f64,
    most: f64,
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    fn full(per_second: u32, now: Instant) -> Self {
        let most = f64::from(per_second) * f64::from(LOG_BURST_SECONDS);
        Self {
            per_second: f64::from(per_second),
            most,
            tokens: most,
            filled_at: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.most);
        self.filled_at = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_have_no_addresses_and_no_control_characters() {
        assert_eq!(
            printable("for ann@example.com\nok \u{1b}[31m", 100),
            "for [address] ok  [31m"
        );
    }

    #[test]
    fn an_address_across_the_cut_is_not_shown() {
        let line = printable(&format!("{} ann@example.com", "x".repeat(60)), 64);
        assert!(!line.contains("ann"), "{line}");
        assert!(line.len() <= 64);
        let line = printable(&"x".repeat(5_000), 64);
        assert_eq!(line, "");
    }

    #[test]
    fn cuts_between_characters() {
        assert_eq!(cut("aéz", 2), "a");
        assert_eq!(cut("aéz", 3), "aé");
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::full(2, start);
        for _ in 0..20 {
            assert!(bucket.take(start));
        }
        assert!(!bucket.take(start));
        let later = start + Duration::from_secs(1);
        assert!(bucket.take(later));
        assert!(bucket.take(later));
        assert!(!bucket.take(later));
    }
}
