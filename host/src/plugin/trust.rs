//! Decides which files may become plugins: those that the lock file pins, and that are signed by a trusted key if keys
//! are configured.
//!
//! Both are checked on the bytes that were read, before anything of them is parsed, compiled or run, and those same bytes are
//! what is compiled. When the lock file cannot be read, or is gone although it is required, the last good one stays in force.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    config::PluginsConfig,
    error::LoadError,
    file::{Digest, Fingerprint},
    folder::{AGAIN, GONE, SETTLE, file_name},
    lock::{LockError, PluginLock},
    signature::TrustedKeys,
};

/// What the operator demands of a file before it is compiled.
pub(crate) struct Trust {
    lock_file: PathBuf,
    locked: bool,
    keys: TrustedKeys,
    state: Mutex<State>,
}

/// The lock file as it was last seen.
struct State {
    lock: Option<Arc<PluginLock>>,
    /// The file that has been processed.
    settled: Option<Fingerprint>,
    /// A different one, which is to be read once it is unchanged for a while.
    changed: Option<(Option<Fingerprint>, Instant)>,
    problem: Option<String>,
    /// When the file is read again although it has not changed: the machine had failed to read it.
    again: Option<Instant>,
}

/// The result of checking the lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockLook {
    /// It is unchanged.
    Same,
    /// It has changed and has yet to settle.
    Pending,
    /// Another lock is now in force.
    Changed,
}

/// What the lock file says about a file whose slug is not yet known.
pub(crate) struct Verdict {
    lock: Option<Arc<PluginLock>>,
    lock_name: String,
    /// The slug that these bytes are pinned for.
    pinned: Option<String>,
}

impl Trust {
    /// Reads the lock file. Fails when it is invalid, or missing although it is required.
    pub(crate) fn open(config: &PluginsConfig) -> Result<Self, LockError> {
        let (lock, settled) = PluginLock::read_as_seen(&config.lock, config.locked)?.unzip();
        Ok(Self {
            lock_file: config.lock.clone(),
            locked: config.locked,
            keys: config.trusted_keys.clone(),
            state: Mutex::new(State {
                lock: lock.map(Arc::new),
                settled,
                changed: None,
                problem: None,
                again: None,
            }),
        })
    }

    /// Returns whether files need a signature.
    pub(crate) fn asks_for_signatures(&self) -> bool {
        !self.keys.is_empty()
    }

    pub(crate) fn lock_name(&self) -> String {
        file_name(&self.lock_file)
    }

    /// Returns why the current lock file is not in force.
    pub(crate) fn problem(&self) -> Option<String> {
        self.state().problem.clone()
    }

    /// Returns whether the lock in force pins this slug to anything.
    pub(crate) fn knows(&self, slug: &str) -> bool {
        self.state()
            .lock
            .as_ref()
            .is_some_and(|lock| lock.get(slug).is_some())
    }

    /// Returns whether the lock in force pins this slug to this digest; `None` if there is no lock.
    pub(crate) fn pins(&self, slug: &str, digest: &Digest) -> Option<bool> {
        let state = self.state();
        let lock = state.lock.as_ref()?;
        Some(lock.get(slug).is_some_and(|pin| pin.sha256 == digest.as_str()))
    }

    /// Checks the lock file, and applies it when it has changed and settled. Blocks on the disk.
    pub(crate) fn refresh(&self, now: Instant) -> LockLook {
        let found = Fingerprint::at(&self.lock_file).ok();
        let mut state = self.state();
        if found == state.settled {
            state.changed = None;
            if state.again.is_none_or(|again| now < again) {
                return LockLook::Same;
            }
        } else {
            // As long as for plugin files: replacing it by removing and writing it leaves no gap.
            let rest = if found.is_some() { SETTLE } else { GONE };
            match state.changed {
                Some((seen, since)) if seen == found => {
                    if now.saturating_duration_since(since) < rest {
                        return LockLook::Pending;
                    }
                }
                _ => {
                    state.changed = Some((found, now));
                    return LockLook::Pending;
                }
            }
        }
        state.changed = None;
        state.again = None;
        match PluginLock::read_as_seen(&self.lock_file, self.locked) {
            Ok(read) => {
                let (lock, settled) = read.unzip();
                let count = lock.as_ref().map(|lock| lock.pins().count());
                state.lock = lock.map(Arc::new);
                state.settled = settled;
                state.problem = None;
                drop(state);
                match count {
                    Some(count) => {
                        tracing::info!("`{}` is in force and pins {count} plugins", self.lock_name())
                    }
                    None => tracing::warn!("`{}` is gone: plugins are no longer pinned", self.lock_name()),
                }
                LockLook::Changed
            }
            Err(error) if error.is_changing() => {
                state.changed = Some((found, now));
                state.again = Some(now + SETTLE);
                LockLook::Pending
            }
            Err(error) => {
                let text = error.to_string();
                // Logged once, not at every attempt.
                if state.problem.as_ref() != Some(&text) {
                    tracing::warn!("{text}; the last good one stays in force");
                }
                state.settled = found;
                state.problem = Some(text);
                state.again = error.passes().then(|| now + AGAIN);
                LockLook::Same
            }
        }
    }

