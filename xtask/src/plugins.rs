//! Builds the provider plugins: from Rust to a core module, and from that to a component.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use wit_component::ComponentEncoder;

use crate::{
    process::{Workspace, cargo, in_ci, run as run_command, say},
    setup::{self, TARGET, WasmToolchain},
    ways::{self, Way},
};

/// Returns the folder of the finished plugins, in which the binary looks by default.
pub(crate) fn folder() -> PathBuf {
    Workspace::Main.target_folder().join("plugins")
}

/// `cargo xtask plugins`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let mut out = folder();
    let mut slugs = Vec::new();
    let mut ways = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--out" {
            out = rest.next().context("`--out` needs a folder")?.into();
        } else if argument == "--with" {
            ways.push(Way::named(rest.next().context("`--with` needs a way to build")?)?);
        } else if argument == "--examples" {
            ways.extend(Way::EXAMPLES);
        } else if argument.starts_with('-') {
            bail!(
                "`plugins` takes `--out`, `--with`, `--examples` and the names of plugins, not `{argument}`"
            );
        } else {
            slugs.push(argument.clone());
        }
    }
    if !ways.is_empty() {
        return build_and_try(&slugs, &ways);
    }
    let built = build(&slugs, &out)?;
    for plugin in &built {
        let note = if plugin.is_new { "written" } else { "unchanged" };
        say(&format!(
            "{:12} {:>4} kB  {note}",
            plugin.slug,
            plugin.bytes.div_ceil(1000)
        ));
    }
    say(&format!("{} plugins in {}", built.len(), out.display()));
    Ok(())
}

/// Builds plugins in other ways, and runs their cases through the resulting components.
fn build_and_try(slugs: &[String], ways: &[Way]) -> anyhow::Result<()> {
    let example = [ways::example().to_owned()];
    let wanted = if slugs.is_empty() { &example } else { slugs };
    for slug in wanted {
        let mut built = Vec::new();
        for way in ways {
            built.extend(way.build(slug)?);
        }
        let cases = Workspace::Plugins.folder().join(slug).join("cases");
        for component in built {
            // One at a time: of several files for one provider, the last one would be used for all.
            let test = [
                "run",
                "--quiet",
                "--bin",
                "sendflowr",
                "--",
                "--log",
                "warn",
                "plugin",
                "test",
            ];
            let mut command = cargo(Workspace::Main, &test);
            run_command(command.arg("--cases").arg(&cases).arg(&component))?;
            let size = fs::metadata(&component)?.len().div_ceil(1000);
            say(&format!("{size:>6} kB  {}", component.display()));
        }
    }
    Ok(())
}

/// A finished plugin.
pub(crate) struct Built {
    /// The provider's slug.
    pub(crate) slug: String,
    /// The component.
    pub(crate) path: PathBuf,
    bytes: usize,
    is_new: bool,
}

/// Builds the named plugins, or all, into the folder. A plugin that did not change is not written again, so that a host that
/// watches the folder does not reload it.
pub(crate) fn build(slugs: &[String], out: &Path) -> anyhow::Result<Vec<Built>> {
    let known = provider_crates()?;
    if let Some(slug) = slugs.iter().find(|slug| !known.contains(slug)) {
        bail!("there is no plugin `{slug}`; there are {}", known.join(", "));
    }
    let wanted = if slugs.is_empty() { &known } else { slugs };
    let modules = compile_in(&Workspace::Plugins.folder(), wanted)?;
    fs::create_dir_all(out).with_context(|| format!("cannot create `{}`", out.display()))?;
    let mut built = Vec::with_capacity(wanted.len());
    for slug in wanted {
        let component = to_component(&modules.join(format!("{}.wasm", slug.replace('-', "_"))))?;
        let path = out.join(format!("{slug}.wasm"));
        let is_new = write_if_changed(&path, &component)?;
        built.push(Built {
            slug: slug.clone(),
            path,
            bytes: component.len(),
            is_new,
        });
    }
    Ok(built)
}

/// Returns the crates of the plugins' workspace that become plugins: those that build a `cdylib`. Folder, crate and slug have the
/// same name.
fn provider_crates() -> anyhow::Result<Vec<String>> {
    let folder = Workspace::Plugins.folder();
    let mut slugs = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let entry = entry?;
        let Ok(manifest) = fs::read_to_string(entry.path().join("Cargo.toml")) else {
            continue;
        };
        if manifest.contains("\"cdylib\"") {
            slugs.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    slugs.sort();
    Ok(slugs)
}

/// Compiles crates of the workspace in `folder` for WebAssembly and returns the folder of the core modules. With rustup's
/// toolchain, the plugins' own lock file must not change in CI; that of another workspace may always change.
pub(crate) fn compile_in(folder: &Path, slugs: &[String]) -> anyhow::Result<PathBuf> {
    let toolchain = setup::wasm_toolchain(TARGET)?;
    let mut arguments = vec!["build", "--release", "--target", TARGET];
    if in_ci() && toolchain == WasmToolchain::Rustup && folder == Workspace::Plugins.folder() {
        arguments.push("--locked");
    }
    for slug in slugs {
        arguments.extend(["--package", slug.as_str()]);
    }
    // Two compilers in one folder would build everything anew whenever they take turns.
    let build_folder = match toolchain {
        WasmToolchain::Rustup => Workspace::Plugins.target_folder(),
        WasmToolchain::Debian(_) => Workspace::Plugins.target_folder().join("debian/build"),
    };
    let mut command = toolchain.cargo(&arguments, &build_folder);
    // The same sources must give the same digest everywhere. Incremental compilation would split the code differently, and panic
    // messages contain the paths of source files; those of dependencies are in somebody's home folder.
    command.current_dir(folder).env("CARGO_INCREMENTAL", "0");
    if let Some(registry) = cargo_home() {
        command.env(
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS",
            format!("--remap-path-prefix={}=/cargo", registry.display()),
        );
    }
    run_command(&mut command)?;
    Ok(build_folder.join(TARGET).join("release"))
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

/// Wraps a core module that carries the contract's types into a component that has no other imports.
fn to_component(module: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(module).with_context(|| format!("cannot read `{}`", module.display()))?;
    ComponentEncoder::default()
        .validate(true)
        .module(&bytes)
        .and_then(|encoder| encoder.encode())
        .with_context(|| format!("cannot turn `{}` into a component", module.display()))
}

/// Writes through a temporary file beside it, so that a process that watches the folder never sees half a plugin; returns whether
/// it wrote.
fn write_if_changed(path: &Path, bytes: &[u8]) -> anyhow::Result<bool> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(false);
    }
    let beside = path.with_extension("wasm.new");
    fs::write(&beside, bytes).with_context(|| format!("cannot write `{}`", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(true)
}
