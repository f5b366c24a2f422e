//! Servers that are down for a while.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use event::Timestamp;
use integration_tests::{eventually, scaled::System};
use serde_json::json;
use synth::delivery::{Account, Action, Kind};

use crate::load::{Clicks, Load, PEOPLE, account};

/// How long a server is down: several times as long as any timeout of the engines.
const AWAY: Duration = Duration::from_secs(20);

/// How long Redis is slow at a time: three times as long as a decision waits for it, and a sixth of what the consumer does.
const PAUSE: Duration = Duration::from_millis(300);

/// How often Redis is slow: so often that some batch of clicks meets it.
const PAUSES: usize = 10;

/// Clicks before and after an outage.
const CLICKS: usize = 100;

/// The most additional memory, in kB, that a consumer may use during an outage, however many clicks wait on the bus: what it
/// reads ahead is bounded. Its four batches and what both groups fetch come to 155 MB, no more after 75,000 clicks than after
/// 40,000.
const MEMORY_KB: u64 = 200_000;

/// The smallest `kafka.queue_bytes` that can be configured.
const QUEUE_BYTES: u64 = 1024 * 1024;

/// Clicks of a delivery whose events take more than [`QUEUE_BYTES`] on the bus, at some 600 bytes each.
const MORE_THAN_THE_QUEUE: usize = 2_500;

/// The series of the consumer's lag.
const LAG: &str = "sendflowr_consumer_lag_records{group=\"sendflowr-events\"}";

