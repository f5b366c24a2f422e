//! Runs ClickHouse's engine from a Python package, behind a small front that speaks its HTTP interface.

use std::{fs, path::PathBuf, process::Command};

use super::{NAME, folder, native::Place, ports};
use crate::{process::root, python, setup};

/// Returns the Debian packages that are needed and missing.
pub(super) fn missing() -> Vec<&'static str> {
    if setup::is_fetched(&environment(), &requirements()) || python::is_installed() {
        return Vec::new();
    }
    python::PACKAGES.into()
}

/// Finds the engine, or downloads it into an environment of its own.
pub(super) fn download() -> anyhow::Result<()> {
    python::make(
        &environment(),
        &requirements(),
        "ClickHouse's engine, about 150 MB",
    )
}

/// Creates its folder.
pub(super) fn prepare(place: &Place) -> anyhow::Result<()> {
    Ok(fs::create_dir_all(&place.data)?)
}

/// Returns the command that runs it.
pub(super) fn server(place: &Place) -> anyhow::Result<Command> {
    let mut command = Command::new(environment().join("bin/python"));
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

fn environment() -> PathBuf {
    folder().join("clickhouse")
}

fn requirements() -> PathBuf {
    sources().join("requirements.txt")
}

fn sources() -> PathBuf {
    root().join("xtask/clickhouse")
}
