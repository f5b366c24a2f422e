//! Measures the identity graph in PostgreSQL and the profiles in Redis.
//!
//! ```text
//! SENDFLOWR_TEST_POSTGRES=postgres://… SENDFLOWR_TEST_REDIS=redis://… \
//!     cargo run --release -p sendflowr-store --example postgres_redis
//! ```
//!
//! The database must be empty and created for this purpose; the keys have the prefix `measure:` and are removed.
#![expect(clippy::print_stdout, reason = "the figures are what this is for")]

#[path = "../tests/servers/support.rs"]
mod support;

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use event::settings::Secret;
use event::{Event, Identifier, IdentifierKind, Timestamp, UniversalId, profile::Profile};
use futures::future::try_join_all;
use sendflowr_store::{
    StoreError,
    identity::{Identities, PostgresConfig, PostgresIdentities, RawPostgresConfig, Sighting},
    profiles::{Profiles, RawRedisConfig, RedisConfig, RedisProfiles},
};

use self::support::Server;

/// Number of concurrent callers when throughput is measured.
const CALLERS: usize = 16;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    profiles().await?;
    identities().await
}

async fn profiles() -> Result<(), Box<dyn Error>> {
    let server = Server::of("SENDFLOWR_TEST_REDIS");
    let raw = RawRedisConfig {
        host: Some(server.host),
        port: server.port,
        password: Secret::new(server.password),
        key_prefix: "measure:".to_owned(),
        response_timeout_ms: 5_000,
        ..Default::default()
    };
    let store = RedisProfiles::connect(RedisConfig::try_from(raw)?).await?;
    for (name, events) in [("usual", 60), ("full", 1_000)] {
        let profile = profile(events)?;
        println!("profiles with {} bytes ({name})", profile.to_bytes().len());
        for count in [1, 100, 1_000] {
            let people: Vec<(UniversalId, Profile)> = (0..count).map(|n| (id(n), profile.clone())).collect();
            let ids: Vec<UniversalId> = people.iter().map(|(id, _)| id.clone()).collect();
            let rounds = (20_000 / count).clamp(100, 5_000);
            let mut puts = Vec::with_capacity(rounds);
            let mut gets = Vec::with_capacity(rounds);
            for _ in 0..rounds {
                let start = Instant::now();
                store.put(&people).await?;
                puts.push(start.elapsed());
                let start = Instant::now();
                let found = store.get(&ids).await?;
                gets.push(start.elapsed());
                assert!(found.iter().all(Option::is_some), "a profile is gone");
            }
            println!("  get {count:5}: {}", percentiles(&mut gets));
            println!("  put {count:5}: {}", percentiles(&mut puts));
        }
    }
    Ok(store.clear().await?)
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e6;
    format!("p50 {:8.0} µs, p99 {:8.0} µs", at(50), at(99))
}

fn id(number: usize) -> UniversalId {
    UniversalId::from_identifier(&email(number))
}

fn email(number: usize) -> Identifier {
    Identifier {
        kind: IdentifierKind::EmailHash,
        value: format!("{number:064x}"),
    }
}

fn external(number: usize) -> Identifier {
    Identifier {
        kind: IdentifierKind::ExternalId,
        value: format!("customer-{number}"),
    }
}

/// Returns the profile of a person with that many clicks.
fn profile(clicks: i64) -> Result<Profile, Box<dyn Error>> {
    let mut event = Event::from_json(include_bytes!("../../event/samples/event-v1.json"))?;
    let mut profile = Profile::default();
    for number in 0..clicks {
        event.timestamp = Timestamp::from_millis_clamped(1_768_000_000_000 + number * 3_600_000);
        event.message_id = Some(format!("message-{number}"));
        profile.apply(&event, false);
    }
    Ok(profile)
}

fn sighting(identifiers: Vec<Identifier>) -> Sighting {
    Sighting {
        identifiers,
        source: "event:0123456789abcdef0123456789abcdef".to_owned(),
        seen_at: Timestamp::from_millis_clamped(1_768_000_000_000),
    }
}

async fn identities() -> Result<(), Box<dyn Error>> {
    let server = Server::of("SENDFLOWR_TEST_POSTGRES");
    let (_, database) = server
        .address
        .rsplit_once('/')
        .ok_or("the address names no database")?;
    let raw = RawPostgresConfig {
        host: Some(server.host),
        port: server.port,
        database: database.to_owned(),
        user: server.user,
        password: Secret::new(server.password),
        read_timeout_ms: 5_000,
        ..Default::default()
    };
    let graph = Arc::new(PostgresIdentities::connect(PostgresConfig::try_from(raw)?).await?);
    println!("identities");
    let people = 100_000;
    let news: Vec<Sighting> = (0..people)
        .map(|number| sighting(vec![email(number), external(number)]))
        .collect();
    let start = Instant::now();
    for batch in news.chunks(1_000) {
        graph.record(batch).await?;
    }
    rate("record, all new, 1,000 at a time", people, start);

    let start = Instant::now();
    let parts = news.chunks(people / 4).map(|part| async {
        for batch in part.chunks(1_000) {
            graph.record(batch).await?;
        }
        Ok::<(), StoreError>(())
    });
    try_join_all(parts).await?;
    rate("record, all remembered, 4 at once", people, start);

    each(
        &graph,
        "people, one at a time",
        1,
        5_000,
        |graph, number| async move { graph.people(&[id(number * 17 % 100_000)]).await.map(|_| ()) },
    )
    .await?;
    each(
        &graph,
        "people, 16 at once",
        CALLERS,
        20_000,
        |graph, number| async move { graph.people(&[id(number * 17 % 100_000)]).await.map(|_| ()) },
    )
    .await?;
    each(
        &graph,
        "link two people, one at a time",
        1,
        1_000,
        |graph, number| async move {
            let link = sighting(vec![email(2 * number), email(2 * number + 1)]);
            graph.link(&link).await.map(|_| ())
        },
    )
    .await?;
    each(
        &graph,
        "link two people, 16 at once",
        CALLERS,
        5_000,
        |graph, number| async move {
            let link = sighting(vec![email(10_000 + 2 * number), email(10_001 + 2 * number)]);
            graph.link(&link).await.map(|_| ())
        },
    )
    .await?;
    graph.close().await;
    Ok(())
}

/// Makes `calls` calls, `callers` of them concurrently.
async fn each<W: Future<Output = Result<(), StoreError>>>(
    graph: &Arc<PostgresIdentities>,
    name: &str,
    callers: usize,
    calls: usize,
    call: impl Fn(Arc<PostgresIdentities>, usize) -> W,
) -> Result<(), StoreError> {
    let start = Instant::now();
    let call = &call;
    let working = (0..callers).map(|caller| async move {
        for number in (caller..calls).step_by(callers) {
            call(Arc::clone(graph), number).await?;
        }
        Ok::<(), StoreError>(())
    });
    try_join_all(working).await?;
    rate(name, calls, start);
    Ok(())
}

fn rate(name: &str, done: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    println!("  {name}: {:.0} a second", done as f64 / seconds);
}
