//! Puts an account whose deliveries keep failing in a plugin in quarantine, and ends the quarantine automatically.
//!
//! A trap costs its sender an error and the host up to the full CPU limit. Its consequence depends on whether the proofs of
//! the delivery had held:
//!
//! - If they had, the account's own sender has sent it. When at least half of such deliveries in a window fail, the account is
//!   *in quarantine* for the plugin: all its deliveries are turned away at once. When the time of the quarantine is over, they
//!   are let through again, but one at a time, as *probes*: the first one whose proofs hold decides. If it is normalized, the
//!   account is served again; if it fails, the quarantine begins again and lasts twice as long. Other accounts are still served:
//!   otherwise anyone who has the secret of one could silence all of them with deliveries crafted for that. If the plugin itself
//!   is broken, they are put in quarantine as soon as their own deliveries have shown it.
//!   A quarantine that no delivery ends is over when it has been open to probes for as long as the longest lasts: then the sender
//!   has given up, and nothing is turned away.
//! - If they had not, or if they need nothing but public knowledge, anyone can have sent it, and it must not cause genuine
//!   deliveries to be turned away. Such failures are only counted.
//!
//! When several failures occur in a window that no quarantine has dealt with, and no proven delivery is normalized in it, the
//! plugin may be broken for all accounts, or all its deliveries may come from strangers: it is *in doubt*. Its deliveries then go through one at a
//! time, which bounds what they cost; each waits for its slot as always. The first proven delivery that is normalized ends the
//! doubt, and so does a whole window without such a failure.
//!
//! So only genuine deliveries of an account start or prolong its quarantine, and only such a delivery ends it.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use event::settings::{OutOfRange, number};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{error::Limit, guest::WAITING_PER_SLOT};

/// When an account is put in quarantine, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineConfig {
    /// Failures of an account's proven deliveries within the window that put it in quarantine, if at least half of these
    /// deliveries fail; also failures of any deliveries that put the plugin in doubt, if no proven delivery is normalized.
    pub failures: u32,
    /// The window.
    pub window: Duration,
    /// Length of the first quarantine.
    pub first: Duration,
    /// Maximum length of a quarantine.
    pub longest: Duration,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self {
            // One bad delivery and its retries are not yet a broken plugin.
            failures: 5,
            // Covers the first retries of most providers.
            window: Duration::from_secs(30),
            // Short enough that a passing fault costs one retry of the provider.
            first: Duration::from_secs(10),
            // An account whose deliveries work again is served within five minutes even if the plugin's file is not replaced.
            longest: Duration::from_secs(300),
        }
    }
}

impl QuarantineConfig {
    /// Returns a configuration for tools: each delivery is judged on its own, however many before it have failed.
    pub fn never() -> Self {
        Self {
            failures: *FAILURES.end(),
            ..Self::default()
        }
    }
}

/// [`QuarantineConfig`] as configured; absent values keep their defaults.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawQuarantineConfig {
    failures: Option<u32>,
    window_seconds: Option<u64>,
    first_seconds: Option<u64>,
    longest_seconds: Option<u64>,
}

/// Failures that can be configured. With a number that is never reached, no account is ever put in quarantine.
const FAILURES: RangeInclusive<u32> = 1..=u32::MAX;

/// Seconds that can be configured. Beyond a day, a mistyped unit is more likely than an intention.
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
        let first = seconds("first_seconds", raw.first_seconds, default.first, SECONDS)?;
        Ok(Self {
            failures: number(SECTION, "failures", failures, FAILURES)?,
            window: seconds("window_seconds", raw.window_seconds, default.window, SECONDS)?,
            first,
            longest: seconds(
                "longest_seconds",
                raw.longest_seconds,
                default.longest,
                first.as_secs()..=*SECONDS.end(),
            )?,
        })
    }
}

/// How a delivery is let through.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    /// Concurrently with others.
    Beside,
    /// As its account's probe: while no other delivery of the account holds the permit.
    AloneOfAccount(Probe),
    /// While no other delivery of the plugin is in flight.
    Alone,
}

