//! Circuit breakers: after some signals a person gets no mail for a while, whatever the curve says.

use std::time::Duration;

use event::{
    Timestamp,
    profile::{Profile, Signal},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{SeenSignal, horizon};
use crate::config::PolicyConfig;

/// A breaker that is open now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Breaker {
    /// `unsubscribed`, `marked_spam`, `support_ticket` or `hard_bounce`.
    #[schema(example = "marked_spam")]
    pub reason: &'static str,
    /// When the signal occurred; the time of the decision if the signal's own time is later.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Nothing arrives before this moment.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
}

/// Returns the breakers that are open at `now`, the longest-lasting first. A signal from a clock that is ahead opens its
/// breaker immediately: see [`horizon`].
pub(crate) fn open(
    profile: &Profile,
    told: &[SeenSignal],
    policy: &PolicyConfig,
    now: Timestamp,
    now_was_told: bool,
) -> Vec<Breaker> {
    let horizon = horizon(now, now_was_told);
    let latest = |signal| super::latest(profile, told, signal, horizon);
    let unsubscribed = unsubscribed(profile, told, now, now_was_told);
    let causes: [(&'static str, Option<Timestamp>, Duration); 4] = [
        ("unsubscribed", unsubscribed, policy.unsubscribed),
        ("marked_spam", latest(Signal::MarkedSpam), policy.marked_spam),
        (
            "support_ticket",
            latest(Signal::SupportTicket),
            policy.support_ticket,
        ),
        ("hard_bounce", latest(Signal::HardBounce), policy.hard_bounce),
    ];
    let mut open = Vec::new();
    for (reason, since, silence) in causes {
        let Some(since) = since.map(|at| at.min(now)) else {
            continue;
        };
        let silence_ms = i64::try_from(silence.as_millis()).unwrap_or(i64::MAX);
        let until = since.plus_millis(silence_ms);
        if until > now {
            open.push(Breaker { reason, since, until });
        }
    }
    open.sort_by_key(|breaker| std::cmp::Reverse(breaker.until));
    open
}

/// Returns when the person unsubscribed, unless they have subscribed again since. If both happened at the same moment, nobody
/// knows which came last, and silence is the smaller mistake.
pub(crate) fn unsubscribed(
    profile: &Profile,
    told: &[SeenSignal],
    now: Timestamp,
    now_was_told: bool,
) -> Option<Timestamp> {
    let horizon = horizon(now, now_was_told);
    let gone = super::latest(profile, told, Signal::Unsubscribed, horizon)?;
    // A resubscription from a clock that is ahead, in contrast, does not count before its time.
    let returned = super::latest(profile, told, Signal::Resubscribed, now);
    returned.is_none_or(|returned| returned <= gone).then_some(gone)
}
