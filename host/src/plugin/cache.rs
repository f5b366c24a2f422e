//! Compiled code, kept between starts.
//!
//! The machine code is as trusted as the host's own, so an entry is used only if this installation has written it: the
//! folder and the key belong to this user alone, and every entry carries a MAC under that key over its code, the digest
//! of the plugin it was compiled from and the engine it was compiled for. Whatever does not match is compiled again.

use std::{
    fs::{self, DirBuilder, DirEntry, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ring::{hmac, rand::SecureRandom};
use subtle::ConstantTimeEq;
use wasmtime::{Engine, component::Component};

use super::file::Digest;

/// States the purpose of the MAC; changes with the layout of an entry.
const PURPOSE: &[u8] = b"sendflowr compiled plugin 1\0";

/// HMAC-SHA-256.
const MAC_BYTES: usize = 32;

const KEY_BYTES: usize = 32;

const KEY_FILE: &str = "key";

/// Maximum number of entries: three versions of each of fifty plugins. A Rust plugin takes half a megabyte, an
/// interpreter about fifty.
const MOST_ENTRIES: usize = 150;

/// Maximum size of all entries together: ten such interpreters in two versions, while fifty Rust plugins in three
/// versions take 75 MB.
const MOST_BYTES: u64 = 1 << 30;

/// Age from which a file that was never finished is removed. A younger one may be in the hands of another process, such as a host that
/// runs while `sendflowr replay` opens the folder: writing the code of an interpreter takes seconds, even on a slow disk.
const ABANDONED: Duration = Duration::from_secs(600);

/// A folder of compiled plugins.
pub(crate) struct CodeCache {
    folder: PathBuf,
    key: hmac::Key,
    engine: String,
}

impl CodeCache {
    /// Opens the folder, creates it if it is missing, and removes entries that are no longer useful.
    pub(crate) fn open(folder: &Path, engine: &Engine) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let key = key(folder)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let cache = Self {
            folder: folder.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            engine: format!("{:016x}", hasher.finish()),
        };
        cache.prune()?;
        Ok(cache)
    }

    /// Returns the compiled form of the plugin with this digest, if there is one that can be trusted.
    pub(crate) fn get(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let entry = match fs::read(&path) {
            Ok(entry) => entry,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(cache.entry = %path.display(), %error, "compiled plugin cannot be read; compiling it again");
                return None;
            }
        };
        let component = self.open_entry(engine, digest, &entry);
        match component {
            Ok(component) => {
                // Keeps the entry from becoming the oldest; a failure only costs a compilation some day.
                let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Some(component)
            }
            Err(reason) => {
                tracing::warn!(cache.entry = %path.display(), %reason, "compiled plugin is not usable; compiling it again");
                None
            }
        }
    }

    /// Checks whether there is an entry for the plugin with this digest.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    #[expect(
        unsafe_code,
        reason = "deserializing is unsafe because the bytes become code. These bytes carry a MAC under a key that only \
                  this user can read, made by `put` over what this engine's compiler gave for this very plugin; they \
                  are checked in memory and not read again, so they are the compiler's own output. wasmtime itself \
                  refuses what another version or configuration of it has made"
    )]
    fn open_entry(&self, engine: &Engine, digest: &Digest, entry: &[u8]) -> Result<Component, String> {
        let Some((mac, code)) = entry.split_at_checked(MAC_BYTES) else {
            return Err("it is truncated".to_owned());
        };
        if !bool::from(self.mac(digest, code).as_ref().ct_eq(mac)) {
            return Err("its MAC is wrong".to_owned());
        }
        // SAFETY: see the reason above.
        unsafe { Component::deserialize(engine, code) }.map_err(|error| error.to_string())
    }

    /// Stores the compiled form of the plugin with this digest, and removes the oldest entries if there are too many.
    pub(crate) fn put(&self, digest: &Digest, component: &Component) -> io::Result<()> {
        let code = component
            .serialize()
            .map_err(|error| io::Error::other(error.to_string()))?;
        let path = self.path(digest);
        // Another process may compile the same plugin.
        let unfinished = path.with_extension(format!("{}.tmp", uuid::Uuid::now_v7().simple()));
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(self.mac(digest, &code).as_ref())?;
            file.write_all(&code)?;
            // No fsync: an entry that a crash truncates has a wrong MAC.
            drop(file);
            fs::rename(&unfinished, &path)
        };
        write().inspect_err(|_| {
            // Nobody would overwrite it, and on a full disk each attempt would leave another.
            let _ = fs::remove_file(&unfinished);
        })?;
        self.drop_surplus()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}-{}.bin", self.engine))
    }

    fn mac(&self, digest: &Digest, code: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        // Purpose, digest and engine have fixed lengths, so their concatenation is unambiguous.
        context.update(PURPOSE);
        context.update(digest.as_str().as_bytes());
        context.update(self.engine.as_bytes());
        context.update(code);
        context.sign()
    }

    /// Removes what other engines have compiled, what was never finished, and what exceeds the limits.
    fn prune(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_unusable = name.ends_with(".bin") && !self.is_entry(&name);
            if is_unusable || (name.ends_with(".tmp") && is_abandoned(&entry)?) {
                remove(&entry.path())?;
            }
        }
        self.drop_surplus()
    }

    /// Removes the oldest entries beyond [`MOST_ENTRIES`] and [`MOST_BYTES`]. Plugins in use have their code in memory.
    fn drop_surplus(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !self.is_entry(&entry.file_name().to_string_lossy()) {
                continue;
            }
            match entry.metadata() {
                Ok(metadata) => entries.push((metadata.modified()?, metadata.len(), entry.path())),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        entries.sort();
        let mut bytes: u64 = 0;
        for (kept, (_, size, path)) in entries.into_iter().rev().enumerate() {
            bytes = bytes.saturating_add(size);
            if kept < MOST_ENTRIES && bytes <= MOST_BYTES {
                continue;
            }
            remove(&path)?;
        }
        Ok(())
    }

    /// Checks whether a file of this name is an entry for this engine.
    fn is_entry(&self, name: &str) -> bool {
        name.strip_suffix(".bin")
            .is_some_and(|name| name.ends_with(&self.engine))
    }
}

