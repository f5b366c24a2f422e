//! Hot paths: a recent sign of the person's presence raises the value of the minutes that follow, and fades.

use event::{Timestamp, profile::Signal};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Facts, SeenSignal};
use crate::{config::HotPath, model::remaining};

/// A hot path that is warm at the time of the decision.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct WarmPath {
    /// `site_visit`, `product_view`, `sms_click`, `push_click` or `recent_activity`, whose weight is learned.
    #[schema(example = "site_visit")]
    pub signal: &'static str,
    /// When the signal occurred.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Weight at that moment.
    pub weight: f64,
    /// Seconds in which the weight halves.
    #[schema(maximum = 315_360_000)]
    pub half_life_seconds: u64,
    /// Weight left at the time of the decision.
    pub weight_now: f64,
}

/// Returns the paths that are warm at `now`. Only the latest signal of each kind counts: ten page views are one visit.
/// The person's last act is a path of its own if the model learned a weight for it.
pub(super) fn warm(told: &[SeenSignal], facts: Facts<'_>, now: Timestamp) -> Vec<WarmPath> {
    let Facts {
        profile,
        policy,
        curve,
        ..
    } = facts;
    let kinds: [(Signal, &'static str, HotPath); 4] = [
        (Signal::SiteVisit, "site_visit", policy.site_visit),
        (Signal::ProductView, "product_view", policy.product_view),
        (Signal::SmsClick, "sms_click", policy.sms_click),
        (Signal::PushClick, "push_click", policy.push_click),
    ];
    let mut paths = Vec::new();
    for (signal, name, HotPath { weight, half_life }) in kinds {
        let Some(at) = super::latest(profile, told, signal, now) else {
            continue;
        };
        let weight_now = remaining(weight, half_life.as_millis() as f64, at, now);
        if weight_now > 0.0 {
            paths.push(WarmPath {
                signal: name,
                at,
                weight,
                half_life_seconds: half_life.as_secs(),
                weight_now,
            });
        }
    }
    if let Some(presence) = curve.presence() {
        let weight_now = presence.factor(now) - 1.0;
        if weight_now > 0.0 {
            paths.push(WarmPath {
                signal: "recent_activity",
                at: presence.since,
                weight: presence.weight,
                half_life_seconds: (presence.half_life_hours * 3_600.0) as u64,
                weight_now,
            });
        }
    }
    paths
}

/// Returns Π(1 + ω(t)) over `paths`.
pub(super) fn factor(paths: &[WarmPath], t: Timestamp) -> f64 {
    let mut factor = 1.0;
    for path in paths {
        let half_life_ms = path.half_life_seconds as f64 * 1_000.0;
        factor *= 1.0 + remaining(path.weight, half_life_ms, path.at, t);
    }
    factor
}
