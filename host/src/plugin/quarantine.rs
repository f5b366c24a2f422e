//! Gives a plugin that keeps failing a rest, and lets it back by itself.
//!
//! A trap costs its sender an error and the host up to the full CPU limit. What follows from it depends on whether the proofs
//! of the delivery had held:
//!
//! - They had: the provider itself has sent it. When most such deliveries of a while end so, the plugin *rests*, and all
//!   its deliveries are turned away at once. After the rest they are let through again, but one at a time: the first whose
//!   proofs hold decides. If it is normalized, the plugin serves again; if it fails, the next rest is twice as long.
//! - They had not, or they rest on what everybody knows: anybody can have sent it, and must not turn genuine deliveries
//!   away by it. While others are proven such failures are only counted. When several come and nothing is proven,
//!   the plugin may be broken, or only strangers ask it: it is *in doubt*, and its deliveries go through one at a time, which
//!   bounds what they cost: each waits for its turn as always. The first whose proofs hold ends that, and so does a whole
//!   window without such a failure.
//!
//! So a rest begins and grows only by genuine deliveries, and ends only by one.

use std::{
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use event::settings::{OutOfRange, number};
use serde::Deserialize;

use super::error::Limit;

/// When a plugin rests, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineConfig {
    /// Failures of proven deliveries within the window that send the plugin to rest, if at least half of those fail; and of
    /// others that put it in doubt, if none is proven.
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

impl QuarantineConfig {
    /// For tools: each delivery tells of itself, however many before it have failed.
    pub fn without_rest() -> Self {
        Self {
            failures: *FAILURES.end(),
            ..Self::default()
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

/// Failures that can be configured: with a number that is never reached no plugin rests.
const FAILURES: RangeInclusive<u32> = 1..=u32::MAX;

/// Seconds that can be configured: beyond a day a mistyped unit is likelier than an intention.
const SECONDS: RangeInclusive<u64> = 1..=86_400;

impl TryFrom<RawQuarantineConfig> for QuarantineConfig {
    type Error = OutOfRange;

    fn try_from(raw: RawQuarantineConfig) -> Result<Self, OutOfRange> {
        const SECTION: &str = "host.plugins.quarantine";
        let default = Self::default();
        let seconds = |key: &str, value: Option<u64>, default: Duration, range| {
            number(SECTION, key, value.unwrap_or(default.as_secs()), range).map(Duration::from_secs)
        };
        let failures = raw.failures.unwrap_or(default.failures);
        let first_rest = seconds(
            "first_rest_seconds",
            raw.first_rest_seconds,
            default.first_rest,
            SECONDS,
        )?;
        Ok(Self {
            failures: number(SECTION, "failures", failures, FAILURES)?,
            window: seconds("window_seconds", raw.window_seconds, default.window, SECONDS)?,
            first_rest,
            longest_rest: seconds(
                "longest_rest_seconds",
                raw.longest_rest_seconds,
                default.longest_rest,
                first_rest.as_secs()..=*SECONDS.end(),
            )?,
        })
    }
}

/// How a delivery is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Beside others.
    Beside,
    /// While no other of the plugin's deliveries is in flight.
    Alone,
}

/// What a failure has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// The plugin rests for so long.
    Rests(Duration),
    /// The plugin is in doubt.
    InDoubt,
}

/// Why a plugin does not serve like others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// How long all deliveries are still turned away; zero when they go through one at a time.
    pub(crate) rest: Duration,
    /// The limit that was broken last.
    pub(crate) cause: Limit,
    /// Whether it is only in doubt.
    pub(crate) is_doubt: bool,
}

/// Whether one plugin serves or rests.
#[derive(Debug)]
pub(crate) struct Quarantine {
    config: QuarantineConfig,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    window_began: Instant,
    /// Proven deliveries of the window that failed.
    failures: u32,
    /// Proven deliveries of the window that were normalized.
    completions: u32,
    /// Other deliveries of the window that failed.
    unproven_failures: u32,
    /// How long the plugin is in doubt, if nothing happens.
    doubted_until: Option<Instant>,
    /// Length of the latest rest.
    rest: Option<Duration>,
    /// The limit that the latest rest or doubt began with; before the first it means nothing.
    cause: Limit,
    /// When the latest rest ended well.
    recovered_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Serving,
    /// All deliveries are turned away until then, and go through one at a time afterwards.
    Resting {
        until: Instant,
    },
}

impl Quarantine {
    pub(crate) fn new(config: QuarantineConfig, now: Instant) -> Self {
        Self {
            config,
            state: Mutex::new(State {
                phase: Phase::Serving,
                window_began: now,
                failures: 0,
                completions: 0,
                unproven_failures: 0,
                doubted_until: None,
                rest: None,
                cause: Limit::Trap,
                recovered_at: None,
            }),
        }
    }

    /// Says how a delivery may come in, or how long the plugin still rests.
    pub(crate) fn enter(&self, now: Instant) -> Result<Entry, Duration> {
        match self.trouble(now) {
            None => Ok(Entry::Beside),
            Some(Trouble { rest, .. }) if rest.is_zero() => Ok(Entry::Alone),
            Some(Trouble { rest, .. }) => Err(rest),
        }
    }

    /// A delivery whose proofs had held broke this limit.
    pub(crate) fn failed(&self, limit: Limit, now: Instant) -> Option<Consequence> {
        let mut state = self.state();
        match state.phase {
            Phase::Serving => {
                self.roll_window(&mut state, now);
                state.failures += 1;
                state.doubted_until = None;
                if state.failures < self.config.failures || state.failures < state.completions {
                    return None;
                }
            }
            // A late end of a delivery that entered before the rest tells nothing new.
            Phase::Resting { until } if now < until => return None,
            Phase::Resting { .. } => {}
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
        Some(Consequence::Rests(rest))
    }

    /// A delivery that anybody can have sent broke this limit.
    pub(crate) fn failed_unproven(&self, limit: Limit, now: Instant) -> Option<Consequence> {
        let mut state = self.state();
        match state.phase {
            // It says nothing of how genuine deliveries fare.
            Phase::Resting { .. } => return None,
            Phase::Serving => self.roll_window(&mut state, now),
        }
        let was_in_doubt = is_ahead(state.doubted_until, now);
        state.unproven_failures += 1;
        let nothing_is_proven = state.failures == 0 && state.completions == 0;
        if !was_in_doubt && (state.unproven_failures < self.config.failures || !nothing_is_proven) {
            return None;
        }
        state.doubted_until = Some(now + self.config.window);
        state.cause = limit;
        (!was_in_doubt).then_some(Consequence::InDoubt)
    }

    /// A delivery whose proofs had held was normalized. True when this ends a rest or a doubt.
    pub(crate) fn completed(&self, now: Instant) -> bool {
        let mut state = self.state();
        match state.phase {
            Phase::Serving => {
                self.roll_window(&mut state, now);
                state.completions += 1;
                is_ahead(state.doubted_until.take(), now)
            }
            Phase::Resting { until } if now < until => false,
            Phase::Resting { .. } => {
                state.phase = Phase::Serving;
                begin_window(&mut state, now);
                state.completions = 1;
                state.recovered_at = Some(now);
                true
            }
        }
    }

    /// Why the plugin does not serve like others; none while it does.
    pub(crate) fn trouble(&self, now: Instant) -> Option<Trouble> {
        let state = self.state();
        let (rest, is_doubt) = match state.phase {
            Phase::Resting { until } => (until.saturating_duration_since(now), false),
            Phase::Serving if is_ahead(state.doubted_until, now) => (Duration::ZERO, true),
            Phase::Serving => return None,
        };
        Some(Trouble {
            rest,
            cause: state.cause,
            is_doubt,
        })
    }

    fn roll_window(&self, state: &mut State, now: Instant) {
        if now.saturating_duration_since(state.window_began) >= self.config.window {
            begin_window(state, now);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while it is held; a poisoned state would still be consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begin_window(state: &mut State, now: Instant) {
    state.window_began = now;
    state.failures = 0;
    state.completions = 0;
    state.unproven_failures = 0;
}

fn is_ahead(time: Option<Instant>, now: Instant) -> bool {
    time.is_some_and(|time| now < time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn rests(count: u64) -> Option<Consequence> {
        Some(Consequence::Rests(seconds(count)))
    }

    fn sound(now: Instant) -> Quarantine {
        Quarantine::new(QuarantineConfig::default(), now)
    }

    fn broken(now: Instant) -> Quarantine {
        let quarantine = sound(now);
        for _ in 0..4 {
            assert_eq!(quarantine.failed(Limit::Trap, now), None);
        }
        assert_eq!(quarantine.failed(Limit::Trap, now), rests(10));
        quarantine
    }

    fn doubted(now: Instant) -> Quarantine {
        let quarantine = sound(now);
        for _ in 0..4 {
            assert_eq!(quarantine.failed_unproven(Limit::Memory, now), None);
        }
        assert_eq!(
            quarantine.failed_unproven(Limit::Memory, now),
            Some(Consequence::InDoubt)
        );
        quarantine
    }

    #[test]
    fn rests_after_repeated_failures_and_comes_back_by_a_delivery_that_is_normalized() {
        let now = Instant::now();
        let quarantine = broken(now);
        assert_eq!(quarantine.enter(now + seconds(4)), Err(seconds(6)));
        let trouble = Trouble {
            rest: seconds(6),
            cause: Limit::Trap,
            is_doubt: false,
        };
        assert_eq!(quarantine.trouble(now + seconds(4)), Some(trouble));
        let later = now + seconds(10);
        assert_eq!(quarantine.enter(later), Ok(Entry::Alone));
        assert!(quarantine.completed(later));
        assert_eq!(quarantine.enter(later), Ok(Entry::Beside));
        assert_eq!(quarantine.trouble(later), None);
    }

    #[test]
    fn rests_twice_as_long_after_each_failure_behind_a_rest_up_to_the_longest() {
        let mut now = Instant::now();
        let quarantine = broken(now);
        let mut lengths = Vec::new();
        for _ in 0..7 {
            now += quarantine.trouble(now).unwrap().rest;
            assert_eq!(quarantine.enter(now), Ok(Entry::Alone));
            match quarantine.failed(Limit::Trap, now) {
                Some(Consequence::Rests(rest)) => lengths.push(rest.as_secs()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(lengths, [20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn forgets_the_last_rest_when_all_went_well_for_long() {
        let now = Instant::now();
        let quarantine = broken(now);
        let recovered = now + seconds(10);
        assert!(quarantine.completed(recovered));
        let much_later = recovered + seconds(300);
        for _ in 0..4 {
            assert_eq!(quarantine.failed(Limit::Trap, much_later), None);
        }
        assert_eq!(quarantine.failed(Limit::Trap, much_later), rests(10));
    }

    #[test]
    fn failures_far_apart_do_no_harm() {
        let mut now = Instant::now();
        let quarantine = sound(now);
        for _ in 0..20 {
            assert_eq!(quarantine.failed(Limit::Trap, now), None);
            assert_eq!(quarantine.failed_unproven(Limit::Trap, now), None);
            now += seconds(10);
        }
    }

    #[test]
    fn bad_deliveries_cannot_silence_a_plugin_that_works_for_others() {
        let now = Instant::now();
        let quarantine = sound(now);
        for _ in 0..100 {
            quarantine.completed(now);
            assert_eq!(quarantine.failed(Limit::Trap, now), None);
            quarantine.completed(now);
        }
    }

    #[test]
    fn strangers_neither_begin_nor_lengthen_nor_end_a_rest() {
        let now = Instant::now();
        let quarantine = sound(now);
        assert_eq!(quarantine.failed(Limit::Trap, now), None);
        for _ in 0..100 {
            assert_eq!(quarantine.failed_unproven(Limit::Trap, now), None);
        }
        assert_eq!(quarantine.enter(now), Ok(Entry::Beside));
        let quarantine = broken(now);
        let later = now + seconds(10);
        for _ in 0..100 {
            assert_eq!(quarantine.failed_unproven(Limit::Trap, later), None);
            assert_eq!(quarantine.enter(later), Ok(Entry::Alone));
        }
        assert!(quarantine.completed(later));
    }

    #[test]
    fn nothing_but_unproven_failures_raises_a_doubt_and_a_proof_that_holds_ends_it() {
        let now = Instant::now();
        for ends in [
            |quarantine: &Quarantine, now| assert!(quarantine.completed(now)),
            |quarantine: &Quarantine, now| assert_eq!(quarantine.failed(Limit::Trap, now), None),
        ] {
            let quarantine = doubted(now);
            assert_eq!(quarantine.enter(now), Ok(Entry::Alone));
            let trouble = Trouble {
                rest: Duration::ZERO,
                cause: Limit::Memory,
                is_doubt: true,
            };
            assert_eq!(quarantine.trouble(now), Some(trouble));
            ends(&quarantine, now);
            assert_eq!(quarantine.enter(now), Ok(Entry::Beside));
            // Something is proven in this window.
            for _ in 0..10 {
                assert_eq!(quarantine.failed_unproven(Limit::Memory, now), None);
            }
            assert_eq!(quarantine.trouble(now), None);
        }
    }

    #[test]
    fn a_doubt_lasts_as_long_as_such_failures_come() {
        let mut now = Instant::now();
        let quarantine = doubted(now);
        for _ in 0..10 {
            now += seconds(29);
            assert_eq!(quarantine.enter(now), Ok(Entry::Alone));
            assert_eq!(quarantine.failed_unproven(Limit::Memory, now), None);
        }
        now += seconds(30);
        assert_eq!(quarantine.enter(now), Ok(Entry::Beside));
        assert!(!quarantine.completed(now), "it was over already");
    }

    #[test]
    fn late_ends_of_earlier_deliveries_change_nothing() {
        let now = Instant::now();
        let quarantine = broken(now);
        assert_eq!(quarantine.failed(Limit::Trap, now), None);
        assert!(!quarantine.completed(now));
        assert!(quarantine.enter(now).is_err());
    }

    #[test]
    fn names_the_key_that_is_out_of_range() {
        let raw: RawQuarantineConfig = toml::from_str("longest_rest_seconds = 1").unwrap();
        assert_eq!(
            QuarantineConfig::try_from(raw).unwrap_err().to_string(),
            "`host.plugins.quarantine.longest_rest_seconds` is 1, it must be between 10 and 86400"
        );
    }
}
