//! The week as a grid of 10,080 one-minute slots; slot 0 is Monday 00:00 UTC.

use crate::Timestamp;

/// Minutes, and therefore slots, in a week.
pub const SLOTS: usize = 7 * 24 * 60;

/// Milliseconds in a minute.
pub const MINUTE_MS: i64 = 60_000;

/// Milliseconds in a quarter of an hour.
pub const QUARTER_MS: i64 = 15 * MINUTE_MS;

/// Milliseconds in an hour.
pub const HOUR_MS: i64 = 60 * MINUTE_MS;

/// Milliseconds in a day.
pub const DAY_MS: i64 = 24 * HOUR_MS;

/// Milliseconds in a week.
pub const WEEK_MS: i64 = SLOTS as i64 * MINUTE_MS;

/// The Unix epoch was a Thursday: three days after a Monday.
const EPOCH_OFFSET_MS: i64 = 3 * DAY_MS;

/// Returns the milliseconds since the last Monday 00:00 UTC.
pub fn week_offset_ms(moment: Timestamp) -> i64 {
    (moment.as_millis() + EPOCH_OFFSET_MS).rem_euclid(WEEK_MS)
}

/// Returns the slot that contains `moment`, 0 to 10,079.
pub fn slot(moment: Timestamp) -> usize {
    usize::try_from(week_offset_ms(moment) / MINUTE_MS).expect("an offset into the week is not negative")
}

/// Returns the start of the minute that contains `moment`.
pub fn floor_minute(moment: Timestamp) -> Timestamp {
    moment.plus_millis(-moment.as_millis().rem_euclid(MINUTE_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monday_midnight_is_slot_zero() {
        let slot_of = |text: &str| slot(text.parse().unwrap());
        assert_eq!(slot_of("2026-01-05T00:00:00Z"), 0);
        assert_eq!(slot_of("2026-01-05T00:01:59.999Z"), 1);
        assert_eq!(slot_of("2026-01-11T23:59:59.999Z"), SLOTS - 1);
        assert_eq!(slot_of("1970-01-01T00:00:00Z"), 3 * 1440);
    }
}
