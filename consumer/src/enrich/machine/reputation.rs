//! How often visits from an origin were suspect.
//!
//! A visit is suspect if its own evidence suggests a machine. Reputation itself does not count, so that a bad reputation
//! does not reinforce itself. Counts are halved every 30 days, so that an address that changes hands gets a new start.

use event::Timestamp;

/// Time after which counts are halved: an address changes hands in the course of months, and a month of mail is enough to
/// judge it by.
const HALF_LIFE_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

/// The threshold for a bad reputation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standard {
    least_visits: u32,
    suspect_percent: u32,
}

impl Standard {
    /// One address: people rarely share one with a scanner.
    pub(super) const ADDRESS: Self = Self {
        least_visits: 3,
        suspect_percent: 60,
    };
    /// A network has many tenants, so that more evidence is required. The share is what those synthetic scanners reach that
    /// wait, follow few links and change address and agent each time; people stay far below it.
    pub(super) const NETWORK: Self = Self {
        least_visits: 20,
        suspect_percent: 65,
    };
    /// One person's agent: a scanner in front of a mailbox visits with every mail.
    pub(super) const HABIT: Self = Self {
        least_visits: 3,
        suspect_percent: 70,
    };
}

/// Visits required for a good reputation, and the largest share of them that may be suspect: more than one visit, and one of
/// three may have been hasty.
const GOOD_LEAST_VISITS: u32 = 2;
const GOOD_SUSPECT_PERCENT: u32 = 34;

/// Visits and suspect ones among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reputation {
    visits: u32,
    suspect: u32,
    halved_at: Timestamp,
}

impl Reputation {
    pub(super) fn new(at: Timestamp) -> Self {
        Self {
            visits: 0,
            suspect: 0,
            halved_at: at,
        }
    }

    /// Counts a visit if it is `new`, and counts it as suspect if it has `turned` suspect.
    pub(super) fn count(&mut self, at: Timestamp, new: bool, turned: bool) {
        *self = self.faded(at);
        self.visits = self.visits.saturating_add(u32::from(new));
        self.suspect = self.suspect.saturating_add(u32::from(turned)).min(self.visits);
    }

    pub(super) fn is_bad(&self, standard: Standard, at: Timestamp) -> bool {
        let Self { visits, suspect, .. } = self.faded(at);
        visits >= standard.least_visits && percent(suspect, visits) >= standard.suspect_percent
    }

    pub(super) fn is_good(&self, at: Timestamp) -> bool {
        let Self { visits, suspect, .. } = self.faded(at);
        visits >= GOOD_LEAST_VISITS && percent(suspect, visits) <= GOOD_SUSPECT_PERCENT
    }

    fn faded(&self, at: Timestamp) -> Self {
        let halvings = at.millis_since(self.halved_at).max(0) / HALF_LIFE_MS;
        let shift = u32::try_from(halvings).unwrap_or(u32::MAX);
        Self {
            visits: self.visits.checked_shr(shift).unwrap_or(0),
            suspect: self.suspect.checked_shr(shift).unwrap_or(0),
            halved_at: self.halved_at.plus_millis(halvings * HALF_LIFE_MS),
        }
    }
}

fn percent(part: u32, whole: u32) -> u32 {
    u32::try_from(u64::from(part) * 100 / u64::from(whole.max(1))).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fades_and_needs_enough_visits() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut reputation = Reputation::new(start);
        reputation.count(start, true, true);
        reputation.count(start, true, true);
        assert!(
            !reputation.is_bad(Standard::ADDRESS, start),
            "two visits are too few"
        );
        reputation.count(start, true, false);
        assert!(reputation.is_bad(Standard::ADDRESS, start), "two of three");
        assert!(!reputation.is_bad(Standard::HABIT, start), "less than 70 %");
        assert!(!reputation.is_bad(Standard::ADDRESS, start.plus_millis(HALF_LIFE_MS)));
        reputation.count(start.plus_millis(100 * HALF_LIFE_MS), true, false);
        reputation.count(start, true, false);
        assert!(
            reputation.is_good(start.plus_millis(100 * HALF_LIFE_MS)),
            "a late event takes nothing back"
        );
    }

    #[test]
    fn a_visit_that_turns_suspect_after_fading_counts_no_more_than_the_visits() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut reputation = Reputation::new(start);
        reputation.count(start, true, false);
        reputation.count(start.plus_millis(HALF_LIFE_MS), false, true);
        assert_eq!((reputation.visits, reputation.suspect), (0, 0));
    }
}
