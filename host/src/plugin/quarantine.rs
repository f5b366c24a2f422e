//! Gives a plugin that keeps failing a rest, and lets it back by itself.
//!
//! A trap costs its sender an error and the host up to the full CPU limit. When most deliveries of a while end so,
//! the plugin rests: its deliveries are turned away at once. After the rest one delivery goes through as a probe: if it
//! is normalized, the plugin serves again; if it fails, the next rest is twice as long.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::error::Limit;

/// When a plugin rests, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineConfig {
    /// Failures within the window that send the plugin to rest, if at least half of its deliveries fail.
    pub failures: u32,
    /// The window.
    pub window: Duration,
    /// The first rest.
    pub first_rest: Duration,
    /// The longest rest.
    pub longest_rest: Duration,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self {
            // One bad delivery and its retries are not yet a broken plugin.
            failures: 5,
            // Covers the first retries of most providers.
            window: Duration::from_secs(30),
            // Short enough that a passing fault costs one retry of the provider.
            first_rest: Duration::from_secs(10),
            // A fixed plugin serves again within five minutes even when nobody swaps the file.
            longest_rest: Duration::from_secs(300),
        }
    }
}

/// [`QuarantineConfig`] as configured; what is absent keeps its default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawQuarantineConfig {
    failures: Option<u32>,
    window_seconds: Option<u64>,
    first_rest_seconds: Option<u64>,
    longest_rest_seconds: Option<u64>,
}

/// A quarantine setting is out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`plugins.quarantine.{key}` {rule}")]
pub struct QuarantineOutOfRange {
    key: &'static str,
    rule: &'static str,
}

impl TryFrom<RawQuarantineConfig> for QuarantineConfig {
    type Error = QuarantineOutOfRange;

    fn try_from(raw: RawQuarantineConfig) -> Result<Self, QuarantineOutOfRange> {
        let default = Self::default();
        let seconds = |value: Option<u64>, default: Duration| value.map_or(default, Duration::from_secs);
        let config = Self {
            failures: raw.failures.unwrap_or(default.failures),
            window: seconds(raw.window_seconds, default.window),
            first_rest: seconds(raw.first_rest_seconds, default.first_rest),
            longest_rest: seconds(raw.longest_rest_seconds, default.longest_rest),
        };
        let above_zero = "must be above 0";
        if config.failures == 0 {
            return Err(QuarantineOutOfRange {
                key: "failures",
                rule: above_zero,
            });
        }
        if config.window.is_zero() {
            return Err(QuarantineOutOfRange {
                key: "window_seconds",
                rule: above_zero,
            });
        }
        if config.first_rest.is_zero() {
            return Err(QuarantineOutOfRange {
                key: "first_rest_seconds",
                rule: above_zero,
            });
        }
        if config.longest_rest < config.first_rest {
            let rule = "must not be below `first_rest_seconds`";
            return Err(QuarantineOutOfRange {
                key: "longest_rest_seconds",
                rule,
            });
        }
        Ok(config)
    }
}

/// How a delivery was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Like any other.
    Normal,
    /// To see whether the plugin works again.
    Probe,
}

/// Whether one plugin serves or rests.
pub(crate) struct Quarantine {
    config: QuarantineConfig,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    window_began: Instant,
    failures: u32,
    completions: u32,
    /// Length of the latest rest.
    rest: Option<Duration>,
    /// The limit that the latest rest began with; before the first rest it means nothing.
    cause: Limit,
    /// When the latest rest ended well.
    recovered_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Serving,
    Resting { until: Instant },
    Probing,
}

/// While a probe runs, others are told to come back after this; a probe takes far less.
const PROBE_TIME: Duration = Duration::from_secs(1);

impl Quarantine {
    pub(crate) fn new(config: QuarantineConfig, now: Instant) -> Self {
        Self {
            config,
            state: Mutex::new(State {
                phase: Phase::Serving,
                window_began: now,
                failures: 0,
                completions: 0,
                rest: None,
                cause: Limit::Trap,
                recovered_at: None,
            }),
        }
    }

    /// Lets a delivery in, or says how long the plugin still rests.
    pub(crate) fn enter(&self, now: Instant) -> Result<Entry, Duration> {
        let mut state = self.state();
        match state.phase {
            Phase::Serving => Ok(Entry::Normal),
            Phase::Probing => Err(PROBE_TIME),
            Phase::Resting { until } if now < until => Err(until - now),
            Phase::Resting { .. } => {
                state.phase = Phase::Probing;
                Ok(Entry::Probe)
            }
        }
    }

    /// The delivery broke this limit. Says for how long the plugin rests, if it does from now on.
    pub(crate) fn failed(&self, entry: Entry, limit: Limit, now: Instant) -> Option<Duration> {
        let mut state = self.state();
        match (state.phase, entry) {
            (Phase::Serving, _) => {
                self.roll_window(&mut state, now);
                state.failures += 1;
                if state.failures < self.config.failures || state.failures < state.completions {
                    return None;
                }
            }
            (Phase::Probing, Entry::Probe) => {}
            // A late end of a delivery that entered before the rest tells nothing new.
            (Phase::Resting { .. } | Phase::Probing, _) => return None,
        }
        // Whoever fails again soon after a rest has not really recovered.
        let soon = state
            .recovered_at
            .is_none_or(|recovered| now.saturating_duration_since(recovered) < self.config.longest_rest);
        let rest = match state.rest {
            Some(previous) if soon => (previous * 2).min(self.config.longest_rest),
            _ => self.config.first_rest,
        };
        state.rest = Some(rest);
        state.cause = limit;
        state.phase = Phase::Resting { until: now + rest };
        Some(rest)
    }

