//! `sendflowr config`: the settings, the environment variables that are read, and whether the servers answer.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Subcommand;
use consumer::ConsumerConfig;
use inference::InferenceConfig;

use crate::{
    cli::Global,
    config::{self, RawConfig, environment, secrets},
    engines::Engines,
    output, roles,
    telemetry::TelemetryConfig,
};

/// The commands on the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the settings, with secrets hidden, and check that every server answers. Exit code 1 if something cannot work.
    /// It connects to the servers as a role does when it starts: it creates missing topics and ClickHouse's database if it is
    /// missing, and migrates tables.
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
    let config = config::parse(table)?;
    let mut is_valid = true;
    for (section, checked) in sections(&config) {
        if let Err(error) = checked {
            is_valid = false;
            output::line(&format!("{section}: {error:#}"));
        }
    }
    if let Some(problem) = roles::private_seal_key(&config) {
        output::line(&format!("note: {problem}"));
    }
    let engines = match Engines::of(&config) {
        Ok(engines) => engines,
        Err(error) => {
            output::line(&format!("{error:#}"));
            return Ok(ExitCode::FAILURE);
        }
    };
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

/// Checks the sections that roles check when they start, and that of `plugin pull`.
fn sections(config: &RawConfig) -> [(&'static str, anyhow::Result<()>); 5] {
    let consumer = ConsumerConfig::try_from(config.consumer.clone());
    let inference = InferenceConfig::try_from(config.inference.clone());
    let telemetry = TelemetryConfig::try_new(config.telemetry.clone());
    [
        ("host", host(config)),
        ("consumer", consumer.map(drop).map_err(Into::into)),
        ("inference", inference.map(drop).map_err(Into::into)),
        ("telemetry", telemetry.map(drop).map_err(Into::into)),
        ("registry", config.registry.clone().credentials().map(drop)),
    ]
}

/// Checks what the host checks before it serves. A seal key that the host would create is not created here.
fn host(config: &RawConfig) -> anyhow::Result<()> {
    let host = roles::host_config(config)?;
    if host.seal_key.is_some() {
        host.sealer()?;
    }
    host.plugins.read_lock()?;
    Ok(())
}

/// Checks that the engines and the inference service answer, all at once, and prints the results. Returns whether all
/// answered.
async fn reach(config: &RawConfig, engines: &Engines) -> bool {
    let (bus, events, identities, profiles, inference) = tokio::join!(
        timed(async { Ok(engines.bus().await?.ping().await?) }),
        timed(async { Ok(engines.events().await?.ping().await?) }),
        timed(async { Ok(engines.identities().await?.ping().await?) }),
        timed(async { Ok(engines.profiles().await?.ping().await?) }),
        timed(async {
            match &config.inference_url {
                Some(url) => ask_inference(url).await,
                None => Ok(()),
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
            Ok(()) => format!("ok in {:.1} ms", took.as_secs_f64() * 1_000.0),
            Err(error) => {
                all_answer = false;
                format!("failed after {:.1} s: {error:#}", took.as_secs_f64())
            }
        };
        output::line(&format!("{port:<11} {engine:<11} {address}  {outcome}"));
    }
    all_answer
}

async fn timed(work: impl Future<Output = anyhow::Result<()>>) -> (Duration, anyhow::Result<()>) {
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
