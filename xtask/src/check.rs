//! `cargo xtask check`: formatting, lints, documentation, dependency policy.

use crate::process::{cargo, plugins_cargo, run as run_command, say, succeeds};

/// Runs every check; the first that fails ends it.
pub(crate) fn run() -> anyhow::Result<()> {
    say("── formatting");
    run_command(&mut cargo(&["fmt", "--all", "--check"]))?;
    run_command(&mut plugins_cargo(&["fmt", "--all", "--check"]))?;
    say("── lints");
    let lints = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    run_command(&mut cargo(&lints))?;
    run_command(&mut plugins_cargo(&lints))?;
    say("── documentation");
    run_command(cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    say("── dependency policy");
    dependency_policy()
}

/// Licences, banned crates and sources. Advisories need a database from the network and are looked at where it is there.
fn dependency_policy() -> anyhow::Result<()> {
    if !succeeds(&mut cargo(&["deny", "--version"])) {
        if std::env::var_os("CI").is_none() {
            say("cargo-deny is not installed: `cargo install cargo-deny --locked` adds it; skipped");
            return Ok(());
        }
        say("installing cargo-deny");
        // Unoptimised it builds in a fraction of the time, and it runs for seconds only.
        run_command(&mut cargo(&["install", "cargo-deny", "--locked", "--debug", "--no-default-features"]))?;
    }
    for manifest in ["Cargo.toml", "plugins/Cargo.toml"] {
        let arguments = ["deny", "--manifest-path", manifest, "--config", "deny.toml", "check"];
        run_command(cargo(&arguments).args(["licenses", "bans", "sources"]))?;
    }
    Ok(())
}