/// Removes a file of the folder, which another process or plugin may have removed at the same time.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Checks whether a file is so old that nobody writes it any more. One that has gone meanwhile was not.
fn is_abandoned(entry: &DirEntry) -> io::Result<bool> {
    let modified = match entry.metadata() {
        Ok(metadata) => metadata.modified()?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    // A time in the future is that of a clock that has been set back: the file's age is unknown.
    Ok(modified.elapsed().is_ok_and(|age| age >= ABANDONED))
}

/// Reads the folder's key, or creates it, after checking that folder and key belong to this user alone.
fn key(folder: &Path) -> io::Result<[u8; KEY_BYTES]> {
    // A newly created file belongs to the user that this process runs as.
    let probe = folder.join(format!("owner-{}.tmp", uuid::Uuid::now_v7().simple()));
    let us = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&probe)?
        .metadata()?
        .uid();
    remove(&probe)?;
    check_private(folder, us)?;

    let path = folder.join(KEY_FILE);
    if !path.exists() {
        let mut key = [0; KEY_BYTES];
        ring::rand::SystemRandom::new()
            .fill(&mut key)
            .map_err(|_| io::Error::other("the system provides no random bytes"))?;
        // Another process may create it at the same time: the first key wins.
        store::embedded::create_once(&path, &key)?;
    }
    check_private(&path, us)?;
    let key = fs::read(&path)?;
    key.try_into()
        .map_err(|_| io::Error::other("the key has the wrong length; remove it, and a new one is created"))
}

fn check_private(path: &Path, us: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() || metadata.uid() != us || metadata.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "`{}` must belong to this user and be closed to others (mode 700 or 600)",
                path.display()
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Barrier, thread};

    use super::*;

    #[test]
    fn all_who_create_the_key_at_once_use_the_same_one() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let (folder, start) = (&folder.path().join("compiled"), Barrier::new(8));
            store::embedded::create_folder(folder).unwrap();
            let keys: BTreeSet<[u8; KEY_BYTES]> = thread::scope(|scope| {
                let starts = [(); 8].map(|()| {
                    scope.spawn(|| {
                        start.wait();
                        key(folder)
                    })
                });
                starts.map(|start| start.join().unwrap().unwrap()).into()
            });
            assert_eq!(keys.len(), 1);
        }
    }

    #[test]
    fn all_who_open_the_folder_at_once_can_use_it() {
        let engine = Engine::default();
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let (folder, start) = (&folder.path().join("compiled"), Barrier::new(8));
            store::embedded::create_folder(folder).unwrap();
            for other in 0..50 {
                fs::write(folder.join(format!("{other}-of-another-engine.bin")), "").unwrap();
            }
            thread::scope(|scope| {
                let starts = [(); 8].map(|()| {
                    scope.spawn(|| {
                        start.wait();
                        CodeCache::open(folder, &engine).map(drop)
                    })
                });
                for start in starts {
                    start.join().unwrap().unwrap();
                }
            });
            let left: Vec<_> = fs::read_dir(folder).unwrap().collect();
            assert_eq!(left.len(), 1, "the key: {left:?}");
        }
    }

    #[test]
    fn what_cannot_be_stored_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let folder = &folder.path().join("compiled");
        store::embedded::create_folder(folder).unwrap();
        let engine = Engine::default();
        let cache = CodeCache::open(folder, &engine).unwrap();
        let empty = b"\0asm\x0d\0\x01\0";
        let (component, digest) = (Component::new(&engine, empty).unwrap(), Digest::of(empty));
        // A file cannot take the place of a folder.
        fs::create_dir(cache.path(&digest)).unwrap();
        cache.put(&digest, &component).unwrap_err();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "the key and the folder");
        fs::remove_dir(cache.path(&digest)).unwrap();
        cache.put(&digest, &component).unwrap();
        assert!(cache.has(&digest));
    }

    #[test]
    fn what_another_process_is_writing_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = &folder.path().join("compiled");
        store::embedded::create_folder(folder).unwrap();
        let (young, old) = (folder.join("young.tmp"), folder.join("old.tmp"));
        for file in [&young, &old] {
            fs::write(file, "code").unwrap();
        }
        let file = File::options().append(true).open(&old).unwrap();
        file.set_modified(SystemTime::now() - ABANDONED).unwrap();
        CodeCache::open(folder, &Engine::default()).unwrap();
        assert!(young.exists() && !old.exists());
    }
}
