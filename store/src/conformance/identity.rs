use std::sync::Arc;

use event::{Identifier, IdentifierKind, UniversalId};

use super::{identifier, moment, unique};
use crate::identity::{AuditAction, ErasedIdentities, Identities, Person, Sighting};

/// Checks an identity graph.
pub async fn identities(graph: Arc<dyn Identities>) {
    graph.ping().await.unwrap();
    strong_identifiers_become_one_person(graph.as_ref()).await;
    weak_identifiers_attach_and_never_join_strong_ones(graph.as_ref()).await;
    weak_identifiers_alone_become_one_person(graph.as_ref()).await;
    recording_twice_changes_nothing(graph.as_ref()).await;
    a_link_joins_everything(graph.as_ref()).await;
    links_in_any_order_give_the_same_person(graph.as_ref()).await;
    an_id_has_events_once_it_was_the_strongest_of_one(graph.as_ref()).await;
    ids_lead_to_their_people(graph.as_ref()).await;
    ids_of_one_person_share_it(graph.as_ref()).await;
    the_history_follows_the_person(graph.as_ref()).await;
    an_erased_person_was_never_there(graph.as_ref()).await;
    erasing_some_ids_leaves_the_others_together(graph.as_ref()).await;
    people_may_be_erased_while_they_merge(Arc::clone(&graph)).await;
    concurrent_sightings_become_one_person(graph).await;
}

/// Two addresses, a phone number and two weak identifiers that no other run uses, strongest first.
struct Names {
    ann: Identifier,
    bob: Identifier,
    phone: Identifier,
    klaviyo: Identifier,
    external: Identifier,
}

fn names() -> Names {
    let run = unique("run");
    Names {
        ann: identifier(&run, IdentifierKind::EmailHash, "ann"),
        bob: identifier(&run, IdentifierKind::EmailHash, "bob"),
        phone: identifier(&run, IdentifierKind::PhoneNumber, "phone"),
        klaviyo: identifier(&run, IdentifierKind::KlaviyoId, "klaviyo"),
        external: identifier(&run, IdentifierKind::ExternalId, "external"),
    }
}

fn sighting(identifiers: &[&Identifier]) -> Sighting {
    Sighting {
        identifiers: identifiers
            .iter()
            .map(|identifier| (*identifier).clone())
            .collect(),
        source: "event:1".into(),
        seen_at: moment("2026-01-10T12:00:00.123Z"),
    }
}

fn id(identifier: &Identifier) -> UniversalId {
    UniversalId::from_identifier(identifier)
}

async fn record(graph: &dyn Identities, identifiers: &[&Identifier]) {
    graph.record(&[sighting(identifiers)]).await.unwrap();
}

async fn person_of(graph: &dyn Identities, identifier: &Identifier) -> Person {
    let mut people = graph.people(&[id(identifier)]).await.unwrap();
    assert_eq!(people.len(), 1);
    Arc::unwrap_or_clone(people.remove(0))
}

async fn actions(graph: &dyn Identities, identifier: &Identifier) -> Vec<AuditAction> {
    let entries = graph.audit(&id(identifier), 100).await.unwrap();
    entries.iter().map(|entry| entry.action).collect()
}

/// Returns the person that the graph must return for exactly these identifiers, some of them with events.
fn expected(identifiers: &[&Identifier], with_events: &[&Identifier]) -> Person {
    let mut identifiers: Vec<Identifier> = identifiers
        .iter()
        .map(|identifier| (*identifier).clone())
        .collect();
    identifiers.sort();
    let canonical = UniversalId::from_identifiers(&identifiers).unwrap();
    let mut aliases: Vec<UniversalId> = identifiers.iter().map(id).filter(|id| *id != canonical).collect();
    aliases.sort();
    let mut ids = vec![canonical.clone()];
    ids.extend(aliases);
    let mut told: Vec<UniversalId> = with_events.iter().map(|identifier| id(identifier)).collect();
    if told.is_empty() {
        told.push(canonical.clone());
    }
    let with_events = ids.iter().filter(|id| told.contains(id)).cloned().collect();
    Person {
        canonical,
        ids,
        with_events,
        identifiers,
    }
}

