//! `sendflowr plugin pin`: writes the digests of plugins to `plugins.lock`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;
use host::plugin::{Examination, LockWriter, Pin, Plugin, PluginLock};

use super::files::{examine, plugin_files};
use crate::{cli::Global, output};

/// What to pin, and where.
#[derive(Debug, Args)]
pub(crate) struct PinArgs {
    /// Compiled plugins [default: all in the plugin folder; plugins that are no longer there are unpinned]
    // Not named like the global `--plugins`: clap would take it for that flag's value.
    #[arg(id = "files", value_name = "FILES")]
    files: Vec<PathBuf>,
    /// Lock file [default: `host.plugins.lock`, or `plugins.lock` in the plugin folder]
    #[arg(long)]
    lock: Option<PathBuf>,
    /// Write nothing. Exit code 1 if the lock file would change.
    #[arg(long)]
    check: bool,
}

/// Pins plugins and prints what changed.
///
/// # Errors
/// Fails if the host would not serve a file, or the lock file cannot be read or written. Nothing is written then.
pub(crate) async fn run(global: Global, args: PinArgs) -> anyhow::Result<ExitCode> {
    let config = global.plugins_config()?;
    let path = args.lock.unwrap_or_else(|| config.lock.clone());
    let writer = match args.check {
        true => None,
        false => Some(writer(&path).await?),
    };
    let is_whole_folder = args.files.is_empty();
    let files = if is_whole_folder {
        plugin_files(&config.folder)?
    } else {
        args.files
    };
    let before = PluginLock::read(&path)?.unwrap_or_default();
    let mut after = before.clone();
    let mut seen = BTreeSet::new();
    for file in &files {
        let (plugin, examination) = examine(file, &config.limits).await?;
        let slug = plugin.descriptor().slug.clone();
        let pin = pin(file, &plugin, &examination, before.get(&slug))?;
        after.pin(&slug, pin);
        if !seen.insert(slug.clone()) {
            bail!(
                "`{}` is a second file for the slug `{slug}`: only one can be served",
                file.display()
            );
        }
    }
    if is_whole_folder {
        let gone = before
            .pins()
            .map(|(slug, _)| slug)
            .filter(|slug| !seen.contains(*slug));
        for slug in gone {
            after.unpin(slug);
        }
    }
    let changes = differences(&before, &after);
    if let Some(writer) = &writer
        && before != after
    {
        writer.write(&after)?;
    }
    for change in &changes {
        output::line(change);
    }
    let name = path.display();
    if changes.is_empty() {
        output::line(&format!("`{name}` matches the {} plugins", files.len()));
        return Ok(ExitCode::SUCCESS);
    }
    if writer.is_none() {
        output::line(&format!(
            "`{name}` differs from the plugins; `sendflowr plugin pin` would write it"
        ));
        return Ok(ExitCode::FAILURE);
    }
    output::line(&format!("`{name}` is written"));
    Ok(ExitCode::SUCCESS)
}

/// Waits for the right to write this lock file.
pub(super) async fn writer(path: &Path) -> anyhow::Result<LockWriter> {
    let path = path.to_owned();
    Ok(tokio::task::spawn_blocking(move || LockWriter::wait(&path)).await??)
}

/// Pins one plugin, which is or will be in `file`, and returns what changed, in lines to be printed.
///
/// # Errors
/// Fails if the lock file cannot be read or written. Nothing is written then.
pub(super) fn one(
    writer: &LockWriter,
    file: &Path,
    plugin: &Plugin,
    examination: &Examination,
    source: Option<String>,
) -> anyhow::Result<Vec<String>> {
    let before = writer.read()?;
    let mut after = before.clone();
    let slug = plugin.descriptor().slug.as_str();
    let mut pin = pin(file, plugin, examination, before.get(slug))?;
    if source.is_some() {
        pin.source = source;
    }
    after.pin(slug, pin);
    writer.write(&after)?;
    let mut changes = differences(&before, &after);
    changes.push(format!("`{}` is written", writer.path().display()));
    Ok(changes)
}

fn pin(file: &Path, plugin: &Plugin, examination: &Examination, before: Option<&Pin>) -> anyhow::Result<Pin> {
    let name = file.file_name().and_then(|name| name.to_str());
    let source = before
        .filter(|before| before.sha256 == plugin.digest())
        .and_then(|before| before.source.clone());
    Ok(Pin {
        file: name
            .with_context(|| format!("the name of `{}` is not UTF-8", file.display()))?
            .to_owned(),
        version: plugin.descriptor().version.clone(),
        contract: examination.contract.clone(),
        sha256: plugin.digest().to_owned(),
        source,
    })
}

/// Returns one line for each pin that differs. The file's name does not count: it is for the reader, and the file that was pinned
/// may get another one in the folder.
fn differences(before: &PluginLock, after: &PluginLock) -> Vec<String> {
    let slugs: BTreeSet<&str> = before.pins().chain(after.pins()).map(|(slug, _)| slug).collect();
    let change = |slug: &str| match (before.get(slug), after.get(slug)) {
        (Some(old), Some(new)) if *old == renamed(new, &old.file) => None,
        (Some(old), Some(new)) if old.sha256 == new.sha256 => Some(format!(
            "changed   {slug} {}: the same file, described differently",
            new.version
        )),
        (Some(old), Some(new)) => Some(format!(
            "changed   {slug} {} -> {}, sha256 {} -> {}",
            old.version, new.version, old.sha256, new.sha256
        )),
        (None, Some(new)) => Some(format!("pinned    {slug} {}, sha256 {}", new.version, new.sha256)),
        (Some(old), None) => Some(format!("unpinned  {slug} {}, whose file is gone", old.version)),
        (None, None) => None,
    };
    slugs.into_iter().filter_map(change).collect()
}

fn renamed(pin: &Pin, file: &str) -> Pin {
    Pin {
        file: file.to_owned(),
        ..pin.clone()
    }
}
