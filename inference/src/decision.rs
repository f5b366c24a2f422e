//! The decision: computes the minute of arrival from a question and what is known about the person. Free of side effects.
//!
//! Guards and breakers narrow the window's minutes first, and the best of the remaining minutes is chosen, so a guard never
//! pushes mail to its own boundary. Minutes at which no mail is expected to arrive, because of the provider's delay, are not
//! candidates either.

mod breakers;
mod crowd;
mod experiment;
mod guards;
mod hot_path;

use std::ops::Range;

use event::{
    MAX_AHEAD_MS, Timestamp,
    grid::{self, MINUTE_MS},
    profile::{Profile, Signal},
};
use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use breakers::{Breaker, open as open_breakers, unsubscribed};
pub use crowd::one_of_the_best;
pub(crate) use crowd::{Capacity, FullMinutes, Moved, NEARLY_EQUAL, Room};
pub(crate) use experiment::{Draw, Drawn};
pub(crate) use guards::{DAY_MINUTES, DaySpan, LocalRules, date, day_number};
pub(crate) use hot_path::WarmPath;

use crate::{
    config::PolicyConfig,
    latency::{ExpectedLatency, WeekOfLatency},
    model::Curve,
};
use guards::{Minutes, first_minute_at, moment};

/// How far ahead the first allowed moment is searched for if a window has none: a year and a month, so that a rule that
/// repeats yearly is covered to its end.
const SEARCH_MS: i64 = 400 * DAY_MINUTES * MINUTE_MS;

/// Returns the moment up to which known events count. If `now` is the server's clock, every event has happened: one from a
/// provider whose clock is ahead counts as happening now. If the request set `now`, nothing after it is considered.
pub(crate) fn horizon(now: Timestamp, now_was_told: bool) -> Timestamp {
    if now_was_told {
        now
    } else {
        now.plus_millis(MAX_AHEAD_MS)
    }
}

/// A signal that the caller reported in the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SeenSignal {
    pub(crate) signal: Signal,
    pub(crate) at: Timestamp,
}

/// What is asked: checked, and without any raw identity.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// The moment that counts as now.
    pub(crate) now: Timestamp,
    /// Whether the request set `now`: a test or a replay, which must not use what happened later.
    pub(crate) now_was_told: bool,
    /// The window of arrival, half-open.
    pub(crate) window: Range<Timestamp>,
    /// Earliest moment of arrival.
    pub(crate) not_before: Option<Timestamp>,
    /// Latest moment of arrival.
    pub(crate) deadline: Option<Timestamp>,
    /// Rules in local time.
    pub(crate) local: LocalRules,
    /// Minimum time between the last mail, sent or delivered, and this one.
    pub(crate) minimum_gap_ms: Option<i64>,
    /// What the caller knows about the person's latest actions.
    pub(crate) signals: Vec<SeenSignal>,
}

/// What a decision is based on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) curve: &'a Curve,
    pub(crate) latency: &'a WeekOfLatency,
    pub(crate) policy: &'a PolicyConfig,
}

/// How many minutes a guard removed from those that the guards before it had left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct GuardEffect {
    /// `not_before`, `deadline`, a breaker's name, `minimum_gap`, `latency`, `allowed_hours`, `quiet_hours` or
    /// `blackout_days`.
    #[schema(example = "quiet_hours")]
    pub guard: &'static str,
    /// Minutes removed.
    pub minutes_removed: i64,
}

/// The window after all guards.
#[derive(Debug, Clone, PartialEq)]
struct Narrowed {
    left: Minutes,
    minutes_asked: i64,
    effects: Vec<GuardEffect>,
}