async fn strong_identifiers_become_one_person(graph: &dyn Identities) {
    let Names { ann, bob, phone, .. } = names();
    record(graph, &[&ann]).await;
    record(graph, &[&phone]).await;
    assert_eq!(person_of(graph, &phone).await, expected(&[&phone], &[&phone]));
    record(graph, &[&phone, &ann]).await;
    record(graph, &[&phone, &bob]).await;
    let person = expected(&[&ann, &bob, &phone], &[&ann, &bob, &phone]);
    for identifier in [&ann, &bob, &phone] {
        assert_eq!(person_of(graph, identifier).await, person);
    }
}

async fn weak_identifiers_attach_and_never_join_strong_ones(graph: &dyn Identities) {
    let Names {
        ann,
        bob,
        klaviyo,
        external,
        ..
    } = names();
    // First known only with another weak one: both move to the strong one.
    record(graph, &[&external, &klaviyo]).await;
    record(graph, &[&klaviyo, &ann]).await;
    assert_eq!(
        person_of(graph, &external).await,
        expected(&[&ann, &klaviyo, &external], &[&ann, &klaviyo])
    );
    // Seen with a second strong one: it stays, and the conflict is recorded.
    record(graph, &[&klaviyo, &bob]).await;
    assert_eq!(
        person_of(graph, &klaviyo).await,
        expected(&[&ann, &klaviyo, &external], &[&ann, &klaviyo])
    );
    assert_eq!(person_of(graph, &bob).await, expected(&[&bob], &[&bob]));
    let entries = graph.audit(&id(&bob), 100).await.unwrap();
    let conflict = entries
        .iter()
        .find(|entry| entry.action == AuditAction::Conflict)
        .unwrap();
    assert_eq!(
        (&conflict.universal_id, &conflict.other),
        (&id(&ann), &Some(id(&bob)))
    );
    assert_eq!(conflict.identifier, Some(klaviyo.clone()));

    // Weak identifiers of two strong people, seen together.
    let Names { external: of_bob, .. } = names();
    record(graph, &[&bob, &of_bob]).await;
    record(graph, &[&klaviyo, &of_bob]).await;
    assert_eq!(
        person_of(graph, &of_bob).await,
        expected(&[&bob, &of_bob], &[&bob])
    );
    assert_eq!(
        person_of(graph, &klaviyo).await,
        expected(&[&ann, &klaviyo, &external], &[&ann, &klaviyo])
    );
}

async fn weak_identifiers_alone_become_one_person(graph: &dyn Identities) {
    let Names {
        klaviyo, external, ..
    } = names();
    record(graph, &[&external, &klaviyo]).await;
    let person = expected(&[&klaviyo, &external], &[&klaviyo]);
    assert_eq!(person_of(graph, &external).await, person);
    assert_eq!(person.canonical, id(&klaviyo), "the strongest kind gives the id");
}

async fn recording_twice_changes_nothing(graph: &dyn Identities) {
    let Names {
        ann,
        bob,
        klaviyo,
        external,
        ..
    } = names();
    let sightings = [
        sighting(&[&ann, &klaviyo]),
        sighting(&[&bob, &klaviyo]),
        sighting(&[&external]),
        sighting(&[&external, &ann, &external]),
    ];
    graph.record(&sightings).await.unwrap();
    let person = person_of(graph, &ann).await;
    let history = graph.audit(&id(&ann), 100).await.unwrap();
    graph.record(&sightings).await.unwrap();
    for sighting in sightings.iter().rev() {
        let later = Sighting {
            source: "event:2".into(),
            ..sighting.clone()
        };
        graph.record(&[later]).await.unwrap();
    }
    assert_eq!(person_of(graph, &ann).await, person);
    assert_eq!(graph.audit(&id(&ann), 100).await.unwrap(), history);
    let conflicts = history
        .iter()
        .filter(|entry| entry.action == AuditAction::Conflict);
    assert_eq!(conflicts.count(), 1);
}

