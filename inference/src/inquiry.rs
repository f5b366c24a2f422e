//! What a decision is asked about, checked: built from the request that a caller sends, or from the explanation of a decision that
//! is computed again.

mod local;

use std::{borrow::Cow, ops::Range};

use event::{
    Identifier, MailboxProvider, Timestamp, UniversalId,
    grid::{self, MINUTE_MS},
    profile::{Profile, Signal},
};

pub(crate) use self::local::{WEEKDAYS, blackout_days, day_span, same_ends, time_zone};
use crate::{decision::Question, error::ApiError, person::Wanted};

/// Longest window: two weeks. A weekly curve cannot say which of three equal Tuesdays is best.
pub(crate) const MAX_WINDOW_HOURS: f64 = 336.0;

/// How far ahead a window may end. Beyond that, a mistyped year is more likely than a mail planned so early.
const MAX_AHEAD_DAYS: i64 = 366;

/// A checked question about one person.
#[derive(Debug, Clone)]
pub(crate) struct Inquiry {
    pub(crate) identity: Identity,
    /// The class of the mailbox, if the request gives the address itself.
    pub(crate) mailbox_provider: Option<MailboxProvider>,
    pub(crate) question: Question,
    pub(crate) time_zone: String,
    pub(crate) esp: Option<String>,
    pub(crate) campaign_id: Option<String>,
    pub(crate) campaign_type: Option<String>,
    pub(crate) payload_bytes: Option<u32>,
    pub(crate) caller_latency_seconds: Option<f64>,
    pub(crate) queue_depth: Option<u32>,
    /// Whether the decision takes part in the experiment, if there is one.
    pub(crate) experiment: bool,
    pub(crate) explain: bool,
}

impl Inquiry {
    /// Returns who has to be read for the decision.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            ids: self.identity.ids(),
            now: self.question.now,
            now_was_told: self.question.now_was_told,
        }
    }

    /// Returns the class of the mailbox that delays are expected for: what the person's events say, or the request's address if
    /// they say nothing, as before the first mail.
    pub(crate) fn mailbox_provider_of(&self, profile: &Profile) -> Option<MailboxProvider> {
        profile.mailbox_provider().or(self.mailbox_provider)
    }
}

/// How a request names a person: by at least one name. The first is the universal id, if it was given, otherwise the strongest
/// identifier; under it the person is addressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity(Vec<Name>);

/// One name of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// The field of the request.
    pub(crate) field: Cow<'static, str>,
    /// The id that it stands for.
    pub(crate) id: UniversalId,
    /// The identifier, if it is one.
    pub(crate) identifier: Option<Identifier>,
}

impl Identity {
    /// `names` has at least one element.
    pub(crate) fn new(names: Vec<Name>) -> Self {
        Self(names)
    }

    /// Returns all names.
    pub(crate) fn names(&self) -> &[Name] {
        &self.0
    }

    /// Returns the ids that follow from the request alone.
    pub(crate) fn ids(&self) -> Vec<UniversalId> {
        self.0.iter().map(|name| name.id.clone()).collect()
    }
}

/// Checks that mail can arrive in a window.
pub(crate) fn check_window(now: Timestamp, window: &Range<Timestamp>) -> Result<(), ApiError> {
    let length_ms = window.end.millis_since(window.start);
    if length_ms < MINUTE_MS {
        return Err(ApiError::field(
            "window.end",
            "must be at least a minute later than `window.start`",
        ));
    }
    if length_ms as f64 > MAX_WINDOW_HOURS * grid::HOUR_MS as f64 {
        return Err(ApiError::field(
            "window.end",
            format!("must be at most {MAX_WINDOW_HOURS} hours later than `window.start`"),
        ));
    }
    if window.end <= now {
        return Err(ApiError::field("window.end", "must be later than now"));
    }
    if window.end.millis_since(now) > MAX_AHEAD_DAYS * grid::DAY_MS {
        return Err(ApiError::field(
            "window.end",
            format!("must be within {MAX_AHEAD_DAYS} days from now"),
        ));
    }
    Ok(())
}

/// Returns the signal of this name, if it is one that callers may report.
pub(crate) fn signal_named(name: &str) -> Option<Signal> {
    let signals = Signal::ALL.into_iter();
    signals
        // Bounces are reported by the providers.
        .filter(|signal| *signal != Signal::HardBounce)
        .find(|signal| signal.as_str() == name)
}
