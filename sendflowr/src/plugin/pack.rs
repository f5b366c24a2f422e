//! `sendflowr plugin pack`: turns the core module that a compiler writes into the component that the host serves, and pins it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use host::plugin::{Limits, LoadError, is_of_wasip1};
use wit_component::ComponentEncoder;

use super::{files::examine, pin};
use crate::{oci::Digest, output};

/// Wraps the module into a component that imports nothing but the contract, and writes it to `out` or, without it, into the
/// current folder under the module's name, with hyphens in place of underscores, as in slugs. Pins it in `lock`, if given.
///
/// # Errors
/// Fails if a file cannot be read or written, or the module does not contain the contract's types.
pub(crate) async fn run(
    module: &Path,
    out: Option<PathBuf>,
    lock: Option<&Path>,
    limits: &Limits,
) -> anyhow::Result<ExitCode> {
    let (out, digest) = pack(module, out)?;
    if let Some(lock) = lock {
        let (plugin, examination) = examine(&out, limits).await?;
        let changes = pin::one(&pin::writer(lock).await?, &out, &plugin, &examination, None)?;
        changes.iter().for_each(|change| output::line(change));
    } else {
        output::line(&format!(
            "{digest}; `sendflowr plugin pin {}` pins it",
            out.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn pack(module: &Path, out: Option<PathBuf>) -> anyhow::Result<(PathBuf, Digest)> {
    let bytes = fs::read(module).with_context(|| format!("cannot read `{}`", module.display()))?;
    if !bytes.starts_with(b"\0asm") {
        bail!(
            "`{}` is not a WebAssembly module: name the one that `cargo build --target wasm32-unknown-unknown` writes",
            module.display()
        );
    }
    if is_of_wasip1(&bytes) {
        bail!("`{}` {}", module.display(), LoadError::Wasip1Module);
    }
    let out = match out {
        Some(out) => out,
        None => {
            let name = module.file_name().context("the module's path names no file")?;
            PathBuf::from(name.to_string_lossy().replace('_', "-"))
        }
    };
    // They may be spelled differently. A file that is not there is no other.
    if fs::canonicalize(&out).is_ok_and(|out| fs::canonicalize(module).is_ok_and(|module| out == module)) {
        bail!(
            "`{}` would be overwritten: name another file with `--out`",
            out.display()
        );
    }
    let component =
        component(&bytes).with_context(|| format!("`{}` cannot be made a component", module.display()))?;
    // Written to another file first and renamed: a host that watches the folder never sees half a plugin.
    let beside = out.with_extension("wasm.new");
    fs::write(&beside, &component).with_context(|| format!("cannot write `{}`", beside.display()))?;
    fs::rename(&beside, &out).with_context(|| format!("cannot write `{}`", out.display()))?;
    output::line(&format!(
        "`{}` is written, {} kB",
        out.display(),
        component.len().div_ceil(1_000)
    ));
    Ok((out, Digest::of(&component)))
}

fn component(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    // The header of a component differs from a module's in the fifth byte and what follows it.
    if module.get(4..8) == Some(&[0x0d, 0, 1, 0]) {
        bail!("it is already a component");
    }
    ComponentEncoder::default()
        .validate(true)
        .module(module)?
        .encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_modules_are_packed() {
        let error = |bytes: &[u8]| format!("{:#}", component(bytes).unwrap_err());
        assert_eq!(error(b"\0asm\x0d\0\x01\0"), "it is already a component");
        assert!(component(b"no WebAssembly").is_err());
    }

    #[test]
    fn a_module_that_imports_wasi_is_not_sent_back_and_forth() {
        let folder = tempfile::tempdir().unwrap();
        let module = folder.path().join("acme.wasm");
        let imports = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x1c\x01\x16wasi_snapshot_preview1\x01f\0\0";
        fs::write(&module, imports).unwrap();
        let error = pack(&module, Some(folder.path().join("out.wasm"))).unwrap_err();
        let told = error.to_string();
        assert!(
            told.contains(
                "is a core WebAssembly module built for `wasm32-wasip1`: build for `wasm32-unknown-unknown`"
            ),
            "{told}"
        );

        let around = [b"\0asm\x0d\0\x01\0\x01\x2c", &imports[..]].concat();
        fs::write(&module, around).unwrap();
        let error = pack(&module, Some(folder.path().join("out.wasm"))).unwrap_err();
        let told = format!("{error:#}");
        assert!(told.ends_with("it is already a component"), "{told}");
    }

    #[test]
    fn the_module_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let module = folder.path().join("acme.wasm");
        fs::write(&module, b"\0asm\x01\0\0\0").unwrap();
        let error = pack(&module, Some(module.clone())).unwrap_err();
        assert!(error.to_string().contains("would be overwritten"), "{error}");

        let detour = folder.path().join("inner");
        fs::create_dir(&detour).unwrap();
        let error = pack(&module, Some(detour.join("../acme.wasm"))).unwrap_err();
        assert!(error.to_string().contains("would be overwritten"), "{error}");

        let manifest = folder.path().join("Cargo.toml");
        fs::write(&manifest, "[package]").unwrap();
        let error = pack(&manifest, Some(manifest.clone())).unwrap_err();
        assert!(
            error.to_string().contains("is not a WebAssembly module"),
            "{error}"
        );
    }
}
