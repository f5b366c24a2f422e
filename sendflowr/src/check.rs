//! `sendflowr config`: the settings, the environment variables that are read, and whether the servers answer.

use std::{
    io,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Subcommand;
use consumer::ConsumerConfig;
use inference::InferenceConfig;
use listener::TlsConfig;

use crate::{
    cli::Global,
    config::{self, RawConfig, environment, secrets},
    engines::Engines,
    keys, output,
    telemetry::TelemetryConfig,
};

/// The commands on the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the settings, with secrets hidden, and check that every server answers. Exit code 1 if something cannot work.
    /// It connects to the servers as a role does when it starts: it creates missing topics and ClickHouse's database if it is
    /// missing, and migrates tables. Embedded engines that are not there yet are not created.
    Check {
        /// Contact no server, and change none.
        #[arg(long)]
        offline: bool,
    },
    /// Print the documented environment variables that are read, and the key that each sets.
    Names,
}

/// How long the inference service may take to answer; the engines may take as long.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Runs the command.
///
/// # Errors
/// Fails if there is no configuration to check: a file cannot be read, a key is unknown.
pub(crate) async fn run(command: ConfigCommand, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check { offline } => check(global, offline).await,
        ConfigCommand::Names => {
            names();
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn names() {
    for (variable, flag) in environment::FLAGS {
        output::line(&format!("{variable}\t{flag}"));
    }
    for key in environment::TOP_LEVEL {
        output::line(&format!("SENDFLOWR_{}\t{key}", key.to_uppercase()));
    }
    for name in environment::NAMES {
        output::line(&format!("{}\t{}", name.variable, name.key));
        output::line(&format!("{}_FILE\t{}", name.variable, name.key));
    }
}

async fn check(global: &Global, offline: bool) -> anyhow::Result<ExitCode> {
    let table = global.table()?;
    let source = match global.file() {
        Some(file) => format!("`{}` and the environment", file.display()),
        None => "the environment alone, there is no configuration file".to_owned(),
    };
    output::line(&format!("# from {source}\n"));
    output::line(&toml::to_string(&secrets::hidden(&table))?);
    let has_accounts = table.contains_key("accounts");
    let config = config::parse(table)?;
    let mut is_valid = true;
    for (section, checked) in sections(&config) {
        if let Err(error) = checked {
            is_valid = false;
            output::line(&format!("{section}: {error:#}"));
        }
    }
    if let Some(problem) = keys::private_seal_key(&config) {
        output::note(&problem);
    }
    if let Some(folder) = config
        .host
        .plugins
        .folder
        .as_ref()
        .filter(|folder| !folder.is_dir())
    {
        output::note(&format!(
            "`{}` (`host.plugins.folder`) is not there: a host creates it, empty, and serves nothing",
            folder.display()
        ));
    }
    if let Some(problem) = same_address(&config) {
        output::note(&problem);
    }
    if let Err(error) = keys::check_pepper(&config) {
        // The data folder is the roles' user's alone, and the check may run as another.
        let is_denied = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
        if is_denied {
            output::note(&format!("{error:#}"));
        } else {
            is_valid = false;
            output::line(&format!("identity: {error:#}"));
        }
    }
    if has_accounts {
        output::note(
            "the names in `[accounts]` are compared with the plugins by `sendflowr plugin list`, and by a host that starts",
        );
    }
    let engines = match Engines::existing(&config) {
        Ok(engines) => engines,
        Err(error) => {
            output::line(&format!("{error:#}"));
            return Ok(ExitCode::FAILURE);
        }
    };
    for left in engines.left_behind() {
        output::note(&left);
    }
    if !offline {
        is_valid &= Box::pin(reach(&config, &engines)).await;
        engines.close().await;
    }
    output::line(if is_valid {
        "configuration is valid"
    } else {
        "configuration has problems"
    });
    Ok(if is_valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Describes the problem if two roles are to listen at the same address, which they cannot do on one machine.
fn same_address(config: &RawConfig) -> Option<String> {
    let addresses = [
        ("host.listen", config.host.listen),
        ("inference.listen", config.inference.listen),
        ("consumer.listen", config.consumer.listen),
    ];
    for (at, (key, address)) in addresses.iter().enumerate() {
        // Port 0 is another one each time.
        let is_one = address.is_some_and(|address| address.port() != 0);
        let same = addresses[..at]
            .iter()
            .find(|(_, other)| is_one && other == address);
        if let Some((other, _)) = same {
            return Some(format!(
                "`{other}` and `{key}` are the same address, which one machine can give to one of them only: `sendflowr up` \
                 cannot run with it"
            ));
        }
    }
    None
}

/// Checks the sections that roles check when they start, and that of `plugin pull`.
fn sections(config: &RawConfig) -> [(&'static str, anyhow::Result<()>); 5] {
    let telemetry = TelemetryConfig::try_new(config.telemetry.clone());
    [
        ("host", host(config)),
        ("consumer", consumer(config)),
        ("inference", inference(config)),
        ("telemetry", telemetry.map(drop).map_err(Into::into)),
        ("registry", config.registry.clone().credentials().map(drop)),
    ]
}

/// Checks what the host checks before it serves. A seal key that the host would create is not created here.
fn host(config: &RawConfig) -> anyhow::Result<()> {
    let host = config::host_config(config)?;
    if host.seal_key.is_some() {
        host.sealer()?;
    }
    host.plugins.read_lock()?;
    certificate(host.tls.as_ref())
}

fn consumer(config: &RawConfig) -> anyhow::Result<()> {
    let consumer = ConsumerConfig::try_from(config.consumer.clone())?;
    certificate(consumer.status.tls.as_ref())
}

fn inference(config: &RawConfig) -> anyhow::Result<()> {
    let inference = InferenceConfig::try_from(config.inference.clone())?;
    certificate(inference.tls.as_ref())
}

/// Checks the files of a listener, if it has any.
fn certificate(tls: Option<&TlsConfig>) -> anyhow::Result<()> {
    Ok(tls.map_or(Ok(()), TlsConfig::check_files)?)
}

/// What is found where an engine is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It answers.
    Answers,
    /// Its file is created by the first role that starts, so that it belongs to the role's user and not to that of the check.
    NotYet,
}

/// Checks that the engines and the inference service answer, all at once, and prints the results. Returns whether all
/// answered.
async fn reach(config: &RawConfig, engines: &Engines) -> bool {
    let (bus, events, identities, profiles, inference) = tokio::join!(
        timed(unless_new(engines, "bus", async {
            Ok(engines.bus().await?.ping().await?)
        })),
        timed(unless_new(engines, "events", async {
            Ok(engines.events().await?.ping().await?)
        })),
        timed(unless_new(engines, "identities", async {
            engines.identities().await?.ping().await?;
            keys::check_pepper_of_server(config, engines).await
        })),
        timed(unless_new(engines, "profiles", async {
            Ok(engines.profiles().await?.ping().await?)
        })),
        timed(async {
            match &config.inference_url {
                Some(url) => ask_inference(url).await.map(|()| Found::Answers),
                None => Ok(Found::Answers),
            }
        }),
    );
    let mut lines = Vec::new();
    for (place, reached) in engines
        .places()
        .into_iter()
        .zip([bus, events, identities, profiles])
    {
        lines.push((place.port, place.engine, place.address, reached));
    }
    if let Some(url) = &config.inference_url {
        lines.push(("inference", "http", secrets::without_credentials(url), inference));
    }
    let mut all_answer = true;
    for (port, engine, address, (took, reached)) in lines {
        let outcome = match reached {
            Ok(Found::Answers) => format!("ok in {:.1} ms", took.as_secs_f64() * 1_000.0),
            Ok(Found::NotYet) => "not there yet: the first role creates it".to_owned(),
            Err(error) => {
                all_answer = false;
                format!("failed after {:.1} s: {error:#}", took.as_secs_f64())
            }
        };
        output::line(&format!("{port:<11} {engine:<11} {address}  {outcome}"));
    }
    all_answer
}

async fn unless_new(
    engines: &Engines,
    port: &str,
    ping: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Found> {
    if engines.is_new(port) {
        return Ok(Found::NotYet);
    }
    ping.await.map(|()| Found::Answers)
}

async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let started = Instant::now();
    let result = work.await;
    (started.elapsed(), result)
}

async fn ask_inference(url: &str) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).build()?;
    let ready = http
        .get(format!("{}/ready", url.trim_end_matches('/')))
        .send()
        .await;
    // The error would repeat the address, which may contain credentials.
    let ready = ready
        .map_err(reqwest::Error::without_url)
        .context("no answer from `inference_url`")?;
    if !ready.status().is_success() {
        bail!("`inference_url` answers {}", ready.status());
    }
    Ok(())
}