async fn a_link_joins_everything(graph: &dyn Identities) {
    let Names {
        ann,
        bob,
        klaviyo,
        external,
        ..
    } = names();
    record(graph, &[&ann, &klaviyo]).await;
    record(graph, &[&bob, &external]).await;
    let person = graph.link(&sighting(&[&klaviyo, &external])).await.unwrap();
    assert_eq!(
        person,
        expected(&[&ann, &bob, &klaviyo, &external], &[&ann, &bob])
    );
    assert_eq!(person_of(graph, &bob).await, person);
    assert!(actions(graph, &bob).await.contains(&AuditAction::Merged));
    let again = graph.link(&sighting(&[&external, &klaviyo])).await.unwrap();
    assert_eq!(again, person);
    graph.link(&sighting(&[])).await.unwrap_err();
}

async fn links_in_any_order_give_the_same_person(graph: &dyn Identities) {
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]];
    for order in orders {
        let Names {
            ann,
            bob,
            phone,
            klaviyo,
            external,
        } = names();
        let links = [
            [&ann, &klaviyo],
            [&external, &klaviyo],
            [&phone, &external],
            [&bob, &phone],
        ];
        for index in order {
            graph.link(&sighting(&links[index])).await.unwrap();
            graph.link(&sighting(&links[order[0]])).await.unwrap();
        }
        assert_eq!(
            person_of(graph, &external).await,
            expected(&[&ann, &bob, &phone, &klaviyo, &external], &[])
        );
    }
}

async fn an_id_has_events_once_it_was_the_strongest_of_one(graph: &dyn Identities) {
    let Names {
        ann,
        bob,
        klaviyo,
        external,
        ..
    } = names();
    record(graph, &[&ann, &klaviyo]).await;
    assert_eq!(
        person_of(graph, &klaviyo).await,
        expected(&[&ann, &klaviyo], &[&ann])
    );
    record(graph, &[&klaviyo]).await;
    assert_eq!(
        person_of(graph, &ann).await,
        expected(&[&ann, &klaviyo], &[&ann, &klaviyo])
    );

    // A link does not imply an event, but makes the pair known.
    let linked = graph.link(&sighting(&[&bob, &external])).await.unwrap();
    assert_eq!(linked, expected(&[&bob, &external], &[]));
    record(graph, &[&external]).await;
    assert_eq!(
        person_of(graph, &bob).await,
        expected(&[&bob, &external], &[&external])
    );
    record(graph, &[&bob, &external]).await;
    let person = expected(&[&bob, &external], &[&bob, &external]);
    assert_eq!(person_of(graph, &bob).await, person);
    let linked = graph.link(&sighting(&[&bob, &external])).await.unwrap();
    assert_eq!(linked, person);
}

async fn ids_lead_to_their_people(graph: &dyn Identities) {
    let Names {
        ann,
        bob,
        phone,
        klaviyo,
        ..
    } = names();
    record(graph, &[&ann, &klaviyo]).await;
    record(graph, &[&phone]).await;
    let people = graph
        .people(&[id(&bob), id(&klaviyo), id(&phone), id(&klaviyo)])
        .await
        .unwrap();
    let ann_known = expected(&[&ann, &klaviyo], &[&ann]);
    let asked = [
        Person::unknown(id(&bob)),
        ann_known.clone(),
        expected(&[&phone], &[&phone]),
        ann_known.clone(),
    ];
    assert_eq!(people, asked.map(Arc::new));
    assert_eq!(graph.people(&[]).await.unwrap(), []);
}

