//! For tests and benchmarks: opens all embedded engines together, and waits for what is expected to happen.

use std::{
    fmt,
    panic::Location,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    StoreError,
    bus::{Bus, SqliteBus, SqliteBusConfig},
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
