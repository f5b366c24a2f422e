use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::unique;
use crate::{
    bus::{Bus, NewRecord, POLL_BYTES, Position, Progress, Record, Subscription},
    testing::commit_returned,
};

/// How long to wait for records that must arrive. Members of a group behind a network need seconds to agree.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait for records that must not arrive.
const SILENCE: Duration = Duration::from_millis(300);

/// Checks a bus.
pub async fn bus(bus: Arc<dyn Bus>) {
    bus.ping().await.unwrap();
    records_come_back_whole_and_in_order(bus.as_ref()).await;
    large_records_come_a_few_at_a_time(bus.as_ref()).await;
    what_is_not_committed_comes_again(bus.as_ref()).await;
    what_was_read_ahead_is_not_committed(bus.as_ref()).await;
    groups_read_independently(bus.as_ref()).await;
    a_member_takes_over_from_one_that_left(bus.as_ref()).await;
    topics_stay_apart(bus.as_ref()).await;
    lag_counts_what_is_not_committed(bus.as_ref()).await;
    a_waiting_poll_sees_an_append(Arc::clone(&bus)).await;
    concurrent_appends_are_all_kept(bus).await;
}

fn record(topic: &str, key: &str, value: &str) -> NewRecord {
    NewRecord {
        topic: topic.into(),
        key: key.into(),
        value: value.into(),
        headers: BTreeMap::new(),
    }
}

fn values(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| String::from_utf8(record.value.clone()).unwrap())
        .collect()
}

/// Polls until `count` records have arrived.
async fn read(subscription: &mut dyn Subscription, count: usize) -> Vec<Record> {
    let deadline = Instant::now() + PATIENCE;
    let mut records = Vec::new();
    while records.len() < count {
        assert!(
            Instant::now() < deadline,
            "only {} of {count} records came",
            records.len()
        );
        let room = count - records.len();
        records.extend(subscription.poll(room, Duration::from_millis(200)).await.unwrap());
    }
    records
}

async fn records_come_back_whole_and_in_order(bus: &dyn Bus) {
    let topic = unique("whole");
    let mut first = record(&topic, "a", "1");
    first.headers = BTreeMap::from([
        ("cause".into(), "größer \"x\"".into()),
        ("trace".into(), String::new()),
    ]);
    let binary = NewRecord {
        value: vec![0, 255, 10, 0],
        ..record(&topic, "a", "")
    };
    bus.append(vec![first.clone(), binary.clone()]).await.unwrap();
    bus.append(Vec::new()).await.unwrap();
    let last = record(&topic, "a", "");
    bus.append(vec![last.clone()]).await.unwrap();

    let mut subscription = bus.subscribe(&unique("group"), &[&topic]).await.unwrap();
    let records = read(subscription.as_mut(), 3).await;
    for (expected, found) in [first, binary, last].iter().zip(&records) {
        assert_eq!((&expected.key, &expected.value), (&found.key, &found.value));
        assert_eq!(expected.headers, found.headers);
        assert_eq!(*found.position.topic, *topic);
        assert!(found.appended_at.as_millis() > 0);
    }
    assert!(
        records.windows(2).all(|pair| pair[0].position < pair[1].position),
        "offsets grow"
    );
    assert_eq!(
        subscription.poll(10, SILENCE).await.unwrap(),
        [],
        "each record comes once"
    );
}

async fn large_records_come_a_few_at_a_time(bus: &dyn Bus) {
    const BYTES: usize = 2 * 1024 * 1024;
    let topic = unique("large");
    for number in 0..15 {
        let value = char::from(b'a' + number).to_string().repeat(BYTES);
        bus.append(vec![record(&topic, "key", &value)]).await.unwrap();
    }
    let mut subscription = bus.subscribe("reader", &[&topic]).await.unwrap();
    let mut records = read(subscription.as_mut(), 1).await;
    // Gives the engine time to read ahead.
    tokio::time::sleep(2 * SILENCE).await;
    while records.len() < 15 {
        let some = subscription.poll(100, PATIENCE).await.unwrap();
        assert!(
            (1..=POLL_BYTES / BYTES + 1).contains(&some.len()),
            "{} records of 2 MiB",
            some.len()
        );
        records.extend(some);
    }
    let first_letters: String = records.iter().map(|record| char::from(record.value[0])).collect();
    assert_eq!(first_letters, "abcdefghijklmno");
    commit_returned(subscription.as_mut(), &[&topic]).await.unwrap();
}

