//! Names and labels of all metrics of the host, except those of its plugins.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::intake::Counts;

/// `provider` is the slug of an installed plugin or configured account, or `none`; `outcome` is `stored`, `reply`,
/// `confirmed`, `given_up` or an error's code: all from fixed lists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabels {
    provider: Arc<str>,
    outcome: &'static str,
}

/// `result` is `accepted`, `skipped` or `rejected`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ElementLabels {
    provider: Arc<str>,
    result: &'static str,
}

/// `cause` is `malformed` or `rejected_elements`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LetterLabels {
    provider: Arc<str>,
    cause: &'static str,
}

/// `reason` is `budget_spent` or `too_large`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLetterLabels {
    provider: Arc<str>,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProviderLabels {
    provider: Arc<str>,
}

/// From a delivery that is refused at once (tens of microseconds) to the request timeout (15 s), finest around the few
/// milliseconds that a flush takes.
const DELIVERY_BUCKETS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.015, 0.025, 0.05, 0.1, 0.5, 2.0, 15.0,
];

/// The host's metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    deliveries: Family<DeliveryLabels, Counter>,
    delivery_seconds: Family<ProviderLabels, Histogram, fn() -> Histogram>,
    elements: Family<ElementLabels, Counter>,
    dead_letters: Family<LetterLabels, Counter>,
    dead_letters_refused: Family<RefusedLetterLabels, Counter>,
    identifiers_dropped: Family<ProviderLabels, Counter>,
    /// Deliveries in progress.
    pub(crate) in_flight: Gauge,
    /// Panics caught.
    pub(crate) panics: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let buckets: fn() -> Histogram = || Histogram::new(DELIVERY_BUCKETS);
        let metrics = Self {
            deliveries: Family::default(),
            delivery_seconds: Family::new_with_constructor(buckets),
            elements: Family::default(),
            dead_letters: Family::default(),
            dead_letters_refused: Family::default(),
            identifiers_dropped: Family::default(),
            in_flight: Gauge::default(),
            panics: Counter::default(),
        };
        registry.register(
            "sendflowr_host_deliveries",
            "Deliveries, by provider and outcome",
            metrics.deliveries.clone(),
        );
        registry.register(
            "sendflowr_host_delivery_seconds",
            "Time from receiving a delivery's headers until it was answered or given up",
            metrics.delivery_seconds.clone(),
        );
        registry.register(
            "sendflowr_host_elements",
            "Elements of deliveries, by provider and result",
            metrics.elements.clone(),
        );
        registry.register(
            "sendflowr_host_dead_letters",
            "Deliveries dead-lettered, by provider and cause",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "sendflowr_host_dead_letters_refused",
            "Deliveries that could not be read and had no room among the dead letters, by provider and reason",
            metrics.dead_letters_refused.clone(),
        );
        registry.register(
            "sendflowr_host_identifiers_dropped",
            "Identifiers dropped because they were not a valid phone number or contained an address",
            metrics.identifiers_dropped.clone(),
        );
        registry.register(
            "sendflowr_host_deliveries_in_flight",
            "Deliveries in flight",
            metrics.in_flight.clone(),
        );
        registry.register(
            "sendflowr_host_panics",
            "Panics caught while handling requests, also on the threads of plugins and of decompression",
            metrics.panics.clone(),
        );
        metrics
    }

    pub(crate) fn delivery(&self, provider: &Arc<str>, outcome: &'static str, took: Duration) {
        let labels = DeliveryLabels {
            provider: Arc::clone(provider),
            outcome,
        };
        self.deliveries.get_or_create(&labels).inc();
        let labels = ProviderLabels {
            provider: Arc::clone(provider),
        };
        self.delivery_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    pub(crate) fn elements(&self, provider: &str, counts: Counts) {
        let results = [
            ("accepted", counts.accepted),
            ("skipped", counts.skipped),
            ("rejected", counts.rejected),
        ];
        for (result, count) in results {
            if count > 0 {
                let labels = ElementLabels {
                    provider: provider.into(),
                    result,
                };
                self.elements.get_or_create(&labels).inc_by(count as u64);
            }
        }
    }

    pub(crate) fn dead_letter(&self, provider: &str, cause: &'static str) {
        self.dead_letters
            .get_or_create(&LetterLabels {
                provider: provider.into(),
                cause,
            })
            .inc();
    }

    pub(crate) fn dead_letter_refused(&self, provider: &str, reason: &'static str) {
        self.dead_letters_refused
            .get_or_create(&RefusedLetterLabels {
                provider: provider.into(),
                reason,
            })
            .inc();
    }

    pub(crate) fn identifiers_dropped(&self, provider: &str, count: u64) {
        if count > 0 {
            self.identifiers_dropped
                .get_or_create(&ProviderLabels {
                    provider: provider.into(),
                })
                .inc_by(count);
        }
    }
}
