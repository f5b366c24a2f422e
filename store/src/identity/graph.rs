//! The rules of the identity graph, independent of where it is stored.
//!
//! An engine loads the people that a batch touches, completely, and the pairs of the batch that were seen before; applies the
//! sightings; and stores the [`Changes`], all under one lock.
//!
//! Which identifiers belong together does not depend on the order of sightings, with one exception that is part of the rule
//! itself: a weak identifier seen with two strong people stays with the first.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use event::{Identifier, Timestamp, UniversalId};

use super::{AuditAction, AuditEntry, Person, Sighting};

/// Two identifiers seen together, by their universal ids.
pub(crate) type Pair = (UniversalId, UniversalId);

/// A stored identifier.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) identifier: Identifier,
    /// The canonical id of its person.
    pub(crate) canonical: UniversalId,
    /// Whether events are stored under its id.
    pub(crate) has_events: bool,
}

/// A part of the graph, in memory.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// The identifiers of each person; empty for a person that was merged into another.
    people: Vec<Vec<Identifier>>,
    /// Index into `people` of each identifier.
    owners: HashMap<Identifier, usize>,
    /// The canonical ids as loaded, and whether there were events.
    loaded: HashMap<Identifier, (UniversalId, bool)>,
    /// Identifiers under whose ids events are stored.
    with_events: HashSet<Identifier>,
    pairs: HashSet<Pair>,
    new_pairs: Vec<NewPair>,
    created: Vec<(Identifier, Timestamp)>,
    audit: Vec<AuditEntry>,
}

/// A pair that was not known before.
#[derive(Debug)]
pub(crate) struct NewPair {
    pub(crate) pair: Pair,
    pub(crate) source: String,
    pub(crate) seen_at: Timestamp,
}

/// An identifier that was not known before.
#[derive(Debug)]
pub(crate) struct NewIdentifier {
    pub(crate) identifier: Identifier,
    pub(crate) universal_id: UniversalId,
    pub(crate) canonical: UniversalId,
    pub(crate) has_events: bool,
    pub(crate) seen_at: Timestamp,
}

/// The changes that an engine has to store.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) created: Vec<NewIdentifier>,
    /// Identifiers, by their universal id, with the new canonical id of their person.
    pub(crate) moved: Vec<(UniversalId, UniversalId)>,
    /// Ids that were known and now have events.
    pub(crate) first_events: Vec<UniversalId>,
    pub(crate) pairs: Vec<NewPair>,
    pub(crate) audit: Vec<AuditEntry>,
}

/// Returns the identifiers of a sighting, strongest first, without duplicates.
pub(crate) fn in_order(sighting: &Sighting) -> Vec<Identifier> {
    let mut identifiers = sighting.identifiers.clone();
    identifiers.sort();
    identifiers.dedup();
    identifiers
}

/// Returns the pairs that stand for a sighting: its strongest identifier with each of the others. A sighting whose pairs are
/// all known, and whose strongest identifier has events, has been recorded, by itself or as part of others.
pub(crate) fn pairs_of(identifiers: &[Identifier]) -> Vec<Pair> {
    let Some((first, others)) = identifiers.split_first() else {
        return Vec::new();
    };
    let first = UniversalId::from_identifier(first);
    others
        .iter()
        .map(|other| (first.clone(), UniversalId::from_identifier(other)))
        .collect()
}

/// Builds the person that has these identifiers, each with whether it has events. `members` must not be empty.
fn person(mut members: Vec<(Identifier, bool)>) -> Person {
    members.sort();
    let mut ids: Vec<(UniversalId, bool)> = members
        .iter()
        .map(|(identifier, has_events)| (UniversalId::from_identifier(identifier), *has_events))
        .collect();
    ids[1..].sort();
    let canonical = ids[0].0.clone();
    let mut with_events: Vec<UniversalId> = ids
        .iter()
        .filter(|(_, has_events)| *has_events)
        .map(|(id, _)| id.clone())
        .collect();
    if with_events.is_empty() {
        with_events.push(canonical.clone());
    }
    Person {
        canonical,
        ids: ids.into_iter().map(|(id, _)| id).collect(),
        with_events,
        identifiers: members.into_iter().map(|(identifier, _)| identifier).collect(),
    }
}

/// People, indexed by each of their ids.
#[derive(Debug)]
pub(crate) struct Owners(HashMap<UniversalId, Arc<Person>>);

