//! The plugin runtime: loads provider plugins from a folder, and runs them behind fences.
//!
//! A plugin is a WebAssembly component of the contract in `wit/`. Every delivery gets an instance of its own, limited in
//! CPU time, memory, stack and output; nothing is left of it afterwards. Files that are dropped into the folder, replaced
//! or removed take effect within a second, and deliveries in flight end on the plugin they began with. A plugin that
//! keeps failing rests for a while and comes back by itself. Whatever a plugin does, it costs only its own provider.
//!
//! ```text
//! folder ─▶ registry ─▶ load: read ▸ inspect ▸ compile (cache) ▸ link ▸ describe ─▶ Plugin
//! delivery ─▶ Plugin::instantiate ─▶ Guest::authenticate ─▶ (proofs are checked) ─▶ Guest::normalize
//! ```

mod bindings;
mod cache;
mod config;
mod descriptor;
mod engine;
mod error;
mod examine;
mod guest;
mod inspect;
mod lane;
mod limits;
mod load;
mod log;
mod measure;
mod metrics;
mod output;
mod quarantine;
mod registry;
mod reload;
mod sandbox;
mod status;
mod wasi;

use std::{path::Path, sync::Arc};

use tokio::task::{self, AbortHandle};

pub use self::{
    bindings::types,
    config::{PluginsConfig, PluginsConfigError, RawPluginsConfig},
    descriptor::is_slug,
    error::{Fault, Limit, LoadError, PluginError},
    examine::{Examination, LimitUse},
    guest::{Guest, Plugin},
    limits::{LimitOutOfRange, Limits, RawLimits},
    measure::Measured,
    metrics::PluginMetrics,
    quarantine::{QuarantineConfig, QuarantineOutOfRange, RawQuarantineConfig},
    status::{PluginDetails, PluginState, PluginStatus, SpecStatus},
};
use self::{
    load::Loader,
    registry::{Registry, make_folder},
    reload::Watch,
};

/// The plugins of a folder. Clones share them; the folder is watched until the last one is dropped.
#[derive(Clone)]
pub struct Plugins(Arc<Shared>);

struct Shared {
    registry: Arc<Registry>,
    watch: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl std::fmt::Debug for Plugins {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Plugins").field(&self.slugs()).finish()
    }
}

impl Plugins {
    /// Loads the plugins of the configured folder and keeps watching it. Bad files are reported by [`Plugins::status`]
    /// and in the log. Fails only when the host itself cannot run plugins.
    pub async fn open(config: PluginsConfig, metrics: PluginMetrics) -> Result<Self, PluginError> {
        let (registry, watch) = task::spawn_blocking(move || {
            make_folder(&config.folder)?;
            let watch = Watch::start(&config.folder);
            let loader = Loader::for_folder(&config, metrics)?;
            Ok::<_, PluginError>((Arc::new(Registry::new(config.folder, loader)), watch))
        })
        .await
        .map_err(|error| PluginError::host("starting has panicked", error))??;
        let pending = registry.look(true).await;
        let watch = tokio::spawn(watch.keep(Arc::clone(&registry), pending)).abort_handle();
        Ok(Self(Arc::new(Shared { registry, watch })))
    }

    /// The plugin that serves this slug.
    pub fn get(&self, slug: &str) -> Option<Arc<Plugin>> {
        self.0.registry.get(slug)
    }

    /// All slugs that are served, in alphabetical order.
    pub fn slugs(&self) -> Vec<String> {
        self.0.registry.slugs()
    }

    /// Every file of the folder, by name, with what it serves or why it is refused.
    pub fn status(&self) -> Vec<PluginStatus> {
        self.0.registry.status()
    }

    /// Loads one file without a folder, for tools. Blocks on the compiler.
    pub fn load_file(path: &Path, limits: &Limits) -> Result<Arc<Plugin>, PluginError> {
        Self::load(path, Loader::for_file(limits)?)
    }

    /// Like [`Plugins::load_file`], with code that counts the instructions it executes: the same number on every
    /// machine, in up to twice the time. For [`Plugin::measure`].
    pub fn load_counting(path: &Path, limits: &Limits) -> Result<Arc<Plugin>, PluginError> {
        Self::load(path, Loader::counting(limits)?)
    }

    fn load(path: &Path, loader: Loader) -> Result<Arc<Plugin>, PluginError> {
        let candidate = loader.candidate(path)?;
        let stats = loader.metrics.of(&candidate.descriptor.slug);
        Ok(Arc::new(loader.plugin(candidate, stats)))
    }
}
