//! `sendflowr plugin list`: the plugins of the folder, and what the configured accounts lack.

use std::{path::Path, process::ExitCode, sync::Arc};

use host::{HostConfig, plugin::Plugin};
use serde_json::{Value, json};

use super::files::{load, plugin_files};
use crate::{
    cli::{Format, Global},
    output, roles,
};

/// Lists the plugins in the configured folder.
///
/// # Errors
/// A configuration that cannot work, and a folder that cannot be read. A bad plugin is part of the list.
pub(crate) async fn run(global: Global, format: Format) -> anyhow::Result<ExitCode> {
    let config = roles::host_config(&global.load()?)?;
    let mut rows = Vec::new();
    for file in plugin_files(&config.plugins.folder)? {
        let plugin = load(&file, &config.plugins.limits).await;
        match format {
            Format::Json => output::line(&as_json(&file, plugin, &config).to_string()),
            Format::Text => rows.push(as_row(&file, plugin, &config)),
        }
    }
    if format == Format::Text {
        let header = [
            "provider",
            "version",
            "secrets and settings (* required)",
            "accounts",
        ];
        output::line(&output::table(&header, &rows));
    }
    Ok(ExitCode::SUCCESS)
}

fn name_of(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn as_json(file: &Path, plugin: anyhow::Result<Arc<Plugin>>, config: &HostConfig) -> Value {
    let plugin = match plugin {
        Ok(plugin) => plugin,
        Err(error) => return json!({ "file": name_of(file), "problem": format!("{error:#}") }),
    };
    let descriptor = plugin.descriptor();
    let spec = |name: &String, required: bool| json!({ "name": name, "required": required });
    let secrets = descriptor.secrets.iter();
    let settings = descriptor.settings.iter();
    json!({
        "file": name_of(file),
        "slug": descriptor.slug,
        "display_name": descriptor.display_name,
        "version": descriptor.version,
        "secrets": secrets.map(|secret| spec(&secret.name, secret.required)).collect::<Vec<_>>(),
        "settings": settings.map(|setting| spec(&setting.name, setting.required)).collect::<Vec<_>>(),
        "accounts": config.accounts.findings(descriptor),
    })
}

fn as_row(file: &Path, plugin: anyhow::Result<Arc<Plugin>>, config: &HostConfig) -> Vec<String> {
    let plugin = match plugin {
        Ok(plugin) => plugin,
        Err(error) => {
            let (version, names) = (String::new(), String::new());
            return vec![name_of(file), version, names, format!("refused: {error:#}")];
        }
    };
    let descriptor = plugin.descriptor();
    let mark = |name: &String, required: bool| {
        if required {
            format!("{name}*")
        } else {
            name.clone()
        }
    };
    let secrets = descriptor.secrets.iter();
    let settings = descriptor.settings.iter();
    let names: Vec<String> = secrets
        .map(|secret| mark(&secret.name, secret.required))
        .chain(settings.map(|setting| mark(&setting.name, setting.required)))
        .collect();
    let findings = config.accounts.findings(descriptor);
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
    vec![
        descriptor.slug.clone(),
        descriptor.version.clone(),
        names.join(", "),
        accounts,
    ]
}
