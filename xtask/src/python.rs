//! Environments of Python, each with packages from its registry.

use std::{path::Path, process::Command};

use crate::{
    process::{run, say, succeeds},
    setup,
};

/// The Debian packages of Python and of what makes environments, which Debian's Python lacks.
pub(crate) const PACKAGES: [&str; 2] = ["python3", "python3-venv"];

/// Checks whether Python is there and can make environments.
pub(crate) fn is_installed() -> bool {
    succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"]))
}

/// Makes an environment of what the file of requirements names, without what these depend on, unless it is there; `what` says what
/// is downloaded.
///
/// # Errors
/// Returns an error if Python is missing, or if the packages cannot be fetched.
pub(crate) fn make(environment: &Path, requirements: &Path, what: &str) -> anyhow::Result<()> {
    if setup::is_fetched(environment, requirements) {
        return Ok(());
    }
    say(&format!("downloading {what}"));
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(environment))?;
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet"]);
    pip.args(["--disable-pip-version-check", "--no-deps", "--requirement"]);
    run(pip.arg(requirements))?;
    setup::set_fetched(environment, requirements)
}
