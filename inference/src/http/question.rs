//! The decision request, and its conversion to a checked [`Inquiry`].

use std::fmt;

use event::{
    Hasher, MailboxProvider, Timestamp,
    grid::{self, MINUTE_MS},
    profile::{Profile, Signal},
    redact::Redactor,
};
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat, Type},
};

use super::{
    body::Object,
    who::{self, IdentifierInput, Identity, Who},
};
use crate::{
    decision::{DaySpan, LocalRules, Question, SeenSignal, day_number, horizon},
    error::ApiError,
    person::Wanted,
};

/// Longest window: two weeks. A weekly curve cannot say which of three equal Tuesdays is best.
const MAX_WINDOW_HOURS: f64 = 336.0;

/// Length of the window if the request gives none.
const DEFAULT_WINDOW_HOURS: f64 = 24.0;

/// How far ahead a window may end. Beyond that, a mistyped year is more likely than a mail planned so early.
const MAX_AHEAD_DAYS: i64 = 366;

/// Longest latency that a caller may give, and longest gap between mails: beyond that, a wrong unit is more likely.
const MAX_LATENCY_SECONDS: f64 = 43_200.0;
const MAX_GAP_HOURS: f64 = 8_760.0;

/// Maximum number of blackout days (a little more than a year) and of signals in a request.
const MAX_BLACKOUT_DAYS: usize = 400;
const MAX_SIGNALS: usize = 100;

/// Longest campaign id or campaign type.
const MAX_NAME_BYTES: usize = 256;

const HOUR_MS: f64 = grid::HOUR_MS as f64;

