//! Whether profiles can be believed.

use std::time::Duration;

use crate::{conformance::unique, events::Events};

pub(super) async fn profiles_are_doubted_until_each_consumer_trusts_them(store: &dyn Events) {
    let (ann, bob) = (unique("ann"), unique("it's bob"));
    store.trust_profiles(&ann).await.unwrap();
    assert_eq!(told_before(store, &ann).await, None, "nobody doubted");
    for consumer in [&ann, &bob] {
        store.doubt_profiles(consumer).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    store.doubt_profiles(&bob).await.unwrap();
    let first = told_before(store, &ann).await.expect("it doubts");
    let again = told_before(store, &bob).await.expect("it still doubts");
    assert!(
        first >= Duration::from_millis(1_900) && again < first,
        "{first:?}, {again:?}"
    );

    store.trust_profiles(&ann).await.unwrap();
    assert_eq!(told_before(store, &ann).await, None);
    assert!(told_before(store, &bob).await.is_some(), "each speaks for itself");
    store.doubt_profiles(&ann).await.unwrap();
    assert!(told_before(store, &ann).await.is_some(), "it may doubt again");
    for consumer in [&ann, &bob] {
        store.trust_profiles(consumer).await.unwrap();
        assert_eq!(told_before(store, consumer).await, None);
    }
}

async fn told_before(store: &dyn Events, consumer: &str) -> Option<Duration> {
    let doubts = store.profile_doubts().await.unwrap();
    let mut own = doubts.into_iter().filter(|doubt| doubt.consumer == consumer);
    let doubt = own.next();
    assert!(own.next().is_none(), "one for each consumer");
    doubt.map(|doubt| doubt.told_before)
}
