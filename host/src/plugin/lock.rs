//! `plugins.lock`: the digests of the plugins that may be served, written down for review.
//!
//! It has a table for each slug, in order, so that a change of what may be served is a change of a few lines in version control.
//! The digest decides; file name, version and contract are for the reader.

use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use event::identity::is_slug;
use serde::{Deserialize, Serialize};

use super::{
    error::LoadError,
    file::{self, Fingerprint},
    folder::file_name,
};

/// Version of the file's layout that this host reads and writes.
const FORMAT: u32 = 1;

/// Size of the largest file that is read. An entry takes some 300 bytes, so there is room for three times a thousand plugins.
const MOST_BYTES: u64 = 1 << 20;

/// The beginning of the file.
const PREAMBLE: &str = "\
# The plugins that may be served, by the SHA-256 of their files. `sendflowr plugin pin` writes it; read its changes in
# review as you would read code.
";

/// The content of a lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginLock {
    plugins: BTreeMap<String, Pin>,
}

/// What one plugin must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Name of the file in the plugin folder, without a path.
    pub file: String,
    /// Version of the plugin.
    pub version: String,
    /// Version of the contract that it is built for.
    pub contract: String,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Where it was pulled from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    version: u32,
    #[serde(default)]
    plugins: BTreeMap<String, Pin>,
}

/// A lock file that is missing, unreadable or invalid. The message includes its causes, since the log has one line for it.
#[derive(Debug, thiserror::Error)]
#[error("plugin lock `{file}` {problem}")]
pub struct LockError {
    file: String,
    problem: LockProblem,
}

impl LockError {
    /// Returns whether the file is just being written.
    pub(crate) fn is_changing(&self) -> bool {
        matches!(self.problem, LockProblem::Read(LoadError::Changing))
    }

    /// Returns whether the machine is to blame, so that the same file may be read later.
    pub(crate) fn passes(&self) -> bool {
        matches!(&self.problem, LockProblem::Read(error) if error.passes())
    }
}

#[derive(Debug, thiserror::Error)]
enum LockProblem {
    #[error("does not exist, and `host.plugins.locked` requires it: write it with `sendflowr plugin pin`")]
    Missing,
    #[error("cannot be used: {}", event::chain(.0))]
    Read(LoadError),
    #[error("cannot be written: its folder `{0}` cannot be opened: {1}")]
    Folder(String, std::io::Error),
    #[error("cannot be written: {0}")]
    Write(std::io::Error),
    #[error("is not UTF-8 text")]
    Text,
    #[error("line {line}: {message}")]
    Toml { line: usize, message: String },
    #[error(
        "has the layout {0}, this program reads {FORMAT}: upgrade it, or delete the file and write it anew with `sendflowr plugin \
         pin`"
    )]
    Format(u32),
    #[error("pins `{0}`, which is not a slug")]
    Slug(String),
    #[error("pins `{0}` to something that is not 64 lower-case hexadecimal digits")]
    Digest(String),
    #[error("pins `{0}` and `{1}` to the same file; one file has one slug")]
    Twice(String, String),
}

impl LockProblem {
    fn of(self, path: &Path) -> LockError {
        LockError {
            file: file_name(path),
            problem: self,
        }
    }
}

impl PluginLock {
    /// Reads a lock file. Returns `None` if there is no such file.
    ///
    /// # Errors
    /// Returns a [`LockError`] if it cannot be read or is invalid.
    pub fn read(path: &Path) -> Result<Option<Self>, LockError> {
        Ok(Self::read_as_seen(path, false)?.map(|(lock, _)| lock))
    }

