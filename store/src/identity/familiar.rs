//! Remembers recorded sightings, so that an engine need not look them up again.

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

/// Number of remembered sightings: those of 100,000 people, at about 50 bytes each.
const REMEMBERED: usize = 100_000;

/// Fingerprints of recorded sightings. The hash has a random key, so that nobody can construct two equal ones; by chance that
/// happens once in 10^14 sightings.
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

    /// Returns those of `sightings` that are not remembered, with their fingerprints.
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

    /// Must be called after something was erased: its sightings have to be recorded again.
    pub(super) fn forget(&self) {
        self.remembered.clear();
    }

    /// Must be called only after the engine has stored these sightings.
    pub(super) fn remember(&self, recorded: &[(u64, &Sighting)]) {
        for (fingerprint, _) in recorded {
            self.remembered.insert(*fingerprint, ());
        }
    }
}

/// Returns what to look up in an engine to learn whether sightings are recorded: the ids of the strongest identifiers, which
/// must have events, and the pairs that stand for the others.
pub(super) fn traces(sightings: &[(u64, &Sighting)]) -> (Vec<UniversalId>, Vec<Pair>) {
    let (mut ids, mut pairs) = (Vec::new(), Vec::new());
    for (_, sighting) in sightings {
        let identifiers = in_order(sighting);
        ids.extend(identifiers.first().map(UniversalId::from_identifier));
        pairs.extend(pairs_of(&identifiers));
    }
    (ids, pairs)
}

/// Returns those of `sightings` whose traces are not all known.
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

/// Returns what a change has to load: the ids of all identifiers of `sightings`, and their pairs.
pub(super) fn touched(sightings: &[&Sighting]) -> (Vec<UniversalId>, Vec<Pair>) {
    let (mut ids, mut pairs) = (Vec::new(), Vec::new());
    for sighting in sightings {
        let identifiers = in_order(sighting);
        ids.extend(identifiers.iter().map(UniversalId::from_identifier));
        pairs.extend(pairs_of(&identifiers));
    }
    (ids, pairs)
}
