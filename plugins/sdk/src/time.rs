//! Converts times as providers write them to milliseconds since the Unix epoch; finer digits are cut off,
//! never rounded.
//!
//! Each function reads one form and returns `None` for everything else, and for times before 1970 or after
//! 9999. Written by hand because providers deviate from every standard form: blanks in odd places, seven or
//! more fractional digits, seconds and milliseconds under one name. The tests compare it with a date library.

/// The first millisecond of the year 10000.
const END_MS: i64 = 253_402_300_800_000;

/// From this value on, a number of seconds is taken as milliseconds: 10^11 seconds are in the year 5138,
/// 10^11 ms in 1973.
const MILLISECONDS_FROM: i64 = 100_000_000_000;

/// Reads seconds since the epoch, with or without a fraction: `1529006854.329574`.
pub fn seconds(text: &str) -> Option<i64> {
    in_range(decimal(text, 3)?)
}

/// Reads milliseconds since the epoch.
pub fn milliseconds(text: &str) -> Option<i64> {
    in_range(decimal(text, 0)?)
}

/// Reads seconds since the epoch, or milliseconds if the value is 10^11 or more.
pub fn seconds_or_milliseconds(text: &str) -> Option<i64> {
    let in_seconds = decimal(text, 3)?;
    in_range(if in_seconds >= MILLISECONDS_FROM * 1000 {
        in_seconds / 1000
    } else {
        in_seconds
    })
}

/// Reads a date and time with `Z` or an offset: RFC 3339, with any number of fractional digits. Also accepts
/// a blank instead of the `T`, blanks before the offset, and an offset without its colon or minutes.
pub fn rfc3339(text: &str) -> Option<i64> {
    let (local_ms, zone) = date_time(text)?;
    in_range(local_ms - offset_ms(zone)?)
}

/// Reads the same forms as [`rfc3339`]; a time without a zone is taken as UTC: `2009-03-26 21:40:57`.
pub fn utc(text: &str) -> Option<i64> {
    let (local_ms, zone) = date_time(text)?;
    let offset_ms = if zone.is_empty() { 0 } else { offset_ms(zone)? };
    in_range(local_ms - offset_ms)
}

/// Reads the date of a mail, RFC 2822 and 5322: `Sat, 10 Jan 2026 11:59:59 +0200`; an HTTP date, which ends in `GMT`, is
/// one too. The weekday, which is not compared with the date, and the seconds may be absent. The zone may also be one of
/// the names that RFC 2822 lists, such as `EST`, and a comment may follow it: `+0000 (UTC)`.
pub fn rfc2822(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let date = text.split_once(',').map_or(text, |(_weekday, date)| date);
    let mut words = date.split_ascii_whitespace();
    let (day, month, year) = (words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))?;
    let day = digits(day, if day.len() == 1 { 1 } else { 2 })?;
    let day_ms = days_ms(digits(year, 4)?, i64::try_from(month).ok()? + 1, day)?;
    let mut clock = words.next()?.split(':');
    let (hour, minute) = (clock.next()?, clock.next()?);
    let second = clock.next().unwrap_or("00");
    let time_ms = clock_ms(digits(hour, 2)?, digits(minute, 2)?, digits(second, 2)?)?;
    let zone_ms = mail_offset_ms(words.next()?)?;
    let is_comment = |word: &str| word.starts_with('(');
    if clock.next().is_some() || words.next().is_some_and(|word| !is_comment(word)) {
        return None;
    }
    in_range(day_ms + time_ms - zone_ms)
}

/// Returns the time at which a clock in UTC shows this; the first month and day are 1. For forms that only one provider
/// has. If its clock is elsewhere, subtract the offset from the result: 3,600,000 for `+01:00`.
pub fn from_parts(year: i64, month: i64, day: i64, hour: i64, minute: i64, second: i64) -> Option<i64> {
    if !(1970..=9999).contains(&year) {
        return None;
    }
    in_range(days_ms(year, month, day)? + clock_ms(hour, minute, second)?)
}

fn in_range(ms: i64) -> Option<i64> {
    if (0..END_MS).contains(&ms) { Some(ms) } else { None }
}