impl Entry {
    /// Returns whether a delivery that waited to be let through like this may be let through as `wanted`.
    pub(crate) fn is_enough_for(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Alone, _) | (_, Self::Beside) | (Self::AloneOfAccount(_), Self::AloneOfAccount(_)) => true,
            (Self::Beside, _) | (Self::AloneOfAccount(_), Self::Alone) => false,
        }
    }
}

/// The consequence of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// The account is in quarantine for this long.
    Quarantined(Duration),
    /// The plugin is in doubt.
    InDoubt,
}

/// The turn of an account's probe.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    /// One permit, for the probe.
    pub(crate) permit: Arc<Semaphore>,
    /// A permit for each delivery that may wait for it.
    pub(crate) waiting: Arc<Semaphore>,
}

/// Why a plugin does not serve all its deliveries normally: at least one of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The accounts in quarantine, sorted by name.
    pub(crate) accounts: Vec<QuarantinedAccount>,
    /// The limit that was broken last, if the plugin is in doubt.
    pub(crate) doubt: Option<Limit>,
}

/// An account in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuarantinedAccount {
    /// Its name.
    pub(crate) account: String,
    /// How much longer its deliveries are turned away; zero when they go through one at a time.
    pub(crate) remaining: Duration,
    /// The limit whose breach started the quarantine.
    pub(crate) cause: Limit,
}

/// Which accounts one plugin serves, and which are in quarantine for it.
#[derive(Debug)]
pub(crate) struct Quarantine {
    config: QuarantineConfig,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Results of all deliveries, except failures that a quarantine has dealt with.
    window: Window,
    /// When the doubt about the plugin ends, unless another delivery ends or prolongs it.
    doubted_until: Option<Instant>,
    /// The limit that was broken last; meaningless before the first failure.
    cause: Limit,
    /// The accounts with a proven delivery that failed or was normalized, by name.
    accounts: BTreeMap<String, AccountState>,
}

/// The state of one account.
#[derive(Debug)]
struct AccountState {
    /// Results of its proven deliveries.
    window: Window,
    /// Its deliveries are turned away until then, and go through one at a time afterwards; `None` while it is not in quarantine.
    until: Option<Instant>,
    /// Length of the latest quarantine.
    length: Option<Duration>,
    /// The limit whose breach started the latest quarantine; meaningless before the first.
    cause: Limit,
    /// When a successful probe ended the latest quarantine.
    recovered_at: Option<Instant>,
    probe: Probe,
}

/// Counts the results of recent deliveries.
#[derive(Debug)]
struct Window {
    began: Instant,
    /// Deliveries that failed.
    failures: u32,
    /// Proven deliveries that were normalized.
    completions: u32,
}

impl Window {
    fn new(began: Instant) -> Self {
        Self {
            began,
            failures: 0,
            completions: 0,
        }
    }

    /// Starts a new window if this one is over.
    fn roll(&mut self, length: Duration, now: Instant) {
        if now.saturating_duration_since(self.began) >= length {
            *self = Self::new(now);
        }
    }
}

impl AccountState {
    fn new(now: Instant) -> Self {
        Self {
            window: Window::new(now),
            until: None,
            length: None,
            cause: Limit::Trap,
            recovered_at: None,
            probe: Probe {
                permit: Arc::new(Semaphore::new(1)),
                waiting: Arc::new(Semaphore::new(WAITING_PER_SLOT)),
            },
        }
    }

    /// Ends a quarantine that no probe has ended or prolonged for so long after its time that the sender has given up.
    fn lapse(&mut self, config: &QuarantineConfig, now: Instant) {
        if let Some(ended) = self.until.map(|until| until + config.longest)
            && ended <= now
        {
            self.until = None;
            self.window = Window::new(now);
            self.recovered_at = Some(ended);
        }
    }

