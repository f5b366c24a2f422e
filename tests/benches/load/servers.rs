//! The three roles on the four servers: host → Kafka → consumer → ClickHouse, beside the same rows inserted by the
//! `clickhouse` crate alone.

use std::{
    collections::HashMap,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use clickhouse::Client;
use event::{Hasher, Timestamp, UniversalId};
use integration_tests::{PATIENCE, Role, eventually, scaled::System};
use synth::delivery::{Account, Action, Kind};
use tokio_util::sync::CancellationToken;

use crate::traffic::{account, deliveries, percentiles, send, send_one};

/// Deliveries of the warm-up: until Kafka's own compiler has settled. After 12,000 it still took a sixth of both processors.
const WARM_UP: usize = 50_000;

/// Deliveries measured: some seconds of load, so that batches, polls and flushes have settled.
const MEASURED: usize = 30_000;

/// Time between two looks for the deliveries whose way to ClickHouse is watched. What is measured is too long by half of it
/// on average.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Time between two counts of the rows: seldom enough to cost the server nothing, of a backlog that takes many times as long.
const COUNT_EVERY: Duration = Duration::from_millis(250);

/// Looks for each delivery that is watched.
const LOOKS_PER_PROBE: usize = 2;

/// Events that wait for the consumer when it starts.
const BACKLOG: usize = 300_000;

/// More processors than there are, which the system reads as all of them.
const ALL_PROCESSORS: &str = "0-1023";

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

    until_rows(&clickhouse, (WARM_UP + MEASURED + visible.len()) as u64).await;
    drop(consumer);
    for (round, apart) in [(1, false), (2, true)] {
        work_off(&system, &clickhouse, round, apart).await;
    }
    Arc::into_inner(system)
        .expect("nobody else uses it")
        .clean()
        .await;
}

/// Has a consumer work off a backlog, and the crate insert the same rows. With all on the same processors what is compared is
/// the work of everybody; with ClickHouse `apart`, on a processor that nobody else uses, whether a consumer keeps it as busy
/// as a writer can that does nothing else.
async fn work_off(system: &System, clickhouse: &Client, round: u64, apart: bool) {
    let before = rows(clickhouse).await;
    let arguments = [
        "synth",
        "--seed",
        &round.to_string(),
        "--count",
        &BACKLOG.to_string(),
    ];
    system.run(&arguments);
    let consumer = system.consumer().await;
    if apart && !run_on(system, &consumer, "0", "1") {
        println!(
            "the servers are not processes of this machine: ClickHouse is not given a processor of its own"
        );
        return;
    }
    let mut cpu = Cpu::start(system, Some(&consumer));
    let drained = drained(clickhouse, before).await;
    until_committed(system, &consumer).await;
    let by_consumer = cpu.lap(system, Some(&consumer));
    make_raw_events(clickhouse).await;
    let batches = raw_batches(clickhouse).await;
    let mut cpu = Cpu::start(system, None);
    let raw = insert_raw(clickhouse, batches).await;
    let by_crate = cpu.lap(system, None);
    if apart {
        run_on(system, &consumer, ALL_PROCESSORS, ALL_PROCESSORS);
    }
    println!(
        "{}\n\
         consumer, a backlog of {BACKLOG} events {drained:>8.0} rows/s\n\
         the clickhouse crate, the same rows  {raw:>8.0} rows/s   ratio {:.2}   (target: 0.80)",
        if apart {
            "ClickHouse with a processor of its own"
        } else {
            "all on the same processors"
        },
        drained / raw
    );
    println!("  processor seconds for 100,000 rows, consumer: {by_consumer}");
    println!("  processor seconds for 100,000 rows, the crate: {by_crate}");
    println!(
        "  memory: consumer {} MB after the backlog",
        consumer.resident_kb() / 1024
    );
}

/// Gives ClickHouse and everybody else these processors; answers whether that could be done.
fn run_on(system: &System, consumer: &Role, clickhouse: &str, others: &str) -> bool {
    let mut processes = system.servers.processes();
    let is_here = processes.iter().any(|(name, _)| name == "clickhouse");
    processes.extend([
        ("consumer".to_owned(), consumer.process()),
        ("host".to_owned(), system.host.process()),
        ("inference".to_owned(), system.inference.process()),
        ("sender".to_owned(), std::process::id()),
    ]);
    is_here
        && processes.iter().all(|(name, process)| {
            let processors = if name == "clickhouse" { clickhouse } else { others };
            let moved = Command::new("taskset")
                .args([
                    "--all-tasks",
                    "--cpu-list",
                    "--pid",
                    processors,
                    &process.to_string(),
                ])
                .stdout(Stdio::null())
                .status();
            moved.is_ok_and(|status| status.success())
        })
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
        tokio::time::sleep(COUNT_EVERY).await;
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

/// A table like that of the events, with views and tables of their own like those that its writes keep.
async fn make_raw_events(clickhouse: &Client) {
    let run = async |sql: &str| {
        clickhouse
            .query(sql)
            .execute()
            .await
            .expect("a table can be made")
    };
    run("DROP TABLE IF EXISTS raw_events").await;
    run("CREATE TABLE raw_events AS email_events").await;
    for kept in ["message_sent_times", "known_people"] {
        run(&format!("DROP TABLE IF EXISTS raw_{kept}_writer")).await;
        run(&format!("DROP TABLE IF EXISTS raw_{kept}")).await;
        run(&format!("CREATE TABLE raw_{kept} AS {kept}")).await;
        let select = clickhouse
            .query("SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = ?")
            .bind(format!("{kept}_writer"));
        let select: String = select.fetch_one().await.expect("the view is there");
        let select = select.replace("email_events", "raw_events");
        run(&format!(
            "CREATE MATERIALIZED VIEW raw_{kept}_writer TO raw_{kept} AS {select}"
        ))
        .await;
    }
}

/// The rows of the backlog as the crate sends them.
async fn raw_batches(clickhouse: &Client) -> Vec<Bytes> {
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

/// Inserts the rows of the backlog into the table like that of the events; answers rows a second.
async fn insert_raw(clickhouse: &Client, batches: Vec<Bytes>) -> f64 {
    let start = Instant::now();
    for batch in batches {
        let mut insert = clickhouse.insert_formatted_with("INSERT INTO raw_events FORMAT RowBinary");
        insert.send(batch).await.expect("ClickHouse takes rows");
        insert.end().await.expect("ClickHouse takes rows");
    }
    BACKLOG as f64 / start.elapsed().as_secs_f64()
}
