//! Tests of the event store on ClickHouse.

mod proxy;
mod world;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use event::settings::Secret;
use event::{EventType, Timestamp};
use futures::future::join_all;
use sendflowr_store::{
    StoreError, conformance,
    events::{
        ClickHouseConfig, ClickHouseEvents, Events, RawClickHouseConfig, StoredExplanation, WriteReport,
    },
    testing::stored_events,
};
use tokio::net::TcpListener;

use self::{
    proxy::Proxy,
    world::{Database, deliveries, event, person},
};
use crate::gate::Gate;

/// The server looks for merges every few seconds, and less often after it found none.
const MERGE_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn conformance_with_compression() {
    let database = Database::new();
    conformance::events(Arc::new(database.open().await)).await;
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn conformance_without_compression() {
    let database = Database::new();
    let raw = RawClickHouseConfig {
        compression: false,
        ..database.settings()
    };
    conformance::events(Arc::new(connect(raw).await.unwrap())).await;
}

async fn connect(raw: RawClickHouseConfig) -> Result<ClickHouseEvents, StoreError> {
    ClickHouseEvents::connect(ClickHouseConfig::try_from(raw).unwrap()).await
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_batch_written_again_changes_no_count() {
    let database = Database::new();
    let store = database.open().await;
    let batch = deliveries(1_000, 50);
    store.write(&batch).await.unwrap();
    assert_eq!(stored_events(&store).await.unwrap(), 1_000);
    let samples = store.latency_samples(Timestamp::default(), 10_000).await.unwrap();
    let history = store
        .history(&[person(7)], Timestamp::default(), 100)
        .await
        .unwrap();

    // As a whole, in other slices, by several writers at once, and read differently by a newer plugin.
    let mut newer = batch.clone();
    for stored in &mut newer {
        stored.event.plugin = "sendgrid@2.0.0".into();
    }
    let again = [
        &batch[..],
        &batch[..300],
        &batch[200..],
        &newer[..],
        &newer[500..600],
    ];
    for outcome in join_all(again.map(|slice| store.write(slice))).await {
        outcome.unwrap();
    }
    for merged in [false, true] {
        if merged {
            database.run("OPTIMIZE TABLE email_events FINAL").await;
        }
        assert_eq!(stored_events(&store).await.unwrap(), 1_000, "merged: {merged}");
        assert_eq!(
            store.latency_samples(Timestamp::default(), 10_000).await.unwrap(),
            samples,
            "merged: {merged}"
        );
        assert_eq!(
            store
                .history(&[person(7)], Timestamp::default(), 100)
                .await
                .unwrap(),
            history,
            "the first form stays, merged: {merged}"
        );
    }
    assert_eq!(database.number("SELECT count() FROM email_events").await, 1_000);
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn erased_rows_leave_the_disk_when_their_masks_are_applied() {
    let database = Database::new();
    let store = database.open().await;
    let mut batch = deliveries(200, 20);
    for number in 0..20 {
        batch.push(event(
            number,
            EventType::Sent,
            "2026-03-01T00:00:00Z".parse().unwrap(),
        ));
    }
    store.write(&batch).await.unwrap();
    let on_disk = async |table: &str| {
        let rows = format!(
            "SELECT sum(rows) FROM system.parts WHERE database = currentDatabase() AND active AND table = '{table}'"
        );
        database.number(&rows).await
    };
    let tables = [
        ("email_events", 220, 11),
        ("message_sent_times", 20, 1),
        ("known_people", 20, 1),
    ];
    // One row per person, however often it was written.
    database.run("OPTIMIZE TABLE known_people FINAL").await;
    let erased = store.erase(&[person(7)]).await.unwrap();
    assert_eq!(erased.events, 11);
    for (table, rows, _) in tables {
        assert_eq!(on_disk(table).await, rows, "`{table}` is masked, not rewritten");
    }
    let page = include_str!("../../../docs/deployment.md");
    let mut applied = 0;
    for line in page.lines().filter(|line| line.ends_with("APPLY DELETED MASK;")) {
        let statement = line.trim().trim_end_matches(';').replace("sendflowr.", "");
        database
            .run(&format!("{statement} SETTINGS mutations_sync = 2"))
            .await;
        applied += 1;
    }
    assert_eq!(applied, 4, "one for each table that holds people");
    for (table, rows, gone) in tables {
        assert_eq!(on_disk(table).await, rows - gone, "{table}");
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_batch_written_again_reaches_the_views_too() {
    let database = Database::new();
    let store = database.open().await;
    // As replicated tables do by default.
    database
        .run("ALTER TABLE email_events MODIFY SETTING non_replicated_deduplication_window = 100")
        .await;
    let batch = [event(1, EventType::Sent, "2026-03-01T00:00:00Z".parse().unwrap())];
    let message = batch[0].event.message_id.clone().unwrap();
    let messages = [(batch[0].event.universal_id.clone(), message)];
    store.write(&batch).await.unwrap();
    // The server died between the table and its view, and the writer got no response.
    database.run("TRUNCATE TABLE message_sent_times").await;
    database.run("TRUNCATE TABLE known_people").await;
    let person = std::slice::from_ref(&messages[0].0);
    assert_eq!(store.sent_times(&messages).await.unwrap(), [None]);
    assert_eq!(store.known(person).await.unwrap(), [false]);
    store.write(&batch).await.unwrap();
    assert_eq!(store.known(person).await.unwrap(), [true]);
    assert_eq!(
        store.sent_times(&messages).await.unwrap(),
        [Some(batch[0].event.timestamp)]
    );
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn an_event_stored_in_the_middle_of_an_erasure_keeps_its_person_known() {
    let database = Database::new();
    let store = database.open().await;
    let start: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    store.write(&[event(1, EventType::Sent, start)]).await.unwrap();
    // The events are gone, and the keys of who has any are not.
    let proxy = Proxy::holding(&database, "DELETE FROM known_people").await;
    let erasing = connect(proxy.settings(&database)).await.unwrap();
    let erased = tokio::spawn(async move { erasing.erase(&[person(1)]).await });
    proxy.reached().await;
    let unsubscribed = [event(1, EventType::Unsubscribed, start)];
    store.write(&unsubscribed).await.unwrap();
    proxy.release();
    erased.await.unwrap().unwrap();
    let history = store.history(&[person(1)], Timestamp::default(), 10).await;
    assert_eq!(history.unwrap(), unsubscribed);
    assert_eq!(store.known(&[person(1)]).await.unwrap(), [true]);
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn many_may_open_a_missing_database_at_once_and_again() {
    let database = Database::new();
    for _ in 0..2 {
        let opened = join_all((0..8).map(|_| connect(database.settings()))).await;
        for store in opened {
            let store = store.unwrap();
            store.ping().await.unwrap();
        }
    }
    let steps = database
        .number("SELECT count() FROM schema_migrations FINAL")
        .await;
    assert_eq!(
        steps,
        database
            .number("SELECT max(version) FROM schema_migrations")
            .await
    );
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn an_older_database_learns_who_has_events() {
    let database = Database::new();
    let store = database.open().await;
    let batch = [event(1, EventType::Sent, "2026-03-01T00:00:00Z".parse().unwrap())];
    store.write(&batch).await.unwrap();
    // As left by a build from before this step.
    for statement in [
        "DROP TABLE known_people_writer",
        "DROP TABLE known_people",
        "ALTER TABLE schema_migrations DELETE WHERE version = 6 SETTINGS mutations_sync = 1",
    ] {
        database.run(statement).await;
    }
    let store = database.open().await;
    let person = std::slice::from_ref(&batch[0].event.universal_id);
    assert_eq!(store.known(person).await.unwrap(), [true]);
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn what_offsets_depend_on_is_flushed_in_new_and_older_databases() {
    let database = Database::new();
    database.open().await;
    let flushed = "SELECT name FROM system.tables WHERE database = currentDatabase() \
                   AND engine_full LIKE '%fsync_after_insert = 1, fsync_part_directory = 1%' ORDER BY name";
    let tables = [
        "email_events",
        "known_people",
        "message_sent_times",
        "profile_doubts",
    ];
    assert_eq!(database.lines(flushed).await, tables);
    // As left by a build from before this step.
    for table in tables {
        database
            .run(&format!(
                "ALTER TABLE {table} RESET SETTING fsync_after_insert, fsync_part_directory"
            ))
            .await;
    }
    assert_eq!(database.lines(flushed).await, [""; 0]);
    database
        .run("ALTER TABLE schema_migrations DELETE WHERE version = 10 SETTINGS mutations_sync = 1")
        .await;
    database.open().await;
    assert_eq!(database.lines(flushed).await, tables);
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn what_is_configured_wrongly_is_named_within_ten_seconds() {
    let database = Database::new();
    let right = database.settings();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let wrong = [
        (
            "`clickhouse.password`",
            RawClickHouseConfig {
                password: Secret::new("wrong-one"),
                ..right.clone()
            },
        ),
        (
            "`clickhouse.user`",
            RawClickHouseConfig {
                user: "nobody".into(),
                ..right.clone()
            },
        ),
        (
            "`clickhouse.port`",
            RawClickHouseConfig {
                port: Some(closed),
                ..right.clone()
            },
        ),
        (
            "`clickhouse.port`",
            RawClickHouseConfig {
                port: Some(silent.local_addr().unwrap().port()),
                ..right.clone()
            },
        ),
        (
            "`clickhouse.secure`",
            RawClickHouseConfig {
                secure: true,
                port: right.port,
                ..right.clone()
            },
        ),
        (
            "`clickhouse.host`",
            RawClickHouseConfig {
                host: Some("no-such-host.invalid".into()),
                ..right
            },
        ),
    ];
    for (setting, raw) in wrong {
        let started = Instant::now();
        let error = connect(raw).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(10), "{setting}");
        assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
        let told = error.to_string();
        assert!(told.contains(setting), "{told}");
        assert!(!told.contains("wrong-one"), "{told}");
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_history_reads_one_persons_granules() {
    let database = Database::new();
    let proxy = Proxy::to(&database).await;
    let store = connect(proxy.settings(&database)).await.unwrap();
    // A hundred granules of one month.
    for batch in deliveries(102_400, 2_048).chunks(25_600) {
        store.write(batch).await.unwrap();
    }
    database.run("OPTIMIZE TABLE email_events FINAL").await;
    let history = store
        .history(&[person(77)], Timestamp::default(), 1_000)
        .await
        .unwrap();
    assert_eq!(history.len(), 50);
    reads_few_granules(&database, &proxy.last_query()).await;
    let profiles = store
        .profiles(&[person(78)], Timestamp::default(), 1_000)
        .await
        .unwrap();
    assert!(!profiles[0].is_empty());
    reads_few_granules(&database, &proxy.last_query()).await;
}

async fn reads_few_granules(database: &Database, query: &str) {
    let plan = database.lines(&format!("EXPLAIN indexes = 1 {query}")).await;
    let granules: Vec<&str> = plan
        .iter()
        .filter_map(|line| line.trim().strip_prefix("Granules: "))
        .collect();
    let (read, of) = granules.last().unwrap().split_once('/').unwrap();
    assert!(plan.iter().any(|line| line.contains("PrimaryKey")), "{plan:#?}");
    assert!(read.parse::<u32>().unwrap() <= 2, "{plan:#?}");
    assert!(of.parse::<u32>().unwrap() >= 100, "{plan:#?}");
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn an_event_that_cannot_be_read_keeps_no_profile_from_being_built() {
    let database = Database::new();
    let store = database.open().await;
    let start: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let good = [
        event(1, EventType::Unsubscribed, start),
        event(2, EventType::Clicked, start),
    ];
    store.write(&good).await.unwrap();
    let people = [person(1), person(2)];
    let built = async |limit: usize| {
        store
            .profiles(&people, Timestamp::default(), limit)
            .await
            .unwrap()
    };
    let expected = built(10).await;

    for (event_id, wrong) in [
        ("bad-1", "'open' AS event_type"),
        ("bad-2", "'bounced' AS event_type, '' AS bounce_type"),
    ] {
        let row = format!("'{event_id}' AS event_id, timestamp + toIntervalDay(1) AS timestamp, {wrong}");
        database
            .run(&format!(
                "INSERT INTO email_events SELECT * REPLACE ({row}) FROM email_events WHERE universal_id = '{}' LIMIT 1",
                people[0].as_str()
            ))
            .await;
    }
    assert_eq!(built(10).await, expected);
    assert_eq!(built(1).await, expected, "they count among the newest");
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_month_that_is_over_becomes_one_part() {
    let database = Database::new();
    let store = database.open().await;
    // So different in size that the server would not merge them for weeks.
    let batch = deliveries(20_481, 2_048);
    store.write(&batch[..20_480]).await.unwrap();
    store.write(&batch[20_480..]).await.unwrap();
    let parts = "SELECT count() FROM system.parts WHERE active AND database = currentDatabase() AND table = 'email_events'";
    assert_eq!(database.number(parts).await, 2);
    let day = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'email_events' \
               AND engine_full LIKE '%min_age_to_force_merge_seconds = 86400%'";
    assert_eq!(database.number(day).await, 1);

    // A day has passed.
    database
        .run("ALTER TABLE email_events MODIFY SETTING min_age_to_force_merge_seconds = 1")
        .await;
    let began = Instant::now();
    while database.number(parts).await > 1 {
        assert!(began.elapsed() < MERGE_WITHIN, "the month was not merged");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_refused_event_can_be_found_by_halving() {
    let database = Database::new();
    let store = database.open().await;
    database
        .run("ALTER TABLE email_events ADD CONSTRAINT no_poison CHECK esp != 'poison'")
        .await;
    let mut batch = deliveries(8, 8);
    batch[5].event.esp = "poison".into();
    let refused = |outcome: Result<WriteReport, StoreError>| {
        let error = outcome.unwrap_err();
        assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
    };
    refused(store.write(&batch).await);
    assert_eq!(
        stored_events(&store).await.unwrap(),
        0,
        "nothing of a refused batch is stored"
    );
    store.write(&batch[..4]).await.unwrap();
    refused(store.write(&batch[4..]).await);
    refused(store.write(&batch[5..6]).await);
    store.write(&batch[6..]).await.unwrap();
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn an_outage_is_told_as_one_and_ends() {
    let database = Database::new();
    let (host, port) = database.place();
    let gate = Gate::to(host, port).await;
    let raw = RawClickHouseConfig {
        host: Some("127.0.0.1".into()),
        port: Some(gate.port()),
        request_timeout_seconds: 1,
        ..database.settings()
    };
    let store = connect(raw).await.unwrap();
    let batch = deliveries(10, 2);
    store.write(&batch).await.unwrap();
    for close in [Gate::break_all, Gate::silence] {
        close(&gate);
        let error = store.write(&batch).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        let error = store.ping().await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        gate.open();
        store.write(&batch).await.unwrap();
        store.ping().await.unwrap();
    }
    assert_eq!(stored_events(&store).await.unwrap(), 10);
    database.run("DROP TABLE email_events").await;
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_batch_may_span_any_time() {
    let database = Database::new();
    let store = database.open().await;
    let mut batch = deliveries(200, 1);
    for (month, stored) in batch.iter_mut().enumerate() {
        stored.event.timestamp = Timestamp::from_millis_clamped(month as i64 * 31 * 86_400_000);
    }
    batch[199].event.timestamp = Timestamp::from_millis_clamped(i64::MAX);
    store.write(&batch).await.unwrap();
    let history = store
        .history(&[person(0)], Timestamp::default(), 1_000)
        .await
        .unwrap();
    assert_eq!(history, batch);
    let since = batch[150].event.timestamp;
    let history = store.history(&[person(0)], since, 1_000).await.unwrap();
    assert_eq!(history, batch[150..]);
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn old_events_end_when_an_age_is_set() {
    let database = Database::new();
    let now = Timestamp::from(SystemTime::now());
    let aged = |days| RawClickHouseConfig {
        ttl_days: days,
        ..database.settings()
    };
    let store = connect(aged(Some(30))).await.unwrap();
    store.retain().await.unwrap();
    let days_ago = |days: i64| now.plus_millis(-days * 86_400_000);
    let batch = [
        event(1, EventType::Opened, days_ago(31)),
        event(1, EventType::Opened, days_ago(1)),
    ];
    store.write(&batch).await.unwrap();
    database.run("OPTIMIZE TABLE email_events FINAL").await;
    let history = store
        .history(&[person(1)], Timestamp::default(), 10)
        .await
        .unwrap();
    assert_eq!(history, batch[1..]);

    // A decision may be asked for any moment: its explanation ages from when it is stored.
    let explanations =
        [days_ago(100), now, "2150-01-01T00:00:00Z".parse().unwrap()].map(|decided_at| StoredExplanation {
            reference: format!("decided at {decided_at}"),
            universal_id: person(1),
            decided_at,
            body: "{}".into(),
            trial: None,
            forecast: None,
        });
    let saved: Vec<&StoredExplanation> = explanations.iter().collect();
    store.save_explanations(&saved).await.unwrap();
    database.run("OPTIMIZE TABLE timing_explanations FINAL").await;
    for explanation in &explanations {
        let found = store.explanation(&explanation.reference).await.unwrap();
        assert_eq!(found.as_ref(), Some(explanation));
    }
    let stored_now = "SELECT count() FROM timing_explanations \
                      WHERE abs(dateDiff('minute', toDateTime(intDiv(bitNot(version), 1000)), now())) <= 5";
    assert_eq!(database.number(stored_now).await, 3);

    let ages =
        "SELECT count() FROM system.tables WHERE database = currentDatabase() AND engine_full LIKE '%TTL%'";
    assert_eq!(database.number(ages).await, 3);
    let after = async |days: u64| {
        let of_days = format!("{ages} AND engine_full LIKE '%toIntervalDay({days})%'");
        database.number(&of_days).await
    };
    let other = connect(aged(Some(60))).await.unwrap();
    assert_eq!(after(30).await, 3, "only opening the store changes nothing");
    other.retain().await.unwrap();
    assert_eq!(after(60).await, 3);
    // The maximum allowed. What is stored stays.
    connect(aged(Some(7_300))).await.unwrap().retain().await.unwrap();
    assert_eq!((after(7_300).await, after(90).await), (2, 1));
    database.run("OPTIMIZE TABLE email_events FINAL").await;
    assert_eq!(database.number("SELECT count() FROM email_events").await, 1);
    connect(aged(None)).await.unwrap().retain().await.unwrap();
    assert_eq!((database.number(ages).await, after(90).await), (1, 1));
}
