//! `cargo xtask check`: formatting, the contract, deployment files, dependency policy, lints, documentation.

use crate::{
    contract, deploy,
    process::{Workspace, cargo, compiling, in_ci, run as run_command, say, succeeds},
    setup,
};

/// The version that `deny.toml` was written for.
const CARGO_DENY: &str = "cargo-deny@0.20.2";

/// Runs every check and stops at the first failure.
pub(crate) fn run() -> anyhow::Result<()> {
    setup::components()?;
    setup::native_libraries()?;
    say("── formatting");
    for workspace in Workspace::BOTH {
        run_command(&mut cargo(workspace, &["fmt", "--all", "--check"]))?;
    }
    say("── contract");
    contract::check()?;
    say("── deployment files");
    deploy::check()?;
    // Runs before the slow checks; needs nothing compiled but the tool itself.
    say("── dependency policy");
    dependency_policy()?;
    say("── lints");
    for workspace in Workspace::BOTH {
        let mut lints = vec!["clippy", "--workspace", "--all-targets"];
        if workspace == Workspace::Main {
            // Nothing else builds what libFuzzer runs.
            lints.extend(["--features", "sendflowr-fuzz/programs"]);
        }
        lints.extend(["--", "-D", "warnings"]);
        run_command(&mut compiling(workspace, &lints))?;
    }
    say("── documentation");
    let documentation = ["doc", "--workspace", "--no-deps"];
    run_command(compiling(Workspace::Main, &documentation).env("RUSTDOCFLAGS", "-D warnings"))?;
    say("all checks passed");
    Ok(())
}

/// Checks licences, banned crates and sources. Advisories are not checked: their database comes by git, which a build machine may
/// be unable to reach, and a new advisory must not fail an old commit. `cargo deny check advisories` checks them.
fn dependency_policy() -> anyhow::Result<()> {
    if !succeeds(&mut cargo(Workspace::Main, &["deny", "--version"])) {
        if !in_ci() {
            say(&format!(
                "skipped: run `cargo install --locked {CARGO_DENY}` to install the tool"
            ));
            return Ok(());
        }
        say("installing cargo-deny, about a minute on two cores");
        // Unoptimised, it builds in a fraction of the time, and it only runs for seconds.
        let install = [
            "install",
            "--locked",
            "--debug",
            "--no-default-features",
            CARGO_DENY,
        ];
        run_command(&mut cargo(Workspace::Main, &install))?;
    }
    for workspace in Workspace::BOTH {
        let config = Workspace::Main.folder().join("deny.toml");
        let mut command = cargo(workspace, &["deny", "--config"]);
        run_command(command.arg(config).args(["check", "licenses", "bans", "sources"]))?;
    }
    Ok(())
}
