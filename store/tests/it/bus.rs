use std::{path::Path, sync::Arc, time::Duration};

use event::Timestamp;
use prometheus_client::{encoding::text::encode, registry::Registry};
use sendflowr_store::{
    StoreError,
    bus::{Bus, DEAD_LETTERS_TOPIC, SqliteBus, SqliteBusConfig},
    testing::commit_returned,
};

use crate::support::{next, open_bus, record, values};

const SILENCE: Duration = Duration::from_millis(250);

/// Opens the database of groups and leases, to modify it without the bus.
async fn groups_of(folder: &Path) -> sqlx::SqlitePool {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("bus-groups.db"));
    sqlx::SqlitePool::connect_with(options).await.unwrap()
}

#[tokio::test]
async fn concurrent_appends_share_commits() {
    let folder = tempfile::tempdir().unwrap();
    let bus = Arc::new(open_bus(folder.path()).await);
    let appends = (0..1_000).map(|n: u32| {
        let bus = Arc::clone(&bus);
        tokio::spawn(async move { bus.append(vec![record("t", n.to_string())]).await })
    });
    for appended in futures::future::join_all(appends).await {
        appended.unwrap().unwrap();
    }
    let mut registry = Registry::default();
    bus.register_metrics(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let count = |name: &str| -> u64 {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    };
    assert_eq!(count("sendflowr_bus_appended_records_total"), 1_000);
    let commits = count("sendflowr_bus_commits_total");
    assert!(commits <= 100, "{commits}");
}

#[tokio::test]
async fn an_append_is_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open_bus(folder.path()).await;
    let error = bus
        .append(vec![record("t", "small"), record("t", vec![0; 33 << 20])])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
    assert_eq!(bus.lag("g", &["t"]).await.unwrap()[0].records, 0);
}

#[tokio::test]
async fn a_full_queue_answers_soon() {
    let folder = tempfile::tempdir().unwrap();
    let bus = Arc::new(open_bus(folder.path()).await);
    // Another writer holds the lock and does not release it.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("bus.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let held = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let bus = Arc::clone(&bus);
            tokio::spawn(async move { bus.append(vec![record("t", vec![0; 16 << 20])]).await })
        })
        .collect();
    // The waiting appends take all but a few bytes of the queue; wait until they do.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
    let error = loop {
        let started = tokio::time::Instant::now();
        match tokio::time::timeout(
            Duration::from_secs(1),
            bus.append(vec![record("t", vec![0; 20 << 20])]),
        )
        .await
        {
            Ok(Err(error)) => {
                assert!(started.elapsed() < Duration::from_secs(1));
                break error;
            }
            outcome => assert!(tokio::time::Instant::now() < deadline, "{outcome:?}"),
        }
    };
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("waiting to be written"), "{error}");
    drop(held);
    for append in waiting {
        append.abort();
    }
}

#[tokio::test]
async fn a_partition_has_one_reader_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open_bus(folder.path()).await;
    let other_process = open_bus(folder.path()).await;
    bus.append(vec![record("t", "1")]).await.unwrap();
    let mut first = bus.subscribe("g", &["t"]).await.unwrap();
    assert_eq!(values(&next(first.as_mut()).await), ["1"]);
    let mut second = other_process.subscribe("g", &["t"]).await.unwrap();
    assert_eq!(second.poll(10, SILENCE).await.unwrap(), []);
    commit_returned(first.as_mut(), &["t"]).await.unwrap();
    drop(first);
    bus.append(vec![record("t", "2")]).await.unwrap();
    assert_eq!(
        values(&next(second.as_mut()).await),
        ["2"],
        "the second reads on where the first ended"
    );
}

#[tokio::test]
async fn work_longer_than_the_lease_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = SqliteBusConfig {
        lease: Duration::from_millis(600),
        ..Default::default()
    };
    let bus = SqliteBus::open(folder.path(), config).await.unwrap();
    bus.append(vec![record("t", "1")]).await.unwrap();
    let mut worker = bus.subscribe("g", &["t"]).await.unwrap();
    next(worker.as_mut()).await;
    let mut idle = bus.subscribe("g", &["t"]).await.unwrap();
    assert_eq!(idle.poll(10, Duration::from_millis(1_800)).await.unwrap(), []);
    commit_returned(worker.as_mut(), &["t"]).await.unwrap();
}

#[tokio::test]
async fn a_lost_lease_refuses_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open_bus(folder.path()).await;
    bus.append(vec![record("t", "1")]).await.unwrap();
    let mut sleeper = bus.subscribe("g", &["t"]).await.unwrap();
    next(sleeper.as_mut()).await;
    // The lease expires, as it does when the process is suspended, and another member takes over.
    let pool = groups_of(folder.path()).await;
    sqlx::query("UPDATE group_partitions SET lease_expires_at_ms = 0")
        .execute(&pool)
        .await
        .unwrap();
    let mut heir = bus.subscribe("g", &["t"]).await.unwrap();
    assert_eq!(values(&next(heir.as_mut()).await), ["1"]);

    let error = commit_returned(sleeper.as_mut(), &["t"]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert_eq!(bus.lag("g", &["t"]).await.unwrap()[0].records, 1);
    // It sees so when it next renews its lease.
    for _ in 0..100 {
        sleeper.poll(1, SILENCE).await.unwrap();
        if sleeper.losses() > 0 {
            break;
        }
    }
    assert_eq!((sleeper.losses(), heir.losses()), (1, 0));
    commit_returned(heir.as_mut(), &["t"]).await.unwrap();
    assert_eq!(bus.lag("g", &["t"]).await.unwrap()[0].records, 0);
}

