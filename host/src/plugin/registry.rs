//! Decides which file serves which slug.
//!
//! A file is served from the moment it has passed every check until a newer state of the same file has passed them, or until
//! the file is gone. A bad file is reported and changes nothing. Deliveries in flight keep the plugin they began with.
//!
//! When the lock file changes, every file is judged again. A plugin is still served while its slug is pinned to a file that is
//! not there yet, so that pinning before copying leaves no gap. Where only pinned plugins are served, a plugin whose slug is no
//! longer pinned at all is removed.
//!
//! This module lists the folder and loads files; `files` keeps track of each of them, `verdict` admits or refuses them.

mod files;
mod verdict;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::{self, JoinHandle},
    time,
};

use self::files::{KnownFile, Seen};
pub(crate) use self::verdict::takes_over;
use super::{
    error::{LoadError, Refusal},
    folder::{SETTLE, Sight, file_name, list},
    guest::Plugin,
    load::{Candidate, Loader},
    status::{PluginDetails, PluginState, PluginStatus},
    trust::{LockLook, Trust},
};

/// How long the next file waits for this one when a host starts, and a plugin whose file is gone for a new one that may take its
/// place. Rust plugins compile in a fraction of it, so files are usually loaded in the order of their names, and replaced without a
/// gap. A Python plugin may take half a minute, which the others need not wait for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Maximum number of files that are read, compiled or asked to describe themselves at once. Each occupies a thread, and most
/// threads are needed for deliveries.
const LOADS_AT_ONCE: usize = 8;

/// Maximum number of plugins that are compiled at once: a slow one leaves room for another.
const COMPILERS_AT_ONCE: usize = 2;

/// The plugins of a folder.
pub(crate) struct Registry {
    folder: PathBuf,
    loader: Arc<Loader>,
    compilers: Arc<Semaphore>,
    serving: ArcSwap<HashMap<String, Arc<Plugin>>>,
    files: Mutex<BTreeMap<PathBuf, KnownFile>>,
    /// Why the folder cannot be listed now, if it cannot.
    unreadable: Mutex<Option<String>>,
}

