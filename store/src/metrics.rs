//! What the engines count.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// Counts of the embedded bus.
#[derive(Debug, Clone, Default)]
pub(crate) struct BusCounters {
    pub(crate) records: Counter,
    pub(crate) commits: Counter,
}

/// Shows the counts in `registry`; `_total` is added to their names.
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
