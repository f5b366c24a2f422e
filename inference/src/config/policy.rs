//! `[inference.hot_paths]` and `[inference.breakers]`: how decisions use signals.

use std::time::Duration;

use event::settings::{OutOfRange, number};
use serde::Deserialize;

use super::seconds;

/// `[inference.hot_paths]`: how much a recent sign of presence raises the value of the next minutes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHotPathsConfig {
    /// A visit to the site. Default weight 0.5, half-life 1,800 s.
    pub site_visit: Option<RawHotPath>,
    /// A product view. Default weight 1.0, half-life 3,600 s.
    pub product_view: Option<RawHotPath>,
    /// A click in a text message. Default weight 1.0, half-life 1,800 s.
    pub sms_click: Option<RawHotPath>,
    /// A click on a push notification. Default weight 0.8, half-life 1,800 s.
    pub push_click: Option<RawHotPath>,
}

/// One hot path: the factor `1 + weight · 2^(-age / half-life)`, applied to every minute after the signal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawHotPath {
    /// Weight at the moment of the signal, 0 (off) to 10.
    pub weight: f64,
    /// Seconds in which the weight halves, 1 to 315,360,000.
    pub half_life_seconds: u64,
}

/// `[inference.breakers]`: for how many seconds a person gets no mail, 0 (off) to 315,360,000. None may be longer than
/// `inference.history_seconds`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBreakersConfig {
    /// After a complaint. Default 172,800 (48 h).
    pub marked_spam_seconds: Option<u64>,
    /// After a support ticket. Default 172,800 (48 h).
    pub support_ticket_seconds: Option<u64>,
    /// After an unsubscription, unless the person subscribes again. Default 604,800 (168 h).
    pub unsubscribed_seconds: Option<u64>,
    /// After a hard bounce. Default 0: providers keep their own suppression lists of dead addresses, and a bounce at one
    /// provider says little about another.
    pub hard_bounce_seconds: Option<u64>,
}

/// How decisions use signals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyConfig {
    /// A visit to the site.
    pub site_visit: HotPath,
    /// A product view.
    pub product_view: HotPath,
    /// A click in a text message.
    pub sms_click: HotPath,
    /// A click on a push notification.
    pub push_click: HotPath,
    /// Silence after a complaint.
    pub marked_spam: Duration,
    /// Silence after a support ticket.
    pub support_ticket: Duration,
    /// Silence after an unsubscription.
    pub unsubscribed: Duration,
    /// Silence after a hard bounce.
    pub hard_bounce: Duration,
}

impl PolicyConfig {
    pub(super) fn try_new(
        paths: RawHotPathsConfig,
        breakers: &RawBreakersConfig,
    ) -> Result<Self, OutOfRange> {
        let breaker = |name: &str, value, default| {
            seconds(
                &format!("breakers.{name}"),
                value,
                default,
                0..=MAX_BREAKER_SECONDS,
            )
        };
        Ok(Self {
            site_visit: hot_path("site_visit", paths.site_visit, SITE_VISIT)?,
            product_view: hot_path("product_view", paths.product_view, PRODUCT_VIEW)?,
            sms_click: hot_path("sms_click", paths.sms_click, SMS_CLICK)?,
            push_click: hot_path("push_click", paths.push_click, PUSH_CLICK)?,
            marked_spam: breaker(
                "marked_spam_seconds",
                breakers.marked_spam_seconds,
                COMPLAINT_SECONDS,
            )?,
            support_ticket: breaker(
                "support_ticket_seconds",
                breakers.support_ticket_seconds,
                COMPLAINT_SECONDS,
            )?,
            unsubscribed: breaker(
                "unsubscribed_seconds",
                breakers.unsubscribed_seconds,
                UNSUBSCRIBED_SECONDS,
            )?,
            hard_bounce: breaker("hard_bounce_seconds", breakers.hard_bounce_seconds, 0)?,
        })
    }

    /// Returns the key and the duration of the longest breaker.
    pub(super) fn longest_breaker(&self) -> (&'static str, Duration) {
        let breakers = [
            ("marked_spam_seconds", self.marked_spam),
            ("support_ticket_seconds", self.support_ticket),
            ("unsubscribed_seconds", self.unsubscribed),
            ("hard_bounce_seconds", self.hard_bounce),
        ];
        let longest = breakers.into_iter().max_by_key(|(_, length)| *length);
        longest.expect("there are four")
    }
}

/// The factor `1 + weight · 2^(-age / half_life)`, applied to every minute after a signal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HotPath {
    /// Weight at the moment of the signal.
    pub weight: f64,
    /// Time in which the weight halves.
    pub half_life: Duration,
}

/// A signal of weight 1 doubles the value of the minute in which it occurs. A person's good hours are worth two to three
/// times an average one, and nights a tenth of it, so a signal can decide between waking hours but never moves mail into the
/// night. A visit says less than a product view or a click in a message. People stay on a site for minutes and come back
/// within the hour: with half-lives of that order the factor has faded before the next part of the day.
const SITE_VISIT: HotPath = HotPath {
    weight: 0.5,
    half_life: Duration::from_secs(1_800),
};
const PRODUCT_VIEW: HotPath = HotPath {
    weight: 1.0,
    half_life: Duration::from_secs(3_600),
};
const SMS_CLICK: HotPath = HotPath {
    weight: 1.0,
    half_life: Duration::from_secs(1_800),
};
const PUSH_CLICK: HotPath = HotPath {
    weight: 0.8,
    half_life: Duration::from_secs(1_800),
};

/// Two days: by then a complaint or a ticket is usually settled.
const COMPLAINT_SECONDS: u64 = 48 * 3_600;

/// A week: by then an unsubscription has surely reached every list of the sender.
const UNSUBSCRIBED_SECONDS: u64 = 168 * 3_600;

/// Longest breaker: beyond ten years, a wrong unit is more likely than intent.
pub(super) const MAX_BREAKER_SECONDS: u64 = 10 * 365 * 86_400;

/// Largest hot-path weight: eleven times an average minute already beats every curve's best.
const MAX_WEIGHT: f64 = 10.0;

fn hot_path(name: &str, raw: Option<RawHotPath>, default: HotPath) -> Result<HotPath, OutOfRange> {
    let Some(raw) = raw else { return Ok(default) };
    let weight = format!("hot_paths.{name}.weight");
    let half_life = format!("hot_paths.{name}.half_life_seconds");
    Ok(HotPath {
        weight: number("inference", &weight, raw.weight, 0.0..=MAX_WEIGHT)?,
        half_life: seconds(
            &half_life,
            Some(raw.half_life_seconds),
            0,
            1..=MAX_BREAKER_SECONDS,
        )?,
    })
}
