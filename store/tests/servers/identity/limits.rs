//! A PostgreSQL that takes no writes, or has no room for another connection.

use std::time::Duration;

use event::Identifier;
use futures::future::join_all;
use sendflowr_store::{
    StoreError,
    identity::{Identities, PostgresIdentities, RawPostgresConfig},
};
use sqlx::Connection;

use super::{connect, external, id, phone, sighting, world::Database};

/// Checks that the graph knows these identifiers as one person.
async fn assert_known(graph: &PostgresIdentities, identifiers: &[&Identifier]) {
    for identifier in identifiers {
        let people = graph.people(&[id(identifier)]).await.unwrap();
        assert_eq!(people[0].ids.len(), identifiers.len());
    }
}

fn assert_unavailable<T>(outcome: Result<T, StoreError>) -> String {
    match outcome {
        Err(error @ StoreError::Unavailable { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it succeeded"),
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_server_that_takes_no_writes_is_still_read_and_started_on() {
    let database = Database::new().await;
    let graph = database.open().await;
    let (ann, bob) = (phone(1), external("bob"));
    graph.record(&[sighting(&[&ann, &bob])]).await.unwrap();
    graph.close().await;
    database.refuse_writes().await;

    let graph = database.open().await;
    let news = sighting(&[&ann, &phone(2)]);
    for _ in 0..3 {
        let refusals = [
            assert_unavailable(graph.ping().await),
            assert_unavailable(graph.record(std::slice::from_ref(&news)).await),
            assert_unavailable(graph.link(&news).await.map(|_| ())),
            assert_unavailable(graph.erase(&[id(&bob)]).await),
        ];
        for refusal in refusals {
            assert!(refusal.contains("`default_transaction_read_only`"), "{refusal}");
        }
        assert_known(&graph, &[&ann, &bob]).await;
    }

    let empty = Database::new().await;
    empty.refuse_writes().await;
    let refusal = assert_unavailable(connect(empty.settings()).await);
    assert!(refusal.contains("`default_transaction_read_only`"), "{refusal}");
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn writes_that_hang_leave_connections_to_reads() {
    let database = Database::new().await;
    let graph = connect(RawPostgresConfig {
        read_timeout_ms: 1_000,
        ..database.settings()
    })
    .await
    .unwrap();
    let (ann, bob) = (phone(1), external("bob"));
    graph.record(&[sighting(&[&ann, &bob])]).await.unwrap();

    let mut other = database.connection().await;
    let mut blocking = other.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE resolved_identities IN EXCLUSIVE MODE")
        .execute(&mut *blocking)
        .await
        .unwrap();
    // More than there are connections.
    let links: Vec<_> = (10..18).map(|number| sighting(&[&phone(number)])).collect();
    let writes = join_all(links.iter().map(|link| graph.link(link)));
    let reads = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for _ in 0..10 {
            assert_known(&graph, &[&ann, &bob]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        blocking.rollback().await.unwrap();
    };
    let (written, ()) = tokio::join!(writes, reads);
    for person in written {
        person.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn recording_needs_one_connection_and_names_every_limit_of_them() {
    let database = Database::new().await;
    let limited = database.limited(1).await;
    let graph = connect(limited.clone()).await.unwrap();
    graph.record(&[sighting(&[&phone(1)])]).await.unwrap();

    let error = connect(limited).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    for name in [
        "`max_connections`",
        "`CONNECTION LIMIT`",
        "`postgres.max_connections`",
    ] {
        assert!(error.to_string().contains(name), "{error}");
    }
}
