//! `cargo xtask up`: from a fresh clone to a running system.

use std::{path::PathBuf, process::Command};

use crate::{
    plugins,
    process::{Workspace, compiling, run as run_command, say},
    services::Servers,
    setup,
};

/// The variable that sets what `sendflowr` logs, unless a flag does.
const LOG: &str = "SENDFLOWR_LOG";

/// Builds what is missing and runs `sendflowr up --demo` in place of this process.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    say(
        "Building the plugins and the binary, then starting it. Only the first time takes minutes: about ten on two cores.",
    );
    let mut command = Command::new(build()?);
    command.args(["up", "--demo"]);
    let has_folder = arguments
        .iter()
        .any(|argument| argument.split('=').next() == Some("--plugins"));
    if !has_folder {
        command.arg("--plugins").arg(plugins::folder());
    }
    if std::env::var_os(LOG).is_none() {
        // The output of the demonstration would be lost among its log lines. `--log` among the arguments still takes precedence.
        command.env(LOG, "warn");
    }
    become_program(command.args(arguments))
}

/// Measures the release binary under the load that `what` selects, on servers or on the embedded engines.
pub(crate) fn load(what: &[&str]) -> anyhow::Result<()> {
    let binary = build()?;
    let bench = ["bench", "--package", "integration-tests", "--bench", "load"];
    run_command(compiling(Workspace::Main, &bench).arg("--no-run"))?;
    // Only now: compiling takes minutes, and most of the memory of a small machine.
    let servers = what.contains(&"--servers").then(Servers::start).transpose()?;
    let mut command = compiling(Workspace::Main, &bench);
    command.arg("--").args(what);
    command
        // The cost of a log line for every delivery is not to be measured.
        .env(LOG, "warn")
        .env("SENDFLOWR_BIN", binary)
        .env("SENDFLOWR_PLUGINS", plugins::folder());
    if let Some(servers) = &servers {
        command.envs(servers.environment().iter().cloned());
    }
    run_command(&mut command)
}

/// Builds the plugins and the release binary, and returns the path of the binary.
fn build() -> anyhow::Result<PathBuf> {
    setup::native_libraries()?;
    plugins::build(&[], &plugins::folder())?;
    run_command(&mut compiling(
        Workspace::Main,
        &["build", "--release", "--package", "sendflowr"],
    ))?;
    Ok(Workspace::Main.target_folder().join("release/sendflowr"))
}

/// Replaces this process, so that signals reach the program itself, not a parent that would have to forward them.
fn become_program(command: &mut Command) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt;
    Err(anyhow::Error::new(command.exec()).context("cannot start the binary that was just built"))
}
