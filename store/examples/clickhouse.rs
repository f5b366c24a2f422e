//! Measures the event store in ClickHouse: how fast batches are written, compared with the same rows inserted by the
//! `clickhouse` crate alone, and how long the reads take that the services wait for.
//!
//! ```text
//! SENDFLOWR_TEST_CLICKHOUSE=http://default@127.0.0.1:8123 cargo run --release -p sendflowr-store --example clickhouse
//! ```
//!
//! Creates the databases `measure_store` and `measure_raw`, and drops them at the end.
#![expect(clippy::print_stdout, reason = "the figures are what this is for")]

#[path = "../tests/servers/support.rs"]
#[expect(dead_code, reason = "the tests need the rest of it")]
mod support;

use std::{
    collections::BTreeMap,
    error::Error,
    time::{Duration, Instant},
};

use clickhouse::{Client, Row};
use event::settings::Secret;
use event::{
    EmailHash, Event, EventType, Identifier, IdentifierKind, MailboxProvider, Timestamp, UniversalId,
};
use sendflowr_store::events::{
    ClickHouseConfig, ClickHouseEvents, Enrichment, Events, RawClickHouseConfig, StoredEvent,
    StoredExplanation,
};
use serde::Serialize;

use self::support::Server;

/// Batch sizes: the consumer's default, and the maximum that it writes when it catches up.
const BATCHES: [usize; 2] = [1_000, 10_000];

/// Number of rows written for each writer and batch size.
const ROWS: usize = 200_000;

/// Number of people that the rows are spread over.
const PEOPLE: usize = 20_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::of("SENDFLOWR_TEST_CLICKHOUSE");
    let open = async |database: &str| {
        let raw = RawClickHouseConfig {
            host: Some(server.host.clone()),
            port: Some(server.port),
            user: server.user.clone(),
            password: Secret::new(&server.password),
            database: database.to_owned(),
            ..Default::default()
        };
        let store = ClickHouseEvents::connect(ClickHouseConfig::try_from(raw)?).await?;
        Ok::<_, Box<dyn Error>>(store)
    };
    let store = open("measure_store").await?;
    open("measure_raw").await?;
    let raw = Client::default()
        .with_url(format!("http://{}:{}/", server.host, server.port))
        .with_user(&server.user)
        .with_password(&server.password)
        .with_database("measure_raw")
        // As in the store. In addition, the crate cannot parse the description of a tuple with named fields.
        .with_validation(false)
        // As in the store: otherwise the server waits for more rows before it responds.
        .with_setting("async_insert", "0");

    let events: Vec<StoredEvent> = (0..ROWS).map(event).collect::<Result<_, _>>()?;
    for size in BATCHES {
        writes(&store, &raw, &events, size).await?;
    }
    reads(&store, &events).await?;

    for database in ["measure_store", "measure_raw"] {
        raw.clone()
            .with_database("default")
            .query_raw(&format!("DROP DATABASE {database}"))
            .execute()
            .await?;
    }
    Ok(())
}

/// Writes the same batches with both writers alternately, so that both see the same conditions on the machine.
async fn writes(
    store: &ClickHouseEvents,
    raw: &Client,
    events: &[StoredEvent],
    size: usize,
) -> Result<(), Box<dyn Error>> {
    let (mut by_store, mut by_crate) = (Duration::ZERO, Duration::ZERO);
    let mut latencies = Vec::new();
    for (round, batch) in events.chunks(size).enumerate() {
        let rows: Vec<RawRow> = batch.iter().map(RawRow::from).collect();
        for turn in 0..2 {
            let start = Instant::now();
            if (round + turn) % 2 == 0 {
                store.write(batch).await?;
                latencies.push(start.elapsed());
                by_store += start.elapsed();
            } else {
                let mut insert = raw.insert::<RawRow>("email_events").await?;
                for row in &rows {
                    insert.write(row).await?;
                }
                insert.end().await?;
                by_crate += start.elapsed();
            }
        }
    }
    let rate = |time: Duration| events.len() as f64 / time.as_secs_f64();
    println!(
        "write {size:6} rows: {:7.0} rows/s, the crate alone {:7.0} rows/s, ratio {:.2}; a batch takes {}",
        rate(by_store),
        rate(by_crate),
        rate(by_store) / rate(by_crate),
        percentiles(&mut latencies)
    );
    Ok(())
}

async fn reads(store: &ClickHouseEvents, events: &[StoredEvent]) -> Result<(), Box<dyn Error>> {
    let (mut profiles, mut sent, mut pings, mut explanations) = (vec![], vec![], vec![], vec![]);
    for round in 0..200 {
        let person = &events[round * 97].event.universal_id;
        let start = Instant::now();
        let profile = store
            .profiles(std::slice::from_ref(person), Timestamp::default(), 4_000)
            .await?;
        profiles.push(start.elapsed());
        assert!(!profile[0].is_empty(), "a person's events are missing");

        let messages: Vec<(UniversalId, String)> = events[round * 900..][..1_000]
            .iter()
            .map(|stored| {
                let message = stored.event.message_id.clone().unwrap_or_default();
                (stored.event.universal_id.clone(), message)
            })
            .collect();
        let start = Instant::now();
        store.sent_times(&messages).await?;
        sent.push(start.elapsed());

        let start = Instant::now();
        store.ping().await?;
        pings.push(start.elapsed());

        let explanation = StoredExplanation {
            reference: format!("reference-{round}"),
            universal_id: person.clone(),
            decided_at: Timestamp::default(),
            body: "{}".repeat(500),
            trial: None,
            forecast: None,
        };
        let start = Instant::now();
        store.save_explanations(&[&explanation]).await?;
        explanations.push(start.elapsed());
    }
    println!("a person's profile:   {}", percentiles(&mut profiles));
    println!("1,000 sending times:  {}", percentiles(&mut sent));
    println!("ping:                 {}", percentiles(&mut pings));
    println!("saved explanation:    {}", percentiles(&mut explanations));
    Ok(())
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    format!("p50 {:6.1} ms, p99 {:6.1} ms", at(50), at(99))
}

