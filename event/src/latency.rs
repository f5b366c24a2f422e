//! The delay of a delivered message, as an event tells it.

/// The metadata entry in which a delivered event tells its delay, in seconds. The host writes it, as senders and
/// made-up events do themselves, and the consumer reads it.
pub const METADATA_KEY: &str = "latency_seconds";

/// Longest delay that is believed. Mail servers give up after about five days; what is longer is a message id used
/// twice or a wrong clock.
const MAX_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// Whether a message can have taken so long from sending to delivery.
pub fn is_believable(latency_ms: i64) -> bool {
    (0..=MAX_MS).contains(&latency_ms)
}