/// Asks when one person should get a mail. Any of `universal_id`, `email`, `email_hash`, `phone_number` and `identifiers` names
/// the person. If several are given and the identity graph holds them for different people, they are taken for one person in
/// this decision: what is known of any of them counts, and each one's breakers and gaps hold. The response and the experiment
/// go by `universal_id`, if it is given, otherwise by the strongest identifier: e-mail, phone number, then the others.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"email": "ann@example.com", "window_hours": 24, "esp": "sendgrid"}))]
#[serde(deny_unknown_fields)]
pub(crate) struct DecideRequest {
    /// The person's id.
    #[schema(example = "sf_0123456789abcdef0123456789abcdef")]
    pub universal_id: Option<String>,
    /// The person's e-mail address. Hashed immediately; never stored, logged or repeated.
    #[schema(example = "ann@example.com")]
    pub email: Option<String>,
    /// Hash of the person's e-mail address: SHA-256 of the address, normalized to Unicode NFKC, trimmed and in lower case, as 64
    /// hexadecimal digits; if `identity.pepper` is set, HMAC-SHA-256 with the pepper as the key.
    pub email_hash: Option<String>,
    /// The person's phone number in E.164 form. Hashed immediately.
    pub phone_number: Option<String>,
    /// Identifiers of the person.
    #[schema(value_type = Option<Vec<IdentifierInput>>, max_items = 32)]
    pub identifiers: Option<Vec<Object<IdentifierInput>>>,
    /// Length of the window in hours from now on, 1 to 336. Default 24.
    #[schema(example = 24, minimum = 1, maximum = 336)]
    pub window_hours: Option<f64>,
    /// Start and end of the window, instead of `window_hours`: 1 minute to 336 hours apart, the end later than now and within 366
    /// days.
    #[schema(value_type = Option<WindowInput>)]
    pub window: Option<Object<WindowInput>>,
    /// Earliest moment of arrival.
    pub not_before: Option<Moment>,
    /// Latest moment of arrival. A decision with a deadline takes no part in the experiment.
    pub deadline: Option<Moment>,
    /// IANA name of the time zone of hours and days. Default `UTC`.
    #[schema(example = "Europe/Berlin")]
    pub time_zone: Option<String>,
    /// No arrival in this part of the day.
    #[schema(value_type = Option<DaySpanInput>)]
    pub quiet_hours: Option<Object<DaySpanInput>>,
    /// Arrival only in this part of the day.
    #[schema(value_type = Option<DaySpanInput>)]
    pub allowed_window: Option<Object<DaySpanInput>>,
    /// Arrival only in these hours of the day, 0 to 23, at least one; instead of `allowed_window`.
    #[schema(min_items = 1)]
    pub allowed_hours: Option<Vec<u8>>,
    /// No arrival on these days: dates (`2026-12-24`) or days of the week (`sunday`).
    #[schema(example = json!(["sunday", "2026-12-24"]), max_items = 400)]
    pub blackout_days: Option<Vec<String>>,
    /// Minimum number of hours after the last mail that was sent or delivered to the person, at most 8,760. Mail from before
    /// `inference.history_seconds` is not known. Deliveries without a
    /// message id are stored by the half hour; the gap then counts from the end of that half hour.
    #[schema(minimum = 0, maximum = 8_760)]
    pub minimum_gap_hours: Option<f64>,
    /// The provider that will send the mail: its slug, as in `/webhooks/{slug}`. The expected delay is that provider's.
    #[schema(example = "sendgrid")]
    pub esp: Option<String>,
    /// The provider's own id of the campaign, as the provider reports it in its events, at most 256 bytes; otherwise leave it out.
    /// Mail with another id does not count as this decision's in `GET /lift` and `GET /latency`. If the campaign has been sent
    /// before, the expected delay also depends on it.
    #[schema(min_length = 1, max_length = 256)]
    pub campaign_id: Option<String>,
    /// Type of campaign, as senders attach it to their messages as `campaign_type`, at most 256 bytes. The expected delay depends
    /// on it.
    #[schema(example = "newsletter", min_length = 1, max_length = 256)]
    pub campaign_type: Option<String>,
    /// Size of the mail in bytes, as senders attach it to their messages as `payload_bytes`. The expected delay depends on it.
    #[schema(value_type = Option<u64>, example = 52_000, maximum = 4_294_967_295_u32)]
    pub payload_bytes: Option<u32>,
    /// Seconds from trigger to delivery, 0 to 43,200, used until enough has been learned about the provider.
    #[schema(minimum = 0, maximum = 43_200)]
    pub latency_seconds: Option<f64>,
    /// Another name for `latency_seconds`.
    #[schema(minimum = 0, maximum = 43_200)]
    pub latency_estimate_seconds: Option<f64>,
    /// How many mails are handed to the provider in the ten minutes before this one, if the sender knows: providers take longer
    /// if much is sent at once.
    #[schema(value_type = Option<u64>, example = 5000, maximum = 4_294_967_295_u32)]
    pub queue_depth: Option<u32>,
    /// What the caller knows about the person's latest actions.
    #[schema(value_type = Option<Vec<SignalInput>>, max_items = 100)]
    pub signals: Option<Vec<Object<SignalInput>>>,
    /// Decides as if it were this moment, for tests and replays. Default: the server's clock.
    pub now: Option<Moment>,
    /// Whether the decision takes part in the experiment. By default, a share of the people are a control group that gets random
    /// minutes among those allowed, and a few decisions explore. `false` asks for the model's choice; `GET /lift` leaves it out.
    pub experiment: Option<bool>,
    /// Whether the response contains the explanation, which is stored in any case.
    #[serde(default)]
    pub explain: bool,
}

/// A span of real time, half-open.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowInput {
    /// First moment.
    pub start: Moment,
    /// Moment after the last.
    pub end: Moment,
}

/// A part of the day; it spans midnight if `start` is later than `end`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DaySpanInput {
    /// First minute, `HH:MM`.
    #[schema(example = "22:00")]
    pub start: String,
    /// Minute after the last, `HH:MM`; `24:00` is the end of the day.
    #[schema(example = "07:00")]
    pub end: String,
}

/// A sign of the person's presence or displeasure that has not yet arrived as an event.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignalInput {
    /// `site_visit`, `product_view`, `sms_click`, `push_click`, `marked_spam`, `support_ticket`, `unsubscribed` or
    /// `resubscribed`.
    #[serde(rename = "type")]
    #[schema(example = "site_visit")]
    pub kind: String,
    /// When it occurred. The caller's clock may be ahead: up to a day later than the server's clock counts as now, unless the
    /// request sets `now`.
    pub at: Option<Moment>,
    /// How many seconds ago it occurred, instead of `at`.
    #[schema(example = 120, minimum = 0)]
    pub age_seconds: Option<f64>,
}

