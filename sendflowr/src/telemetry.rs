//! Logs, and spans if they are exported.

mod config;
mod export;
mod process;

use std::{io::IsTerminal, time::SystemTime};

use event::Timestamp;
use listener::RequestTrace;
use serde_json::json;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Registry,
    filter::{FilterExt, filter_fn},
    fmt,
    prelude::*,
};

pub(crate) use self::{
    config::{RawTelemetryConfig, TelemetryConfig},
    export::Exporter,
    process::{CertificateExpiry, register_process},
};

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Returns the line that tells why the process ends. As JSON it has the fields of a log line, so that whoever collects those finds
/// it too.
pub(crate) fn fatal(message: &str, format: LogFormat) -> String {
    match format {
        LogFormat::Text => format!("error: {message}"),
        LogFormat::Json => json!({
            "timestamp": Timestamp::from(SystemTime::now()),
            "level": "ERROR",
            "message": message,
            "target": "sendflowr",
        })
        .to_string(),
    }
}

/// Sends log lines to standard error and spans to the exporter, if there is one. `filter` is a `tracing` filter such as
/// `info` or `warn,sendflowr_host=debug`, for the log only.
///
/// # Errors
/// Fails if the filter cannot be parsed.
pub(crate) fn init(filter: &str, format: LogFormat, exporter: Option<&Exporter>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let spans = exporter.map(|exporter| {
        // Only our own spans, and no log lines: only what was meant for export is exported.
        let ours = filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("sendflowr"));
        tracing_opentelemetry::layer()
            .with_tracer(exporter.tracer())
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_level(false)
            .with_filter(ours.and(LevelFilter::DEBUG))
    });
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            // The first span in the list is the request's, which has the trace id.
            .with_current_span(false)
            .with_span_list(true)
            .boxed(),
    };
    // The span of a request, which has the trace id, belongs on every line logged within it, whatever the filter says.
    let requests = filter_fn(RequestTrace::is_span).with_max_level_hint(LevelFilter::INFO);
    Registry::default()
        .with(spans)
        .with(lines.with_filter(filter.or(requests)))
        .init();
    Ok(())
}
