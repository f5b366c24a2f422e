//! Builds plugins in other ways than `cargo xtask plugins`: with cargo-component, plain cargo for `wasm32-wasip2`, JavaScript and
//! Python. The components go into a folder of their own, beside the plugins that are served.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::{
    plugins,
    process::{Workspace, cargo, compiling, in_ci, root, run, say, succeeds},
    python,
    setup::{self, TARGET, WASIP1, WasmToolchain, has_program, wasm_toolchain},
};

/// The release of cargo-component that is installed if there is none.
const CARGO_COMPONENT: &str = "cargo-component@0.21.1";

const WASIP2: &str = "wasm32-wasip2";

/// The contract that the guests in other languages are built for.
const CONTRACT: &str = "wit/1.1.0";

/// The provider that the examples in other languages are written for.
const EXAMPLE: &str = "mandrill";

/// A way to build a component from source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    /// `cargo component build`, for its own target and for the plugins'.
    CargoComponent,
    /// `cargo build --target wasm32-wasip2`, whose linker creates components.
    Wasip2,
    /// componentize-js, in `plugins/examples/javascript`.
    JavaScript,
    /// componentize-py, in `plugins/examples/python`.
    Python,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::CargoComponent, Self::Wasip2, Self::JavaScript, Self::Python];
    pub(crate) const EXAMPLES: [Self; 2] = [Self::JavaScript, Self::Python];

    /// Returns the way with this name.
    ///
    /// # Errors
    /// Returns an error that lists the known names if there is none.
    pub(crate) fn named(name: &str) -> anyhow::Result<Self> {
        match Self::ALL.into_iter().find(|way| way.name() == name) {
            Some(way) => Ok(way),
            None => bail!(
                "unknown way `{name}`; there are {}",
                Self::ALL.map(Self::name).join(", ")
            ),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CargoComponent => "cargo-component",
            Self::Wasip2 => "wasip2",
            Self::JavaScript => "javascript",
            Self::Python => "python",
        }
    }

    /// Finds or installs the programs of the system that this way needs beside cargo.
    ///
    /// # Errors
    /// Returns an error if nothing may be installed.
    fn install_tools(self) -> anyhow::Result<()> {
        match self {
            Self::JavaScript if !has_program("npm") => setup::install(&["nodejs", "npm"])
                .context("plugins in JavaScript are built with Node.js and npm"),
            Self::Python if !python::is_installed() => setup::install(&python::PACKAGES)
                .context("plugins in Python are built with Python 3 and its venv"),
            _ => Ok(()),
        }
    }

    /// Returns why this way is unavailable here, if that is not an error: a target that cannot be had from anywhere, or outside of
    /// CI programs of the system that cannot be installed or a tool that takes minutes to build.
    pub(crate) fn obstacle(self) -> Option<String> {
        let target = match self {
            Self::Wasip2 => WASIP2,
            Self::CargoComponent if !in_ci() => WASIP1,
            Self::JavaScript | Self::Python if !in_ci() => {
                let error = self.install_tools().err()?;
                return Some(format!("{error:#}"));
            }
            // What is missing is installed; if it cannot be, that is an error.
            Self::CargoComponent | Self::JavaScript | Self::Python => return None,
        };
        if self == Self::CargoComponent && !has_cargo_component() {
            return Some("`cargo xtask plugins --with cargo-component` installs the tool".to_owned());
        }
        let error = wasm_toolchain(target).err()?;
        Some(format!("{error:#}"))
    }

    /// Builds a provider's plugin this way and returns the components.
    ///
    /// # Errors
    /// Returns an error if a tool is missing and cannot be installed, if building fails, or if there is no such source.
    pub(crate) fn build(self, slug: &str) -> anyhow::Result<Vec<PathBuf>> {
        if Self::EXAMPLES.contains(&self) && slug != EXAMPLE {
            bail!(
                "the examples in {} are for `{EXAMPLE}`, not for `{slug}`",
                self.name()
            );
        }
        let out = folder();
        fs::create_dir_all(&out).with_context(|| format!("cannot create `{}`", out.display()))?;
        let plugins = Workspace::Plugins.folder();
        let component = out.join(format!("{EXAMPLE}.{}.wasm", self.name()));
        match self {
            Self::CargoComponent => cargo_component(&plugins, slug, &out),
            Self::Wasip2 => {
                let built = compile(&plugins, &["build"], slug, WASIP2, &out)?;
                Ok(vec![built])
            }
            Self::JavaScript => {
                let source = plugins.join("examples/javascript");
                npm_install(&source)?;
                run(Command::new("node")
                    .arg("build.js")
                    .arg(&component)
                    .current_dir(&source))?;
                Ok(vec![component])
            }
            Self::Python => {
                let source = plugins.join("examples/python");
                let programs = python_programs(&source)?;
                run(componentize_py(&programs, &source, &root().join("wit/1.0.0"))
                    .args(["componentize", "app", "--output"])
                    .arg(&component))?;
                Ok(vec![component])
            }
        }
        .with_context(|| format!("cannot build `{slug}` with {}", self.name()))
    }
}

/// Returns the provider of the examples, which can be built in every way.
pub(crate) fn example() -> &'static str {
    EXAMPLE
}

/// Returns the folder of the components that are built here.
fn folder() -> PathBuf {
    Workspace::Main.target_folder().join("ways")
}

