//! The three roles on the four servers: host → Kafka → consumer → ClickHouse, beside the same rows inserted by the
//! `clickhouse` crate alone.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use clickhouse::Client;
use event::{Hasher, Timestamp, UniversalId};
use integration_tests::{
    PATIENCE, eventually,
    scaled::{Role, System},
};
use synth::delivery::{Account, Action, Kind};
use tokio_util::sync::CancellationToken;

use crate::traffic::{WARM_UP, account, deliveries, percentiles, send, send_one};

/// Deliveries measured: some seconds of load, so that batches, polls and flushes have settled.
const MEASURED: usize = 30_000;

/// Time between two looks for the deliveries whose way to ClickHouse is watched. What is measured is too long by half of it
/// on average.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks for each delivery that is watched.
const LOOKS_PER_PROBE: usize = 2;

/// Events that wait for the consumer when it starts.
const BACKLOG: usize = 60_000;

/// Rows of an insert by the crate alone: the consumer's `batch_events`.
const RAW_BATCH: usize = 5_000;

pub(crate) async fn run() {
    let account = account();
    let system = Arc::new(System::start(std::slice::from_ref(&account)).await);
    let consumer = system.consumer().await;
    let mark = format!("-{}", system.servers.mark);
    let all = Arc::new(deliveries(&account, WARM_UP + MEASURED, &mark));
    send(&system.http, &system.host.url, &all, 0..WARM_UP).await;

    let clickhouse = system.servers.clickhouse();
    until_rows(&clickhouse, WARM_UP as u64).await;
    let over = CancellationToken::new();
    let probes = tokio::spawn(probes(Arc::clone(&system), account, over.clone()));
    let start = Instant::now();
    let mut times = send(&system.http, &system.host.url, &all, WARM_UP..WARM_UP + MEASURED).await;
    let rate = MEASURED as f64 / start.elapsed().as_secs_f64();
    over.cancel();
    let mut visible = probes.await.expect("no probe panics");
    println!(
        "deliveries, one event each, acks=all  {rate:>8.0} /s   {}   (target: 3,000 /s, p99 50 ms)",
        percentiles(&mut times, 99)
    );
    println!(
        "2xx to visible in a query             {:>8} probes   {}   (target: p95 2,000 ms)",
        visible.len(),
        percentiles(&mut visible, 95)
    );
    let batches = async |series: &str| {
        let series = format!("sendflowr_consumer_{series} ");
        system.metric(&consumer, &series).await.unwrap_or_default()
    };
    let count = batches("batch_seconds_count").await;
    println!(
        "  the consumer took {count:.0} batches of {:.0} events, {:.0} ms each",
        batches("batch_events_sum").await / count,
        1_000.0 * batches("batch_seconds_sum").await / count,
    );
    println!(
        "memory: host {} MB, consumer {} MB, inference {} MB",
        system.host.resident_kb() / 1024,
        consumer.resident_kb() / 1024,
        system.inference.resident_kb() / 1024
    );

    let before = (WARM_UP + MEASURED + visible.len()) as u64;
    until_rows(&clickhouse, before).await;
    drop(consumer);
    system.run(&["synth", "--count", &BACKLOG.to_string()]);
    let consumer = system.consumer().await;
    let mut cpu = Cpu::start(&system, Some(&consumer));
    let drained = drained(&clickhouse, before).await;
    until_committed(&system, &consumer).await;
    let by_consumer = cpu.lap(&system, Some(&consumer));
    let batches = raw_batches(&clickhouse).await;
    let mut cpu = Cpu::start(&system, None);
    let raw = insert_raw(&clickhouse, batches).await;
    let by_crate = cpu.lap(&system, None);
    println!(
        "consumer, a backlog of {BACKLOG} events   {drained:>8.0} rows/s\n\
         the clickhouse crate, the same rows   {raw:>8.0} rows/s   ratio {:.2}   (target: 0.80)",
        drained / raw
    );
    println!("  processor seconds for 100,000 rows, consumer: {by_consumer}");
    println!("  processor seconds for 100,000 rows, the crate: {by_crate}");
    println!(
        "memory: consumer {} MB after the backlog",
        consumer.resident_kb() / 1024
    );
    drop(consumer);
    Arc::into_inner(system)
        .expect("nobody else uses it")
        .clean()
        .await;
}

