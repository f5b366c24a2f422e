//! Trace contexts as defined by the W3C: the context in a request's `traceparent` header is passed on with the records on
//! the bus, and its [`TraceId`] is stored with every event.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Name of the header that carries a [`TraceContext`], in HTTP and on the bus.
pub const TRACE_HEADER: &str = "traceparent";

/// Length of the header in version 00.
const LENGTH: usize = 55;

/// The id of a trace: everything that one delivery or request caused. Displayed as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(u128);

impl TraceId {
    /// Creates the id with this number; `None` for 0, which is not a valid id.
    pub fn new(number: u128) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// Returns the id as a number.
    pub fn number(self) -> u128 {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A string is not a trace id or trace context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must have the form of the W3C's `traceparent`")]
pub struct InvalidTrace;

impl FromStr for TraceId {
    type Err = InvalidTrace;

    fn from_str(text: &str) -> Result<Self, InvalidTrace> {
        digits(text, 32).and_then(Self::new).ok_or(InvalidTrace)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A trace, the span in it that caused the request or record carrying this context, and whether that span is exported.
/// Displayed as a `traceparent` of version 00; of a header of a later version, only the fields of version 00 are read, as
/// the W3C requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: TraceId,
    span_id: u64,
    is_sampled: bool,
}

impl TraceContext {
    /// Creates the context of this span; `None` if the span's id is 0, which is not valid.
    pub fn new(trace_id: TraceId, span_id: u64, is_sampled: bool) -> Option<Self> {
        (span_id != 0).then_some(Self {
            trace_id,
            span_id,
            is_sampled,
        })
    }

    /// Returns the trace's id.
    pub fn trace_id(self) -> TraceId {
        self.trace_id
    }

    /// Returns the span's id.
    pub fn span_id(self) -> u64 {
        self.span_id
    }

    /// Returns whether the span is exported.
    pub fn is_sampled(self) -> bool {
        self.is_sampled
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{}-{:016x}-{flags:02x}", self.trace_id, self.span_id)
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTrace;

    fn from_str(text: &str) -> Result<Self, InvalidTrace> {
        let parse = || {
            let mut parts = text.splitn(5, '-');
            let version = digits(parts.next()?, 2)?;
            let trace_id = TraceId::new(digits(parts.next()?, 32)?)?;
            let span_id = u64::try_from(digits(parts.next()?, 16)?).ok()?;
            let is_sampled = digits(parts.next()?, 2)? & 1 == 1;
            // Version 255 is invalid for ever; versions after 00 may append fields.
            if version == 255 || version == 0 && text.len() != LENGTH {
                return None;
            }
            Self::new(trace_id, span_id, is_sampled)
        };
        parse().ok_or(InvalidTrace)
    }
}

/// Parses exactly `length` lower-case hexadecimal digits.
fn digits(text: &str, length: usize) -> Option<u128> {
    let is_plain = text.len() == length
        && text
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    is_plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_the_header_and_writes_it_again() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert_eq!(context.to_string(), EXAMPLE);
        assert!(context.is_sampled());
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let unsampled = EXAMPLE.replace("-01", "-02");
        assert!(!unsampled.parse::<TraceContext>().unwrap().is_sampled());
        let later = format!("cc{}-what-comes", &EXAMPLE[2..]);
        assert_eq!(later.parse(), Ok(context));
    }

    #[test]
    fn what_is_no_context_is_refused() {
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-ann@example.com0000000000000000-00f067aa0ba902b7-01",
        ] {
            assert_eq!(wrong.parse::<TraceContext>(), Err(InvalidTrace), "{wrong}");
        }
    }

    #[test]
    fn an_id_is_a_text_in_json() {
        let id = TraceId::new(7).unwrap();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, "\"00000000000000000000000000000007\"");
        assert_eq!(serde_json::from_str::<TraceId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<TraceId>("\"7\"").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            if let Ok(context) = text.parse::<TraceContext>() {
                prop_assert_eq!(context.to_string().parse(), Ok(context));
            }
        }

        #[test]
        fn any_context_is_read_again(trace in 1_u128.., span in 1_u64.., is_sampled: bool) {
            let context = TraceContext::new(TraceId::new(trace).unwrap(), span, is_sampled).unwrap();
            prop_assert_eq!(context.to_string().parse(), Ok(context));
        }
    }
}