#[tokio::test]
async fn a_lease_of_a_clock_that_was_ahead_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open_bus(folder.path()).await;
    bus.append(vec![record("t", "1")]).await.unwrap();
    drop(bus.subscribe("g", &["t"]).await.unwrap());
    let ahead = Timestamp::from(std::time::SystemTime::now()).plus_millis(24 * 60 * 60 * 1_000);
    let pool = groups_of(folder.path()).await;
    sqlx::query("UPDATE group_partitions SET member = 'gone', lease_expires_at_ms = ?1")
        .bind(ahead.as_millis())
        .execute(&pool)
        .await
        .unwrap();
    let mut heir = bus.subscribe("g", &["t"]).await.unwrap();
    assert_eq!(values(&next(heir.as_mut()).await), ["1"]);
}

#[tokio::test]
async fn dead_letters_go_with_their_age_whoever_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open_bus(folder.path()).await;
    bus.append(vec![record(DEAD_LETTERS_TOPIC, "1")]).await.unwrap();
    // A replay that only reads commits nothing.
    let mut looking = bus.subscribe("replay", &[DEAD_LETTERS_TOPIC]).await.unwrap();
    next(looking.as_mut()).await;
    let now = Timestamp::from(std::time::SystemTime::now());
    let days = |days: i64| now.plus_millis(days * 24 * 60 * 60 * 1_000);
    assert_eq!(bus.trim(days(29)).await.unwrap(), 0);
    // Other groups read from time to time.
    let pool = groups_of(folder.path()).await;
    sqlx::query("UPDATE group_partitions SET active_at_ms = ?1")
        .bind(days(31).as_millis())
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(bus.trim(days(31)).await.unwrap(), 1);
}

#[tokio::test]
async fn dead_letters_removed_before_a_replay_has_read_them_are_told_as_lost() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open_bus(folder.path()).await;
    let letters = |count: u32| {
        (0..count)
            .map(|n| record(DEAD_LETTERS_TOPIC, n.to_string()))
            .collect()
    };
    let lag = async || {
        let lags = bus.lag("replay", &[DEAD_LETTERS_TOPIC]).await.unwrap();
        (lags[0].records, lags[0].lost)
    };
    bus.append(letters(3)).await.unwrap();
    let mut replay = bus.subscribe("replay", &[DEAD_LETTERS_TOPIC]).await.unwrap();
    next(replay.as_mut()).await;
    commit_returned(replay.as_mut(), &[DEAD_LETTERS_TOPIC])
        .await
        .unwrap();
    bus.append(letters(10)).await.unwrap();
    assert_eq!(lag().await, (10, 0));
    let in_31_days = Timestamp::from(std::time::SystemTime::now()).plus_millis(31 * 24 * 60 * 60 * 1_000);
    assert_eq!(bus.trim(in_31_days).await.unwrap(), 13);
    let lags = bus.lag("new", &[DEAD_LETTERS_TOPIC]).await.unwrap();
    assert_eq!(
        lags[0].lost, 0,
        "a group that has read nothing yet has lost nothing"
    );
    // A commit ends it.
    bus.append(letters(1)).await.unwrap();
    assert_eq!(lag().await, (1, 10));
    next(replay.as_mut()).await;
    commit_returned(replay.as_mut(), &[DEAD_LETTERS_TOPIC])
        .await
        .unwrap();
    assert_eq!(lag().await, (0, 0));
}

