//! Keeps track of each file of the folder, and selects those to be read.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::Registry;
use crate::plugin::{
    error::{LoadError, Refusal},
    folder::{AGAIN, Sight, file_name},
    guest::Plugin,
};

/// A file of the folder as it was last seen.
pub(super) struct KnownFile {
    pub(super) seen: Seen,
    /// Whether it is being read, compiled or asked to describe itself.
    pub(super) is_loading: bool,
    /// Whether it must be judged again once that has ended.
    pub(super) is_outdated: bool,
    /// The plugin that it serves; possibly loaded from an earlier state of the file.
    pub(super) plugin: Option<Arc<Plugin>>,
    /// Why the current state of the file is not served.
    pub(super) problem: Option<Problem>,
}

impl KnownFile {
    /// Returns whether it is there and being read.
    pub(super) fn is_being_read(&self) -> bool {
        self.is_loading && !matches!(self.seen, Seen::Gone { .. })
    }
}

pub(super) enum Seen {
    /// It has changed, and is to be read once it has settled.
    Changed { sight: Sight, since: Instant },
    /// Its current state has been processed.
    Settled { sight: Sight },
    /// It is gone.
    Gone { since: Instant },
}

pub(super) struct Problem {
    pub(super) text: String,
    pub(super) refusal: Refusal,
    /// The slug, if another file already served it. The file is read again when the slug is free.
    pub(super) wanted_slug: Option<String>,
    /// When the file is read again although it has not changed.
    pub(super) again: Option<Instant>,
}

impl Problem {
    pub(super) fn of(path: &Path, error: &LoadError) -> Self {
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
    /// Notes which files were found. Files that have been processed are to be read again if they have changed, or if all are to
    /// be judged again (`anew`).
    pub(super) fn note(&self, found: BTreeMap<PathBuf, Sight>, anew: bool, now: Instant) {
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

    /// Returns the files that have been unchanged for long enough to be read, each with its state when the folder was listed.
    pub(super) fn due(&self, settle: Duration, now: Instant) -> Vec<(PathBuf, Sight)> {
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

    /// Returns the files that were refused for a reason that no longer holds or may have passed: another file had their slug, or
    /// the machine had failed.
    pub(super) fn refused_for_a_while(&self, now: Instant) -> Vec<(PathBuf, Sight)> {
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

    /// Schedules another read of a file that took too long to compile and whose compiled code is now cached.
    pub(super) fn read_again(&self, path: &Path) {
        if let Some(file) = self.files().get_mut(path) {
            // While it is still being loaded, it has not been refused yet.
            file.is_outdated |= file.is_loading;
            if let Some(problem) = &mut file.problem {
                problem.again = Some(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use prometheus_client::registry::Registry as Metrics;
    use tempfile::TempDir;

    use super::{super::PATIENCE, *};
    use crate::plugin::{
        config::{PluginsConfig, RawPluginsConfig},
        error::PluginError,
        folder::GONE,
        load::Loader,
        metrics::PluginMetrics,
    };

    fn registry(data: &TempDir) -> Registry {
        let raw = RawPluginsConfig {
            folder: Some(data.path().join("plugins")),
            ..RawPluginsConfig::default()
        };
        let config = PluginsConfig::try_new(raw, data.path()).unwrap();
        let loader = Loader::for_folder(&config, PluginMetrics::register(&mut Metrics::default())).unwrap();
        Registry::new(config.folder.clone(), loader)
    }

    #[test]
    fn a_file_that_is_gone_waits_a_while_for_a_new_one_that_is_being_read() {
        let data = TempDir::new().unwrap();
        let registry = registry(&data);
        let path = |name| registry.folder.join(name);
        let listing = |name| BTreeMap::from([(path(name), Sight::default())]);
        for (is_loading, rest) in [(false, GONE), (true, GONE + PATIENCE)] {
            let now = Instant::now();
            registry.note(listing("old.wasm"), false, now);
            registry.note(listing("new.wasm"), false, now);
            if let Some(file) = registry.files().get_mut(&path("new.wasm")) {
                file.is_loading = is_loading;
            }
            registry.drop_gone(now + rest - Duration::from_millis(1));
            assert!(registry.files().contains_key(&path("old.wasm")), "{is_loading}");
            registry.drop_gone(now + rest);
            assert!(!registry.files().contains_key(&path("old.wasm")), "{is_loading}");
        }
    }

    #[test]
    fn what_the_machine_has_failed_is_read_again_and_what_is_bad_is_not() {
        let data = TempDir::new().unwrap();
        let registry = registry(&data);
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
        let path = registry.folder.join("acme.wasm");
        for (errors, is_read_again) in [(passing.as_slice(), true), (lasting.as_slice(), false)] {
            for error in errors {
                let seen = Sight::default();
                registry.note(BTreeMap::from([(path.clone(), seen)]), false, Instant::now());
                registry.refuse(&path, seen, error);
                let now = Instant::now();
                assert!(registry.refused_for_a_while(now).is_empty(), "{error}");
                let later = registry.refused_for_a_while(now + AGAIN);
                assert_eq!(!later.is_empty(), is_read_again, "{error}");
                assert_eq!(registry.status().len(), 1, "it is shown in the meantime");
            }
        }
    }
}
