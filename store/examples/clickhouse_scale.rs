//! Fills a database with a given number of events and tells what the services' queries read of them, and how long they take.
//!
//! ```text
//! cargo xtask services up      # prints the variable with the server's address
//! cargo run --release -p sendflowr-store --example clickhouse_scale -- --rows 100000000
//! ```
//!
//! The server makes the rows itself, in the schema of the migrations, in the order of time, as they would have come in half
//! a year: a part of them in every month, and parts as its own merges leave them, which are awaited. Months that are over are
//! then merged into one part each, as the server does of itself a day after the last event. The database is dropped at the end.
#![expect(clippy::print_stdout, reason = "the figures are what this is for")]
#![expect(clippy::unwrap_used, reason = "a failed step is a failed measurement")]

#[path = "../tests/servers/events/proxy.rs"]
mod proxy;
#[path = "../tests/servers/support.rs"]
#[expect(dead_code, reason = "the tests need the rest of it")]
mod support;
#[path = "../tests/servers/events/world.rs"]
#[expect(dead_code, reason = "the tests need the rest of it")]
mod world;

use std::time::{Duration, Instant};

use event::{Timestamp, UniversalId, grid::DAY_MS};
use sendflowr_store::events::{ClickHouseConfig, ClickHouseEvents, Events, RawClickHouseConfig};

use crate::{proxy::Proxy, world::Database};

/// Rows unless told otherwise: made in a minute.
const ROWS: u64 = 10_000_000;

/// Rows made by one statement: some hundred megabytes of the server's memory.
const ROWS_AT_ONCE: u64 = 1_000_000;

/// Events of one person: a mail a week that is sent, delivered and opened, over half a year.
const EVENTS_PER_PERSON: u64 = 75;

/// One decision to so many events.
const EVENTS_PER_DECISION: u64 = 10;

/// How long the server may go on merging what it has been given.
const MERGES: Duration = Duration::from_secs(20 * 60);

/// A server that has merged nothing for so long has nothing more to merge: it looks for work every few seconds.
const CALM: Duration = Duration::from_secs(15);

const START: &str = "2026-01-01T00:00:00Z";
const DAYS: i64 = 180;
/// Odd, so that numbers stay apart when they are multiplied by them and lose their order.
const MIX: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xf39c_c060_5ced_c835];

/// How often queries of one person or batch are measured, and those that read a month or more.
const QUICK: u64 = 200;
const SLOW: u64 = 5;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rows = match arguments.as_slice() {
        [] => ROWS,
        [flag, rows] if flag == "--rows" => rows.parse().unwrap(),
        _ => panic!("the only argument is `--rows NUMBER`"),
    };
    let database = Database::new();
    let store = open(database.settings()).await;
    let world = World {
        people: rows.div_ceil(EVENTS_PER_PERSON),
        messages: rows.div_ceil(3),
        start: START.parse().unwrap(),
    };
    let filling = Instant::now();
    world.fill(&database, rows).await;
    println!("filled in {:.0} s", filling.elapsed().as_secs_f64());
    merged(&database).await;
    let parts = "SELECT toString(count()) FROM system.parts WHERE active AND database = currentDatabase() AND table = 'email_events'";
    println!("{} parts of email_events", database.lines(parts).await.concat());
    close_months(&database).await;
    let sizes = "SELECT concat(table, ': ', toString(sum(rows)), ' rows, ', formatReadableSize(sum(bytes_on_disk)), ', ', \
                 toString(count()), ' parts') FROM system.parts WHERE active AND database = currentDatabase() \
                 GROUP BY table ORDER BY table";
    for line in database.lines(sizes).await {
        println!("{line}");
    }
    println!();
    world.measure(&database, &store).await;
}

/// Opens the store with patience: what takes long is to be told, not given up.
async fn open(settings: RawClickHouseConfig) -> ClickHouseEvents {
    let raw = RawClickHouseConfig {
        request_timeout_seconds: 600,
        ..settings
    };
    let config = ClickHouseConfig::try_from(raw).unwrap();
    ClickHouseEvents::connect(config).await.unwrap()
}

