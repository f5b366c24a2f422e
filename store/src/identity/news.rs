//! Tells sightings that are recorded already from those that are not.

use std::collections::HashSet;

use event::UniversalId;

use super::{
    Sighting,
    graph::{Pair, in_order, pairs_of},
};

/// Returns what to look up in an engine to learn whether sightings are recorded: the ids of the strongest identifiers, which
/// must have events, and the pairs that stand for the others.
pub(super) fn traces(sightings: &[Sighting]) -> (Vec<UniversalId>, Vec<Pair>) {
    let (mut ids, mut pairs) = (Vec::new(), Vec::new());
    for sighting in sightings {
        let identifiers = in_order(sighting);
        ids.extend(identifiers.first().map(UniversalId::from_identifier));
        pairs.extend(pairs_of(&identifiers));
    }
    (ids, pairs)
}

/// Returns those of `sightings` whose traces are not all known.
pub(super) fn news<'a>(
    sightings: &'a [Sighting],
    with_events: &HashSet<UniversalId>,
    known_pairs: &HashSet<Pair>,
) -> Vec<&'a Sighting> {
    let mut news = Vec::new();
    for sighting in sightings {
        let identifiers = in_order(sighting);
        let strongest = identifiers.first().map(UniversalId::from_identifier);
        let recorded = strongest.is_none_or(|strongest| with_events.contains(&strongest))
            && pairs_of(&identifiers)
                .iter()
                .all(|pair| known_pairs.contains(pair));
        if !recorded {
            news.push(sighting);
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