/// Builds a crate of the workspace in `source` with cargo-component, for its own target and for the plugins', into `out`.
pub(crate) fn cargo_component(source: &Path, slug: &str, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // cargo-component requires the sysroot of its own target, whatever it builds for.
    wasm_toolchain(WASIP1)?;
    if !has_cargo_component() {
        say(&format!(
            "installing {CARGO_COMPONENT}, about three minutes on two cores"
        ));
        // Unoptimised, it builds in half the time, and it only runs for seconds.
        let install = ["install", "--locked", "--debug", CARGO_COMPONENT];
        let mut install = cargo(Workspace::Plugins, &install);
        // In a temporary folder of its own, which cargo removes: nobody needs the intermediate files.
        install.env_remove("CARGO_TARGET_DIR");
        run(install.env("CARGO_PROFILE_DEV_DEBUG", "false"))?;
    }
    let mut built = Vec::new();
    for target in [WASIP1, TARGET] {
        built.push(compile(source, &["component", "build"], slug, target, out)?);
    }
    Ok(built)
}

fn has_cargo_component() -> bool {
    succeeds(&mut cargo(Workspace::Plugins, &["component", "--version"]))
}

/// Runs cargo for one plugin and target, in a separate build folder: cargo-component puts components where the plugins' own build
/// looks for core modules.
fn compile(source: &Path, command: &[&str], slug: &str, target: &str, out: &Path) -> anyhow::Result<PathBuf> {
    let toolchain = wasm_toolchain(target)?;
    let build_folder = folder().join(match toolchain {
        WasmToolchain::Rustup => "build",
        WasmToolchain::Debian(_) => "build-debian",
    });
    let mut arguments = command.to_vec();
    arguments.extend(["--release", "--target", target, "--package", slug]);
    if source == Workspace::Plugins.folder() {
        arguments.push("--locked");
    }
    run(toolchain.cargo(&arguments, &build_folder).current_dir(source))?;
    let module = format!("{}.wasm", slug.replace('-', "_"));
    let built = build_folder.join(target).join("release").join(module);
    let named = out.join(format!("{slug}.{}.{target}.wasm", command[0]));
    fs::copy(&built, &named).with_context(|| format!("cannot copy `{}`", built.display()))?;
    Ok(named)
}

/// Builds the guests in other languages that ask for the time and for randomness, and returns their folder.
///
/// # Errors
/// Returns an error if a tool is missing and cannot be installed, or if building fails.
pub(crate) fn guests() -> anyhow::Result<PathBuf> {
    let out = folder().join("guests");
    fs::create_dir_all(&out).with_context(|| format!("cannot create `{}`", out.display()))?;
    let sources = root().join("tests/guests/repeatable");
    let contract = root().join(CONTRACT);
    let examples = Workspace::Plugins.folder().join("examples");
    npm_install(&examples.join("javascript"))?;
    run(Command::new("node")
        .arg("build.js")
        .args([
            &out.join("repeatable.javascript.wasm"),
            &sources.join("plugin.js"),
            &contract,
        ])
        .current_dir(examples.join("javascript")))?;
    let programs = python_programs(&examples.join("python"))?;
    run(componentize_py(&programs, &sources, &contract)
        .args(["componentize", "guest", "--output"])
        .arg(out.join("repeatable.python.wasm")))?;
    Ok(out)
}

/// Measures one provider's plugin in every language.
///
/// # Errors
/// Returns an error if one of them cannot be built, or if the benchmark fails.
pub(crate) fn compare_languages() -> anyhow::Result<()> {
    let rust = plugins::build(&[EXAMPLE.to_owned()], &plugins::folder())?;
    let bench = [
        "bench",
        "--package",
        "sendflowr-host",
        "--bench",
        "languages",
        "--",
    ];
    let mut command = compiling(Workspace::Main, &bench);
    command.arg("Rust").arg(&rust[0].path);
    for (way, name) in [
        (Way::CargoComponent, "Rust, `cargo component build`"),
        (Way::Wasip2, "Rust, `wasm32-wasip2`"),
        (Way::JavaScript, "JavaScript, componentize-js"),
        (Way::Python, "Python, componentize-py"),
    ] {
        if let Some(obstacle) = way.obstacle() {
            say(&format!("skipped {}: {obstacle}", way.name()));
            continue;
        }
        // The first of several is for the way's own target.
        let built = way.build(EXAMPLE)?;
        command.arg(name).arg(&built[0]);
    }
    run(&mut command)
}

/// Installs the packages of the manifest in the folder.
fn npm_install(folder: &Path) -> anyhow::Result<()> {
    Way::JavaScript.install_tools()?;
    // Not `npm ci`: it requires that the lock file lists the optional packages of every platform. The lock file is not changed.
    run(Command::new("npm")
        .args([
            "install",
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--loglevel",
            "error",
        ])
        .current_dir(folder))
}

/// Installs the requirements of `source` into an environment beside the components, and returns the folder of its programs.
fn python_programs(source: &Path) -> anyhow::Result<PathBuf> {
    Way::Python.install_tools()?;
    let environment = folder().join("python");
    python::make(
        &environment,
        &source.join("requirements.txt"),
        "componentize-py, about 17 MB",
    )?;
    Ok(environment.join("bin"))
}

/// Creates a componentize-py command for the contract, in the folder; its subcommand is to be added.
fn componentize_py(programs: &Path, folder: &Path, contract: &Path) -> Command {
    let mut command = Command::new(programs.join("componentize-py"));
    command
        .args(["--quiet", "--wit-path"])
        .arg(contract)
        .args(["--world", "connector"])
        .current_dir(folder);
    command
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
            Err("unknown way `go`; there are cargo-component, wasip2, javascript, python".to_owned())
        );
    }

    #[test]
    fn examples_are_of_one_provider() {
        assert!(Way::Python.build("sendgrid").is_err());
    }
}
