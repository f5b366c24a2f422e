//! Determines what a host that starts would do with the files in its folder, for tools.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Plugins,
    config::PluginsConfig,
    error::{LoadError, PluginError},
    file::{self, Digest},
    folder::{file_name, list},
    guest::Plugin,
    load::Loader,
    registry::takes_over,
    trust::Trust,
};

/// A file of the plugin folder.
#[derive(Debug)]
pub struct Surveyed {
    /// Its path.
    pub file: PathBuf,
    /// The plugin that a host would serve from it, or why it would refuse it.
    pub verdict: Result<Served, LoadError>,
}

/// A plugin that a host would serve.
#[derive(Debug, Clone)]
pub struct Served {
    /// The plugin.
    pub plugin: Arc<Plugin>,
    /// Whether the lock file pins it; `None` if there is no lock file.
    pub pinned: Option<bool>,
}

impl Plugins {
    /// Returns every file of the configured folder, sorted by name, with what a host that starts would serve from it, or why it
    /// would refuse it: according to the lock file, the trusted keys, and which file gets which slug. Does not cache compiled
    /// code. Blocks on the compiler.
    ///
    /// # Errors
    /// Returns what keeps a host from starting: a folder that cannot be read, or a lock file that is invalid, or missing although
    /// it is required.
    pub fn survey(config: &PluginsConfig) -> Result<Vec<Surveyed>, PluginError> {
        let loader = Loader::judging(config)?;
        let files = list(&config.folder, false).map_err(|source| PluginError::Folder {
            folder: config.folder.clone(),
            cannot_be: "read",
            source,
        })?;
        let mut surveyed: Vec<Surveyed> = Vec::new();
        let mut owners: HashMap<String, usize> = HashMap::new();
        for file in files.into_keys() {
            let candidate = match loader.candidate(&file, || ()) {
                Ok(candidate) => candidate,
                Err(error) => {
                    let verdict = Err(error);
                    surveyed.push(Surveyed { file, verdict });
                    continue;
                }
            };
            let slug = candidate.descriptor.slug.clone();
            let second = |owner: &Path| LoadError::DuplicateSlug {
                slug: slug.clone(),
                owner: file_name(owner),
            };
            if let Some(owner) = owners.get(&slug).and_then(|index| surveyed.get_mut(*index)) {
                let keeps_it = owner
                    .verdict
                    .as_ref()
                    .is_ok_and(|served| !takes_over(&file, &candidate, &served.plugin));
                if keeps_it {
                    let verdict = Err(second(&owner.file));
                    surveyed.push(Surveyed { file, verdict });
                    continue;
                }
                owner.verdict = Err(second(&file));
            }
            owners.insert(slug.clone(), surveyed.len());
            let pinned = candidate.pinned;
            let stats = loader.metrics.of(&slug);
            let plugin = Arc::new(loader.plugin(candidate, stats));
            let verdict = Ok(Served { plugin, pinned });
            surveyed.push(Surveyed { file, verdict });
        }
        Ok(surveyed)
    }

    /// Checks the file that this plugin was loaded from against the lock file and the trusted keys. Returns whether it is pinned;
    /// `None` if there is no lock file.
    ///
    /// # Errors
    /// Returns why a host would refuse the file, or would not start.
    pub fn judge(config: &PluginsConfig, path: &Path, plugin: &Plugin) -> Result<Option<bool>, PluginError> {
        let trust = Trust::open(config)?;
        let (bytes, _) = file::read(path, config.limits.file_bytes, "`file_bytes`")?;
        let digest = Digest::of(&bytes);
        let verdict = trust.check(path, &bytes, &digest)?;
        Ok(verdict.confirm(&plugin.descriptor().slug, &digest)?)
    }
}