    /// Like [`PluginLock::read`], but also returns the fingerprint, and fails if the file does not exist although `locked`
    /// requires it.
    pub(crate) fn read_as_seen(path: &Path, locked: bool) -> Result<Option<(Self, Fingerprint)>, LockError> {
        let (bytes, fingerprint) = match file::read(path, MOST_BYTES, "the most that a lock file may have") {
            Ok(read) => read,
            Err(LoadError::Read(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                return match locked {
                    true => Err(LockProblem::Missing.of(path)),
                    false => Ok(None),
                };
            }
            Err(error) => return Err(LockProblem::Read(error).of(path)),
        };
        let text = String::from_utf8(bytes).map_err(|_| LockProblem::Text.of(path))?;
        let lock = Self::parse(&text).map_err(|problem| problem.of(path))?;
        Ok(Some((lock, fingerprint)))
    }

    fn parse(text: &str) -> Result<Self, LockProblem> {
        let layout: Layout = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            LockProblem::Toml {
                line: before.unwrap_or_default().matches('\n').count() + 1,
                message: error.message().to_owned(),
            }
        })?;
        if layout.version != FORMAT {
            return Err(LockProblem::Format(layout.version));
        }
        let mut slugs = BTreeMap::new();
        for (slug, pin) in &layout.plugins {
            if !is_slug(slug) {
                return Err(LockProblem::Slug(slug.clone()));
            }
            let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if pin.sha256.len() != 64 || !pin.sha256.bytes().all(is_digit) {
                return Err(LockProblem::Digest(slug.clone()));
            }
            if let Some(other) = slugs.insert(&pin.sha256, slug) {
                return Err(LockProblem::Twice(other.clone(), slug.clone()));
            }
        }
        Ok(Self {
            plugins: layout.plugins,
        })
    }

    /// Returns the content of the file.
    pub fn to_text(&self) -> String {
        let layout = Layout {
            version: FORMAT,
            plugins: self.plugins.clone(),
        };
        let tables =
            toml::to_string(&layout).expect("numbers, texts and tables of them can be written as TOML");
        format!("{PREAMBLE}{tables}")
    }

    /// Returns the pin of the plugin with this slug.
    pub fn get(&self, slug: &str) -> Option<&Pin> {
        self.plugins.get(slug)
    }

    /// Returns all pins with their slugs, in alphabetical order of the slugs.
    pub fn pins(&self) -> impl Iterator<Item = (&str, &Pin)> {
        self.plugins.iter().map(|(slug, pin)| (slug.as_str(), pin))
    }

    /// Pins a plugin, and returns its previous pin.
    pub fn pin(&mut self, slug: &str, pin: Pin) -> Option<Pin> {
        self.plugins.insert(slug.to_owned(), pin)
    }

    /// Removes a plugin's pin, and returns it.
    pub fn unpin(&mut self, slug: &str) -> Option<Pin> {
        self.plugins.remove(slug)
    }
}

/// The right to write a lock file. One command has it at a time, from before it reads the file until after it has written it:
/// otherwise what another command adds in between would be lost.
///
/// It is an operating system lock on the folder, which ends with the process and leaves no file behind. A lock on the file itself
/// would be lost at the first write, which replaces the file.
#[derive(Debug)]
pub struct LockWriter {
    path: PathBuf,
    _folder: File,
}

