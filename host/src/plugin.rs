//! The plugin runtime: loads provider plugins from a folder and runs them in a sandbox.
//!
//! A plugin is a WebAssembly component of the contract in `wit/`. Every delivery gets an instance of its own, limited in
//! CPU time, memory, stack and output; nothing of it remains afterwards. Files that are put into the folder, replaced or removed
//! take effect within a second, and deliveries in flight end on the plugin they began with. Only what has to be compiled takes as
//! long as that does: a removal waits up to two seconds for new files that are being compiled, and a new file for one of eight
//! places. When a plugin keeps failing on an account's deliveries, the account is put in quarantine for it, which ends
//! automatically. Whatever a plugin does, it affects only its own provider.
//!
//! ```text
//! folder ─▶ registry ─▶ load: read ▸ pin and signature ▸ inspect ▸ compile (cache) ▸ link ▸ describe ─▶ Plugin
//! delivery ─▶ Plugin::instantiate ─▶ Guest::authenticate ─▶ (proofs are checked) ─▶ Guest::normalize
//! ```

mod bindings;
mod cache;
mod compile;
mod config;
mod descriptor;
mod engine;
mod error;
mod examine;
mod file;
mod folder;
mod guest;
mod inspect;
mod lane;
mod limits;
mod load;
mod lock;
mod log;
mod measure;
mod metrics;
mod output;
mod quarantine;
mod registry;
mod reload;
mod sandbox;
mod signature;
mod status;
mod survey;
mod trust;
mod wasi;

use std::{path::Path, sync::Arc};

use tokio::task::{self, AbortHandle};

pub(crate) use self::limits::{DEFAULT_MAX_CONCURRENT_DELIVERIES, waiting_of};
pub use self::{
    bindings::types,
    config::{PluginsConfig, PluginsConfigError, RawPluginsConfig},
    error::{Fault, Limit, LoadError, PluginError},
    examine::{Examination, LimitUse},
    guest::{Guest, Plugin},
    inspect::is_of_wasip1,
    limits::{Limits, RawLimits},
    lock::{LockError, LockWriter, Pin, PluginLock},
    measure::Measured,
    metrics::PluginMetrics,
    quarantine::{QuarantineConfig, RawQuarantineConfig},
    signature::{InvalidTrustedKey, MOST_SIGNATURE_BYTES, SignatureError, TrustedKeys, signature_path},
    status::{PluginDetails, PluginState, PluginStatus, QuarantinedAccount, SpecStatus},
    survey::{Served, Surveyed},
};
use self::{folder::make_folder, load::Loader, registry::Registry, reload::Watch};

/// The plugins of a folder. Clones share them; the folder is watched until the last clone is dropped.
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
    /// and in the log. Fails only when the host cannot run plugins at all, or when the lock file is invalid, or missing
    /// although it is required.
    pub async fn open(config: PluginsConfig, metrics: PluginMetrics) -> Result<Self, PluginError> {
        let (registry, watch) = task::spawn_blocking(move || {
            make_folder(&config.folder)?;
            let watch = Watch::start(&config.folder, &config.lock);
            let loader = Loader::for_folder(&config, metrics)?;
            Ok::<_, PluginError>((Arc::new(Registry::new(config.folder, loader)), watch))
        })
        .await
        .map_err(|error| PluginError::host("starting has panicked", error))??;
        let pending = registry.look(true).await;
        let watch = tokio::spawn(watch.keep(Arc::clone(&registry), pending)).abort_handle();
        Ok(Self(Arc::new(Shared { registry, watch })))
    }

    /// Returns the plugin that serves this slug.
    pub fn get(&self, slug: &str) -> Option<Arc<Plugin>> {
        self.0.registry.get(slug)
    }

    /// Returns all served slugs, in alphabetical order.
    pub fn slugs(&self) -> Vec<String> {
        self.0.registry.slugs()
    }

    /// Returns every file of the folder, sorted by name, with the plugin that it serves or why it is refused.
    pub fn status(&self) -> Vec<PluginStatus> {
        self.0.registry.status()
    }

    /// Forgets the quarantines of accounts that no longer exist; `is_there` gets the provider's and the account's name.
    pub(crate) fn keep_accounts(&self, is_there: impl Fn(&str, &str) -> bool) {
        for slug in self.slugs() {
            if let Some(plugin) = self.get(&slug) {
                plugin
                    .quarantine
                    .keep_accounts(|account| is_there(&slug, account));
            }
        }
    }

    /// Loads one file without a folder, for tools. Blocks on the compiler.
    pub fn load_file(path: &Path, limits: &Limits) -> Result<Arc<Plugin>, PluginError> {
        PluginLoader::try_new(limits)?.load(path)
    }

    /// Like [`Plugins::load_file`], but with code that counts the instructions it executes: the same number on every
    /// machine, in up to twice the time. For [`Plugin::measure`].
    pub fn load_counting(path: &Path, limits: &Limits) -> Result<Arc<Plugin>, PluginError> {
        PluginLoader(Loader::counting(limits)?).load(path)
    }
}

/// Loads files one after another into one engine, without a folder, for tools.
pub struct PluginLoader(Loader);

impl std::fmt::Debug for PluginLoader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PluginLoader").finish_non_exhaustive()
    }
}

impl PluginLoader {
    /// Creates a loader of plugins with these limits.
    ///
    /// # Errors
    /// [`PluginError::Host`] when this machine cannot run plugins.
    pub fn try_new(limits: &Limits) -> Result<Self, PluginError> {
        Loader::for_file(limits).map(Self)
    }

    /// Loads one file. Blocks on the compiler.
    ///
    /// # Errors
    /// [`PluginError::Load`] with the reason why the file would not be served.
    pub fn load(&self, path: &Path) -> Result<Arc<Plugin>, PluginError> {
        let candidate = self.0.candidate(path, || ())?;
        let stats = self.0.metrics.of(&candidate.descriptor.slug);
        Ok(Arc::new(self.0.plugin(candidate, stats)))
    }
}
