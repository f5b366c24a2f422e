//! Sends finished spans to a collector without delaying the code that creates them.
//!
//! Spans wait in a queue of fixed length, and one task posts them in batches. If the collector is slow or down, the queue
//! fills up, and further spans are dropped and counted: nothing waits for a collector, and memory stays bounded. Failing
//! exports are logged once when they begin and once when they end, dropped spans once.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use listener::SentByStranger;
use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt, TraceId, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        Sampler, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample, Span,
        SpanData, SpanExporter as _, SpanProcessor,
    },
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::config::TelemetryConfig;

/// Length of the queue: the spans of 800 deliveries, all created while one batch gathers. At about 1 kB each they take 4 MB.
const QUEUE_SPANS: usize = 4_096;

/// Spans of one export, as in OpenTelemetry's own processor.
const BATCH_SPANS: usize = 512;

/// How long the first span of a batch waits for others. People look at traces seconds later.
const BATCH_WAIT: Duration = Duration::from_secs(1);

/// How long one export may take, retries included: OpenTelemetry's default.
const EXPORT_WITHIN: Duration = Duration::from_secs(10);

/// How long exporting the last spans may take when the process stops. The roles have used part of the 30 s of a stop by then.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);

/// Samples a share of the traces that begin here, and of those that strangers want exported. Of all others, those that their
/// caller wants exported.
#[derive(Debug, Clone)]
struct Share {
    begun_here: Sampler,
    by_caller: Sampler,
    /// Strangers choose their trace's id, so it alone must not decide.
    chance: RandomState,
}

impl Share {
    fn of(ratio: f64) -> Self {
        let begun_here = Sampler::TraceIdRatioBased(ratio);
        Self {
            by_caller: Sampler::ParentBased(Box::new(begun_here.clone())),
            begun_here,
            chance: RandomState::new(),
        }
    }
}

impl ShouldSample for Share {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let result = self
            .by_caller
            .should_sample(parent, trace_id, name, kind, attributes, links);
        // The spans below it inherit the mark and follow its decision.
        let is_strangers = parent.is_some_and(|parent| {
            parent.get::<SentByStranger>().is_some() && parent.span().span_context().is_remote()
        });
        if !is_strangers || result.decision == SamplingDecision::Drop {
            return result;
        }
        let drawn = TraceId::from(u128::from(self.chance.hash_one(trace_id.to_bytes())));
        self.begun_here
            .should_sample(None, drawn, name, kind, attributes, links)
    }
}

/// Labels of the spans' counter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Counts spans by outcome.
#[derive(Debug, Clone)]
struct Counts {
    spans: Family<Outcome, Counter>,
    exported: Counter,
    /// The queue was full.
    dropped: Counter,
    /// The collector did not accept them.
    failed: Counter,
}

impl Counts {
    fn new() -> Self {
        let spans = Family::<Outcome, Counter>::default();
        let of = |outcome| spans.get_or_create_owned(&Outcome { outcome });
        Self {
            exported: of("exported"),
            dropped: of("dropped"),
            failed: of("failed"),
            spans,
        }
    }
}

/// Exports the process's spans until it is shut down.
pub(crate) struct Exporter {
    provider: SdkTracerProvider,
    counts: Counts,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts exporting. `service` is the service name if none is configured. Must be called within the runtime.
    ///
    /// # Errors
    /// Fails if no HTTP client can be created.
    pub(crate) fn start(config: TelemetryConfig, service: &str) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(EXPORT_WITHIN)
            .build()
            .context("spans cannot be exported")?;
        let headers = config.headers.iter();
        let headers: HashMap<String, String> = headers
            .map(|(name, value)| (name.clone(), value.expose().to_owned()))
            .collect();
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(config.traces_url)
            .with_timeout(EXPORT_WITHIN)
            .with_headers(headers)
            .build()
            .context("spans cannot be exported: check the environment variables `OTEL_EXPORTER_…`")?;
        let resource = Resource::builder()
            .with_service_name(config.service_name.unwrap_or_else(|| service.to_owned()))
            .with_attribute(opentelemetry::KeyValue::new(
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ))
            .build();
        exporter.set_resource(&resource);
        let (queue, spans) = mpsc::channel(QUEUE_SPANS);
        let counts = Counts::new();
        let mut provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_span_processor(Queue {
                spans: queue,
                dropped: counts.dropped.clone(),
            });
        if let Some(ratio) = config.sample_ratio {
            provider = provider.with_sampler(Share::of(ratio));
        }
        let stop = CancellationToken::new();
        let sender = Sender {
            exporter,
            spans,
            counts: counts.clone(),
            is_failing: false,
            has_told_of_drops: false,
        };
        Ok(Self {
            provider: provider.build(),
            counts,
            task: tokio::spawn(sender.run(stop.clone())),
            stop,
        })
    }

    /// Returns the tracer whose spans are exported.
    pub(super) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("sendflowr")
    }

    /// Adds the counter of spans.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "sendflowr_telemetry_spans",
            "Spans by outcome: exported, dropped (the queue was full), failed (the collector did not take them)",
            self.counts.spans.clone(),
        );
    }

    /// Exports the queued spans within a few seconds; those that cannot be exported by then are lost.
    pub(crate) async fn shutdown(self) {
        self.stop.cancel();
        let abort = self.task.abort_handle();
        let began = Instant::now();
        if tokio::time::timeout(FLUSH_WITHIN, self.task).await.is_err() {
            abort.abort();
            tracing::warn!(
                "the last spans could not be exported within {:?}",
                began.elapsed()
            );
        }
    }
}