    /// Checks whether these bytes, read from this file, may become a plugin. The slug that they are pinned as is
    /// confirmed later, when the plugin has reported its slug.
    pub(crate) fn check(&self, path: &Path, bytes: &[u8], digest: &Digest) -> Result<Verdict, LoadError> {
        let verdict = self.check_pin(path, digest)?;
        if self.asks_for_signatures() {
            self.keys.check_beside(path, bytes)?;
        }
        Ok(verdict)
    }

    fn check_pin(&self, path: &Path, digest: &Digest) -> Result<Verdict, LoadError> {
        let lock = self.state().lock.clone();
        let lock_name = self.lock_name();
        let mut pinned = None;
        if let Some(lock) = &lock {
            pinned = lock
                .pins()
                .find(|(_, pin)| pin.sha256 == digest.as_str())
                .map(|(slug, _)| slug.to_owned());
            if pinned.is_none() {
                let (name, stem) = (file_name(path), path.file_stem());
                // A file that is named like a pinned one is meant to be that one: it is refused before it is compiled
                // and can describe itself.
                let meant = lock
                    .pins()
                    .find(|(slug, pin)| pin.file == name || stem.is_some_and(|stem| stem == *slug));
                if let Some((slug, pin)) = meant {
                    return Err(wrong_digest(slug, &pin.sha256, digest, lock_name));
                }
                if self.locked {
                    return Err(LoadError::NotPinned {
                        found: digest.to_string(),
                        lock: lock_name,
                    });
                }
            }
        }
        Ok(Verdict {
            lock,
            lock_name,
            pinned,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a few assignments that cannot panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Verdict {
    /// Returns the verdict for a tool, which looks at any file.
    pub(crate) fn none() -> Self {
        Self {
            lock: None,
            lock_name: String::new(),
            pinned: None,
        }
    }

    /// Checks whether a plugin with this slug and digest may be served, and returns whether it is pinned; `None` if
    /// there is no lock.
    pub(crate) fn confirm(&self, slug: &str, digest: &Digest) -> Result<Option<bool>, LoadError> {
        let Some(lock) = &self.lock else {
            return Ok(None);
        };
        match (&self.pinned, lock.get(slug)) {
            (Some(pinned), _) if pinned == slug => Ok(Some(true)),
            (Some(pinned), _) => Err(LoadError::PinnedAsOther {
                slug: slug.to_owned(),
                pinned: pinned.clone(),
                lock: self.lock_name.clone(),
            }),
            (None, Some(pin)) => Err(wrong_digest(slug, &pin.sha256, digest, self.lock_name.clone())),
            (None, None) => Ok(Some(false)),
        }
    }
}

fn wrong_digest(slug: &str, pinned: &str, found: &Digest, lock: String) -> LoadError {
    LoadError::WrongDigest {
        slug: slug.to_owned(),
        found: found.to_string(),
        pinned: pinned.to_owned(),
        lock,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, time::Duration};

    use super::*;
    use crate::plugin::{config::RawPluginsConfig, lock::PluginLock};

    #[test]
    fn a_lock_file_that_the_machine_could_not_read_is_read_again() {
        let data = tempfile::tempdir().unwrap();
        let raw = RawPluginsConfig {
            folder: Some(data.path().to_owned()),
            ..RawPluginsConfig::default()
        };
        let config = PluginsConfig::try_new(raw, data.path()).unwrap();
        fs::write(&config.lock, PluginLock::default().to_text()).unwrap();
        let trust = Trust::open(&config).unwrap();
        let is_locked = || trust.state().lock.is_some();
        assert!(is_locked());

        // A link to itself cannot be followed.
        fs::remove_file(&config.lock).unwrap();
        symlink(&config.lock, &config.lock).unwrap();
        let now = Instant::now();
        assert_eq!(trust.refresh(now), LockLook::Pending);
        let failed = now + GONE;
        assert_eq!(trust.refresh(failed), LockLook::Same);
        assert!(is_locked() && trust.problem().is_some(), "the last good one");

        // Looks the same from outside.
        fs::remove_file(&config.lock).unwrap();
        let soon = failed + AGAIN - Duration::from_millis(1);
        assert_eq!(trust.refresh(soon), LockLook::Same);
        assert!(is_locked());
        assert_eq!(trust.refresh(failed + AGAIN), LockLook::Changed);
        assert!(!is_locked() && trust.problem().is_none());
        assert_eq!(trust.refresh(failed + 3 * AGAIN), LockLook::Same);
    }
}
