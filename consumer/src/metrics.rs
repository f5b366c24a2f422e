//! The consumer's metrics. All label values come from short fixed lists.

use std::{collections::HashMap, sync::Arc, time::Duration};

use event::EventType;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use store::bus::{Bus, EVENTS_TOPIC, Lag};
use tokio_util::sync::CancellationToken;

use crate::{ConsumerError, EVENTS_GROUP, IDENTITY_GROUP, dead_letter::Cause, health::Health};

/// How often the lag behind the end of the bus is queried: often enough for alerts by the minute, and cheap.
const LAG_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    event_type: &'static str,
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    group: &'static str,
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabels {
    group: &'static str,
}

/// The consumer's metrics, and what works and what fails at present. Clones share both.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    events: Family<OutcomeLabels, Counter>,
    dead_letters: Family<CauseLabels, Counter>,
    verdicts: Family<VerdictLabels, Counter>,
    retries: Family<RetryLabels, Counter>,
    lag: Family<GroupLabels, Gauge>,
    lost: Family<GroupLabels, Counter>,
    batch_events: Histogram,
    batch_seconds: Histogram,
    visible_seconds: Histogram,
    profile_failures: Counter,
    profiles_rebuilt: Counter,
    profiles_stale: Gauge,
    profiles_all_stale: Gauge,
    sightings: Family<OutcomeLabels, Counter>,
    health: Health,
}

impl Metrics {
    /// Adds the consumer's metrics to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        // 1 ms to 65 s.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let families = Families {
            events: Family::default(),
            dead_letters: Family::default(),
            verdicts: Family::default(),
            retries: Family::default(),
            lag: Family::default(),
            lost: Family::default(),
            // 1 to 65,536 events.
            batch_events: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            batch_seconds: seconds(),
            visible_seconds: seconds(),
            profile_failures: Counter::default(),
            profiles_rebuilt: Counter::default(),
            profiles_stale: Gauge::default(),
            profiles_all_stale: Gauge::default(),
            sightings: Family::default(),
            health: Health::default(),
        };
        let consumer = registry.sub_registry_with_prefix("sendflowr_consumer");
        consumer.register("events", "Events read, by outcome", families.events.clone());
        consumer.register(
            "dead_letters",
            "Records dead-lettered, by cause",
            families.dead_letters.clone(),
        );
        consumer.register(
            "verdicts",
            "Opens and clicks, by whether a person or a machine is judged to have made them",
            families.verdicts.clone(),
        );
        consumer.register(
            "retries",
            "Attempts that failed and were retried",
            families.retries.clone(),
        );
        consumer.register(
            "lag_records",
            "Records on the bus that the group has not committed; grows also while profiles cannot be written",
            families.lag.clone(),
        );
        consumer.register(
            "lost_records",
            "Records that the bus deleted before the group had read them; each consumer counts those of all",
            families.lost.clone(),
        );
        consumer.register(
            "batch_events",
            "Events in one write",
            families.batch_events.clone(),
        );
        consumer.register_with_unit(
            "batch",
            "Time from reading a batch to its effect on profiles, outages included",
            Unit::Seconds,
            families.batch_seconds.clone(),
        );
        consumer.register_with_unit(
            "visible",
            "Time from the append of a batch's oldest event to its effect on profiles",
            Unit::Seconds,
            families.visible_seconds.clone(),
        );
        consumer.register(
            "profile_failures",
            "Failed calls to the profile store",
            families.profile_failures.clone(),
        );
        consumer.register(
            "profiles_rebuilt",
            "Profiles rebuilt from history and written",
            families.profiles_rebuilt.clone(),
        );
        consumer.register(
            "profiles_stale",
            "Profiles known to lack events; 0 while all are to be cleared",
            families.profiles_stale.clone(),
        );
        consumer.register(
            "profiles_all_stale",
            "Whether too many profiles lack events, or for too long, so that all are to be cleared: 1 or 0",
            families.profiles_all_stale.clone(),
        );
        consumer.register(
            "sightings",
            "Events read by the identity group, by outcome",
            families.sightings.clone(),
        );
        Self(Arc::new(families))
    }

    pub(crate) fn health(&self) -> &Health {
        &self.0.health
    }

    pub(crate) fn stored(&self, inserted: usize, duplicates: usize) {
        self.count(&self.0.events, "stored", inserted);
        self.count(&self.0.events, "duplicate", duplicates);
    }

    pub(crate) fn dead_lettered(&self, cause: Cause) {
        self.count(&self.0.events, "dead_lettered", 1);
        self.0
            .dead_letters
            .get_or_create(&CauseLabels {
                cause: cause.as_str(),
            })
            .inc();
    }

    /// Counts a record that even the dead letter topic rejected.
    pub(crate) fn left_behind(&self) {
        self.count(&self.0.events, "left_behind", 1);
    }

    pub(crate) fn judged(&self, event_type: EventType, machine: bool) {
        let verdict = if machine { "machine" } else { "human" };
        self.0
            .verdicts
            .get_or_create(&VerdictLabels {
                event_type: event_type.as_str(),
                verdict,
            })
            .inc();
    }

    pub(crate) fn retried(&self, group: &'static str, operation: &'static str) {
        self.0
            .retries
            .get_or_create(&RetryLabels { group, operation })
            .inc();
    }

    pub(crate) fn batch(&self, events: usize, took: Duration) {
        self.0.batch_events.observe(events as f64);
        self.0.batch_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn visible_after(&self, millis: i64) {
        self.0.visible_seconds.observe(millis.max(0) as f64 / 1_000.0);
    }

    pub(crate) fn profile_failed(&self) {
        self.0.profile_failures.inc();
    }

    pub(crate) fn profiles_rebuilt(&self, profiles: usize) {
        self.0.profiles_rebuilt.inc_by(profiles as u64);
    }

    pub(crate) fn profiles_all_stale(&self, are_stale: bool) {
        self.0.profiles_all_stale.set(are_stale.into());
    }

    pub(crate) fn profiles_stale(&self, profiles: usize) {
        self.0.profiles_stale.set(profiles as i64);
    }

    pub(crate) fn sightings(&self, recorded: usize, skipped: usize) {
        self.count(&self.0.sightings, "recorded", recorded);
        self.count(&self.0.sightings, "skipped", skipped);
    }

    fn count(&self, family: &Family<OutcomeLabels, Counter>, outcome: &'static str, by: usize) {
        family.get_or_create(&OutcomeLabels { outcome }).inc_by(by as u64);
    }
}

