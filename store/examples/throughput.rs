//! Measures the throughput of the embedded engines on this machine and disk, or of the Kafka bus on a broker.
//!
//! `cargo run --release -p sendflowr-store --example throughput -- embedded /path/on/the/disk`
//! `cargo run --release -p sendflowr-store --example throughput -- kafka 127.0.0.1:9092`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that cannot be taken ends, and prints what it found"
)]

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use event::{Event, Identifier, IdentifierKind, UniversalId};
use prometheus_client::{encoding::text::encode, registry::Registry};
use sendflowr_store::{
    bus::{Bus, KafkaBus, KafkaConfig, NewRecord, RawKafkaConfig, SqliteBus, SqliteBusConfig},
    events::{Enrichment, Events, SqliteEvents, SqliteEventsConfig, StoredEvent},
    identity::{Identities, Sighting, SqliteIdentities},
    testing::commit_returned,
};

/// Number of callers that append concurrently.
const APPENDERS: usize = 64;

/// Size of a record in bytes: an event as JSON.
const RECORD_BYTES: u64 = 1_000;

/// How long appending is measured: long enough for dozens of checkpoints of the write-ahead log.
const APPENDING: Duration = Duration::from_secs(10);

/// Number of events in a batch, as written by the consumer.
const BATCH: usize = 1_000;

/// Number of batches written.
const BATCHES: usize = 50;

/// Returns a topic that only this run uses.
fn topic() -> String {
    format!("measured-{}", std::process::id())
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["embedded", folder] => embedded(Path::new(folder)).await,
        ["kafka", servers] => kafka(servers).await,
        _ => panic!("`embedded FOLDER` or `kafka HOST:PORT`"),
    }
}

async fn embedded(parent: &Path) {
    let folder = tempfile::tempdir_in(parent).unwrap();
    let bus = Arc::new(
        SqliteBus::open(folder.path(), SqliteBusConfig::default())
            .await
            .unwrap(),
    );
    append(bus.clone()).await;
    let mut registry = Registry::default();
    bus.register_metrics(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let count = |name: &str| -> f64 {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    };
    println!(
        "bus: {:.1} records a commit",
        count("sendflowr_bus_appended_records_total") / count("sendflowr_bus_commits_total")
    );
    read(bus.as_ref()).await;
    bus.close().await;
    write_events(
        &SqliteEvents::open(folder.path(), SqliteEventsConfig::default())
            .await
            .unwrap(),
    )
    .await;
    record_sightings(&SqliteIdentities::open(folder.path()).await.unwrap()).await;
}

async fn kafka(servers: &str) {
    let raw = RawKafkaConfig {
        bootstrap_servers: Some(servers.to_owned()),
        ..Default::default()
    };
    let config = KafkaConfig::try_from(raw).unwrap();
    let bus = Arc::new(KafkaBus::connect(config).await.unwrap());
    append(bus.clone()).await;
    read(bus.as_ref()).await;
    bus.close().await;
}

async fn append(bus: Arc<dyn Bus>) {
    // The first append of a topic creates it.
    bus.append(vec![record(0)]).await.unwrap();
    let started = Instant::now();
    let appenders = (0..APPENDERS).map(|n| {
        let bus = Arc::clone(&bus);
        tokio::spawn(async move {
            let mut waits = Vec::new();
            while started.elapsed() < APPENDING {
                let record = record(n);
                let called = Instant::now();
                bus.append(vec![record]).await.unwrap();
                waits.push(called.elapsed());
            }
            waits
        })
    });
    let mut waits: Vec<Duration> = futures::future::join_all(appenders)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    let elapsed = started.elapsed();
    waits.sort_unstable();
    println!(
        "bus: {:.0} records/s from {APPENDERS} appenders of 1 kB, p50 {:.1?}, p99 {:.1?}",
        rate(waits.len(), elapsed),
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
    );
}

/// Creates a record of 1 kB. Its content differs from record to record, so that compression gains no more than on events.
fn record(appender: usize) -> NewRecord {
    let random = RandomState::new().hash_one(appender);
    let value: String = (0..RECORD_BYTES / 20)
        .map(|n| format!("{:016x}abcd", random.wrapping_mul(2 * n + 1)))
        .collect();
    NewRecord {
        topic: topic(),
        key: format!("sf_{appender:032x}"),
        value: value.into_bytes(),
        headers: BTreeMap::new(),
    }
}

async fn read(bus: &dyn Bus) {
    let group = topic();
    let mut subscription = bus.subscribe(&group, &[&topic()]).await.unwrap();
    let all = bus.lag(&group, &[&topic()]).await.unwrap();
    let all: u64 = all.iter().map(|lag| lag.records).sum();
    // Joining a group takes time; the measurement starts with the first records.
    let first = subscription.poll(1_000, Duration::from_secs(10)).await.unwrap();
    let started = Instant::now();
    let mut count = 0;
    while ((first.len() + count) as u64) < all {
        let records = subscription.poll(1_000, Duration::from_secs(1)).await.unwrap();
        count += records.len();
        commit_returned(subscription.as_mut(), &[&topic()]).await.unwrap();
    }
    println!(
        "bus: {:.0} records/s read and committed by 1,000",
        rate(count, started.elapsed())
    );
}

async fn write_events(events: &SqliteEvents) {
    let sample = Event::from_json(include_bytes!("../../event/samples/event-v1.json")).unwrap();
    let mut taken = Duration::ZERO;
    for batch in 0..BATCHES {
        let mut stored = Vec::with_capacity(BATCH);
        for n in 0..BATCH {
            let number = batch * BATCH + n;
            let mut event = sample.clone();
            event.universal_id =
                UniversalId::from_identifier(&identifier(IdentifierKind::EmailHash, number % 20_000));
            event.timestamp = event.timestamp.plus_millis(i64::try_from(number).unwrap());
            event.event_id = event::event_id(&event);
            stored.push(StoredEvent {
                event,
                enrichment: Enrichment::default(),
            });
        }
        let started = Instant::now();
        let report = events.write(&stored).await.unwrap();
        taken += started.elapsed();
        assert_eq!(report.inserted, BATCH);
    }
    println!(
        "events: {:.0} events/s written by {BATCH}",
        rate(BATCH * BATCHES, taken)
    );
}

async fn record_sightings(identities: &SqliteIdentities) {
    let sightings: Vec<Sighting> = (0..20_000)
        .map(|n| Sighting {
            identifiers: vec![
                identifier(IdentifierKind::EmailHash, n),
                identifier(IdentifierKind::EspUserId, n),
            ],
            source: "event:0".into(),
            seen_at: event::Timestamp::default(),
        })
        .collect();
    for what in ["new", "known"] {
        let started = Instant::now();
        for batch in sightings.chunks(BATCH) {
            identities.record(batch).await.unwrap();
        }
        println!(
            "identity: {:.0} {what} sightings/s recorded by {BATCH}",
            rate(sightings.len(), started.elapsed())
        );
    }
}

fn identifier(kind: IdentifierKind, n: usize) -> Identifier {
    Identifier {
        kind,
        value: format!("{n:064x}"),
    }
}

fn rate(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}