#[tokio::test]
async fn appends_of_another_process_are_seen_soon() {
    let folder = tempfile::tempdir().unwrap();
    let host = open_bus(folder.path()).await;
    let consumer = open_bus(folder.path()).await;
    let mut subscription = consumer.subscribe("g", &["t"]).await.unwrap();
    assert_eq!(subscription.poll(10, SILENCE).await.unwrap(), []);
    let polling = tokio::spawn(async move { subscription.poll(10, Duration::from_secs(20)).await });
    host.append(vec![record("t", "1")]).await.unwrap();
    let started = tokio::time::Instant::now();
    assert_eq!(values(&polling.await.unwrap().unwrap()), ["1"]);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_gets_its_turn_beside_a_busy_one() {
    let folder = tempfile::tempdir().unwrap();
    let busy = Arc::new(open_bus(folder.path()).await);
    let other = open_bus(folder.path()).await;
    let appending: Vec<_> = (0..64)
        .map(|_| {
            let busy = Arc::clone(&busy);
            tokio::spawn(async move {
                loop {
                    busy.append(vec![record("t", vec![0; 8_192])]).await.unwrap();
                }
            })
        })
        .collect();
    for _ in 0..50 {
        other.append(vec![record("t", "other")]).await.unwrap();
    }
    for task in appending {
        assert!(!task.is_finished(), "the busy one continues, too");
        task.abort();
    }
}

#[tokio::test]
async fn closing_frees_partitions_and_reopening_reads_on() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open_bus(folder.path()).await;
    bus.append(vec![record("t", "1"), record("t", "2")])
        .await
        .unwrap();
    let mut subscription = bus.subscribe("g", &["t"]).await.unwrap();
    subscription.poll(1, SILENCE).await.unwrap();
    commit_returned(subscription.as_mut(), &["t"]).await.unwrap();
    bus.close().await;
    assert!(matches!(
        bus.append(vec![record("t", "3")]).await,
        Err(StoreError::Unavailable { .. })
    ));
    assert!(bus.subscribe("g", &["t"]).await.is_err());
    subscription.poll(1, SILENCE).await.unwrap_err();

    let bus = open_bus(folder.path()).await;
    let mut subscription = bus.subscribe("g", &["t"]).await.unwrap();
    let records = subscription.poll(10, Duration::ZERO).await.unwrap();
    assert_eq!(values(&records), ["2"], "at once, without waiting for a lease");
}

/// Offsets of a log that was deleted must not hide the records of the new one.
#[tokio::test]
async fn a_new_log_is_read_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open_bus(folder.path()).await;
    bus.append(vec![record("t", "1"), record("t", "2")])
        .await
        .unwrap();
    let mut subscription = bus.subscribe("g", &["t"]).await.unwrap();
    next(subscription.as_mut()).await;
    commit_returned(subscription.as_mut(), &["t"]).await.unwrap();
    drop(subscription);
    bus.close().await;
    std::fs::remove_file(folder.path().join("bus.db")).unwrap();

    let bus = open_bus(folder.path()).await;
    bus.append(vec![record("t", "new")]).await.unwrap();
    let mut subscription = bus.subscribe("g", &["t"]).await.unwrap();
    assert_eq!(values(&next(subscription.as_mut()).await), ["new"]);
}

#[tokio::test]
async fn old_records_go_when_every_group_has_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open_bus(folder.path()).await;
    let many = (0..1_200).map(|n: u32| record("read", n.to_string())).collect();
    bus.append(many).await.unwrap();
    bus.append(vec![
        record("unread", "1"),
        record("nobody", "1"),
        record(DEAD_LETTERS_TOPIC, "1"),
    ])
    .await
    .unwrap();
    let mut slow = bus.subscribe("slow", &["read", "unread"]).await.unwrap();
    let mut fast = bus.subscribe("fast", &["read"]).await.unwrap();
    assert_eq!(slow.poll(1_100, SILENCE).await.unwrap().len(), 1_100);
    commit_returned(slow.as_mut(), &["read", "unread"]).await.unwrap();
    assert_eq!(fast.poll(2_000, SILENCE).await.unwrap().len(), 1_200);
    commit_returned(fast.as_mut(), &["read"]).await.unwrap();

    let now = Timestamp::from(std::time::SystemTime::now());
    let days = |days: i64| now.plus_millis(days * 24 * 60 * 60 * 1_000);
    assert_eq!(bus.trim(days(6)).await.unwrap(), 0, "too young");
    assert_eq!(
        bus.trim(days(8)).await.unwrap(),
        1_101,
        "read by both, or of no interest to anybody"
    );
    assert_eq!(
        bus.trim(days(29)).await.unwrap(),
        0,
        "dead letters are kept longer"
    );
    assert_eq!(
        bus.lag("slow", &["read", "unread"]).await.unwrap()[0].records,
        100
    );
    assert_eq!(
        bus.lag("late", &["read"]).await.unwrap()[0].records,
        100,
        "what is gone is not counted"
    );
    assert_eq!(slow.poll(2_000, SILENCE).await.unwrap().len(), 101);
    // Groups that nobody reads with any more do not hold records back.
    assert_eq!(bus.trim(days(36)).await.unwrap(), 102);

    // Offsets are not reused.
    bus.append(vec![record("read", "after")]).await.unwrap();
    let mut late = bus.subscribe("late", &["read"]).await.unwrap();
    assert_eq!(next(late.as_mut()).await[0].position.offset, 1_200);
}

#[tokio::test]
async fn large_records_come_in_bounded_polls() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open_bus(folder.path()).await;
    for _ in 0..5 {
        bus.append(vec![record("t", vec![7; 6 << 20])]).await.unwrap();
    }
    let mut subscription = bus.subscribe("g", &["t"]).await.unwrap();
    let mut polls = Vec::new();
    while polls.iter().sum::<usize>() < 5 {
        polls.push(next(subscription.as_mut()).await.len());
    }
    assert_eq!(polls, [2, 2, 1]);
}
