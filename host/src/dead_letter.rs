//! Builds dead letters, and limits how many are kept.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use event::{TRACE_HEADER, Timestamp};
use store::bus::{DEAD_LETTERS_TOPIC, NewRecord, header};

use crate::{accounts::Account, canonical::RejectedElement, intake::Receipt, plugin::types::Request};

/// Maximum number of positions listed in a header; the message has the full count.
const MAX_INDEXES: usize = 100;

/// Unproven dead letters that an account may produce per minute: enough to see a provider's change of format, too few
/// for a stranger to fill a disk (with [`MAX_UNPROVEN_BYTES`], less than a gigabyte a day).
const UNPROVEN_PER_MINUTE: u32 = 10;

/// Largest unproven delivery, headers included, that is kept. Real ones of a few events have 1 to 10 KiB.
const MAX_UNPROVEN_BYTES: usize = 64 * 1024;

/// Bytes of proven deliveries, headers included, that an account may have kept per minute before further ones have to be sent again:
/// a gigabyte an hour, that is, a million events. Whoever has captured one delivery of a provider that does not sign the body could
/// otherwise fill a disk within minutes.
const PROVEN_BYTES_PER_MINUTE: usize = 16 * 1024 * 1024;

/// Why a delivery is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause<'a> {
    /// The plugin cannot read it, for this reason.
    Malformed(&'a str),
    /// The plugin cannot read some of its elements.
    Rejected(&'a [RejectedElement]),
}

/// Builds the record that keeps a delivery, given in `sealed` form. Its key is `provider/account`.
pub(crate) fn record(
    sealed: Vec<u8>,
    account: &Account,
    plugin: &str,
    receipt: Receipt<'_>,
    cause: Cause<'_>,
) -> NewRecord {
    let source = format!("{}/{}", account.provider(), account.name());
    let mut headers = BTreeMap::new();
    let mut put = |name: &str, value: String| headers.insert(name.to_owned(), value);
    put(header::STAGE, "host".to_owned());
    put(header::SOURCE, source.clone());
    put(header::PROVIDER, account.provider().to_owned());
    put(header::ACCOUNT, account.name().to_owned());
    put(header::PLUGIN, plugin.to_owned());
    put(header::REQUEST_ID, receipt.request_id.to_owned());
    put(TRACE_HEADER, receipt.trace.to_string());
    match cause {
        Cause::Malformed(reason) => {
            put(header::CAUSE, "malformed".to_owned());
            put(header::MESSAGE, reason.to_owned());
        }
        Cause::Rejected(elements) => {
            let named = elements
                .iter()
                .take(MAX_INDEXES)
                .map(|element| element.index.to_string());
            let first = elements.first().map_or("", |element| element.reason.as_str());
            put(header::CAUSE, "rejected_elements".to_owned());
            put(
                header::MESSAGE,
                format!("{} elements were rejected, the first: {first}", elements.len()),
            );
            put(header::INDEXES, named.collect::<Vec<_>>().join(","));
        }
    }
    NewRecord {
        topic: DEAD_LETTERS_TOPIC.to_owned(),
        key: source,
        value: sealed,
        headers,
    }
}

/// Limits how much is dead-lettered, per account.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    // Bounded by the number of existing accounts: deliveries to unknown ones never get this far.
    spent: Mutex<HashMap<(String, String), Spent>>,
}

/// What an account has produced in a minute.
#[derive(Debug, Default)]
struct Spent {
    minute: i64,
    unproven: u32,
    proven_bytes: usize,
}

impl Budget {
    /// Takes a delivery's part of this minute's budget. Returns whether the delivery may be kept.
    pub(crate) fn take(
        &self,
        (provider, account): (&str, &str),
        delivery: &Request,
        is_proven: bool,
        now: Timestamp,
    ) -> bool {
        let bytes = bytes_of(delivery);
        let minute = now.as_seconds() / 60;
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = spent
            .entry((provider.to_owned(), account.to_owned()))
            .or_default();
        if spent.minute != minute {
            *spent = Spent {
                minute,
                ..Spent::default()
            };
        }
        if !is_proven {
            let is_kept = bytes <= MAX_UNPROVEN_BYTES && spent.unproven < UNPROVEN_PER_MINUTE;
            spent.unproven += u32::from(is_kept);
            return is_kept;
        }
        // The last one may exceed the budget: otherwise one larger than the whole budget would never be kept.
        let is_kept = spent.proven_bytes < PROVEN_BYTES_PER_MINUTE;
        if is_kept {
            spent.proven_bytes += bytes;
        }
        is_kept
    }
}

/// Returns the number of bytes that a sender had to send for what is kept of a delivery.
fn bytes_of(delivery: &Request) -> usize {
    let headers = delivery.headers.iter();
    let headers: usize = headers.map(|header| header.name.len() + header.value.len()).sum();
    delivery.path.len() + delivery.query.len() + headers + delivery.body.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::types::Header;

    fn delivery(header_bytes: usize, body_bytes: usize) -> Request {
        Request {
            method: "POST".to_owned(),
            path: String::new(),
            query: String::new(),
            headers: vec![Header {
                name: String::new(),
                value: "x".repeat(header_bytes),
            }],
            body: vec![0; body_bytes],
            received_at_ms: 0,
            settings: Vec::new(),
            secrets: Vec::new(),
        }
    }

    #[test]
    fn strangers_cannot_fill_the_disk() {
        let budget = Budget::default();
        let take = |account, delivery, now| budget.take(("acme", account), &delivery, false, now);
        let now: Timestamp = "2026-01-10T12:00:00.000Z".parse().unwrap();
        let taken = (0..100).filter(|_| take("default", delivery(0, 1), now)).count();
        assert_eq!(taken, UNPROVEN_PER_MINUTE as usize);
        assert!(take("eu", delivery(0, 1), now), "accounts do not share it");
        assert!(take("default", delivery(0, 1), now.plus_millis(60_000)));
        assert!(take("eu", delivery(1, MAX_UNPROVEN_BYTES - 1), now));
        assert!(!take("eu", delivery(1, MAX_UNPROVEN_BYTES), now), "headers count");
    }

    #[test]
    fn nor_can_whoever_has_captured_a_proof() {
        let budget = Budget::default();
        let take = |account, now| budget.take(("acme", account), &delivery(10, 1 << 20), true, now);
        let now: Timestamp = "2026-01-10T12:00:00.000Z".parse().unwrap();
        let taken = (0..100).filter(|_| take("default", now)).count();
        assert_eq!(taken, 16);
        assert!(take("eu", now), "accounts do not share it");
        let strangers = budget.take(("acme", "default"), &delivery(0, 1), false, now);
        assert!(strangers, "unproven ones do not share it");
        assert!(take("default", now.plus_millis(60_000)));
        let huge = delivery(0, PROVEN_BYTES_PER_MINUTE + 1);
        let later = now.plus_millis(120_000);
        assert!(
            budget.take(("acme", "default"), &huge, true, later),
            "it is kept alone"
        );
    }
}
