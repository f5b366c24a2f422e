//! From a file to a plugin: read, inspect, compile, link, ask it who it is.

use std::{
    fmt,
    fs::{self, File, Metadata, OpenOptions},
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    sync::{Arc, atomic::AtomicUsize},
    time::Instant,
};

use prometheus_client::registry::Registry;
use ring::digest;
use tokio::sync::Semaphore;
use wasmtime::{Engine, component::Component};

use super::{
    bindings::{Bindings, types::Descriptor},
    cache::CodeCache,
    config::PluginsConfig,
    descriptor,
    engine::engine,
    error::{LoadError, PluginError},
    guest::{self, Plugin},
    inspect::{Inspection, inspect},
    lane::Lane,
    limits::Limits,
    log::PluginLog,
    metrics::{PluginMetrics, PluginStats},
    quarantine::{Quarantine, QuarantineConfig},
    sandbox::{Sandbox, count_instructions, start_clock, stop_clock},
    wasi::ClosedWorld,
};

/// SHA-256 of a plugin file, in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(String);

impl Digest {
    fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(digest::digest(&digest::SHA256, bytes)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What tells one state of a file from another without reading it. The change time sees what a copy that
/// preserves times would hide, the inode sees a rename over the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Size of the file in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The fingerprint of what `path` leads to, symlinks followed.
    pub(crate) fn at(path: &Path) -> Result<Self, LoadError> {
        let metadata = fs::metadata(path).map_err(LoadError::Read)?;
        if !metadata.is_file() {
            return Err(LoadError::NotAFile);
        }
        Ok(Self::of(&metadata))
    }
}

/// Opening a pipe that someone put into the folder must not wait for its other end. Regular files do not care.
const O_NONBLOCK: i32 = 0o4000;

/// Reads a file once: what is hashed is what is compiled. Fails when it changes meanwhile.
fn read(path: &Path, limit: u64) -> Result<(Vec<u8>, Fingerprint), LoadError> {
    // Not opened unless it looks like a file, because opening a device may do something.
    Fingerprint::at(path)?;
    let mut file: File = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .map_err(LoadError::Read)?;
    let metadata = file.metadata().map_err(LoadError::Read)?;
    if !metadata.is_file() {
        return Err(LoadError::NotAFile);
    }
    let before = Fingerprint::of(&metadata);
    if before.size > limit {
        return Err(LoadError::TooLarge { limit });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.size).unwrap_or(0));
    // One byte more shows that the file grows.
    (&mut file)
        .take(before.size + 1)
        .read_to_end(&mut bytes)
        .map_err(LoadError::Read)?;
    let after = Fingerprint::of(&file.metadata().map_err(LoadError::Read)?);
    if before != after || u64::try_from(bytes.len()) != Ok(before.size) {
        return Err(LoadError::Changing);
    }
    Ok((bytes, before))
}

/// Makes plugins of files. All that it makes share one engine and its limits.
pub(crate) struct Loader {
    engine: Engine,
    counts_instructions: bool,
    limits: Arc<Limits>,
    quarantine: QuarantineConfig,
    cache: Option<CodeCache>,
    pub(crate) metrics: PluginMetrics,
    places: Arc<Semaphore>,
    lane: Arc<Lane>,
}

/// A plugin that has passed every check and is not yet served.
pub(crate) struct Candidate {
    pub(crate) descriptor: Descriptor,
    pub(crate) digest: Digest,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) inspection: Inspection,
    bindings: Bindings,
}

impl Loader {
    /// A loader for a folder's plugins. Blocks on the disk.
    pub(crate) fn for_folder(config: &PluginsConfig, metrics: PluginMetrics) -> Result<Self, PluginError> {
        let places = config.limits.total_concurrency;
        let mut loader = Self::new(
            config.limits.clone(),
            places,
            config.quarantine.clone(),
            metrics,
            false,
        )?;
        match CodeCache::open(&config.cache_folder, &loader.engine) {
            Ok(cache) => loader.cache = Some(cache),
            Err(error) => tracing::warn!(
                cache.folder = %config.cache_folder.display(),
                %error,
                "compiled plugins are not kept; every start compiles them again"
            ),
        }
        Ok(loader)
    }

    /// A loader for a single file, which keeps no compiled code and takes less address space.
    pub(crate) fn for_file(limits: &Limits) -> Result<Self, PluginError> {
        Self::for_one(limits, false)
    }

    /// The same, for code that counts the instructions it executes.
    pub(crate) fn counting(limits: &Limits) -> Result<Self, PluginError> {
        Self::for_one(limits, true)
    }

