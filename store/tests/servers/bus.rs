//! Tests of the bus on Kafka.

mod outage;
mod retention;
mod secure;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use prometheus_client::{encoding::text::encode, registry::Registry};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::DefaultClientContext,
};
use sendflowr_store::{
    StoreError,
    bus::{Bus, DEAD_LETTERS_TOPIC, EVENTS_TOPIC, NewRecord, RawKafkaConfig, Subscription},
    conformance,
    testing::commit_returned,
};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};

use self::world::{World, connect, settings, unique};

/// How long to wait for what must arrive: the members of a group need seconds to agree.
const PATIENCE: Duration = Duration::from_secs(30);

/// Number of bytes in a MiB.
const MIB: usize = 1024 * 1024;

fn record(topic: &str, key: &str) -> NewRecord {
    NewRecord {
        topic: topic.to_owned(),
        key: key.to_owned(),
        value: key.as_bytes().to_vec(),
        headers: BTreeMap::new(),
    }
}

fn numbered(topic: &str, count: usize) -> Vec<NewRecord> {
    (0..count)
        .map(|number| record(topic, &format!("{number:05}")))
        .collect()
}

/// Polls until `count` different keys have arrived; returns them and the number of records read.
async fn read(subscription: &mut dyn Subscription, count: usize) -> (BTreeSet<String>, usize) {
    let deadline = Instant::now() + PATIENCE;
    let (mut keys, mut records) = (BTreeSet::new(), 0);
    while keys.len() < count {
        assert!(
            Instant::now() < deadline,
            "only {} of {count} records came",
            keys.len()
        );
        for record in subscription.poll(500, Duration::from_millis(200)).await.unwrap() {
            records += 1;
            keys.insert(record.key);
        }
    }
    (keys, records)
}

