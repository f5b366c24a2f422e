//! Names and labels of all metrics of the service.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{Drift, DriftState};

/// `outcome` is `decided` or an error's code, `rung` that of the curve or `none`: both come from fixed lists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DecisionLabels {
    pub(crate) outcome: &'static str,
    pub(crate) rung: &'static str,
}

/// `cache` is `person`, `profile` or `curve`; `result` is `hit` or `miss`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CacheLabels {
    pub(crate) cache: &'static str,
    pub(crate) result: &'static str,
}

/// `model` is `population` or `latency`; `result` is `fitted`, `too_little_data` or `failed`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefitLabels {
    pub(crate) model: &'static str,
    pub(crate) result: &'static str,
}

/// `route` is the template of the route (`/features/{universal_id}`), `status` the class of the response's status (`2xx`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) route: String,
    pub(crate) status: &'static str,
}

/// `route` is the template of the route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RouteLabels {
    pub(crate) route: String,
}

/// `esp` is the slug of a provider whose deliveries were audited.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ProviderLabels {
    pub(crate) esp: String,
}

/// The metrics of the service.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    decisions: Family<DecisionLabels, Counter>,
    caches: Family<CacheLabels, Counter>,
    refits: Family<RefitLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    latency_drift: Family<ProviderLabels, Gauge>,
    profiles_doubted: Gauge,
    /// Explanations waiting to be stored.
    pub(crate) explanations_pending: Gauge,
    /// Failed attempts to store an explanation, which are retried.
    pub(crate) explanation_retries: Counter,
}

/// From a cached decision (tens of microseconds) to the request timeout (10 s), finest around the target of 5 ms.
const REQUEST_BUCKETS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0,
];

impl Metrics {
    /// Registers the metrics with `registry`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            decisions: Family::default(),
            caches: Family::default(),
            refits: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            latency_drift: Family::default(),
            profiles_doubted: Gauge::default(),
            explanations_pending: Gauge::default(),
            explanation_retries: Counter::default(),
        };
        registry.register(
            "sendflowr_inference_decisions",
            "Decisions, by outcome and by the evidence for the curve",
            metrics.decisions.clone(),
        );
        registry.register(
            "sendflowr_inference_cache_lookups",
            "Cache look-ups by result",
            metrics.caches.clone(),
        );
        registry.register(
            "sendflowr_inference_refits",
            "Fits of a model by result",
            metrics.refits.clone(),
        );
        registry.register(
            "sendflowr_inference_requests",
            "HTTP requests by route and class of status",
            metrics.requests.clone(),
        );
        registry.register(
            "sendflowr_inference_request_seconds",
            "Time to answer, by route",
            metrics.request_seconds.clone(),
        );
        registry.register(
            "sendflowr_inference_latency_drift",
            "Whether a provider's delays deviate from the expected ones more than before: 1 or 0; absent without enough mail",
            metrics.latency_drift.clone(),
        );
        registry.register(
            "sendflowr_inference_profiles_doubted",
            "Whether a consumer cannot update profiles, so that decisions read people's events instead: 1 or 0",
            metrics.profiles_doubted.clone(),
        );
        registry.register(
            "sendflowr_inference_explanations_pending",
            "Explanations waiting to be stored",
            metrics.explanations_pending.clone(),
        );
        registry.register(
            "sendflowr_inference_explanation_retries",
            "Failed attempts to store an explanation, which are retried",
            metrics.explanation_retries.clone(),
        );
        metrics
    }

    /// Counts a decision or a refusal. `rung` is `none` if no curve was computed.
    pub(crate) fn decision(&self, outcome: &'static str, rung: &'static str) {
        self.decisions
            .get_or_create(&DecisionLabels { outcome, rung })
            .inc();
    }

    /// Counts a cache look-up.
    pub(crate) fn cache(&self, cache: &'static str, hit: bool) {
        let result = if hit { "hit" } else { "miss" };
        self.caches.get_or_create(&CacheLabels { cache, result }).inc();
    }

    /// Reports which providers drift, replacing the previous report.
    pub(crate) fn drift(&self, found: &[Drift]) {
        self.latency_drift.clear();
        for drift in found
            .iter()
            .filter(|drift| drift.state != DriftState::NotEnoughData)
        {
            let labels = ProviderLabels {
                esp: drift.esp.clone(),
            };
            let drifts = i64::from(drift.state == DriftState::Drifting);
            self.latency_drift.get_or_create(&labels).set(drifts);
        }
    }

    /// Reports whether profiles are doubted.
    pub(crate) fn profiles_doubted(&self, are_doubted: bool) {
        self.profiles_doubted.set(are_doubted.into());
    }

    /// Counts a fit.
    pub(crate) fn refit(&self, model: &'static str, result: &'static str) {
        self.refits.get_or_create(&RefitLabels { model, result }).inc();
    }

    /// Counts a request that was answered.
    pub(crate) fn request(&self, route: &str, status: u16, took: Duration) {
        let status = match status {
            ..400 => "2xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        self.requests
            .get_or_create(&RequestLabels {
                route: route.to_owned(),
                status,
            })
            .inc();
        self.request_seconds
            .get_or_create(&RouteLabels {
                route: route.to_owned(),
            })
            .observe(took.as_secs_f64());
    }
}
