//! `sendflowr plugin test`: runs case files through compiled plugins.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::SystemTime,
};

use anyhow::bail;
use event::Timestamp;
use host::{
    cases::{self, CaseResult},
    plugin::{Limits, Plugin},
};
use serde::Serialize;
use tracing::Instrument;

use super::files::{case_files, load, read_case};
use crate::{cli::Format, output};

/// The longest difference in the table, in characters: it fits one about a field whose values are short. Longer ones would stretch
/// every line, and are printed below it.
const MOST_IN_TABLE: usize = 80;

/// A case file and its result.
#[derive(Serialize)]
struct Tried {
    #[serde(flatten)]
    result: CaseResult,
    file: PathBuf,
}

/// Runs the cases of the given plugins; the exit code says whether all pass.
///
/// # Errors
/// Fails if a plugin cannot be loaded, two plugins are for the same provider, or there is no case at all. A case file that cannot be
/// read has failed, and so has one of another provider if only one plugin is given.
pub(crate) async fn run(
    files: &[PathBuf],
    cases: &Path,
    limits: &Limits,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let mut plugins = Vec::with_capacity(files.len());
    for file in files {
        plugins.push((file.as_path(), load(file, limits).await?));
    }
    Ok(if run_cases(&plugins, cases, format).await? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the cases of loaded plugins, and prints the results; returns whether all pass.
///
/// # Errors
/// Like [`run`].
pub(super) async fn run_cases(
    loaded: &[(&Path, Arc<Plugin>)],
    cases: &Path,
    format: Format,
) -> anyhow::Result<bool> {
    let mut plugins = BTreeMap::new();
    for (file, plugin) in loaded {
        let slug = plugin.descriptor().slug.clone();
        if let Some((other, _)) = plugins.insert(slug.clone(), (file, plugin)) {
            bail!(
                "`{}` and `{}` are both plugins for `{slug}`: test one after the other",
                other.display(),
                file.display()
            );
        }
    }
    let now = Timestamp::from(SystemTime::now());
    let mut tried = Vec::new();
    let mut without_plugin = 0;
    for file in case_files(cases)? {
        let result = match read_case(&file) {
            Ok(case) => {
                let plugin = match (plugins.get(&case.provider), loaded) {
                    (Some((_, plugin)), _) => plugin,
                    // Its result is that it is for another plugin.
                    (None, [(_, only)]) => only,
                    (None, _) => {
                        without_plugin += 1;
                        continue;
                    }
                };
                // Tells which case the plugin's log lines belong to, whatever the log's level.
                let span = tracing::error_span!("case", file = %file.display());
                cases::run_case(plugin, &case, now).instrument(span).await
            }
            Err(error) => CaseResult {
                case: file.display().to_string(),
                pass: false,
                diff: vec![format!("{error:#}")],
            },
        };
        tried.push(Tried { file, result });
    }
    if tried.is_empty() {
        bail!("`{}` contains no case for the given plugins", cases.display());
    }
    match format {
        Format::Json => tried.iter().try_for_each(|tried| {
            output::line(&serde_json::to_string(tried)?);
            anyhow::Ok(())
        })?,
        Format::Text => print_results(&tried, without_plugin),
    }
    Ok(tried.iter().all(|tried| tried.result.pass))
}

fn print_results(tried: &[Tried], without_plugin: usize) {
    let names = names(tried);
    let mut rows = Vec::with_capacity(tried.len());
    let mut in_full = String::new();
    for (name, Tried { result, .. }) in names.into_iter().zip(tried) {
        let (mark, first) = match result.diff.first() {
            None => ("ok", String::new()),
            Some(first) => ("FAILED", shortened(first)),
        };
        if result.diff.len() > 1 || result.diff.first().is_some_and(|whole| *whole != first) {
            in_full += &format!("\n{name}:\n  {}\n", result.diff.join("\n  "));
        }
        rows.push(vec![name, mark.to_owned(), first]);
    }
    output::line(&output::table(&["case", "result", "difference"], &rows));
    if !in_full.is_empty() {
        output::line(in_full.trim_end());
    }
    let failed = tried.iter().filter(|tried| !tried.result.pass).count();
    let others = match without_plugin {
        0 => String::new(),
        cases => format!("; {cases} cases are for providers whose plugin was not given"),
    };
    output::line(&format!(
        "\n{} passed, {failed} failed{others}",
        tried.len() - failed
    ));
}

/// Returns the names of the cases; those that several have are followed by the file.
fn names(tried: &[Tried]) -> Vec<String> {
    let mut times = BTreeMap::new();
    for Tried { result, .. } in tried {
        *times.entry(&result.case).or_insert(0) += 1;
    }
    tried
        .iter()
        .map(|Tried { file, result }| match times[&result.case] {
            1 => result.case.clone(),
            _ => format!("{} ({})", result.case, file.display()),
        })
        .collect()
}

/// Returns the difference as it fits into the table.
fn shortened(difference: &str) -> String {
    match difference.char_indices().nth(MOST_IN_TABLE) {
        None => difference.to_owned(),
        Some((end, _)) => format!("{}…", &difference[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_json_begins_with_case_pass_and_diff() {
        let tried = Tried {
            result: CaseResult {
                case: "acme/click".to_owned(),
                pass: true,
                diff: Vec::new(),
            },
            file: "cases/click.json".into(),
        };
        assert_eq!(
            serde_json::to_string(&tried).unwrap(),
            r#"{"case":"acme/click","pass":true,"diff":[],"file":"cases/click.json"}"#
        );
    }
}