impl Owners {
    /// Builds the index from all identifiers of some people.
    pub(crate) fn new(stored: impl IntoIterator<Item = Member>) -> Self {
        let mut members_of: HashMap<UniversalId, Vec<(Identifier, bool)>> = HashMap::new();
        for member in stored {
            let members = members_of.entry(member.canonical).or_default();
            members.push((member.identifier, member.has_events));
        }
        let mut owners = HashMap::new();
        for members in members_of.into_values() {
            let person = Arc::new(person(members));
            for id in &person.ids {
                owners.insert(id.clone(), Arc::clone(&person));
            }
        }
        Self(owners)
    }

    /// Returns the owner of each id.
    pub(crate) fn people(&self, ids: &[UniversalId]) -> Vec<Arc<Person>> {
        let person = |id: &UniversalId| match self.0.get(id) {
            Some(person) => Arc::clone(person),
            None => Arc::new(Person::unknown(id.clone())),
        };
        ids.iter().map(person).collect()
    }
}

/// The effects of erasing ids on the people that own them.
#[derive(Debug)]
pub(crate) struct Erasure {
    /// The identifiers to erase.
    pub(crate) identifiers: Vec<Identifier>,
    /// All ids involved: those to erase, and the others of the same people.
    pub(crate) people: Vec<UniversalId>,
    /// Identifiers that stay, by their universal id, with the new canonical id of their person.
    pub(crate) moved: Vec<(UniversalId, UniversalId)>,
}

impl Erasure {
    /// Computes the erasure of `ids`. `stored` must hold every identifier of the people that own them.
    pub(crate) fn new(stored: Vec<Member>, ids: &[UniversalId]) -> Self {
        let ids: HashSet<&UniversalId> = ids.iter().collect();
        let mut people: HashSet<UniversalId> = ids.iter().map(|id| (*id).clone()).collect();
        let mut identifiers = Vec::new();
        let mut staying: HashMap<UniversalId, Vec<Identifier>> = HashMap::new();
        for member in stored {
            let id = UniversalId::from_identifier(&member.identifier);
            if ids.contains(&id) {
                identifiers.push(member.identifier);
            } else {
                staying
                    .entry(member.canonical)
                    .or_default()
                    .push(member.identifier);
            }
            people.insert(id);
        }
        let mut moved = Vec::new();
        for (before, identifiers) in staying {
            let after = identifiers.iter().min().map(UniversalId::from_identifier);
            let Some(after) = after.filter(|after| *after != before) else {
                continue;
            };
            let ids = identifiers.iter().map(UniversalId::from_identifier);
            moved.extend(ids.map(|id| (id, after.clone())));
        }
        Self {
            identifiers,
            people: people.into_iter().collect(),
            moved,
        }
    }
}

impl Graph {
    /// Builds a graph from what is stored: every identifier of the people involved, and the known pairs.
    pub(crate) fn new(
        stored: impl IntoIterator<Item = Member>,
        pairs: impl IntoIterator<Item = Pair>,
    ) -> Self {
        let mut graph = Self {
            pairs: pairs.into_iter().collect(),
            ..Self::default()
        };
        let mut indexes: HashMap<UniversalId, usize> = HashMap::new();
        for member in stored {
            let Member {
                identifier,
                canonical,
                has_events,
            } = member;
            let index = *indexes.entry(canonical.clone()).or_insert_with(|| {
                graph.people.push(Vec::new());
                graph.people.len() - 1
            });
            graph.people[index].push(identifier.clone());
            if has_events {
                graph.with_events.insert(identifier.clone());
            }
            graph.owners.insert(identifier.clone(), index);
            graph.loaded.insert(identifier, (canonical, has_events));
        }
        graph
    }

    /// Records that the identifiers of `sighting` occurred together in an event, which is stored under the strongest.
    pub(crate) fn record(&mut self, sighting: &Sighting) {
        self.apply(sighting, false);
        self.with_events
            .extend(sighting.identifiers.iter().min().cloned());
    }

    /// Joins the identifiers of `sighting` to one person.
    pub(crate) fn link(&mut self, sighting: &Sighting) {
        self.apply(sighting, true);
    }

    fn apply(&mut self, sighting: &Sighting, always_join: bool) {
        let identifiers = in_order(sighting);
        let mut fresh = HashSet::new();
        for identifier in &identifiers {
            if !self.owners.contains_key(identifier) {
                self.create(identifier, sighting);
                fresh.insert(identifier);
            }
        }
        let Some((first, others)) = identifiers.split_first() else {
            return;
        };
        for (other, pair) in others.iter().zip(pairs_of(&identifiers)) {
            let new_pair = self.pairs.insert(pair.clone());
            let (hub, person) = (self.owners[first], self.owners[other]);
            if hub != person {
                // Identifiers are sorted strongest first: if `other` is strong, so is `first`.
                let joins = always_join
                    || other.kind.is_strong()
                    || !self.has_strong(hub)
                    || !self.has_strong(person);
                if joins {
                    self.join(hub, person, &fresh, sighting);
                } else if new_pair {
                    self.note(
                        AuditAction::Conflict,
                        self.canonical(person),
                        Some(self.canonical(hub)),
                        Some(other),
                        sighting,
                    );
                }
            }
            if new_pair {
                self.new_pairs.push(NewPair {
                    pair,
                    source: sighting.source.clone(),
                    seen_at: sighting.seen_at,
                });
            }
        }
    }

