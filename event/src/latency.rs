//! The delay of a delivered message, as reported by an event.

/// The metadata entry that holds the delay of a delivered event, in seconds. The host writes it, senders and
/// synthetic events write it themselves, and the consumer reads it.
pub const METADATA_KEY: &str = "latency_seconds";

/// Longest delay that is accepted as real. Mail servers give up after about five days; a longer delay means a message id
/// that was used twice or a wrong clock.
const MAX_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// Checks whether a message can have taken this long from sending to delivery.
pub fn is_believable(latency_ms: i64) -> bool {
    (0..=MAX_MS).contains(&latency_ms)
}
