//! Runs other programs, with errors that say which one failed.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

/// Prints a line and flushes it: what follows may take minutes.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe is no reason to stop working.
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Returns the repository's top folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The repository's two cargo workspaces.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Workspace {
    /// The programs and their libraries.
    Main,
    /// The provider plugins, which compile to WebAssembly with a profile of their own.
    Plugins,
}

impl Workspace {
    /// Both of them.
    pub(crate) const BOTH: [Self; 2] = [Self::Main, Self::Plugins];

    /// Returns the workspace's top folder.
    pub(crate) fn folder(self) -> PathBuf {
        match self {
            Self::Main => root(),
            Self::Plugins => root().join("plugins"),
        }
    }

    /// Returns the workspace's build folder. A `CARGO_TARGET_DIR` holds those of both workspaces, separately, so that neither
    /// waits for the other's lock.
    pub(crate) fn target_folder(self) -> PathBuf {
        // Relative to the user's current folder; the commands run elsewhere.
        let chosen = std::env::var_os("CARGO_TARGET_DIR").and_then(|folder| std::path::absolute(folder).ok());
        match (self, chosen) {
            (Self::Main, Some(chosen)) => chosen,
            (Self::Plugins, Some(chosen)) => chosen.join("plugins-build"),
            (_, None) => self.folder().join("target"),
        }
    }

    /// Returns the path of a program that cargo builds in the workspace with its development profile.
    pub(crate) fn program(self, name: &str) -> PathBuf {
        self.target_folder()
            .join("debug")
            .join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
    }
}

/// Creates a cargo command in the workspace.
pub(crate) fn cargo(workspace: Workspace, arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = cargo_at(&cargo, workspace, arguments);
    command.env("CARGO_TARGET_DIR", workspace.target_folder());
    command
}

/// Creates a cargo command in the workspace that compiles. In CI it must not change the lock file; elsewhere, where somebody may
/// just have added a crate, it may.
pub(crate) fn compiling(workspace: Workspace, arguments: &[&str]) -> Command {
    let mut arguments = arguments.to_vec();
    if in_ci() {
        arguments.insert(1, "--locked");
    }
    cargo(workspace, &arguments)
}

/// Creates a command of the given cargo, without the environment with which cargo started this program: build scripts depend on
/// these variables and would run again, and everything that depends on them would compile again, each time somebody calls cargo
/// directly in between.
pub(crate) fn cargo_at(cargo: &OsStr, workspace: Workspace, arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(workspace.folder());
    for (name, _) in std::env::vars_os() {
        let is_ours = name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if is_ours {
            command.env_remove(name);
        }
    }
    command
}

/// Checks whether this runs unattended, where tools are installed without asking and the lock files must be up to date.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false")
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// Runs the command; its output is passed through.
///
/// # Errors
/// Returns an error that names the command if it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Checks whether the command can be started and succeeds; discards its output.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Returns what the command prints, trimmed; `None` if it fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs the command and passes each line of its standard output to `look`, which prints those that people should see.
///
/// # Errors
/// See [`run`]; `look` has seen all output by then.
pub(crate) fn watch(command: &mut Command, mut look: impl FnMut(&str)) -> anyhow::Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    let stdout = child.stdout.take().context("the child has no piped output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        // A test may print any bytes.
        look(String::from_utf8_lossy(&line?).trim_end_matches('\r'));
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}