impl LockWriter {
    /// Waits until no other command has the right to write this file.
    ///
    /// # Errors
    /// Returns a [`LockError`] if its folder cannot be opened.
    pub fn wait(path: &Path) -> Result<Self, LockError> {
        let folder = store::embedded::folder_of(path);
        let opened = File::open(folder)
            .map_err(|error| LockProblem::Folder(folder.display().to_string(), error).of(path))?;
        let locked = match opened.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                tracing::info!(plugin.lock = %path.display(), "waiting for another command that writes `{}`", path.display());
                opened.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
        };
        if let Err(error) = locked {
            // Some network file systems have no locks. Commands that are run one after the other need none.
            tracing::warn!(
                plugin.lock = %path.display(),
                %error,
                "folder `{}` cannot be locked: do not run another command that pins plugins at the same time",
                folder.display()
            );
        }
        Ok(Self {
            path: path.to_owned(),
            _folder: opened,
        })
    }

    /// Reads the file. Returns an empty lock if there is none.
    ///
    /// # Errors
    /// Returns a [`LockError`] if it cannot be read or is invalid.
    pub fn read(&self) -> Result<PluginLock, LockError> {
        Ok(PluginLock::read(&self.path)?.unwrap_or_default())
    }

    /// Replaces the file atomically: a host that watches it never sees half of it.
    ///
    /// # Errors
    /// Returns a [`LockError`] if it cannot be written.
    pub fn write(&self, lock: &PluginLock) -> Result<(), LockError> {
        store::embedded::replace(&self.path, lock.to_text().as_bytes())
            .map_err(|error| LockProblem::Write(error).of(&self.path))
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn pin(digit: &str) -> Pin {
        Pin {
            file: "acme.wasm".to_owned(),
            version: "1.2.0".to_owned(),
            contract: "1.0.0".to_owned(),
            sha256: digit.repeat(64),
            source: None,
        }
    }

    #[test]
    fn it_is_written_for_review_and_read_again() {
        let mut lock = PluginLock::default();
        let source = Some("oci://registry.example/acme:1.2.0@sha256:00".to_owned());
        lock.pin("zeta", Pin { source, ..pin("b") });
        lock.pin("acme", pin("a"));
        let text = lock.to_text();
        let expected = format!(
            "version = 1\n\n[plugins.acme]\nfile = \"acme.wasm\"\nversion = \"1.2.0\"\ncontract = \"1.0.0\"\nsha256 = \"{}\"\n\n\
             [plugins.zeta]\nfile = \"acme.wasm\"\nversion = \"1.2.0\"\ncontract = \"1.0.0\"\nsha256 = \"{}\"\n\
             source = \"oci://registry.example/acme:1.2.0@sha256:00\"\n",
            "a".repeat(64),
            "b".repeat(64)
        );
        assert_eq!(text, format!("{PREAMBLE}{expected}"));
        assert_eq!(PluginLock::parse(&text).unwrap(), lock);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| PluginLock::parse(text).unwrap_err().to_string();
        let entry = |slug: &str, digest: &str| {
            format!("[plugins.{slug}]\nfile = 'a'\nversion = '1'\ncontract = '1'\nsha256 = '{digest}'\n")
        };
        let good = "a".repeat(64);
        assert!(error("version = 2").contains("has the layout 2, this program reads 1"));
        assert!(error("").contains("missing field `version`"));
        assert!(
            error("version = 1\nplugin = 3").starts_with("line 2: "),
            "unknown keys are mistakes"
        );
        assert_eq!(
            error(&format!("version = 1\n{}", entry("Acme", &good))),
            "pins `Acme`, which is not a slug"
        );
        for bad in ["A".repeat(64), "a".repeat(63), String::new()] {
            assert_eq!(
                error(&format!("version = 1\n{}", entry("acme", &bad))),
                "pins `acme` to something that is not 64 lower-case hexadecimal digits"
            );
        }
        assert_eq!(
            error(&format!(
                "version = 1\n{}{}",
                entry("one", &good),
                entry("two", &good)
            )),
            "pins `one` and `two` to the same file; one file has one slug"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_no_lock_and_one_that_is_too_long_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugins.lock");
        assert!(PluginLock::read(&path).unwrap().is_none());
        fs::write(&path, vec![b'#'; usize::try_from(MOST_BYTES).unwrap() + 1]).unwrap();
        let error = PluginLock::read(&path).unwrap_err().to_string();
        assert!(
            error.starts_with("plugin lock `plugins.lock` cannot be used: has more than 1048576 bytes"),
            "{error}"
        );
        fs::write(&path, b"\xff").unwrap();
        assert!(
            PluginLock::read(&path)
                .unwrap_err()
                .to_string()
                .ends_with("is not UTF-8 text")
        );
    }
}
