//! Limits how much is read if there may be too much.
//!
//! If there are more rows than a reader wants, those of a share of the people are read. This is a fair sample of the whole
//! time, since people are selected by a hash.
//!
//! What a model of delays learns about a provider depends only on that provider's mail, so a provider that sends much must not
//! crowd out the others, nor its last mailing the weeks before. So each provider has its own share, read in the order of the
//! primary key, so that only a share of the people is read and not all of them. Decisions are compared and audited over weeks,
//! and the newest alone would be those whose mail has not arrived yet.

use std::collections::BTreeMap;

/// Maximum number of rows read in total, as a multiple of the requested number: a share is right only on average, and a single
/// person with most of the rows (an address to which tests are sent) must not add all of them.
const MOST: usize = 2;

/// A string that sorts after every universal id.
const EVERYBODY: &str = "sg";

/// Rows of all people or, if there are too many, of a share of the people.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// The share of the people that the rows are about: 1 if they are about all.
    pub share: f64,
}

/// The share of the people to read so that about `wanted` of `count` rows are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PeopleShare {
    wanted: u64,
    count: u64,
}

impl PeopleShare {
    pub(super) fn new(count: u64, wanted: usize) -> Self {
        let wanted = (wanted as u64).max(1);
        Self {
            wanted,
            count: count.max(wanted),
        }
    }

    /// Returns the string below which the universal ids of the share sort.
    pub(super) fn bound(self) -> String {
        bound(self.wanted, self.count).unwrap_or_else(|| EVERYBODY.to_owned())
    }

    /// Returns the maximum number of rows to read.
    pub(super) fn limit(self) -> u64 {
        self.wanted.saturating_mul(MOST as u64)
    }

    pub(super) fn sample<T>(self, rows: Vec<T>) -> Sample<T> {
        Sample {
            rows,
            share: self.wanted as f64 / self.count as f64,
        }
    }
}

/// The providers with samples, each with the number n if one in n people is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Shares(BTreeMap<String, u32>);

impl Shares {
    /// Computes the shares from the number of samples of each provider, so that about `per_provider` of each are left: at least
    /// half of `per_provider`, if the provider has more than it.
    pub(super) fn new(samples: impl IntoIterator<Item = (String, u64)>, per_provider: usize) -> Self {
        let per_provider = (per_provider as u64).max(1);
        let shares = samples.into_iter().map(|(esp, count)| {
            let one_in = u32::try_from(count.div_ceil(per_provider)).unwrap_or(u32::MAX);
            (esp, one_in.max(1))
        });
        Self(shares.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns each provider, with the string below which the universal ids of its share sort; `None` if everybody is read.
    pub(super) fn each(&self) -> impl Iterator<Item = (&str, Option<String>)> {
        self.0
            .iter()
            .map(|(esp, one_in)| (esp.as_str(), bound(1, u64::from(*one_in))))
    }

    /// Returns the number of samples that one sample read stands for.
    pub(super) fn stands_for(&self, esp: &str) -> u32 {
        self.0.get(esp).copied().unwrap_or(1)
    }

    /// Returns the maximum number of samples to read.
    pub(super) fn limit(&self, per_provider: usize) -> usize {
        MOST.saturating_mul(per_provider).saturating_mul(self.0.len())
    }
}

/// Returns the string below which `part` of `whole` universal ids sort; `None` if that is all of them. After `sf_` an id has 32
/// digits of a hash, so ids are evenly distributed over all beginnings.
fn bound(part: u64, whole: u64) -> Option<String> {
    let first_digits = u128::from(u64::MAX) * u128::from(part) / u128::from(whole.max(1));
    (part < whole).then(|| format!("sf_{first_digits:016x}"))
}

#[cfg(test)]
mod tests {
    use event::UniversalId;

    use super::*;

    #[test]
    fn a_share_of_the_people_lies_below_the_bound() {
        let ids: Vec<UniversalId> = (0..20_000_u64)
            .map(|n| {
                let identifier = event::Hasher::new().email_identifier(&format!("p{n}@example.com"));
                UniversalId::from_identifier(&identifier.expect("it is an address"))
            })
            .collect();
        for (part, whole) in [(1, 2), (1, 3), (2, 3), (3, 50), (999, 1_000)] {
            let bound = bound(part, whole).unwrap();
            let below = ids.iter().filter(|id| id.as_str() < bound.as_str()).count();
            let expected = ids.len() as f64 * part as f64 / whole as f64;
            let off = (below as f64 - expected).abs();
            assert!(off < 5.0 * expected.sqrt(), "{part} in {whole}: {below}");
        }
        assert_eq!(bound(1, 1), None);
        assert!(ids.iter().all(|id| id.as_str() < EVERYBODY));
    }

    #[test]
    fn as_many_people_are_read_as_leave_what_is_wanted() {
        let all = PeopleShare::new(250, 250);
        assert_eq!(
            (all.bound().as_str(), all.sample(vec![()]).share),
            (EVERYBODY, 1.0)
        );
        assert_eq!(PeopleShare::new(0, 0).bound(), EVERYBODY);
        let some = PeopleShare::new(1_000, 250);
        assert_eq!((some.limit(), some.sample(vec![()]).share), (500, 0.25));
        assert_eq!(some.bound(), "sf_3fffffffffffffff");
    }

    #[test]
    fn a_provider_with_more_than_is_wanted_is_thinned_alone() {
        let shares = Shares::new([("large".into(), 1_001), ("small".into(), 100)], 100);
        assert_eq!((shares.stands_for("large"), shares.stands_for("small")), (11, 1));
        assert_eq!(shares.limit(100), 400);
        let bounds: Vec<_> = shares.each().collect();
        assert!(
            bounds[0].1.is_some() && bounds[1] == ("small", None),
            "{bounds:?}"
        );
        // A `per_provider` of 0, or a count beyond the range, must not fail.
        assert_eq!(
            Shares::new([("large".into(), u64::MAX)], 0).stands_for("large"),
            u32::MAX
        );
    }
}
