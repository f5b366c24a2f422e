//! `sendflowr plugin check`: checks whether a file is a plugin that the host serves, and shows what it is.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use host::plugin::{Examination, Plugin, PluginError, Plugins, PluginsConfig, types::Descriptor};
use serde_json::{Value, json};

use super::{files::note, list::specs};
use crate::{cli::Format, output};

/// Share of a limit from which on the table warns: a large delivery takes several times what an empty one does.
const NEAR_PERCENT: u64 = 50;

/// Examines each file; the exit code says whether all are plugins that a host serves. How the configured lock file and trusted
/// keys apply is only shown, because files are checked before they are pinned and signed.
///
/// # Errors
/// Fails if the machine cannot run plugins at all. A bad file is a result, not an error.
pub(crate) async fn run(
    files: &[PathBuf],
    config: &PluginsConfig,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let mut all_serve = true;
    for file in files {
        let (path, limits) = (file.clone(), config.limits.clone());
        let examined = tokio::task::spawn_blocking(move || Plugins::examine(&path, &limits)).await?;
        all_serve &= examined.is_ok();
        match (format, examined) {
            (_, Err(error @ PluginError::Host { .. })) => return Err(error.into()),
            (Format::Json, examined) => output::line(&as_json(file, examined, config).to_string()),
            (Format::Text, Ok((plugin, examination))) => print(file, &plugin, &examination, config),
            (Format::Text, Err(error)) => output::line(&format!(
                "`{}` is refused: {:#}",
                file.display(),
                anyhow::Error::from(error)
            )),
        }
    }
    Ok(if all_serve {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn as_json(
    file: &Path,
    examined: Result<(std::sync::Arc<Plugin>, Examination), PluginError>,
    config: &PluginsConfig,
) -> Value {
    match examined {
        Err(error) => {
            json!({ "file": file, "serves": false, "limit": error.limit(), "problem": format!("{:#}", anyhow::Error::from(error)) })
        }
        Ok((plugin, examination)) => {
            let descriptor = plugin.descriptor();
            let (secrets, settings) = specs(descriptor);
            json!({
                "file": file,
                "serves": true,
                "slug": descriptor.slug,
                "version": descriptor.version,
                "secrets": secrets,
                "settings": settings,
                "digest": plugin.digest(),
                "contract": examination.contract,
                "imports": examination.imports,
                "uses": examination.uses,
                "note": note(&examination),
                "configured": configured(file, &plugin, config),
            })
        }
    }
}

/// Describes how the host judges the file by its lock file and trusted keys; `None` if there are neither.
fn configured(file: &Path, plugin: &Plugin, config: &PluginsConfig) -> Option<String> {
    let lock = config.lock.display();
    let is_signed = !config.trusted_keys.is_empty();
    let pinned = match Plugins::judge(config, file, plugin) {
        Ok(Some(true)) => Some(format!("is pinned in `{lock}`")),
        Ok(Some(false)) => Some(format!("is not pinned in `{lock}`, which `locked` would ask for")),
        Ok(None) => None,
        Err(PluginError::Load(error)) => {
            return Some(format!(
                "the host refuses it as configured: it {}",
                event::chain(&error)
            ));
        }
        Err(error) => return Some(format!("no host starts as configured: {}", event::chain(&error))),
    };
    let signed = is_signed.then(|| "is signed by a trusted key".to_owned());
    let both: Vec<String> = pinned.into_iter().chain(signed).collect();
    (!both.is_empty()).then(|| format!("the host serves it as configured: it {}", both.join(", and ")))
}

fn print(file: &Path, plugin: &Plugin, examination: &Examination, config: &PluginsConfig) {
    let descriptor = plugin.descriptor();
    output::line(&format!(
        "`{}` is a plugin that the host serves\n",
        file.display()
    ));
    let imports: Vec<&str> = examination.imports.iter().map(String::as_str).collect();
    let statuses = &descriptor.statuses;
    let (secrets, settings) = names(descriptor);
    let facts = [
        (
            "provider",
            format!(
                "{} ({}), version {}",
                descriptor.slug, descriptor.display_name, descriptor.version
            ),
        ),
        ("documents", descriptor.docs_url.clone()),
        ("contract", examination.contract.clone()),
        ("imports", listed(&imports)),
        ("secrets", listed(&secrets)),
        ("settings", listed(&settings)),
        ("may fetch from", listed(&descriptor.hosts)),
        (
            "answers",
            format!(
                "{} when unproven, {} when malformed, {} when unavailable",
                statuses.unproven, statuses.malformed, statuses.unavailable
            ),
        ),
        ("sha256", plugin.digest().to_owned()),
    ];
    for (name, value) in facts {
        output::line(&format!("{name:<15} {value}"));
    }
    let rows: Vec<Vec<String>> = examination
        .uses
        .iter()
        .map(|of| {
            let is_near = of.used.saturating_mul(100) >= of.most.saturating_mul(NEAR_PERCENT);
            let note = if is_near { "near its limit" } else { "" };
            vec![
                of.limit.to_owned(),
                of.used.to_string(),
                of.most.to_string(),
                note.to_owned(),
            ]
        })
        .collect();
    output::line(&format!(
        "\n{}\n\nMemory, tables and CPU time are those of a delivery without content; `plugin bench` measures real ones.\n",
        output::table(&["limit", "takes", "may take", ""], &rows)
    ));
    if let Some(note) = note(examination) {
        output::note(&note);
    }
    if let Some(configured) = configured(file, plugin, config) {
        output::line(&format!("`{}`: {configured}\n", file.display()));
    }
}

/// Returns the names of secrets and settings, with required ones marked.
fn names(descriptor: &Descriptor) -> (Vec<String>, Vec<String>) {
    let mark = |name: &str, is_required: bool| match is_required {
        true => format!("{name} (required)"),
        false => name.to_owned(),
    };
    let secrets = descriptor
        .secrets
        .iter()
        .map(|secret| mark(&secret.name, secret.required));
    let settings = descriptor
        .settings
        .iter()
        .map(|setting| mark(&setting.name, setting.required));
    (secrets.collect(), settings.collect())
}

fn listed<T: AsRef<str>>(names: &[T]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
}