/// A moment: RFC 3339 text, or a number of seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub Timestamp);

impl PartialSchema for Moment {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
        let seconds = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0));
        OneOfBuilder::new()
            .description(Some(
                "A moment: RFC 3339 text, or a number of seconds since 1970.",
            ))
            .item(text)
            .item(seconds)
            .examples(["2026-01-07T10:00:00Z"])
            .into()
    }
}

impl ToSchema for Moment {}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Moment;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time or seconds since 1970, between 1970 and 9999")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Moment, E> {
                text.parse()
                    .map(Moment)
                    .map_err(|_| E::invalid_value(de::Unexpected::Other("text"), &self))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Moment, E> {
                let moment = seconds.checked_mul(1_000).and_then(Timestamp::try_from_millis);
                moment
                    .map(Moment)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(seconds), &self))
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Moment, E> {
                self.visit_i64(i64::try_from(seconds).unwrap_or(i64::MAX))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Moment, E> {
                // The cast saturates: a number out of range stays out of range.
                let moment = Timestamp::try_from_millis((seconds * 1_000.0).round() as i64);
                moment
                    .filter(|_| seconds.is_finite())
                    .map(Moment)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Float(seconds), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// A checked request.
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

impl DecideRequest {
    /// Checks every field; `clock` is now if the request does not set `now`.
    pub(crate) fn check(self, hasher: &Hasher, clock: Timestamp) -> Result<Inquiry, ApiError> {
        let now = self.now.map_or(clock, |moment| moment.0);
        let horizon = horizon(now, self.now.is_some());
        let who = Who {
            universal_id: self.universal_id,
            email: self.email,
            email_hash: self.email_hash,
            phone_number: self.phone_number,
            identifiers: self.identifiers,
        };
        let mailbox_provider = who.mailbox_provider();
        let identity = who.identity(hasher)?;
        let window = window(now, self.window_hours, self.window)?;
        let not_before = self.not_before.map(|moment| moment.0);
        let deadline = self.deadline.map(|moment| moment.0);
        if not_before.is_some_and(|not_before| not_before >= window.end) {
            return Err(ApiError::field(
                "not_before",
                "must be earlier than the end of the window",
            ));
        }
        if deadline
            .is_some_and(|deadline| deadline < window.start.max(now).max(not_before.unwrap_or_default()))
        {
            return Err(ApiError::field(
                "deadline",
                "must not be earlier than now, `not_before` or the start of the window",
            ));
        }
        let zone_name = self.time_zone.unwrap_or_else(|| "UTC".to_owned());
        let zone = TimeZone::get(&zone_name)
            .map_err(|_| ApiError::field("time_zone", "must be an IANA time zone such as `Europe/Berlin`"))?;
        let time_zone = zone.iana_name().unwrap_or("UTC").to_owned();
        let (blackout_dates, blackout_weekdays) = blackout_days(&self.blackout_days.unwrap_or_default())?;
        let local = LocalRules {
            zone,
            allowed: allowed(self.allowed_window, self.allowed_hours)?,
            quiet: self
                .quiet_hours
                .map(|span| day_span("quiet_hours", &span.0))
                .transpose()?,
            blackout_dates,
            blackout_weekdays,
        };
        let gap_hours = in_range("minimum_gap_hours", self.minimum_gap_hours, 0.0, MAX_GAP_HOURS)?;
        if self.latency_seconds.is_some() && self.latency_estimate_seconds.is_some() {
            return Err(ApiError::field(
                "latency_estimate_seconds",
                "must not be given together with `latency_seconds`",
            ));
        }
        let latency = in_range("latency_seconds", self.latency_seconds, 0.0, MAX_LATENCY_SECONDS)?;
        let estimate = in_range(
            "latency_estimate_seconds",
            self.latency_estimate_seconds,
            0.0,
            MAX_LATENCY_SECONDS,
        )?;
        let campaign_id = campaign("campaign_id", self.campaign_id)?;
        let campaign_type = campaign("campaign_type", self.campaign_type)?;
        Ok(Inquiry {
            identity,
            mailbox_provider,
            question: Question {
                now,
                now_was_told: self.now.is_some(),
                window,
                not_before,
                deadline,
                local,
                minimum_gap_ms: gap_hours.map(|hours| (hours * HOUR_MS).round() as i64),
                signals: signals(self.signals.unwrap_or_default(), now, horizon)?,
            },
            time_zone,
            esp: self.esp.map(|esp| who::provider("esp", &esp)).transpose()?,
            campaign_id,
            campaign_type,
            payload_bytes: self.payload_bytes,
            caller_latency_seconds: latency.or(estimate),
            queue_depth: self.queue_depth,
            experiment: self.experiment.unwrap_or(true),
            explain: self.explain,
        })
    }
}

fn window(
    now: Timestamp,
    hours: Option<f64>,
    window: Option<Object<WindowInput>>,
) -> Result<std::ops::Range<Timestamp>, ApiError> {
    let Some(Object(WindowInput {
        start: Moment(start),
        end: Moment(end),
    })) = window
    else {
        let hours = in_range("window_hours", hours, 1.0, MAX_WINDOW_HOURS)?.unwrap_or(DEFAULT_WINDOW_HOURS);
        return Ok(now..now.plus_millis((hours * HOUR_MS).round() as i64));
    };
    if hours.is_some() {
        return Err(ApiError::field(
            "window",
            "must not be given together with `window_hours`",
        ));
    }
    if end.millis_since(start) < MINUTE_MS {
        return Err(ApiError::field(
            "window.end",
            "must be at least a minute later than `window.start`",
        ));
    }
    if end.millis_since(start) as f64 > MAX_WINDOW_HOURS * HOUR_MS {
        return Err(ApiError::field(
            "window.end",
            format!("must be at most {MAX_WINDOW_HOURS} hours later than `window.start`"),
        ));
    }
    if end <= now {
        return Err(ApiError::field("window.end", "must be later than now"));
    }
    if end.millis_since(now) > MAX_AHEAD_DAYS * 86_400_000 {
        return Err(ApiError::field(
            "window.end",
            format!("must be within {MAX_AHEAD_DAYS} days from now"),
        ));
    }
    Ok(start..end)
}

/// Checks a campaign id or campaign type and redacts any addresses in it.
fn campaign(field: &str, name: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(name) = name else { return Ok(None) };
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(ApiError::field(
            field,
            format!("must have 1 to {MAX_NAME_BYTES} bytes"),
        ));
    }
    Ok(Some(Redactor::default().text(&name).into_owned()))
}

fn in_range(field: &str, value: Option<f64>, min: f64, max: f64) -> Result<Option<f64>, ApiError> {
    match value {
        Some(value) if !(min..=max).contains(&value) => Err(ApiError::field(
            field,
            format!("must be a number from {min} to {max}"),
        )),
        value => Ok(value),
    }
}

fn allowed(window: Option<Object<DaySpanInput>>, hours: Option<Vec<u8>>) -> Result<Vec<DaySpan>, ApiError> {
    match (window, hours) {
        (Some(_), Some(_)) => Err(ApiError::field(
            "allowed_hours",
            "must not be given together with `allowed_window`",
        )),
        (Some(Object(span)), None) => Ok(vec![day_span("allowed_window", &span)?]),
        (None, Some(hours)) if hours.is_empty() => Err(ApiError::field(
            "allowed_hours",
            "must name at least one hour, or be left out",
        )),
        (None, Some(hours)) => {
            let mut spans = Vec::with_capacity(hours.len());
            for (index, hour) in hours.into_iter().enumerate() {
                if hour > 23 {
                    return Err(ApiError::field(
                        format!("allowed_hours[{index}]"),
                        "must be an hour from 0 to 23",
                    ));
                }
                let start = u16::from(hour) * 60;
                spans.push(DaySpan {
                    start,
                    end: start + 60,
                });
            }
            spans.sort_unstable_by_key(|span| span.start);
            spans.dedup();
            Ok(spans)
        }
        (None, None) => Ok(Vec::new()),
    }
}

fn day_span(field: &str, input: &DaySpanInput) -> Result<DaySpan, ApiError> {
    let time = |name: &str, text: &str, latest: u16| {
        let minute = minute_of_day(text).filter(|minute| *minute <= latest);
        minute.ok_or_else(|| ApiError::field(format!("{field}.{name}"), "must be a time of day, `HH:MM`"))
    };
    let start = time("start", &input.start, 1_439)?;
    let end = match time("end", &input.end, 1_440)? {
        // As the end of a span, midnight means the end of the day, not its beginning.
        0 => 1_440,
        end => end,
    };
    if start == end {
        return Err(ApiError::field(
            format!("{field}.end"),
            format!("must not be the same as `{field}.start`"),
        ));
    }
    Ok(DaySpan { start, end })
}

fn minute_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| {
        let valid = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        valid.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours <= 24 && minutes <= 59).then_some(hours * 60 + minutes)
}

