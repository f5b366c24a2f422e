//! The clicks on one message from one address with one agent.

use event::Timestamp;

/// Number of clicks searched for bursts: more than the links of a mail that are worth following one after the other.
const CLICKS: usize = 32;

/// Three clicks within this time are a burst: people read before they click.
const THREE_CLICKS_MS: i64 = 10_000;

/// Clicks on two different links within this time are a burst. Providers that round to seconds turn less into a second.
const TWO_LINKS_MS: i64 = 1_000;

/// A visit, as far as its clicks have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Visit {
    first: Timestamp,
    /// Time and link of the newest [`CLICKS`] clicks, sorted, no duplicates.
    clicks: Vec<(Timestamp, u64)>,
    burst: bool,
    flagged: bool,
    /// Whether it was counted in reputations, and as what.
    counted_suspect: Option<bool>,
}

impl Visit {
    pub(super) fn new(first: Timestamp) -> Self {
        Self {
            first,
            clicks: Vec::new(),
            burst: false,
            flagged: false,
            counted_suspect: None,
        }
    }

    /// Adds a click; a click that was added before changes nothing.
    pub(super) fn add(&mut self, at: Timestamp, link: u64, flagged: bool) {
        self.first = self.first.min(at);
        self.flagged |= flagged;
        let Err(place) = self.clicks.binary_search(&(at, link)) else {
            return;
        };
        self.clicks.insert(place, (at, link));
        let close = |a: usize, b: usize, within| self.clicks[b].0.millis_since(self.clicks[a].0) <= within;
        self.burst |= (2..self.clicks.len()).any(|last| close(last - 2, last, THREE_CLICKS_MS));
        self.burst |= (1..self.clicks.len()).any(|last| {
            self.clicks[last].1 != self.clicks[last - 1].1 && close(last - 1, last, TWO_LINKS_MS)
        });
        if self.clicks.len() > CLICKS {
            self.clicks.remove(0);
        }
    }

    /// Notes that the visit is counted as suspect or not. Returns whether it is new, and whether it has turned suspect.
    pub(super) fn count(&mut self, suspect: bool) -> (bool, bool) {
        let before = self.counted_suspect;
        // A visit that was suspect once stays suspect.
        self.counted_suspect = Some(suspect || before == Some(true));
        (before.is_none(), suspect && before != Some(true))
    }

    /// Returns the time of the first click at or after `since` that is remembered.
    pub(super) fn first_since(&self, since: Timestamp) -> Option<Timestamp> {
        let clicks = self.clicks.iter().map(|(at, _)| *at);
        // The very first click may be older than those that are remembered.
        std::iter::once(self.first).chain(clicks).find(|at| *at >= since)
    }

    pub(super) fn has_burst(&self) -> bool {
        self.burst
    }

    pub(super) fn flagged(&self) -> bool {
        self.flagged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(clicks: &[(i64, u64)]) -> bool {
        let mut visit = Visit::new(Timestamp::from_millis_clamped(0));
        for (at, link) in clicks {
            visit.add(Timestamp::from_millis_clamped(*at), *link, false);
        }
        visit.has_burst()
    }

    #[test]
    fn bursts_are_three_clicks_or_two_links() {
        assert!(burst(&[(0, 1), (1_000, 2)]));
        assert!(burst(&[(1_000, 2), (0, 1)]), "in any order");
        assert!(!burst(&[(0, 1), (1_001, 2)]));
        assert!(!burst(&[(0, 1), (900, 1)]), "a double click on one link");
        assert!(burst(&[(0, 1), (5_000, 2), (10_000, 1)]));
        assert!(!burst(&[(0, 1), (5_000, 2), (10_001, 3)]));
        assert!(!burst(&[(0, 1), (5_000, 2), (5_000, 2)]), "a repeated event");
        let many: Vec<(i64, u64)> = (0..100).map(|n| (n * 6_000, n as u64)).collect();
        assert!(!burst(&many));
    }

    #[test]
    fn the_first_click_since_a_time_is_found() {
        let at = Timestamp::from_millis_clamped;
        let mut visit = Visit::new(at(50_000));
        for n in (0..40).rev() {
            visit.add(at(50_000 + n * 10_000), 1, false);
        }
        assert_eq!(visit.first_since(at(50_000)), Some(at(50_000)));
        assert_eq!(visit.first_since(at(400_001)), Some(at(410_000)));
        assert_eq!(visit.first_since(at(50_001)), Some(at(130_000)), "the newest 32");
        assert_eq!(visit.first_since(at(440_001)), None);
    }

    #[test]
    fn a_visit_counts_once_and_once_more_when_it_turns() {
        let mut visit = Visit::new(Timestamp::default());
        assert_eq!(visit.count(false), (true, false));
        assert_eq!(visit.count(false), (false, false));
        assert_eq!(visit.count(true), (false, true));
        assert_eq!(visit.count(false), (false, false));
        assert_eq!(visit.count(true), (false, false));
        assert_eq!(Visit::new(Timestamp::default()).count(true), (true, true));
    }
}
