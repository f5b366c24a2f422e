//! Builds dead letters, and limits how many are kept.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use event::TRACE_HEADER;
use store::bus::{DEAD_LETTERS_TOPIC, NewRecord, header};

use crate::{accounts::Account, canonical::RejectedElement, intake::Receipt, plugin::types::Request};

/// Maximum number of positions listed in a header; the message has the full count.
const MAX_INDEXES: usize = 100;

/// The time that a budget is for, from the first dead letter of an account on.
const MINUTE: Duration = Duration::from_secs(60);

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
    /// The plugin cannot read it.
    Malformed {
        /// The plugin's reason.
        reason: &'a str,
        /// Whether its proofs held.
        is_proven: bool,
    },
    /// Some of its elements cannot be used.
    Rejected {
        /// These.
        elements: &'a [RejectedElement],
        /// Whether events of others are stored.
        is_partial: bool,
    },
}

impl Cause<'_> {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::Rejected { .. } => "rejected_elements",
        }
    }

    /// Returns whether the delivery's proofs held. Without, elements are not looked at.
    pub(crate) fn is_proven(self) -> bool {
        match self {
            Self::Malformed { is_proven, .. } => is_proven,
            Self::Rejected { .. } => true,
        }
    }

    /// Returns the positions of the elements that yielded no event when others did. Empty if none did: the delivery is then
    /// replayed as a whole, because another version of the plugin may find more elements in it.
    pub(crate) fn indexes(self) -> Vec<u32> {
        match self {
            Self::Rejected {
                elements,
                is_partial: true,
            } => elements.iter().map(|element| element.index).collect(),
            Self::Rejected { .. } | Self::Malformed { .. } => Vec::new(),
        }
    }
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
    put(header::CAUSE, cause.code().to_owned());
    match cause {
        Cause::Malformed { reason, .. } => {
            put(header::MESSAGE, reason.to_owned());
        }
        Cause::Rejected { elements, .. } => {
            let named = elements
                .iter()
                .take(MAX_INDEXES)
                .map(|element| element.index.to_string());
            let first = elements.first().map_or("", |element| element.reason.as_str());
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
    // Bounded by the number of accounts: deliveries to unknown ones never get this far, and removed ones are forgotten.
    spent: Mutex<HashMap<(String, String), Spent>>,
}

/// What an account has produced in a minute, or a delivery in that minute.
#[derive(Debug)]
struct Spent {
    /// When the minute began.
    since: Instant,
    unproven: u32,
    proven_bytes: usize,
}

impl Spent {
    fn nothing(since: Instant) -> Self {
        Self {
            since,
            unproven: 0,
            proven_bytes: 0,
        }
    }
}

/// What a delivery has taken of a minute's budget.
#[derive(Debug)]
pub(crate) struct Share(Spent);

/// Why a delivery cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The minute's budget is used up.
    BudgetSpent,
    /// Nothing proves it, and it is too large for that.
    TooLarge,
}

impl NoRoom {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::BudgetSpent => "budget_spent",
            Self::TooLarge => "too_large",
        }
    }
}

impl Budget {
    /// Takes a delivery's part of this minute's budget. `now` is the time at which it would be kept, not that of its receipt:
    /// a sender can hold a request open for as long as it likes.
    ///
    /// # Errors
    /// [`NoRoom`] if the delivery may not be kept.
    pub(crate) fn take(
        &self,
        account: &Account,
        delivery: &Request,
        is_proven: bool,
        now: Instant,
    ) -> Result<Share, NoRoom> {
        let bytes = bytes_of(delivery);
        let mut accounts = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = accounts
            .entry(names(account))
            .or_insert_with(|| Spent::nothing(now));
        // Only ever forwards: a delivery whose `now` was read before another's began a new minute belongs to that minute.
        if now.saturating_duration_since(spent.since) >= MINUTE {
            *spent = Spent::nothing(now);
        }
        let mut share = Spent::nothing(spent.since);
        if is_proven {
            // The last one may exceed the budget: otherwise one larger than the whole budget would never be kept.
            if spent.proven_bytes >= PROVEN_BYTES_PER_MINUTE {
                return Err(NoRoom::BudgetSpent);
            }
            share.proven_bytes = bytes;
        } else {
            if bytes > MAX_UNPROVEN_BYTES {
                return Err(NoRoom::TooLarge);
            }
            if spent.unproven >= UNPROVEN_PER_MINUTE {
                return Err(NoRoom::BudgetSpent);
            }
            share.unproven = 1;
        }
        spent.unproven += share.unproven;
        spent.proven_bytes += share.proven_bytes;
        Ok(Share(share))
    }