    fn for_one(limits: &Limits, counts_instructions: bool) -> Result<Self, PluginError> {
        let metrics = PluginMetrics::register(&mut Registry::default());
        Self::new(
            limits.clone(),
            limits.concurrency,
            QuarantineConfig::default(),
            metrics,
            counts_instructions,
        )
    }

    fn new(
        limits: Limits,
        places: usize,
        quarantine: QuarantineConfig,
        metrics: PluginMetrics,
        counts_instructions: bool,
    ) -> Result<Self, PluginError> {
        Ok(Self {
            engine: engine(&limits, places, counts_instructions)?,
            counts_instructions,
            limits: Arc::new(limits),
            quarantine,
            cache: None,
            metrics,
            places: Arc::new(Semaphore::new(places)),
            lane: Lane::of_this_machine(),
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Reads and checks a file. Blocks: on the disk, on the compiler, and on the plugin's `describe`.
    pub(crate) fn candidate(&self, path: &Path) -> Result<Candidate, LoadError> {
        let (bytes, fingerprint) = read(path, self.limits.file_bytes)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let inspection = inspect(&bytes, &name, &self.limits)?;
        let digest = Digest::of(&bytes);
        let component = self.compiled(&bytes, &digest)?;
        let bindings = Bindings::link(&self.engine, inspection.contract, &component)
            .map_err(|error| LoadError::Compile(format!("{error:#}")))?;
        let descriptor = self.describe(&bindings, &name, inspection.imports_wasi())?;
        descriptor::check(&descriptor).map_err(LoadError::Descriptor)?;
        Ok(Candidate {
            descriptor,
            digest,
            fingerprint,
            inspection,
            bindings,
        })
    }

    fn compiled(&self, bytes: &[u8], digest: &Digest) -> Result<Component, LoadError> {
        if let Some(component) = self
            .cache
            .as_ref()
            .and_then(|cache| cache.get(&self.engine, digest))
        {
            self.metrics.found_in_cache();
            return Ok(component);
        }
        let component = Component::from_binary(&self.engine, bytes)
            .map_err(|error| LoadError::Compile(format!("{error:#}")))?;
        self.metrics.compiled();
        if let Some(cache) = &self.cache
            && let Err(error) = cache.put(digest, &component)
        {
            tracing::warn!(plugin.digest = %digest, %error, "compiled plugin cannot be kept");
        }
        Ok(component)
    }

    /// Asks the plugin twice who it is, within the limits of a delivery each time.
    fn describe(&self, bindings: &Bindings, name: &str, imports_wasi: bool) -> Result<Descriptor, LoadError> {
        // No series before the plugin is served.
        let stats = PluginMetrics::register(&mut Registry::default()).of(name);
        let log = Arc::new(PluginLog::new(name.to_owned(), &self.limits, stats));
        let wasi = imports_wasi.then(|| Box::new(ClosedWorld::new(None, Arc::clone(&log))));
        let mut store = Sandbox::store(&self.engine, &self.limits, &self.lane, log, wasi);
        if self.counts_instructions {
            count_instructions(&mut store);
        }
        let failed = |error: wasmtime::Error| LoadError::Describe {
            source: Box::new(guest::fault(name, "describe", self.limits.wall_clock, &error)),
        };
        start_clock(&mut store, Instant::now() + self.limits.wall_clock);
        let instance = bindings.instantiate(&mut store).map_err(failed)?;
        let first = instance.describe(&mut store).map_err(failed)?;
        let second = instance.describe(&mut store).map_err(failed)?;
        stop_clock(&mut store);
        if first != second {
            return Err(LoadError::Descriptor(
                "a second call gives another answer".to_owned(),
            ));
        }
        Ok(first)
    }

    /// Puts a candidate to work.
    pub(crate) fn plugin(&self, candidate: Candidate, stats: Arc<PluginStats>) -> Plugin {
        let Candidate {
            descriptor,
            digest,
            inspection,
            bindings,
            ..
        } = candidate;
        let tag = format!("{}@{}", descriptor.slug, descriptor.version);
        stats.quarantined.set(0);
        Plugin {
            log: Arc::new(PluginLog::new(tag.clone(), &self.limits, Arc::clone(&stats))),
            tag,
            descriptor,
            digest,
            contract: inspection.contract,
            imports_wasi: inspection.imports_wasi(),
            bindings,
            engine: self.engine.clone(),
            counts_instructions: self.counts_instructions,
            limits: Arc::clone(&self.limits),
            turns: Arc::new(Semaphore::new(self.limits.concurrency)),
            places: Arc::clone(&self.places),
            lane: Arc::clone(&self.lane),
            waiting: AtomicUsize::new(0),
            quarantine: Quarantine::new(self.quarantine.clone(), Instant::now()),
            stats,
        }
    }
}
