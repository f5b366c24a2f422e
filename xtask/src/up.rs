//! `cargo xtask up`: from a fresh clone to a running system.

use std::{path::PathBuf, process::Command};

use crate::{
    plugins,
    process::{cargo, run as run_command, say, target_folder},
};

/// Builds what is missing and becomes `sendflowr up --demo`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    say("SendFlowr: building the plugins and the binary. The first time takes about ten minutes on two cores.");
    let mut command = Command::new(build()?);
    command.args(["up", "--demo", "--plugins"]).arg(plugins::folder()).args(arguments);
    become_program(&mut command)
}

/// Measures the release binary under load.
pub(crate) fn load() -> anyhow::Result<()> {
    let binary = build()?;
    let mut command = cargo(&["bench", "--locked", "--package", "integration-tests", "--bench", "load"]);
    command.env("SENDFLOWR_BIN", binary).env("SENDFLOWR_PLUGINS", plugins::folder());
    run_command(&mut command)
}

/// Builds plugins and binary for use, and answers where the binary is.
fn build() -> anyhow::Result<PathBuf> {
    plugins::build(&[])?;
    run_command(&mut cargo(&["build", "--release", "--locked", "--package", "sendflowr"]))?;
    Ok(target_folder().join("release/sendflowr"))
}

/// Signals reach the program itself, not a parent that would have to hand them on.
#[cfg(unix)]
fn become_program(command: &mut Command) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt;
    Err(anyhow::Error::new(command.exec()).context("cannot start the binary that was just built"))
}

#[cfg(not(unix))]
fn become_program(command: &mut Command) -> anyhow::Result<()> {
    run_command(command)
}
