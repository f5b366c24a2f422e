//! The plugin that `sendflowr plugin new` makes, built and tried the way its author would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::{
    plugins,
    process::{Workspace, cargo, run},
    ways::{self, Way},
};

/// Its name: with a hyphen, which files and modules spell in two ways.
const SLUG: &str = "sample-mail";

/// A fresh scaffold, in the build folder.
pub(crate) struct Scaffold {
    folder: PathBuf,
    binary: PathBuf,
}

impl Scaffold {
    /// Makes it with the binary.
    ///
    /// # Errors
    /// When the binary fails.
    pub(crate) fn make(binary: PathBuf) -> anyhow::Result<Self> {
        let folder = Workspace::Plugins.target_folder().join("scaffold");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove `{}`", folder.display()))?;
        }
        let mut command = Command::new(&binary);
        run(command.args(["plugin", "new", SLUG, "--folder"]).arg(&folder))?;
        Ok(Self { folder, binary })
    }

    /// `cargo test` in it. The build folder is that of the plugins: what they need is compiled already.
    pub(crate) fn native_tests(&self) -> Command {
        let mut command = cargo(Workspace::Plugins, &["test"]);
        command.current_dir(&self.folder);
        command
    }

    /// Builds the component, with cargo-component too where that can be.
    ///
    /// # Errors
    /// When compiling or packing fails.
    pub(crate) fn components(&self) -> anyhow::Result<Vec<PathBuf>> {
        let modules = plugins::compile_in(&self.folder, &[SLUG.to_owned()])?;
        let component = self.folder.join(format!("{SLUG}.wasm"));
        let mut command = Command::new(&self.binary);
        command
            .args(["plugin", "pack"])
            .arg(modules.join(format!("{}.wasm", SLUG.replace('-', "_"))));
        run(command.arg("--out").arg(&component))?;
        let mut built = vec![component];
        if Way::CargoComponent.obstacle().is_none() {
            built.extend(ways::cargo_component(&self.folder, SLUG, &self.folder)?);
        }
        Ok(built)
    }

    /// Its cases.
    pub(crate) fn cases(&self) -> &Path {
        // The folder is fresh: the only case files in it are its own.
        &self.folder
    }
}