/// Returns the whole part of `text` × 10^`shift`, computed from the decimal digits, because a binary fraction
/// would sometimes be off by one.
fn decimal(text: &str, shift: u32) -> Option<i64> {
    let text = text.trim();
    // Nearly all texts are plain digits; 15 of them and three more stay within 18.
    if (1..=15).contains(&text.len())
        && let Some(value) = digits(text, text.len())
    {
        return Some(value * 10_i64.pow(shift));
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty()
        || !whole
            .bytes()
            .chain(fraction.bytes())
            .all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    // A whole part of 18 digits is beyond every time in range, so the sum below cannot overflow.
    let kept = i64::try_from(whole.len()).ok()? + i64::from(exponent) + i64::from(shift);
    if !(0..=18).contains(&kept) {
        return None;
    }
    let mut value = 0;
    let mut given = whole.bytes().chain(fraction.bytes());
    for _ in 0..kept {
        value = value * 10 + i64::from(given.next().unwrap_or(b'0') - b'0');
    }
    Some(value)
}

/// Returns the local milliseconds of `YYYY-MM-DD[T ]HH:MM:SS[.fraction]`, and the trimmed rest: the zone.
fn date_time(text: &str) -> Option<(i64, &str)> {
    let text = text.trim();
    let (date, rest) = text.split_at_checked(10)?;
    let (year, month, day) = (date.get(0..4)?, date.get(5..7)?, date.get(8..10)?);
    if date.as_bytes()[4] != b'-' || date.as_bytes()[7] != b'-' {
        return None;
    }
    let day_ms = days_ms(digits(year, 4)?, digits(month, 2)?, digits(day, 2)?)?;
    let time = match rest.strip_prefix(['T', 't']) {
        Some(time) => time,
        None => rest.strip_prefix(' ')?.trim_start(),
    };
    let (time_ms, zone) = time_of_day(time)?;
    Some((day_ms + time_ms, zone.trim()))
}

/// Returns the milliseconds of `HH:MM:SS[.fraction]`, and the rest of the text.
fn time_of_day(text: &str) -> Option<(i64, &str)> {
    let (time, mut rest) = text.split_at_checked(8)?;
    let (hour, minute) = (digits(time.get(0..2)?, 2)?, digits(time.get(3..5)?, 2)?);
    if time.as_bytes()[2] != b':' || time.as_bytes()[5] != b':' {
        return None;
    }
    let mut ms = clock_ms(hour, minute, digits(time.get(6..8)?, 2)?)?;
    if let Some(after) = rest.strip_prefix(['.', ',']) {
        let length = after.bytes().take_while(u8::is_ascii_digit).count();
        if length == 0 {
            return None;
        }
        let (fraction, zone) = after.split_at(length);
        for (digit, weight) in fraction.bytes().zip([100, 10, 1]) {
            ms += i64::from(digit - b'0') * weight;
        }
        rest = zone;
    }
    Some((ms, rest))
}

/// Returns the milliseconds since midnight. Unix time has no leap seconds: one is read as the last second of its minute.
fn clock_ms(hour: i64, minute: i64, second: i64) -> Option<i64> {
    if !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..=60).contains(&second) {
        return None;
    }
    Some(((hour * 60 + minute) * 60 + second.min(59)) * 1000)
}

/// Reads the zone of a mail's date: a name of RFC 2822, or what [`offset_ms`] reads.
fn mail_offset_ms(zone: &str) -> Option<i64> {
    let hours = match zone.to_ascii_uppercase().as_str() {
        "GMT" | "UT" => 0,
        "EDT" => -4,
        "EST" | "CDT" => -5,
        "CST" | "MDT" => -6,
        "MST" | "PDT" => -7,
        "PST" => -8,
        _ => return offset_ms(zone),
    };
    Some(hours * 60 * 60_000)
}

/// Reads `Z`, `UTC`, `±HH:MM`, `±HHMM` or `±HH`.
fn offset_ms(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") || zone.eq_ignore_ascii_case("utc") {
        return Some(0);
    }
    let (sign, clock) = match zone.split_at_checked(1)? {
        ("+", clock) => (1, clock),
        ("-", clock) => (-1, clock),
        _ => return None,
    };
    let (hours, minutes) = match clock.len() {
        2 => (clock, "00"),
        4 => (clock.get(0..2)?, clock.get(2..4)?),
        5 if clock.as_bytes()[2] == b':' => (clock.get(0..2)?, clock.get(3..5)?),
        _ => return None,
    };
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    Some(sign * (hours * 60 + minutes) * 60_000)
}