async fn ids_of_one_person_share_it(graph: &dyn Identities) {
    let run = unique("run");
    // A shop's own phone number instead of its customers'.
    let mut identifiers = vec![identifier(&run, IdentifierKind::PhoneNumber, "shop")];
    for number in 0..2_000 {
        identifiers.push(identifier(
            &run,
            IdentifierKind::EmailHash,
            &format!("customer{number}"),
        ));
    }
    let identifiers: Vec<&Identifier> = identifiers.iter().collect();
    graph.link(&sighting(&identifiers)).await.unwrap();
    let ids: Vec<UniversalId> = identifiers
        .iter()
        .take(500)
        .map(|identifier| id(identifier))
        .collect();
    let people = graph.people(&ids).await.unwrap();
    assert_eq!(people[0].identifiers.len(), 2_001);
    assert!(people.iter().all(|person| Arc::ptr_eq(person, &people[0])));
}

async fn the_history_follows_the_person(graph: &dyn Identities) {
    use AuditAction::{Attached, Created, Merged};
    let Names {
        ann,
        bob,
        phone,
        klaviyo,
        ..
    } = names();
    record(graph, &[&phone]).await;
    record(graph, &[&ann, &klaviyo]).await;
    record(graph, &[&ann, &phone]).await;
    let history = [Created, Created, Created, Attached, Merged];
    assert_eq!(
        actions(graph, &phone).await,
        history,
        "oldest first, under every id of the person"
    );
    assert_eq!(actions(graph, &ann).await, history);
    let entries = graph.audit(&id(&ann), 100).await.unwrap();
    assert_eq!(entries[0].identifier, Some(phone.clone()));
    assert_eq!(
        (&entries[3].universal_id, &entries[3].identifier),
        (&id(&ann), &Some(klaviyo))
    );
    assert_eq!(
        (&entries[4].universal_id, &entries[4].other),
        (&id(&ann), &Some(id(&phone)))
    );
    assert_eq!(
        (entries[4].source.as_str(), entries[4].at),
        ("event:1", moment("2026-01-10T12:00:00.123Z"))
    );
    assert_eq!(graph.audit(&id(&ann), 2).await.unwrap(), entries[..2]);
    assert_eq!(graph.audit(&id(&bob), 100).await.unwrap(), []);
}

async fn an_erased_person_was_never_there(graph: &dyn Identities) {
    use AuditAction::{Attached, Created};
    let Names {
        ann,
        bob,
        phone,
        klaviyo,
        external,
    } = names();
    record(graph, &[&ann, &klaviyo]).await;
    record(graph, &[&ann, &phone]).await;
    record(graph, &[&bob, &external]).await;
    // A weak identifier of each was seen with the other person, and stayed.
    record(graph, &[&bob, &klaviyo]).await;
    record(graph, &[&ann, &external]).await;
    let ids = person_of(graph, &ann).await.ids;
    let erased = graph.erase(&ids).await.unwrap();
    // Three created, two attached, two conflicts.
    let all = ErasedIdentities {
        identifiers: 3,
        entries: 7,
    };
    assert_eq!(erased, all);
    for identifier in [&ann, &phone, &klaviyo] {
        assert_eq!(
            person_of(graph, identifier).await,
            Person::unknown(id(identifier))
        );
        assert_eq!(graph.audit(&id(identifier), 100).await.unwrap(), []);
    }
    assert_eq!(
        person_of(graph, &bob).await,
        expected(&[&bob, &external], &[&bob])
    );
    assert_eq!(actions(graph, &bob).await, [Created, Created, Attached]);
    assert_eq!(graph.erase(&ids).await.unwrap(), ErasedIdentities::default());
    assert_eq!(graph.erase(&[]).await.unwrap(), ErasedIdentities::default());

    // The same sightings are new again, including their pairs: the conflict is recorded as it was the first time.
    record(graph, &[&ann, &klaviyo]).await;
    assert_eq!(
        person_of(graph, &klaviyo).await,
        expected(&[&ann, &klaviyo], &[&ann])
    );
    assert_eq!(actions(graph, &ann).await, [Created, Created, Attached]);
    record(graph, &[&bob, &klaviyo]).await;
    record(graph, &[&ann, &external]).await;
    for identifier in [&ann, &bob] {
        let actions = actions(graph, identifier).await;
        let conflicts = actions.iter().filter(|action| **action == AuditAction::Conflict);
        assert_eq!(conflicts.count(), 2);
    }
}

