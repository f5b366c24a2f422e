//! Runs ClickHouse's engine from a Python package, behind a small front that speaks its HTTP interface.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context;

use super::{NAME, folder, native::Place, ports};
use crate::{
    process::{root, run as run_command, say, succeeds},
    setup,
};

/// Finds the engine, or downloads it into an environment of its own.
pub(super) fn install() -> anyhow::Result<()> {
    let requirements = sources().join("requirements.txt");
    let wanted = fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read `{}`", requirements.display()))?;
    // Written last, so that an interrupted download, or one of another version, is repeated.
    let done = environment().join("done");
    if fs::read_to_string(&done).is_ok_and(|present| present == wanted) {
        return Ok(());
    }
    // Debian's Python cannot create environments without another package.
    if !succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"])) {
        setup::install(&["python3", "python3-venv"])?;
    }
    say("downloading ClickHouse's engine, about 150 MB");
    let make = ["-m", "venv", "--clear"];
    run_command(Command::new("python3").args(make).arg(environment()))?;
    let mut pip = Command::new(python());
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]);
    run_command(pip.arg("--requirement").arg(requirements))?;
    Ok(fs::write(done, wanted)?)
}

/// Creates its folder.
pub(super) fn prepare(place: &Place) -> anyhow::Result<()> {
    Ok(fs::create_dir_all(&place.data)?)
}

/// Returns the command that runs it.
pub(super) fn server(place: &Place) -> anyhow::Result<Command> {
    let mut command = Command::new(python());
    command.arg(sources().join("front.py"));
    command.args(["--port", &place.port.to_string()]);
    command.arg("--data").arg(&place.data);
    command.args(["--user", NAME, "--password", NAME]);
    Ok(command)
}

/// Checks whether it is ready.
pub(super) fn answers(port: u16) -> bool {
    let question = b"GET /ping HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    ports::exchange(port, question).is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

fn python() -> PathBuf {
    environment().join("bin/python")
}

fn environment() -> PathBuf {
    folder().join("clickhouse")
}

fn sources() -> PathBuf {
    root().join("xtask/clickhouse")
}
