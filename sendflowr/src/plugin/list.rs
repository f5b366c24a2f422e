//! `sendflowr plugin list`: lists the plugins in the folder as the host judges them, and what the accounts lack.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
};

use host::{
    Findings, HostConfig,
    plugin::{LoadError, Plugins, Served, Surveyed, types::Descriptor},
};
use serde_json::{Value, json};

use crate::{
    account::{self, Known},
    cli::{Format, Global},
    config::{self, RawConfig},
    engines::Engines,
    output,
};

/// Lists the plugins in the configured folder; the exit code says whether all are served, and all accounts.
///
/// # Errors
/// Fails if the configuration cannot work, the folder cannot be read, or no host would start with the lock file. A bad plugin is
/// part of the list, not an error.
pub(crate) async fn run(global: Global, format: Format) -> anyhow::Result<ExitCode> {
    let raw = global.load()?;
    let config = config::host_config(&raw)?;
    let plugins = config.plugins.clone();
    // Compiling occupies a thread for a while.
    let surveyed = tokio::task::spawn_blocking(move || Plugins::survey(&plugins)).await??;
    let accounts = Listed::read(&raw, &config).await;
    let all_serve = surveyed.iter().all(|file| file.verdict.is_ok());
    let unserved = unserved(&surveyed, &accounts.known);
    let mut rows = Vec::new();
    for Surveyed { file, verdict } in &surveyed {
        match format {
            Format::Json => output::line(&as_json(file, verdict, &config, &accounts).to_string()),
            Format::Text => rows.push(as_row(file, verdict, &config, &accounts)),
        }
    }
    for (provider, accounts, problem) in &unserved {
        match format {
            Format::Json => {
                let row =
                    json!({ "slug": provider, "serves": false, "problem": problem, "accounts": accounts });
                output::line(&row.to_string());
            }
            Format::Text => {
                let none = String::new;
                let accounts = format!("{}: {problem}", accounts.join(", "));
                rows.push(vec![
                    (*provider).to_owned(),
                    none(),
                    none(),
                    none(),
                    none(),
                    accounts,
                ]);
            }
        }
    }
    if format == Format::Text {
        let header = [
            "provider",
            "version",
            "file",
            "trust",
            "secrets and settings (* required)",
            "accounts",
        ];
        output::line(&output::table(&header, &rows));
    }
    Ok(if all_serve && unserved.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The accounts, as far as they can be read here.
struct Listed {
    known: Known,
    /// Whether those that are stored could be read.
    are_stored_read: bool,
}

impl Listed {
    /// Reads the accounts. If the stored ones cannot be read, a note says so.
    async fn read(raw: &RawConfig, config: &HostConfig) -> Self {
        let reading = async || -> anyhow::Result<Known> {
            let engines = Engines::existing(raw)?;
            let known = engines.closed_after(async |engines| account::known(raw, config, engines).await);
            known.await
        };
        match reading().await {
            Ok(known) => Self {
                known,
                are_stored_read: true,
            },
            Err(error) => {
                output::note(&format!(
                    "only the configured accounts are listed, because the stored ones cannot be read: {error:#}"
                ));
                let known = Known {
                    accounts: config.accounts.clone(),
                    unusable: Vec::new(),
                };
                Self {
                    known,
                    are_stored_read: false,
                }
            }
        }
    }

    /// Returns how each account of the descriptor's provider fits it.
    fn findings(&self, descriptor: &Descriptor) -> Vec<Findings> {
        let Known { accounts, unusable } = &self.known;
        let mut findings = accounts.findings(descriptor);
        let mut unusable = unusable.iter();
        // A provider that has accounts, if only in the store, has no implicit one.
        if !self.are_stored_read || unusable.any(|(name, _)| name.provider == descriptor.slug) {
            findings.retain(|finding| accounts.has(&finding.provider, &finding.account));
        }
        findings
    }
}

/// Returns the accounts whose deliveries no host takes, by provider, and why: no plugin serves them, or they cannot be used.
fn unserved<'a>(surveyed: &[Surveyed], known: &'a Known) -> Vec<(&'a str, Vec<&'a str>, String)> {
    let served: BTreeSet<&str> = surveyed
        .iter()
        .filter_map(|file| file.verdict.as_ref().ok())
        .map(|served| served.plugin.descriptor().slug.as_str())
        .collect();
    let mut orphans: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for account in known.accounts.configured() {
        if !served.contains(account.provider()) {
            orphans
                .entry(account.provider())
                .or_default()
                .push(account.name());
        }
    }
    let orphans = orphans
        .into_iter()
        .map(|(provider, accounts)| (provider, accounts, format!("no plugin serves `{provider}`")));
    let unusable = known
        .unusable
        .iter()
        .map(|(name, error)| (&*name.provider, vec![&*name.account], format!("{error:#}")));
    orphans.chain(unusable).collect()
}

fn name_of(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Returns why a file is refused, in the host's words.
fn problem(file: &Path, error: &LoadError) -> String {
    format!("`{}` {}", name_of(file), event::chain(error))
}

fn as_json(
    file: &Path,
    verdict: &Result<Served, LoadError>,
    config: &HostConfig,
    accounts: &Listed,
) -> Value {
    let served = match verdict {
        Ok(served) => served,
        Err(error) => {
            return json!({ "file": name_of(file), "serves": false, "problem": problem(file, error) });
        }
    };
    let descriptor = served.plugin.descriptor();
    let (secrets, settings) = specs(descriptor);
    json!({
        "file": name_of(file),
        "serves": true,
        "pinned": served.pinned,
        "signed": is_signed(config),
        "slug": descriptor.slug,
        "display_name": descriptor.display_name,
        "version": descriptor.version,
        "secrets": secrets,
        "settings": settings,
        "accounts": accounts.findings(descriptor),
    })
}

/// Returns the declared secrets and settings as JSON.
pub(super) fn specs(descriptor: &Descriptor) -> (Vec<Value>, Vec<Value>) {
    let spec = |name: &String, required: bool| json!({ "name": name, "required": required });
    let secrets = descriptor.secrets.iter();
    let settings = descriptor.settings.iter();
    (
        secrets
            .map(|secret| spec(&secret.name, secret.required))
            .collect(),
        settings
            .map(|setting| spec(&setting.name, setting.required))
            .collect(),
    )
}

/// Returns whether a served plugin is signed by a trusted key; `None` if no signature is required.
fn is_signed(config: &HostConfig) -> Option<bool> {
    (!config.plugins.trusted_keys.is_empty()).then_some(true)
}

/// Says whether the plugin is pinned and signed, as far as pins and signatures are configured.
fn trust(served: &Served, config: &HostConfig) -> String {
    let pinned = served.pinned.map(|pinned| match pinned {
        true => "pinned",
        false => "not pinned",
    });
    let signed = is_signed(config).map(|_| "signed");
    let words: Vec<&str> = pinned.into_iter().chain(signed).collect();
    words.join(", ")
}

fn as_row(
    file: &Path,
    verdict: &Result<Served, LoadError>,
    config: &HostConfig,
    accounts: &Listed,
) -> Vec<String> {
    let served = match verdict {
        Ok(served) => served,
        Err(error) => {
            let none = String::new;
            let refused = "refused".to_owned();
            return vec![
                none(),
                none(),
                name_of(file),
                refused,
                none(),
                problem(file, error),
            ];
        }
    };
    let descriptor = served.plugin.descriptor();
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
    let findings = accounts.findings(descriptor);
    let accounts: Vec<String> = findings
        .iter()
        .map(|finding| {
            let problems = finding.problems();
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
        name_of(file),
        trust(served, config),
        names.join(", "),
        accounts,
    ]
}
