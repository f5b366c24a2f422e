//! Builds the provider plugins: from Rust to a core module, from there to a component.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use wit_component::ComponentEncoder;

use crate::{
    process::{plugins_cargo, root, run as run_command, say, target_folder},
    setup::{self, TARGET, WasmToolchain},
};

/// Folder of the finished plugins.
pub(crate) fn folder() -> PathBuf {
    target_folder().join("plugins")
}

/// `cargo xtask plugins`.
pub(crate) fn run(slugs: &[String]) -> anyhow::Result<()> {
    let built = build(slugs)?;
    for (slug, bytes) in built {
        say(&format!("{slug:12} {:>4} kB", bytes.div_ceil(1000)));
    }
    say(&format!("plugins are in {}", folder().display()));
    Ok(())
}

/// Builds the named plugins, or all, and answers slug and size of each. A plugin that did not change is not written again,
/// so that a host that watches the folder stays quiet.
pub(crate) fn build(slugs: &[String]) -> anyhow::Result<Vec<(String, usize)>> {
    let known = provider_crates()?;
    let wanted: Vec<&String> = if slugs.is_empty() { known.iter().collect() } else { slugs.iter().collect() };
    for slug in &wanted {
        if !known.contains(slug) {
            bail!("there is no plugin `{slug}`; there are {}", known.join(", "));
        }
    }
    let modules = compile(&wanted)?;
    let out = folder();
    fs::create_dir_all(&out).with_context(|| format!("cannot create `{}`", out.display()))?;
    let mut built = Vec::with_capacity(wanted.len());
    for slug in wanted {
        let module = modules.join(format!("{}.wasm", slug.replace('-', "_")));
        let component = to_component(&module)?;
        write_if_changed(&out.join(format!("{slug}.wasm")), &component)?;
        built.push((slug.clone(), component.len()));
    }
    Ok(built)
}

/// The members of the plugins' workspace that become plugins: those that build a `cdylib`.
fn provider_crates() -> anyhow::Result<Vec<String>> {
    let folder = root().join("plugins");
    let mut slugs = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let manifest = entry?.path().join("Cargo.toml");
        let Ok(text) = fs::read_to_string(&manifest) else { continue };
        if text.contains("\"cdylib\"") {
            let name = manifest.parent().and_then(Path::file_name).unwrap_or_default();
            slugs.push(name.to_string_lossy().into_owned());
        }
    }
    slugs.sort();
    Ok(slugs)
}

/// Compiles the crates for WebAssembly and answers the folder of the core modules.
fn compile(slugs: &[&String]) -> anyhow::Result<PathBuf> {
    let toolchain = setup::ensure()?;
    let mut arguments = vec!["build", "--release", "--locked", "--target", TARGET];
    if toolchain == WasmToolchain::Debian {
        arguments.insert(1, "-Zbuild-std=std,panic_abort");
    }
    for slug in slugs {
        arguments.extend(["--package", slug.as_str()]);
    }
    let mut command = plugins_cargo(&arguments);
    let build_folder = match toolchain {
        WasmToolchain::Rustup => target_folder().join("plugins-build"),
        WasmToolchain::Debian => {
            // Debian's tools stand in /usr/bin; rustup's must not be found before them, nor choose a toolchain.
            let path = std::env::var("PATH").unwrap_or_default();
            command = debian(&arguments);
            command.env("PATH", format!("/usr/bin:{path}"));
            target_folder().join("plugins-build-debian")
        }
    };
    command.env("CARGO_TARGET_DIR", &build_folder);
    run_command(&mut command)?;
    Ok(build_folder.join(TARGET).join("release"))
}

fn debian(arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new("/usr/bin/cargo");
    command
        .args(arguments)
        .current_dir(root().join("plugins"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", "/usr/bin/rustc")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO");
    command
}

/// Wraps a core module that carries the contract's types into a component that imports nothing else.
fn to_component(module: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(module).with_context(|| format!("cannot read `{}`", module.display()))?;
    ComponentEncoder::default()
        .validate(true)
        .module(&bytes)
        .and_then(|encoder| encoder.encode())
        .with_context(|| format!("`{}` cannot be made a component", module.display()))
}

/// Through a file beside it: whoever watches the folder never sees half a plugin.
fn write_if_changed(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let beside = path.with_extension("wasm.new");
    fs::write(&beside, bytes).with_context(|| format!("cannot write `{}`", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("cannot write `{}`", path.display()))
}
