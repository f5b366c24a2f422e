//! Configuration of the plugin runtime.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    limits::{LimitOutOfRange, Limits, RawLimits},
    quarantine::{QuarantineConfig, QuarantineOutOfRange, RawQuarantineConfig},
};

/// Where plugins come from and what they may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginsConfig {
    /// The folder that is watched for plugin files. Made when it is missing.
    pub folder: PathBuf,
    /// Where compiled plugins are kept. Must belong to this user alone; made so when it is missing.
    pub cache_folder: PathBuf,
    /// The fences around every plugin.
    pub limits: Limits,
    /// When a failing plugin rests.
    pub quarantine: QuarantineConfig,
}

/// [`PluginsConfig`] as configured; what is absent keeps its default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPluginsConfig {
    /// See [`PluginsConfig::folder`]; `plugins` by default.
    pub folder: PathBuf,
    /// See [`PluginsConfig::cache_folder`]; `data/compiled-plugins` by default.
    pub cache_folder: PathBuf,
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
            limits: RawLimits::default(),
            quarantine: RawQuarantineConfig::default(),
        }
    }
}

/// A setting of the plugin runtime is out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PluginsConfigError {
    /// One of the limits.
    #[error(transparent)]
    Limits(#[from] LimitOutOfRange),
    /// One of the quarantine's settings.
    #[error(transparent)]
    Quarantine(#[from] QuarantineOutOfRange),
}

impl TryFrom<RawPluginsConfig> for PluginsConfig {
    type Error = PluginsConfigError;

    fn try_from(raw: RawPluginsConfig) -> Result<Self, PluginsConfigError> {
        Ok(Self {
            folder: raw.folder,
            cache_folder: raw.cache_folder,
            limits: raw.limits.try_into()?,
            quarantine: raw.quarantine.try_into()?,
        })
    }
}
