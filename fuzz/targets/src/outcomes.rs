//! Lifts arbitrary memory: a guest returns the bytes of the delivery, wherever they point, and the host reads from that what it
//! can.

use crate::service::{self, Answer};

/// The address at which the guest puts the bytes; a pointer into them is this address plus an offset.
pub const ANSWER_AT: u32 = 0x0020_0000;

/// The first byte selects contract and call; the rest is the result.
pub fn run(bytes: &[u8]) {
    let Some((status, text)) = answer(bytes) else {
        return;
    };
    match status {
        200..=299 | 400 | 401 => {}
        // The contract's limits, under their names, and unproven deliveries beyond the few that are kept.
        503 => assert!(
            text.contains("plugin_trapped") || text.contains("malformed_not_kept"),
            "{text}"
        ),
        other => panic!("{other}: {text}"),
    }
}

/// Returns the host's response to the delivery: status and body.
pub fn answer(bytes: &[u8]) -> Option<(u16, String)> {
    let (choice, answer) = bytes.split_first()?;
    let slug = ["lift-old", "lift-new", "claim-old", "claim-new"][usize::from(choice % 4)];
    let Answer { status, text, .. } = service::post(&format!("/webhooks/{slug}"), answer);
    Some((status, text))
}
