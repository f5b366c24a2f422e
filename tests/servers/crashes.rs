//! Consumers that end without warning.

use std::{collections::BTreeSet, sync::Arc};

use integration_tests::scaled::System;

use crate::load::{Clicks, Load, account};

/// Clicks between two kills: several batches.
const CLICKS: usize = 150;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_consumer_that_is_killed_again_and_again_stores_everything_once() {
    let account = account();
    let system = Arc::new(System::start(std::slice::from_ref(&account)).await);
    let clicks = Clicks::new(account, &system.servers);
    let load = Load::start(&system, &clicks, 0);
    for _ in 0..3 {
        let consumer = system.consumer().await;
        // In the middle of batches: the load goes on while it is killed.
        load.until_more(CLICKS).await;
        consumer.kill();
    }
    let consumer = system.consumer().await;
    load.until_more(CLICKS).await;
    let outcome = load.end().await;
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused[0]);
    clicks.until_stored(&system.servers, &outcome.acknowledged).await;
    drop(consumer);
    Arc::into_inner(system).unwrap().clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn when_one_of_two_consumers_is_killed_the_other_takes_over() {
    let account = account();
    let system = Arc::new(System::start(std::slice::from_ref(&account)).await);
    let clicks = Clicks::new(account, &system.servers);
    let (one, other) = tokio::join!(system.consumer(), system.consumer());
    let load = Load::start(&system, &clicks, 0);
    load.until_more(CLICKS).await;
    one.kill();
    load.until_more(CLICKS).await;
    let outcome = load.end().await;
    let sent: BTreeSet<usize> = outcome.acknowledged;
    assert!(sent.len() >= 2 * CLICKS);
    clicks.until_stored(&system.servers, &sent).await;
    drop(other);
    Arc::into_inner(system).unwrap().clean().await;
}
