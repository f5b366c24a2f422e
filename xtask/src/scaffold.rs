//! Builds and tests the plugin that `sendflowr plugin new` creates, as its author would.

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

/// The plugin's slug. It has a hyphen, which is spelled differently in names of files and modules.
const SLUG: &str = "sample-mail";

/// A freshly created plugin, in the build folder.
pub(crate) struct Scaffold {
    folder: PathBuf,
    binary: PathBuf,
}

impl Scaffold {
    /// Creates the plugin with the binary.
    ///
    /// # Errors
    /// Returns an error if the binary fails.
    pub(crate) fn make(binary: PathBuf) -> anyhow::Result<Self> {
        let folder = Workspace::Plugins.target_folder().join("scaffold");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove `{}`", folder.display()))?;
        }
        let mut command = Command::new(&binary);
        run(command.args(["plugin", "new", SLUG, "--folder"]).arg(&folder))?;
        Ok(Self { folder, binary })
    }

    /// Returns the command that runs its `cargo test`. It uses the plugins' build folder, where its
    /// dependencies are compiled already.
    pub(crate) fn native_tests(&self) -> Command {
        let mut command = cargo(Workspace::Plugins, &["test"]);
        command.current_dir(&self.folder);
        command
    }

    /// Builds the component, and another one with cargo-component if that is possible.
    ///
    /// # Errors
    /// Returns an error if compiling or packing fails.
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

    /// Returns the folder of its cases.
    pub(crate) fn cases(&self) -> &Path {
        // The folder is fresh: it contains no other case files.
        &self.folder
    }
}
