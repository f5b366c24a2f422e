//! The consumer over the embedded engines, on the real clock.

use std::{path::Path, time::Duration};

use consumer::{ConsumerConfig, Dependencies, EVENTS_GROUP, IDENTITY_GROUP, Metrics};
use event::{
    Event,
    EventType::{Clicked, Delivered, Opened, Sent},
    Timestamp, UniversalId,
};
use prometheus_client::registry::Registry;
use store::{
    bus::{EVENTS_TOPIC, NewRecord},
    testing::{Embedded, PATIENCE, eventually, open_embedded, stored_events},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::world::{event, person, profile_of, weak};

struct Engines {
    ports: Embedded,
    shutdown: CancellationToken,
}

impl Engines {
    async fn open(folder: &Path) -> Self {
        Self {
            ports: open_embedded(folder).await.unwrap(),
            shutdown: CancellationToken::new(),
        }
    }

    async fn append(&self, events: &[Event]) {
        let records = events.iter().map(|event| NewRecord::of_event(event, None));
        self.ports.bus.append(records.collect()).await.unwrap();
    }

    fn consume(&self, batch_events: usize) -> JoinHandle<Result<(), consumer::ConsumerError>> {
        let dependencies = Dependencies {
            bus: self.ports.bus.clone(),
            events: self.ports.events.clone(),
            profiles: self.ports.profiles.clone(),
            identities: self.ports.identities.clone(),
            metrics: Metrics::register(&mut Registry::default()),
        };
        let config = ConsumerConfig {
            batch_events,
            ..ConsumerConfig::default()
        };
        tokio::spawn(consumer::run(config, dependencies, self.shutdown.clone()))
    }

    async fn stored(&self) -> u64 {
        stored_events(self.ports.events.as_ref()).await.unwrap()
    }

    async fn lag(&self, group: &str) -> u64 {
        let lags = self.ports.bus.lag(group, &[EVENTS_TOPIC]).await.unwrap();
        lags.iter().map(|lag| lag.records).sum()
    }

    async fn caught_up(&self) {
        eventually("both groups have caught up", async || {
            self.lag(EVENTS_GROUP).await + self.lag(IDENTITY_GROUP).await == 0
        })
        .await;
    }

    async fn check_profile(&self, id: &UniversalId) {
        let ids = std::slice::from_ref(id);
        let history = self.ports.events.history(ids, Timestamp::default(), 10_000);
        let profiles = self.ports.profiles.get(ids).await.unwrap();
        assert_eq!(
            profiles[0].clone().unwrap_or_default(),
            profile_of(&history.await.unwrap(), id)
        );
    }
}

#[tokio::test]
async fn events_reach_every_store() {
    let folder = tempfile::tempdir().unwrap();
    let engines = Engines::open(folder.path()).await;
    let running = engines.consume(1_000);
    let mut click = event("ann", Clicked, "m1", 900);
    click.identifiers.push(weak("K1"));
    let events = [
        event("ann", Sent, "m1", 0),
        event("ann", Delivered, "m1", 3),
        event("ann", Opened, "m1", 800),
        click.clone(),
    ];
    engines.append(&events).await;
    engines.append(&events).await;
    engines.caught_up().await;

    assert_eq!(engines.stored().await, 4);
    let ann = person("ann");
    let ids = std::slice::from_ref(&ann);
    let history = engines
        .ports
        .events
        .history(ids, Timestamp::default(), 10)
        .await
        .unwrap();
    assert_eq!(history[1].enrichment.delivery_latency_ms, Some(3_000));
    assert_eq!(
        engines
            .ports
            .events
            .latency_samples(Timestamp::default(), 10)
            .await
            .unwrap()
            .len(),
        1
    );
    let profile = engines.ports.profiles.get(ids).await.unwrap()[0].clone().unwrap();
    assert_eq!((profile.counts().opens, profile.counts().clicks), (1, 1));
    let found = engines
        .ports
        .identities
        .people(&[UniversalId::from_identifier(&weak("K1"))])
        .await
        .unwrap();
    assert_eq!(found[0].canonical, ann, "the click links them");
    engines.shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn crashes_in_the_middle_of_a_load_lose_and_repeat_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut events = Vec::new();
    for n in 0..1_000 {
        let (name, message) = (format!("p{}", n % 50), format!("m{n}"));
        for (event_type, seconds) in [(Sent, 0), (Delivered, 2), (Clicked, 3)] {
            events.push(event(&name, event_type, &message, n * 60 + seconds));
        }
    }
    let mut engines = Engines::open(folder.path()).await;
    engines.append(&events).await;
    for goal in [300, 900, 1_800] {
        let running = engines.consume(100);
        let start = std::time::Instant::now();
        while engines.stored().await < goal {
            assert!(
                start.elapsed() < PATIENCE && !running.is_finished(),
                "too few are stored"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        // A new process: profiles and everything in memory are gone.
        engines.ports.close().await;
        engines = Engines::open(folder.path()).await;
    }
    assert!(engines.lag(EVENTS_GROUP).await > 0, "the load was cut off");
    let running = engines.consume(100);
    engines.caught_up().await;
    assert_eq!(engines.stored().await, 3_000);
    for n in 0..50 {
        engines.check_profile(&person(&format!("p{n}"))).await;
    }
    engines.shutdown.cancel();
    running.await.unwrap().unwrap();
}
