//! From the bus to the stores, with everything working.

use std::{sync::atomic::Ordering, time::Duration};

use consumer::{ConsumerConfig, EVENTS_GROUP};
use event::{
    Event,
    EventType::{self, Clicked, Delivered, Opened, Sent},
};
use store::{bus::header, testing::eventually};

use crate::world::{World, deliveries, event, ids, person, profile_of};

#[tokio::test(start_paused = true)]
async fn events_are_enriched_stored_and_felt_in_profiles() {
    let world = World::default();
    let mut tool = event("ann", Clicked, "m1", 60);
    tool.user_agent = Some("curl/8.5.0".into());
    let events = [
        event("ann", Sent, "m1", 0),
        event("ann", Delivered, "m1", 7),
        tool,
        event("ann", Clicked, "m1", 600),
    ];
    world.bus.put_events(&events);
    let running = world.start();
    world.caught_up().await;

    let rows = world.events.rows();
    assert_eq!(world.events.ids(), ids(&events));
    let latencies: Vec<_> = rows
        .iter()
        .map(|row| row.enrichment.delivery_latency_ms)
        .collect();
    assert_eq!(latencies, [None, Some(7_000), None, None]);
    assert_eq!(
        rows[2].enrichment.machine_reasons,
        ["click_within_60s:1", "tool_agent:7"]
    );
    assert!(rows[2].enrichment.machine && !rows[3].enrichment.machine);
    let history = world.profiles.of(&person("ann")).history(events[3].timestamp);
    assert_eq!(history.mails.len(), 1);
    assert_eq!(history.mails[0].clicked_at, Some(events[3].timestamp));

    assert_eq!(
        running.metric("sendflowr_consumer_events_total{outcome=\"stored\"}"),
        4.0
    );
    let judged = |verdict| {
        format!("sendflowr_consumer_verdicts_total{{event_type=\"clicked\",verdict=\"{verdict}\"}}")
    };
    assert_eq!(
        (
            running.metric(&judged("machine")),
            running.metric(&judged("human"))
        ),
        (1.0, 1.0)
    );
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn latency_comes_from_memory_then_the_metadata_then_the_store() {
    let world = World::default();
    world.bus.put_events(&[
        event("ann", Sent, "stored", 0),
        event("ann", Sent, "wrong-clock", 500),
        event("ann", Sent, "both", 0),
    ]);
    let running = world.start();
    world.caught_up().await;
    running.stop().await.unwrap();

    // Another process, which does not remember the sent events.
    let mut told = event("ann", Delivered, "told", 30);
    told.metadata.insert("latency_seconds".into(), "2.5".into());
    let mut nonsense = event("ann", Delivered, "nonsense", 30);
    nonsense.metadata.insert("latency_seconds".into(), "-1".into());
    let mut wrong_clock = event("ann", Delivered, "wrong-clock", 100);
    wrong_clock.metadata.insert("latency_seconds".into(), "3".into());
    let late = event("ann", Delivered, "stored", 8 * 24 * 3_600);
    // The store would say nine seconds, but is not queried.
    let mut both = event("ann", Delivered, "both", 9);
    both.metadata.insert("latency_seconds".into(), "4".into());
    world.bus.put_events(&[
        event("ann", Delivered, "stored", 9),
        told,
        nonsense,
        wrong_clock,
        late,
        both,
    ]);
    let running = world.start();
    world.caught_up().await;
    let rows = world.events.rows();
    let latencies: Vec<_> = rows[3..]
        .iter()
        .map(|row| row.enrichment.delivery_latency_ms)
        .collect();
    assert_eq!(
        latencies,
        [Some(9_000), Some(2_500), None, Some(3_000), None, Some(4_000)]
    );
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_small_memory_knows_what_is_in_the_batch() {
    let world = World::default();
    let mut events = Vec::new();
    for event_type in [Sent, Delivered, Clicked] {
        for n in 0..1_500 {
            let seconds = if event_type == Sent { 0 } else { 2 };
            events.push(event(&format!("p{n}"), event_type, "m1", seconds));
        }
    }
    world.bus.put_events(&events);
    let running = world.start_with(ConsumerConfig {
        memory_entries: 1_000,
        ..ConsumerConfig::default()
    });
    world.caught_up().await;
    assert_eq!(world.events.writes.load(Ordering::SeqCst), 1);
    let rows = world.events.rows();
    let delays = rows[1_500..3_000]
        .iter()
        .filter(|row| row.enrichment.delivery_latency_ms == Some(2_000));
    let machines = rows[3_000..].iter().filter(|row| row.enrichment.machine);
    assert_eq!((delays.count(), machines.count()), (1_500, 1_500));
    running.stop().await.unwrap();
}

/// While the event store takes nothing, four batches are in flight, and nothing of them can be looked up in it.
#[tokio::test(start_paused = true)]
async fn a_small_memory_knows_what_is_in_flight() {
    let world = World::default();
    world.events.cannot_tell_duplicates.on();
    world.events.too_much.store(1, Ordering::SeqCst);
    let of = |people: std::ops::Range<usize>, event_type: EventType, seconds: i64| {
        let events = people.map(|n| event(&format!("p{n}"), event_type, "m1", seconds));
        events.collect::<Vec<Event>>()
    };
    let batches = [
        of(0..1_000, Sent, 0),
        of(1_000..2_000, Sent, 0),
        of(2_000..3_000, Sent, 0),
        of(0..500, Delivered, 2),
        of(0..500, Sent, 0),
    ];
    world.bus.put_events(&batches.concat());
    let running = world.start_with(ConsumerConfig {
        memory_entries: 1_000,
        batch_events: 1_000,
        ..ConsumerConfig::default()
    });
    eventually("all are read", async || {
        world.bus.handed_out.load(Ordering::SeqCst) == 4_000
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.events.too_much.store(0, Ordering::SeqCst);
    world.caught_up().await;
    let rows = world.events.rows();
    let delays = rows
        .iter()
        .filter(|row| row.enrichment.delivery_latency_ms == Some(2_000));
    assert_eq!((rows.len(), delays.count()), (3_500, 500));
    let repeats = running.metric("sendflowr_consumer_events_total{outcome=\"duplicate\"}");
    assert_eq!(repeats, 500.0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lone_event_does_not_wait_for_others() {
    let world = World::default();
    let running = world.start();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let start = tokio::time::Instant::now();
    world.bus.put_events(&[event("ann", Opened, "m1", 0)]);
    eventually("the profile knows it", async || {
        world.profiles.of(&person("ann")).counts().opens == 1
    })
    .await;
    assert!(
        start.elapsed() < Duration::from_millis(300),
        "{:?}",
        start.elapsed()
    );
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn events_that_keep_coming_share_writes() {
    let world = World::default();
    let running = world.start();
    for delivery in deliveries(100, 30) {
        world.bus.put_events(&[delivery]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.caught_up().await;
    // Five seconds of events; a batch takes the fifteen events of 0.7 s.
    assert_eq!(world.events.writes.load(Ordering::SeqCst), 7);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn large_events_make_small_batches() {
    let world = World::default();
    let running = world.start();
    for mut delivery in deliveries(10, 10) {
        delivery.reason = Some("x".repeat(5 * 1024 * 1024));
        world.bus.put_events(&[delivery]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.caught_up().await;
    // All came within the time of one batch; seven of them have 32 MiB.
    assert_eq!(world.events.writes.load(Ordering::SeqCst), 2);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn batches_are_as_large_as_allowed() {
    let world = World::default();
    world.bus.put_events(&deliveries(1_050, 30));
    let running = world.start_with(ConsumerConfig {
        batch_events: 250,
        ..ConsumerConfig::default()
    });
    world.caught_up().await;
    assert_eq!(world.events.writes.load(Ordering::SeqCst), 5);
    assert_eq!(running.metric("sendflowr_consumer_batch_events_count"), 5.0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn repeats_change_nothing() {
    let world = World::default();
    let events = deliveries(40, 3);
    world.bus.put_events(&events);
    world.bus.put_events(&events);
    let running = world.start();
    world.caught_up().await;
    world.bus.put_events(&events);
    world.caught_up().await;
    assert_eq!(world.events.ids(), ids(&events));
    assert_eq!(
        running.metric("sendflowr_consumer_events_total{outcome=\"stored\"}"),
        40.0
    );
    let writes = world.events.writes.load(Ordering::SeqCst);
    assert_eq!(writes, 1, "recently stored events are not written again");
    assert_eq!(
        running.metric("sendflowr_consumer_events_total{outcome=\"duplicate\"}"),
        80.0
    );
    let rows = world.events.rows();
    for name in ["p0", "p1", "p2"] {
        assert_eq!(world.profiles.of(&person(name)), profile_of(&rows, &person(name)));
    }
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_set_aside_and_holds_up_nothing() {
    let world = World::default();
    let events = deliveries(2, 1);
    let mut newer: serde_json::Value = serde_json::from_slice(&events[0].to_json()).unwrap();
    newer["schema_version"] = 9.into();
    world.bus.put(events[0].to_json());
    world.bus.put(b"ann@example.com is no event".to_vec());
    world.bus.put(newer.to_string().into_bytes());
    world.bus.put(events[1].to_json());
    let running = world.start();
    world.caught_up().await;

    assert_eq!(world.events.ids(), ids(&events));
    let letters = world.bus.dead_letters();
    let headers = |name: &str| {
        letters
            .iter()
            .map(|letter| letter.headers[name].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(headers(header::CAUSE), ["undecodable", "schema_too_new"]);
    assert_eq!(headers(header::SOURCE), ["email-events/0/1", "email-events/0/2"]);
    assert_eq!(headers(header::STAGE), ["consumer", "consumer"]);
    assert_eq!(
        headers("trace"),
        ["t1", "t1"],
        "the record's own headers travel along"
    );
    assert_eq!(
        headers(header::MESSAGE),
        [
            "the record is not json at line 1 column 1",
            "event has schema version 9, this build reads up to 1: upgrade the reader",
        ]
    );
    assert_eq!(
        letters[1].value,
        newer.to_string().into_bytes(),
        "to be put back after the upgrade"
    );
    assert_eq!(
        running.metric("sendflowr_consumer_dead_letters_total{cause=\"schema_too_new\"}"),
        1.0
    );
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_the_batch_in_hand() {
    let world = World::default();
    let running = world.start();
    let events = deliveries(10, 2);
    world.bus.put_events(&events);
    eventually("the batch is in flight", async || {
        world.bus.handed_out.load(Ordering::SeqCst) == 10
    })
    .await;
    assert_eq!(world.events.ids(), [""; 0], "it still waits for others to join");
    running.stop().await.unwrap();
    assert_eq!(world.events.ids(), ids(&events));
    assert_eq!(world.bus.committed(EVENTS_GROUP), 10);
}

#[tokio::test(start_paused = true)]
async fn lag_is_told() {
    let world = World::default();
    world.identities.down.on();
    world.bus.put_events(&deliveries(3, 1));
    let running = world.start();
    world.caught_up().await;
    let lag = |group| running.metric(&format!("sendflowr_consumer_lag_records{{group=\"{group}\"}}"));
    eventually("the gauges are current", async || {
        lag(EVENTS_GROUP) == 0.0 && lag(consumer::IDENTITY_GROUP) == 3.0
    })
    .await;
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn records_deleted_unread_are_counted_once() {
    let world = World::default();
    world.bus.lost.store(30, Ordering::SeqCst);
    let running = world.start();
    let lost = || running.metric("sendflowr_consumer_lost_records_total{group=\"sendflowr-events\"}");
    eventually("they are counted", async || lost() > 0.0).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(lost(), 30.0);
    // The group reads on, and is overtaken again later.
    world.bus.lost.store(0, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.bus.lost.store(5, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(lost(), 35.0);
    running.stop().await.unwrap();
}