/// A decision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    /// Arrival: the start of a minute.
    pub(crate) arrive_at: Timestamp,
    /// When to hand the mail to the provider.
    pub(crate) trigger_at: Timestamp,
    /// The delay between the two.
    pub(crate) latency: ExpectedLatency,
    /// The chosen minute's score times the hot-path factor.
    pub(crate) value: f64,
    /// The hot-path factor at the chosen minute.
    pub(crate) factor: f64,
    /// See [`Curve::confidence`].
    pub(crate) confidence: f64,
    /// The time after arrival that the confidence refers to.
    pub(crate) confidence_span_seconds: i64,
    /// The minutes left to choose from.
    pub(crate) candidates: Vec<Range<Timestamp>>,
    /// Minutes in the requested window.
    pub(crate) minutes_asked: i64,
    /// Minutes left to choose from.
    pub(crate) minutes_left: i64,
    /// What the guards removed.
    pub(crate) guards: Vec<GuardEffect>,
    /// Breakers that are open now.
    pub(crate) breakers: Vec<Breaker>,
    /// Hot paths that are warm now.
    pub(crate) hot_paths: Vec<WarmPath>,
    /// What the experiment drew; `None` for the model's choice outside the experiment.
    pub(crate) experiment: Option<Drawn>,
    /// Where the decision was before it had to make room; `None` if it did not move.
    pub(crate) moved: Option<Moved>,
    /// The allowed minutes that were full, if there were any.
    pub(crate) full_minutes: Option<FullMinutes>,
}

/// No mail may arrive within the window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Suppressed {
    /// The guard or breaker that removed the last minutes.
    pub(crate) reason: &'static str,
    /// The first moment that all rules except the window allow, within [`SEARCH_MS`].
    pub(crate) first_allowed_at: Option<Timestamp>,
}

impl Choice {
    /// Returns the slot of the week, 0 to 10,079.
    pub(crate) fn target_minute(&self) -> usize {
        grid::slot(self.arrive_at)
    }

    /// Returns the hot-path factor at any moment.
    pub(crate) fn factor_at(&self, moment: Timestamp) -> f64 {
        hot_path::factor(&self.hot_paths, moment)
    }

    /// Returns what a mail that arrives at `moment` is worth, hot paths included.
    fn value_at(&self, moment: Timestamp, facts: Facts<'_>) -> f64 {
        facts.curve.score(moment) * self.factor_at(moment)
    }

    /// Switches to another candidate.
    fn arrive(&mut self, at: Timestamp, facts: Facts<'_>) {
        self.arrive_at = at;
        self.latency = latency_at(at, facts);
        self.trigger_at = at.plus_millis(-self.latency.as_millis());
        self.factor = self.factor_at(at);
        self.value = self.value_at(at, facts);
        self.confidence = facts.curve.confidence(at, &self.candidates);
    }

    /// Returns whether a minute could have been chosen.
    pub(crate) fn was_candidate(&self, minute: Timestamp) -> bool {
        self.candidates.iter().any(|range| range.contains(&minute))
    }
}

/// Chooses the best minute of the window that the guards and breakers allow.
///
/// # Errors
/// [`Suppressed`] if the guards and breakers leave no minute of the window.
pub(crate) fn decide(question: &Question, facts: Facts<'_>) -> Result<Choice, Suppressed> {
    let breakers = breakers::open(
        facts.profile,
        &question.signals,
        facts.policy,
        question.now,
        question.now_was_told,
    );
    let window = Minutes::starting_in(question.window.start, question.window.end);
    let narrowed = narrow(window, question, facts, &breakers);
    if narrowed.left.is_empty() {
        let last = narrowed.effects.last();
        return Err(Suppressed {
            reason: last
                .expect("a window has minutes, so a guard took the last")
                .guard,
            first_allowed_at: first_allowed(question, facts, &breakers),
        });
    }
    let hot_paths = hot_path::warm(&question.signals, facts, question.now);
    let heat = |moment| hot_path::factor(&hot_paths, moment);
    let candidates = narrowed.left.to_ranges();
    let best = if hot_paths.is_empty() {
        facts.curve.best(&candidates)
    } else {
        facts.curve.best_weighted(&candidates, heat)
    };
    let best = best.expect("there is a best among at least one candidate");
    let latency = latency_at(best.at, facts);
    Ok(Choice {
        arrive_at: best.at,
        trigger_at: best.at.plus_millis(-latency.as_millis()),
        latency,
        value: best.score,
        factor: heat(best.at),
        confidence: facts.curve.confidence(best.at, &candidates),
        confidence_span_seconds: facts.curve.span_ms() / 1_000,
        minutes_asked: narrowed.minutes_asked,
        minutes_left: narrowed.left.count(),
        candidates,
        guards: narrowed.effects,
        breakers,
        hot_paths,
        experiment: None,
        moved: None,
        full_minutes: None,
    })
}

