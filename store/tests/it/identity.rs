use event::{Identifier, IdentifierKind, Timestamp, UniversalId};
use sendflowr_store::identity::{Identities, Sighting, SqliteIdentities};

fn sighting(names: &[(IdentifierKind, &str)]) -> Sighting {
    let identifiers = names
        .iter()
        .map(|(kind, value)| Identifier {
            kind: *kind,
            value: (*value).into(),
        })
        .collect();
    Sighting {
        identifiers,
        source: "event:1".into(),
        seen_at: Timestamp::default(),
    }
}

#[tokio::test]
async fn two_processes_share_one_graph() {
    let folder = tempfile::tempdir().unwrap();
    let one = SqliteIdentities::open(folder.path()).await.unwrap();
    let other = SqliteIdentities::open(folder.path()).await.unwrap();
    let together = sighting(&[(IdentifierKind::EmailHash, "a"), (IdentifierKind::KlaviyoId, "k")]);
    one.record(std::slice::from_ref(&together)).await.unwrap();
    let by_weak = UniversalId::from_identifier(&together.identifiers[1]);
    let seen = other.people(&[by_weak]).await.unwrap();
    assert_eq!(seen[0].identifiers, together.identifiers);

    // The first graph sees what the other one merges.
    let phone = sighting(&[
        (IdentifierKind::EmailHash, "a"),
        (IdentifierKind::PhoneNumber, "p"),
    ]);
    other.record(&[phone]).await.unwrap();
    one.record(std::slice::from_ref(&together)).await.unwrap();
    let id = UniversalId::from_identifier(&together.identifiers[1]);
    assert_eq!(one.people(&[id]).await.unwrap()[0].identifiers.len(), 3);
}

#[tokio::test]
async fn known_sightings_are_not_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let sightings = [
        sighting(&[(IdentifierKind::EmailHash, "a"), (IdentifierKind::KlaviyoId, "k")]),
        sighting(&[(IdentifierKind::EmailHash, "b")]),
    ];
    SqliteIdentities::open(folder.path())
        .await
        .unwrap()
        .record(&sightings)
        .await
        .unwrap();

    // A file that cannot be locked for writing: only reads still work.
    let blocker = SqliteIdentities::open(folder.path()).await.unwrap();
    let reopened = SqliteIdentities::open(folder.path()).await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("identity.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let _held = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    reopened.record(&sightings).await.unwrap();
    reopened.record(&sightings).await.unwrap();
    blocker
        .record(&[sighting(&[(IdentifierKind::EmailHash, "new")])])
        .await
        .unwrap_err();
}
