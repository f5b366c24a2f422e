//! Metrics of the plugin runtime. The label `plugin` only has slugs of loaded plugins; the series of a plugin end when
//! its file is removed.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{
        MetricType, TypedMetric,
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::{
    error::{Limit, Refusal},
    quarantine::Quarantine,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TrapLabels {
    plugin: String,
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
}

/// Buckets of a histogram of seconds.
#[derive(Debug, Clone, Copy)]
struct Seconds {
    first: f64,
    count: u16,
}

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(self.first, 2.0, self.count))
    }
}

/// 8 µs, less than the smallest delivery takes, to 0.26 s, more than the CPU time that a delivery may use.
const CALL_BUCKETS: Seconds = Seconds {
    first: 8e-6,
    count: 16,
};

/// 16 µs to 0.5 s, beyond the longest wait.
const QUEUE_BUCKETS: Seconds = Seconds {
    first: 16e-6,
    count: 16,
};

/// The metrics of the plugin runtime. Clones share their counts.
#[derive(Debug, Clone)]
pub struct PluginMetrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    deliveries: Family<PluginLabels, Counter>,
    events: Family<PluginLabels, Counter>,
    rejects: Family<PluginLabels, Counter>,
    traps: Family<TrapLabels, Counter>,
    busy: Family<PluginLabels, Counter>,
    log_lines_dropped: Family<PluginLabels, Counter>,
    quarantined: Family<PluginLabels, QuarantineGauge>,
    memory_peak: Family<PluginLabels, Gauge>,
    call: Family<PluginLabels, Histogram, Seconds>,
    queue: Family<PluginLabels, Histogram, Seconds>,
    compilations: Counter,
    cache_hits: Counter,
    refused_files: Family<RefusalLabels, Gauge>,
}

