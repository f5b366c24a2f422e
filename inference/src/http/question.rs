//! The decision request, and its conversion to a checked [`Inquiry`].

mod local;
mod moments;
mod signals;

use event::{Hasher, Timestamp, grid, redact::Redactor};
use serde::Deserialize;
use utoipa::ToSchema;

pub(crate) use self::{
    local::DaySpanInput,
    moments::{Moment, WindowInput},
    signals::SignalInput,
};
use super::{
    body::Object,
    who::{self, IdentifierInput, Who},
};
use crate::{
    decision::{LocalRules, Question, horizon},
    error::ApiError,
    inquiry::{self, Inquiry},
};

/// Longest latency that a caller may give, and longest gap between mails: beyond that, a wrong unit is more likely.
const MAX_LATENCY_SECONDS: f64 = 43_200.0;
const MAX_GAP_HOURS: f64 = 8_760.0;

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
    #[schema(
        example = "sf_0123456789abcdef0123456789abcdef",
        pattern = "^sf_[0-9a-f]{32}$"
    )]
    pub universal_id: Option<String>,
    /// The person's e-mail address. Hashed immediately; never stored, logged or repeated.
    #[schema(example = "ann@example.com")]
    pub email: Option<String>,
    /// Hash of the person's e-mail address: SHA-256 of the address, normalized to Unicode NFKC, trimmed and in lower case, as 64
    /// hexadecimal digits; if `identity.pepper` is set, HMAC-SHA-256 with the pepper as the key.
    #[schema(pattern = "^[0-9A-Fa-f]{64}$")]
    pub email_hash: Option<String>,
    /// The person's phone number in E.164 form. Hashed immediately.
    pub phone_number: Option<String>,
    /// Identifiers of the person.
    #[schema(value_type = Option<Vec<IdentifierInput>>, max_items = 32)]
    pub identifiers: Option<Vec<Object<IdentifierInput>>>,
    /// Length of the window in hours from now on, 1 to 336. Default 24. Not together with `window`.
    #[schema(example = 24, minimum = 1, maximum = 336)]
    pub window_hours: Option<f64>,
    /// Start and end of the window, not together with `window_hours`: 1 minute to 336 hours apart, the end later than now and
    /// within 366 days.
    #[schema(value_type = Option<WindowInput>)]
    pub window: Option<Object<WindowInput>>,
    /// Earliest moment of arrival.
    pub not_before: Option<Moment>,
    /// Latest moment of arrival. A decision with a deadline takes no part in the experiment.
    pub deadline: Option<Moment>,
    /// IANA name of the time zone of hours and days. Default `UTC`.
    #[schema(example = "Europe/Berlin")]
    pub time_zone: Option<String>,
    /// No arrival in this part of the day; leave it out if there is none.
    #[schema(value_type = Option<DaySpanInput>)]
    pub quiet_hours: Option<Object<DaySpanInput>>,
    /// Arrival only in this part of the day; from `00:00` to `00:00` is the whole day.
    #[schema(value_type = Option<DaySpanInput>)]
    pub allowed_window: Option<Object<DaySpanInput>>,
    /// Arrival only in these hours of the day, 0 to 23, at least one; instead of `allowed_window`.
    #[schema(value_type = Option<Vec<i32>>, min_items = 1)]
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
    /// The provider's own id of the campaign, as the provider reports it in its events (`docs/providers.md` names the field), at
    /// most 256 bytes; otherwise leave it out. Mail with another id does not count as this decision's in `GET /lift` and in
    /// `GET /latency`, where `under_another_campaign` counts such decisions. If the campaign has been sent before, the expected
    /// delay also depends on it.
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
        let window = moments::window(now, self.window_hours, self.window)?;
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
        let (zone, time_zone) = inquiry::time_zone(self.time_zone.as_deref().unwrap_or("UTC"))?;
        let (blackout_dates, blackout_weekdays) =
            inquiry::blackout_days(&self.blackout_days.unwrap_or_default())?;
        let local = LocalRules {
            zone,
            allowed: local::allowed(self.allowed_window, self.allowed_hours)?,
            quiet: local::quiet(self.quiet_hours)?,
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
                signals: signals::signals(self.signals.unwrap_or_default(), now, horizon)?,
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
