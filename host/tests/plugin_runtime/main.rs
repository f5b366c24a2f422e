//! The plugin runtime, from outside: hand-made plugins in a folder, deliveries through the public API.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cache;
mod fair;
mod folder;
mod gallery;
mod guest;
mod hostile;
mod lane;
mod lines;
mod page;
mod quarantine;
mod refused;
mod trust;
mod wasi;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use prometheus_client::registry::Registry;
use sendflowr_host::{
    DEFAULT_ACCOUNT,
    plugin::{
        Limits, Plugin, PluginError, PluginMetrics, PluginState, PluginStatus, Plugins, PluginsConfig,
        QuarantineConfig, TrustedKeys,
        types::{Outcome, Request},
    },
};
use store::testing::eventually;
use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Most tests run in parallel; those that measure the machine run alone.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// What a test holds of [`MACHINE`]. A test opens one world after another, never two at a time: while another test
/// waits to be alone, the second world would wait for that test, and that test for the first world.
#[expect(dead_code, reason = "held, never read")]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A plugin folder and a runtime that serves it.
struct World {
    plugins: Plugins,
    registry: Registry,
    config: PluginsConfig,
    // Removed after the runtime.
    _data: Option<TempDir>,
    _turn: Turn,
}

/// Returns a configuration with a test's folders.
fn config(data: &TempDir) -> PluginsConfig {
    PluginsConfig {
        folder: data.path().join("plugins"),
        cache_folder: data.path().join("compiled"),
        lock: data.path().join("plugins/plugins.lock"),
        locked: false,
        trusted_keys: TrustedKeys::default(),
        limits: Limits::default(),
        quarantine: QuarantineConfig::default(),
    }
}

impl World {
    /// Opens a folder with these files.
    async fn with(files: &[(&str, Vec<u8>)]) -> Self {
        Self::configured(files, |_| {}).await
    }

    /// The same, with the machine to itself.
    async fn alone(files: &[(&str, Vec<u8>)]) -> Self {
        let turn = Turn::Alone(MACHINE.write().await);
        Self::filled(files, |_| {}, turn).await
    }

    async fn configured(files: &[(&str, Vec<u8>)], change: impl FnOnce(&mut PluginsConfig)) -> Self {
        let turn = Turn::Shared(MACHINE.read().await);
        Self::filled(files, change, turn).await
    }

    async fn filled(files: &[(&str, Vec<u8>)], change: impl FnOnce(&mut PluginsConfig), turn: Turn) -> Self {
        let data = TempDir::new().unwrap();
        let mut config = config(&data);
        change(&mut config);
        fs::create_dir(&config.folder).unwrap();
        for (name, bytes) in files {
            fs::write(config.folder.join(name), bytes).unwrap();
        }
        Self::over(config, Some(data), turn).await
    }

    /// Opens a runtime on existing folders.
    async fn open(config: PluginsConfig) -> Self {
        let turn = Turn::Shared(MACHINE.read().await);
        Self::over(config, None, turn).await
    }

    async fn over(config: PluginsConfig, data: Option<TempDir>, turn: Turn) -> Self {
        let mut registry = Registry::default();
        let metrics = PluginMetrics::register(&mut registry);
        let plugins = Plugins::open(config.clone(), metrics).await.unwrap();
        Self {
            plugins,
            registry,
            config,
            _data: data,
            _turn: turn,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.config.folder.join(name)
    }

    fn plugin(&self, slug: &str) -> Arc<Plugin> {
        self.plugins
            .get(slug)
            .unwrap_or_else(|| panic!("`{slug}` does not serve: {:?}", self.plugins.status()))
    }

    async fn deliver(&self, slug: &str) -> Result<usize, PluginError> {
        deliver(&self.plugin(slug), b"").await
    }

    fn status(&self, file: &str) -> PluginStatus {
        let status = self.plugins.status();
        status
            .iter()
            .find(|status| status.file == file)
            .unwrap_or_else(|| panic!("no `{file}` in {status:?}"))
            .clone()
    }

    /// Returns why this file is not served.
    fn problem(&self, file: &str) -> String {
        self.status(file)
            .problem
            .unwrap_or_else(|| panic!("`{file}` has no problem"))
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// Returns the value of the one series that begins like this.
    #[track_caller]
    fn metric(&self, series: &str) -> i64 {
        let text = self.metrics();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no `{series}` in\n{text}"))
            .parse()
            .unwrap()
    }
}

/// Makes one complete delivery; returns the number of events.
async fn deliver(plugin: &Arc<Plugin>, body: &[u8]) -> Result<usize, PluginError> {
    let request = request(body);
    let (guest, proofs) = plugin
        .instantiate(DEFAULT_ACCOUNT)
        .await?
        .authenticate(Arc::clone(&request))
        .await?;
    proofs.expect("these guests refuse nothing");
    match guest
        .normalize(request)
        .await?
        .expect("these guests refuse nothing")
    {
        Outcome::Events(batch) => Ok(batch.events.len()),
        other => panic!("{other:?}"),
    }
}

fn request(body: &[u8]) -> Arc<Request> {
    Arc::new(Request {
        method: "POST".to_owned(),
        path: "/webhooks/test".to_owned(),
        query: String::new(),
        headers: Vec::new(),
        body: body.to_vec(),
        received_at_ms: 1_700_000_000_000,
        settings: Vec::new(),
        secrets: Vec::new(),
    })
}

fn is_loading(world: &World, file: &str) -> bool {
    let status = world.plugins.status();
    status
        .iter()
        .any(|status| status.file == file && status.state == PluginState::Loading)
}

/// Puts a file in place in one step.
fn rename_into(path: &Path, bytes: &[u8]) {
    let unfinished = path.with_extension("part");
    fs::write(&unfinished, bytes).unwrap();
    fs::rename(unfinished, path).unwrap();
}