async fn what_is_not_committed_comes_again(bus: &dyn Bus) {
    let (topic, group) = (unique("again"), unique("group"));
    let appended: Vec<NewRecord> = (0..5).map(|n| record(&topic, "key", &n.to_string())).collect();
    bus.append(appended).await.unwrap();

    let mut subscription = bus.subscribe(&group, &[&topic]).await.unwrap();
    assert_eq!(values(&read(subscription.as_mut(), 2).await), ["0", "1"]);
    commit_returned(subscription.as_mut(), &[&topic]).await.unwrap();
    commit_returned(subscription.as_mut(), &[&topic]).await.unwrap();
    assert_eq!(values(&read(subscription.as_mut(), 3).await), ["2", "3", "4"]);
    drop(subscription);

    let mut subscription = bus.subscribe(&group, &[&topic]).await.unwrap();
    assert_eq!(
        values(&read(subscription.as_mut(), 3).await),
        ["2", "3", "4"],
        "nothing was committed"
    );
    commit_returned(subscription.as_mut(), &[&topic]).await.unwrap();
    drop(subscription);

    bus.append(vec![record(&topic, "key", "5")]).await.unwrap();
    let mut subscription = bus.subscribe(&group, &[&topic]).await.unwrap();
    assert_eq!(values(&read(subscription.as_mut(), 1).await), ["5"]);
}

async fn what_was_read_ahead_is_not_committed(bus: &dyn Bus) {
    let (topic, group) = (unique("ahead"), unique("group"));
    let appended: Vec<NewRecord> = (0..6).map(|n| record(&topic, "key", &n.to_string())).collect();
    bus.append(appended).await.unwrap();

    let mut subscription = bus.subscribe(&group, &[&topic]).await.unwrap();
    let first = read(subscription.as_mut(), 2).await;
    let second = read(subscription.as_mut(), 2).await;
    read(subscription.as_mut(), 1).await;
    let losses = subscription.losses();
    let through = |records: &[Record]| {
        let mut progress = Progress::default();
        for record in records {
            progress.note(&record.position, losses);
        }
        progress
    };
    let (first, second) = (through(&first), through(&second));
    let behind = async || {
        let lag = bus.lag(&group, &[&topic]).await.unwrap();
        lag.iter().map(|lag| lag.records).sum::<u64>()
    };
    subscription.commit_through(&Progress::default()).await.unwrap();
    assert_eq!(behind().await, 6);
    subscription.commit_through(&first).await.unwrap();
    assert_eq!(behind().await, 4);
    subscription.commit_through(&second).await.unwrap();
    subscription.commit_through(&first).await.unwrap();
    assert_eq!(behind().await, 2, "a commit never goes back");
    drop(subscription);

    let mut subscription = bus.subscribe(&group, &[&topic]).await.unwrap();
    assert_eq!(
        values(&read(subscription.as_mut(), 2).await),
        ["4", "5"],
        "what was not committed comes again"
    );
    subscription.commit_through(&second).await.unwrap();
    drop(subscription);

    let mut subscription = bus.subscribe(&group, &[&topic]).await.unwrap();
    let rest = read(subscription.as_mut(), 2).await;
    assert_eq!(behind().await, 2, "what was read ahead was left uncommitted");
    bus.append(vec![record(&topic, "key", "6")]).await.unwrap();
    let mut beyond = Progress::default();
    let unread = Position {
        offset: rest[1].position.offset + 100,
        ..rest[1].position.clone()
    };
    beyond.note(&unread, subscription.losses());
    subscription.commit_through(&beyond).await.unwrap();
    assert_eq!(behind().await, 1, "nothing is committed that was not returned");
}

async fn groups_read_independently(bus: &dyn Bus) {
    let topic = unique("groups");
    bus.append(vec![record(&topic, "key", "1"), record(&topic, "key", "2")])
        .await
        .unwrap();
    let mut one = bus.subscribe(&unique("one"), &[&topic]).await.unwrap();
    let mut two = bus.subscribe(&unique("two"), &[&topic]).await.unwrap();
    assert_eq!(values(&read(one.as_mut(), 2).await), ["1", "2"]);
    commit_returned(one.as_mut(), &[&topic]).await.unwrap();
    assert_eq!(values(&read(two.as_mut(), 2).await), ["1", "2"]);
}