/// Applies all guards to `window`, breakers first: if several rules would each leave nothing, the reason given is the most
/// important one.
fn narrow(window: Minutes, question: &Question, facts: Facts<'_>, breakers: &[Breaker]) -> Narrowed {
    let mut narrowed = Narrowed {
        minutes_asked: window.count(),
        left: window,
        effects: Vec::new(),
    };
    for breaker in breakers {
        narrowed.remove_before(breaker.reason, breaker.until);
    }
    if let Some(not_before) = question.not_before {
        narrowed.remove_before("not_before", not_before);
    }
    if let Some(deadline) = question.deadline {
        // A mail that arrives exactly at the deadline is in time.
        let end = narrowed.left.hull().end;
        narrowed.remove(
            "deadline",
            &Minutes::between(first_minute_at(deadline.plus_millis(1)), end),
        );
    }
    if let Some(gap_ms) = question.minimum_gap_ms
        && let Some(last) = last_mail(facts.profile, question)
    {
        narrowed.remove_before("minimum_gap", last.plus_millis(gap_ms));
    }
    narrowed.remove(
        "latency",
        &unreachable_minutes(&narrowed.left, question.now, facts.latency),
    );
    let local = &question.local;
    narrowed.remove("allowed_hours", &local.outside_allowed(&narrowed.left));
    narrowed.remove("quiet_hours", &local.quiet(&narrowed.left));
    narrowed.remove("blackout_days", &local.blackout(&narrowed.left));
    narrowed
}

/// Returns the last moment up to now at which the person may have received a mail.
fn last_mail(profile: &Profile, question: &Question) -> Option<Timestamp> {
    let last = profile.last_mail_at_latest(horizon(question.now, question.now_was_told));
    last.map(|last| last.min(question.now))
}

impl Narrowed {
    fn remove(&mut self, guard: &'static str, minutes: &Minutes) {
        let left = self.left.subtract(minutes);
        let minutes_removed = self.left.count() - left.count();
        if minutes_removed > 0 {
            self.effects.push(GuardEffect {
                guard,
                minutes_removed,
            });
            self.left = left;
        }
    }

    fn remove_before(&mut self, guard: &'static str, moment: Timestamp) {
        let start = self.left.hull().start;
        self.remove(guard, &Minutes::between(start, first_minute_at(moment)));
    }
}

/// Returns the minutes at which no mail is expected to arrive that is triggered from `now` on.
fn unreachable_minutes(candidates: &Minutes, now: Timestamp, latency: &WeekOfLatency) -> Minutes {
    let hull = candidates.hull();
    let mut reachable = Vec::new();
    for (arrivals, expected) in latency.pieces(moment(hull.start)..moment(hull.end)) {
        let Some(expected) = expected else { continue };
        let from = arrivals.start.max(now.plus_millis(expected.as_millis()));
        reachable.push(first_minute_at(from)..first_minute_at(arrivals.end));
    }
    candidates.subtract(&Minutes::of_ranges(reachable))
}

/// Returns the delay of a mail that arrives at a candidate.
fn latency_at(candidate: Timestamp, facts: Facts<'_>) -> ExpectedLatency {
    let expected = facts.latency.arriving_at(candidate);
    expected.expect("minutes at which no mail is expected to arrive are no candidates")
}

fn first_allowed(question: &Question, facts: Facts<'_>, breakers: &[Breaker]) -> Option<Timestamp> {
    let from = question.window.start.max(question.now);
    let search = Minutes::starting_in(from, from.plus_millis(SEARCH_MS));
    let narrowed = narrow(search, question, facts, breakers);
    (!narrowed.left.is_empty()).then(|| moment(narrowed.left.hull().start))
}

/// Returns the last time of a signal up to `now`, from the profile or as reported in the request.
fn latest(profile: &Profile, told: &[SeenSignal], signal: Signal, now: Timestamp) -> Option<Timestamp> {
    let told = told
        .iter()
        .filter(|seen| seen.signal == signal && seen.at <= now)
        .map(|seen| seen.at);
    told.max().max(profile.latest(signal, now))
}

#[cfg(test)]
mod tests;
