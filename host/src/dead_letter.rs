//! Builds dead letters, and limits how many unproven ones are kept.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use event::{TRACE_HEADER, Timestamp};
use store::bus::{DEAD_LETTERS_TOPIC, NewRecord, header};

use crate::{accounts::Account, canonical::RejectedElement, intake::Receipt};

/// Maximum number of positions listed in a header; the message has the full count.
const MAX_INDEXES: usize = 100;

/// Unproven dead letters that an account may produce per minute: enough to see a provider's change of format, too few
/// for a stranger to fill a disk (with [`MAX_UNPROVEN_BYTES`], less than a gigabyte a day).
const UNPROVEN_PER_MINUTE: u32 = 10;

/// Longest body of an unproven dead letter. Real deliveries of a few events have 1 to 10 KiB.
const MAX_UNPROVEN_BYTES: usize = 64 * 1024;

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

/// Limits how many unproven deliveries are dead-lettered, per account.
#[derive(Debug, Default)]
pub(crate) struct UnprovenBudget {
    // Bounded by the number of existing accounts: deliveries to unknown ones never get this far.
    spent: Mutex<HashMap<(String, String), (i64, u32)>>,
}

impl UnprovenBudget {
    /// Takes one unit of this minute's budget. Returns whether a dead letter with a body of this length may be kept.
    pub(crate) fn take(&self, provider: &str, account: &str, body_bytes: usize, now: Timestamp) -> bool {
        if body_bytes > MAX_UNPROVEN_BYTES {
            return false;
        }
        let minute = now.as_seconds() / 60;
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = spent
            .entry((provider.to_owned(), account.to_owned()))
            .or_insert((minute, 0));
        if entry.0 != minute {
            *entry = (minute, 0);
        }
        entry.1 += 1;
        entry.1 <= UNPROVEN_PER_MINUTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_fill_the_disk() {
        let budget = UnprovenBudget::default();
        let now: Timestamp = "2026-01-10T12:00:00.000Z".parse().unwrap();
        let taken = (0..100)
            .filter(|_| budget.take("acme", "default", 1, now))
            .count();
        assert_eq!(taken, UNPROVEN_PER_MINUTE as usize);
        assert!(budget.take("acme", "eu", 1, now), "accounts do not share it");
        assert!(budget.take("acme", "default", 1, now.plus_millis(60_000)));
        assert!(!budget.take("acme", "eu", MAX_UNPROVEN_BYTES + 1, now));
    }
}
