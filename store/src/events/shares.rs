//! How much of each provider's delays is read.
//!
//! What a model of delays learns of a provider stands on that provider's mail alone, so one that sends much must not crowd out
//! the others, nor its last mailing the weeks before. Where a provider has more samples than a reader wants, those of one
//! person in so many are read: a fair sample of the whole time, since people are told apart by a hash, and in the order of
//! the primary key, so that a share of the people is read and not all of them.

use std::collections::BTreeMap;

/// Samples read in all, as a multiple of what is asked for of the providers together: a share is right on average, and one
/// person with most of a provider's mail (an address that tests are sent to) must not bring all of it.
const MOST: usize = 2;

/// The providers with samples, each with the number `n` of people of which one is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Shares(BTreeMap<String, u32>);

impl Shares {
    /// From how many samples each provider has, so that about `per_provider` of each are left: at least half of it, where
    /// there are more.
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

    /// Each provider, with the text below which the universal ids of its share lie; `None` where everybody is read.
    pub(super) fn each(&self) -> impl Iterator<Item = (&str, Option<String>)> {
        self.0.iter().map(|(esp, one_in)| (esp.as_str(), bound(*one_in)))
    }

    /// How many samples one that was read stands for.
    pub(super) fn stands_for(&self, esp: &str) -> u32 {
        self.0.get(esp).copied().unwrap_or(1)
    }

    /// Samples to read at most.
    pub(super) fn limit(&self, per_provider: usize) -> usize {
        MOST.saturating_mul(per_provider).saturating_mul(self.0.len())
    }
}

/// The text below which one universal id in `one_in` lies. Behind `sf_` an id has 32 digits of a hash: of any number of people
/// as many begin with one as with another.
fn bound(one_in: u32) -> Option<String> {
    (one_in > 1).then(|| format!("sf_{:016x}", u64::MAX / u64::from(one_in)))
}

#[cfg(test)]
mod tests {
    use event::UniversalId;

    use super::*;

    #[test]
    fn one_person_in_so_many_lies_below_the_bound() {
        let ids: Vec<UniversalId> = (0..20_000_u64)
            .map(|n| {
                let identifier = event::Hasher::new().email_identifier(&format!("p{n}@example.com"));
                UniversalId::from_identifier(&identifier.expect("it is an address"))
            })
            .collect();
        for one_in in [2, 3, 7, 100] {
            let bound = bound(one_in).unwrap();
            let below = ids.iter().filter(|id| id.as_str() < bound.as_str()).count();
            let expected = ids.len() as f64 / f64::from(one_in);
            let off = (below as f64 - expected).abs();
            assert!(off < 5.0 * expected.sqrt(), "1 in {one_in}: {below}");
        }
        assert_eq!(bound(1), None);
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
        // Nothing wanted, or more than can be counted, is no reason to fail.
        assert_eq!(
            Shares::new([("large".into(), u64::MAX)], 0).stands_for("large"),
            u32::MAX
        );
    }
}
