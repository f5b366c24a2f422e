//! `cargo xtask up`: from a fresh clone to a running system.

use std::process::Command;

use crate::{
    plugins,
    process::{cargo, run as run_command, say, target_folder},
};

/// Builds what is missing and becomes `sendflowr up --demo`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    say("SendFlowr: building the plugins and the binary. The first time takes about ten minutes on two cores.");
    plugins::build(&[])?;
    run_command(&mut cargo(&["build", "--release", "--locked", "--package", "sendflowr"]))?;
    let mut command = Command::new(target_folder().join("release/sendflowr"));
    command.args(["up", "--demo", "--plugins"]).arg(plugins::folder()).args(arguments);
    become_program(&mut command)
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