/// Reads exactly `count` ASCII digits as a number.
fn digits(text: &str, count: usize) -> Option<i64> {
    if text.len() != count {
        return None;
    }
    let mut value = 0;
    for byte in text.bytes() {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    Some(value)
}

/// Returns the milliseconds from the epoch to the beginning of a day of the Gregorian calendar.
fn days_ms(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => return None,
    };
    if day < 1 || day > month_days {
        return None;
    }
    // Years are counted from March, so that the leap day is the last day of its year; there are 306 days
    // between the first of March and the first of January, and 719,468 between 0000-03-01 and 1970-01-01.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    Some((year * 365 + leap_days + day_of_year - 719_468) * 86_400_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2016-12-02T18:51:45Z
    const MOMENT: i64 = 1_480_704_705_000;

    #[test]
    fn counts_are_cut_from_their_decimal_digits() {
        assert_eq!(seconds("1513299569"), Some(1_513_299_569_000));
        assert_eq!(seconds("1529006854.329574"), Some(1_529_006_854_329));
        assert_eq!(seconds("1529006854.3299999999999"), Some(1_529_006_854_329));
        assert_eq!(seconds("1.529006854329574e9"), Some(1_529_006_854_329));
        assert_eq!(seconds(" 1.5E1 "), Some(15_000));
        assert_eq!(seconds("0.999"), Some(999));
        assert_eq!(milliseconds("1513299569123.9"), Some(1_513_299_569_123));
        for bad in [
            "",
            "-1",
            "1e99999999999",
            "1e400",
            "soon",
            ".5",
            "1.2.3",
            "0x10",
            "99999999999999999999",
            "NaN",
            "1_0",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn large_counts_of_seconds_are_milliseconds() {
        assert_eq!(seconds_or_milliseconds("1705851135"), Some(1_705_851_135_000));
        assert_eq!(seconds_or_milliseconds("1705851135123"), Some(1_705_851_135_123));
        assert_eq!(seconds_or_milliseconds("99999999999"), Some(99_999_999_999_000));
        assert_eq!(seconds_or_milliseconds("100000000000"), Some(100_000_000_000));
        assert_eq!(
            seconds_or_milliseconds("1705851135123.9"),
            Some(1_705_851_135_123)
        );
        assert_eq!(
            seconds_or_milliseconds("1705851135.1239"),
            Some(1_705_851_135_123)
        );
    }

    #[test]
    fn reads_every_form_of_date_and_time() {
        for text in [
            "2016-12-02T18:51:45Z",
            "2016-12-02t18:51:45z",
            "2016-12-02 18:51:45 +00:00",
            "2016-12-02 18:51:45+00:00",
            "2016-12-02  18:51:45  -0000",
            "2016-12-02 18:51:45 UTC",
            "2016-12-02T20:51:45.000+02:00",
            "2016-12-02T13:21:45-05:30",
            "2016-12-03T01:51:45+07",
        ] {
            assert_eq!(rfc3339(text), Some(MOMENT), "{text}");
        }
        assert_eq!(rfc3339("2016-12-02T18:51:45.9999999999Z"), Some(MOMENT + 999));
        assert_eq!(rfc3339("2016-12-02T18:51:45.1Z"), Some(MOMENT + 100));
        assert_eq!(rfc3339("2016-12-31T23:59:60Z"), rfc3339("2016-12-31T23:59:59Z"));
        assert_eq!(utc("2016-12-02 18:51:45"), Some(MOMENT));
        assert_eq!(utc("2016-12-02T19:51:45+01:00"), Some(MOMENT));
    }

    #[test]
    fn reads_every_form_of_a_mails_date() {
        for text in [
            "Fri, 02 Dec 2016 18:51:45 GMT",
            "Fri, 2 Dec 2016 18:51:45 +0000",
            "Fri, 02 Dec 2016 18:51:45 -0000 (UTC)",
            "Fri,  2 dec 2016 19:51:45  +0100 (Central European Time)",
            "02 Dec 2016 18:51:45 UTC",
            " Fri, 02 Dec 2016 13:21:45 -0530 ",
            "Fri, 02 Dec 2016 13:51:45 EST",
            "Fri, 02 Dec 2016 11:51:45 PDT",
            "Sat, 03 Dec 2016 01:51:45 +0700",
        ] {
            assert_eq!(rfc2822(text), Some(MOMENT), "{text}");
        }
        assert_eq!(rfc2822("Fri, 02 Dec 2016 18:51 +0000"), Some(MOMENT - 45_000));
        assert_eq!(
            rfc2822("Sat, 31 Dec 2016 23:59:60 GMT"),
            rfc2822("Sat, 31 Dec 2016 23:59:59 GMT")
        );
    }

    #[test]
    fn parts_are_of_the_calendar_and_the_clock() {
        assert_eq!(from_parts(2016, 12, 2, 18, 51, 45), Some(MOMENT));
        assert_eq!(from_parts(1970, 1, 1, 0, 0, 0), Some(0));
        assert_eq!(from_parts(9999, 12, 31, 23, 59, 60), Some(END_MS - 1000));
        for [year, month, day, hour, minute, second] in [
            [1969, 12, 31, 23, 59, 59],
            [10_000, 1, 1, 0, 0, 0],
            [i64::MIN, 1, 1, 0, 0, 0],
            [2015, 2, 29, 0, 0, 0],
            [2016, 0, 1, 0, 0, 0],
            [2016, 13, 1, 0, 0, 0],
            [2016, 1, 0, 0, 0, 0],
            [2016, 1, i64::MAX, 0, 0, 0],
            [2016, 1, 1, 24, 0, 0],
            [2016, 1, 1, -1, 0, 0],
            [2016, 1, 1, 0, 60, 0],
            [2016, 1, 1, 0, 0, 61],
            [2016, 1, 1, i64::MAX, i64::MAX, i64::MIN],
        ] {
            assert_eq!(from_parts(year, month, day, hour, minute, second), None);
        }
    }

    #[test]
    fn refuses_what_is_no_time() {
        for bad in [
            "",
            "2016-12-02",
            "2016-12-02T18:51",
            "2016-12-02T18:51:45",
            "2016-13-02T18:51:45Z",
            "2016-02-30T00:00:00Z",
            "2015-02-29T00:00:00Z",
            "2016-12-02T24:00:00Z",
            "2016-12-02T18:51:61Z",
            "2016-12-02T18:51:45.Z",
            "2016-12-02T18:51:45+24:00",
            "2016-12-02T18:51:45+1:00",
            "2016/12/02T18:51:45Z",
            "1969-12-31T23:59:59Z",
            "2016-12-02X18:51:45Z",
            "２016-12-02T18:51:45Z",
            "2016-12-02T18:51:45é",
        ] {
            assert_eq!(rfc3339(bad), None, "{bad}");
        }
        for bad in [
            "",
            "Fri, 02 Dec 2016 18:51:45",
            "Fri, 02 Foo 2016 18:51:45 GMT",
            "Fri, 31 Apr 2016 18:51:45 GMT",
            "Fri, 02 Dec 2016 18:51:45 CET",
            "Fri, 02 Dec 2016 18:51:45 GMT x",
            "Fri, 02 Dec 16 18:51:45 GMT",
            "Fri, 002 Dec 2016 18:51:45 GMT",
            "Fri, 02 Dec 2016 18:51:45:00 GMT",
            "Fri, 02 Dec 2016 18 GMT",
            "Fri, 02 Dec 2016 24:51:45 GMT",
            "Fri, 02 Dec 2016 18:51:61 GMT",
            "Fri, 02 Dec 2016 18:51:45.5 GMT",
            "Fri, 02 Dec 2016 18:51:45 +2400",
            "Wed, 31 Dec 1969 23:59:59 GMT",
            "Fri, 31 Dec 9999 23:59:59 -0001",
            "Fri, é Dec 2016 18:51:45 GMT",
        ] {
            assert_eq!(rfc2822(bad), None, "{bad}");
        }
    }

    #[test]
    fn agrees_with_a_date_library_over_eight_thousand_years() {
        // A prime step in seconds (about 37 days) covers every month, weekday and time of day.
        let mut second = 0;
        while second < 253_402_300_799 {
            let moment = jiff::Timestamp::from_second(second).unwrap();
            assert_eq!(rfc3339(&moment.to_string()), Some(second * 1000), "{moment}");
            let http = jiff::fmt::rfc2822::DateTimePrinter::new()
                .timestamp_to_rfc9110_string(&moment)
                .unwrap();
            assert_eq!(rfc2822(&http), Some(second * 1000), "{http}");
            // Every half hour from -13:00 to +13:00, and never a day before the epoch.
            let shift_seconds = if second == 0 {
                0
            } else {
                (second / 1_800 % 53 - 26) * 1_800
            };
            let offset = jiff::tz::Offset::from_seconds(i32::try_from(shift_seconds).unwrap()).unwrap();
            let zoned = moment.to_zoned_datetime(jiff::tz::TimeZone::fixed(offset));
            let mail = jiff::fmt::rfc2822::DateTimePrinter::new()
                .zoned_datetime_to_string(&zoned)
                .unwrap();
            assert_eq!(rfc2822(&mail), Some(second * 1000), "{mail}");
            let local = offset.to_datetime(moment);
            let [month, day, hour, minute, local_second] = [
                local.month(),
                local.day(),
                local.hour(),
                local.minute(),
                local.second(),
            ]
            .map(i64::from);
            let shown = from_parts(local.year().into(), month, day, hour, minute, local_second);
            assert_eq!(shown, Some((second + shift_seconds) * 1000), "{local}");
            second += 3_196_817;
        }
    }
}