/// Sends deliveries of people of their own until it is over; answers how long after its 2xx each could be read.
async fn probes(system: Arc<System>, account: Account, over: CancellationToken) -> Vec<Duration> {
    let clickhouse = system.servers.clickhouse();
    let mut pending = HashMap::new();
    let mut visible = Vec::new();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    for look in 0.. {
        looks.tick().await;
        if over.is_cancelled() && pending.is_empty() {
            break;
        }
        if look % LOOKS_PER_PROBE == 0 && !over.is_cancelled() {
            let email = format!("probe{look}-{}@example.com", system.servers.mark);
            let now = Timestamp::from(SystemTime::now());
            let click = Action {
                kind: Kind::Clicked,
                at: now,
                email: email.clone(),
                message: format!("probe-{look}"),
            };
            send_one(&system.http, &system.host.url, &account.deliver(&[click], now)[0]).await;
            let identifier = Hasher::new().email_identifier(&email).expect("it is an address");
            pending.insert(
                UniversalId::from_identifier(&identifier).as_str().to_owned(),
                Instant::now(),
            );
        }
        let wanted: Vec<&String> = pending.keys().collect();
        let query = clickhouse
            .query("SELECT DISTINCT universal_id FROM email_events WHERE universal_id IN ?")
            .bind(wanted);
        let found: Vec<String> = query.fetch_all().await.expect("ClickHouse answers");
        visible.extend(found.iter().filter_map(|id| Some(pending.remove(id)?.elapsed())));
    }
    visible
}

/// Rows a second, from the first that shows to the last; before the first the consumer waits for its partitions.
async fn drained(clickhouse: &Client, before: u64) -> f64 {
    until_rows(clickhouse, before + 1).await;
    let (start, first) = (Instant::now(), rows(clickhouse).await);
    let all = before + BACKLOG as u64;
    until_rows(clickhouse, all).await;
    (all - first) as f64 / start.elapsed().as_secs_f64()
}

async fn until_rows(clickhouse: &Client, count: u64) {
    let start = Instant::now();
    while rows(clickhouse).await < count {
        assert!(start.elapsed() < 2 * PATIENCE, "{count} rows are not stored");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn rows(clickhouse: &Client) -> u64 {
    let count = clickhouse.query("SELECT count() FROM email_events").fetch_one();
    count.await.expect("ClickHouse answers")
}

/// Waits until all that is on the bus has gone all its way, in both groups.
async fn until_committed(system: &System, consumer: &Role) {
    for group in ["sendflowr-events", "sendflowr-identity"] {
        let lag = format!("sendflowr_consumer_lag_records{{group=\"{group}\"}}");
        eventually("all is committed", async || {
            system.metric(consumer, &lag).await == Some(0.0)
        })
        .await;
    }
}

/// The processor time of everybody who takes part.
struct Cpu(Vec<(String, f64)>);

impl Cpu {
    fn start(system: &System, consumer: Option<&Role>) -> Self {
        let mut seconds = system.servers.cpu_seconds();
        match consumer {
            Some(consumer) => seconds.push(("consumer".to_owned(), consumer.cpu_seconds())),
            None => seconds.push(("sender".to_owned(), integration_tests::own_cpu_seconds())),
        }
        Self(seconds)
    }

    /// What each has taken since, for 100,000 of the backlog's rows.
    fn lap(&mut self, system: &System, consumer: Option<&Role>) -> String {
        let before = std::mem::replace(&mut self.0, Self::start(system, consumer).0);
        let mut told = Vec::new();
        for ((name, before), (_, now)) in before.iter().zip(&self.0) {
            told.push(format!(
                "{name} {:.2}",
                (now - before) * 100_000.0 / BACKLOG as f64
            ));
        }
        told.join(", ")
    }
}

/// The rows of the backlog as the crate sends them.
async fn raw_batches(clickhouse: &Client) -> Vec<Bytes> {
    let create = clickhouse.query("CREATE TABLE raw_events AS email_events");
    create.execute().await.expect("a table can be made");
    let mut batches: Vec<Bytes> = Vec::with_capacity(BACKLOG / RAW_BATCH);
    for number in 0..BACKLOG / RAW_BATCH {
        let select = format!(
            "SELECT * FROM email_events ORDER BY ingested_at DESC, event_id LIMIT {RAW_BATCH} OFFSET {}",
            number * RAW_BATCH
        );
        let mut cursor = clickhouse
            .query(&select)
            .fetch_bytes("RowBinary")
            .expect("it is a query");
        batches.push(cursor.collect().await.expect("the rows can be read"));
    }
    batches
}

/// Inserts the rows of the backlog into a table of the same form; answers rows a second.
async fn insert_raw(clickhouse: &Client, batches: Vec<Bytes>) -> f64 {
    let start = Instant::now();
    for batch in batches {
        let mut insert = clickhouse.insert_formatted_with("INSERT INTO raw_events FORMAT RowBinary");
        insert.send(batch).await.expect("ClickHouse takes rows");
        insert.end().await.expect("ClickHouse takes rows");
    }
    BACKLOG as f64 / start.elapsed().as_secs_f64()
}