/// Returns the number of records that the group has not committed.
async fn behind(bus: &dyn Bus, group: &str, topic: &str) -> u64 {
    let lags = bus.lag(group, &[topic]).await.unwrap();
    assert_eq!(lags.len(), 3, "one for each partition");
    lags.iter().map(|lag| lag.records).sum()
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn conformance_of_the_bus() {
    conformance::bus(Arc::new(World::new().await)).await;
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn records_of_several_mib_come_through_whole() {
    let world = World::new().await;
    let topic = unique("long");
    // It must not fit only because of compression.
    let noise: Vec<u8> = (0..5 * MIB as u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    let letter = NewRecord {
        value: noise,
        ..record(&topic, "letter")
    };
    world.append(vec![letter.clone()]).await.unwrap();
    let mut subscription = world.subscribe(&unique("group"), &[&topic]).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let found = loop {
        assert!(Instant::now() < deadline, "it does not come");
        if let Some(record) = subscription.poll(1, Duration::from_secs(1)).await.unwrap().pop() {
            break record;
        }
    };
    assert!(found.value == letter.value);

    let too_long = NewRecord {
        value: vec![0; 8 * MIB],
        ..letter
    };
    let error = world
        .append(vec![record(&topic, "before"), too_long])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
    assert!(error.to_string().contains("`kafka.max_record_bytes`"), "{error}");
    assert_eq!(
        subscription.poll(10, Duration::from_secs(1)).await.unwrap(),
        [],
        "nothing of it was appended"
    );
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn large_appends_come_through_whole() {
    let raw = RawKafkaConfig {
        queue_bytes: MIB as u64,
        ..settings()
    };
    let world = World::with(raw).await;
    let topic = unique("many");
    // More than the whole queue: the append goes alone.
    world.append(numbered(&topic, 20_000)).await.unwrap();
    let mut subscription = world.subscribe(&unique("group"), &[&topic]).await.unwrap();
    let (keys, records) = read(subscription.as_mut(), 20_000).await;
    assert_eq!((keys.len(), records), (20_000, 20_000));
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn records_come_through_however_they_are_compressed() {
    for compression in ["lz4", "zstd", "none"] {
        let raw = RawKafkaConfig {
            compression: compression.into(),
            ..settings()
        };
        let world = World::with(raw).await;
        let topic = unique(compression);
        world.append(numbered(&topic, 1_000)).await.unwrap();
        let mut subscription = world.subscribe(&unique("group"), &[&topic]).await.unwrap();
        let (keys, records) = read(subscription.as_mut(), 1_000).await;
        assert_eq!((keys.len(), records), (1_000, 1_000), "{compression}");
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn members_share_the_work_and_nothing_is_lost_when_one_leaves() {
    let world = World::new().await;
    let (topic, group) = (unique("shared"), unique("group"));
    world.append(numbered(&topic, 1_000)).await.unwrap();
    let mut one = world.subscribe(&group, &[&topic]).await.unwrap();
    read(one.as_mut(), 1_000).await;
    commit_returned(one.as_mut(), &[&topic]).await.unwrap();

    let mut two = world.subscribe(&group, &[&topic]).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let (mut by_one, mut by_two) = (BTreeSet::new(), BTreeSet::new());
    let mut appended = 1_000;
    // Both have work once the group has assigned a partition to the second.
    while by_one.is_empty() || by_two.is_empty() {
        assert!(Instant::now() < deadline, "the second member got nothing to do");
        by_one.clear();
        by_two.clear();
        let more: Vec<NewRecord> = (appended..appended + 100)
            .map(|number| record(&topic, &format!("{number:05}")))
            .collect();
        appended += 100;
        world.append(more).await.unwrap();
        let wait = Duration::from_millis(300);
        for (member, keys) in [(&mut one, &mut by_one), (&mut two, &mut by_two)] {
            for record in member.poll(500, wait).await.unwrap() {
                keys.insert(record.key);
            }
        }
    }
    assert!(
        by_one.is_disjoint(&by_two),
        "a partition is read by one at a time"
    );
    commit_returned(two.as_mut(), &[&topic]).await.unwrap();

    // What the first member read and did not commit is read by the second.
    drop(one);
    let deadline = Instant::now() + PATIENCE;
    while !by_one.is_subset(&by_two) || behind(&world, &group, &topic).await > 0 {
        assert!(Instant::now() < deadline, "only {} came", by_two.len());
        for record in two.poll(500, Duration::from_millis(200)).await.unwrap() {
            by_two.insert(record.key);
        }
        commit_returned(two.as_mut(), &[&topic]).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_commit_tells_that_partitions_have_moved() {
    let world = World::new().await;
    let (topic, group) = (unique("moved"), unique("group"));
    world.append(numbered(&topic, 300)).await.unwrap();
    let mut one = world.subscribe(&group, &[&topic]).await.unwrap();
    let (all, _) = read(one.as_mut(), 300).await;

    let mut two = world.subscribe(&group, &[&topic]).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut by_two = BTreeSet::new();
    while by_two.is_empty() {
        assert!(Instant::now() < deadline, "no partition has moved");
        let wait = Duration::from_millis(100);
        assert_eq!(one.poll(500, wait).await.unwrap(), [], "it has read everything");
        for record in two.poll(500, wait).await.unwrap() {
            by_two.insert(record.key);
        }
    }
    assert!(
        one.losses() > 0 && two.losses() == 0,
        "{}, {}",
        one.losses(),
        two.losses()
    );
    let error = commit_returned(one.as_mut(), &[&topic]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("moved"), "{error}");
    commit_returned(one.as_mut(), &[&topic]).await.unwrap();
    assert!(by_two.is_subset(&all));

    // The records of partitions that stayed were committed: only those of the moved ones are left to read.
    let mut read_by_two = by_two.len();
    loop {
        let more = two.poll(500, Duration::from_secs(1)).await.unwrap();
        if more.is_empty() {
            break;
        }
        read_by_two += more.len();
    }
    assert!(read_by_two < 300, "what the first member kept is not read again");
    commit_returned(two.as_mut(), &[&topic]).await.unwrap();
    assert_eq!(behind(&world, &group, &topic).await, 0);
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_poll_that_is_given_up_loses_nothing() {
    let world = World::new().await;
    let topic = unique("given-up");
    let mut subscription = world.subscribe(&unique("group"), &[&topic]).await.unwrap();
    let mut keys = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    for round in 0..20 {
        world
            .append(vec![record(&topic, &format!("{round}"))])
            .await
            .unwrap();
        while keys.len() <= round {
            assert!(Instant::now() < deadline, "only {} came", keys.len());
            let poll = subscription.poll(10, Duration::from_secs(1));
            if let Ok(records) = timeout(Duration::from_millis(3), poll).await {
                keys.extend(records.unwrap().into_iter().map(|record| record.key));
            }
        }
    }
    let expected: Vec<String> = (0..20).map(|round| round.to_string()).collect();
    assert_eq!(keys, expected);
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn topics_are_made_once_and_described() {
    let raw = RawKafkaConfig {
        partitions: 2,
        replication_factor: Some(1),
        ..settings()
    };
    let world = World::with(raw).await;
    let topic = unique("described");
    assert_eq!(world.bus.topics(&[&topic]).await.unwrap(), []);
    world.append(numbered(&topic, 9)).await.unwrap();
    // Another process with other settings leaves it as it is.
    let other = connect(settings()).await.unwrap();
    other.append(numbered(&topic, 1)).await.unwrap();
    let described = other.topics(&[&topic, "missing"]).await.unwrap();
    assert_eq!(described.len(), 1);
    let partitions = &described[0].partitions;
    assert_eq!(partitions.len(), 2);
    for (number, partition) in partitions.iter().enumerate() {
        assert_eq!(partition.partition as usize, number);
        assert!(partition.has_leader);
        assert_eq!((partition.replicas, partition.in_sync_replicas), (1, 1));
    }
    let records: u64 = partitions
        .iter()
        .map(|partition| partition.next_offset - partition.first_offset)
        .sum();
    assert_eq!(records, 10);
    let own = other.topics(&[EVENTS_TOPIC, DEAD_LETTERS_TOPIC]).await.unwrap();
    assert_eq!(own.len(), 2, "connecting makes the product's own topics");
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn dead_letters_are_kept_for_thirty_days_and_long_records_accepted() {
    let _world = World::new().await;
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", settings().bootstrap_servers.unwrap());
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let topic = ResourceSpecifier::Topic(DEAD_LETTERS_TOPIC);
    let described = admin
        .describe_configs(&[topic], &AdminOptions::new())
        .await
        .unwrap();
    let config = described[0].as_ref().unwrap();
    let value = |name| config.get(name).and_then(|entry| entry.value.as_deref());
    assert_eq!(value("retention.ms"), Some("2592000000"));
    let longest = settings().max_record_bytes.to_string();
    assert_eq!(value("max.message.bytes"), Some(longest.as_str()));
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn counts_what_it_does() {
    let world = World::new().await;
    let topic = unique("counted");
    world.append(numbered(&topic, 7)).await.unwrap();
    let too_long = NewRecord {
        value: vec![0; 8 * MIB],
        ..record(&topic, "long")
    };
    world.append(vec![too_long]).await.unwrap_err();
    let mut subscription = world.subscribe(&unique("group"), &[&topic]).await.unwrap();
    read(subscription.as_mut(), 7).await;
    let mut registry = Registry::default();
    world.bus.register_metrics(&mut registry);
    let lines = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    };
    // The room is released a moment after the callers have their results.
    let deadline = Instant::now() + PATIENCE;
    while !lines().contains("sendflowr_kafka_queued_bytes 0\n") {
        assert!(Instant::now() < deadline, "{}", lines());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let text = lines();
    for line in [
        "sendflowr_kafka_appended_records_total 7",
        "sendflowr_kafka_failed_appends_total{reason=\"rejected\"} 1",
        "sendflowr_kafka_assigned_partitions_total 3",
        "sendflowr_kafka_revoked_partitions_total 0",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn nothing_is_taken_after_the_end() {
    let world = World::new().await;
    let topic = unique("closed");
    world.append(numbered(&topic, 1)).await.unwrap();
    let subscription = world.subscribe(&unique("group"), &[&topic]).await.unwrap();
    drop(subscription);
    let started = Instant::now();
    world.bus.close().await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    world.append(numbered(&topic, 1)).await.unwrap_err();
    world.ping().await.unwrap_err();
    assert!(world.subscribe("group", &[&topic]).await.is_err());
}

/// Returns the error with which connecting fails, which must come within the time an operator waits.
async fn refusal(raw: RawKafkaConfig) -> String {
    let connecting = timeout(Duration::from_secs(10), connect(raw));
    let error = connecting.await.expect("it takes 10 s at most").unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    error.to_string()
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_wrong_address_names_the_setting() {
    // A port that nobody listens on: the listener is closed before it is tried.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap().to_string();
    drop(listener);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_address = silent.local_addr().unwrap().to_string();
    let wrong = [closed, silent_address, "nowhere.invalid:9092".to_owned()];
    let errors = join_all(wrong.iter().map(|servers| {
        refusal(RawKafkaConfig {
            bootstrap_servers: Some(servers.clone()),
            ..Default::default()
        })
    }))
    .await;
    for (servers, error) in wrong.iter().zip(errors) {
        assert!(error.contains("`kafka.bootstrap_servers`"), "{error}");
        assert!(error.contains(servers), "{error}");
    }
}
