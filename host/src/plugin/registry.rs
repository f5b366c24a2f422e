//! Which file serves which slug.
//!
//! A file serves from the moment it has passed every check until another state of the same file has passed them, or
//! until the file is gone. A bad file is reported and changes nothing. Deliveries in flight keep the plugin they
//! began with.
//!
//! When the lock file changes every file is judged again. What serves goes on while its pin names a file that is not there
//! yet, so that pinning before copying leaves no gap; where only pinned plugins are served, one whose slug is no longer
//! pinned at all ends.

use std::{
    collections::{BTreeMap, HashMap},
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

use super::{
    error::{LoadError, Refusal},
    folder::{GONE, SETTLE, Sight, file_name, list},
    guest::Plugin,
    load::{Candidate, Loader},
    status::{PluginDetails, PluginState, PluginStatus},
    trust::{LockLook, Trust},
};

/// How long the next file waits for this one. Rust plugins are compiled in a fraction of it, so that files are taken in the
/// order of their names; one in Python may take half a minute, which the others need not wait for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Files that are being read, compiled or asked at once. Each holds a thread, of which deliveries need most.
const LOADS_AT_ONCE: usize = 8;

/// Plugins that are compiled at once: a slow one leaves a place to others.
const COMPILERS_AT_ONCE: usize = 2;

/// How long a file waits that the machine has failed. Overload and failing disks last at least that long, and nobody
/// restarts a host for less; reading and asking a file again costs milliseconds where compiled code is kept.
const AGAIN: Duration = Duration::from_secs(30);

/// The plugins of a folder.
pub(crate) struct Registry {
    folder: PathBuf,
    loader: Arc<Loader>,
    compilers: Arc<Semaphore>,
    serving: ArcSwap<HashMap<String, Arc<Plugin>>>,
    files: Mutex<BTreeMap<PathBuf, KnownFile>>,
}

/// A file of the folder as it was last seen.
struct KnownFile {
    seen: Seen,
    /// Whether it is being read, compiled or asked.
    is_loading: bool,
    /// Whether it is to be judged anew once that has ended.
    is_outdated: bool,
    /// What serves of it.
    plugin: Option<Arc<Plugin>>,
    /// Why the present state of the file is not served.
    problem: Option<Problem>,
}

enum Seen {
    /// It has changed and is to be read when it rests.
    Changed { sight: Sight, since: Instant },
    /// Its present state has been dealt with.
    Settled { sight: Sight },
    /// It is not there.
    Gone { since: Instant },
}

struct Problem {
    text: String,
    refusal: Refusal,
    /// The slug that another file had. The file is read again when the slug is free.
    wanted_slug: Option<String>,
    /// When the file is read again though it has not changed.
    again: Option<Instant>,
}

impl Problem {
    fn of(path: &Path, error: &LoadError) -> Self {
        Self {
            text: format!("`{}` {}", file_name(path), event::chain(error)),
            refusal: error.refusal(),
            wanted_slug: match error {
                LoadError::DuplicateSlug { slug, .. } => Some(slug.clone()),
                _ => None,
            },
            again: error.passes().then(|| Instant::now() + AGAIN),
        }
    }
}

impl Registry {
    pub(crate) fn new(folder: PathBuf, loader: Loader) -> Self {
        Self {
            folder,
            loader: Arc::new(loader),
            compilers: Arc::new(Semaphore::new(COMPILERS_AT_ONCE)),
            serving: ArcSwap::default(),
            files: Mutex::default(),
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
        // A lock file that cannot be used is one more file that is refused.
        let lock = trust.and_then(|trust| {
            Some(PluginStatus {
                file: trust.lock_name(),
                state: PluginState::Refused,
                problem: Some(trust.problem()?),
                pinned: None,
                plugin: None,
            })
        });
        let files = self.files();
        let plugins = files
            .iter()
            .map(|(path, file)| PluginStatus {
                file: file_name(path),
                state: file
                    .plugin
                    .as_deref()
                    .map_or(PluginState::Refused, PluginState::of),
                problem: file.problem.as_ref().map(|problem| problem.text.clone()),
                pinned: file
                    .plugin
                    .as_deref()
                    .and_then(|plugin| trust?.pins(&plugin.descriptor().slug, &plugin.digest)),
                plugin: file.plugin.as_deref().map(PluginDetails::of),
            })
            // Not yet read, not yet forgotten: neither serves nor is refused.
            .filter(|status| status.plugin.is_some() || status.problem.is_some());
        lock.into_iter().chain(plugins).collect()
    }

    /// Looks at the folder and brings what serves in line with it. At the first look nothing has to rest, and slow files are
    /// waited for, for as long as one may take to compile. Says whether something has yet to rest or to be read, so that
    /// another look is due soon.
    pub(crate) async fn look(self: &Arc<Self>, first: bool) -> bool {
        let (folder, loader) = (self.folder.clone(), Arc::clone(&self.loader));
        let found = task::spawn_blocking(move || {
            let trust = loader.trust();
            let lock = trust.map_or(LockLook::Same, |trust| trust.refresh(Instant::now()));
            let signed = trust.is_some_and(Trust::asks_for_signatures);
            list(&folder, signed).map(|found| (lock, found))
        })
        .await;
        let lock = match found {
            Ok(Ok((lock, found))) => {
                self.note(found, lock == LockLook::Changed, Instant::now());
                lock
            }
            Ok(Err(error)) => {
                // What serves goes on serving: a folder that cannot be read says nothing about its files.
                tracing::warn!(plugin.folder = %self.folder.display(), %error, "plugin folder cannot be read");
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
            // What takes longer still goes on beside the deliveries.
            let _ = time::timeout(self.loader.limits().compile_time, all).await;
        }
        let files = self.files();
        let problems = files.values().filter_map(|file| file.problem.as_ref());
        let mut refused: Vec<Refusal> = problems.map(|problem| problem.refusal).collect();
        let lock_problem = self.loader.trust().and_then(Trust::problem);
        refused.extend(lock_problem.map(|_| Refusal::Lock));
        self.loader.metrics.set_refused_files(&refused);
        lock == LockLook::Pending
            || files
                .values()
                .any(|file| !file.is_loading && !matches!(file.seen, Seen::Settled { .. }))
    }

    /// Loads these files, one after the other as long as each is quick. Gives those that are not: they go on by themselves.
    /// When too many do, the rest is left for the next look, unless this is the first.
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
            if time::timeout(PATIENCE, &mut load).await.is_err() {
                slow.push(load);
            }
        }
        slow
    }

    fn loading(&self) -> usize {
        self.files().values().filter(|file| file.is_loading).count()
    }

    /// Takes down what was found. Files that have been dealt with are to be read again when they changed, or when all are
    /// to be judged anew.
    fn note(&self, found: BTreeMap<PathBuf, Sight>, anew: bool, now: Instant) {
        let mut files = self.files();
        for (path, file) in files.iter_mut() {
            if !found.contains_key(path) && !matches!(file.seen, Seen::Gone { .. }) {
                file.seen = Seen::Gone { since: now };
            }
        }
        for (path, sight) in found {
            let changed = Seen::Changed { sight, since: now };
            match files.get_mut(&path) {
                None => {
                    files.insert(
                        path,
                        KnownFile {
                            seen: changed,
                            is_loading: false,
                            is_outdated: false,
                            plugin: None,
                            problem: None,
                        },
                    );
                }
                Some(file) => {
                    file.is_outdated |= anew && file.is_loading;
                    let is_same = match &file.seen {
                        Seen::Changed { sight: before, .. } => *before == sight,
                        Seen::Settled { sight: before } => *before == sight && !anew,
                        Seen::Gone { .. } => false,
                    };
                    if !is_same {
                        file.seen = changed;
                    }
                }
            }
        }
    }

    /// Files that have rested long enough to be read, as they were seen.
    fn due(&self, settle: Duration, now: Instant) -> Vec<(PathBuf, Sight)> {
        let files = self.files();
        let rested = files.iter().filter_map(|(path, file)| match file.seen {
            Seen::Changed { sight, since } => {
                let rests = now.saturating_duration_since(since) >= settle;
                (rests && !file.is_loading).then(|| (path.clone(), sight))
            }
            Seen::Settled { .. } | Seen::Gone { .. } => None,
        });
        rested.collect()
    }

    /// Ends what serves of files that have been gone long enough.
    fn drop_gone(&self, now: Instant) {
        let mut files = self.files();
        let gone: Vec<PathBuf> = files
            .iter()
            .filter(|(_, file)| match file.seen {
                Seen::Gone { since } => now.saturating_duration_since(since) >= GONE,
                Seen::Changed { .. } | Seen::Settled { .. } => false,
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            if let Some(plugin) = files.remove(&path).and_then(|file| file.plugin) {
                tracing::info!(
                    plugin = %plugin.tag(),
                    plugin.file = %file_name(&path),
                    "plugin `{}` is gone with its file",
                    plugin.tag()
                );
            }
        }
        self.publish(&files);
    }

    /// Files that were refused for what is over: another file had their slug, or the machine had failed them.
    fn refused_for_a_while(&self, now: Instant) -> Vec<(PathBuf, Sight)> {
        let serving = self.serving.load();
        let files = self.files();
        let due = files.iter().filter_map(|(path, file)| {
            let problem = file.problem.as_ref()?;
            let slug_is_free = problem
                .wanted_slug
                .as_ref()
                .is_some_and(|slug| !serving.contains_key(slug));
            let is_over = slug_is_free || problem.again.is_some_and(|again| again <= now);
            match file.seen {
                Seen::Settled { sight } if !file.is_loading && is_over => Some((path.clone(), sight)),
                _ => None,
            }
        });
        due.collect()
    }

    /// Has a file read again that took too long to compile, and whose code is now at hand.
    fn read_again(&self, path: &Path) {
        if let Some(file) = self.files().get_mut(path) {
            // Still on its way to being refused.
            file.is_outdated |= file.is_loading;
            if let Some(problem) = &mut file.problem {
                problem.again = Some(Instant::now());
            }
        }
    }

    /// Reads a file as it was seen, and lets it serve when it passes.
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
        // Waiting for the compiler is not the file's fault: the clock starts with it.
        let began = Arc::new(OnceLock::new());
        let begins = Arc::clone(&began);
        let compiler = move || {
            let place = runtime.block_on(compilers.acquire_owned());
            begins.get_or_init(Instant::now);
            place
        };
        let mut load = task::spawn_blocking(move || loader.candidate(&owned, compiler));
        loop {
            let elapsed = began.get().map_or(Duration::ZERO, Instant::elapsed);
            if elapsed >= limit {
                // A compiler cannot be stopped: one that takes too long ends on its own. The file is read again then, unless
                // its code was not kept and the compiler would only begin anew.
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

    fn admit(&self, path: &Path, seen: Sight, candidate: Candidate) {
        let seen = Sight {
            file: Some(candidate.fingerprint),
            ..seen
        };
        let slug = candidate.descriptor.slug.clone();
        let mut files = self.files();
        // Removed while it was read: nobody makes way for it. If it comes back, it is read again.
        if files
            .get(path)
            .is_none_or(|file| matches!(file.seen, Seen::Gone { .. }))
        {
            return;
        }
        let owner = files.iter().find(|(other, file)| {
            other.as_path() != path
                && !matches!(file.seen, Seen::Gone { .. })
                && file
                    .plugin
                    .as_ref()
                    .is_some_and(|plugin| plugin.descriptor().slug == slug)
        });
        if let Some((other, owner)) = owner
            && !owner
                .plugin
                .as_ref()
                .is_some_and(|plugin| takes_over(path, &candidate, plugin))
        {
            let error = LoadError::DuplicateSlug {
                slug: slug.clone(),
                owner: file_name(other),
            };
            drop(files);
            self.refuse(path, seen, &error);
            return;
        }
        // A file that is gone for now and comes back under another name hands its slug over, and so does one to the file that
        // takes over from it.
        for (other, file) in files.iter_mut() {
            let has_slug = file
                .plugin
                .as_ref()
                .is_some_and(|plugin| plugin.descriptor().slug == slug);
            if other.as_path() == path || !has_slug {
                continue;
            }
            file.plugin = None;
            if file.problem.is_none() && !matches!(file.seen, Seen::Gone { .. }) {
                let error = LoadError::DuplicateSlug {
                    slug: slug.clone(),
                    owner: file_name(path),
                };
                let problem = Problem::of(other, &error);
                tracing::warn!(plugin.file = %file_name(other), "plugin file is refused: {}", problem.text);
                file.problem = Some(problem);
            }
        }
        let Some(file) = files.get_mut(path) else {
            return;
        };
        file.seen = Seen::Settled { sight: seen };
        file.problem = None;
        if file
            .plugin
            .as_ref()
            .is_some_and(|plugin| plugin.digest == candidate.digest)
        {
            // Touched, or back as it was: the plugin keeps its state.
            return;
        }
        if candidate.pinned == Some(false) {
            let (name, lock) = (file_name(path), self.loader.trust().map(Trust::lock_name));
            tracing::warn!(
                plugin.file = %name,
                "plugin file `{name}` is not pinned in `{}`; `host.plugins.locked` would refuse it",
                lock.unwrap_or_default()
            );
        }
        let current = self.serving.load().get(&slug).cloned();
        let stats = current.map_or_else(
            || self.loader.metrics.of(&slug),
            |plugin| Arc::clone(&plugin.stats),
        );
        let plugin = Arc::new(self.loader.plugin(candidate, stats));
        let before = file.plugin.replace(Arc::clone(&plugin));
        self.publish(&files);
        drop(files);
        tracing::info!(
            plugin = %plugin.tag(),
            plugin.file = %file_name(path),
            plugin.digest = %plugin.digest(),
            plugin.before = before.as_ref().map(|before| before.tag()),
            "plugin `{}` serves",
            plugin.tag()
        );
    }

    /// Notes why the state of the file that was seen is not served.
    fn refuse(&self, path: &Path, seen: Sight, error: &LoadError) {
        let name = file_name(path);
        let mut files = self.files();
        let Some(file) = files.get_mut(path) else {
            return;
        };
        match file.seen {
            // It has changed meanwhile, or is gone: the next look reads it.
            Seen::Changed { sight, .. } if sight != seen => return,
            Seen::Gone { .. } => return,
            Seen::Changed { .. } | Seen::Settled { .. } => {}
        }
        if matches!(error, LoadError::Changing) {
            let since = Instant::now();
            file.seen = Seen::Changed { sight: seen, since };
            return;
        }
        file.seen = Seen::Settled { sight: seen };
        let problem = Problem::of(path, error);
        let text = problem.text.clone();
        let known = file.problem.as_ref().is_some_and(|problem| problem.text == text);
        let trust = self.loader.trust();
        let is_pinned =
            |plugin: &Arc<Plugin>| trust.is_some_and(|trust| trust.knows(&plugin.descriptor().slug));
        let withdrawn = matches!(error, LoadError::NotPinned { .. })
            .then(|| file.plugin.take_if(|plugin| !is_pinned(plugin)))
            .flatten();
        let serves = file.plugin.as_ref().map(|plugin| plugin.tag().to_owned());
        file.problem = Some(problem);
        if let Some(plugin) = withdrawn {
            self.publish(&files);
            tracing::warn!(plugin.file = %name, plugin = %plugin.tag(), "plugin `{}` is no longer pinned and ends", plugin.tag());
        }
        drop(files);
        if !known {
            match serves {
                Some(tag) => tracing::warn!(
                    plugin.file = %name, plugin = %tag, "plugin file is refused, `{tag}` goes on serving: {text}"
                ),
                None => tracing::warn!(plugin.file = %name, "plugin file is refused: {text}"),
            }
        }
    }

    /// Makes the map of what serves from the files, and ends the series of what serves no longer.
    fn publish(&self, files: &BTreeMap<PathBuf, KnownFile>) {
        let mut serving = HashMap::new();
        for file in files.values() {
            if let Some(plugin) = &file.plugin {
                serving.insert(plugin.descriptor().slug.clone(), Arc::clone(plugin));
            }
        }
        let before = self.serving.swap(Arc::new(serving));
        let now = self.serving.load();
        for slug in before.keys().filter(|slug| !now.contains_key(*slug)) {
            self.loader.metrics.forget(slug);
        }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, KnownFile>> {
        // Every change leaves the map consistent at each step, so a panic elsewhere does not spoil it.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this file has the slug rather than the one that serves it. Of two the pinned one has it. Where none is pinned, the one
/// that is named after it: who came first is forgotten at the next start. What is not pinned does not get here while the slug
/// is pinned.
pub(crate) fn takes_over(path: &Path, candidate: &Candidate, owner: &Plugin) -> bool {
    let is_named = path
        .file_stem()
        .is_some_and(|stem| stem == candidate.descriptor.slug.as_str());
    is_named || candidate.pinned == Some(true) && owner.digest != candidate.digest
}

#[cfg(test)]
mod tests {
    use std::io;

    use prometheus_client::registry::Registry as Metrics;
    use tempfile::TempDir;

    use super::*;
    use crate::plugin::{
        config::{PluginsConfig, RawPluginsConfig},
        error::PluginError,
        metrics::PluginMetrics,
    };

    #[test]
    fn what_the_machine_has_failed_is_read_again_and_what_is_bad_is_not() {
        let data = TempDir::new().unwrap();
        let raw = RawPluginsConfig {
            folder: Some(data.path().join("plugins")),
            ..RawPluginsConfig::default()
        };
        let config = PluginsConfig::try_new(raw, data.path()).unwrap();
        let loader = Loader::for_folder(&config, PluginMetrics::register(&mut Metrics::default())).unwrap();
        let registry = Registry::new(config.folder.clone(), loader);
        let describe = |source| LoadError::Describe {
            source: Box::new(source),
        };
        let plugin = || "acme".to_owned();
        let passing = [
            // Too many open files.
            LoadError::Read(io::Error::from_raw_os_error(24)),
            describe(PluginError::Busy { plugin: plugin() }),
            describe(PluginError::WallClock {
                plugin: plugin(),
                waited: Duration::from_secs(5),
            }),
        ];
        let lasting = [
            LoadError::CoreModule,
            LoadError::CompileTime(Duration::from_secs(120)),
            describe(PluginError::Guest {
                plugin: plugin(),
                limit: crate::plugin::Limit::Trap,
                call: "describe",
                detail: String::new(),
            }),
        ];
        let path = config.folder.join("acme.wasm");
        for (errors, is_read_again) in [(passing.as_slice(), true), (lasting.as_slice(), false)] {
            for error in errors {
                let seen = Sight::default();
                registry.note(BTreeMap::from([(path.clone(), seen)]), false, Instant::now());
                registry.refuse(&path, seen, error);
                let now = Instant::now();
                assert!(registry.refused_for_a_while(now).is_empty(), "{error}");
                let later = registry.refused_for_a_while(now + AGAIN);
                assert_eq!(!later.is_empty(), is_read_again, "{error}");
                assert_eq!(registry.status().len(), 1, "it is shown meanwhile");
            }
        }
    }
}