/// Waits until the server has merged what it wants to.
async fn merged(database: &Database) {
    let began = Instant::now();
    let mut calm = Instant::now();
    while calm.elapsed() < CALM && began.elapsed() < MERGES {
        let running = "SELECT count() FROM system.merges WHERE database = currentDatabase()";
        if database.number(running).await > 0 {
            calm = Instant::now();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!(
        "merged in {:.0} s more",
        (began.elapsed() - calm.elapsed()).as_secs_f64()
    );
}

/// Merges each month but the last, which is not over.
async fn close_months(database: &Database) {
    let began = Instant::now();
    let months = "SELECT DISTINCT partition_id FROM system.parts WHERE active AND database = currentDatabase() \
                  AND table = 'email_events' ORDER BY partition_id DESC LIMIT 100 OFFSET 1";
    for month in database.lines(months).await {
        let merge = format!("OPTIMIZE TABLE email_events PARTITION ID '{month}' FINAL");
        database.run(&merge).await;
    }
    println!(
        "months that are over merged in {:.0} s",
        began.elapsed().as_secs_f64()
    );
}

struct World {
    people: u64,
    messages: u64,
    start: Timestamp,
}

impl World {
    async fn fill(&self, database: &Database, rows: u64) {
        let [a, b] = MIX;
        let hex = |number: &str| {
            let half = |mix: u64| format!("lower(leftPad(hex({number} * toUInt64({mix})), 16, '0'))");
            format!("concat({}, {})", half(a), half(b))
        };
        let (event_id, person) = (hex("n"), hex("person"));
        let at = format!(
            "fromUnixTimestamp64Milli({} + toInt64(intDiv(message * {}, {})) + toInt64(step) * 9000, 'UTC')",
            self.start.as_millis(),
            DAYS * DAY_MS,
            self.messages
        );
        for from in (0..rows).step_by(ROWS_AT_ONCE as usize) {
            let count = ROWS_AT_ONCE.min(rows - from);
            let statement = format!(
                "INSERT INTO email_events (event_id, event_type, timestamp, esp, universal_id, recipient_email_hash, \
                 campaign_id, campaign_name, message_id, subject, click_url, user_agent, ip_address, metadata, ingested_at, \
                 schema_version, account, mailbox_provider, identifiers, tags, provider_event_id, plugin, machine, \
                 delivery_latency_ms) \
                 SELECT {event_id}, ['sent', 'delivered', 'opened'][step + 1], {at} AS at, 'sendgrid', \
                 concat('sf_', {person} AS id), concat(id, id), concat('c', toString(message % 50)), \
                 concat('Campaign ', toString(message % 50)), concat('<', toString(message), '@mail.example>'), \
                 concat('News of week ', toString(message % 50)), NULL, \
                 if(step = 2, concat('Mozilla/5.0 (agent ', toString(person % 300), ')'), NULL), \
                 if(step = 2, concat('192.0.2.', toString(person % 250)), NULL), map('order', toString(message)), \
                 at + toIntervalSecond(1), 1, 'default', 'gmail', [('email_hash', concat(id, id))], ['news'], \
                 concat('e-', toString(n)), 'sendgrid@1.0.0', false, if(step = 1, 9000, NULL) \
                 FROM (SELECT number AS n, intDiv(n, 3) AS message, n % 3 AS step, message % {} AS person \
                 FROM numbers({from}, {count}))",
                self.people
            );
            database.run(&statement).await;
            let statement = format!(
                "INSERT INTO timing_explanations (reference, universal_id, decided_at, body, trial_group, trial_target_at, \
                 trial_model_at, trial_propensity, trial_campaign_id) \
                 SELECT concat('r', toString(n)), concat('sf_', {person}), {at}, repeat('{{}}', 500), \
                 if(number % 10 = 0, 'control', 'treated'), toUnixTimestamp64Milli({at}), toUnixTimestamp64Milli({at}), 0.5, 'c1' \
                 FROM (SELECT number, number * {EVENTS_PER_DECISION} AS n, intDiv(n, 3) AS message, n % 3 AS step, \
                 message % {} AS person FROM numbers({}, {}))",
                self.people,
                from / EVENTS_PER_DECISION,
                count / EVENTS_PER_DECISION
            );
            database.run(&statement).await;
        }
    }

    /// A person, another for each number.
    fn person(&self, number: u64) -> UniversalId {
        let person = number.wrapping_mul(MIX[0]) % self.people;
        let [a, b] = MIX.map(|mix| person.wrapping_mul(mix));
        UniversalId::parse(&format!("sf_{a:016x}{b:016x}")).unwrap()
    }

    /// A message and the person that it went to.
    fn message(&self, number: u64) -> (UniversalId, String) {
        let message = number.wrapping_mul(MIX[1]) % self.messages;
        let person = message % self.people;
        let [a, b] = MIX.map(|mix| person.wrapping_mul(mix));
        let id = UniversalId::parse(&format!("sf_{a:016x}{b:016x}")).unwrap();
        (id, format!("<{message}@mail.example>"))
    }

    async fn measure(&self, database: &Database, store: &ClickHouseEvents) {
        let proxy = Proxy::to(database).await;
        let watched = open(proxy.settings(database)).await;
        let beginning = Timestamp::default();
        let end = self.start.plus_millis(DAYS * DAY_MS);
        let month = end.plus_millis(-30 * DAY_MS);
        let report = Report {
            database,
            proxy: &proxy,
            direct: store,
            watched: &watched,
        };
        println!(
            "{:42} {:>9} {:>9} {:>8} {:>14} {:>11}  key",
            "query", "p50 ms", "p99 ms", "found", "granules", "rows read"
        );
        let people = |round: u64, count: u64| -> Vec<UniversalId> {
            (0..count)
                .map(|number| self.person(round * 10_000 + number))
                .collect()
        };
        report
            .line("history of a person", QUICK, async |store, round| {
                store
                    .history(&people(round, 1), beginning, 4_000)
                    .await
                    .unwrap()
                    .len()
            })
            .await;
        for (name, rounds, count) in [
            ("profile of a person", QUICK, 1),
            ("profiles of 250 people", SLOW, 250),
        ] {
            report
                .line(name, rounds, async |store, round| {
                    let profiles = store.profiles(&people(round, count), beginning, 4_000).await;
                    profiles
                        .unwrap()
                        .iter()
                        .filter(|profile| !profile.is_empty())
                        .count()
                })
                .await;
        }
        report
            .line("known, 5,000 people", SLOW, async |store, round| {
                let known = store.known(&people(round, 5_000)).await.unwrap();
                known.into_iter().filter(|known| *known).count()
            })
            .await;
        report
            .line("sent_times of 1,000 messages", QUICK, async |store, round| {
                let messages: Vec<_> = (0..1_000)
                    .map(|number| self.message(round * 10_000 + number))
                    .collect();
                store
                    .sent_times(&messages)
                    .await
                    .unwrap()
                    .into_iter()
                    .flatten()
                    .count()
            })
            .await;
        report
            .line("touches of a person, 30 days", QUICK, async |store, round| {
                store.touches(&people(round, 1), month, end).await.unwrap().len()
            })
            .await;
        report
            .line("touches of 1,000 people, 30 days", SLOW, async |store, round| {
                store
                    .touches(&people(round, 1_000), month, end)
                    .await
                    .unwrap()
                    .len()
            })
            .await;
        report
            .line("explanation by reference", QUICK, async |store, round| {
                let number = round * 30 * EVENTS_PER_DECISION;
                usize::from(store.explanation(&format!("r{number}")).await.unwrap().is_some())
            })
            .await;
        report
            .line("trials of a day", SLOW, async |store, _| {
                let day = end.plus_millis(-DAY_MS);
                store.trials(day, end, 100_000).await.unwrap().rows.len()
            })
            .await;
        report
            .line(
                "latency_samples of 30 days, 50,000 a provider",
                SLOW,
                async |store, _| store.latency_samples(month, 50_000).await.unwrap().len(),
            )
            .await;
        report
            .line(
                "people of 30 days, a page of 1,000",
                SLOW,
                async |store, round| {
                    let after = self.person(round);
                    store.people(month, Some(&after), 1_000).await.unwrap().len()
                },
            )
            .await;
    }
}

/// What is told of a query.
struct Report<'a> {
    database: &'a Database,
    proxy: &'a Proxy,
    direct: &'a ClickHouseEvents,
    /// By way of the proxy.
    watched: &'a ClickHouseEvents,
}

impl Report<'_> {
    /// Runs a query, with another number each time, and prints a line about it.
    async fn line(&self, name: &str, rounds: u64, query: impl AsyncFn(&ClickHouseEvents, u64) -> usize) {
        let mut times: Vec<Duration> = Vec::new();
        let mut found = 0;
        for round in 0..rounds {
            let start = Instant::now();
            found += query(self.direct, round).await;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let ms = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
        // As it goes over the wire, for another person than those just read.
        query(self.watched, rounds).await;
        let query = self.proxy.last_query();
        let plan = self.database.lines(&format!("EXPLAIN indexes = 1 {query}")).await;
        let keys: Vec<&str> = plan
            .iter()
            .map(|line| line.trim())
            .filter(|line| ["MinMax", "Partition", "PrimaryKey"].contains(line))
            .collect();
        let mut granules = plan
            .iter()
            .filter_map(|line| line.trim().strip_prefix("Granules: "));
        let estimate = format!("SELECT sum(rows) FROM (EXPLAIN ESTIMATE {query})");
        println!(
            "{name:42} {:9.1} {:9.1} {:8} {:>14} {:11}  {}",
            ms(50),
            ms(99),
            found as u64 / rounds,
            granules.next_back().unwrap_or("-"),
            self.database.number(&estimate).await,
            keys.join(", ")
        );
    }
}