    fn create(&mut self, identifier: &Identifier, sighting: &Sighting) {
        self.owners.insert(identifier.clone(), self.people.len());
        self.people.push(vec![identifier.clone()]);
        self.created.push((identifier.clone(), sighting.seen_at));
        let universal_id = UniversalId::from_identifier(identifier);
        self.note(
            AuditAction::Created,
            universal_id,
            None,
            Some(identifier),
            sighting,
        );
    }

    /// Joins two people. One that consists only of a new identifier is attached to the other.
    fn join(&mut self, hub: usize, person: usize, fresh: &HashSet<&Identifier>, sighting: &Sighting) {
        let before = [self.canonical(hub), self.canonical(person)];
        let attached = [person, hub]
            .into_iter()
            .find_map(|index| match self.people[index].as_slice() {
                [only] if fresh.contains(only) => Some(only.clone()),
                _ => None,
            });
        let (into, from) = if self.people[hub].len() >= self.people[person].len() {
            (hub, person)
        } else {
            (person, hub)
        };
        for identifier in std::mem::take(&mut self.people[from]) {
            self.owners.insert(identifier.clone(), into);
            self.people[into].push(identifier);
        }
        let after = self.canonical(into);
        match attached {
            Some(identifier) => self.note(AuditAction::Attached, after, None, Some(&identifier), sighting),
            None => {
                let other = before.into_iter().find(|canonical| *canonical != after);
                self.note(AuditAction::Merged, after, other, None, sighting);
            }
        }
    }

    fn has_strong(&self, person: usize) -> bool {
        self.people[person]
            .iter()
            .any(|identifier| identifier.kind.is_strong())
    }

    fn canonical(&self, person: usize) -> UniversalId {
        UniversalId::from_identifiers(&self.people[person])
            .expect("an owner has at least the identifier it owns")
    }

    fn note(
        &mut self,
        action: AuditAction,
        universal_id: UniversalId,
        other: Option<UniversalId>,
        identifier: Option<&Identifier>,
        sighting: &Sighting,
    ) {
        self.audit.push(AuditEntry {
            action,
            universal_id,
            other,
            identifier: identifier.cloned(),
            source: sighting.source.clone(),
            at: sighting.seen_at,
        });
    }

    /// Returns the person that owns `identifier`.
    pub(crate) fn person_of(&self, identifier: &Identifier) -> Option<Person> {
        let index = *self.owners.get(identifier)?;
        let members = self.people[index].iter().map(|identifier| {
            let has_events = self.with_events.contains(identifier);
            (identifier.clone(), has_events)
        });
        Some(person(members.collect()))
    }

