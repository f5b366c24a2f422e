//! Installs what is needed beyond cargo: a WebAssembly target, the tools that build libraries in C, and for the checks the linter
//! and the formatter.
//!
//! The target comes from rustup if rustup can fetch it. Otherwise (on a machine that reaches package registries only), Debian's
//! own Rust for WebAssembly is installed beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::{
    debian,
    process::{Workspace, cargo, cargo_at, output, root, run as run_command, say, succeeds},
};

/// The plugins' target: its components import nothing but the plugin contract.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// cargo-component's own target: it links WASI in.
pub(crate) const WASIP1: &str = "wasm32-wasip1";

/// The programs that build Kafka's client library, and the Debian packages that contain them. Its TLS is the system's OpenSSL.
const FOR_KAFKA: [(&str, &str); 4] = [
    ("cmake", "cmake"),
    ("c++", "g++"),
    ("make", "make"),
    ("pkg-config", "pkg-config"),
];

/// Chooses where the WebAssembly compiler comes from, to try the second way where the first one works too:
/// `SENDFLOWR_WASM_TOOLCHAIN=debian`.
const CHOICE: &str = "SENDFLOWR_WASM_TOOLCHAIN";

/// Where the WebAssembly compiler comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum WasmToolchain {
    /// The pinned toolchain has the target.
    Rustup,
    /// Debian's Rust, whose programs are in this folder.
    Debian(PathBuf),
}

impl WasmToolchain {
    /// Creates a command of this toolchain's cargo, with build folders of its own.
    pub(crate) fn cargo(&self, arguments: &[&str], build_folder: &Path) -> Command {
        let mut command = match self {
            Self::Rustup => cargo(Workspace::Plugins, arguments),
            Self::Debian(programs) => {
                cargo_at(programs.join("cargo").as_os_str(), Workspace::Plugins, arguments)
            }
        };
        command.env("CARGO_TARGET_DIR", build_folder);
        command
    }
}

/// `cargo xtask setup`.
pub(crate) fn run() -> anyhow::Result<()> {
    match wasm_toolchain(TARGET)? {
        WasmToolchain::Rustup => say(&format!("WebAssembly: the toolchain has the target {TARGET}")),
        WasmToolchain::Debian(_) => say("WebAssembly: Debian's Rust compiles the plugins"),
    }
    native_libraries()?;
    components()?;
    say("linter and formatter: installed");
    Ok(())
}

/// Finds or installs a compiler for a target of WebAssembly.
///
/// # Errors
/// Returns an error if nothing may be installed; the text has the commands to run.
pub(crate) fn wasm_toolchain(target: &str) -> anyhow::Result<WasmToolchain> {
    let from_debian = || match debian::found(target) {
        Some(programs) => Ok(WasmToolchain::Debian(programs)),
        None => debian::install(target).map(WasmToolchain::Debian),
    };
    match std::env::var(CHOICE).ok().as_deref() {
        Some("debian") => return from_debian(),
        None | Some("" | "rustup") => {}
        Some(other) => bail!("`{CHOICE}` is `{other}`; it may be `rustup` or `debian`"),
    }
    if has_target(target) {
        return Ok(WasmToolchain::Rustup);
    }
    if let Some(programs) = debian::found(target) {
        return Ok(WasmToolchain::Debian(programs));
    }
    say(&format!("adding the target {target} with rustup"));
    match run_command(
        Command::new("rustup")
            .args(["target", "add", target])
            .current_dir(root()),
    ) {
        Ok(()) if has_target(target) => return Ok(WasmToolchain::Rustup),
        Ok(()) => say(
            "rustup added it to a toolchain other than the one in use; trying Debian's Rust for WebAssembly",
        ),
        Err(error) => say(&format!("{error:#}; trying Debian's Rust for WebAssembly")),
    }
    from_debian().with_context(|| format!("the target {target} is missing: run `rustup target add {target}`"))
}