fn blackout_days(days: &[String]) -> Result<(Vec<i64>, [bool; 7]), ApiError> {
    if days.len() > MAX_BLACKOUT_DAYS {
        return Err(ApiError::field(
            "blackout_days",
            format!("must have at most {MAX_BLACKOUT_DAYS} elements"),
        ));
    }
    let (mut dates, mut weekdays) = (Vec::new(), [false; 7]);
    for (index, day) in days.iter().enumerate() {
        if let Some(weekday) = weekday_named(day) {
            weekdays[weekday] = true;
        } else if let Ok(date) = day.parse::<jiff::civil::Date>() {
            dates.push(day_number(date));
        } else {
            return Err(ApiError::field(
                format!("blackout_days[{index}]"),
                "must be a date (`2026-12-24`) or a day of the week (`sunday`)",
            ));
        }
    }
    dates.sort_unstable();
    dates.dedup();
    Ok((dates, weekdays))
}

/// Days of the week in order, Monday first.
pub(crate) const WEEKDAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

fn weekday_named(text: &str) -> Option<usize> {
    let text = text.to_ascii_lowercase();
    WEEKDAYS
        .iter()
        .position(|name| *name == text || name[..3] == text)
}

fn signals(
    inputs: Vec<Object<SignalInput>>,
    now: Timestamp,
    horizon: Timestamp,
) -> Result<Vec<SeenSignal>, ApiError> {
    if inputs.len() > MAX_SIGNALS {
        return Err(ApiError::field(
            "signals",
            format!("must have at most {MAX_SIGNALS} elements"),
        ));
    }
    let mut signals = Vec::with_capacity(inputs.len());
    for (index, Object(input)) in inputs.into_iter().enumerate() {
        let signal = match input.kind.as_str() {
            "site_visit" => Signal::SiteVisit,
            "product_view" => Signal::ProductView,
            "sms_click" => Signal::SmsClick,
            "push_click" => Signal::PushClick,
            "marked_spam" => Signal::MarkedSpam,
            "support_ticket" => Signal::SupportTicket,
            "unsubscribed" => Signal::Unsubscribed,
            "resubscribed" => Signal::Resubscribed,
            _ => {
                return Err(ApiError::field(
                    format!("signals[{index}].type"),
                    "must be one of `site_visit`, `product_view`, `sms_click`, `push_click`, `marked_spam`, `support_ticket`, \
                     `unsubscribed`, `resubscribed`",
                ));
            }
        };
        let at = match (input.at, input.age_seconds) {
            (Some(Moment(at)), None) if at <= horizon => at.min(now),
            (Some(_), None) => {
                return Err(ApiError::field(
                    format!("signals[{index}].at"),
                    "must not be later than now",
                ));
            }
            (None, Some(age)) if age >= 0.0 => now.plus_millis((age * -1_000.0).round() as i64),
            (None, Some(_)) => {
                return Err(ApiError::field(
                    format!("signals[{index}].age_seconds"),
                    "must be at least 0",
                ));
            }
            _ => {
                return Err(ApiError::field(
                    format!("signals[{index}].at"),
                    "must be given, or `age_seconds` instead of it",
                ));
            }
        };
        signals.push(SeenSignal { signal, at });
    }
    Ok(signals)
}
