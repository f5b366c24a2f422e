//! Sightings that an engine need not look at again.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use event::UniversalId;
use quick_cache::sync::Cache;

use super::{
    Sighting,
    graph::{Pair, in_order, pairs_of},
};

/// Sightings remembered: those of 100,000 people, at about 50 bytes each.
const REMEMBERED: usize = 100_000;

/// Fingerprints of sightings that are recorded. Keyed at random, so that nobody can make two of them equal; by chance
/// that happens once in 10^14 sightings.
#[derive(Debug)]
pub(super) struct Familiar {
    remembered: Cache<u64, ()>,
    fingerprints: RandomState,
}

impl Familiar {
    pub(super) fn new() -> Self {
        Self {
            remembered: Cache::new(REMEMBERED),
            fingerprints: RandomState::new(),
        }
    }

    /// Those of `sightings` that are not remembered, with their fingerprints.
    pub(super) fn unfamiliar<'a>(&self, sightings: &'a [Sighting]) -> Vec<(u64, &'a Sighting)> {
        let mut unfamiliar = Vec::new();
        for sighting in sightings {
            let fingerprint = self.fingerprints.hash_one(in_order(sighting));
            if self.remembered.get(&fingerprint).is_none() {
                unfamiliar.push((fingerprint, sighting));
            }
        }
        unfamiliar
    }

    /// To be called once the engine holds these.
    pub(super) fn remember(&self, recorded: &[(u64, &Sighting)]) {
        for (fingerprint, _) in recorded {
            self.remembered.insert(*fingerprint, ());
        }
    }
}

/// What an engine is asked for to learn whether sightings are recorded: a lone identifier by its id, several by the pairs
/// that stand for them.
pub(super) fn traces(sightings: &[(u64, &Sighting)]) -> (Vec<UniversalId>, Vec<Pair>) {
    let (mut singles, mut pairs) = (Vec::new(), Vec::new());
    for (_, sighting) in sightings {
        match in_order(sighting).as_slice() {
            [only] => singles.push(UniversalId::from_identifier(only)),
            several => pairs.extend(pairs_of(several)),
        }
    }
    (singles, pairs)
}

/// Those of `sightings` whose traces are not all known.
pub(super) fn news<'a>(
    sightings: &[(u64, &'a Sighting)],
    known_ids: &HashSet<UniversalId>,
    known_pairs: &HashSet<Pair>,
) -> Vec<&'a Sighting> {
    let mut news = Vec::new();
    for (_, sighting) in sightings {
        let recorded = match in_order(sighting).as_slice() {
            [only] => known_ids.contains(&UniversalId::from_identifier(only)),
            several => pairs_of(several).iter().all(|pair| known_pairs.contains(pair)),
        };
        if !recorded {
            news.push(*sighting);
        }
    }
    news
}

/// What a change has to load: the ids of all identifiers of `sightings`, and their pairs.
pub(super) fn touched(sightings: &[&Sighting]) -> (Vec<UniversalId>, Vec<Pair>) {
    let (mut ids, mut pairs) = (Vec::new(), Vec::new());
    for sighting in sightings {
        let identifiers = in_order(sighting);
        ids.extend(identifiers.iter().map(UniversalId::from_identifier));
        pairs.extend(pairs_of(&identifiers));
    }
    (ids, pairs)
}