async fn system() -> (Arc<System>, Clicks) {
    let account = account();
    let system = Arc::new(System::start(std::slice::from_ref(&account)).await);
    let clicks = Clicks::new(account, &system.servers);
    (system, clicks)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn nothing_acknowledged_is_lost_while_kafka_is_away() {
    let (system, clicks) = system().await;
    let consumer = system.consumer().await;
    let load = Load::start(&system, &clicks, 0);
    load.until_more(CLICKS).await;
    system.servers.stop("kafka");
    system.until_ready(&system.host, "not_ready").await;
    tokio::time::sleep(AWAY).await;
    system.servers.start("kafka");
    // It recovers by itself: nothing is restarted.
    load.until_more(CLICKS).await;
    let outcome = load.end().await;
    assert!(!outcome.refused.is_empty(), "the outage was not noticed");
    for answer in &outcome.refused {
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert!(answer.retry_after.is_some(), "{}", answer.text);
    }
    clicks.until_stored(&system.servers, &outcome.acknowledged).await;
    system.until_ready(&system.host, "ready").await;
    system.until_committed(&consumer).await;
    drop(consumer);
    Arc::into_inner(system).unwrap().clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_full_queue_turns_deliveries_away_before_memory_grows() {
    let account = Account::generate("sendgrid", "").unwrap();
    let queue = format!("queue_bytes = {QUEUE_BYTES}");
    let system = Arc::new(System::start_with(std::slice::from_ref(&account), &queue).await);
    let deliver = |clicks: usize, first: usize| {
        let system = Arc::clone(&system);
        let now = Timestamp::from(SystemTime::now());
        let clicks: Vec<Action> = (first..first + clicks)
            .map(|number| Action {
                kind: Kind::Clicked,
                at: now,
                email: format!("queue-{}@example.com", system.servers.mark),
                message: format!("queue-{}-{number}", system.servers.mark),
            })
            .collect();
        let deliveries = account.deliver(&clicks, now);
        async move { system.deliver("sendgrid", &deliveries[0]).await }
    };
    let metric = async |series: &str| system.metric(&system.host, series).await.unwrap_or_default();
    let queued = "sendflowr_kafka_queued_bytes ";
    let turned_away = "sendflowr_kafka_failed_appends_total{reason=\"queue_full\"} ";

    system.servers.stop("kafka");
    let first = tokio::spawn(deliver(MORE_THAN_THE_QUEUE, 0));
    eventually("the queue is full", async || {
        metric(queued).await == QUEUE_BYTES as f64
    })
    .await;
    assert_eq!(metric(turned_away).await, 0.0);
    let second = deliver(1, MORE_THAN_THE_QUEUE).await;
    // Not because Kafka did not answer in time, which is what becomes of the first.
    assert_eq!(metric(turned_away).await, 1.0);
    for answer in [second, first.await.unwrap()] {
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert_eq!(answer.body["error"]["code"], "bus_unavailable", "{}", answer.text);
        assert!(answer.retry_after.is_some(), "{}", answer.text);
    }

    // The provider sends both again.
    system.servers.start("kafka");
    system.until_ready(&system.host, "ready").await;
    for (clicks, first) in [(MORE_THAN_THE_QUEUE, 0), (1, MORE_THAN_THE_QUEUE)] {
        let answer = deliver(clicks, first).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let consumer = system.consumer().await;
    let clickhouse = system.servers.clickhouse();
    eventually("every click is stored once", async || {
        let query = "SELECT count() FROM email_events FINAL";
        let rows: u64 = clickhouse.query(query).fetch_one().await.unwrap();
        rows == MORE_THAN_THE_QUEUE as u64 + 1
    })
    .await;
    system.until_committed(&consumer).await;
    drop((consumer, deliver));
    Arc::into_inner(system).unwrap().clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn the_consumer_waits_while_clickhouse_is_away() {
    let (system, clicks) = system().await;
    let consumer = system.consumer().await;
    let load = Load::start(&system, &clicks, 0);
    load.until_more(CLICKS).await;
    let before = consumer.resident_kb();
    system.servers.stop("clickhouse");
    system.until_ready(&consumer, "not_ready").await;
    tokio::time::sleep(AWAY).await;
    eventually("the lag grows", async || {
        system.metric(&consumer, LAG).await.unwrap_or_default() >= CLICKS as f64
    })
    .await;
    let grown = consumer.resident_kb().saturating_sub(before);
    assert!(grown < MEMORY_KB, "the consumer grew by {grown} kB");
    system.servers.start("clickhouse");
    load.until_more(CLICKS).await;
    let outcome = load.end().await;
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused[0]);
    clicks.until_stored(&system.servers, &outcome.acknowledged).await;
    system.until_ready(&consumer, "ready").await;
    system.until_committed(&consumer).await;
    drop(consumer);
    Arc::into_inner(system).unwrap().clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn ingestion_and_decisions_go_on_while_redis_and_postgres_are_away() {
    let (system, clicks) = system().await;
    let consumer = system.consumer().await;
    let load = Load::start(&system, &clicks, 0);
    load.until_more(CLICKS).await;
    let question = json!({ "email": clicks.email(0), "window_hours": 24 });
    eventually("decisions know the person", async || {
        let decision = system.ask("/timing/decide", &question).await;
        decision.body["evidence"]["n"].as_f64().unwrap_or_default() >= 1.0
    })
    .await;
    system.servers.stop("redis");
    system.servers.stop("postgres");
    for role in [&system.inference, &consumer] {
        system.until_ready(role, "degraded").await;
    }
    load.until_more(CLICKS).await;
    // Otherwise the graph learns of nobody new: everybody who clicks has clicked before.
    let (newcomer, answer) = clicks.send_newcomer(&system).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    tokio::time::sleep(AWAY).await;
    let decision = system.ask("/timing/decide", &question).await;
    assert_eq!(decision.status, 200, "{}", decision.text);
    let evidence = &decision.body["evidence"];
    assert!(
        evidence["n"].as_f64().unwrap_or_default() >= 1.0,
        "{}",
        decision.text
    );
    system.servers.start("redis");
    system.servers.start("postgres");
    for role in [&system.inference, &consumer] {
        system.until_ready(role, "ready").await;
    }
    let outcome = load.end().await;
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused[0]);
    eventually("the graph has caught up", || async {
        let person = system
            .ask("/resolve-identity", &json!({ "email": newcomer }))
            .await;
        person.body["known"] == true
    })
    .await;
    clicks.until_stored(&system.servers, &outcome.acknowledged).await;
    system.until_committed(&consumer).await;
    drop(consumer);
    Arc::into_inner(system).unwrap().clean().await;
}

/// What a busy machine does to Redis's answers. A decision had better not wait for them; but if the consumer gave up, it would
/// read the histories of everybody in a batch, and make the machine busier.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn the_consumer_waits_for_a_redis_that_is_slow() {
    let (system, clicks) = system().await;
    let consumer = system.consumer().await;
    let load = Load::start(&system, &clicks, 0);
    load.until_more(CLICKS).await;
    let question = json!({ "email": clicks.email(0) });
    let mut sources = BTreeSet::new();
    for _ in 0..PAUSES {
        system.servers.pause_redis(PAUSE).await;
        let decision = system.ask("/timing/decide", &question).await;
        let source = decision.body["evidence"]["profile_source"].as_str();
        sources.insert(source.unwrap_or_default().to_owned());
        tokio::time::sleep(2 * PAUSE).await;
    }
    load.until_more(CLICKS).await;
    let outcome = load.end().await;
    clicks.until_stored(&system.servers, &outcome.acknowledged).await;
    system.until_committed(&consumer).await;
    assert!(
        sources.contains("history_profiles_unreachable"),
        "nobody noticed that Redis was slow: {sources:?}"
    );
    let failures = system
        .metric(&consumer, "sendflowr_consumer_profile_failures_total ")
        .await;
    assert_eq!(failures, Some(0.0));
    drop(consumer);
    Arc::into_inner(system).unwrap().clean().await;
}

/// Redis answers the decision service as ever, but the profiles in it lack what happens meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn decisions_do_not_use_profiles_that_the_consumer_cannot_write() {
    let (system, clicks) = system().await;
    let user = format!("consumer-{}", system.servers.mark);
    system
        .servers
        .redis(&format!("ACL SETUSER {user} on >secret ~* &* +@all"))
        .await;
    let consumer = system.consumer_as(&user, "secret").await;
    let question = json!({ "email": clicks.email(0) });
    let evidence = async || system.ask("/timing/decide", &question).await.body["evidence"].clone();
    clicks.send(&system, 0).await;
    eventually("the profile is stored", async || {
        let evidence = evidence().await;
        evidence["profile_source"] == "stored" && evidence["n"] == 1
    })
    .await;
    system
        .servers
        .redis(&format!("ACL SETUSER {user} -@write -@scripting"))
        .await;
    clicks.send(&system, PEOPLE).await;
    eventually("the second click counts", async || {
        let evidence = evidence().await;
        evidence["profile_source"] == "history_profiles_doubted" && evidence["n"] == 2
    })
    .await;
    let ready = system.get(&system.inference, "/ready").await;
    assert_eq!(ready.body["status"], "ready", "{}", ready.text);

    system.servers.redis(&format!("ACL SETUSER {user} +@all")).await;
    eventually("profiles are believed again", async || {
        let evidence = evidence().await;
        evidence["profile_source"] == "stored" && evidence["n"] == 2
    })
    .await;
    system.until_committed(&consumer).await;
    drop(consumer);
    Arc::into_inner(system).unwrap().clean().await;
}
