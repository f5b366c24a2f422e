//! Types of configured values: secrets that are never printed, and numbers that must lie in a range.

use std::{
    fmt::{self, Display},
    ops::RangeInclusive,
};

use serde::Deserialize;

/// A configured password, key or token. Its `Debug` output reveals nothing, and it has no `Display`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret from the configuration.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Checks whether the secret is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the secret itself: for comparing it, deriving keys, and passing it to its server.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A number in the configuration is outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` is {value}, it must be between {min} and {max}")]
pub struct OutOfRange {
    /// The key including its section, such as `host.max_body_bytes`.
    key: String,
    value: String,
    min: String,
    max: String,
}

/// Converts `value` to the type of its setting if it lies within `range`. `key` is the setting's name in `section`.
///
/// # Errors
/// [`OutOfRange`] with the full key, its value, and both ends of the range.
pub fn number<T, V>(section: &str, key: &str, value: V, range: RangeInclusive<V>) -> Result<T, OutOfRange>
where
    T: TryFrom<V>,
    V: Copy + PartialOrd + Display,
{
    match T::try_from(value) {
        Ok(number) if range.contains(&value) => Ok(number),
        _ => Err(OutOfRange {
            key: format!("{section}.{key}"),
            value: value.to_string(),
            min: range.start().to_string(),
            max: range.end().to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_range_is_told_with_its_key_and_both_ends() {
        assert_eq!(number::<u8, u64>("host", "things", 7, 1..=7), Ok(7));
        let error = number::<u64, u64>("host", "things", 8, 1..=7).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`host.things` is 8, it must be between 1 and 7"
        );
        let error = number::<f64, f64>("host", "share", f64::NAN, 0.0..=0.5).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`host.share` is NaN, it must be between 0 and 0.5"
        );
        assert!(
            number::<u8, u64>("host", "things", 256, 0..=1_000).is_err(),
            "no byte"
        );
    }

    #[test]
    fn debug_hides_secrets() {
        assert_eq!(format!("{:?}", Secret::new("s3cret")), "Secret(…)");
    }
}