    /// Returns to the budget what was taken for a delivery that was not kept after all. Never called for one whose sender has hung
    /// up: the bus may have kept it.
    pub(crate) fn give_back(&self, account: &Account, Share(share): Share) {
        let mut accounts = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        // A later minute has begun with a whole budget.
        if let Some(spent) = accounts.get_mut(&names(account))
            && spent.since == share.since
        {
            spent.unproven = spent.unproven.saturating_sub(share.unproven);
            spent.proven_bytes = spent.proven_bytes.saturating_sub(share.proven_bytes);
        }
    }

    /// Forgets what removed accounts have spent; `is_there` gets the provider's and the account's name.
    pub(crate) fn keep_accounts(&self, is_there: impl Fn(&str, &str) -> bool) {
        let mut accounts = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|(provider, account), _| is_there(provider, account));
    }
}

fn names(account: &Account) -> (String, String) {
    (account.provider().to_owned(), account.name().to_owned())
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

    fn account(name: &str) -> Account {
        Account::new("acme", name, [], false)
    }

    #[test]
    fn strangers_cannot_fill_the_disk() {
        let budget = Budget::default();
        let take = |name, delivery, now| budget.take(&account(name), &delivery, false, now).map(drop);
        let now = Instant::now();
        let taken = (0..100).filter(|_| take("default", delivery(0, 1), now).is_ok());
        assert_eq!(taken.count(), UNPROVEN_PER_MINUTE as usize);
        assert_eq!(take("default", delivery(0, 1), now), Err(NoRoom::BudgetSpent));
        assert_eq!(
            take("eu", delivery(0, 1), now),
            Ok(()),
            "accounts do not share it"
        );
        assert_eq!(take("default", delivery(0, 1), now + MINUTE), Ok(()));
        assert_eq!(take("eu", delivery(1, MAX_UNPROVEN_BYTES - 1), now), Ok(()));
        let too_large = take("eu", delivery(1, MAX_UNPROVEN_BYTES), now);
        assert_eq!(too_large, Err(NoRoom::TooLarge), "headers count");
    }

    #[test]
    fn nor_can_whoever_has_captured_a_proof() {
        let budget = Budget::default();
        let take = |name, delivery: &Request, now| budget.take(&account(name), delivery, true, now).is_ok();
        let now = Instant::now();
        let large = delivery(10, 1 << 20);
        let taken = (0..100).filter(|_| take("default", &large, now)).count();
        assert_eq!(taken, 16);
        assert!(take("eu", &large, now), "accounts do not share it");
        let strangers = budget.take(&account("default"), &delivery(0, 1), false, now);
        assert!(strangers.is_ok(), "unproven ones do not share it");
        assert!(take("default", &large, now + MINUTE));
        let huge = delivery(0, PROVEN_BYTES_PER_MINUTE + 1);
        assert!(take("default", &huge, now + 2 * MINUTE), "it is kept alone");
    }

    #[test]
    fn deliveries_of_two_minutes_that_alternate_have_two_budgets() {
        for (is_proven, bytes, most) in [
            (false, 1, UNPROVEN_PER_MINUTE as usize),
            (true, PROVEN_BYTES_PER_MINUTE / 4, 4),
        ] {
            let budget = Budget::default();
            let before = Instant::now();
            let take = |now| budget.take(&account("default"), &delivery(0, bytes), is_proven, now);
            let taken = (0..100).filter(|_| take(before).is_ok()).count();
            assert_eq!(taken, most);
            let turns = [before + MINUTE, before].into_iter().cycle().take(100);
            assert_eq!(turns.filter(|now| take(*now).is_ok()).count(), most);
        }
    }

    #[test]
    fn what_is_given_back_counts_for_its_own_minute_only() {
        let budget = Budget::default();
        let account = account("default");
        let take = |now| budget.take(&account, &delivery(0, PROVEN_BYTES_PER_MINUTE), true, now);
        let now = Instant::now();
        let first = take(now).unwrap();
        assert!(take(now).is_err());
        budget.give_back(&account, first);
        let second = take(now).unwrap();
        assert!(take(now + MINUTE).is_ok());
        budget.give_back(&account, second);
        assert!(take(now + MINUTE).is_err());
    }

    #[test]
    fn removed_accounts_are_forgotten() {
        let budget = Budget::default();
        for name in ["default", "eu"] {
            let taken = budget.take(&account(name), &delivery(0, 1), false, Instant::now());
            assert!(taken.is_ok());
        }
        budget.keep_accounts(|provider, account| (provider, account) == ("acme", "eu"));
        let left: Vec<_> = budget.spent.lock().unwrap().keys().cloned().collect();
        assert_eq!(left, [("acme".to_owned(), "eu".to_owned())]);
    }
}
