//! `sendflowr plugin list`: the plugins of the folder, and what the configured accounts lack.

use std::process::ExitCode;

use serde_json::json;

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
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let plugin = match load(&file, &config.plugins.limits).await {
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
