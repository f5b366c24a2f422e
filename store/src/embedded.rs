//! Settings of the embedded engines, and the folder that they share.

use std::{
    fs,
    io::{self, Write},
    ops::RangeInclusive,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use event::settings::{OutOfRange, number};
use serde::Deserialize;

use crate::{bus::SqliteBusConfig, events::SqliteEventsConfig, profiles::MemoryProfilesConfig};

/// Creates a file with this content for this user alone, and its folder if that is missing. If the file is there already, it
/// stays as it is: of several processes that create it at once, one wins. Nobody ever reads a part of it.
///
/// # Errors
/// If the folder or the file cannot be created.
pub fn create_once(path: &Path, content: &[u8]) -> io::Result<()> {
    with_draft(path, 0o600, content, |draft| match fs::hard_link(draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    })
}

/// Writes a file with this content in place of the one that is there, if there is one, and creates its folder if that is missing.
/// Nobody ever reads a part of it, whoever else writes it at the same time, and a crash of the machine leaves one or the other
/// whole.
///
/// # Errors
/// If the folder or the file cannot be written.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    with_draft(path, 0o666, content, |draft| fs::rename(draft, path))
}

/// Writes the content under another name into the folder of `path`, hands that file over, and leaves nothing under its name.
fn with_draft(
    path: &Path,
    mode: u32,
    content: &[u8],
    hand_over: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let folder = folder_of(path);
    create_folder(folder)?;
    let draft = folder.join(format!(".draft-{}", uuid::Uuid::now_v7().simple()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let written = options.open(&draft).and_then(|mut file| {
        file.write_all(content)?;
        // Otherwise the name may reach the disk before the content.
        file.sync_all()?;
        hand_over(&draft)
    });
    // There is none any more if it was renamed.
    let _may_not_exist = fs::remove_file(&draft);
    written
}

/// Settings of the embedded engines as written in the configuration, before validation.
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
    /// See [`SqliteEventsConfig::event_retention`]. Explanations are not kept for longer.
    pub event_retention_seconds: Option<u64>,
    /// See [`MemoryProfilesConfig::capacity_bytes`].
    pub profiles_bytes: Option<u64>,
}

/// Validated settings of the embedded engines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Settings of the bus.
    pub bus: SqliteBusConfig,
    /// Settings of the event store.
    pub events: SqliteEventsConfig,
    /// Settings of the profile store.
    pub profiles: MemoryProfilesConfig,
}

/// The minimum is the time between two rounds of removal: anything shorter would keep nothing, not even for readers that are
/// only seconds behind. A value of more than a hundred years is a mistake.
const RETENTION_SECONDS: RangeInclusive<u64> = 60..=3_153_600_000;

/// The minimum is that of `inference.history_seconds` and of `clickhouse.ttl_days`: a day, since people are judged by the hour of
/// the day. The maximum is that of the other retentions.
const EVENT_RETENTION_SECONDS: RangeInclusive<u64> = 86_400..=3_153_600_000;

/// The minimum ensures that the three renewals of a lease are not late on a busy disk. The maximum is how long the successor of
/// a killed process may have to wait.
const LEASE_MS: RangeInclusive<u64> = 1_000..=600_000;

/// Up to 1 TiB: beyond that, a mistyped unit is more likely than such a machine.
const PROFILES_BYTES: RangeInclusive<u64> = 0..=1 << 40;

impl TryFrom<RawEmbeddedConfig> for EmbeddedConfig {
    type Error = OutOfRange;

