//! A member, without a broker and with those that the library plays.

use rdkafka::{
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use super::*;
use crate::bus::RawKafkaConfig;

/// Long enough for a group to form on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(servers: String) -> KafkaConfig {
    let raw = RawKafkaConfig {
        bootstrap_servers: Some(servers),
        ..RawKafkaConfig::default()
    };
    KafkaConfig::try_from(raw).unwrap()
}

fn join(config: &KafkaConfig) -> KafkaSubscription {
    KafkaSubscription::join(
        config,
        "group",
        &["events".to_owned()],
        TaskTracker::new(),
        KafkaCounters::default(),
    )
    .unwrap()
}

fn read(partition: u32, offset: u64) -> Record {
    Record {
        position: Position {
            topic: "events".into(),
            partition,
            offset,
        },
        key: String::new(),
        value: Vec::new(),
        headers: BTreeMap::new(),
        appended_at: Timestamp::default(),
    }
}

#[tokio::test]
async fn what_comes_after_a_partition_has_gone_and_come_back_is_kept() {
    let mut subscription = join(&config("127.0.0.1:1".to_owned()));
    subscription.keep(read(0, 7));
    subscription.keep(read(1, 3));
    subscription.note(&read(0, 6));
    let revoked = |subscription: &KafkaSubscription| {
        let consumer = subscription.consumer();
        consumer.context().revoke(vec![("events".into(), 0)]);
    };

    // The group revokes the partition and assigns it again, and its records come again, from the committed one on.
    revoked(&subscription);
    subscription.keep(read(0, 6));
    subscription.forget_revoked();

    let left: Vec<_> = subscription
        .ready
        .iter()
        .map(|record| (place(record).1, offset(record)))
        .collect();
    assert_eq!(left, [(1, 3), (0, 6)]);
    assert!(
        subscription.has_lost,
        "what was returned before is no longer this member's to commit"
    );
}

/// An operator deletes the topic and creates it again, faster than the library looks at topics.
#[tokio::test]
async fn nothing_of_a_topic_that_was_created_anew_is_committed_for_what_was_read_before() {
    let mut subscription = join(&config("127.0.0.1:1".to_owned()));
    let through = |records: &[Record], losses: u64| {
        let mut progress = Progress::default();
        for record in records {
            progress.note(&record.position, losses);
        }
        progress
    };
    let wait = Duration::ZERO;
    for offset in [1_000, 1_001, 0, 1] {
        subscription.keep(read(0, offset));
    }
    let old = subscription.poll(10, wait).await.unwrap();
    assert_eq!((old.len(), subscription.losses()), (2, 0));
    let old = through(&old, 0);
    let new = subscription.poll(1, wait).await.unwrap();
    assert_eq!((new.len(), subscription.losses()), (1, 1));
    assert!(subscription.has_lost, "the next commit tells so");
    let new = through(&new, 1);
    assert_eq!(subscription.poll(10, wait).await.unwrap().len(), 1);

    assert_eq!(subscription.covered(&old), []);
    let first_of_new = [(("events".into(), 0), 1)];
    assert_eq!(subscription.covered(&new), first_of_new);
    let mut both = new;
    both.merge(&old);
    assert_eq!(subscription.covered(&both), first_of_new, "in any order");
}

/// Brokers with one record in one partition, which can refuse to have it read.
struct Brokers(MockCluster<'static, DefaultProducerContext>);

impl Brokers {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("events", 1, 1).unwrap();
        let brokers = Self(cluster);
        brokers.append();
        brokers
    }

    fn config(&self) -> KafkaConfig {
        config(self.0.bootstrap_servers())
    }

    fn append(&self) {
        let producer: BaseProducer = client::settings(&self.config()).create().unwrap();
        producer
            .send(BaseRecord::<(), str>::to("events").payload("x"))
            .unwrap();
        producer.flush(PATIENCE).unwrap();
    }

    /// Refuses more requests for records than a test makes.
    fn refuse(&self) {
        let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        self.0.request_errors(RDKafkaApiKey::Fetch, &[denied; 1_000]);
    }

    fn allow(&self) {
        self.0.clear_request_errors(RDKafkaApiKey::Fetch);
    }
}

/// Polls until the outcome is the expected one.
async fn becomes(
    subscription: &mut KafkaSubscription,
    is_expected: impl Fn(&Result<Vec<Record>, StoreError>) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let polled = subscription.poll(10, Duration::from_millis(100)).await;
        if is_expected(&polled) {
            return;
        }
        assert!(Instant::now() < deadline, "{polled:?}");
    }
}

fn is_refusal(polled: &Result<Vec<Record>, StoreError>) -> bool {
    matches!(polled, Err(StoreError::Misconfigured { .. }))
}

fn is_record(polled: &Result<Vec<Record>, StoreError>) -> bool {
    polled.as_ref().is_ok_and(|records| records.len() == 1)
}

#[tokio::test]
async fn every_poll_reports_a_refusal_until_a_record_comes() {
    let brokers = Brokers::new();
    brokers.refuse();
    let mut subscription = join(&brokers.config());
    becomes(&mut subscription, is_refusal).await;
    for _ in 0..20 {
        let polled = subscription.poll(10, Duration::from_millis(100)).await;
        assert!(is_refusal(&polled), "{polled:?}");
    }
    brokers.allow();
    becomes(&mut subscription, is_record).await;
    let polled = subscription.poll(10, Duration::from_millis(100)).await;
    assert_eq!(polled.unwrap(), []);
}

#[tokio::test]
async fn a_refusal_ends_for_a_member_that_has_read_everything() {
    let brokers = Brokers::new();
    let mut subscription = join(&brokers.config());
    becomes(&mut subscription, is_record).await;
    // Its partition's end has been reported before the refusal.
    becomes(&mut subscription, |polled| {
        polled.as_ref().is_ok_and(Vec::is_empty)
    })
    .await;
    brokers.refuse();
    becomes(&mut subscription, is_refusal).await;
    brokers.allow();
    becomes(&mut subscription, |polled| {
        polled.as_ref().is_ok_and(Vec::is_empty)
    })
    .await;
    // It goes on where it was.
    brokers.append();
    becomes(&mut subscription, is_record).await;
    assert_eq!(
        subscription.returned.values().map(|span| span.next).max(),
        Some(2)
    );
}
