//! Configuration of the plugin runtime.

use std::path::{Path, PathBuf};

use event::settings::OutOfRange;
use serde::Deserialize;

use super::{
    limits::{Limits, RawLimits},
    lock::{LockError, PluginLock},
    quarantine::{QuarantineConfig, RawQuarantineConfig},
    signature::{InvalidTrustedKey, TrustedKeys},
};

/// The default plugin folder: where the build puts plugins.
const DEFAULT_FOLDER: &str = "target/plugins";

/// Name of the lock file in the plugin folder.
const LOCK_FILE: &str = "plugins.lock";

/// Where plugins come from and what they may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginsConfig {
    /// The folder that is watched for plugin files. Created if it is missing.
    pub folder: PathBuf,
    /// Where compiled plugins are kept. Must belong to this user alone; created that way if it is missing.
    pub cache_folder: PathBuf,
    /// The file that pins plugins. Without it, every file of the folder may be served.
    pub lock: PathBuf,
    /// Whether only pinned plugins are served.
    pub locked: bool,
    /// The keys that sign trusted files. If there are none, files need no signature.
    pub trusted_keys: TrustedKeys,
    /// The limits of every plugin.
    pub limits: Limits,
    /// When a failing plugin is quarantined.
    pub quarantine: QuarantineConfig,
}

impl PluginsConfig {
    /// Checks `[host.plugins]`; the runtime's own files are in the data folder unless configured otherwise.
    ///
    /// # Errors
    /// [`PluginsConfigError`] naming the offending key.
    pub fn try_new(raw: RawPluginsConfig, data_folder: &Path) -> Result<Self, PluginsConfigError> {
        let folder = raw.folder.unwrap_or_else(|| PathBuf::from(DEFAULT_FOLDER));
        Ok(Self {
            lock: raw.lock.unwrap_or_else(|| folder.join(LOCK_FILE)),
            locked: raw.locked,
            trusted_keys: TrustedKeys::parse(&raw.trusted_keys)?,
            folder,
            cache_folder: raw
                .cache_folder
                .unwrap_or_else(|| data_folder.join("compiled-plugins")),
            limits: raw.limits.try_into()?,
            quarantine: raw.quarantine.try_into()?,
        })
    }

    /// Reads the lock file in the way in which a starting host does.
    ///
    /// # Errors
    /// [`LockError`] when it is invalid, or missing although only pinned plugins are served.
    pub fn read_lock(&self) -> Result<Option<PluginLock>, LockError> {
        Ok(PluginLock::read_as_seen(&self.lock, self.locked)?.map(|(lock, _)| lock))
    }
}

/// `[host.plugins]`: [`PluginsConfig`] as configured. Every key may be left out; unknown keys are errors.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPluginsConfig {
    /// Folder that is watched for plugins. Default `target/plugins`, where `cargo xtask plugins` puts them.
    pub folder: Option<PathBuf>,
    /// Folder of compiled plugins, which must belong to this user alone. Default: `compiled-plugins` in the data folder.
    pub cache_folder: Option<PathBuf>,
    /// Path of the file that pins plugins to digests. Default: `plugins.lock` in the plugin folder, if it exists.
    pub lock: Option<PathBuf>,
    /// Whether only pinned plugins are served, which requires the lock file. Default `false`.
    pub locked: bool,
    /// Public keys of minisign: only files signed by one of them are served. Default: none, and no signature is required.
    pub trusted_keys: Vec<String>,
    /// `[host.plugins.limits]`: see [`Limits`].
    pub limits: RawLimits,
    /// `[host.plugins.quarantine]`: see [`QuarantineConfig`].
    pub quarantine: RawQuarantineConfig,
}

/// A setting of the plugin runtime is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PluginsConfigError {
    /// One of the limits, or of the quarantine's settings.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// One of the trusted keys.
    #[error(transparent)]
    TrustedKey(#[from] InvalidTrustedKey),
}
