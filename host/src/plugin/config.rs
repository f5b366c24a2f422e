//! Configuration of the plugin runtime.

use std::path::PathBuf;

use event::settings::OutOfRange;
use serde::Deserialize;

use super::{
    limits::{Limits, RawLimits},
    lock::{LockError, PluginLock},
    quarantine::{QuarantineConfig, RawQuarantineConfig},
    signature::{InvalidTrustedKey, TrustedKeys},
};

/// Name of the lock file in the plugin folder.
const LOCK_FILE: &str = "plugins.lock";

/// Where plugins come from and what they may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginsConfig {
    /// The folder that is watched for plugin files. Made when it is missing.
    pub folder: PathBuf,
    /// Where compiled plugins are kept. Must belong to this user alone; made so when it is missing.
    pub cache_folder: PathBuf,
    /// The file that pins plugins. Without it every file of the folder may serve.
    pub lock: PathBuf,
    /// Whether only what is pinned serves.
    pub locked: bool,
    /// Whose signatures make a file trustworthy. None: files need no signature.
    pub trusted_keys: TrustedKeys,
    /// The fences around every plugin.
    pub limits: Limits,
    /// When a failing plugin rests.
    pub quarantine: QuarantineConfig,
}

impl PluginsConfig {
    /// Reads the lock file as a host does that starts.
    ///
    /// # Errors
    /// [`LockError`] when it is wrong, or missing though only what is pinned serves.
    pub fn read_lock(&self) -> Result<Option<PluginLock>, LockError> {
        Ok(PluginLock::read_as_seen(&self.lock, self.locked)?.map(|(lock, _)| lock))
    }
}

/// [`PluginsConfig`] as configured; what is absent keeps its default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPluginsConfig {
    /// See [`PluginsConfig::folder`]; `plugins` by default.
    pub folder: PathBuf,
    /// See [`PluginsConfig::cache_folder`]; `data/compiled-plugins` by default.
    pub cache_folder: PathBuf,
    /// See [`PluginsConfig::lock`]; `plugins.lock` in the folder by default.
    pub lock: Option<PathBuf>,
    /// See [`PluginsConfig::locked`]; `false` by default.
    pub locked: bool,
    /// See [`PluginsConfig::trusted_keys`]; none by default.
    pub trusted_keys: Vec<String>,
    /// See [`Limits`].
    pub limits: RawLimits,
    /// See [`QuarantineConfig`].
    pub quarantine: RawQuarantineConfig,
}

impl Default for RawPluginsConfig {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("plugins"),
            cache_folder: PathBuf::from("data/compiled-plugins"),
            lock: None,
            locked: false,
            trusted_keys: Vec::new(),
            limits: RawLimits::default(),
            quarantine: RawQuarantineConfig::default(),
        }
    }
}

/// A setting of the plugin runtime cannot work.
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

impl TryFrom<RawPluginsConfig> for PluginsConfig {
    type Error = PluginsConfigError;

    fn try_from(raw: RawPluginsConfig) -> Result<Self, PluginsConfigError> {
        Ok(Self {
            lock: raw.lock.unwrap_or_else(|| raw.folder.join(LOCK_FILE)),
            locked: raw.locked,
            trusted_keys: TrustedKeys::parse(&raw.trusted_keys)?,
            folder: raw.folder,
            cache_folder: raw.cache_folder,
            limits: raw.limits.try_into()?,
            quarantine: raw.quarantine.try_into()?,
        })
    }
}