async fn erasing_some_ids_leaves_the_others_together(graph: &dyn Identities) {
    let Names {
        ann,
        bob,
        phone,
        klaviyo,
        external,
    } = names();
    // Two customers with the shop's own phone number.
    record(graph, &[&phone, &ann]).await;
    record(graph, &[&phone, &bob]).await;
    record(graph, &[&bob, &klaviyo]).await;
    record(graph, &[&bob, &external]).await;
    let canonical = person_of(graph, &phone).await.canonical;
    assert_eq!(canonical, id(&ann));
    let erased = graph.erase(&[canonical]).await.unwrap();
    assert_eq!(erased.identifiers, 1);
    assert_eq!(person_of(graph, &ann).await, Person::unknown(id(&ann)));
    let left = expected(&[&bob, &phone, &klaviyo, &external], &[&bob]);
    for identifier in [&bob, &phone, &klaviyo, &external] {
        assert_eq!(person_of(graph, identifier).await, left);
    }
    let entries = graph.audit(&id(&bob), 100).await.unwrap();
    assert!(!entries.is_empty());
    for entry in entries {
        assert_ne!(entry.identifier.as_ref(), Some(&ann));
        assert!(entry.universal_id != id(&ann) && entry.other != Some(id(&ann)));
    }
    // Later sightings work on the remaining state.
    record(graph, &[&ann, &phone]).await;
    let together = expected(&[&ann, &bob, &phone, &klaviyo, &external], &[&ann, &bob]);
    assert_eq!(person_of(graph, &external).await, together);
}

async fn people_may_be_erased_while_they_merge(graph: Arc<dyn Identities>) {
    let run = unique("run");
    let numbers: Vec<Identifier> = (0..8)
        .map(|n| identifier(&run, IdentifierKind::PhoneNumber, &format!("{n:02}")))
        .collect();
    let ids: Vec<UniversalId> = numbers.iter().map(id).collect();
    let merging = numbers.windows(2).map(|pair| {
        let (graph, sighting) = (Arc::clone(&graph), sighting(&[&pair[1], &pair[0]]));
        tokio::spawn(async move { graph.record(&[sighting]).await })
    });
    let merging: Vec<_> = merging.collect();
    graph.erase(&ids[..4]).await.unwrap();
    for recorded in futures::future::join_all(merging).await {
        recorded.unwrap().unwrap();
    }
    graph.erase(&ids).await.unwrap();
    let unknown: Vec<Person> = ids.iter().cloned().map(Person::unknown).collect();
    let people: Vec<Person> = graph
        .people(&ids)
        .await
        .unwrap()
        .into_iter()
        .map(Arc::unwrap_or_clone)
        .collect();
    assert_eq!(people, unknown);
}

async fn concurrent_sightings_become_one_person(graph: Arc<dyn Identities>) {
    let run = unique("run");
    let numbers: Vec<Identifier> = (0..12)
        .map(|n| identifier(&run, IdentifierKind::PhoneNumber, &format!("{n:02}")))
        .collect();
    let tasks = numbers.windows(2).map(|pair| {
        let graph = Arc::clone(&graph);
        let sighting = sighting(&[&pair[1], &pair[0]]);
        tokio::spawn(async move { graph.record(&[sighting]).await })
    });
    for recorded in futures::future::join_all(tasks).await {
        recorded.unwrap().unwrap();
    }
    let all: Vec<&Identifier> = numbers.iter().collect();
    // An event is stored under its strongest identifier, here the lower number.
    assert_eq!(
        person_of(graph.as_ref(), &numbers[11]).await,
        expected(&all, &all[..11])
    );
}
