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

    /// To be called once something was erased: its sightings are news again.
    pub(super) fn forget(&self) {
        self.remembered.clear();
    }

    /// To be called once the engine holds these.
    pub(super) fn remember(&self, recorded: &[(u64, &Sighting)]) {
        for (fingerprint, _) in recorded {
            self.remembered.insert(*fingerprint, ());
        }
    }
}

/// What an engine is asked for to learn whether sightings are recorded: whether the id of the strongest identifier has
/// events, and the pairs that stand for the others.
pub(super) fn traces(sightings: &[(u64, &Sighting)]) -> (Vec<UniversalId>, Vec<Pair>) {
    let (mut ids, mut pairs) = (Vec::new(), Vec::new());
    for (_, sighting) in sightings {
        let identifiers = in_order(sighting);
        ids.extend(identifiers.first().map(UniversalId::from_identifier));
        pairs.extend(pairs_of(&identifiers));
    }
    (ids, pairs)
}

/// Those of `sightings` whose traces are not all known.
pub(super) fn news<'a>(
    sightings: &[(u64, &'a Sighting)],
    with_events: &HashSet<UniversalId>,
    known_pairs: &HashSet<Pair>,
) -> Vec<&'a Sighting> {
    let mut news = Vec::new();
    for (_, sighting) in sightings {
        let identifiers = in_order(sighting);
        let strongest = identifiers.first().map(UniversalId::from_identifier);
        let recorded = strongest.is_none_or(|strongest| with_events.contains(&strongest))
            && pairs_of(&identifiers)
                .iter()
                .all(|pair| known_pairs.contains(pair));
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
