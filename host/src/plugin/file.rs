//! Reads files of the plugin folder in one piece, and detects changes.

use std::{
    fmt,
    fs::{self, File, Metadata, OpenOptions},
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use ring::digest;
use rustix::fs::OFlags;

use super::error::LoadError;

/// SHA-256 of a plugin file, in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(String);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
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

/// Distinguishes two states of a file without reading it. The change time reveals what a copy that preserves timestamps
/// would hide, the inode reveals that another file was renamed over it.
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

    /// Returns the size of the file in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the fingerprint of the file at `path`, following symlinks.
    pub(crate) fn at(path: &Path) -> Result<Self, LoadError> {
        let metadata = fs::metadata(path).map_err(LoadError::Read)?;
        if !metadata.is_file() {
            return Err(LoadError::NotAFile);
        }
        Ok(Self::of(&metadata))
    }
}

/// Reads a file of at most `limit` bytes once, so that what is hashed is what is compiled. Fails when it changes
/// meanwhile. `named` is the limit's name in messages.
pub(crate) fn read(
    path: &Path,
    limit: u64,
    named: &'static str,
) -> Result<(Vec<u8>, Fingerprint), LoadError> {
    // Not opened unless it looks like a regular file, because opening a device may have side effects.
    Fingerprint::at(path)?;
    // Opening a pipe must not wait for its other end. Regular files are not affected.
    let mut file: File = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(LoadError::Read)?;
    let metadata = file.metadata().map_err(LoadError::Read)?;
    if !metadata.is_file() {
        return Err(LoadError::NotAFile);
    }
    let before = Fingerprint::of(&metadata);
    if before.size > limit {
        return Err(LoadError::TooLarge { limit, named });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.size).unwrap_or(0));
    // One more byte reveals that the file grows.
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