impl Registry {
    pub(crate) fn new(folder: PathBuf, loader: Loader) -> Self {
        Self {
            folder,
            loader: Arc::new(loader),
            compilers: Arc::new(Semaphore::new(COMPILERS_AT_ONCE)),
            serving: ArcSwap::default(),
            files: Mutex::default(),
            unreadable: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, slug: &str) -> Option<Arc<Plugin>> {
        self.serving.load().get(slug).cloned()
    }

    pub(crate) fn slugs(&self) -> Vec<String> {
        let mut slugs: Vec<String> = self.serving.load().keys().cloned().collect();
        slugs.sort();
        slugs
    }

    pub(crate) fn status(&self) -> Vec<PluginStatus> {
        let trust = self.loader.trust();
        // A folder or lock file that cannot be used is shown as one more refused file.
        let refused = |file, problem| PluginStatus {
            file,
            state: PluginState::Refused,
            problem: Some(problem),
            pinned: None,
            plugin: None,
        };
        let folder = self.unreadable().clone();
        let folder = folder.map(|problem| refused(file_name(&self.folder), problem));
        let lock = trust.and_then(|trust| Some(refused(trust.lock_name(), trust.problem()?)));
        let files = self.files();
        let plugins = files.iter().filter_map(|(path, file)| {
            let plugin = file.plugin.as_deref();
            let problem = file.problem.as_ref().map(|problem| problem.text.clone());
            let state = match plugin {
                Some(plugin) => PluginState::of(plugin),
                None if problem.is_some() => PluginState::Refused,
                None if file.is_being_read() => PluginState::Loading,
                // Files that are not yet read or not yet forgotten are not shown.
                None => return None,
            };
            Some(PluginStatus {
                file: file_name(path),
                state,
                problem,
                pinned: plugin.and_then(|plugin| trust?.pins(&plugin.descriptor().slug, &plugin.digest)),
                plugin: plugin.map(PluginDetails::of),
            })
        });
        folder.into_iter().chain(lock).chain(plugins).collect()
    }

    /// Looks at the folder and updates what is served. The first look does not wait for files to settle, but it waits for slow
    /// files, for as long as one file may take to compile. Returns whether something has yet to settle or to be read, so that
    /// another look is due soon.
    pub(crate) async fn look(self: &Arc<Self>, first: bool) -> bool {
        let (folder, loader) = (self.folder.clone(), Arc::clone(&self.loader));
        let found = task::spawn_blocking(move || {
            let trust = loader.trust();
            let signed = trust.is_some_and(Trust::asks_for_signatures);
            let found = list(&folder, signed)?;
            // Not before the folder is listed: a lock that has changed takes effect on the files of a listing, and is told only once.
            let lock = trust.map_or(LockLook::Same, |trust| trust.refresh(Instant::now()));
            Ok::<_, io::Error>((lock, found))
        })
        .await;
        let lock = match found {
            Ok(Ok((lock, found))) => {
                self.note_readable();
                self.note(found, lock == LockLook::Changed, Instant::now());
                lock
            }
            Ok(Err(error)) => {
                self.note_unreadable(&error);
                self.count_refused();
                return false;
            }
            Err(error) => {
                tracing::error!(%error, "listing the plugin folder has panicked");
                return false;
            }
        };
        let settle = if first { Duration::ZERO } else { SETTLE };
        let mut slow = self.load_all(self.due(settle, Instant::now()), first).await;
        self.drop_gone(Instant::now());
        slow.extend(
            self.load_all(self.refused_for_a_while(Instant::now()), first)
                .await,
        );
        if first {
            let all = futures::future::join_all(slow);
            // Files that take even longer are loaded while deliveries are already served.
            let _ = time::timeout(self.loader.limits().compile_time, all).await;
        }
        self.count_refused();
        lock == LockLook::Pending
            || self
                .files()
                .values()
                .any(|file| !file.is_loading && !matches!(file.seen, Seen::Settled { .. }))
    }

    /// Sets the gauges of refused files.
    fn count_refused(&self) {
        let files = self.files();
        let problems = files.values().filter_map(|file| file.problem.as_ref());
        let mut refused: Vec<Refusal> = problems.map(|problem| problem.refusal).collect();
        let lock_problem = self.loader.trust().and_then(Trust::problem);
        refused.extend(lock_problem.map(|_| Refusal::Lock));
        refused.extend(self.unreadable().as_ref().map(|_| Refusal::Unreadable));
        self.loader.metrics.set_refused_files(&refused);
    }

    /// Notes that the folder cannot be listed. What is served stays served: that says nothing about the files. Logged once, not
    /// every second.
    fn note_unreadable(&self, error: &io::Error) {
        let text = format!(
            "the plugin folder cannot be read ({error}): until it can, no file and no lock that is added, changed or removed \
             takes effect"
        );
        let before = self.unreadable().replace(text.clone());
        if before.is_none() {
            tracing::warn!(plugin.folder = %self.folder.display(), "{text}");
        }
    }

    /// Notes that the folder has been listed.
    fn note_readable(&self) {
        if self.unreadable().take().is_some() {
            tracing::info!(plugin.folder = %self.folder.display(), "the plugin folder can be read again");
        }
    }

    /// Loads these files. The first look loads one after the other as long as each is quick, and returns the tasks of those that are
    /// not. Later ones wait for nothing, so that a slow file delays neither another nor the end of one that is gone; when too many
    /// are being loaded, the remaining files are left for the next look.
    async fn load_all(self: &Arc<Self>, due: Vec<(PathBuf, Sight)>, first: bool) -> Vec<JoinHandle<()>> {
        let mut slow: Vec<JoinHandle<()>> = Vec::new();
        for (path, sight) in due {
            if self.loading() >= LOADS_AT_ONCE {
                if !first || slow.is_empty() {
                    break;
                }
                let _ = futures::future::select_all(&mut slow).await;
                slow.retain(|load| !load.is_finished());
            }
            if let Some(file) = self.files().get_mut(&path) {
                file.is_loading = true;
            }
            let registry = Arc::clone(self);
            let mut load = task::spawn(async move { registry.load(&path, sight).await });
            if first && time::timeout(PATIENCE, &mut load).await.is_err() {
                slow.push(load);
            }
        }
        slow
    }

    fn loading(&self) -> usize {
        self.files().values().filter(|file| file.is_loading).count()
    }

    /// Reads a file, and serves it if it passes. `seen` is its state when the folder was listed.
    async fn load(self: &Arc<Self>, path: &Path, seen: Sight) {
        let candidate = self.candidate(path).await;
        match candidate {
            Ok(candidate) => self.admit(path, seen, candidate),
            Err(error) => self.refuse(path, seen, &error),
        }
        if let Some(file) = self.files().get_mut(path) {
            file.is_loading = false;
            if std::mem::take(&mut file.is_outdated)
                && let Seen::Settled { sight } = file.seen
            {
                let since = Instant::now();
                file.seen = Seen::Changed { sight, since };
            }
        }
    }

    async fn candidate(self: &Arc<Self>, path: &Path) -> Result<Candidate, LoadError> {
        let loader = Arc::clone(&self.loader);
        let limit = loader.limits().compile_time;
        let owned = path.to_owned();
        let compilers = Arc::clone(&self.compilers);
        let runtime = Handle::current();
        // Waiting for a free compiler is not the file's fault: the clock starts when compiling does.
        let began = Arc::new(OnceLock::new());
        let begins = Arc::clone(&began);
        let compiler = move || {
            let slot = runtime.block_on(compilers.acquire_owned());
            begins.get_or_init(Instant::now);
            slot
        };
        let mut load = task::spawn_blocking(move || loader.candidate(&owned, compiler));
        loop {
            let elapsed = began.get().map_or(Duration::ZERO, Instant::elapsed);
            if elapsed >= limit {
                // A compiler cannot be stopped: one that takes too long runs to its end. The file is then read again, unless its
                // code was not cached and would only have to be compiled again.
                let (registry, path) = (Arc::clone(self), path.to_owned());
                task::spawn(async move {
                    if let Ok(Ok(candidate)) = load.await
                        && registry.loader.keeps(&candidate.digest)
                    {
                        registry.read_again(&path);
                    }
                });
                return Err(LoadError::CompileTime(limit));
            }
            match time::timeout(limit - elapsed, &mut load).await {
                Ok(Ok(candidate)) => return candidate,
                Ok(Err(panic)) => return Err(LoadError::Compile(panic.to_string())),
                Err(_) => {}
            }
        }
    }

    fn unreadable(&self) -> MutexGuard<'_, Option<String>> {
        // A text is put there or taken away in one step.
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, KnownFile>> {
        // Every change leaves the map consistent at each step, so a panic does not corrupt it.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