    fn try_from(raw: RawEmbeddedConfig) -> Result<Self, OutOfRange> {
        let kept = |key: &str, seconds: Option<u64>, default: Duration| {
            let seconds = seconds.unwrap_or(default.as_secs());
            number("store", key, seconds, RETENTION_SECONDS).map(Duration::from_secs)
        };
        let default = Self::default();
        let lease = match raw.lease_ms {
            Some(ms) => Duration::from_millis(number("store", "lease_ms", ms, LEASE_MS)?),
            None => default.bus.lease,
        };
        let event_retention = match raw.event_retention_seconds {
            Some(seconds) => {
                let seconds = number(
                    "store",
                    "event_retention_seconds",
                    seconds,
                    EVENT_RETENTION_SECONDS,
                )?;
                Some(Duration::from_secs(seconds))
            }
            None => None,
        };
        let explanation_retention = kept(
            "explanation_retention_seconds",
            raw.explanation_retention_seconds,
            default.events.explanation_retention,
        )?;
        let profiles_bytes = raw.profiles_bytes.unwrap_or(default.profiles.capacity_bytes);
        Ok(Self {
            bus: SqliteBusConfig {
                retention: kept(
                    "bus_retention_seconds",
                    raw.bus_retention_seconds,
                    default.bus.retention,
                )?,
                dead_letter_retention: kept(
                    "dead_letter_retention_seconds",
                    raw.dead_letter_retention_seconds,
                    default.bus.dead_letter_retention,
                )?,
                group_expiry: kept(
                    "group_expiry_seconds",
                    raw.group_expiry_seconds,
                    default.bus.group_expiry,
                )?,
                lease,
            },
            events: SqliteEventsConfig {
                // Without the events after it, a decision would be taken for one that led to nothing.
                explanation_retention: event_retention
                    .map_or(explanation_retention, |events| events.min(explanation_retention)),
                event_retention,
            },
            profiles: MemoryProfilesConfig {
                capacity_bytes: number("store", "profiles_bytes", profiles_bytes, PROFILES_BYTES)?,
            },
        })
    }
}

/// Returns the folder that a file is in, which is the current one if the path has none.
pub fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Creates the folder of the embedded engines, accessible to its owner only, if it is missing.
///
/// # Errors
/// Returns an error if the folder cannot be created.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes a file or folder accessible to its owner only, if it is there. Failures are logged: somebody else's file is not ours to
/// change.
pub fn make_private(path: &Path) {
    let tightened = fs::metadata(path).and_then(|found| {
        let mode = found.permissions().mode();
        if mode & OF_OTHERS == 0 {
            return Ok(());
        }
        fs::set_permissions(path, PermissionsExt::from_mode(mode & !OF_OTHERS))
    });
    if let Err(error) = tightened
        && error.kind() != io::ErrorKind::NotFound
    {
        let path = path.display();
        tracing::warn!(%error, "`{path}` stays readable for other users of this machine: {error}");
    }
}

/// The permissions of group and others.
const OF_OTHERS: u32 = 0o077;

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
        assert_eq!(
            error,
            "`store.lease_ms` is 10, it must be between 1000 and 600000"
        );
        let raw = RawEmbeddedConfig {
            dead_letter_retention_seconds: Some(0),
            ..Default::default()
        };
        let error = EmbeddedConfig::try_from(raw).unwrap_err().to_string();
        assert_eq!(
            error,
            "`store.dead_letter_retention_seconds` is 0, it must be between 60 and 3153600000"
        );
        let raw = RawEmbeddedConfig {
            event_retention_seconds: Some(86_399),
            ..Default::default()
        };
        let error = EmbeddedConfig::try_from(raw).unwrap_err().to_string();
        assert_eq!(
            error,
            "`store.event_retention_seconds` is 86399, it must be between 86400 and 3153600000"
        );
        assert_eq!(
            EmbeddedConfig::try_from(RawEmbeddedConfig::default()),
            Ok(EmbeddedConfig::default())
        );
    }

    #[test]
    fn no_explanation_outlasts_the_events() {
        const DAY: u64 = 86_400;
        let kept = |event_days: Option<u64>, explanation_days: Option<u64>| {
            let raw = RawEmbeddedConfig {
                event_retention_seconds: event_days.map(|days| days * DAY),
                explanation_retention_seconds: explanation_days.map(|days| days * DAY),
                ..Default::default()
            };
            let events = EmbeddedConfig::try_from(raw).unwrap().events;
            let days = |kept: Duration| kept.as_secs() / DAY;
            (
                events.event_retention.map(days),
                days(events.explanation_retention),
            )
        };
        assert_eq!(kept(None, None), (None, 90));
        assert_eq!(kept(Some(30), None), (Some(30), 30));
        assert_eq!(kept(Some(400), None), (Some(400), 90));
        assert_eq!(kept(Some(30), Some(7)), (Some(30), 7));
    }
}