    /// Records a failure. If it starts or prolongs a quarantine, returns the length of that and how many earlier failures led to it.
    fn failed(&mut self, limit: Limit, config: &QuarantineConfig, now: Instant) -> Option<(Duration, u32)> {
        let is_probe = self.until.is_some();
        if !is_probe {
            self.window.roll(config.window, now);
            self.window.failures += 1;
            if self.window.failures < config.failures || self.window.failures < self.window.completions {
                return None;
            }
        }
        // A probe that fails prolongs the quarantine. An account whose deliveries fail again soon after one has not really
        // recovered.
        let soon = self
            .recovered_at
            .is_none_or(|recovered| now.saturating_duration_since(recovered) < config.longest);
        let length = match self.length {
            Some(previous) if is_probe || soon => (previous * 2).min(config.longest),
            _ => config.first,
        };
        self.length = Some(length);
        self.cause = limit;
        self.until = Some(now + length);
        let earlier = if is_probe { 0 } else { self.window.failures - 1 };
        Some((length, earlier))
    }

    /// Records a delivery that was normalized. Returns whether this ends a quarantine.
    fn completed(&mut self, config: &QuarantineConfig, now: Instant) -> bool {
        let was_in_quarantine = self.until.take().is_some();
        if was_in_quarantine {
            self.window = Window::new(now);
            self.recovered_at = Some(now);
        } else {
            self.window.roll(config.window, now);
        }
        self.window.completions += 1;
        was_in_quarantine
    }
}

impl State {
    /// Returns the state of the account with this name. Only existing accounts are asked for, so strangers cannot make the map
    /// grow.
    fn account(&mut self, name: &str, config: &QuarantineConfig, now: Instant) -> &mut AccountState {
        if !self.accounts.contains_key(name) {
            self.accounts.insert(name.to_owned(), AccountState::new(now));
        }
        let account = self.accounts.get_mut(name).expect("put there just above");
        account.lapse(config, now);
        account
    }

    /// Records a failure of a delivery from any sender. Returns whether it puts the plugin in doubt.
    fn doubts(&mut self, limit: Limit, config: &QuarantineConfig, now: Instant) -> bool {
        self.window.roll(config.window, now);
        self.window.failures += 1;
        self.cause = limit;
        let was_in_doubt = is_ahead(self.doubted_until, now);
        let nothing_goes_well = self.window.failures >= config.failures && self.window.completions == 0;
        if was_in_doubt || nothing_goes_well {
            self.doubted_until = Some(now + config.window);
        }
        !was_in_doubt && nothing_goes_well
    }
}

impl Quarantine {
    pub(crate) fn new(config: QuarantineConfig, now: Instant) -> Self {
        Self {
            config,
            state: Mutex::new(State {
                window: Window::new(now),
                doubted_until: None,
                cause: Limit::Trap,
                accounts: BTreeMap::new(),
            }),
        }
    }

    /// Returns how a delivery of this account may be let through, or how much longer the account's deliveries are turned away.
    pub(crate) fn enter(&self, account: &str, now: Instant) -> Result<Entry, Duration> {
        let mut state = self.state();
        let is_in_doubt = is_ahead(state.doubted_until, now);
        let account = state.accounts.get_mut(account);
        let in_quarantine = account.and_then(|account| {
            account.lapse(&self.config, now);
            Some((account.until?, &account.probe))
        });
        match in_quarantine {
            Some((until, _)) if now < until => Err(until - now),
            _ if is_in_doubt => Ok(Entry::Alone),
            Some((_, probe)) => Ok(Entry::AloneOfAccount(probe.clone())),
            None => Ok(Entry::Beside),
        }
    }

    /// Records that a delivery of this account whose proofs had held broke this limit.
    pub(crate) fn failed(&self, account: &str, limit: Limit, now: Instant) -> Option<Consequence> {
        let mut state = self.state();
        let of = state.account(account, &self.config, now);
        // A delivery that was let through before the quarantine and finishes only now says nothing new.
        if is_ahead(of.until, now) {
            return None;
        }
        if let Some((length, earlier)) = of.failed(limit, &self.config, now) {
            // The quarantine is enough: the failures of one account alone are no reason to doubt the plugin, neither this one nor
            // the earlier ones that led to it.
            state.window.failures = state.window.failures.saturating_sub(earlier);
            return Some(Consequence::Quarantined(length));
        }
        let doubts = state.doubts(limit, &self.config, now);
        doubts.then_some(Consequence::InDoubt)
    }

    /// Records that a delivery that anyone can have sent broke this limit.
    pub(crate) fn failed_unproven(&self, limit: Limit, now: Instant) -> Option<Consequence> {
        let doubts = self.state().doubts(limit, &self.config, now);
        doubts.then_some(Consequence::InDoubt)
    }

