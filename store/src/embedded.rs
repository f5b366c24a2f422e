//! The embedded engines together, in one folder.

use std::{io, path::Path, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use serde::Deserialize;

use crate::{
    StoreError,
    bus::{Bus, SqliteBus, SqliteBusConfig},
    events::{Events, SqliteEvents, SqliteEventsConfig},
    identity::{Identities, SqliteIdentities},
    profiles::{MemoryProfiles, MemoryProfilesConfig, Profiles},
};

/// What an operator may set about the embedded engines, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawEmbeddedConfig {
    /// See [`SqliteBusConfig::retention`].
    pub bus_retention_seconds: Option<u64>,
    /// See [`SqliteBusConfig::dead_letter_retention`].
    pub dead_letter_retention_seconds: Option<u64>,
    /// See [`SqliteBusConfig::group_expiry`].
    pub group_expiry_seconds: Option<u64>,
    /// See [`SqliteBusConfig::lease`].
    pub lease_ms: Option<u64>,
    /// See [`SqliteEventsConfig::explanation_retention`].
    pub explanation_retention_seconds: Option<u64>,
    /// See [`MemoryProfilesConfig::capacity_bytes`].
    pub profiles_bytes: Option<u64>,
    /// See [`MemoryProfilesConfig::max_age`].
    pub profiles_max_age_seconds: Option<u64>,
}

/// How the embedded engines work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// The bus.
    pub bus: SqliteBusConfig,
    /// The events.
    pub events: SqliteEventsConfig,
    /// The profiles.
    pub profiles: MemoryProfilesConfig,
}

/// A setting of the embedded engines makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEmbeddedConfig {
    /// Too short a lease would be lost by a reader that works on.
    #[error("`lease_ms` is `{0}`, it must be at least 1000")]
    Lease(u64),
    /// Nothing would be kept, not even for readers that are seconds behind.
    #[error("`{0}` must be at least 60")]
    Short(&'static str),
}

/// Shortest lease: its renewals, three in that time, must not come late on a busy disk.
const MIN_LEASE_MS: u64 = 1_000;

/// Shortest retention: the time between two rounds of removal.
const MIN_RETENTION_SECONDS: u64 = 60;

impl TryFrom<RawEmbeddedConfig> for EmbeddedConfig {
    type Error = InvalidEmbeddedConfig;

    fn try_from(raw: RawEmbeddedConfig) -> Result<Self, Self::Error> {
        let kept = |seconds: Option<u64>, key: &'static str, default: Duration| match seconds {
            Some(seconds) if seconds < MIN_RETENTION_SECONDS => Err(InvalidEmbeddedConfig::Short(key)),
            Some(seconds) => Ok(Duration::from_secs(seconds)),
            None => Ok(default),
        };
        let default = Self::default();
        let lease = match raw.lease_ms {
            Some(ms) if ms < MIN_LEASE_MS => return Err(InvalidEmbeddedConfig::Lease(ms)),
            Some(ms) => Duration::from_millis(ms),
            None => default.bus.lease,
        };
        Ok(Self {
            bus: SqliteBusConfig {
                retention: kept(
                    raw.bus_retention_seconds,
                    "bus_retention_seconds",
                    default.bus.retention,
                )?,
                dead_letter_retention: kept(
                    raw.dead_letter_retention_seconds,
                    "dead_letter_retention_seconds",
                    default.bus.dead_letter_retention,
                )?,
                group_expiry: kept(
                    raw.group_expiry_seconds,
                    "group_expiry_seconds",
                    default.bus.group_expiry,
                )?,
                lease,
            },
            events: SqliteEventsConfig {
                explanation_retention: kept(
                    raw.explanation_retention_seconds,
                    "explanation_retention_seconds",
                    default.events.explanation_retention,
                )?,
            },
            profiles: MemoryProfilesConfig {
                capacity_bytes: raw.profiles_bytes.unwrap_or(default.profiles.capacity_bytes),
                max_age: raw
                    .profiles_max_age_seconds
                    .map(Duration::from_secs)
                    .or(default.profiles.max_age),
            },
        })
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
    /// The profiles; of this process alone.
    pub profiles: Arc<dyn Profiles>,
    engines: Engines,
}

/// The engines behind the ports, for what the ports do not offer.
#[derive(Clone)]
struct Engines {
    bus: Arc<SqliteBus>,
    events: Arc<SqliteEvents>,
    identities: Arc<SqliteIdentities>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

/// Opens the engines in `folder` with their defaults; see [`open_with`].
///
/// # Errors
/// [`StoreError::Misconfigured`] when the folder or a file in it cannot be used.
pub async fn open(folder: &Path) -> Result<Embedded, StoreError> {
    open_with(folder, EmbeddedConfig::default()).await
}

/// Opens the engines in `folder`, which is made, for its owner only, when it is missing. Several processes may have one
/// folder open; it must be on a local disk.
///
/// # Errors
/// [`StoreError::Misconfigured`] when the folder or a file in it cannot be used.
pub async fn open_with(folder: &Path, config: EmbeddedConfig) -> Result<Embedded, StoreError> {
    create_folder(folder).map_err(|error| StoreError::Misconfigured {
        engine: "sqlite",
        message: format!("cannot make the data folder `{}`: {error}", folder.display()),
    })?;
    let engines = Engines {
        bus: Arc::new(SqliteBus::open(folder, config.bus).await?),
        events: Arc::new(SqliteEvents::open(folder, config.events).await?),
        identities: Arc::new(SqliteIdentities::open(folder).await?),
    };
    Ok(Embedded {
        bus: engines.bus.clone(),
        events: engines.events.clone(),
        identities: engines.identities.clone(),
        profiles: Arc::new(MemoryProfiles::new(&config.profiles)),
        engines,
    })
}

/// Makes the folder of embedded engines, for its owner only, when it is missing.
///
/// # Errors
/// When it cannot be made.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

impl Embedded {
    /// Counts what the engines do in `registry`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.engines.bus.register_metrics(registry);
    }

    /// Commits what is queued, leaves all consumer groups and closes the files. Later calls on the ports fail. Without
    /// it nothing acknowledged is lost, but a successor waits for the leases of this process to run out.
    pub async fn close(&self) {
        self.engines.bus.close().await;
        self.engines.events.close().await;
        self.engines.identities.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let raw = RawEmbeddedConfig {
            lease_ms: Some(10),
            ..Default::default()
        };
        let error = EmbeddedConfig::try_from(raw).unwrap_err().to_string();
        assert_eq!(error, "`lease_ms` is `10`, it must be at least 1000");
        let raw = RawEmbeddedConfig {
            dead_letter_retention_seconds: Some(0),
            ..Default::default()
        };
        let error = EmbeddedConfig::try_from(raw).unwrap_err().to_string();
        assert_eq!(error, "`dead_letter_retention_seconds` must be at least 60");
        assert_eq!(
            EmbeddedConfig::try_from(RawEmbeddedConfig::default()),
            Ok(EmbeddedConfig::default())
        );
    }
}
