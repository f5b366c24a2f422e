//! Turns a file into a plugin: reads it, checks pin and signature, inspects, compiles and links it, and asks it to
//! describe itself.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::Instant,
};

use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use wasmtime::{Engine, component::Component};

use super::{
    bindings::{Bindings, types::Descriptor},
    cache::CodeCache,
    compile,
    config::PluginsConfig,
    descriptor,
    engine::engine,
    error::{LoadError, PluginError},
    file::{self, Digest, Fingerprint},
    guest::{self, Plugin},
    inspect::{Inspection, inspect, said},
    lane::{Lane, to_end},
    limits::Limits,
    log::PluginLog,
    metrics::{PluginMetrics, PluginStats},
    quarantine::{Quarantine, QuarantineConfig},
    sandbox::{Sandbox, count_instructions, start_clock, stop_clock},
    trust::{Trust, Verdict},
    wasi::ClosedWorld,
};

/// Plugins that are asked to describe themselves at once. One, because it takes milliseconds, and each further one
/// would reserve the memory of another delivery.
const ASKED_AT_ONCE: usize = 1;

/// Loads plugins from files. All plugins of a loader share one engine and its limits.
pub(crate) struct Loader {
    engine: Engine,
    counts_instructions: bool,
    limits: Arc<Limits>,
    quarantine: QuarantineConfig,
    cache: Option<CodeCache>,
    /// Absent in tools that look at any file.
    trust: Option<Trust>,
    pub(crate) metrics: PluginMetrics,
    /// Slots for deliveries; the engine has [`ASKED_AT_ONCE`] more, so that neither use takes the other's.
    slots: Arc<Semaphore>,
    /// Held while a plugin is asked to describe itself.
    asking: Mutex<()>,
    lane: Arc<Lane>,
}

/// A plugin that has passed every check but is not yet served.
pub(crate) struct Candidate {
    pub(crate) descriptor: Descriptor,
    pub(crate) digest: Digest,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) inspection: Inspection,
    /// Whether the lock file pins it; `None` if there is no lock file.
    pub(crate) pinned: Option<bool>,
    bindings: Bindings,
}

impl Loader {
    /// Creates a loader for a folder's plugins. Blocks on the disk.
    pub(crate) fn for_folder(config: &PluginsConfig, metrics: PluginMetrics) -> Result<Self, PluginError> {
        let slots = config.limits.total_concurrency;
        let mut loader = Self::new(
            config.limits.clone(),
            slots,
            config.quarantine.clone(),
            metrics,
            false,
        )?;
        loader.trust = Some(Trust::open(config)?);
        match CodeCache::open(&config.cache_folder, &loader.engine) {
            Ok(cache) => loader.cache = Some(cache),
            Err(error) => tracing::warn!(
                cache.folder = %config.cache_folder.display(),
                %error,
                "compiled plugins cannot be cached; every start compiles them again"
            ),
        }
        Ok(loader)
    }

    /// Creates a loader for single files, which caches no compiled code and takes less address space.
    pub(crate) fn for_file(limits: &Limits) -> Result<Self, PluginError> {
        Self::for_one(limits, false)
    }

    /// Creates a loader for single files that demands of them what a host demands of its folder. Blocks on the disk.
    pub(crate) fn judging(config: &PluginsConfig) -> Result<Self, PluginError> {
        let mut loader = Self::for_one(&config.limits, false)?;
        loader.trust = Some(Trust::open(config)?);
        Ok(loader)
    }

    /// Creates a loader for single files whose code counts the instructions it executes.
    pub(crate) fn counting(limits: &Limits) -> Result<Self, PluginError> {
        Self::for_one(limits, true)
    }

    fn for_one(limits: &Limits, counts_instructions: bool) -> Result<Self, PluginError> {
        let metrics = PluginMetrics::register(&mut Registry::default());
        Self::new(
            limits.clone(),
            limits.concurrency,
            QuarantineConfig::never(),
            metrics,
            counts_instructions,
        )
    }