    /// Records that a delivery of this account whose proofs had held was normalized. Returns whether this ends a quarantine or a
    /// doubt.
    pub(crate) fn completed(&self, account: &str, now: Instant) -> bool {
        let mut state = self.state();
        let of = state.account(account, &self.config, now);
        if is_ahead(of.until, now) {
            return false;
        }
        let ends_quarantine = of.completed(&self.config, now);
        state.window.roll(self.config.window, now);
        state.window.completions += 1;
        is_ahead(state.doubted_until.take(), now) || ends_quarantine
    }

    /// Forgets the accounts that no longer exist: no delivery could end their quarantine any more.
    pub(crate) fn keep_accounts(&self, is_there: impl Fn(&str) -> bool) {
        self.state().accounts.retain(|name, _| is_there(name));
    }

    /// Returns why the plugin does not serve all its deliveries normally; `None` while it does.
    pub(crate) fn trouble(&self, now: Instant) -> Option<Trouble> {
        let mut state = self.state();
        let accounts: Vec<QuarantinedAccount> = state
            .accounts
            .iter_mut()
            .filter_map(|(name, account)| {
                account.lapse(&self.config, now);
                Some(QuarantinedAccount {
                    account: name.clone(),
                    remaining: account.until?.saturating_duration_since(now),
                    cause: account.cause,
                })
            })
            .collect();
        let doubt = is_ahead(state.doubted_until, now).then_some(state.cause);
        let is_in_trouble = !accounts.is_empty() || doubt.is_some();
        is_in_trouble.then_some(Trouble { accounts, doubt })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while the lock is held; even a poisoned state would be consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_ahead(time: Option<Instant>, now: Instant) -> bool {
    time.is_some_and(|time| now < time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: &str = "us";
    const THEM: &str = "them";

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn quarantined(count: u64) -> Option<Consequence> {
        Some(Consequence::Quarantined(seconds(count)))
    }

    fn in_doubt(limit: Limit) -> Option<Trouble> {
        Some(Trouble {
            accounts: Vec::new(),
            doubt: Some(limit),
        })
    }

    /// Returns how a delivery of our account may be let through.
    fn enter(quarantine: &Quarantine, now: Instant) -> Result<&'static str, Duration> {
        enter_as(quarantine, US, now)
    }

    fn enter_as(quarantine: &Quarantine, account: &str, now: Instant) -> Result<&'static str, Duration> {
        quarantine.enter(account, now).map(|entry| match entry {
            Entry::Beside => "beside",
            Entry::AloneOfAccount(_) => "alone of its account",
            Entry::Alone => "alone",
        })
    }

    fn sound(now: Instant) -> Quarantine {
        Quarantine::new(QuarantineConfig::default(), now)
    }

    fn broken(now: Instant) -> Quarantine {
        let quarantine = sound(now);
        for _ in 0..4 {
            assert_eq!(quarantine.failed(US, Limit::Trap, now), None);
        }
        assert_eq!(quarantine.failed(US, Limit::Trap, now), quarantined(10));
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
    fn repeated_failures_start_a_quarantine_and_a_delivery_that_is_normalized_ends_it() {
        let now = Instant::now();
        let quarantine = broken(now);
        assert_eq!(enter(&quarantine, now + seconds(4)), Err(seconds(6)));
        let account = QuarantinedAccount {
            account: US.to_owned(),
            remaining: seconds(6),
            cause: Limit::Trap,
        };
        let trouble = Trouble {
            accounts: vec![account],
            doubt: None,
        };
        assert_eq!(quarantine.trouble(now + seconds(4)), Some(trouble));
        let later = now + seconds(10);
        assert_eq!(enter(&quarantine, later), Ok("alone of its account"));
        assert!(quarantine.completed(US, later));
        assert_eq!(enter(&quarantine, later), Ok("beside"));
        assert_eq!(quarantine.trouble(later), None);
    }

    #[test]
    fn each_failed_probe_doubles_the_quarantine_up_to_the_longest() {
        let mut now = Instant::now();
        let quarantine = broken(now);
        let mut lengths = Vec::new();
        for _ in 0..7 {
            now += enter(&quarantine, now).unwrap_err();
            assert_eq!(enter(&quarantine, now), Ok("alone of its account"));
            match quarantine.failed(US, Limit::Trap, now) {
                Some(Consequence::Quarantined(length)) => lengths.push(length.as_secs()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(lengths, [20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn a_quarantine_long_after_the_last_one_is_short_again() {
        let now = Instant::now();
        let quarantine = broken(now);
        let recovered = now + seconds(10);
        assert!(quarantine.completed(US, recovered));
        let much_later = recovered + seconds(300);
        for _ in 0..4 {
            assert_eq!(quarantine.failed(US, Limit::Trap, much_later), None);
        }
        assert_eq!(quarantine.failed(US, Limit::Trap, much_later), quarantined(10));
        // Probes that fail prolong this quarantine too.
        let probe = much_later + seconds(10);
        assert_eq!(quarantine.failed(US, Limit::Trap, probe), quarantined(20));
        assert_eq!(
            quarantine.failed(US, Limit::Trap, probe + seconds(20)),
            quarantined(40)
        );
    }

    #[test]
    fn a_quarantine_whose_sender_has_given_up_is_over() {
        let now = Instant::now();
        let quarantine = broken(now);
        let lapsed = now + seconds(10 + 300);
        let before = lapsed - Duration::from_millis(1);
        assert_eq!(enter(&quarantine, before), Ok("alone of its account"));
        assert!(quarantine.trouble(before).is_some());
        assert_eq!(quarantine.trouble(lapsed), None);
        assert_eq!(enter(&quarantine, lapsed), Ok("beside"));
        // It has not shown that it works again: failures soon after start a longer one.
        for _ in 0..4 {
            assert_eq!(quarantine.failed(US, Limit::Trap, lapsed), None);
        }
        assert_eq!(quarantine.failed(US, Limit::Trap, lapsed), quarantined(20));

        let quarantine = broken(now);
        assert!(!quarantine.completed(US, lapsed), "nothing was left to end");
    }

    #[test]
    fn what_put_an_account_in_quarantine_does_not_put_the_plugin_in_doubt() {
        let now = Instant::now();
        let quarantine = broken(now);
        assert_eq!(quarantine.failed(THEM, Limit::Trap, now), None);
        assert_eq!(quarantine.failed_unproven(Limit::Trap, now), None);
        assert_eq!(enter_as(&quarantine, THEM, now), Ok("beside"));
    }

    #[test]
    fn failures_far_apart_do_no_harm() {
        let mut now = Instant::now();
        let quarantine = sound(now);
        for _ in 0..20 {
            assert_eq!(quarantine.failed(US, Limit::Trap, now), None);
            assert_eq!(quarantine.failed_unproven(Limit::Trap, now), None);
            now += seconds(15);
        }
    }

    #[test]
    fn bad_deliveries_cannot_silence_a_plugin_that_works_for_others() {
        let now = Instant::now();
        let quarantine = sound(now);
        for _ in 0..100 {
            quarantine.completed(US, now);
            assert_eq!(quarantine.failed(US, Limit::Trap, now), None);
            quarantine.completed(US, now);
        }
    }

    #[test]
    fn strangers_neither_start_nor_prolong_nor_end_a_quarantine() {
        let now = Instant::now();
        let quarantine = sound(now);
        assert!(!quarantine.completed(US, now));
        for _ in 0..100 {
            assert_eq!(quarantine.failed_unproven(Limit::Trap, now), None);
        }
        assert_eq!(enter(&quarantine, now), Ok("beside"));
        let quarantine = broken(now);
        let later = now + seconds(10);
        for _ in 0..100 {
            assert!(enter(&quarantine, later).is_ok());
            quarantine.failed_unproven(Limit::Trap, later);
        }
        assert_eq!(enter(&quarantine, later), Ok("alone"));
        assert!(!quarantine.trouble(later).unwrap().accounts.is_empty());
        assert!(quarantine.completed(US, later));
        assert_eq!(enter(&quarantine, later), Ok("beside"));
    }

    #[test]
    fn an_account_is_in_quarantine_alone_and_probed_alone() {
        let now = Instant::now();
        let quarantine = broken(now);
        assert!(enter(&quarantine, now).is_err());
        assert_eq!(enter_as(&quarantine, THEM, now), Ok("beside"));
        assert!(!quarantine.completed(THEM, now), "it does not end our quarantine");
        let mut later = now;
        for _ in 0..10 {
            later += enter(&quarantine, later).unwrap_err();
            assert_eq!(enter(&quarantine, later), Ok("alone of its account"));
            assert_eq!(enter_as(&quarantine, THEM, later), Ok("beside"));
            quarantine.failed(US, Limit::Trap, later);
        }
        // The other account is judged by its own deliveries.
        for _ in 0..4 {
            assert_eq!(quarantine.failed(THEM, Limit::Memory, later), None);
        }
        assert_eq!(quarantine.failed(THEM, Limit::Memory, later), quarantined(10));
        let Some(Trouble { accounts, .. }) = quarantine.trouble(later) else {
            panic!("{quarantine:?}");
        };
        let accounts = accounts
            .iter()
            .map(|account| (account.account.as_str(), account.cause));
        let expected = [(THEM, Limit::Memory), (US, Limit::Trap)];
        assert_eq!(accounts.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_account_that_is_gone_is_forgotten_with_its_quarantine() {
        let now = Instant::now();
        let quarantine = broken(now);
        quarantine.keep_accounts(|account| account == US);
        assert!(quarantine.trouble(now).is_some());
        quarantine.keep_accounts(|account| account == THEM);
        assert_eq!(quarantine.trouble(now), None);
    }

    #[test]
    fn failures_of_several_accounts_raise_a_doubt_before_any_quarantine() {
        let now = Instant::now();
        let quarantine = sound(now);
        let accounts = ["a", "b", "c", "d"];
        for account in accounts {
            assert_eq!(quarantine.failed(account, Limit::Trap, now), None);
        }
        let doubt = Some(Consequence::InDoubt);
        assert_eq!(quarantine.failed("a", Limit::CpuTime, now), doubt);
        assert_eq!(quarantine.trouble(now), in_doubt(Limit::CpuTime));
        assert_eq!(enter(&quarantine, now), Ok("alone"));
    }

    #[test]
    fn one_that_is_proven_and_goes_well_ends_a_doubt() {
        let now = Instant::now();
        let quarantine = doubted(now);
        assert_eq!(quarantine.failed(US, Limit::Memory, now), None);
        assert_eq!(enter(&quarantine, now), Ok("alone"), "a failure does not end it");
        assert_eq!(quarantine.trouble(now), in_doubt(Limit::Memory));
        assert!(quarantine.completed(US, now));
        assert_eq!(enter(&quarantine, now), Ok("beside"));
        for _ in 0..10 {
            assert_eq!(quarantine.failed_unproven(Limit::Memory, now), None);
        }
        assert_eq!(quarantine.trouble(now), None);
    }

    #[test]
    fn a_doubt_lasts_as_long_as_such_failures_come() {
        let mut now = Instant::now();
        let quarantine = doubted(now);
        for _ in 0..10 {
            now += seconds(29);
            assert_eq!(enter(&quarantine, now), Ok("alone"));
            assert_eq!(quarantine.failed_unproven(Limit::Memory, now), None);
        }
        now += seconds(30);
        assert_eq!(enter(&quarantine, now), Ok("beside"));
        assert!(!quarantine.completed(US, now), "it was over already");
    }

    #[test]
    fn late_ends_of_earlier_deliveries_change_nothing() {
        let now = Instant::now();
        let quarantine = broken(now);
        assert_eq!(quarantine.failed(US, Limit::Trap, now), None);
        assert!(!quarantine.completed(US, now));
        assert!(enter(&quarantine, now).is_err());
    }

    #[test]
    fn names_the_key_that_is_out_of_range() {
        let raw: RawQuarantineConfig = toml::from_str("longest_seconds = 1").unwrap();
        assert_eq!(
            QuarantineConfig::try_from(raw).unwrap_err().to_string(),
            "`host.plugins.quarantine.longest_seconds` is 1, it must be between 10 and 86400"
        );
    }
}