async fn a_member_takes_over_from_one_that_left(bus: &dyn Bus) {
    let (topic, group) = (unique("members"), unique("group"));
    let keys = ["a", "b", "c", "d", "e", "f"];
    bus.append(keys.iter().map(|key| record(&topic, key, key)).collect())
        .await
        .unwrap();
    let mut leaver = bus.subscribe(&group, &[&topic]).await.unwrap();
    read(leaver.as_mut(), keys.len()).await;
    let mut stayer = bus.subscribe(&group, &[&topic]).await.unwrap();
    drop(leaver);
    let came: BTreeSet<String> = values(&read(stayer.as_mut(), keys.len()).await)
        .into_iter()
        .collect();
    assert_eq!(
        came,
        keys.map(String::from).into(),
        "what the first did not commit comes to the second"
    );
    commit_returned(stayer.as_mut(), &[&topic]).await.unwrap();
}

async fn topics_stay_apart(bus: &dyn Bus) {
    let (one, two) = (unique("one"), unique("two"));
    bus.append(vec![record(&one, "key", "1"), record(&two, "key", "2")])
        .await
        .unwrap();
    let mut only_two = bus.subscribe(&unique("group"), &[&two]).await.unwrap();
    assert_eq!(values(&read(only_two.as_mut(), 1).await), ["2"]);
    assert_eq!(only_two.poll(10, SILENCE).await.unwrap(), []);
    let mut both = bus.subscribe(&unique("group"), &[&one, &two]).await.unwrap();
    let came: BTreeSet<String> = values(&read(both.as_mut(), 2).await).into_iter().collect();
    assert_eq!(came, ["1", "2"].map(String::from).into());
}

async fn lag_counts_what_is_not_committed(bus: &dyn Bus) {
    let (topic, group) = (unique("lag"), unique("group"));
    let behind = async || {
        let lag = bus.lag(&group, &[&topic]).await.unwrap();
        assert!(lag.iter().all(|lag| lag.topic == topic && lag.lost == 0));
        lag.iter().map(|lag| lag.records).sum::<u64>()
    };
    bus.append((0..4).map(|n| record(&topic, "key", &n.to_string())).collect())
        .await
        .unwrap();
    assert_eq!(behind().await, 4);
    let mut subscription = bus.subscribe(&group, &[&topic]).await.unwrap();
    read(subscription.as_mut(), 3).await;
    assert_eq!(behind().await, 4, "reading is not committing");
    commit_returned(subscription.as_mut(), &[&topic]).await.unwrap();
    assert_eq!(behind().await, 1);
}

async fn a_waiting_poll_sees_an_append(bus: Arc<dyn Bus>) {
    let topic = unique("waiting");
    bus.append(vec![record(&topic, "key", "first")]).await.unwrap();
    let mut subscription = bus.subscribe(&unique("group"), &[&topic]).await.unwrap();
    read(subscription.as_mut(), 1).await;
    let started = Instant::now();
    let polling = tokio::spawn(async move { subscription.poll(10, PATIENCE).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    bus.append(vec![record(&topic, "key", "now")]).await.unwrap();
    assert_eq!(values(&polling.await.unwrap().unwrap()), ["now"]);
    assert!(
        started.elapsed() < PATIENCE / 2,
        "the poll returned before its timeout"
    );
}

async fn concurrent_appends_are_all_kept(bus: Arc<dyn Bus>) {
    let topic = unique("concurrent");
    let appends = (0..100).map(|caller| {
        let (bus, topic) = (Arc::clone(&bus), topic.clone());
        tokio::spawn(async move {
            for n in 0..3 {
                let key = format!("{caller:03}");
                bus.append(vec![record(&topic, &key, &n.to_string())])
                    .await
                    .unwrap();
            }
        })
    });
    for append in futures::future::join_all(appends).await {
        append.unwrap();
    }
    let mut subscription = bus.subscribe(&unique("group"), &[&topic]).await.unwrap();
    let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in read(subscription.as_mut(), 300).await {
        by_key
            .entry(record.key)
            .or_default()
            .push(String::from_utf8(record.value).unwrap());
    }
    assert_eq!(by_key.len(), 100);
    assert!(
        by_key.values().all(|values| values == &["0", "1", "2"]),
        "records of a key keep their order"
    );
}
