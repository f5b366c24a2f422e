//! Runs Debian's PostgreSQL, or whichever is installed.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use super::{NAME, native::Place, ports};
use crate::{
    process::{output, run as run_command},
    setup,
};

/// The account under which the server runs if this program runs as root, which PostgreSQL refuses. Debian's package creates it.
const ACCOUNT: &str = "postgres";

/// Returns the Debian package that is needed, if it is missing.
pub(super) fn missing() -> Vec<&'static str> {
    if programs().is_some() {
        return Vec::new();
    }
    vec!["postgresql"]
}

/// Creates a cluster with the user and the database.
pub(super) fn prepare(place: &Place) -> anyhow::Result<()> {
    let data = &place.data;
    fs::create_dir_all(data)?;
    let account = account()?;
    if let Some((user, group)) = account {
        own(data, user, group)?;
    }
    let password = data.with_extension("password");
    fs::write(&password, NAME)?;
    let mut init = program("initdb")?;
    init.arg("--pgdata").arg(data).arg("--pwfile").arg(&password);
    init.args([
        "--username",
        NAME,
        "--encoding",
        "UTF8",
        "--locale",
        "C.UTF-8",
        "--no-sync",
    ]);
    init.args(["--auth-local", "trust", "--auth-host", "scram-sha-256"]);
    run_command(init.stdout(Stdio::null()))?;
    fs::remove_file(&password)?;
    // In single-user mode the server reads commands from its input, so there is nothing to wait for.
    let mut single = program("postgres")?;
    single.arg("--single").arg("-D").arg(data);
    single.args(["-c", "log_checkpoints=off", "postgres"]);
    let mut child = single
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start `postgres --single`")?;
    if let Some(mut input) = child.stdin.take() {
        writeln!(input, "CREATE DATABASE {NAME}")?;
    }
    if !child.wait()?.success() {
        bail!("`postgres --single` could not create the database");
    }
    Ok(())
}

/// Returns the command that runs it.
pub(super) fn server(place: &Place) -> anyhow::Result<Command> {
    let mut command = program("postgres")?;
    command.arg("-D").arg(&place.data);
    command.args(["-p", &place.port.to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1",
        // The path of its folder may be too long for a socket.
        "unix_socket_directories=",
        "shared_buffers=32MB",
        "max_connections=50",
        // A test's database need not survive a crash of the machine; it does survive a killed process.
        "fsync=off",
    ] {
        command.args(["-c", setting]);
    }
    Ok(command)
}

/// Checks whether it is ready. A server that is starting or recovering replies to the first message with an error.
pub(super) fn answers(port: u16) -> bool {
    let mut message = Vec::new();
    // Protocol version 3.0, then pairs of name and value, then an empty name.
    message.extend(196_608_u32.to_be_bytes());
    message.extend(format!("user\0{NAME}\0database\0{NAME}\0\0").as_bytes());
    let length = u32::try_from(message.len() + 4).unwrap_or_default();
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(message);
    // `R`: it asks for the password.
    ports::exchange(port, &bytes).is_some_and(|answer| answer.first() == Some(&b'R'))
}

/// Creates a command of one of PostgreSQL's programs, to run under an account that it accepts.
fn program(name: &str) -> anyhow::Result<Command> {
    let folder = programs().context("the programs of PostgreSQL are not installed")?;
    let mut command = Command::new(folder.join(name));
    if let Some((user, group)) = account()? {
        become_account(&mut command, user, group);
    }
    // The account may have no access to the folder in which this program was started.
    command.current_dir(std::env::temp_dir());
    Ok(command)
}

/// Returns the folder of `initdb` and `postgres`, of the newest version if there are several. Debian keeps them out of `PATH`,
/// other systems in it.
fn programs() -> Option<PathBuf> {
    if let Some(folder) = output(Command::new("pg_config").arg("--bindir")).map(PathBuf::from)
        && folder.join("initdb").exists()
    {
        return Some(folder);
    }
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
    {
        let folder = entry.path().join("bin");
        let version = entry.file_name().to_string_lossy().parse().unwrap_or_default();
        if folder.join("initdb").exists() {
            found.push((version, folder));
        }
    }
    if let Some((_, folder)) = found.into_iter().max() {
        return Some(folder);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

/// Returns the user and group to run as if this program runs as root.
fn account() -> anyhow::Result<Option<(u32, u32)>> {
    if !setup::is_root() {
        return Ok(None);
    }
    let ask = |what| -> anyhow::Result<u32> {
        output(Command::new("id").args([what, ACCOUNT]))
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("PostgreSQL does not run as root, and there is no account `{ACCOUNT}`"))
    };
    Ok(Some((ask("-u")?, ask("-g")?)))
}

fn become_account(command: &mut Command, user: u32, group: u32) {
    use std::os::unix::process::CommandExt;
    command.uid(user).gid(group);
}

fn own(folder: &std::path::Path, user: u32, group: u32) -> anyhow::Result<()> {
    Ok(std::os::unix::fs::chown(folder, Some(user), Some(group))?)
}
