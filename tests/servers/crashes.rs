//! Consumers that end without warning.

use std::sync::Arc;

use integration_tests::{Role, eventually, scaled::System};

use crate::load::{Clicks, Load, account};

/// Clicks that a consumer stores before it is killed: several batches.
const CLICKS: f64 = 150.0;

/// The number of consumers that are killed, one after the other.
const KILLED: usize = 3;

/// Returns the events that this consumer has stored, by its own count. If it has stored any, it has partitions: a consumer that
/// has just reported that it is ready still waits for its share, even longer after another one was killed.
async fn stored(system: &System, consumer: &Role) -> f64 {
    let series = "sendflowr_consumer_events_total{outcome=\"stored\"}";
    system.metric(consumer, series).await.unwrap_or_default()
}

async fn until_stored(system: &System, consumer: &Role, events: f64) {
    eventually("the consumer stores events", async || {
        stored(system, consumer).await >= events
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_consumer_that_is_killed_between_insert_and_commit_stores_everything_once() {
    let account = account();
    let system = Arc::new(System::start(std::slice::from_ref(&account)).await);
    let clicks = Clicks::new(account, &system.servers);
    let load = Load::start(&system, &clicks, 0);
    let mut stored_by_all = 0.0;
    for _ in 0..KILLED {
        let consumer = system.consumer().await;
        until_stored(&system, &consumer, CLICKS).await;
        // What profiles have not taken is not committed: from here on events are stored, and read again by the next consumer.
        system.servers.stop("redis");
        let uncommitted_from = stored(&system, &consumer).await;
        until_stored(&system, &consumer, uncommitted_from + CLICKS).await;
        stored_by_all += stored(&system, &consumer).await;
        consumer.kill();
        system.servers.start("redis");
    }
    let consumer = system.consumer().await;
    until_stored(&system, &consumer, CLICKS).await;
    let outcome = load.end().await;
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused[0]);
    clicks.until_stored(&system.servers, &outcome.acknowledged).await;
    stored_by_all += stored(&system, &consumer).await;
    let twice = stored_by_all - outcome.acknowledged.len() as f64;
    assert!(twice >= CLICKS, "only {twice} events were written twice");
    system.until_committed(&consumer).await;
    drop(consumer);
    Arc::into_inner(system).unwrap().clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn when_one_of_two_consumers_is_killed_the_other_takes_over() {
    let account = account();
    let system = Arc::new(System::start(std::slice::from_ref(&account)).await);
    let clicks = Clicks::new(account, &system.servers);
    let load = Load::start(&system, &clicks, 0);
    let (one, other) = tokio::join!(system.consumer(), system.consumer());
    // The first consumer held all partitions until the second got its share.
    until_stored(&system, &one, CLICKS).await;
    until_stored(&system, &other, CLICKS).await;
    let before = stored(&system, &one).await;
    until_stored(&system, &one, before + CLICKS).await;
    one.kill();
    let outcome = load.end().await;
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused[0]);
    clicks.until_stored(&system.servers, &outcome.acknowledged).await;
    system.until_committed(&other).await;
    drop(other);
    Arc::into_inner(system).unwrap().clean().await;
}