    fn new(
        limits: Limits,
        slots: usize,
        quarantine: QuarantineConfig,
        metrics: PluginMetrics,
        counts_instructions: bool,
    ) -> Result<Self, PluginError> {
        Ok(Self {
            engine: engine(&limits, slots + ASKED_AT_ONCE, counts_instructions)?,
            counts_instructions,
            limits: Arc::new(limits),
            quarantine,
            cache: None,
            trust: None,
            metrics,
            slots: Arc::new(Semaphore::new(slots)),
            asking: Mutex::default(),
            lane: Arc::new(
                Lane::of_this_machine()
                    .map_err(|error| PluginError::host("cannot create the threads for long calls", error))?,
            ),
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns whether the compiled code of the plugin with this digest is cached.
    pub(crate) fn keeps(&self, digest: &Digest) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.has(digest))
    }

    /// Returns what is demanded of files in a folder.
    pub(crate) fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    /// Reads and checks a file. Blocks: on the disk, on the compiler, and on the plugin's `describe`. Before compilation starts,
    /// `compiler` is called to wait for a slot; the value that it returns is held until compilation has ended.
    pub(crate) fn candidate<Slot>(
        &self,
        path: &Path,
        compiler: impl FnOnce() -> Slot,
    ) -> Result<Candidate, LoadError> {
        let (bytes, fingerprint) = file::read(path, self.limits.file_bytes, "`file_bytes`")?;
        let digest = Digest::of(&bytes);
        let verdict = match &self.trust {
            Some(trust) => trust.check(path, &bytes, &digest)?,
            None => Verdict::none(),
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let inspection = inspect(&bytes, &name, &self.limits)?;
        let component = self.compiled(&bytes, &digest, compiler)?;
        let bindings = Bindings::link(&self.engine, inspection.contract, &component)
            .map_err(|error| LoadError::Compile(said(format_args!("{error:#}"))))?;
        let descriptor = self.describe(&bindings, &name, inspection.imports_wasi())?;
        descriptor::check(&descriptor).map_err(LoadError::Descriptor)?;
        let pinned = verdict.confirm(&descriptor.slug, &digest)?;
        Ok(Candidate {
            descriptor,
            digest,
            fingerprint,
            inspection,
            pinned,
            bindings,
        })
    }

    fn compiled<Slot>(
        &self,
        bytes: &[u8],
        digest: &Digest,
        compiler: impl FnOnce() -> Slot,
    ) -> Result<Component, LoadError> {
        if let Some(component) = self
            .cache
            .as_ref()
            .and_then(|cache| cache.get(&self.engine, digest))
        {
            self.metrics.found_in_cache();
            return Ok(component);
        }
        let component = {
            let _slot = compiler();
            compile::component(&self.engine, bytes)?
        };
        self.metrics.compiled();
        if let Some(cache) = &self.cache
            && let Err(error) = cache.put(digest, &component)
        {
            tracing::warn!(plugin.digest = %digest, %error, "compiled plugin cannot be cached");
        }
        Ok(component)
    }

    /// Asks the plugin twice to describe itself, each time within the limits of a delivery.
    fn describe(&self, bindings: &Bindings, name: &str, imports_wasi: bool) -> Result<Descriptor, LoadError> {
        // Declared before the store, so that the store's slot is free when the next plugin is asked. It guards nothing
        // that a panic could corrupt.
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        // The metrics get no series before the plugin is served.
        let stats = PluginMetrics::register(&mut Registry::default()).of(name);
        let log = Arc::new(PluginLog::new(name.to_owned(), &self.limits, stats));
        let wasi = imports_wasi.then(|| Box::new(ClosedWorld::new(None, Arc::clone(&log))));
        let mut store = Sandbox::store(&self.engine, &self.limits, log, wasi);
        if self.counts_instructions {
            count_instructions(&mut store);
        }
        let failed = |error: wasmtime::Error| LoadError::Describe {
            source: Box::new(guest::fault(name, "describe", self.limits.wall_clock, &error)),
        };
        start_clock(&mut store, Instant::now() + self.limits.wall_clock);
        let instance = to_end(bindings.instantiate(&mut store)).map_err(failed)?;
        let first = to_end(instance.describe(&mut store)).map_err(failed)?;
        let second = to_end(instance.describe(&mut store)).map_err(failed)?;
        stop_clock(&mut store);
        if first != second {
            return Err(LoadError::Descriptor(
                "a second call returned a different descriptor".to_owned(),
            ));
        }
        Ok(first)
    }

    /// Turns a candidate into a plugin that can serve.
    pub(crate) fn plugin(&self, candidate: Candidate, stats: Arc<PluginStats>) -> Plugin {
        let Candidate {
            descriptor,
            digest,
            inspection,
            bindings,
            ..
        } = candidate;
        let tag = format!("{}@{}", descriptor.slug, descriptor.version);
        let quarantine = Arc::new(Quarantine::new(self.quarantine.clone(), Instant::now()));
        stats.quarantined.follow(&quarantine);
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
            slots: Arc::new(Semaphore::new(self.limits.concurrency)),
            all_slots: Arc::clone(&self.slots),
            lane: Arc::clone(&self.lane),
            waiting: AtomicUsize::new(0),
            quarantine,
            stats,
        }
    }
}
