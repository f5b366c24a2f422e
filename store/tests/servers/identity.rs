//! Tests of the identity graph on PostgreSQL.

mod limits;
mod world;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use event::settings::Secret;
use event::{Identifier, IdentifierKind, UniversalId};
use futures::future::join_all;
use sendflowr_store::{
    StoreError, conformance,
    identity::{
        AuditAction, Identities, PostgresConfig, PostgresIdentities, PostgresTls, RawPostgresConfig, Sighting,
    },
};
use tokio::net::TcpListener;

use self::world::Database;
use crate::gate::Gate;

async fn connect(raw: RawPostgresConfig) -> Result<PostgresIdentities, StoreError> {
    PostgresIdentities::connect(PostgresConfig::try_from(raw).unwrap()).await
}

fn phone(number: usize) -> Identifier {
    Identifier {
        kind: IdentifierKind::PhoneNumber,
        value: format!("{number:04}"),
    }
}

fn external(name: &str) -> Identifier {
    Identifier {
        kind: IdentifierKind::ExternalId,
        value: name.to_owned(),
    }
}

fn id(identifier: &Identifier) -> UniversalId {
    UniversalId::from_identifier(identifier)
}

fn sighting(identifiers: &[&Identifier]) -> Sighting {
    Sighting {
        identifiers: identifiers
            .iter()
            .map(|identifier| (*identifier).clone())
            .collect(),
        source: "event:1".into(),
        seen_at: "2026-01-10T12:00:00.123Z".parse().unwrap(),
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn conformance() {
    let database = Database::new().await;
    let graph = Arc::new(database.open().await);
    conformance::identities(graph.clone()).await;
    // Again, on a graph that holds other people.
    conformance::identities(graph.clone()).await;
    conformance::accounts(&*graph).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn the_first_pepper_is_the_one_that_is_kept() {
    let database = Database::new().await;
    let graph = database.open().await;
    assert_eq!(graph.pepper_check().await.unwrap(), None);
    let processes = join_all((0..4).map(|_| database.open())).await;
    let hashes = ["a", "b", "c", "d"];
    let kept = join_all(
        processes
            .iter()
            .zip(hashes)
            .map(|(process, hash)| process.keep_pepper_check(hash)),
    )
    .await;
    kept.into_iter().collect::<Result<Vec<()>, _>>().unwrap();
    let first = graph.pepper_check().await.unwrap().unwrap();
    assert!(hashes.contains(&first.as_str()), "{first}");
    graph.keep_pepper_check("e").await.unwrap();
    assert_eq!(graph.pepper_check().await.unwrap(), Some(first));
}

/// Four processes record concurrently, pair by pair and in different orders, that a hundred people are one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn processes_that_join_the_same_people_at_once_end_in_one_person() {
    const PEOPLE: usize = 100;
    let database = Database::new().await;
    let processes = join_all((0..4).map(|_| database.open())).await;
    let processes: Vec<Arc<PostgresIdentities>> = processes.into_iter().map(Arc::new).collect();
    let mut tasks = Vec::new();
    for (number, process) in processes.iter().enumerate() {
        for step in 0..PEOPLE {
            // 7, 11, 13 and 17 share no factor with 100: each process visits every number, in an order of its own.
            let place = step * [7, 11, 13, 17][number] % PEOPLE;
            let pair = sighting(&[&phone(place), &phone((place + 1) % PEOPLE)]);
            let process = Arc::clone(process);
            tasks.push(tokio::spawn(async move {
                if step % 2 == 0 {
                    process.record(&[pair]).await
                } else {
                    process.link(&pair).await.map(|_| ())
                }
            }));
        }
    }
    for done in join_all(tasks).await {
        done.unwrap().unwrap();
    }

    let all: Vec<Identifier> = (0..PEOPLE).map(phone).collect();
    let ids: Vec<UniversalId> = all.iter().map(id).collect();
    for process in &processes {
        for person in process.people(&ids).await.unwrap() {
            assert_eq!(person.canonical, ids[0], "the strongest identifier gives the id");
            assert_eq!(person.identifiers, all);
            assert_eq!(person.ids.len(), PEOPLE);
        }
    }
    let history = processes[0].audit(&ids[0], 10_000).await.unwrap();
    let count = |action| history.iter().filter(|entry| entry.action == action).count();
    assert_eq!(count(AuditAction::Created), PEOPLE);
    assert_eq!(
        count(AuditAction::Attached) + count(AuditAction::Merged),
        PEOPLE - 1,
        "each join happened once"
    );
    assert_eq!(
        database
            .number("SELECT count(DISTINCT canonical_id) FROM resolved_identities")
            .await,
        1
    );
    assert_eq!(
        database.number("SELECT count(*) FROM identity_graph").await,
        PEOPLE as i64
    );
}

/// Whole batches that overlap, in opposite orders: locks taken one by one would deadlock.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn large_batches_that_overlap_hold_nobody_up() {
    let database = Database::new().await;
    let processes = join_all((0..4).map(|_| database.open())).await;
    let batch: Vec<Sighting> = (0..2_000)
        .map(|number| sighting(&[&phone(number), &external(&format!("e{}", number / 2))]))
        .collect();
    let backwards: Vec<Sighting> = batch.iter().rev().cloned().collect();
    let writes = processes.iter().enumerate().map(|(number, process)| {
        let batch = if number % 2 == 0 { &batch } else { &backwards };
        join_all(batch.chunks(700).map(|some| process.record(some)))
    });
    for written in join_all(writes).await.into_iter().flatten() {
        written.unwrap();
    }
    assert_eq!(
        database.number("SELECT count(*) FROM resolved_identities").await,
        3_000
    );
    assert_eq!(
        database.number("SELECT count(*) FROM identity_graph").await,
        2_000
    );
    // Each external id was recorded with one of its two phone numbers first and stayed there.
    assert_eq!(
        database
            .number("SELECT count(*) FROM identity_audit_log WHERE action = 'conflict'")
            .await,
        1_000
    );
    let people = processes[0]
        .people(&(0..2_000).map(|number| id(&phone(number))).collect::<Vec<_>>())
        .await
        .unwrap();
    let canonical: HashSet<UniversalId> = people.iter().map(|person| person.canonical.clone()).collect();
    assert_eq!(canonical.len(), 2_000, "weak identifiers never join people");
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn many_may_open_a_new_database_at_once_and_again() {
    let database = Database::new().await;
    for _ in 0..2 {
        for opened in join_all((0..8).map(|_| connect(database.settings()))).await {
            opened.unwrap().ping().await.unwrap();
        }
    }
    assert_eq!(
        database
            .number("SELECT count(*) FROM sendflowr_schema_steps")
            .await,
        4
    );
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn every_id_that_an_older_build_has_stored_may_have_events() {
    let database = Database::new().await;
    let graph = database.open().await;
    let sighting = sighting(&[&phone(1), &external("ann")]);
    graph.record(std::slice::from_ref(&sighting)).await.unwrap();
    graph.close().await;
    // As it was before the third step.
    database
        .run("ALTER TABLE resolved_identities DROP COLUMN has_events")
        .await;
    database
        .run("DELETE FROM sendflowr_schema_steps WHERE version = 3")
        .await;
    let graph = database.open().await;
    let people = graph.people(&[id(&phone(1))]).await.unwrap();
    assert_eq!(people[0].ids.len(), 2);
    assert_eq!(people[0].with_events, people[0].ids);
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_database_of_a_newer_build_is_taken_as_it_is() {
    let database = Database::new().await;
    let graph = database.open().await;
    let known = sighting(&[&phone(1), &external("ann")]);
    graph.record(std::slice::from_ref(&known)).await.unwrap();
    graph.close().await;
    // What the steps of a newer build may do: add.
    for change in [
        "ALTER TABLE resolved_identities ADD COLUMN newer text NOT NULL DEFAULT ''",
        "INSERT INTO sendflowr_schema_steps (version, description, success, checksum, execution_time) \
         VALUES (98, 'newer', true, '\\x00', 0), (99, 'newest', true, '\\x00', 0)",
    ] {
        database.run(change).await;
    }
    for opened in join_all((0..4).map(|_| connect(database.settings()))).await {
        let graph = opened.unwrap();
        let people = graph.people(&[id(&phone(1))]).await.unwrap();
        assert_eq!(people[0].ids.len(), 2);
        graph
            .record(&[sighting(&[&phone(2), &external("bob")])])
            .await
            .unwrap();
    }
    let steps = "SELECT count(*) FROM sendflowr_schema_steps";
    assert_eq!(database.number(steps).await, 6, "its steps stay noted");

    // An unknown step older than ours does not belong to a newer build, whatever else is recorded.
    database
        .run("UPDATE sendflowr_schema_steps SET version = -1 WHERE version = 98")
        .await;
    let error = connect(database.settings()).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    assert!(error.to_string().contains("has a schema -1"), "{error}");
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn wrong_settings_are_named_within_ten_seconds() {
    let database = Database::new().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed_port = closed.local_addr().unwrap().port();
    drop(closed);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let right = database.settings();
    let cases = [
        (
            "`postgres.password`",
            RawPostgresConfig {
                password: Secret::new("wrong"),
                ..right.clone()
            },
        ),
        (
            "`postgres.user`",
            RawPostgresConfig {
                user: "nobody".into(),
                ..right.clone()
            },
        ),
        (
            "`postgres.database`",
            RawPostgresConfig {
                database: "missing".into(),
                ..right.clone()
            },
        ),
        (
            "`postgres.port`",
            RawPostgresConfig {
                port: closed_port,
                ..right.clone()
            },
        ),
        (
            "`postgres.port`",
            RawPostgresConfig {
                port: silent_port,
                ..right.clone()
            },
        ),
        (
            "`postgres.host`",
            RawPostgresConfig {
                host: Some("no-such-host.invalid".into()),
                ..right.clone()
            },
        ),
        (
            "`postgres.tls`",
            RawPostgresConfig {
                tls: PostgresTls::VerifyFull,
                ..right.clone()
            },
        ),
    ];
    let attempts = cases.map(|(setting, raw)| async move {
        let start = Instant::now();
        let error = connect(raw).await.unwrap_err();
        (setting, error, start.elapsed())
    });
    for (setting, error, took) in join_all(attempts).await {
        assert!(
            matches!(error, StoreError::Misconfigured { .. }),
            "{setting}: {error}"
        );
        let text = error.to_string();
        assert!(text.contains(setting), "{setting}: {text}");
        assert!(!text.contains("wrong"), "{text}");
        assert!(took < Duration::from_secs(10), "{setting}: {took:?}");
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn an_outage_costs_readers_little_and_ends_by_itself() {
    let database = Database::new().await;
    let gate = database.gate().await;
    let graph = connect(RawPostgresConfig {
        port: gate.port(),
        max_connections: 2,
        read_timeout_ms: 200,
        ..database.settings()
    })
    .await
    .unwrap();
    graph.record(&[sighting(&[&phone(1), &phone(2)])]).await.unwrap();
    let person = graph.people(&[id(&phone(2))]).await.unwrap();

    for close in [Gate::break_all, Gate::silence] {
        close(&gate);
        let start = Instant::now();
        let mut slow = 0;
        while start.elapsed() < Duration::from_secs(3) {
            let asked = Instant::now();
            let error = graph.people(&[id(&phone(2))]).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            slow += u32::from(asked.elapsed() > Duration::from_millis(20));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(slow <= 7, "{slow} reads waited, more than two a second");
        gate.open();
        let start = Instant::now();
        while graph.people(&[id(&phone(2))]).await.ok().as_ref() != Some(&person) {
            assert!(start.elapsed() < Duration::from_secs(2), "still away");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // All connections of the pool are available again.
        let reads = join_all((0..20).map(|_| graph.people(&[])));
        assert!(reads.await.into_iter().all(|read| read.is_ok()));
        graph.record(&[sighting(&[&phone(3), &phone(4)])]).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_restart_of_the_server_is_not_even_noticed_by_the_next_call() {
    let database = Database::new().await;
    let graph = database.open().await;
    graph.record(&[sighting(&[&phone(1), &phone(2)])]).await.unwrap();
    database.end_connections().await;
    let people = graph.people(&[id(&phone(2))]).await.unwrap();
    assert_eq!(people[0].canonical, id(&phone(1)));
    database.end_connections().await;
    graph.link(&sighting(&[&phone(2), &phone(3)])).await.unwrap();
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn what_the_server_cannot_hold_is_rejected_without_being_repeated() {
    let database = Database::new().await;
    let graph = database.open().await;
    let nul = external("secret\0value");
    let error = graph.record(&[sighting(&[&phone(1), &nul])]).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert_eq!(
        database.number("SELECT count(*) FROM resolved_identities").await,
        0
    );
    graph.record(&[sighting(&[&phone(1)])]).await.unwrap();
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn tls_protects_the_connection_and_checks_whom_it_is_told_to_check() {
    let database = Database::new().await;
    let front = database.tls_front().await;
    let behind_tls = |tls, ca: Option<&str>| RawPostgresConfig {
        host: Some("127.0.0.1".into()),
        port: front.port,
        tls,
        ca: ca.map(str::to_owned),
        ..database.settings()
    };
    let certificate = Some(front.certificate.as_str());
    for trusting in [
        behind_tls(PostgresTls::Prefer, None),
        behind_tls(PostgresTls::Require, None),
        behind_tls(PostgresTls::VerifyCa, certificate),
        behind_tls(PostgresTls::VerifyFull, certificate),
    ] {
        connect(trusting).await.unwrap().ping().await.unwrap();
    }
    let other_name = RawPostgresConfig {
        host: Some("localhost".into()),
        ..behind_tls(PostgresTls::VerifyFull, certificate)
    };
    for wary in [behind_tls(PostgresTls::VerifyFull, None), other_name] {
        let error = connect(wary).await.unwrap_err();
        assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
        assert!(error.to_string().contains("`postgres.ca`"), "{error}");
    }
}
