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

use super::files::{case_files, load, read_case};
use crate::{cli::Format, output};

/// Runs the cases of the given plugins; the exit code says whether all pass.
///
/// # Errors
/// Fails if a file cannot be read, a plugin cannot be loaded, two plugins are for the same provider, or there is no case at all.
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
    let mut results = Vec::new();
    let mut without_plugin = 0;
    for file in case_files(cases)? {
        let case = read_case(&file)?;
        match plugins.get(&case.provider) {
            Some((_, plugin)) => results.push(cases::run_case(plugin, &case, now).await),
            None => without_plugin += 1,
        }
    }
    if results.is_empty() {
        bail!("`{}` contains no case for the given plugins", cases.display());
    }
    match format {
        Format::Json => results.iter().try_for_each(|result| {
            output::line(&serde_json::to_string(result)?);
            anyhow::Ok(())
        })?,
        Format::Text => print_results(&results, without_plugin),
    }
    Ok(results.iter().all(|result| result.pass))
}

fn print_results(results: &[CaseResult], without_plugin: usize) {
    let rows: Vec<Vec<String>> = results
        .iter()
        .map(|result| {
            let (mark, first) = match result.diff.first() {
                None => ("ok", String::new()),
                Some(first) => ("FAILED", first.clone()),
            };
            vec![result.case.clone(), mark.to_owned(), first]
        })
        .collect();
    output::line(&output::table(&["case", "result", "difference"], &rows));
    for result in results.iter().filter(|result| result.diff.len() > 1) {
        output::line(&format!("\n{}:", result.case));
        result
            .diff
            .iter()
            .for_each(|difference| output::line(&format!("  {difference}")));
    }
    let failed = results.iter().filter(|result| !result.pass).count();
    let others = match without_plugin {
        0 => String::new(),
        cases => format!("; {cases} cases are for providers whose plugin was not given"),
    };
    output::line(&format!(
        "\n{} passed, {failed} failed{others}",
        results.len() - failed
    ));
}
