//! Metrics of the engines.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Counters of the embedded bus.
#[derive(Debug, Clone, Default)]
pub(crate) struct BusCounters {
    pub(crate) records: Counter,
    pub(crate) commits: Counter,
}

/// Registers the counters in `registry`, which adds `_total` to their names.
pub(crate) fn register(registry: &mut Registry, bus: &BusCounters) {
    registry.register(
        "sendflowr_bus_appended_records",
        "Records appended to the embedded bus",
        bus.records.clone(),
    );
    registry.register(
        "sendflowr_bus_commits",
        "Commits of the embedded bus, each with one flush to disk; several callers share one",
        bus.commits.clone(),
    );
}

/// Counters of profiles in Redis.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProfileCounters {
    pub(crate) unreadable: Counter,
    pub(crate) outdated: Counter,
    pub(crate) disputes: Counter,
}

impl ProfileCounters {
    /// Registers the counters in `registry`, which adds `_total` to their names.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "sendflowr_profiles_unreadable",
            "Stored profiles that this build cannot read; they are rebuilt from events",
            self.unreadable.clone(),
        );
        registry.register(
            "sendflowr_profiles_outdated",
            "Stored profiles from before the profile store's last start or failover; they are rebuilt from events",
            self.outdated.clone(),
        );
        registry.register(
            "sendflowr_profiles_disputes",
            "Profiles that no longer matched what they were computed from, such as when two consumers wrote at once; each is rebuilt from events for a minute",
            self.disputes.clone(),
        );
    }
}

/// Metrics of the Kafka bus.
#[derive(Debug, Clone, Default)]
pub(crate) struct KafkaCounters {
    appended: Counter,
    failed: Family<FailureLabels, Counter>,
    queued_bytes: Gauge,
    assigned: Counter,
    revoked: Counter,
}

/// Why an append failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: &'static str,
}

impl KafkaCounters {
    pub(crate) fn appended(&self, records: usize) {
        self.appended.inc_by(records as u64);
    }

    /// Counts a failed append; `reason` is one of a few fixed words.
    pub(crate) fn failed(&self, reason: &'static str) {
        self.failed.get_or_create(&FailureLabels { reason }).inc();
    }

    /// Adds the number of bytes that have entered the queue or, if negative, have left it.
    pub(crate) fn queued(&self, bytes: i64) {
        self.queued_bytes.inc_by(bytes);
    }

    pub(crate) fn assigned(&self, partitions: usize) {
        self.assigned.inc_by(partitions as u64);
    }

    pub(crate) fn revoked(&self, partitions: usize) {
        self.revoked.inc_by(partitions as u64);
    }

    /// Registers the metrics in `registry`, which adds `_total` to the names of counters.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "sendflowr_kafka_appended_records",
            "Records that Kafka has acknowledged",
            self.appended.clone(),
        );
        registry.register(
            "sendflowr_kafka_failed_appends",
            "Appends that failed, by reason: queue_full, unavailable, rejected, misconfigured",
            self.failed.clone(),
        );
        registry.register(
            "sendflowr_kafka_queued_bytes",
            "Bytes waiting for Kafka's acknowledgement",
            self.queued_bytes.clone(),
        );
        registry.register(
            "sendflowr_kafka_assigned_partitions",
            "Partitions that a consumer group has assigned to this process",
            self.assigned.clone(),
        );
        registry.register(
            "sendflowr_kafka_revoked_partitions",
            "Partitions that a consumer group has revoked from this process",
            self.revoked.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn every_metric_is_documented_and_no_other() {
        let page = include_str!("../../docs/metrics.md");
        let mut registry = Registry::default();
        register(&mut registry, &BusCounters::default());
        ProfileCounters::default().register(&mut registry);
        let kafka = KafkaCounters::default();
        kafka.register(&mut registry);
        // A family that has counted nothing is not exported.
        kafka.failed("queue_full");
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let mut rows: Vec<&str> = page
            .lines()
            .filter(|line| {
                let prefixes = ["bus", "profiles", "kafka"];
                prefixes
                    .iter()
                    .any(|of| line.starts_with(&format!("| `sendflowr_{of}_")))
            })
            .collect();
        for described in text.split("# HELP ").skip(1) {
            let (name, rest) = described.split_once(' ').unwrap();
            let (meaning, rest) = rest.split_once(".\n").unwrap();
            let (_, kind) = rest.lines().next().unwrap().rsplit_once(' ').unwrap();
            let end = if kind == "counter" { "_total" } else { "" };
            let labels = if name.ends_with("_failed_appends") {
                "`reason`"
            } else {
                "-"
            };
            let row = format!("| `{name}{end}` | {kind} | {labels} | {meaning} |");
            let place = rows.iter().position(|line| *line == row);
            rows.remove(place.unwrap_or_else(|| panic!("docs/metrics.md has no such row:\n{row}")));
        }
        assert!(rows.is_empty(), "not counted: {rows:?}");
    }
}