/// The queue of finished spans.
#[derive(Debug)]
struct Queue {
    spans: mpsc::Sender<SpanData>,
    dropped: Counter,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            self.dropped.inc();
        }
    }

    /// Does nothing: the exporter flushes, see [`Exporter::shutdown`].
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Posts the queued spans.
struct Sender {
    exporter: SpanExporter,
    spans: mpsc::Receiver<SpanData>,
    counts: Counts,
    is_failing: bool,
    has_told_of_drops: bool,
}

impl Sender {
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_SPANS);
        loop {
            let filled = stop.run_until_cancelled(fill(&mut self.spans, &mut batch)).await;
            if filled.is_none() {
                break;
            }
            self.export(std::mem::take(&mut batch)).await;
        }
        // No more spans are accepted; the queued ones are sent.
        self.spans.close();
        loop {
            fill(&mut self.spans, &mut batch).await;
            if batch.is_empty() {
                return;
            }
            self.export(std::mem::take(&mut batch)).await;
        }
    }

    async fn export(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        match self.exporter.export(batch).await {
            Ok(()) => {
                self.counts.exported.inc_by(spans);
                if self.is_failing {
                    tracing::info!("the collector of `telemetry.endpoint` accepts spans again");
                }
                self.is_failing = false;
            }
            Err(error) => {
                self.counts.failed.inc_by(spans);
                if !self.is_failing {
                    tracing::warn!(%error, "the collector of `telemetry.endpoint` does not accept spans: {error}");
                }
                self.is_failing = true;
            }
        }
        if !self.has_told_of_drops && self.counts.dropped.get() > 0 {
            self.has_told_of_drops = true;
            tracing::warn!(
                "spans are dropped because they are created faster than they are exported: see \
                 `sendflowr_telemetry_spans_total`, or lower `telemetry.sample_ratio`"
            );
        }
    }
}

/// Adds spans to a batch until it is full, its time is over, or no more spans will come. Cancel-safe: what was taken from
/// the queue is in `batch`.
async fn fill(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    if batch.is_empty() && spans.recv_many(batch, BATCH_SPANS).await == 0 {
        return;
    }
    let all = async {
        while batch.len() < BATCH_SPANS {
            let room = BATCH_SPANS - batch.len();
            if spans.recv_many(batch, room).await == 0 {
                return;
            }
        }
    };
    // When the time is over, the batch goes as it is.
    let _ = tokio::time::timeout(BATCH_WAIT, all).await;
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _};

    use super::*;

    fn exporter(url: &str) -> Exporter {
        crate::choose_tls();
        let raw: super::super::RawTelemetryConfig = toml::from_str(&format!("endpoint = '{url}'")).unwrap();
        Exporter::start(TelemetryConfig::try_new(raw).unwrap().unwrap(), "test").unwrap()
    }

    fn make_spans(exporter: &Exporter, count: usize) {
        let tracer = exporter.tracer();
        for _ in 0..count {
            tracer.start("work").end();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_hangs_costs_neither_memory_nor_the_stop() {
        // Connections are made and never answered.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let exporter = exporter(&format!("http://{}", silent.local_addr().unwrap()));
        let made = 5 * QUEUE_SPANS;
        make_spans(&exporter, made);
        let counts = exporter.counts.clone();
        // The queue, one batch being sent and one that gathers.
        let kept = (QUEUE_SPANS + 2 * BATCH_SPANS) as u64;
        assert!(counts.dropped.get() >= made as u64 - kept, "{counts:?}");
        let began = Instant::now();
        exporter.shutdown().await;
        assert!(
            began.elapsed() < FLUSH_WITHIN + Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(counts.exported.get(), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_is_away_is_counted() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = nobody.local_addr().unwrap();
        drop(nobody);
        let exporter = exporter(&format!("http://{address}"));
        make_spans(&exporter, 10);
        let counts = exporter.counts.clone();
        let began = Instant::now();
        while counts.failed.get() < 10 {
            assert!(began.elapsed() < 2 * EXPORT_WITHIN, "{counts:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!((counts.exported.get(), counts.dropped.get()), (0, 0));
        exporter.shutdown().await;
    }
}
