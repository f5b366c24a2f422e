//! Measures the three roles on the four servers: host → Kafka → consumer → ClickHouse, and for comparison the same rows inserted
//! by the `clickhouse` crate alone.

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

use crate::traffic::{account, deliveries, percentiles, send, send_at, send_one};

/// Deliveries of the warm-up: until Kafka's JIT compiler has settled. After 12,000 it still took a sixth of both processors.
const WARM_UP: usize = 50_000;

/// The number of measured deliveries: some seconds of load, so that batches, polls and flushes have settled.
const MEASURED: usize = 30_000;

/// Deliveries a second of the pass that measures how long one takes: as many as promised.
const PACE: u32 = 3_000;

/// Deliveries of that pass: ten seconds.
const PACED: usize = 30_000;

/// The time between two checks for the deliveries whose way to ClickHouse is watched. The measured times are too long by half of
/// it on average.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The time between two counts of the rows: long enough to cost the server nothing, and short compared with the time that a
/// backlog takes.
const COUNT_EVERY: Duration = Duration::from_millis(250);

/// The number of checks for each delivery that is watched.
const LOOKS_PER_PROBE: usize = 2;

/// Comparisons of consumer and crate, of which the median is reported.
const ROUNDS: u64 = 3;

/// The number of events that wait for the consumer when it starts.
const BACKLOG: usize = 300_000;

/// More processors than there are, which the system takes to mean all of them.
const ALL_PROCESSORS: &str = "0-1023";

/// Rows of an insert by the crate alone: the consumer's `batch_events`.
const RAW_BATCH: usize = 5_000;

pub(crate) async fn run() {
    let account = account();
    let system = Arc::new(System::start(std::slice::from_ref(&account)).await);
    let consumer = system.consumer().await;
    let mark = format!("-{}", system.servers.mark);
    let all = Arc::new(deliveries(&account, WARM_UP + MEASURED + PACED, &mark));
    send(&system.http, &system.host.url, &all, 0..WARM_UP).await;

    let clickhouse = system.servers.clickhouse();
    until_rows(&clickhouse, WARM_UP as u64).await;
    let over = CancellationToken::new();
    let probes = tokio::spawn(probes(Arc::clone(&system), account, over.clone()));
    let start = Instant::now();
    send(&system.http, &system.host.url, &all, WARM_UP..WARM_UP + MEASURED).await;
    let rate = MEASURED as f64 / start.elapsed().as_secs_f64();
    over.cancel();
    let mut visible = probes.await.expect("no probe panics");
    println!("deliveries, one event each, acks=all  {rate:>8.0} /s   (target: 3,000 /s)");
    let paced = WARM_UP + MEASURED..all.len();
    let mut times = send_at(PACE, &system.http, &system.host.url, &all, paced).await;
    println!(
        "  at that pace, from when each is due {PACE:>8} /s   {}   (target: p99 50 ms)",
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
    let mut memory = vec![
        ("host".to_owned(), system.host.resident_kb()),
        ("consumer".to_owned(), consumer.resident_kb()),
        ("inference".to_owned(), system.inference.resident_kb()),
    ];
    memory.extend(system.servers.memory_kb());
    let memory = memory.iter().map(|(name, kb)| format!("{name} {} MB", kb / 1024));
    println!("memory: {}", memory.collect::<Vec<_>>().join(", "));

    until_rows(&clickhouse, (WARM_UP + MEASURED + PACED + visible.len()) as u64).await;
    drop(consumer);
    let mut system = Arc::into_inner(system).expect("nobody else uses it");
    // Their periodic work would slow down now one side, now the other.
    system.end_services();
    make_raw_events(&clickhouse).await;
    println!("all on the same processors");
    compare(&system, &clickhouse, 0).await;
    // This compares whether a consumer keeps ClickHouse as busy as a writer that does nothing else.
    let all_again = OnAllProcessors(&system);
    if run_on(&system, "0", "1") {
        println!("ClickHouse with a processor of its own");
        compare(&system, &clickhouse, ROUNDS).await;
    } else {
        println!(
            "ClickHouse is not given a processor of its own: the servers are not processes of this machine, `taskset` is not \
             installed or not allowed, or there is one processor"
        );
    }
    drop(all_again);
    system.clean().await;
}

/// Compares consumer and crate in some rounds, whose seeds follow `seed`.
async fn compare(system: &System, clickhouse: &Client, seed: u64) {
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        ratios.push(work_off(system, clickhouse, seed + round).await);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "  the consumer's rows for one of the crate's: {:.2}, {:.2} to {:.2}   (target: 0.80)",
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
}

/// Has a consumer process a backlog, and the crate insert the same rows in the same batches; returns the ratio of their rows a
/// second, by the server's own clock.
async fn work_off(system: &System, clickhouse: &Client, seed: u64) -> f64 {
    let before = rows(clickhouse).await;
    let arguments = [
        "synth",
        "--kafka",
        "--seed",
        &seed.to_string(),
        "--count",
        &BACKLOG.to_string(),
    ];
    system.run(&arguments);
    until_merged(clickhouse).await;
    let began = server_time(clickhouse).await;
    let consumer = system.consumer().await;
    let mut cpu = Cpu::start(system, Some(&consumer));
    until_rows(clickhouse, before + BACKLOG as u64).await;
    let by_consumer = cpu.lap(system, Some(&consumer));
    let drained = rows_a_second(clickhouse, "email_events", began).await;
    system.until_committed(&consumer).await;
    let memory = consumer.resident_kb() / 1024;
    drop(consumer);

    let batches = raw_batches(clickhouse, began).await;
    until_merged(clickhouse).await;
    let began = server_time(clickhouse).await;
    let mut cpu = Cpu::start(system, None);
    insert_raw(clickhouse, batches).await;
    let by_crate = cpu.lap(system, None);
    let raw = rows_a_second(clickhouse, "raw_events", began).await;
    println!(
        "  consumer, a backlog of {BACKLOG} events {drained:>8.0} rows/s   {memory} MB afterwards\n  \
           the clickhouse crate, the same rows  {raw:>8.0} rows/s   ratio {:.2}\n    \
             processor seconds for 100,000 rows, consumer: {by_consumer}\n    \
             processor seconds for 100,000 rows, the crate: {by_crate}",
        drained / raw
    );
    drained / raw
}

/// Pins ClickHouse to some processors and everybody else to others, including roles that this process starts later; returns
/// whether that was possible.
fn run_on(system: &System, clickhouse: &str, others: &str) -> bool {
    let mut processes = system.servers.processes();
    let is_here = processes.iter().any(|(name, _)| name == "clickhouse");
    processes.push(("this one".to_owned(), std::process::id()));
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

/// Lets every process run on all processors again when it is dropped: servers that others have started live on.
struct OnAllProcessors<'a>(&'a System);

impl Drop for OnAllProcessors<'_> {
    fn drop(&mut self) {
        run_on(self.0, ALL_PROCESSORS, ALL_PROCESSORS);
    }
}

