//! The command line.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};
use host::plugin::PluginsConfig;
use toml::Table;

use crate::{
    account, backtest, check,
    config::{self, RawConfig},
    decide, demo, explain, import, latency, lift, person, plugin, replay,
    roles::{self, Role},
    synth,
    telemetry::{self, Exporter, LogFormat, TelemetryConfig},
    topics, train,
};

/// How long the process, when it ends, waits for work on blocking threads. None of that work has to be finished: a plugin that
/// is being compiled, a server that is being waited for.
const THREADS_END_WITHIN: Duration = Duration::from_secs(1);

/// Receive the webhooks of e-mail platforms and decide when to mail each person.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The log filter unless another one is given.
const DEFAULT_LOG: &str = "info";

/// The flags of every command. An empty variable counts as not set.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration file [default: `sendflowr.toml` in the current folder, if it exists]
    // The parser of paths would reject an empty one.
    #[arg(long, global = true, env = "SENDFLOWR_CONFIG", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    config: Option<PathBuf>,
    /// Folder for the embedded engines, keys and caches [default: data]
    #[arg(long, global = true)]
    data: Option<PathBuf>,
    /// Folder for the plugins [default: target/plugins]
    #[arg(long, global = true)]
    plugins: Option<PathBuf>,
    /// Log filter, such as `info` or `warn,sendflowr_host=debug`.
    #[arg(long, global = true, env = "SENDFLOWR_LOG", default_value = DEFAULT_LOG)]
    log: String,
    /// Format of log lines.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run host, consumer and inference in one process.
    Up {
        /// Send signed sample deliveries of every provider to this process and show the results. Not with a token or TLS.
        #[arg(long)]
        demo: bool,
        #[command(flatten)]
        locked: Locked,
        #[command(flatten)]
        listen: Listen,
    },
    /// Run the host: webhooks in, events out to the bus.
    Host {
        /// Address to listen on [default: 127.0.0.1:5215]
        #[arg(long, value_parser = address)]
        listen: Option<SocketAddr>,
        #[command(flatten)]
        locked: Locked,
    },
    /// Run the consumer: from the bus to events, profiles and the identity graph.
    Consumer {
        /// Address to serve the status on [default: 127.0.0.1:8002]
        #[arg(long, value_parser = address)]
        listen: Option<SocketAddr>,
    },
    /// Run the inference service: decisions and explanations.
    Inference {
        /// Address to listen on [default: 127.0.0.1:8001]
        #[arg(long, value_parser = address)]
        listen: Option<SocketAddr>,
    },
    /// Check the configuration, and whether the servers answer.
    #[command(subcommand)]
    Config(check::ConfigCommand),
    /// Add, change and remove accounts at providers while hosts run.
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Create missing topics, and show the topics and how far their readers are.
    Topics,
    /// Create, test, pin, pull and list plugins.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Put synthetic events on the bus.
    Synth(synth::SynthArgs),
    /// Make decisions offline, from files of events and requests.
    Decide(decide::DecideArgs),
    /// Compare timing with the alternatives on your own past data, and say whether it is worth switching on.
    Backtest(backtest::BacktestArgs),
    /// Put past events from a file on the bus, so that people are known before their first webhook.
    Import(import::ImportArgs),
    /// Show what the chosen times gain over the control group's random ones.
    Lift(lift::LiftArgs),
    /// Compare when decisions expected mail to arrive with when it did, and say whether providers are slowing down.
    Latency(latency::LatencyArgs),
    /// Show what a stored decision was based on, or recompute it.
    Explain(explain::ExplainArgs),
    /// Export or erase all that is stored about a person.
    #[command(subcommand)]
    Person(person::PersonCommand),
    /// Fit the population's tables to the event store and save them.
    Train,
    /// Run the host's dead letters through the currently installed plugins, and put the consumer's back among the events.
    ///
    /// Events that were stored already are not stored twice. Dead letters that still cannot be read stay for the next replay; the
    /// exit code is then 1.
    Replay(replay::ReplayArgs),
}

/// Which plugins a host serves.
#[derive(Debug, Args)]
struct Locked {
    /// Serve only plugins that `plugins.lock` pins, as with `host.plugins.locked = true`.
    #[arg(long)]
    locked: bool,
}

/// Where `up` listens.
#[derive(Debug, Args)]
struct Listen {
    /// Address the host listens on [default: 127.0.0.1:5215]
    #[arg(long, value_parser = address)]
    host_listen: Option<SocketAddr>,
    /// Address the inference service listens on [default: 127.0.0.1:8001]
    #[arg(long, value_parser = address)]
    inference_listen: Option<SocketAddr>,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Cli {
    /// Returns the format in which the log, and what ends the process, is written.
    pub(crate) fn log_format(&self) -> LogFormat {
        self.global.log_format
    }

    /// Runs the command.
    ///
    /// # Errors
    /// Says what went wrong, with the setting, file or address that it is about.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { global, command } = self;
        // Building the runtime by hand keeps `main` free of macros and lets every command share one.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(dispatch(global, command));
        runtime.shutdown_timeout(THREADS_END_WITHIN);
        result
    }
}

