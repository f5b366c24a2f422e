//! Log lines of plugins, and about their failures.

use std::sync::Arc;

use event::redact::Redactor;
use listener::LogRate;
use wasmtime::component::{ComponentType, Lift};

use super::{error::PluginError, limits::Limits, metrics::PluginStats};
use crate::canonical::scrub::on_one_line;

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
    lines: LogRate,
    failures: LogRate,
    stats: Arc<PluginStats>,
}

/// Rate of lines about failures. Metrics count all of them; a few lines are enough to explain them.
const FAILURES_PER_SECOND: u32 = 1;

/// Bytes read beyond a line's length, so that a line that is shortened by redaction is still full. Enough for a long
/// address or two.
const MARGIN_BYTES: usize = 1024;

impl PluginLog {
    /// Creates a log whose lines carry `tag`.
    pub(crate) fn new(tag: String, limits: &Limits, stats: Arc<PluginStats>) -> Self {
        Self {
            tag,
            line_bytes: limits.log_line_bytes,
            lines: LogRate::per_second(limits.log_lines_per_second),
            failures: LogRate::per_second(FAILURES_PER_SECOND),
            stats,
        }
    }

    /// Returns whether one more line may be written now. Counts it if it may not.
    pub(crate) fn admits(&self) -> bool {
        let is_admitted = self.lines.admit().is_some();
        if !is_admitted {
            self.stats.log_lines_dropped.inc();
        }
        is_admitted
    }

    /// Writes one line that was admitted.
    pub(crate) fn write(&self, severity: Severity, message: &str) {
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
            PluginError::Load(_)
            | PluginError::Lock(_)
            | PluginError::Folder { .. }
            | PluginError::Panicked { .. }
            | PluginError::Host { .. } => event::chain(error),
        };
        let Some(left_out) = self.failures.admit() else {
            return;
        };
        let why = printable(&why, self.line_bytes);
        tracing::warn!(
            plugin = %self.tag,
            request.id = request_id,
            plugin.failures_left_out = left_out.0,
            "plugin `{}` gave no answer to request `{request_id}`: {why}{left_out}",
            self.tag
        );
    }
}

/// Returns `message` as one line of at most `limit` bytes without addresses and control characters.
fn printable(message: &str, limit: usize) -> String {
    let mut seen = &message[..message.floor_char_boundary(limit + MARGIN_BYTES)];
    if seen.len() < message.len() {
        // The last word may be part of an address, which would not be recognised.
        seen = seen.trim_end_matches(|letter: char| !letter.is_whitespace());
    }
    let redacted = Redactor::default().text(seen).into_owned();
    on_one_line(&redacted[..redacted.floor_char_boundary(limit)])
}

#[cfg(test)]
mod tests {
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
}