    /// The delivery was normalized. True when this ends the quarantine.
    pub(crate) fn completed(&self, entry: Entry, now: Instant) -> bool {
        let mut state = self.state();
        match (state.phase, entry) {
            (Phase::Serving, _) => {
                self.roll_window(&mut state, now);
                state.completions += 1;
                false
            }
            (Phase::Probing, Entry::Probe) => {
                state.phase = Phase::Serving;
                state.window_began = now;
                state.failures = 0;
                state.completions = 0;
                state.recovered_at = Some(now);
                true
            }
            (Phase::Resting { .. } | Phase::Probing, _) => false,
        }
    }

    /// The probe ended without telling anything, for example because its proof did not hold. The next delivery probes.
    pub(crate) fn probe_abandoned(&self, now: Instant) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Probing) {
            state.phase = Phase::Resting { until: now };
        }
    }

    /// How long the plugin still rests, and the limit that it last broke; none while it serves.
    pub(crate) fn resting(&self, now: Instant) -> Option<(Duration, Limit)> {
        let state = self.state();
        let rest = match state.phase {
            Phase::Serving => return None,
            Phase::Probing => Duration::ZERO,
            Phase::Resting { until } => until.saturating_duration_since(now),
        };
        Some((rest, state.cause))
    }

    fn roll_window(&self, state: &mut State, now: Instant) {
        if now.saturating_duration_since(state.window_began) >= self.config.window {
            state.window_began = now;
            state.failures = 0;
            state.completions = 0;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while it is held; a poisoned state would still be consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn broken(now: Instant) -> Quarantine {
        let quarantine = Quarantine::new(QuarantineConfig::default(), now);
        for _ in 0..4 {
            assert_eq!(quarantine.failed(Entry::Normal, Limit::Trap, now), None);
        }
        assert_eq!(
            quarantine.failed(Entry::Normal, Limit::Trap, now),
            Some(seconds(10))
        );
        quarantine
    }

    #[test]
    fn rests_after_repeated_failures_and_comes_back_by_a_probe() {
        let now = Instant::now();
        let quarantine = broken(now);
        assert_eq!(quarantine.enter(now + seconds(4)), Err(seconds(6)));
        assert_eq!(
            quarantine.resting(now + seconds(4)),
            Some((seconds(6), Limit::Trap))
        );
        let later = now + seconds(10);
        assert_eq!(quarantine.enter(later), Ok(Entry::Probe));
        assert_eq!(quarantine.enter(later), Err(PROBE_TIME), "one probe at a time");
        assert!(quarantine.completed(Entry::Probe, later));
        assert_eq!(quarantine.enter(later), Ok(Entry::Normal));
        assert_eq!(quarantine.resting(later), None);
    }

    #[test]
    fn rests_twice_as_long_after_each_failed_probe_up_to_the_longest() {
        let mut now = Instant::now();
        let quarantine = broken(now);
        let mut rests = Vec::new();
        for _ in 0..7 {
            now += quarantine.resting(now).unwrap().0;
            assert_eq!(quarantine.enter(now), Ok(Entry::Probe));
            rests.push(
                quarantine
                    .failed(Entry::Probe, Limit::Trap, now)
                    .unwrap()
                    .as_secs(),
            );
        }
        assert_eq!(rests, [20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn forgets_the_last_rest_when_all_went_well_for_long() {
        let now = Instant::now();
        let quarantine = broken(now);
        let recovered = now + seconds(10);
        assert_eq!(quarantine.enter(recovered), Ok(Entry::Probe));
        assert!(quarantine.completed(Entry::Probe, recovered));
        let much_later = recovered + seconds(300);
        for _ in 0..4 {
            assert_eq!(quarantine.failed(Entry::Normal, Limit::Trap, much_later), None);
        }
        assert_eq!(
            quarantine.failed(Entry::Normal, Limit::Trap, much_later),
            Some(seconds(10))
        );
    }

    #[test]
    fn an_abandoned_probe_leaves_its_place_to_the_next_delivery() {
        let now = Instant::now();
        let quarantine = broken(now);
        let later = now + seconds(10);
        assert_eq!(quarantine.enter(later), Ok(Entry::Probe));
        quarantine.probe_abandoned(later);
        assert_eq!(quarantine.enter(later), Ok(Entry::Probe));
    }

    #[test]
    fn failures_far_apart_do_no_harm() {
        let mut now = Instant::now();
        let quarantine = Quarantine::new(QuarantineConfig::default(), now);
        for _ in 0..20 {
            assert_eq!(quarantine.failed(Entry::Normal, Limit::Trap, now), None);
            now += seconds(10);
        }
    }

    #[test]
    fn a_sender_of_bad_deliveries_cannot_silence_a_plugin_that_works_for_others() {
        let now = Instant::now();
        let quarantine = Quarantine::new(QuarantineConfig::default(), now);
        for _ in 0..100 {
            quarantine.completed(Entry::Normal, now);
            assert_eq!(quarantine.failed(Entry::Normal, Limit::Trap, now), None);
            quarantine.completed(Entry::Normal, now);
        }
    }

    #[test]
    fn late_ends_of_earlier_deliveries_change_nothing() {
        let now = Instant::now();
        let quarantine = broken(now);
        assert_eq!(quarantine.failed(Entry::Normal, Limit::Trap, now), None);
        assert!(!quarantine.completed(Entry::Normal, now));
        assert!(quarantine.resting(now).is_some());
    }

    #[test]
    fn names_the_key_that_is_out_of_range() {
        let raw: RawQuarantineConfig = toml::from_str("longest_rest_seconds = 1").unwrap();
        assert_eq!(
            QuarantineConfig::try_from(raw).unwrap_err().to_string(),
            "`plugins.quarantine.longest_rest_seconds` must not be below `first_rest_seconds`"
        );
    }
}
