//! Reads the rules that are given in the person's local time.

use jiff::tz::TimeZone;

use crate::{
    decision::{DaySpan, day_number},
    error::ApiError,
};

/// Maximum number of blackout days: a little more than a year.
const MAX_BLACKOUT_DAYS: usize = 400;

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

/// Returns the time zone of this name, and the name as the IANA spells it.
pub(crate) fn time_zone(name: &str) -> Result<(TimeZone, String), ApiError> {
    let zone = TimeZone::get(name)
        .map_err(|_| ApiError::field("time_zone", "must be an IANA time zone such as `Europe/Berlin`"))?;
    let name = zone.iana_name().unwrap_or("UTC").to_owned();
    Ok((zone, name))
}

/// Reads a part of the day from its first minute and the minute after its last, each `HH:MM`.
pub(crate) fn day_span(field: &str, start: &str, end: &str) -> Result<DaySpan, ApiError> {
    let time = |name: &str, text: &str, latest: u16| {
        let minute = minute_of_day(text).filter(|minute| *minute <= latest);
        minute.ok_or_else(|| ApiError::field(format!("{field}.{name}"), "must be a time of day, `HH:MM`"))
    };
    let start = time("start", start, 1_439)?;
    let end = match time("end", end, 1_440)? {
        // As the end of a span, midnight means the end of the day, not its beginning.
        0 => 1_440,
        end => end,
    };
    if start == end {
        return Err(same_ends(field));
    }
    Ok(DaySpan { start, end })
}

/// Returns the error for a part of the day that ends where it starts.
pub(crate) fn same_ends(field: &str) -> ApiError {
    ApiError::field(
        format!("{field}.end"),
        format!("must not be the same as `{field}.start`"),
    )
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

/// Reads dates, returned as days since 1970-01-01, and days of the week.
pub(crate) fn blackout_days(days: &[String]) -> Result<(Vec<i64>, [bool; 7]), ApiError> {
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
        } else if let Some(date) = date_of(day) {
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

/// Reads a date without a time, which would be ignored.
fn date_of(text: &str) -> Option<jiff::civil::Date> {
    let date: jiff::civil::Date = text.parse().ok()?;
    (date.to_string() == text).then_some(date)
}

fn weekday_named(text: &str) -> Option<usize> {
    let text = text.to_ascii_lowercase();
    WEEKDAYS
        .iter()
        .position(|name| *name == text || name[..3] == text)
}
