//! Logs, and spans if they are exported.

mod config;
mod export;
mod process;

use std::{io::IsTerminal, time::SystemTime};

use event::Timestamp;
use listener::RequestTrace;
use serde_json::json;
use tracing::{Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Registry,
    filter::{FilterExt, filter_fn},
    fmt,
    layer::Filter,
    prelude::*,
    registry::LookupSpan,
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
    let filter = lines_filter(filter)?;
    let spans = exporter.map(|exporter| {
        // Only our own spans, and no log lines: only what was meant for export is exported.
        let ours = filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("sendflowr"))
            // A hint that hides nothing; see below.
            .with_max_level_hint(LevelFilter::TRACE);
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
    Registry::default()
        .with(spans)
        .with(lines.with_filter(filter))
        .init();
    Ok(())
}

/// Returns what decides which lines and spans are logged.
fn lines_filter<S>(filter: &str) -> anyhow::Result<impl Filter<S> + use<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // The span of a request, which has the trace id, belongs on every line logged within it, whatever the filter says.
    let requests = filter_fn(RequestTrace::is_span).with_max_level_hint(LevelFilter::INFO);
    // At `debug`, ClickHouse's client logs the server's messages and its queries whole, which may quote ids and values. What is
    // wrong is logged by us.
    let names_nobody = filter_fn(|metadata| {
        let target = metadata.target();
        *metadata.level() <= Level::WARN || !(target == "clickhouse" || target.starts_with("clickhouse::"))
    })
    // Without a hint on both sides, the filter would have none, and be asked about every line that nobody wants.
    .with_max_level_hint(LevelFilter::TRACE);
    Ok(EnvFilter::try_new(filter)?.or(requests).and(names_nobody))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_never_logged_is_never_asked_about() {
        for (filter, most) in [
            ("info", LevelFilter::INFO),
            ("error,sendflowr_host=debug", LevelFilter::DEBUG),
            // The spans of requests.
            ("error", LevelFilter::INFO),
        ] {
            let filter = lines_filter::<Registry>(filter).unwrap();
            assert_eq!(filter.max_level_hint(), Some(most));
        }
    }

    #[test]
    fn what_clickhouse_quotes_is_not_logged_at_any_level() {
        for filter in [
            "debug",
            "trace",
            "info,clickhouse=trace",
            "clickhouse::error=debug",
        ] {
            let written = Lines::default();
            let writer = written.clone();
            let lines = fmt::layer().with_ansi(false).with_writer(move || writer.clone());
            let registry = Registry::default().with(lines.with_filter(lines_filter(filter).unwrap()));
            tracing::subscriber::with_default(registry, || {
                let query = tracing::debug_span!(target: "clickhouse", "query", db.query.text = "sf_1234");
                let _entered = query.entered();
                tracing::debug!(target: "clickhouse::error", error = "cannot parse `ann@example.com`", "failed");
                tracing::warn!(target: "clickhouse::cursors", "a column is missing");
                tracing::info!(target: "clickhouse_other", "not the client");
            });
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            assert!(
                !text.contains("ann@example.com") && !text.contains("sf_1234"),
                "{filter}: {text}"
            );
            let is_ours_logged = filter != "clickhouse::error=debug";
            assert_eq!(
                text.contains("not the client"),
                is_ours_logged,
                "{filter}: {text}"
            );
        }
    }
}
