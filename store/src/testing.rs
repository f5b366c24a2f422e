//! For tests and benchmarks: opens all embedded engines together, commits and counts everything, and waits for what is expected
//! to happen.

use std::{
    fmt,
    panic::Location,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use event::Timestamp;

use crate::{
    StoreError,
    bus::{Bus, Position, Progress, SqliteBus, SqliteBusConfig, Subscription},
    embedded,
    events::{Events, SqliteEvents, SqliteEventsConfig},
    identity::{Identities, SqliteIdentities},
    profiles::{MemoryProfiles, MemoryProfilesConfig, Profiles},
};

/// How long to wait for anything that is expected to happen: far longer than it takes even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, checking every few milliseconds. Returns how long it took. Where tokio's clock is paused, neither
/// follows it.
///
/// # Panics
/// Panics if it does not hold within [`PATIENCE`].
#[track_caller]
pub fn eventually<F, Fut>(what: &str, mut condition: F) -> impl Future<Output = Duration>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        while !condition().await {
            let seconds = PATIENCE.as_secs();
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: not within {seconds} s, {caller}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }
}

/// Number of partitions that no topic of a test reaches.
const PARTITIONS: u32 = 100;

/// Commits all records of these topics that `subscription` has returned.
///
/// # Errors
/// As [`Subscription::commit_through`].
pub async fn commit_returned(subscription: &mut dyn Subscription, topics: &[&str]) -> Result<(), StoreError> {
    let (mut everything, losses) = (Progress::default(), subscription.losses());
    for topic in topics {
        for partition in 0..PARTITIONS {
            let last = Position {
                topic: (*topic).into(),
                partition,
                offset: u64::from(u32::MAX),
            };
            everything.note(&last, losses);
        }
    }
    subscription.commit_through(&everything).await
}

/// Counts the distinct stored events.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub async fn stored_events(store: &dyn Events) -> Result<u64, StoreError> {
    let everybody = store.people(Timestamp::default(), None, usize::MAX).await?;
    Ok(store.holdings(&everybody).await?.events)
}

/// All four ports on the embedded engines.
#[derive(Clone)]
pub struct Embedded {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// The event store.
    pub events: Arc<dyn Events>,
    /// The identity graph.
    pub identities: Arc<dyn Identities>,
    /// The profiles, visible to this process only.
    pub profiles: Arc<dyn Profiles>,
    // The same engines with their concrete types, to close them.
    engines: (Arc<SqliteBus>, Arc<SqliteEvents>, Arc<SqliteIdentities>),
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

/// Opens the engines in `folder` with their default settings. Creates the folder, accessible to its owner only, if it is
/// missing. Several processes may have it open.
///
/// # Errors
/// [`StoreError::Misconfigured`] when the folder or a file in it cannot be used.
pub async fn open_embedded(folder: &Path) -> Result<Embedded, StoreError> {
    embedded::create_folder(folder).map_err(|error| StoreError::Misconfigured {
        engine: "sqlite",
        message: format!("cannot create the data folder `{}`: {error}", folder.display()),
    })?;
    let bus = Arc::new(SqliteBus::open(folder, SqliteBusConfig::default()).await?);
    let events = Arc::new(SqliteEvents::open(folder, SqliteEventsConfig::default()).await?);
    let identities = Arc::new(SqliteIdentities::open(folder).await?);
    Ok(Embedded {
        bus: bus.clone(),
        events: events.clone(),
        identities: identities.clone(),
        profiles: Arc::new(MemoryProfiles::new(&MemoryProfilesConfig::default())),
        engines: (bus, events, identities),
    })
}

impl Embedded {
    /// Commits what is queued, leaves all consumer groups and closes the files. Later calls on the ports fail. If it is not
    /// called, nothing acknowledged is lost, but a successor has to wait until the leases of this process expire.
    pub async fn close(&self) {
        let (bus, events, identities) = &self.engines;
        bus.close().await;
        events.close().await;
        identities.close().await;
    }
}
