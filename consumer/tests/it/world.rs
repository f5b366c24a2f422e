//! A consumer over fake ports, and the events that tests feed it.
//!
//! Tests run on tokio's paused clock: pauses end at once, and in order.

use std::{sync::Arc, time::Duration};

use consumer::{ConsumerConfig, ConsumerError, Dependencies, Metrics};
use event::{
    Event, EventType, Hasher, Identifier, IdentifierKind, Timestamp, UniversalId, event_id, profile::Profile,
};
use prometheus_client::registry::Registry;
use store::{events::StoredEvent, testing::eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fakes::{FakeBus, FakeEvents, FakeIdentities, FakeProfiles, SharedBus};

/// The fake ports of a consumer.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) bus: Arc<FakeBus>,
    pub(crate) events: Arc<FakeEvents>,
    pub(crate) profiles: Arc<FakeProfiles>,
    pub(crate) identities: Arc<FakeIdentities>,
}

/// A running consumer.
pub(crate) struct Running {
    task: JoinHandle<Result<(), ConsumerError>>,
    shutdown: CancellationToken,
    registry: Registry,
}

impl World {
    pub(crate) fn start(&self) -> Running {
        self.start_with(ConsumerConfig {
            batch_events: 100,
            ..ConsumerConfig::default()
        })
    }

    pub(crate) fn start_with(&self, config: ConsumerConfig) -> Running {
        let mut registry = Registry::default();
        let dependencies = Dependencies {
            bus: Arc::new(SharedBus(self.bus.clone())),
            events: self.events.clone(),
            profiles: self.profiles.clone(),
            identities: self.identities.clone(),
            metrics: Metrics::register(&mut registry),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(consumer::run(config, dependencies, shutdown.clone()));
        Running {
            task,
            shutdown,
            registry,
        }
    }

    /// Waits until the events group has committed everything on the bus.
    pub(crate) async fn caught_up(&self) {
        eventually("the events group has caught up", async || {
            self.bus.committed(consumer::EVENTS_GROUP) == self.bus.length()
        })
        .await;
    }

    pub(crate) async fn identities_caught_up(&self) {
        eventually("the identity group has caught up", async || {
            self.bus.committed(consumer::IDENTITY_GROUP) == self.bus.length()
        })
        .await;
    }
}

impl Running {
    /// Stops it as an operator does.
    pub(crate) async fn stop(self) -> Result<(), ConsumerError> {
        self.shutdown.cancel();
        self.ended().await
    }

    /// Waits for it to end on its own.
    pub(crate) async fn ended(self) -> Result<(), ConsumerError> {
        tokio::time::timeout(Duration::from_secs(5), self.task)
            .await
            .expect("it ends soon")
            .expect("it does not panic")
    }

    /// Ends it as a crash does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.expect_err("it was still at work").is_cancelled());
    }

    /// Returns the value of a metric, by its name and labels as exposed; 0 if it was never set.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

pub(crate) fn person(name: &str) -> UniversalId {
    UniversalId::from_identifier(&email(name))
}

fn email(name: &str) -> Identifier {
    Hasher::new()
        .email_identifier(&format!("{name}@example.com"))
        .unwrap()
}

pub(crate) fn weak(value: &str) -> Identifier {
    Identifier {
        kind: IdentifierKind::KlaviyoId,
        value: value.into(),
    }
}

/// Returns an event of the person `name` about `message`, `seconds` after noon.
pub(crate) fn event(name: &str, event_type: EventType, message: &str, seconds: i64) -> Event {
    let noon: Timestamp = "2026-01-10T12:00:00Z".parse().unwrap();
    let mut event = Event {
        esp: "sendgrid".into(),
        account: "default".into(),
        identifiers: vec![email(name)],
        message_id: Some(message.into()),
        plugin: "sendgrid@1.0.0".into(),
        ingested_at: noon,
        ..Event::bare(event_type, noon.plus_millis(seconds * 1_000), person(name))
    };
    event.event_id = event_id(&event);
    event
}

/// Returns `count` delivered events, each of its own message, spread over `people` people.
pub(crate) fn deliveries(count: usize, people: usize) -> Vec<Event> {
    (0..count)
        .map(|n| {
            event(
                &format!("p{}", n % people),
                EventType::Delivered,
                &format!("m{n}"),
                n as i64,
            )
        })
        .collect()
}

pub(crate) fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.event_id.clone()).collect()
}

/// Returns the profile that follows from stored events, whatever the consumer did on the way.
pub(crate) fn profile_of(rows: &[StoredEvent], id: &UniversalId) -> Profile {
    let mut profile = Profile::default();
    for row in rows.iter().filter(|row| row.event.universal_id == *id) {
        profile.apply(&row.event, row.enrichment.machine);
    }
    profile
}
