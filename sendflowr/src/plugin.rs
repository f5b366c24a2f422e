//! `sendflowr plugin …`: for those who write plugins and those who run them, without running the host.

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

pub(crate) use self::files::load;
use crate::cli::{Format, Global};

/// What can be done with plugins.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Makes a crate that is a working plugin, with the SDK in it: trait, cases, tests, README.
    New {
        /// Path segment under `/webhooks/`, and the name of the crate.
        slug: String,
        /// Language to write it in.
        #[arg(long, value_enum, default_value = "rust")]
        lang: new::Language,
        /// Folder to make [default: the slug]
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// Makes the component of a core module that `cargo build --target wasm32-unknown-unknown` has compiled.
    Pack {
        /// The core module.
        module: PathBuf,
        /// The component [default: the module's name, in this folder]
        #[arg(long)]
        out: Option<PathBuf>,
        /// Lock file to write its digest to.
        #[arg(long, value_name = "LOCK")]
        pin: Option<PathBuf>,
    },
    /// Pins plugins: writes their digests to `plugins.lock`, by which the host tells what may serve.
    Pin(pin::PinArgs),
    /// Pulls a plugin from an OCI registry, checks it, and puts it into the plugin folder, with its signature if it has one.
    Pull(pull::PullArgs),
    /// Pushes a plugin to an OCI registry, with its signature if it has one.
    Push(pull::PushArgs),
    /// Runs case files through compiled plugins, proofs included. Exit code 1 when any fails.
    ///
    /// With `--recorded` it runs the deliveries that accounts with `record_deliveries` have kept, through the installed
    /// plugin and through the given one, and shows the differences in what would be stored. Exit code 1 when the given
    /// plugin fails on, or rejects elements of, a delivery that the installed one reads: those are losses. Other
    /// differences may be why there is a new version; `--no-changes` makes them exit code 1 too.
    Test {
        /// Compiled plugins.
        // Not by the name of the global `--plugins`, whose value it would be taken for.
        #[arg(required = true, id = "components", value_name = "PLUGINS")]
        plugins: Vec<PathBuf>,
        /// A case file, or a folder with case files at any depth.
        #[arg(long, required_unless_present = "recorded", conflicts_with = "recorded")]
        cases: Option<PathBuf>,
        /// Runs the cases again whenever a plugin or a case changes, until Ctrl-C.
        #[arg(long, conflicts_with = "recorded")]
        watch: bool,
        /// Runs recorded deliveries instead of cases.
        #[arg(long)]
        recorded: bool,
        /// Account whose recordings are run, `provider/name` [default: all of the plugin's provider]
        #[arg(long, requires = "recorded")]
        account: Option<String>,
        /// Plugin to compare with. Default: `<slug>.wasm` in the plugin folder.
        #[arg(long, requires = "recorded")]
        against: Option<PathBuf>,
        /// Exit code 1 for any difference.
        #[arg(long, requires = "recorded")]
        no_changes: bool,
        /// How to print the results.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Measures compiled plugins: size, time, instructions and memory of one delivery of one event, and of a batch.
    ///
    /// Every run is what a delivery costs in the plugin: a fresh instance, `authenticate`, `normalize`, and giving the
    /// instance back. Without `--cases` the deliveries are made up and signed as the provider would, one click and one
    /// batch of 100, for the providers that this program knows. With it they are the plugin's own: the first case that
    /// gives one event, and the one that gives the most.
    Bench {
        /// Compiled plugins.
        #[arg(required = true)]
        plugins: Vec<PathBuf>,
        /// A case file, or a folder with case files at any depth, to take the deliveries from.
        #[arg(long)]
        cases: Option<PathBuf>,
        /// How to print the results.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Tells whether files are plugins that the host serves: contract, imports, secrets, limits. Exit code 1 when any is
    /// not. Tells too what the configured lock file and trusted keys make of them.
    Check {
        /// Compiled plugins.
        // Not by the name of the global `--plugins`, whose value it would be taken for.
        #[arg(required = true, id = "components", value_name = "PLUGINS")]
        plugins: Vec<PathBuf>,
        /// How to print the results.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Lists the plugins in the folder as the host judges them, their secrets, and what the configured accounts lack. Exit
    /// code 1 when the host refuses a file.
    List {
        /// How to print the list.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Reads one delivery and prints what the plugin makes of it. Shows addresses: it is for your eyes.
    Normalize {
        /// Compiled plugin.
        plugin: PathBuf,
        /// File with the delivery: a case file (`request`, and `config` when proofs are to be checked), or an HTTP request
        /// as it goes over the wire. `-` for standard input.
        #[arg(long, default_value = "-")]
        delivery: PathBuf,
        /// A secret or setting of the account, in place of the case's `config`: with a secret, proofs are checked.
        #[arg(long = "set", value_name = "NAME=VALUE", value_parser = normalize::configured)]
        account: Vec<normalize::Configured>,
    },
}

/// Runs the command. What looks at plugins does so within the limits that are configured for the host.
///
/// # Errors
/// A configuration that cannot work, files that cannot be read, and plugins that cannot be loaded.
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
        } => Ok(watch::run(&plugins, &cases, &limits()?, format).await),
        PluginCommand::Test {
            plugins,
            cases: Some(cases),
            format,
            ..
        } => test::run(&plugins, &cases, &limits()?, format).await,
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
                account: account.as_deref(),
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
