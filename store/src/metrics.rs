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

/// What happens to profiles in Redis.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProfileCounters {
    pub(crate) unreadable: Counter,
    pub(crate) outdated: Counter,
    pub(crate) conflicts: Counter,
}

impl ProfileCounters {
    /// Shows the counts in `registry`; `_total` is added to their names.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "sendflowr_profiles_unreadable",
            "Stored profiles that this build cannot read; they are made again from events",
            self.unreadable.clone(),
        );
        registry.register(
            "sendflowr_profiles_outdated",
            "Stored profiles from before the profile store's last start; they are made again from events",
            self.outdated.clone(),
        );
        registry.register(
            "sendflowr_profiles_conflicts",
            "Profiles deleted because two consumers had written them; they are made again from events",
            self.conflicts.clone(),
        );
    }
}
