//! Finds and reads plugin files and case files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use host::{
    cases::Case,
    plugin::{Examination, Limits, Plugin, Plugins},
};

use crate::output;

/// Loads a plugin. Compiling it occupies a blocking thread for a while; the others are not held up.
pub(crate) async fn load(file: &Path, limits: &Limits) -> anyhow::Result<Arc<Plugin>> {
    let (path, limits) = (file.to_owned(), limits.clone());
    let loaded = tokio::task::spawn_blocking(move || Plugins::load_file(&path, &limits)).await?;
    loaded.with_context(|| format!("`{}`", file.display()))
}

/// Like [`load`], but also examines the plugin and prints the resulting note, if any.
pub(super) async fn examine(file: &Path, limits: &Limits) -> anyhow::Result<(Arc<Plugin>, Examination)> {
    let (path, limits) = (file.to_owned(), limits.clone());
    let examined = tokio::task::spawn_blocking(move || Plugins::examine(&path, &limits)).await?;
    let examined = examined.with_context(|| format!("`{}`", file.display()))?;
    if let Some(note) = note(&examined.1) {
        output::note(&note);
    }
    Ok(examined)
}

/// Returns what the plugin's author should know although a host serves the plugin.
pub(super) fn note(examination: &Examination) -> Option<String> {
    let failure = examination.failure.as_ref()?;
    Some(format!(
        "on a delivery without content {failure}; a host still serves it and asks the provider to retry such deliveries"
    ))
}

/// Returns the files of a plugin folder that the host would look at, sorted.
pub(super) fn plugin_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("cannot read the plugin folder `{}`", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "wasm") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn read_case(file: &Path) -> anyhow::Result<Case> {
    let bytes = fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    Case::from_json(&bytes).with_context(|| format!("`{}`", file.display()))
}

/// Folders of files that build tools create or download.
const BUILD_FOLDERS: [&str; 2] = ["target", "node_modules"];

/// npm's files beside the source of a plugin in JavaScript.
const MANIFESTS: [&str; 2] = ["package.json", "package-lock.json"];

/// Returns the file itself, or all `.json` files below the folder, sorted by path. Build folders, hidden folders and npm's
/// manifests are skipped.
pub(super) fn case_files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if !BUILD_FOLDERS.contains(&name.as_str()) && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "json")
                && !MANIFESTS.contains(&name.as_str())
            {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_found_among_sources_and_builds() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "a/cases/2.json",
            "a/cases/1.json",
            "a/package.json",
            "a/package-lock.json",
            "a/node_modules/x/1.json",
            "target/1.json",
            ".git/1.json",
            "a/cases/README.md",
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{}").unwrap();
        }
        let found = case_files(folder.path()).unwrap();
        let expected = ["a/cases/1.json", "a/cases/2.json"].map(|name| folder.path().join(name));
        assert_eq!(found, expected);
    }
}
