//! `cargo xtask fuzz`: runs the targets in `fuzz/` under libFuzzer.

use std::{ffi::OsStr, fs, process::Command};

use anyhow::{Context, bail};

use crate::process::{Workspace, cargo_at, output, root, run as run_command, say, succeeds};

/// The version that `fuzz/Cargo.toml` was written for.
const CARGO_FUZZ: &str = "cargo-fuzz@0.13.2";

/// Seconds for each target: enough to see that it runs. A real search takes hours.
const SECONDS: u64 = 20;

/// Targets that do not need the host, which takes minutes to build.
const OF_THE_SDK: [&str; 2] = ["forms", "json"];

/// Larger inputs only slow the search down; the golden plugins have 100 kB.
const LONGEST_INPUT_BYTES: u64 = 200_000;

/// `cargo xtask fuzz [target] [--seconds N]`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let mut seconds = SECONDS;
    let mut chosen = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--seconds" => {
                let value = rest.next().context("`--seconds` takes a number")?;
                seconds = value
                    .parse()
                    .with_context(|| format!("`--seconds` takes a number, not `{value}`"))?;
            }
            name if !name.starts_with('-') && chosen.is_none() => chosen = Some(name.to_owned()),
            other => bail!("`fuzz` takes `[target] [--seconds N]`, not `{other}`"),
        }
    }
    let known = targets()?;
    let targets = match chosen {
        Some(name) if known.contains(&name) => vec![name],
        Some(name) => bail!("there is no target `{name}`; there are {}", known.join(", ")),
        None => known,
    };
    if !output(Command::new("rustup").args(["toolchain", "list"]))
        .is_some_and(|list| list.contains("nightly"))
    {
        bail!(
            "fuzzing needs a nightly toolchain: run `rustup toolchain install nightly`; \
             `cargo test --package fuzz-targets` runs the seeds without"
        );
    }
    if !succeeds(&mut nightly(&["fuzz", "--version"])) {
        say("installing cargo-fuzz, about a minute on two cores");
        run_command(&mut nightly(&["install", "--locked", "--debug", CARGO_FUZZ]))?;
    }
    let folder = root().join("fuzz");
    for target in targets {
        say(&format!("── {target}, {seconds} s"));
        let corpus = folder.join("corpus").join(&target);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make `{}`", corpus.display()))?;
        // The search is for Rust's own checks; with the address sanitizer wasmtime would take twice as long to build, and much
        // longer to run.
        let mut command = nightly(&["fuzz", "run", "--fuzz-dir", "fuzz", "--sanitizer", "none"]);
        // What the release profile spends on optimising across crates, a search does not gain.
        command
            .envs([
                ("CARGO_PROFILE_RELEASE_LTO", "off"),
                ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
            ])
            .args(["--features", "libfuzzer"]);
        if OF_THE_SDK.contains(&target.as_str()) {
            command.arg("--no-default-features");
        }
        command.arg(&target).arg(corpus).args(seeds(&target)?).args([
            "--".to_owned(),
            format!("-max_total_time={seconds}"),
            format!("-max_len={LONGEST_INPUT_BYTES}"),
            // Several GB, because a plugin at its limits needs as much.
            "-rss_limit_mb=4096".to_owned(),
        ]);
        run_command(&mut command)?;
    }
    Ok(())
}

/// Returns the names of the programs of `fuzz/`.
fn targets() -> anyhow::Result<Vec<String>> {
    let folder = root().join("fuzz/bins");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(OsStr::to_str).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Returns the folders of the target's seeds. The golden plugins are not stored twice.
fn seeds(target: &str) -> anyhow::Result<Vec<String>> {
    if target != "components" {
        return Ok(vec![format!("fuzz/seeds/{target}")]);
    }
    let mut folders = Vec::new();
    for entry in fs::read_dir(root().join("tests/golden")).context("cannot read `tests/golden`")? {
        let entry = entry?;
        if entry.path().is_dir() {
            folders.push(format!("tests/golden/{}", entry.file_name().to_string_lossy()));
        }
    }
    folders.sort();
    Ok(folders)
}

fn nightly(arguments: &[&str]) -> Command {
    let mut all = vec!["+nightly"];
    all.extend(arguments);
    // Only rustup's `cargo` understands `+nightly`, not the one that runs this program.
    let mut command = cargo_at(OsStr::new("cargo"), Workspace::Main, &all);
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_plugins_of_every_contract_are_seeds() {
        let folders = seeds("components").unwrap();
        for version in fs::read_dir(root().join("wit")).unwrap().flatten() {
            let name = version.file_name().into_string().unwrap();
            let is_seed = folders.contains(&format!("tests/golden/{name}"));
            assert_eq!(is_seed, version.path().is_dir(), "{name}");
        }
        assert_eq!(seeds("json").unwrap(), ["fuzz/seeds/json"]);
    }
}
