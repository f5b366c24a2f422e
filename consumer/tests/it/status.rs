//! The consumer's status over HTTP.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use consumer::{ConsumerConfig, Dependencies, Metrics, RawConsumerConfig, serve_status};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use store::testing::eventually;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    fakes::SharedBus,
    world::{World, deliveries},
};

const TOKEN: &str = "0123456789abcdef";

/// Runs a consumer with these ports and serves its status until the guard is dropped.
async fn served(world: &World, settings: Value) -> (SocketAddr, DropGuard) {
    let raw: RawConsumerConfig = serde_json::from_value(settings).unwrap();
    let consumer = ConsumerConfig::try_from(raw).unwrap();
    let config = consumer.status.clone();
    let mut registry = Registry::default();
    let dependencies = Dependencies {
        bus: Arc::new(SharedBus(world.bus.clone())),
        events: world.events.clone(),
        profiles: world.profiles.clone(),
        identities: world.identities.clone(),
        metrics: Metrics::register(&mut registry),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let registry = Arc::new(Mutex::new(registry));
    tokio::spawn(consumer::run(consumer, dependencies.clone(), stop.clone()));
    tokio::spawn(serve_status(
        config,
        dependencies,
        registry,
        listener,
        stop.clone(),
    ));
    (address, stop.drop_guard())
}

/// Returns the status code and body of a request with these header lines.
async fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: consumer\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test]
async fn readiness_follows_the_ports() {
    let world = World::default();
    let (address, _stop) = served(&world, json!({})).await;
    let ready = async || {
        let (status, body) = get(address, "/ready", "").await;
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (status, body) = ready().await;
    assert_eq!((status, &body["status"]), (200, &json!("ready")));
    for (name, needed) in [
        ("bus", true),
        ("events", true),
        ("identities", false),
        ("profiles", false),
    ] {
        assert_eq!(body["dependencies"][name]["needed"], json!(needed), "{name}");
        assert!(body["dependencies"][name]["latency_ms"].is_f64(), "{name}");
    }
    // An answer is reused for a second.
    let becomes = async |expected: (u16, &str)| {
        eventually("the status changes", async || {
            let (status, body) = ready().await;
            (status, body["status"].as_str().unwrap()) == expected
        })
        .await;
        ready().await.1
    };
    world.profiles.down.on();
    becomes((200, "degraded")).await;
    world.events.down.on();
    let body = becomes((503, "not_ready")).await;
    assert_eq!(body["error"]["code"], json!("events_unavailable"));
    assert_eq!(get(address, "/health", "").await.0, 200);
}

/// An event store with too many parts, or one on which a right was revoked.
#[tokio::test]
async fn a_store_that_answers_and_takes_no_events_is_told_after_a_while() {
    let world = World::default();
    let (address, _stop) = served(&world, json!({})).await;
    let events = async || {
        let (status, body) = get(address, "/ready", "").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        (status, body["dependencies"]["events"]["status"].clone())
    };
    world.events.too_much.store(1, Ordering::SeqCst);
    world.bus.put_events(&deliveries(1, 1));
    eventually("it is tried", async || {
        world.events.writes.load(Ordering::SeqCst) > 0
    })
    .await;
    assert_eq!(events().await, (200, json!("ok")));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    assert_eq!(events().await, (503, json!("unusable")));
    world.events.too_much.store(0, Ordering::SeqCst);
    eventually("it is stored", async || !world.events.ids().is_empty()).await;
    eventually("it is well again", async || events().await == (200, json!("ok"))).await;
}

/// An outage ends, and what comes then is refused as what it is.
#[tokio::test]
async fn a_store_that_refuses_an_event_after_an_outage_works() {
    let world = World::default();
    let (address, _stop) = served(&world, json!({})).await;
    let stores = async || {
        let (_, body) = get(address, "/ready", "").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        ["events", "identities"].map(|name| body["dependencies"][name]["status"].clone())
    };
    let events = deliveries(1, 1);
    world.events.too_much.store(1, Ordering::SeqCst);
    world.identities.broken.on();
    world.bus.put_events(&events);
    eventually("it is tried", async || {
        let metrics = get(address, "/metrics", "").await.1;
        world.events.writes.load(Ordering::SeqCst) > 0
            && metrics.contains("group=\"sendflowr-identity\",operation=\"record\"")
    })
    .await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    assert_eq!(stores().await, [json!("unusable"), json!("unusable")]);
    world
        .events
        .poison
        .lock()
        .unwrap()
        .push(events[0].event_id.clone());
    let identifiers = events[0].identifiers.iter();
    let values = identifiers.map(|identifier| identifier.value.clone());
    world.identities.poison.lock().unwrap().extend(values);
    world.events.too_much.store(0, Ordering::SeqCst);
    world.identities.broken.off();
    eventually("both work again", async || {
        stores().await == [json!("ok"), json!("ok")]
    })
    .await;
    assert!(world.events.ids().is_empty() && world.identities.sightings().is_empty());
}

/// A topic or a group on which a right was revoked.
#[tokio::test]
async fn a_bus_that_answers_and_is_not_read_or_refuses_commits_is_told_after_a_while() {
    for operation in ["poll", "commit"] {
        let world = World::default();
        let (address, _stop) = served(&world, json!({})).await;
        let ready = async || {
            let (status, body) = get(address, "/ready", "").await;
            let body: Value = serde_json::from_str(&body).unwrap();
            let of = |name: &str| body["dependencies"][name]["status"].as_str().unwrap().to_owned();
            (status, of("bus"), of("identities"))
        };
        let told =
            |status: u16, dependencies: &str| (status, dependencies.to_owned(), dependencies.to_owned());
        let fails = match operation {
            "poll" => &world.bus.polls_fail,
            _ => &world.bus.commits_fail,
        };
        fails.on();
        world.bus.put_events(&deliveries(1, 1));
        eventually("it is tried by both groups", async || {
            let metrics = get(address, "/metrics", "").await.1;
            ["sendflowr-events", "sendflowr-identity"].iter().all(|group| {
                let tried = format!("group=\"{group}\",operation=\"{operation}\"");
                metrics.contains(&tried)
            })
        })
        .await;
        assert_eq!(ready().await, told(200, "ok"), "{operation}");
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(31)).await;
        tokio::time::resume();
        assert_eq!(ready().await, told(503, "unusable"), "{operation}");
        fails.off();
        eventually("it works again", async || ready().await == told(200, "ok")).await;
    }
}