/// Sends deliveries of people of their own until `over` is cancelled; returns how long after its 2xx each could be read.
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

/// Returns the rows a second of the inserts into the table since `began`, from the first, which waits for its consumer's
/// partitions, to the last. The row's version says, to the millisecond, when the server accepted it.
async fn rows_a_second(clickhouse: &Client, table: &str, began: u64) -> f64 {
    let select =
        format!("SELECT bitNot(version) AS at, count() FROM {table} WHERE at >= ? GROUP BY at ORDER BY at");
    let inserts: Vec<(u64, u64)> = clickhouse
        .query(&select)
        .bind(began)
        .fetch_all()
        .await
        .expect("ClickHouse answers");
    let (first, last) = (inserts[0].0, inserts[inserts.len() - 1].0);
    let rows: u64 = inserts[1..].iter().map(|(_, rows)| rows).sum();
    1_000.0 * rows as f64 / (last - first) as f64
}

/// Returns the server's clock, in ms.
async fn server_time(clickhouse: &Client) -> u64 {
    let now = clickhouse.query("SELECT toUInt64(toUnixTimestamp64Milli(now64(3)))");
    now.fetch_one().await.expect("ClickHouse answers")
}

/// Waits until the server merges nothing: work left over from one side would slow down the other.
async fn until_merged(clickhouse: &Client) {
    eventually("the server merges nothing", async || {
        let merges = clickhouse.query("SELECT count() FROM system.merges WHERE database = currentDatabase()");
        merges.fetch_one::<u64>().await.expect("ClickHouse answers") == 0
    })
    .await;
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

/// The processor time of every process that takes part.
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

    /// Returns the processor time that each has used since the last lap, for 100,000 of the backlog's rows.
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

/// Creates a table like that of the events, with the same rows, and its own views and tables like those that its writes maintain.
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
    run("INSERT INTO raw_events SELECT * FROM email_events").await;
}

/// Returns the rows that the consumer has stored since `began`, in its order, as the crate sends them.
async fn raw_batches(clickhouse: &Client, began: u64) -> Vec<Bytes> {
    let mut batches: Vec<Bytes> = Vec::with_capacity(BACKLOG / RAW_BATCH);
    for number in 0..BACKLOG / RAW_BATCH {
        let select = format!(
            "SELECT * FROM email_events WHERE bitNot(version) >= {began} \
             ORDER BY version DESC, timestamp, event_id LIMIT {RAW_BATCH} OFFSET {}",
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

/// Inserts the rows of the backlog into the table that is like that of the events.
async fn insert_raw(clickhouse: &Client, batches: Vec<Bytes>) {
    for batch in batches {
        let mut insert = clickhouse.insert_formatted_with("INSERT INTO raw_events FORMAT RowBinary");
        insert.send(batch).await.expect("ClickHouse takes rows");
        insert.end().await.expect("ClickHouse takes rows");
    }
}