/// Keeps the lag of both groups current until `stop`, which does not wait for a bus that does not answer.
pub(crate) async fn watch_lag(
    bus: Arc<dyn Bus>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), ConsumerError> {
    let mut lost = Lost::default();
    while !stop.is_cancelled() {
        for group in [EVENTS_GROUP, IDENTITY_GROUP] {
            let Some(lags) = stop.run_until_cancelled(bus.lag(group, &[EVENTS_TOPIC])).await else {
                return Ok(());
            };
            match lags {
                Ok(lags) => {
                    let records: u64 = lags.iter().map(|lag| lag.records).sum();
                    let gauge = metrics.0.lag.get_or_create(&GroupLabels { group });
                    gauge.set(i64::try_from(records).unwrap_or(i64::MAX));
                    lost.tell(group, &lags, &metrics);
                }
                // The groups themselves report an outage of the bus; here only a number becomes outdated.
                Err(error) => {
                    tracing::debug!(consumer.group = group, %error, "cannot read the lag of {group}")
                }
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(LAG_INTERVAL)).await;
    }
    Ok(())
}

/// The losses that are known, by group and partition of the events topic.
#[derive(Default)]
struct Lost(HashMap<(&'static str, u32), u64>);

impl Lost {
    /// Counts and logs what has been lost since the last look.
    fn tell(&mut self, group: &'static str, lags: &[Lag], metrics: &Metrics) {
        for lag in lags {
            let before = self.0.insert((group, lag.partition), lag.lost).unwrap_or(0);
            let records = lag.lost.saturating_sub(before);
            if records == 0 {
                continue;
            }
            metrics
                .0
                .lost
                .get_or_create(&GroupLabels { group })
                .inc_by(records);
            let partition = lag.partition;
            tracing::error!(
                consumer.group = group,
                kafka.partition = partition,
                consumer.lost_records = records,
                "{records} records of partition {partition} of `{EVENTS_TOPIC}` were deleted before {group} had read them: raise \
                 the topic's `retention.ms` and `retention.bytes`"
            );
        }
    }
}