/// A right that was revoked on its tables.
#[tokio::test]
async fn an_identity_graph_that_answers_and_takes_nothing_is_told_after_a_while() {
    let world = World::default();
    let (address, _stop) = served(&world, json!({})).await;
    let identities = async || {
        let (status, body) = get(address, "/ready", "").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        (status, body["dependencies"]["identities"]["status"].clone())
    };
    world.identities.broken.on();
    world.bus.put_events(&deliveries(1, 1));
    eventually("it is tried", async || {
        let metrics = get(address, "/metrics", "").await.1;
        metrics.contains("group=\"sendflowr-identity\",operation=\"record\"")
    })
    .await;
    assert_eq!(identities().await, (200, json!("ok")));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    assert_eq!(identities().await, (200, json!("unusable")));
    world.identities.broken.off();
    eventually("it works again", async || {
        identities().await == (200, json!("ok"))
    })
    .await;
}

#[tokio::test]
async fn metrics_ask_for_the_token() {
    let world = World::default();
    const OF_THE_METRICS: &str = "metrics-0123456789";
    let tokens = json!({ "token": TOKEN, "metrics_token": OF_THE_METRICS });
    let (address, _stop) = served(&world, tokens).await;
    assert_eq!(get(address, "/metrics", "").await.0, 401);
    let with =
        async |token: &str| get(address, "/metrics", &format!("authorization: Bearer {token}\r\n")).await;
    assert_eq!(with(OF_THE_METRICS).await.0, 200);
    let (status, body) = with(TOKEN).await;
    assert_eq!(status, 200);
    assert!(
        body.contains("# TYPE sendflowr_consumer_profiles_stale gauge"),
        "{body}"
    );
    assert_eq!(get(address, "/ready", "").await.0, 200);
    let (status, body) = get(address, "/nothing", "").await;
    assert_eq!(status, 404);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["error"]["code"], "not_found");
}

#[test]
fn beyond_this_machine_a_token_is_needed() {
    let raw = |raw: Value| serde_json::from_value::<RawConsumerConfig>(raw).unwrap();
    let error = ConsumerConfig::try_from(raw(json!({ "listen": "0.0.0.0:8002" }))).unwrap_err();
    assert!(error.to_string().contains("set `consumer.token`"), "{error}");
    assert!(ConsumerConfig::try_from(raw(json!({ "listen": "0.0.0.0:8002", "token": TOKEN }))).is_ok());
}