impl PluginMetrics {
    /// Adds the runtime's metrics to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let families = Families {
            deliveries: Family::default(),
            events: Family::default(),
            rejects: Family::default(),
            traps: Family::default(),
            busy: Family::default(),
            log_lines_dropped: Family::default(),
            quarantined: Family::default(),
            memory_peak: Family::default(),
            call: Family::new_with_constructor(CALL_BUCKETS),
            queue: Family::new_with_constructor(QUEUE_BUCKETS),
            compilations: Counter::default(),
            cache_hits: Counter::default(),
            refused_files: Family::default(),
        };
        let plugin = registry.sub_registry_with_prefix("sendflowr_plugin");
        plugin.register(
            "deliveries",
            "Deliveries handed to the plugin; one that waits for a certificate in between counts once",
            families.deliveries.clone(),
        );
        plugin.register("events", "Events returned by the plugin", families.events.clone());
        plugin.register(
            "rejects",
            "Deliveries and elements that the plugin could not use",
            families.rejects.clone(),
        );
        plugin.register(
            "traps",
            "Deliveries that broke a limit or the contract, by limit",
            families.traps.clone(),
        );
        plugin.register(
            "busy",
            "Deliveries turned away because too many were in flight",
            families.busy.clone(),
        );
        plugin.register(
            "log_lines_dropped",
            "Log lines of the plugin that were dropped by the rate limit",
            families.log_lines_dropped.clone(),
        );
        plugin.register(
            "quarantined",
            "1 while an account is in quarantine for the plugin after repeated failures, or the plugin's deliveries go through one at a time",
            families.quarantined.clone(),
        );
        plugin.register_with_unit(
            "memory_peak",
            "Most linear memory that one delivery has taken",
            Unit::Bytes,
            families.memory_peak.clone(),
        );
        plugin.register_with_unit(
            "call_duration",
            "Time that a delivery spends in the plugin, all calls together; before and after a wait for a certificate each by itself",
            Unit::Seconds,
            families.call.clone(),
        );
        plugin.register_with_unit(
            "queue_wait",
            "Time that a delivery waits for a slot; it does again after a wait for a certificate",
            Unit::Seconds,
            families.queue.clone(),
        );
        plugin.register(
            "compilations",
            "Plugins compiled to machine code",
            families.compilations.clone(),
        );
        plugin.register(
            "cache_hits",
            "Plugins taken from the cache of compiled code",
            families.cache_hits.clone(),
        );
        plugin.register(
            "refused_files",
            "Files in the plugin folder that are not served, by reason; a folder that cannot be read is one of `unreadable`",
            families.refused_files.clone(),
        );
        Self(Arc::new(families))
    }

    /// Returns the series of one plugin.
    pub(crate) fn of(&self, slug: &str) -> Arc<PluginStats> {
        let labels = PluginLabels {
            plugin: slug.to_owned(),
        };
        let families = &self.0;
        Arc::new(PluginStats {
            deliveries: families.deliveries.get_or_create_owned(&labels),
            events: families.events.get_or_create_owned(&labels),
            rejects: families.rejects.get_or_create_owned(&labels),
            traps: Limit::OF_GUESTS.map(|limit| {
                let labels = TrapLabels {
                    plugin: slug.to_owned(),
                    limit: limit.code(),
                };
                families.traps.get_or_create_owned(&labels)
            }),
            busy: families.busy.get_or_create_owned(&labels),
            log_lines_dropped: families.log_lines_dropped.get_or_create_owned(&labels),
            quarantined: families.quarantined.get_or_create_owned(&labels),
            memory_peak: families.memory_peak.get_or_create_owned(&labels),
            call: families.call.get_or_create_owned(&labels),
            queue: families.queue.get_or_create_owned(&labels),
            latencies: Latencies::default(),
        })
    }

    /// Removes the series of a plugin that is gone.
    pub(crate) fn forget(&self, slug: &str) {
        let labels = PluginLabels {
            plugin: slug.to_owned(),
        };
        let families = &self.0;
        families.deliveries.remove(&labels);
        families.events.remove(&labels);
        families.rejects.remove(&labels);
        families.busy.remove(&labels);
        families.log_lines_dropped.remove(&labels);
        families.quarantined.remove(&labels);
        families.memory_peak.remove(&labels);
        families.call.remove(&labels);
        families.queue.remove(&labels);
        for limit in Limit::OF_GUESTS {
            families.traps.remove(&TrapLabels {
                plugin: slug.to_owned(),
                limit: limit.code(),
            });
        }
    }

    pub(crate) fn compiled(&self) {
        self.0.compilations.inc();
    }

    pub(crate) fn found_in_cache(&self) {
        self.0.cache_hits.inc();
    }

    /// Sets the gauges from the reasons of all files that are refused now.
    pub(crate) fn set_refused_files(&self, refused: &[Refusal]) {
        for reason in Refusal::ALL {
            let count = refused.iter().filter(|refusal| **refusal == reason).count();
            let labels = RefusalLabels {
                reason: reason.code(),
            };
            let gauge = self.0.refused_files.get_or_create_owned(&labels);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// Reports on the quarantine that it follows, which is evaluated when the metric is read: a quarantine ends by the
/// clock, and deliveries that still finish on an old version of the plugin say nothing about the one that serves.
#[derive(Debug, Clone, Default)]
pub(crate) struct QuarantineGauge(Arc<Mutex<Option<Arc<Quarantine>>>>);

impl QuarantineGauge {
    /// Follows the plugin that serves from now on.
    pub(crate) fn follow(&self, quarantine: &Arc<Quarantine>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(quarantine));
    }
}

impl TypedMetric for QuarantineGauge {
    const TYPE: MetricType = MetricType::Gauge;
}

impl EncodeMetric for QuarantineGauge {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let followed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = followed
            .as_ref()
            .and_then(|quarantine| quarantine.trouble(Instant::now()));
        encoder.encode_gauge(&i64::from(trouble.is_some()))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// The statistics of one plugin, over all versions that serve one after another.
#[derive(Debug)]
pub(crate) struct PluginStats {
    pub(crate) deliveries: Counter,
    pub(crate) events: Counter,
    pub(crate) rejects: Counter,
    traps: [Counter; Limit::OF_GUESTS.len()],
    pub(crate) busy: Counter,
    pub(crate) log_lines_dropped: Counter,
    pub(crate) quarantined: QuarantineGauge,
    memory_peak: Gauge,
    call: Histogram,
    queue: Histogram,
    latencies: Latencies,
}

impl PluginStats {
    /// Counts a delivery that hit `limit`.
    pub(crate) fn trapped(&self, limit: Limit) {
        if let Some(position) = Limit::OF_GUESTS.iter().position(|other| *other == limit) {
            self.traps[position].inc();
        }
    }

    /// Returns every limit that was hit, and how often.
    pub(crate) fn traps(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::OF_GUESTS
            .into_iter()
            .zip(self.traps.iter().map(Counter::get))
            .filter(|(_, count)| *count > 0)
    }

    /// Records the time that a delivery spent in the plugin.
    pub(crate) fn took(&self, time: Duration) {
        self.call.observe(time.as_secs_f64());
        self.latencies.record(time);
    }

    /// Records the time that a delivery waited for a slot.
    pub(crate) fn waited(&self, time: Duration) {
        self.queue.observe(time.as_secs_f64());
    }

    /// Records the linear memory that a delivery took.
    pub(crate) fn took_memory(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.memory_peak.inner().fetch_max(bytes, Ordering::Relaxed);
    }

    /// Returns the most linear memory that one delivery has taken.
    pub(crate) fn memory_peak_bytes(&self) -> i64 {
        self.memory_peak.get()
    }

    /// Returns the time in microseconds that this share of the deliveries stayed under; `None` before the first delivery.
    pub(crate) fn quantile_us(&self, share: f64) -> Option<u64> {
        self.latencies.quantile_us(share)
    }
}

/// Four buckets per doubling: a quantile is at most a fifth too high.
const BUCKETS_PER_DOUBLING: u32 = 4;

/// From 1 µs to 2^24 µs (17 s), beyond any delivery's wall-clock time.
const DOUBLINGS: u32 = 24;

/// Counts of durations in buckets of growing width, for the quantiles of `GET /plugins`.
#[derive(Debug)]
struct Latencies([AtomicU64; (DOUBLINGS * BUCKETS_PER_DOUBLING) as usize]);

impl Default for Latencies {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Latencies {
    fn record(&self, time: Duration) {
        let microseconds = time.as_secs_f64() * 1e6;
        // Bucket `n` holds durations of at most 2^(n / 4) µs. The cast saturates; both ends are clamped.
        let bucket = (microseconds.max(1.0).log2() * f64::from(BUCKETS_PER_DOUBLING)).ceil() as usize;
        self.0[bucket.min(self.0.len() - 1)].fetch_add(1, Ordering::Relaxed);
    }

    fn quantile_us(&self, share: f64) -> Option<u64> {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = (total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let mut bucket = 0;
        for (position, count) in counts.iter().enumerate() {
            seen += count;
            bucket = position;
            if seen >= rank {
                break;
            }
        }
        Some((bucket as f64 / f64::from(BUCKETS_PER_DOUBLING)).exp2().ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_at_most_a_fifth_too_high() {
        let latencies = Latencies::default();
        assert_eq!(latencies.quantile_us(0.5), None);
        for microseconds in 1..=1000 {
            latencies.record(Duration::from_micros(microseconds));
        }
        let median = latencies.quantile_us(0.5).unwrap();
        assert!((500..=600).contains(&median), "{median}");
        let tail = latencies.quantile_us(0.99).unwrap();
        assert!((990..=1190).contains(&tail), "{tail}");
    }

    #[test]
    fn a_plugin_that_is_gone_leaves_no_series() {
        let mut registry = Registry::default();
        let metrics = PluginMetrics::register(&mut registry);
        metrics.of("acme").trapped(Limit::Memory);
        let text = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        assert!(text(&registry).contains("sendflowr_plugin_traps_total{plugin=\"acme\",limit=\"memory\"} 1"));
        metrics.forget("acme");
        assert!(!text(&registry).contains("acme"));
    }
}
