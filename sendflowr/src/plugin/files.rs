//! Plugin files and case files, found and read.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use host::{
    cases::Case,
    plugin::{Limits, Plugin, Plugins},
};

/// Compiling keeps a thread busy for a while; the others go on.
pub(super) async fn load(file: &Path) -> anyhow::Result<Arc<Plugin>> {
    let path = file.to_owned();
    let loaded = tokio::task::spawn_blocking(move || Plugins::load_file(&path, &Limits::default())).await?;
    loaded.with_context(|| format!("`{}`", file.display()))
}

pub(super) fn read_case(file: &Path) -> anyhow::Result<Case> {
    let bytes = fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    Case::from_json(&bytes).with_context(|| format!("`{}`", file.display()))
}

/// The file itself, or all `.json` files below the folder, in order of their paths. Only folders named `cases`, and
/// folders of providers, hold case files; build folders are not looked into.
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
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