    /// Returns the differences from what was loaded.
    pub(crate) fn into_changes(self) -> Changes {
        let canonicals: Vec<Option<UniversalId>> = self
            .people
            .iter()
            .map(|identifiers| UniversalId::from_identifiers(identifiers))
            .collect();
        let canonical_of = |identifier: &Identifier| {
            canonicals[self.owners[identifier]]
                .clone()
                .expect("an owner has at least the identifier it owns")
        };
        let mut created = Vec::with_capacity(self.created.len());
        for (identifier, seen_at) in &self.created {
            created.push(NewIdentifier {
                identifier: identifier.clone(),
                universal_id: UniversalId::from_identifier(identifier),
                canonical: canonical_of(identifier),
                has_events: self.with_events.contains(identifier),
                seen_at: *seen_at,
            });
        }
        let (mut moved, mut first_events) = (Vec::new(), Vec::new());
        for (identifier, (before, had_events)) in &self.loaded {
            let after = canonical_of(identifier);
            if after != *before {
                moved.push((UniversalId::from_identifier(identifier), after));
            }
            if !had_events && self.with_events.contains(identifier) {
                first_events.push(UniversalId::from_identifier(identifier));
            }
        }
        Changes {
            created,
            moved,
            first_events,
            pairs: self.new_pairs,
            audit: self.audit,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use event::IdentifierKind;
    use proptest::prelude::*;

    use super::*;

    fn sighting(identifiers: &[Identifier]) -> Sighting {
        Sighting {
            identifiers: identifiers.to_vec(),
            source: "event:1".into(),
            seen_at: Timestamp::default(),
        }
    }

    fn identifier() -> impl Strategy<Value = Identifier> {
        (0..IdentifierKind::ALL.len(), 0..3_u8).prop_map(|(kind, value)| Identifier {
            kind: IdentifierKind::ALL[kind],
            value: value.to_string(),
        })
    }

    fn sightings(
        identifier: impl Strategy<Value = Identifier>,
    ) -> impl Strategy<Value = (Vec<Vec<Identifier>>, Vec<Vec<Identifier>>)> {
        prop::collection::vec(prop::collection::vec(identifier, 1..4), 1..8).prop_flat_map(|list| {
            let mut repeated = list.clone();
            repeated.extend(list.clone());
            (Just(list), Just(repeated).prop_shuffle())
        })
    }

    fn people(graph: &Graph) -> BTreeSet<Vec<Identifier>> {
        graph
            .owners
            .keys()
            .map(|identifier| graph.person_of(identifier).unwrap().identifiers)
            .collect()
    }

    fn apply_all(list: &[Vec<Identifier>], link: bool) -> Graph {
        let mut graph = Graph::default();
        for identifiers in list {
            graph.apply(&sighting(identifiers), link);
        }
        graph
    }

    proptest! {
        #[test]
        fn links_in_any_order_and_number_give_the_same_people((list, other_order) in sightings(identifier())) {
            prop_assert_eq!(people(&apply_all(&list, true)), people(&apply_all(&other_order, true)));
        }

        #[test]
        fn strong_sightings_in_any_order_and_number_give_the_same_people(
            (list, other_order) in sightings(identifier().prop_filter("strong", |id| id.kind.is_strong()))
        ) {
            prop_assert_eq!(people(&apply_all(&list, false)), people(&apply_all(&other_order, false)));
        }

        #[test]
        fn recording_all_again_changes_nothing((list, _) in sightings(identifier())) {
            let mut graph = apply_all(&list, false);
            let (before, entries, pairs) = (people(&graph), graph.audit.clone(), graph.new_pairs.len());
            for identifiers in list.iter().rev() {
                graph.record(&sighting(identifiers));
            }
            prop_assert_eq!(people(&graph), before);
            prop_assert_eq!(graph.audit, entries);
            prop_assert_eq!(graph.new_pairs.len(), pairs);
        }

        /// Two strong identifiers share a person only if a chain of strong sightings joins them.
        #[test]
        fn weak_identifiers_never_join_strong_people((list, _) in sightings(identifier())) {
            let strong_only: Vec<Vec<Identifier>> = list
                .iter()
                .map(|ids| ids.iter().filter(|id| id.kind.is_strong()).cloned().collect())
                .collect();
            let strong_part = |people: BTreeSet<Vec<Identifier>>| -> BTreeSet<Vec<Identifier>> {
                people
                    .into_iter()
                    .map(|ids| ids.into_iter().filter(|id| id.kind.is_strong()).collect::<Vec<_>>())
                    .filter(|ids| !ids.is_empty())
                    .collect()
            };
            prop_assert_eq!(
                strong_part(people(&apply_all(&list, false))),
                strong_part(people(&apply_all(&strong_only, false)))
            );
        }

        /// Storing and reloading between any two sightings gives the same result as applying all of them at once.
        #[test]
        fn changes_hold_everything((list, _) in sightings(identifier())) {
            let mut stored: HashMap<UniversalId, Member> = HashMap::new();
            let mut pairs: Vec<Pair> = Vec::new();
            let mut at_once = Graph::default();
            for identifiers in &list {
                let mut graph = Graph::new(stored.values().cloned(), pairs.iter().cloned());
                graph.record(&sighting(identifiers));
                at_once.record(&sighting(identifiers));
                let changes = graph.into_changes();
                for new in changes.created {
                    let NewIdentifier { identifier, canonical, has_events, .. } = new;
                    stored.insert(new.universal_id, Member { identifier, canonical, has_events });
                }
                for (id, canonical) in changes.moved {
                    stored.get_mut(&id).unwrap().canonical = canonical;
                }
                for id in changes.first_events {
                    stored.get_mut(&id).unwrap().has_events = true;
                }
                pairs.extend(changes.pairs.into_iter().map(|new| new.pair));
            }
            let reloaded = Graph::new(stored.into_values(), pairs);
            prop_assert_eq!(people(&reloaded), people(&at_once));
            prop_assert_eq!(reloaded.with_events, at_once.with_events);
        }
    }
}
