//! Moments in time, to the millisecond.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment, in milliseconds since 1970-01-01T00:00:00Z. Written as RFC 3339 in UTC with three decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// The last moment that the calendar crate can represent in every time zone, 9999-12-30T22:00:00Z.
const MAX_MS: i64 = 253_402_207_200_000;

/// How far ahead of a correct clock an event's time may be, in milliseconds: a day covers every mix-up of time zones. The host
/// accepts nothing later, which would lie in the future of every person's profile, and a decision for now looks ahead as far.
pub const MAX_AHEAD_MS: i64 = 24 * 60 * 60 * 1_000;

impl Timestamp {
    /// Returns the moment `ms` milliseconds after the Unix epoch, or `None` outside the years 1970 to 9999.
    pub fn try_from_millis(ms: i64) -> Option<Self> {
        (0..=MAX_MS).contains(&ms).then_some(Self(ms))
    }

    /// Like [`Timestamp::try_from_millis`], but moves moments outside the range to its nearer end.
    pub fn from_millis_clamped(ms: i64) -> Self {
        Self(ms.clamp(0, MAX_MS))
    }

    /// Returns the milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// Returns the whole seconds since the Unix epoch.
    pub fn as_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Returns this moment plus `ms` milliseconds, clamped to the range.
    pub fn plus_millis(self, ms: i64) -> Self {
        Self::from_millis_clamped(self.0.saturating_add(ms))
    }

    /// Returns the milliseconds from `earlier` to this moment; negative if `earlier` is later.
    pub fn millis_since(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }

    /// Converts this moment to the calendar crate's type.
    pub fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).expect("the range of Timestamp is inside jiff's")
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        let since_epoch = time
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self::from_millis_clamped(i64::try_from(since_epoch.as_millis()).unwrap_or(MAX_MS))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.to_jiff())
    }
}

/// A string is not an RFC 3339 time between the years 1970 and 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time between 1970 and 9999")]
pub struct InvalidTimestamp;

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed: jiff::Timestamp = text.parse().map_err(|_| InvalidTimestamp)?;
        Self::try_from_millis(parsed.as_millisecond()).ok_or(InvalidTimestamp)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TimestampVisitor)
    }
}

/// Parses a moment without copying its text: every event has several.
struct TimestampVisitor;

impl de::Visitor<'_> for TimestampVisitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_three_decimals_and_reads_offsets() {
        let moment: Timestamp = "2014-08-01T13:28:10.2735393-04:00".parse().unwrap();
        assert_eq!(moment.to_string(), "2014-08-01T17:28:10.273Z");
        assert_eq!(
            Timestamp::try_from_millis(0).unwrap().to_string(),
            "1970-01-01T00:00:00.000Z"
        );
        assert_eq!(
            serde_json::to_string(&moment).unwrap(),
            "\"2014-08-01T17:28:10.273Z\""
        );
        assert_eq!(
            serde_json::from_str::<Timestamp>("\"2014-08-01T17:28:10.273Z\"").unwrap(),
            moment
        );
    }

    #[test]
    fn refuses_what_is_out_of_range() {
        assert!(Timestamp::try_from_millis(-1).is_none());
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert_eq!(
            Timestamp::from_millis_clamped(i64::MAX).to_string(),
            "9999-12-30T22:00:00.000Z"
        );
    }
}
