//! Lists the plugin folder without reading the files.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{error::PluginError, file::Fingerprint, signature::signature_path};

/// How long a file must be unchanged before it is read: the writes of a copy follow each other faster than this.
pub(crate) const SETTLE: Duration = Duration::from_millis(200);

/// How long a file must be gone before its plugin is removed. Replacing a file by removing and copying it, or renaming
/// it, then leaves no gap.
pub(crate) const GONE: Duration = Duration::from_millis(600);

/// How long to wait before a file that could not be read or was refused because of the machine is read again. Overload and failing
/// disks last at least that long, and no operator would restart a host sooner. Loading a file again costs milliseconds where
/// compiled code is cached.
pub(crate) const AGAIN: Duration = Duration::from_secs(30);

/// A plugin file as seen when listing the folder. A change of either part is a reason to read the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// The file, if it is a regular one.
    pub(crate) file: Option<Fingerprint>,
    /// Its signature, if there is one and signatures are required.
    pub(crate) signature: Option<Fingerprint>,
}

/// Creates the folder if it is missing. That is worth a warning: the name may be mistyped or the disk not there, and until plugins
/// are copied into it, deliveries are refused.
pub(crate) fn make_folder(folder: &Path) -> Result<(), PluginError> {
    if folder.is_dir() {
        return Ok(());
    }
    tracing::warn!(
        plugin.folder = %folder.display(),
        "the plugin folder `{}` (`host.plugins.folder` or `--plugins`) is not there and is created: nothing is served until \
         plugins are copied into it",
        folder.display()
    );
    fs::create_dir_all(folder).map_err(|source| PluginError::Folder {
        folder: folder.to_owned(),
        cannot_be: "created",
        source,
    })
}

/// Lists everything in the folder that is named like a plugin. What is not a regular file has no fingerprint: it is
/// reported when it is read. Names that begin with a dot are left to editors and copying tools. Signatures are looked
/// for only if they are required.
pub(crate) fn list(folder: &Path, with_signatures: bool) -> io::Result<BTreeMap<PathBuf, Sight>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_plugin = path.extension().is_some_and(|extension| extension == "wasm");
        if is_plugin && !hidden {
            let signature = with_signatures.then(|| Fingerprint::at(&signature_path(&path)).ok());
            let sight = Sight {
                file: Fingerprint::at(&path).ok(),
                signature: signature.flatten(),
            };
            found.insert(path, sight);
        }
    }
    Ok(found)
}

/// Returns the file's name for display: control characters and invalid UTF-8 are replaced.
pub(crate) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.chars()
        .map(|letter| if letter.is_control() { '\u{fffd}' } else { letter })
        .collect()
}
