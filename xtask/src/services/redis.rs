//! Runs Debian's Redis, or whichever is installed.

use std::{fs, process::Command};

use super::{NAME, native::Place, ports};
use crate::setup;

/// Returns the Debian package that is needed, if it is missing.
pub(super) fn missing() -> Vec<&'static str> {
    if setup::has_program("redis-server") {
        return Vec::new();
    }
    vec!["redis-server"]
}

/// Creates its folder.
pub(super) fn prepare(place: &Place) -> anyhow::Result<()> {
    Ok(fs::create_dir_all(&place.data)?)
}

/// Returns the command that runs it.
pub(super) fn server(place: &Place) -> anyhow::Result<Command> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &place.port.to_string()]);
    command.arg("--dir").arg(&place.data);
    command.args(["--requirepass", NAME]);
    // Saves a snapshot when it stops: the tests check that what an earlier run of the server knew does not
    // count, so it must remember.
    command.args(["--save", "3600", "1", "--appendonly", "no"]);
    // The tests store a few thousand profiles of at most 4 kB.
    command.args(["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]);
    // Its command line must keep naming the folder.
    command.args(["--set-proc-title", "no"]);
    Ok(command)
}

/// Checks whether it is ready.
pub(super) fn answers(port: u16) -> bool {
    // It requires the password, and says so once it is up.
    ports::exchange(port, b"PING\r\n").is_some_and(|answer| answer.starts_with(b"-NOAUTH"))
}
