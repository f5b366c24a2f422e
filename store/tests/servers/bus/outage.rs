//! The broker goes down and comes back.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sendflowr_store::{
    StoreError,
    bus::{Bus, NewRecord, RawKafkaConfig},
    testing::commit_returned,
};
use tokio::time::Instant;

use super::{
    MIB, PATIENCE, numbered, read, record,
    world::{Stopped, World, settings, unique},
};

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn an_outage_is_told_quickly_and_ends_by_itself() {
    let raw = RawKafkaConfig {
        delivery_timeout_ms: 2_000,
        queue_bytes: MIB as u64,
        // A broker that comes back waits this long for a member that may be gone.
        session_timeout_ms: 6_000,
        ..settings()
    };
    let (world, _alone) = World::alone(raw).await;
    let world = Arc::new(world);
    let (topic, group) = (unique("outage"), unique("group"));
    world.append(numbered(&topic, 100)).await.unwrap();
    let mut subscription = world.subscribe(&group, &[&topic]).await.unwrap();
    read(subscription.as_mut(), 100).await;

    let stopped = Stopped::new();
    let started = Instant::now();
    let error = world.append(vec![record(&topic, "during")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );

    // An append that exceeds the queue is refused, and does not wait.
    let half = NewRecord {
        value: vec![b'x'; MIB * 6 / 10],
        ..record(&topic, "half")
    };
    let (first, second) = tokio::join!(world.append(vec![half.clone()]), world.append(vec![half]));
    let errors = [first.unwrap_err(), second.unwrap_err()];
    let refused = errors
        .iter()
        .filter(|error| error.to_string().contains("`kafka.queue_bytes`"));
    assert_eq!(refused.count(), 1, "{errors:?}");
    for error in errors {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    }

    assert!(world.ping().await.is_err());
    let commit = commit_returned(subscription.as_mut(), &[&topic]).await;
    assert!(
        matches!(commit, Err(StoreError::Unavailable { .. })),
        "{commit:?}"
    );

    drop(stopped);
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = world.append(numbered(&topic, 200)).await {
        assert!(Instant::now() < deadline, "{error}");
    }
    world.ping().await.unwrap();
    // Nothing acknowledged is lost, whether from before the outage or after it.
    let mut successor = world.subscribe(&unique("group"), &[&topic]).await.unwrap();
    let (keys, _) = read(successor.as_mut(), 200).await;
    assert!(keys.contains("00000") && keys.contains("00199"));
    // The reader continues on its own, from where it was. It may first report the outage, and its group has to form again, as
    // the successor's has just done: that does not count towards its time.
    let deadline = Instant::now() + 2 * PATIENCE;
    let mut came = BTreeSet::new();
    while came.len() < 200 {
        assert!(Instant::now() < deadline, "only {} came", came.len());
        match subscription.poll(500, Duration::from_millis(200)).await {
            Ok(records) => came.extend(records.into_iter().map(|record| record.key)),
            Err(error) => assert!(matches!(error, StoreError::Unavailable { .. }), "{error}"),
        }
    }
    while let Err(error) = commit_returned(subscription.as_mut(), &[&topic]).await {
        assert!(Instant::now() < deadline, "{error}");
        subscription.poll(500, Duration::from_millis(200)).await.unwrap();
    }
}
