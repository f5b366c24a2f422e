//! Debian's Rust for WebAssembly, for machines whose rustup can fetch no targets: package registries have it, and nothing else.
//!
//! It brings the sources of std for WebAssembly, not std itself. This compiles std once and lays out a toolchain around it, in the
//! build folder: a sysroot that has the target, and a `cargo` and a `rustc` that use it as those of rustup are used.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::{
    process::{Workspace, output, run, say},
    setup::{self, TARGET, WASIP1},
};

/// The compiler, its sources, the linker (`rust-web-llvm` links only with `lld-22`, the one of the LLVM that it was built with),
/// and the C library that std for WASI is linked with.
const PACKAGES: [&str; 6] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "rust-web-llvm",
    "lld-22",
    "wasi-libc",
];

/// Where the compiler has its own sysroot.
const RUSTLIB: &str = "/usr/lib/rustlib";

/// Where the C library is.
const WASI_LIBC: &str = "/usr/lib/wasm32-wasi";

/// The programs of the toolchain. What rustup sets for its own is not for this one. `rustc` asks for its sysroot by the flag; cargo
/// finds it, like `rustdoc`, in `PATH`.
const PROGRAMS: [(&str, &str); 3] = [
    (
        "cargo",
        "unset CARGO RUSTC RUSTUP_TOOLCHAIN LD_LIBRARY_PATH\n\
         PATH=\"$(dirname \"$0\"):/usr/bin:$PATH\" exec /usr/bin/cargo \"$@\"\n",
    ),
    (
        "rustc",
        "exec /usr/bin/rustc --sysroot \"$(dirname \"$(dirname \"$0\")\")\" \"$@\"\n",
    ),
    // For whoever follows instructions that begin with `rustup target add`.
    (
        "rustup",
        "echo \"Debian's Rust has its targets: rustup is not needed\"\n",
    ),
];

/// Returns the toolchain's folder of programs, to be put first in `PATH`, if it has the target.
pub(crate) fn found(target: &str) -> Option<PathBuf> {
    let folder = folder()?;
    library(&folder, target).exists().then(|| folder.join("bin"))
}

/// Installs the packages, and compiles std for the target.
///
/// # Errors
/// Returns an error if nothing may be installed, or if Debian lacks something that the target needs.
pub(crate) fn install(target: &str) -> anyhow::Result<PathBuf> {
    if ![TARGET, WASIP1].contains(&target) {
        bail!("Debian has no C library for the target {target}");
    }
    let asked = ["--show", "--showformat", "${db:Status-Status}\n"];
    let is_there = output(Command::new("dpkg-query").args(asked).args(PACKAGES))
        .is_some_and(|states| states.lines().all(|state| state == "installed"));
    if !is_there {
        setup::install(&PACKAGES)?;
    }
    say(&format!("compiling Rust's std for {target}"));
    let folder = folder().context("`/usr/bin/rustc` does not run")?;
    lay_out(&folder).context("cannot lay out Debian's Rust in the build folder")?;
    compile_std(&folder, target)?;
    found(target).context("std is not where it was compiled to")
}

/// Returns the folder of the toolchain: each version of the compiler needs a std of its own.
fn folder() -> Option<PathBuf> {
    let version = output(Command::new("/usr/bin/rustc").arg("--version"))?;
    let number = version.split_whitespace().nth(1)?;
    Some(Workspace::Plugins.target_folder().join("debian").join(number))
}

fn library(folder: &Path, target: &str) -> PathBuf {
    folder.join("lib/rustlib").join(target).join("lib")
}

/// Creates the programs, and a sysroot with what Debian's has.
fn lay_out(folder: &Path) -> anyhow::Result<()> {
    let (bin, rustlib) = (folder.join("bin"), folder.join("lib/rustlib"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&rustlib)?;
    for (name, script) in PROGRAMS {
        let program = bin.join(name);
        fs::write(&program, format!("#!/bin/sh\n{script}"))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    for entry in fs::read_dir(RUSTLIB)? {
        let entry = entry?;
        let link = rustlib.join(entry.file_name());
        if !link.exists() {
            symlink(entry.path(), link)?;
        }
    }
    Ok(())
}

/// Compiles std as a dependency of an empty crate, and puts it where compilers look for it.
fn compile_std(folder: &Path, target: &str) -> anyhow::Result<()> {
    let source = folder.join("std");
    fs::create_dir_all(&source)?;
    let manifest = "[package]\nname = \"empty\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n[workspace]\n";
    fs::write(source.join("Cargo.toml"), manifest)?;
    fs::write(source.join("lib.rs"), "#![no_std]\n")?;
    // What an interrupted build has left must not be copied too.
    let build = source.join("target");
    if build.exists() {
        fs::remove_dir_all(&build)?;
    }
    let mut command = Command::new(folder.join("bin/cargo"));
    command
        .args([
            "build",
            "--quiet",
            "--release",
            "-Zbuild-std=std,panic_abort",
            "--target",
            target,
        ])
        .current_dir(&source)
        // `-Z` needs a nightly, or this variable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &build)
        .env_remove("CARGO_BUILD_TARGET");
    if target == WASIP1 {
        command.env("RUSTFLAGS", format!("-Lnative={WASI_LIBC}"));
    }
    run(&mut command)?;
    // Complete or not there at all: its presence means that the target is installed.
    let library = library(folder, target);
    let beside = library.with_extension("new");
    if beside.exists() {
        fs::remove_dir_all(&beside)?;
    }
    fs::create_dir_all(&beside)?;
    copy(
        &build.join(target).join("release/deps"),
        &beside,
        &["rlib", "rmeta"],
    )?;
    if target == WASIP1 {
        let c_library = beside.join("self-contained");
        fs::create_dir(&c_library)?;
        copy(Path::new(WASI_LIBC), &c_library, &["a", "o"])?;
    }
    fs::rename(&beside, &library)?;
    Ok(())
}

/// Copies the files with these extensions.
fn copy(from: &Path, to: &Path, extensions: &[&str]) -> anyhow::Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read `{}`", from.display()))? {
        let path = entry?.path();
        let is_wanted = path
            .extension()
            .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted));
        if let (true, Some(name)) = (is_wanted, path.file_name()) {
            fs::copy(&path, to.join(name)).with_context(|| format!("cannot copy `{}`", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_debian_lacks_is_refused_before_anything_is_installed() {
        let error = install("wasm32-wasip2").map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("Debian has no C library for the target wasm32-wasip2".to_owned())
        );
        assert_eq!(found("wasm32-wasip2"), None);
    }
}
