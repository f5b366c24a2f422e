//! `sendflowr plugin …`: commands for those who write plugins and those who operate them, without a running host.

mod bench;
mod check;
mod files;
mod list;
mod new;
mod normalize;
mod pack;
mod pin;
mod pull;
mod recorded;
mod test;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;
use host::plugin::Limits;

pub(crate) use self::files::load;
use crate::{
    account::AccountName,
    cli::{Format, Global},
};

/// The commands on plugins.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Create a folder with a working plugin: source, cases, tests, README, and in Rust the SDK.
    New {
        /// Path segment under `/webhooks/`, and in Rust the name of the crate.
        slug: String,
        /// Language to write it in.
        #[arg(long, value_enum, default_value = "rust")]
        lang: new::Language,
        /// Folder to create [default: the slug]
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// Wrap a core module built with `cargo build --target wasm32-unknown-unknown` into a component.
    Pack {
        /// Core module.
        module: PathBuf,
        /// File to write the component to [default: the module's name, in the current folder]
        #[arg(long)]
        out: Option<PathBuf>,
        /// Lock file to write the component's digest to.
        #[arg(long, value_name = "LOCK")]
        pin: Option<PathBuf>,
    },
    /// Pin plugins: write their digests to `plugins.lock`, which tells the host what it may serve.
    Pin(pin::PinArgs),
    /// Pull a plugin from an OCI registry, check it, and put it into the plugin folder, with its signature if it has one.
    Pull(pull::PullArgs),
    /// Push a plugin to an OCI registry, with its signature if it has one.
    Push(pull::PushArgs),
    /// Run case files through compiled plugins, proofs included. Exit code 1 if any case fails.
    ///
    /// A file that is no case has failed. So has a case of another provider if only one plugin is given; with several, such cases
    /// are left out and counted. What the plugins log is printed on standard error.
    ///
    /// With `--recorded`, run the deliveries that accounts with `record_deliveries` have kept through the installed plugin
    /// and through the given one, and show the differences in what would be stored. Exit code 1 if the given plugin fails on
    /// a delivery that the installed one reads, makes fewer events of it, or rejects more of its elements: those are losses.
    /// Other differences may be the purpose of the new version; with `--no-changes` they give exit code 1 too.
    Test {
        /// Compiled plugins.
        // Not named like the global `--plugins`: clap would take it for that flag's value.
        #[arg(required = true, id = "components", value_name = "PLUGINS")]
        plugins: Vec<PathBuf>,
        /// Case file, or a folder with case files at any depth.
        #[arg(long, required_unless_present = "recorded", conflicts_with = "recorded")]
        cases: Option<PathBuf>,
        /// Run the cases again whenever a plugin or a case changes, until Ctrl-C.
        #[arg(long, conflicts_with = "recorded")]
        watch: bool,
        /// Run recorded deliveries instead of cases.
        #[arg(long)]
        recorded: bool,
        /// Account whose recordings are run, `provider` or `provider/account` [default: all accounts of the plugin's provider]
        #[arg(long, requires = "recorded")]
        account: Option<AccountName>,
        /// Plugin to compare with [default: the provider's plugin in the plugin folder]
        #[arg(long, requires = "recorded")]
        against: Option<PathBuf>,
        /// Exit with code 1 on any difference.
        #[arg(long, requires = "recorded")]
        no_changes: bool,
        /// Output format.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Measure compiled plugins: size, time, instructions and memory of a delivery of one event and of a batch.
    ///
    /// Every run covers what a delivery costs in the plugin: a fresh instance, `authenticate`, `normalize`, and returning the
    /// instance. Without `--cases` the deliveries are made up and signed as the provider would sign them, one click and one
    /// batch of 100, for the providers that this program knows. With `--cases` they are the plugin's own: the first case that
    /// gives one event, and the one that gives the most.
    Bench {
        /// Compiled plugins.
        #[arg(required = true)]
        plugins: Vec<PathBuf>,
        /// Case file, or a folder with case files at any depth, to take the deliveries from.
        #[arg(long)]
        cases: Option<PathBuf>,
        /// Output format.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Check whether files are plugins that the host serves: contract, imports, secrets, limits. Exit code 1 if any is not.
    /// Also show how the configured lock file and trusted keys apply to them.
    Check {
        /// Compiled plugins.
        // Not named like the global `--plugins`: clap would take it for that flag's value.
        #[arg(required = true, id = "components", value_name = "PLUGINS")]
        plugins: Vec<PathBuf>,
        /// Output format.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// List the plugins in the folder as the host judges them, their secrets, and what the accounts lack, configured or
    /// stored. Exit code 1 if the host refuses a file, or an account has no plugin or cannot be used.
    List {
        /// Output format.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Run one delivery through a plugin and print the result. It shows e-mail addresses: do not share it.
    Normalize {
        /// Compiled plugin.
        plugin: PathBuf,
        /// File with the delivery: a case file (`request`, and `config` if proofs are to be checked), or an HTTP request as
        /// it goes over the wire. `-` for standard input.
        #[arg(long, default_value = "-")]
        delivery: PathBuf,
        /// Secret or setting of the account, replacing that of the case's `config`; with a secret, proofs are checked.
        #[arg(long = "set", value_name = "NAME=VALUE", value_parser = normalize::configured)]
        account: Vec<normalize::Configured>,
    },
}

/// Runs the command. Plugins are loaded and run within the limits that are configured for the host.
///
/// # Errors
/// Fails if the configuration cannot work, a file cannot be read, or a plugin cannot be loaded.
pub(crate) async fn run(command: PluginCommand, global: Global) -> anyhow::Result<ExitCode> {
    let limits = || anyhow::Ok(global.plugins_config()?.limits);
    match command {
        PluginCommand::New { slug, lang, folder } => new::run(&slug, lang, folder),
        PluginCommand::Pack { module, out, pin } => pack::run(&module, out, pin.as_deref(), &limits()?).await,
        PluginCommand::Pin(args) => pin::run(global, args).await,
        PluginCommand::Pull(args) => Box::pin(pull::pull(global, args)).await,
        PluginCommand::Push(args) => Box::pin(pull::push(global, args)).await,
        PluginCommand::Test {
            plugins,
            cases: Some(cases),
            watch: true,
            format,
            ..
        } => Ok(watch::run(&plugins, &cases, &with_all_lines(limits()?), format).await),
        PluginCommand::Test {
            plugins,
            cases: Some(cases),
            format,
            ..
        } => test::run(&plugins, &cases, &with_all_lines(limits()?), format).await,
        PluginCommand::Test {
            plugins,
            cases: None,
            account,
            against,
            no_changes,
            format,
            ..
        } => {
            let question = recorded::Question {
                account: account.as_ref(),
                against: against.as_deref(),
                no_changes,
                format,
            };
            recorded::run(global, &plugins, &question).await
        }
        PluginCommand::Bench {
            plugins,
            cases,
            format,
        } => bench::run(&plugins, cases.as_deref(), &limits()?, format).await,
        PluginCommand::Check { plugins, format } => {
            check::run(&plugins, &global.plugins_config()?, format).await
        }
        PluginCommand::List { format } => list::run(global, format).await,
        PluginCommand::Normalize {
            plugin,
            delivery,
            account,
        } => normalize::run(&plugin, &delivery, &account, &limits()?).await,
    }
}

/// Lets plugins write all their log lines: cases run much faster than deliveries come in, and the lines of the one that fails
/// would be lost. What a plugin computes bounds them still.
fn with_all_lines(limits: Limits) -> Limits {
    Limits {
        log_lines_per_second: u32::MAX,
        ..limits
    }
}