/// Finds or installs the tools for the libraries in C that cargo builds.
///
/// # Errors
/// Returns an error if nothing may be installed; the text has the commands to run.
pub(crate) fn native_libraries() -> anyhow::Result<()> {
    let locked = root().join("Cargo.lock");
    let locked =
        fs::read_to_string(&locked).with_context(|| format!("cannot read `{}`", locked.display()))?;
    if !locked.contains("name = \"rdkafka-sys\"") {
        return Ok(());
    }
    let mut missing: Vec<&str> = FOR_KAFKA
        .into_iter()
        .filter(|(program, _)| !has_program(program))
        .map(|(_, package)| package)
        .collect();
    if !succeeds(Command::new("pkg-config").args(["--exists", "openssl"])) {
        missing.push("libssl-dev");
    }
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

/// Finds or installs the linter and the formatter.
///
/// # Errors
/// Returns an error if rustup cannot fetch them.
pub(crate) fn components() -> anyhow::Result<()> {
    for (component, program) in [("clippy", "cargo-clippy"), ("rustfmt", "rustfmt")] {
        if succeeds(Command::new(program).arg("--version").current_dir(root())) {
            continue;
        }
        say(&format!("adding the component {component} with rustup"));
        run_command(
            Command::new("rustup")
                .args(["component", "add", component])
                .current_dir(root()),
        )
        .with_context(|| format!("the checks need `{component}`"))?;
    }
    Ok(())
}

/// Checks whether the toolchain that cargo uses here has the target's std.
fn has_target(target: &str) -> bool {
    let asked = ["--print", "target-libdir", "--target", target];
    output(Command::new("rustc").args(asked).current_dir(root()))
        .is_some_and(|folder| Path::new(&folder).exists())
}

/// Checks whether the folder has all that the file names: an interrupted download, or one of other versions, does not count.
pub(crate) fn is_fetched(folder: &Path, description: &Path) -> bool {
    let (Ok(present), Ok(wanted)) = (fs::read(mark(folder)), fs::read(description)) else {
        return false;
    };
    present == wanted
}

/// Records that the folder has all that the file names.
///
/// # Errors
/// Returns an error if one of them cannot be read or written.
pub(crate) fn set_fetched(folder: &Path, description: &Path) -> anyhow::Result<()> {
    fs::copy(description, mark(folder)).with_context(|| {
        format!(
            "cannot copy `{}` to `{}`",
            description.display(),
            folder.display()
        )
    })?;
    Ok(())
}

fn mark(folder: &Path) -> PathBuf {
    folder.join("done")
}

/// Checks whether a program is in `PATH`.
pub(crate) fn has_program(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}

/// Checks whether this program runs as root.
pub(crate) fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_some_and(|id| id == "0")
}

/// Installs Debian packages, or says which command would.
///
/// # Errors
/// Returns an error if this is not Debian, or if nothing may be installed.
pub(crate) fn install(packages: &[&str]) -> anyhow::Result<()> {
    let list = packages.join(" ");
    if !succeeds(Command::new("apt-get").arg("--version")) {
        bail!("cannot install the Debian packages {list} here: install their counterparts by hand");
    }
    let is_root = is_root();
    if !is_root && !succeeds(Command::new("sudo").args(["-n", "true"])) {
        bail!(
            "cannot install packages without root: run \
             `sudo apt-get update && sudo apt-get install --no-install-recommends -y {list}`"
        );
    }
    say(&format!("installing {list} with apt-get"));
    let apt = |arguments: &[&str]| {
        let mut command = if is_root {
            Command::new("env")
        } else {
            Command::new("sudo")
        };
        if !is_root {
            command.args(["-n", "env"]);
        }
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(arguments);
        command
    };
    // A single unreachable mirror of several makes it fail, which may not matter.
    if let Err(error) = run_command(&mut apt(&["update", "-q"])) {
        say(&format!("{error:#}; continuing with the existing package lists"));
    }
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(packages);
    run_command(&mut apt(&arguments))
}
