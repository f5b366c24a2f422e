//! The other ways to a plugin than `cargo xtask plugins`: cargo-component, plain cargo for `wasm32-wasip2`, JavaScript and
//! Python. What they build goes into a folder of its own, beside the plugins that are served.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::{
    process::{Workspace, cargo, output, root, run, say, succeeds},
    setup::TARGET,
};

/// The release of cargo-component that is installed where there is none.
const CARGO_COMPONENT: &str = "0.21.1";

/// cargo-component's own target: it links WASI in.
const WASIP1: &str = "wasm32-wasip1";

const WASIP2: &str = "wasm32-wasip2";

/// The provider that the examples in other languages are written for.
const EXAMPLE: &str = "mandrill";

/// A way from source to component.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    /// `cargo component build`, for its own target and for the plugins'.
    CargoComponent,
    /// `cargo build --target wasm32-wasip2`, whose linker makes components.
    Wasip2,
    /// componentize-js, in `plugins/examples/javascript`.
    JavaScript,
    /// componentize-py, in `plugins/examples/python`.
    Python,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::CargoComponent, Self::Wasip2, Self::JavaScript, Self::Python];
    pub(crate) const EXAMPLES: [Self; 2] = [Self::JavaScript, Self::Python];

    /// The way of this name.
    ///
    /// # Errors
    /// When there is none; the text has those that there are.
    pub(crate) fn named(name: &str) -> anyhow::Result<Self> {
        match Self::ALL.into_iter().find(|way| way.name() == name) {
            Some(way) => Ok(way),
            None => bail!(
                "there is no way `{name}`; there are {}",
                Self::ALL.map(Self::name).join(", ")
            ),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::CargoComponent => "cargo-component",
            Self::Wasip2 => "wasip2",
            Self::JavaScript => "javascript",
            Self::Python => "python",
        }
    }

    /// Builds a provider this way, and answers the components.
    ///
    /// # Errors
    /// When a tool is missing and cannot be installed, when building fails, or when there is no such source.
    pub(crate) fn build(self, slug: &str) -> anyhow::Result<Vec<PathBuf>> {
        if Self::EXAMPLES.contains(&self) && slug != EXAMPLE {
            bail!(
                "the examples in {} are for `{EXAMPLE}`, not for `{slug}`",
                self.name()
            );
        }
        let out = folder();
        fs::create_dir_all(&out).with_context(|| format!("cannot create `{}`", out.display()))?;
        match self {
            Self::CargoComponent => cargo_component(slug, &out),
            Self::Wasip2 => {
                need_target(WASIP2)?;
                let built = compile(&["build"], slug, WASIP2, &out)?;
                Ok(vec![built])
            }
            Self::JavaScript => javascript(&out),
            Self::Python => python(&out),
        }
        .with_context(|| format!("cannot build `{slug}` with {}", self.name()))
    }
}

/// The example's provider, which all ways can build.
pub(crate) fn example() -> &'static str {
    EXAMPLE
}

/// Folder of what is built here, and of the tools for it.
fn folder() -> PathBuf {
    Workspace::Main.target_folder().join("ways")
}

fn cargo_component(slug: &str, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // It insists on the sysroot of its own target, whatever it builds for.
    need_target(WASIP1)?;
    if !succeeds(Command::new("cargo-component").arg("--version")) && !installed_component().exists() {
        say(&format!(
            "installing cargo-component {CARGO_COMPONENT}: some minutes"
        ));
        let install = [
            "install",
            "cargo-component",
            "--locked",
            "--version",
            CARGO_COMPONENT,
            "--root",
        ];
        run(cargo(Workspace::Plugins, &install)
            .arg(tools())
            .env("CARGO_TARGET_DIR", tools().join("build")))?;
        fs::remove_dir_all(tools().join("build"))
            .context("cannot remove what cargo-component was built in")?;
    }
    let mut built = Vec::new();
    for target in [WASIP1, TARGET] {
        built.push(compile(&["component", "build"], slug, target, out)?);
    }
    Ok(built)
}

fn tools() -> PathBuf {
    folder().join("tools")
}

fn installed_component() -> PathBuf {
    tools().join("bin/cargo-component")
}

/// Runs cargo for one plugin and target, in a build folder of its own: cargo-component puts components where the plugins'
/// own build looks for core modules.
fn compile(command: &[&str], slug: &str, target: &str, out: &Path) -> anyhow::Result<PathBuf> {
    let build_folder = out.join("build");
    let mut arguments = command.to_vec();
    arguments.extend(["--release", "--locked", "--target", target, "--package", slug]);
    let path = std::env::var("PATH").unwrap_or_default();
    run(cargo(Workspace::Plugins, &arguments)
        .env("CARGO_TARGET_DIR", &build_folder)
        .env("PATH", format!("{path}:{}", tools().join("bin").display())))?;
    let module = format!("{}.wasm", slug.replace('-', "_"));
    let built = build_folder.join(target).join("release").join(module);
    let named = out.join(format!("{slug}.{}.{target}.wasm", command[0]));
    fs::copy(&built, &named).with_context(|| format!("cannot copy `{}`", built.display()))?;
    Ok(named)
}

/// Finds a target of the pinned toolchain, or has rustup add it.
fn need_target(target: &str) -> anyhow::Result<()> {
    let is_there = || {
        output(
            Command::new("rustc")
                .args(["--print", "target-libdir", "--target", target])
                .current_dir(root()),
        )
        .is_some_and(|folder| Path::new(&folder).exists())
    };
    if is_there() {
        return Ok(());
    }
    run(Command::new("rustup")
        .args(["target", "add", target])
        .current_dir(root()))?;
    if !is_there() {
        bail!("rustup added the target {target} to another toolchain than the one that is used");
    }
    Ok(())
}

fn javascript(out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let source = root().join("plugins/examples/javascript");
    // Not `npm ci`: it demands that the lock file lists the optional packages of every platform. The lock file stays as it is.
    run(Command::new("npm")
        .args([
            "install",
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--loglevel",
            "error",
        ])
        .current_dir(&source))?;
    let component = out.join(format!("{EXAMPLE}.javascript.wasm"));
    run(Command::new("node")
        .arg("build.js")
        .arg(&component)
        .current_dir(&source))?;
    Ok(vec![component])
}

fn python(out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let source = root().join("plugins/examples/python");
    let environment = tools().join("python");
    let programs = environment.join("bin");
    if !programs.join("pip").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    run(Command::new(programs.join("pip"))
        .args(["install", "--quiet", "--requirement", "requirements.txt"])
        .current_dir(&source))?;
    let component = out.join(format!("{EXAMPLE}.python.wasm"));
    run(Command::new(programs.join("componentize-py"))
        .args([
            "--quiet",
            "--wit-path",
            "../../../wit/1.0.0",
            "--world",
            "connector",
        ])
        .args(["componentize", "app", "--output"])
        .arg(&component)
        .current_dir(&source))?;
    Ok(vec![component])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_found_by_name() {
        for way in Way::ALL {
            assert_eq!(Way::named(way.name()).ok(), Some(way));
        }
        let error = Way::named("go").map(drop).map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("there is no way `go`; there are cargo-component, wasip2, javascript, python".to_owned())
        );
    }

    #[test]
    fn examples_are_of_one_provider() {
        assert!(Way::Python.build("sendgrid").is_err());
    }
}
