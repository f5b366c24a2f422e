//! `sendflowr plugin test --watch`: runs the cases again whenever a plugin or a case file changes.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use host::plugin::{Limits, Plugin};
use serde_json::json;

use super::{
    files::{case_files, load},
    test,
};
use crate::{cli::Format, output, roles};

/// How often the files are checked, and how long they must be unchanged before they are read: a build writes its file in
/// several steps. A check costs a listing of the cases. File system notifications would arrive sooner, but get lost on
/// network file systems, through symlinks, and when a build replaces its whole folder.
const LOOK: Duration = Duration::from_millis(200);

/// A file's time of modification and size, `None` if it is missing.
type Seen = Option<(SystemTime, u64)>;

/// Tests until Ctrl-C, the normal way to end it. A file that cannot be read or loaded is reported, and waited for.
pub(super) async fn run(files: &[PathBuf], cases: &Path, limits: &Limits, format: Format) -> ExitCode {
    tokio::select! {
        never = keep_testing(files, cases, limits, format) => match never {},
        // Not by returning, which would wait for the plugin that is being compiled: ten seconds for an interpreter.
        () = roles::stop_signal() => std::process::exit(0),
    }
}

async fn keep_testing(files: &[PathBuf], cases: &Path, limits: &Limits, format: Format) -> Infallible {
    let mut loaded = BTreeMap::new();
    loop {
        let seen = look(files, cases);
        let tried = test_once(files, cases, limits, &seen, &mut loaded, format).await;
        match (format, tried) {
            (_, Ok(())) => {}
            (Format::Json, Err(error)) => {
                output::line(&json!({ "problem": format!("{error:#}") }).to_string())
            }
            (Format::Text, Err(error)) => output::line(&format!("error: {error:#}")),
        }
        if format == Format::Text {
            output::line(&format!("\nWatching {} files; Ctrl-C ends it.", seen.len()));
        }
        wait_for_change(files, cases, &seen).await;
        if format == Format::Text {
            clear();
        }
    }
}

/// Runs the cases once. Plugins that have not changed are not compiled again.
async fn test_once(
    files: &[PathBuf],
    cases: &Path,
    limits: &Limits,
    seen: &BTreeMap<PathBuf, Seen>,
    loaded: &mut BTreeMap<PathBuf, (Seen, Arc<Plugin>)>,
    format: Format,
) -> anyhow::Result<()> {
    let mut plugins = Vec::with_capacity(files.len());
    for file in files {
        let now = seen.get(file).copied().flatten();
        let plugin = match loaded.get(file) {
            Some((then, plugin)) if *then == now => Arc::clone(plugin),
            _ => {
                let plugin = load(file, limits).await?;
                loaded.insert(file.clone(), (now, Arc::clone(&plugin)));
                plugin
            }
        };
        plugins.push((file.as_path(), plugin));
    }
    test::run_cases(&plugins, cases, format).await.map(drop)
}

/// Returns once the files differ from what was seen, and have stopped changing.
async fn wait_for_change(files: &[PathBuf], cases: &Path, seen: &BTreeMap<PathBuf, Seen>) {
    let mut last = seen.clone();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = look(files, cases);
        if now != *seen && now == last {
            return;
        }
        last = now;
    }
}

/// Looks at the plugins and all case files.
fn look(files: &[PathBuf], cases: &Path) -> BTreeMap<PathBuf, Seen> {
    // A folder that does not exist (yet) has no cases; the run reports it.
    let cases = case_files(cases).unwrap_or_default();
    let all = files.iter().cloned().chain(cases);
    all.map(|file| {
        let seen = fs::metadata(&file)
            .and_then(|metadata| Ok((metadata.modified()?, metadata.len())))
            .ok();
        (file, seen)
    })
    .collect()
}

/// Clears the last report from the screen. If the output goes to a file, all reports stay.
fn clear() {
    if std::io::stdout().is_terminal() {
        // Clears the screen and the scrollback, and moves the cursor to the top left.
        output::line("\x1b[2J\x1b[3J\x1b[H");
    }
}