async fn dispatch(global: Global, command: Command) -> anyhow::Result<ExitCode> {
    let is_role = matches!(
        command,
        Command::Up { .. } | Command::Host { .. } | Command::Consumer { .. } | Command::Inference { .. }
    );
    if !is_role {
        global.log(None)?;
    }
    match command {
        Command::Up { demo, locked, listen } => {
            let (mut config, exporter) = global.start("sendflowr")?;
            config.host.plugins.locked |= locked.locked;
            set(&mut config.host.listen, listen.host_listen);
            set(&mut config.inference.listen, listen.inference_listen);
            let demo = if demo {
                Some(demo::Demo::prepare(&mut config)?)
            } else {
                None
            };
            Box::pin(roles::up(config, demo, exporter)).await?;
        }
        Command::Host { listen, locked } => {
            let (mut config, exporter) = global.start("sendflowr-host")?;
            config.host.plugins.locked |= locked.locked;
            set(&mut config.host.listen, listen);
            Box::pin(roles::one(config, Role::Host, exporter)).await?;
        }
        Command::Consumer { listen } => {
            let (mut config, exporter) = global.start("sendflowr-consumer")?;
            set(&mut config.consumer.listen, listen);
            Box::pin(roles::one(config, Role::Consumer, exporter)).await?;
        }
        Command::Inference { listen } => {
            let (mut config, exporter) = global.start("sendflowr-inference")?;
            set(&mut config.inference.listen, listen);
            Box::pin(roles::one(config, Role::Inference, exporter)).await?;
        }
        Command::Config(command) => return check::run(command, &global).await,
        Command::Account(command) => return account::run(command, &global).await,
        Command::Topics => topics::run(global.load()?).await?,
        Command::Plugin(command) => return Box::pin(plugin::run(command, global)).await,
        Command::Synth(args) => synth::run(global.load()?, &args).await?,
        Command::Decide(args) => return tokio::task::block_in_place(|| decide::run(&args)),
        Command::Backtest(args) => return backtest::run(&args, &global).await,
        Command::Import(args) => Box::pin(import::run(global.load()?, &args)).await?,
        Command::Lift(args) => lift::run(&args, global.load()?).await?,
        Command::Latency(args) => latency::run(&args, global.load()?).await?,
        Command::Explain(args) => return explain::run(&args, global.load()?).await,
        Command::Person(command) => return Box::pin(person::run(command, global.load()?)).await,
        Command::Train => train::run(global.load()?).await?,
        Command::Replay(args) => return replay::run(global.load()?, &args).await,
    }
    Ok(ExitCode::SUCCESS)
}

impl Global {
    /// Returns the configuration: file, environment, then the given flags.
    pub(crate) fn load(&self) -> anyhow::Result<RawConfig> {
        config::parse(self.table()?)
    }

    /// Returns the plugins' part of the host's configuration.
    pub(crate) fn plugins_config(&self) -> anyhow::Result<PluginsConfig> {
        Ok(config::host_config(&self.load()?)?.plugins)
    }

    /// Returns the configuration of a role, and its exporter of spans, under the name `service`, if one is configured.
    /// Starts logging.
    fn start(&self, service: &str) -> anyhow::Result<(RawConfig, Option<Exporter>)> {
        let config = self.load()?;
        let exporter = match TelemetryConfig::try_new(config.telemetry.clone())? {
            Some(telemetry) => Some(Exporter::start(telemetry, service)?),
            None => None,
        };
        self.log(exporter.as_ref())?;
        listener::raise_file_limit()?;
        Ok((config, exporter))
    }

    fn log(&self, exporter: Option<&Exporter>) -> anyhow::Result<()> {
        let filter = match self.log.as_str() {
            "" => DEFAULT_LOG,
            given => given,
        };
        telemetry::init(filter, self.log_format, exporter).context("cannot read `--log`")
    }

    /// Returns the configuration as a table, before its keys are interpreted.
    pub(crate) fn table(&self) -> anyhow::Result<Table> {
        let environment = config::environment::variables(std::env::vars_os())?;
        if self.named_file().is_none() {
            config::environment::refuse_file_of_compose(&environment)?;
        }
        let mut table = config::merge(self.file().as_deref(), &environment)?;
        if let Some(folder) = &self.data {
            config::set_path(&mut table, &["data_folder"], folder)?;
        }
        if let Some(folder) = &self.plugins {
            config::set_path(&mut table, &["host", "plugins", "folder"], folder)?;
        }
        Ok(table)
    }

    /// Returns the configuration file that is read.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let default = PathBuf::from("sendflowr.toml");
        self.named_file().or_else(|| default.exists().then_some(default))
    }

    /// Returns the configuration file that the flag or its variable names.
    fn named_file(&self) -> Option<PathBuf> {
        self.config.clone().filter(|file| !file.as_os_str().is_empty())
    }
}

/// Parses an address to listen on.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| config::NO_ADDRESS.to_owned())
}

fn set(key: &mut Option<SocketAddr>, flag: Option<SocketAddr>) {
    if flag.is_some() {
        *key = flag;
    }
}
