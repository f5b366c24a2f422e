//! Decides which plugin serves a slug after a file has passed the checks, has failed them, or is gone.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{
    PATIENCE, Registry,
    files::{KnownFile, Problem, Seen},
};
use crate::plugin::{
    error::LoadError,
    folder::{GONE, Sight, file_name},
    guest::Plugin,
    load::Candidate,
    trust::Trust,
};

impl Registry {
    /// Removes the plugins of files that have been gone for long enough: [`GONE`], and [`PATIENCE`] more while a new file is being
    /// read, which may be the same plugin or its successor under another name.
    pub(super) fn drop_gone(&self, now: Instant) {
        let mut files = self.files();
        let has_news = files
            .values()
            .any(|file| file.is_being_read() && file.plugin.is_none());
        let rest = if has_news { GONE + PATIENCE } else { GONE };
        let gone: Vec<PathBuf> = files
            .iter()
            .filter(|(_, file)| match file.seen {
                Seen::Gone { since } => now.saturating_duration_since(since) >= rest,
                Seen::Changed { .. } | Seen::Settled { .. } => false,
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            // While it is being loaded it is remembered, so that what comes in its place is not taken for it.
            let is_loading = files.get(&path).is_some_and(|file| file.is_loading);
            let plugin = match is_loading {
                true => files.get_mut(&path).and_then(|file| file.plugin.take()),
                false => files.remove(&path).and_then(|file| file.plugin),
            };
            if let Some(plugin) = plugin {
                tracing::info!(
                    plugin = %plugin.tag(),
                    plugin.file = %file_name(&path),
                    "plugin `{}` is no longer served: its file is gone",
                    plugin.tag()
                );
            }
        }
        self.publish(&files);
    }

    pub(super) fn admit(&self, path: &Path, listed: Sight, candidate: Candidate) {
        let seen = Sight {
            file: Some(candidate.fingerprint),
            ..listed
        };
        let slug = candidate.descriptor.slug.clone();
        let mut files = self.files();
        // It was removed or replaced while it was read: no other plugin makes way for it. What is there now is read next.
        let is_current = files.get(path).is_some_and(|file| match file.seen {
            Seen::Changed { sight, .. } | Seen::Settled { sight } => sight == listed || sight == seen,
            Seen::Gone { .. } => false,
        });
        if !is_current {
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
        // A file that has just gone, perhaps because it was renamed, hands its slug over to this one. So does a file that this
        // one takes over from.
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
        let problem = file.problem.take();
        if let Some(plugin) = file
            .plugin
            .as_ref()
            .filter(|plugin| plugin.digest == candidate.digest)
        {
            // Only touched, or restored to what is being served: the plugin keeps its state.
            if problem.is_some() {
                let name = file_name(path);
                tracing::info!(
                    plugin.file = %name, plugin = %plugin.tag(),
                    "plugin file `{name}` is no longer refused: it is again the `{}` that is served", plugin.tag()
                );
            }
            return;
        }
        if candidate.pinned == Some(false) {
            let (name, lock) = (file_name(path), self.loader.trust().map(Trust::lock_name));
            tracing::warn!(
                plugin.file = %name,
                "plugin file `{name}` is not pinned in `{}`; with `host.plugins.locked` it would be refused",
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
        // Tools load plugins too, and serve nobody.
        tracing::info!(
            plugin = %plugin.tag(),
            plugin.file = %file_name(path),
            plugin.digest = %plugin.digest(),
            plugin.before = before.as_ref().map(|before| before.tag()),
            "plugin `{}` is now in use{}",
            plugin.tag(),
            may_fetch(&plugin.descriptor().hosts)
        );
        if let Some(before) = before.filter(|before| before.descriptor().slug != slug) {
            tracing::info!(
                plugin = %before.tag(),
                plugin.file = %file_name(path),
                "plugin `{}` is no longer served: its file has become `{}`",
                before.tag(),
                plugin.tag()
            );
        }
    }

    /// Notes why the file, as it was `seen` in the listing, is not served.
    pub(super) fn refuse(&self, path: &Path, seen: Sight, error: &LoadError) {
        let name = file_name(path);
        let mut files = self.files();
        let Some(file) = files.get_mut(path) else {
            return;
        };
        match file.seen {
            // It has changed in the meantime, or is gone: the next look handles it.
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
            tracing::warn!(
                plugin.file = %name, plugin = %plugin.tag(),
                "plugin `{}` is no longer served: it is no longer pinned", plugin.tag()
            );
        }
        drop(files);
        if !known {
            match serves {
                Some(tag) => tracing::warn!(
                    plugin.file = %name, plugin = %tag, "plugin file is refused, `{tag}` is still served: {text}"
                ),
                None => tracing::warn!(plugin.file = %name, "plugin file is refused: {text}"),
            }
        }
    }

    /// Rebuilds the map of served plugins from the files, and removes the series of plugins that are no longer served.
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
}

/// Returns whether this file gets the slug rather than the one that serves it. Of two files, the pinned one gets it. If neither
/// is pinned, the one that is named after the slug gets it: which file was there first is forgotten at the next start. A file
/// that is not pinned does not get here while the slug is pinned.
pub(crate) fn takes_over(path: &Path, candidate: &Candidate, owner: &Plugin) -> bool {
    let is_named = path
        .file_stem()
        .is_some_and(|stem| stem == candidate.descriptor.slug.as_str());
    is_named || candidate.pinned == Some(true) && owner.digest != candidate.digest
}

/// Returns what to say of the hosts that a plugin names.
fn may_fetch(hosts: &[String]) -> String {
    if hosts.is_empty() {
        String::new()
    } else {
        format!("; it may have the host fetch from {}", hosts.join(", "))
    }
}
