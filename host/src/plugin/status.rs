//! The content of `GET /plugins`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::guest::Plugin;

/// One file of the plugin folder, and the plugin that it serves.
#[derive(Debug, Clone, Serialize)]
pub struct PluginStatus {
    /// Name of the file.
    pub file: String,
    /// Whether the plugin is served.
    #[serde(flatten)]
    pub state: PluginState,
    /// Why the file as it is now is not served. If there is also a plugin that is served, it comes from an earlier state of the
    /// file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether the lock file pins the served plugin; absent if there is no lock file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// The plugin; absent when the file has never been served.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginDetails>,
}

/// Whether a plugin is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PluginState {
    /// It is served.
    Serving,
    /// It failed too often on deliveries of strangers or of several accounts: its deliveries go through one at a time.
    InDoubt {
        /// How it failed.
        reason: String,
    },
    /// It failed too often on deliveries of some accounts: these are in quarantine for it.
    Quarantined {
        /// Seconds until deliveries of all accounts are let through; 0 when they go through one at a time.
        retry_after_seconds: u64,
        /// How it failed.
        reason: String,
        /// The accounts in quarantine for it.
        quarantined_accounts: Vec<QuarantinedAccount>,
    },
    /// The file is being read or compiled for the first time.
    Loading,
    /// The file cannot be served.
    Refused,
}

/// An account in quarantine: the plugin failed on its deliveries too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuarantinedAccount {
    /// Its name.
    pub account: String,
    /// Seconds until one of its deliveries is let through; 0 when they go through one at a time.
    pub retry_after_seconds: u64,
    /// The limit that was broken.
    pub limit: &'static str,
}

/// A plugin that is loaded.
#[derive(Debug, Clone, Serialize)]
pub struct PluginDetails {
    /// Path segment under `/webhooks/`.
    pub slug: String,
    /// The provider's name.
    pub display_name: String,
    /// Version of the plugin.
    pub version: String,
    /// Where the provider documents its webhook.
    pub docs_url: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// Version of the contract that the plugin was built for.
    pub contract: String,
    /// Secrets that the operator can configure.
    pub secrets: Vec<SpecStatus>,
    /// Settings that the operator can configure.
    pub settings: Vec<SpecStatus>,
    /// Deliveries handed to the plugin.
    pub deliveries: u64,
    /// Events that it returned.
    pub events: u64,
    /// Deliveries and elements that it could not use.
    pub rejects: u64,
    /// Deliveries that broke a limit, by the limit's code.
    pub traps: BTreeMap<&'static str, u64>,
    /// Deliveries turned away because too many were in flight.
    pub busy: u64,
    /// Log lines dropped by the rate limit.
    pub log_lines_dropped: u64,
    /// Median of the time that deliveries spent in the plugin, in microseconds; at most a fifth too high.
    pub p50_us: Option<u64>,
    /// 99th percentile of the time that deliveries spent in the plugin, in microseconds; at most a fifth too high.
    pub p99_us: Option<u64>,
    /// Most linear memory that one delivery has taken.
    pub memory_peak_bytes: i64,
}

/// A secret or setting that a plugin declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpecStatus {
    /// Name in the configuration.
    pub name: String,
    /// What it is.
    pub summary: String,
    /// Whether the plugin cannot work without it.
    pub required: bool,
}

impl PluginDetails {
    pub(crate) fn of(plugin: &Plugin) -> Self {
        let descriptor = plugin.descriptor();
        let secrets = descriptor.secrets.iter();
        let settings = descriptor.settings.iter();
        let spec = |name: &String, summary: &String, required: bool| SpecStatus {
            name: name.clone(),
            summary: summary.clone(),
            required,
        };
        let stats = &plugin.stats;
        Self {
            slug: descriptor.slug.clone(),
            display_name: descriptor.display_name.clone(),
            version: descriptor.version.clone(),
            docs_url: descriptor.docs_url.clone(),
            digest: plugin.digest().to_owned(),
            contract: plugin.contract.to_string(),
            secrets: secrets
                .map(|secret| spec(&secret.name, &secret.summary, secret.required))
                .collect(),
            settings: settings
                .map(|setting| spec(&setting.name, &setting.summary, setting.required))
                .collect(),
            deliveries: stats.deliveries.get(),
            events: stats.events.get(),
            rejects: stats.rejects.get(),
            traps: stats
                .traps()
                .map(|(limit, count)| (limit.code(), count))
                .collect(),
            busy: stats.busy.get(),
            log_lines_dropped: stats.log_lines_dropped.get(),
            p50_us: stats.quantile_us(0.5),
            p99_us: stats.quantile_us(0.99),
            memory_peak_bytes: stats.memory_peak_bytes(),
        }
    }
}

impl PluginState {
    pub(crate) fn of(plugin: &Plugin) -> Self {
        let Some(trouble) = plugin.quarantine.trouble(Instant::now()) else {
            return Self::Serving;
        };
        let longest = trouble.accounts.iter().max_by_key(|account| account.remaining);
        let quarantine = longest.map(|longest| {
            format!(
                "failed repeatedly on deliveries of the account `{}` by hitting its limit `{}`",
                longest.account, longest.cause
            )
        });
        let doubt = trouble.doubt.map(|limit| {
            format!(
                "failed repeatedly on deliveries of strangers or of several accounts, most recently by hitting its limit \
                 `{limit}`: its deliveries go through one at a time"
            )
        });
        let reasons: Vec<String> = quarantine.into_iter().chain(doubt).collect();
        let reason = reasons.join("; ");
        let Some(longest) = longest else {
            return Self::InDoubt { reason };
        };
        let seconds = |remaining: Duration| remaining.as_secs_f64().ceil() as u64;
        Self::Quarantined {
            retry_after_seconds: seconds(longest.remaining),
            reason,
            quarantined_accounts: trouble
                .accounts
                .iter()
                .map(|account| QuarantinedAccount {
                    account: account.account.clone(),
                    retry_after_seconds: seconds(account.remaining),
                    limit: account.cause.code(),
                })
                .collect(),
        }
    }
}
