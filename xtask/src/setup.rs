//! What the build needs beyond cargo: a WebAssembly target and a C compiler.
//!
//! The target comes from rustup where rustup can fetch it. Where it cannot (a machine that reaches package registries
//! only), Debian's own Rust for WebAssembly is installed beside it, whose std is built from source.

use std::{path::Path, process::Command};

use anyhow::{Context, bail};

use crate::process::{output, root, run as run_command, say, succeeds};

/// The plugins' target: its components import nothing but the plugin contract.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's packages with a Rust that knows WebAssembly, its sources and its linker.
const DEBIAN_RUST: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-22"];

/// Chooses where the WebAssembly compiler comes from, for trying the second way where the first one works:
/// `SENDFLOWR_WASM_TOOLCHAIN=debian`.
const CHOICE: &str = "SENDFLOWR_WASM_TOOLCHAIN";

/// Where the WebAssembly compiler comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum WasmToolchain {
    /// The pinned toolchain has the target.
    Rustup,
    /// Debian's, which needs std built along.
    Debian,
}

/// Installs what is missing and answers where WebAssembly is compiled.
pub(crate) fn ensure() -> anyhow::Result<WasmToolchain> {
    c_compiler()?;
    wasm_toolchain()
}

/// `cargo xtask setup`.
pub(crate) fn run() -> anyhow::Result<()> {
    match ensure()? {
        WasmToolchain::Rustup => say("everything is there"),
        WasmToolchain::Debian => say("everything is there; WebAssembly is compiled by Debian's Rust"),
    }
    Ok(())
}

fn wasm_toolchain() -> anyhow::Result<WasmToolchain> {
    let forced_debian = std::env::var(CHOICE).is_ok_and(|choice| choice == "debian");
    if !forced_debian && has_target() {
        return Ok(WasmToolchain::Rustup);
    }
    if !forced_debian {
        say(&format!("adding the target {TARGET} with rustup"));
        let add = Command::new("rustup").args(["target", "add", TARGET]).current_dir(root()).status();
        if add.is_ok_and(|status| status.success()) && has_target() {
            return Ok(WasmToolchain::Rustup);
        }
        say("rustup could not add it; trying Debian's Rust for WebAssembly");
    }
    if !Path::new("/usr/bin/rustc").exists() || !debian_sources().is_some_and(|sources| Path::new(&sources).exists()) {
        install(&DEBIAN_RUST).with_context(|| format!("the target {TARGET} is missing; `rustup target add {TARGET}` adds it"))?;
    }
    Ok(WasmToolchain::Debian)
}

/// Whether the toolchain that cargo uses here has the target's std.
fn has_target() -> bool {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()));
    sysroot.is_some_and(|sysroot| Path::new(&sysroot).join("lib/rustlib").join(TARGET).join("lib").exists())
}

fn debian_sources() -> Option<String> {
    let sysroot = output(Command::new("/usr/bin/rustc").args(["--print", "sysroot"]))?;
    Some(format!("{sysroot}/lib/rustlib/src/rust/library"))
}

/// SQLite and the cryptography are compiled from C.
fn c_compiler() -> anyhow::Result<()> {
    if succeeds(Command::new("cc").arg("--version")) {
        return Ok(());
    }
    install(&["gcc", "libc6-dev"]).context("a C compiler is missing")
}

/// Installs Debian packages, or says which command would.
fn install(packages: &[&str]) -> anyhow::Result<()> {
    let list = packages.join(" ");
    let is_root = output(Command::new("id").arg("-u")).is_some_and(|id| id == "0");
    let by_sudo = !is_root && succeeds(Command::new("sudo").args(["-n", "true"]));
    if !succeeds(Command::new("apt-get").arg("--version")) || !(is_root || by_sudo) {
        bail!("may not install here; run `sudo apt-get update && sudo apt-get install -y {list}` and try again");
    }
    say(&format!("installing {list} with apt-get"));
    let apt = |arguments: &[&str]| {
        let mut command = if by_sudo { Command::new("sudo") } else { Command::new("apt-get") };
        if by_sudo {
            command.args(["-n", "apt-get"]);
        }
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    run_command(&mut apt(&["update", "-q"]))?;
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(packages);
    run_command(&mut apt(&arguments))
}