/// Creates the events of each message in turn: sent, delivered, opened.
fn event(number: usize) -> Result<StoredEvent, Box<dyn Error>> {
    let (message, step) = (number / 3, number % 3);
    let person = message % PEOPLE;
    let hash = format!(
        "{:064x}",
        person as u128 * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835
    );
    let identifier = Identifier {
        kind: IdentifierKind::EmailHash,
        value: hash.clone(),
    };
    let start: Timestamp = "2026-03-01T00:00:00Z".parse()?;
    let timestamp = start.plus_millis(message as i64 * 20_000 + step as i64 * 9_000);
    let is_opened = step == 2;
    let event = Event {
        schema_version: event::SCHEMA_VERSION,
        event_id: format!(
            "{:032x}",
            number as u128 * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835
        ),
        event_type: [EventType::Sent, EventType::Delivered, EventType::Opened][step],
        timestamp,
        esp: "sendgrid".into(),
        account: "default".into(),
        universal_id: UniversalId::from_identifier(&identifier),
        recipient_email_hash: EmailHash::parse(&hash),
        mailbox_provider: Some(MailboxProvider::Gmail),
        identifiers: vec![identifier],
        campaign_id: Some(format!("c{}", message % 50)),
        campaign_name: Some(format!("Campaign {}", message % 50)),
        message_id: Some(format!("<{message:016x}@mail.example>")),
        subject: Some(format!("News of week {}", message % 50)),
        click_url: None,
        bounce_type: None,
        reason: None,
        user_agent: is_opened.then(|| format!("Mozilla/5.0 (agent {})", person % 300)),
        ip_address: is_opened.then(|| format!("192.0.2.{}", person % 250)),
        tags: vec!["news".into()],
        metadata: BTreeMap::from([("order".into(), message.to_string())]),
        is_machine: None,
        provider_event_id: Some(format!("e-{number}")),
        plugin: "sendgrid@1.0.0".into(),
        ingested_at: timestamp.plus_millis(1_500),
    };
    let enrichment = Enrichment {
        delivery_latency_ms: (step == 1).then_some(9_000),
        ..Default::default()
    };
    Ok(StoredEvent { event, enrichment })
}

/// A row as written by a client that knows only the table.
#[derive(Row, Serialize)]
struct RawRow {
    event_id: String,
    event_type: &'static str,
    timestamp: i64,
    esp: String,
    universal_id: String,
    recipient_email_hash: Option<String>,
    campaign_id: Option<String>,
    campaign_name: Option<String>,
    message_id: Option<String>,
    subject: Option<String>,
    click_url: Option<String>,
    bounce_type: Option<String>,
    user_agent: Option<String>,
    ip_address: Option<String>,
    metadata: Vec<(String, String)>,
    ingested_at: i64,
    schema_version: u16,
    account: String,
    mailbox_provider: Option<String>,
    identifiers: Vec<(String, String)>,
    reason: Option<String>,
    tags: Vec<String>,
    is_machine: Option<bool>,
    provider_event_id: Option<String>,
    plugin: String,
    machine: bool,
    machine_reasons: Vec<String>,
    delivery_latency_ms: Option<i64>,
    trace_id: Option<String>,
}

impl From<&StoredEvent> for RawRow {
    fn from(StoredEvent { event, enrichment }: &StoredEvent) -> Self {
        let event = event.clone();
        Self {
            event_id: event.event_id,
            event_type: event.event_type.as_str(),
            timestamp: event.timestamp.as_millis(),
            esp: event.esp,
            universal_id: event.universal_id.to_string(),
            recipient_email_hash: event.recipient_email_hash.map(|hash| hash.as_str().to_owned()),
            campaign_id: event.campaign_id,
            campaign_name: event.campaign_name,
            message_id: event.message_id,
            subject: event.subject,
            click_url: event.click_url,
            bounce_type: None,
            user_agent: event.user_agent,
            ip_address: event.ip_address,
            metadata: event.metadata.into_iter().collect(),
            ingested_at: event.ingested_at.as_millis(),
            schema_version: event.schema_version,
            account: event.account,
            mailbox_provider: event.mailbox_provider.map(|class| class.as_str().to_owned()),
            identifiers: event
                .identifiers
                .into_iter()
                .map(|identifier| (identifier.kind.as_str().to_owned(), identifier.value))
                .collect(),
            reason: event.reason,
            tags: event.tags,
            is_machine: event.is_machine,
            provider_event_id: event.provider_event_id,
            plugin: event.plugin,
            machine: enrichment.machine,
            machine_reasons: enrichment.machine_reasons.clone(),
            delivery_latency_ms: enrichment.delivery_latency_ms,
            trace_id: enrichment.trace_id.map(|id| id.to_string()),
        }
    }
}
