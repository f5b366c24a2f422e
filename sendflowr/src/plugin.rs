//! `sendflowr plugin …`: trying plugins without running the host.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context, bail};
use clap::Subcommand;
use event::Timestamp;
use host::{
    HostConfig,
    cases::{self, Case, CaseResult},
    plugin::{Limits, Plugin, Plugins},
};
use serde_json::json;

use crate::{
    cli::{Format, Global},
    output, roles,
};

/// What can be done with plugins.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Runs case files through compiled plugins, proofs included. Exit code 1 when any fails.
    Test {
        /// Compiled plugins.
        #[arg(required = true)]
        plugins: Vec<PathBuf>,
        /// A case file, or a folder with case files at any depth.
        #[arg(long)]
        cases: PathBuf,
        /// How to print the results.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Lists the plugins in the folder, their secrets, and what the configured accounts lack.
    List {
        /// How to print the list.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Reads one delivery and prints what the plugin makes of it. Shows addresses: it is for your eyes.
    Normalize {
        /// Compiled plugin.
        plugin: PathBuf,
        /// File with the delivery, in the form of a case file (`request`, and `config` when proofs are to be checked);
        /// `-` for standard input.
        #[arg(long, default_value = "-")]
        delivery: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// Files that cannot be read, and plugins that cannot be loaded.
pub(crate) async fn run(command: PluginCommand, global: Global) -> anyhow::Result<ExitCode> {
    match command {
        PluginCommand::Test {
            plugins,
            cases,
            format,
        } => test(&plugins, &cases, format).await,
        PluginCommand::List { format } => list(global, format).await,
        PluginCommand::Normalize { plugin, delivery } => normalize(&plugin, &delivery).await,
    }
}

async fn test(files: &[PathBuf], cases: &Path, format: Format) -> anyhow::Result<ExitCode> {
    let mut plugins = BTreeMap::new();
    for file in files {
        let plugin = load(file).await?;
        plugins.insert(plugin.descriptor().slug.clone(), plugin);
    }
    let now = Timestamp::from(SystemTime::now());
    let mut results = Vec::new();
    let mut without_plugin = 0;
    for file in case_files(cases)? {
        let case = read_case(&file)?;
        match plugins.get(&case.provider) {
            Some(plugin) => results.push(cases::run_case(plugin, &case, now).await),
            None => without_plugin += 1,
        }
    }
    if results.is_empty() {
        bail!("`{}` holds no case for the given plugins", cases.display());
    }
    match format {
        Format::Json => results.iter().try_for_each(|result| {
            output::line(&serde_json::to_string(result)?);
            anyhow::Ok(())
        })?,
        Format::Text => print_results(&results, without_plugin),
    }
    Ok(if results.iter().all(|result| result.pass) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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

async fn list(global: Global, format: Format) -> anyhow::Result<ExitCode> {
    let config = global.load()?;
    let data_folder = roles::data_folder(&config);
    let config = HostConfig::try_new(config.host, config.accounts, &data_folder)?;
    let mut files = Vec::new();
    let folder = &config.plugins.folder;
    for entry in fs::read_dir(folder)
        .with_context(|| format!("cannot read the plugin folder `{}`", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            files.push(path);
        }
    }
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let plugin = match load(&file).await {
            Ok(plugin) => plugin,
            Err(error) => {
                match format {
                    Format::Json => {
                        output::line(&json!({ "file": name, "problem": format!("{error:#}") }).to_string())
                    }
                    Format::Text => rows.push(vec![
                        name,
                        String::new(),
                        String::new(),
                        format!("refused: {error:#}"),
                    ]),
                }
                continue;
            }
        };
        let descriptor = plugin.descriptor();
        let findings = config.accounts.findings(descriptor);
        if format == Format::Json {
            let spec = |name: &String, required: bool| json!({ "name": name, "required": required });
            let line = json!({
                "file": name,
                "slug": descriptor.slug,
                "display_name": descriptor.display_name,
                "version": descriptor.version,
                "secrets": descriptor.secrets.iter().map(|secret| spec(&secret.name, secret.required)).collect::<Vec<_>>(),
                "settings": descriptor.settings.iter().map(|setting| spec(&setting.name, setting.required)).collect::<Vec<_>>(),
                "accounts": findings,
            });
            output::line(&line.to_string());
            continue;
        }
        let mark = |name: &String, required: bool| {
            if required {
                format!("{name}*")
            } else {
                name.clone()
            }
        };
        let mut names: Vec<String> = descriptor
            .secrets
            .iter()
            .map(|secret| mark(&secret.name, secret.required))
            .collect();
        names.extend(
            descriptor
                .settings
                .iter()
                .map(|setting| mark(&setting.name, setting.required)),
        );
        let accounts: Vec<String> = findings
            .iter()
            .map(|finding| {
                let lacks = finding.missing.iter().map(|name| format!("lacks {name}"));
                let unknown = finding.unknown.iter().map(|name| format!("does not know {name}"));
                let problems: Vec<String> = lacks.chain(unknown).collect();
                match problems.is_empty() {
                    true => format!("{}: ok", finding.account),
                    false => format!("{}: {}", finding.account, problems.join(", ")),
                }
            })
            .collect();
        let accounts = if accounts.is_empty() {
            "none configured".to_owned()
        } else {
            accounts.join("; ")
        };
        rows.push(vec![
            descriptor.slug.clone(),
            descriptor.version.clone(),
            names.join(", "),
            accounts,
        ]);
    }
    if format == Format::Text {
        output::line(&output::table(
            &[
                "provider",
                "version",
                "secrets and settings (* required)",
                "accounts",
            ],
            &rows,
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn normalize(plugin: &Path, delivery: &Path) -> anyhow::Result<ExitCode> {
    let plugin = load(plugin).await?;
    let case = if delivery == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
        Case::from_json(&bytes).context("standard input")?
    } else {
        read_case(delivery)?
    };
    let reading = cases::normalize_one(&plugin, &case, Timestamp::from(SystemTime::now())).await?;
    output::line(&serde_json::to_string_pretty(&reading)?);
    Ok(ExitCode::SUCCESS)
}

/// Compiling keeps a thread busy for a while; the others go on.
async fn load(file: &Path) -> anyhow::Result<Arc<Plugin>> {
    let path = file.to_owned();
    let loaded = tokio::task::spawn_blocking(move || Plugins::load_file(&path, &Limits::default())).await?;
    loaded.with_context(|| format!("`{}`", file.display()))
}

fn read_case(file: &Path) -> anyhow::Result<Case> {
    let bytes = fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    Case::from_json(&bytes).with_context(|| format!("`{}`", file.display()))
}

/// The file itself, or all `.json` files below the folder, in order of their paths. Only folders named `cases`, and
/// folders of providers, hold case files; build folders are not looked into.
fn case_files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
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
