//! Loads arbitrary bytes as a plugin: they are refused with a reason, or they are a plugin that the runtime
//! can run.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use host::plugin::{Limits, PluginLoader};
use tempfile::TempDir;

struct Bench {
    loader: PluginLoader,
    folder: TempDir,
}

static BENCH: LazyLock<Bench> = LazyLock::new(|| Bench {
    loader: PluginLoader::try_new(&Limits::default()).expect("the engine can be made"),
    folder: TempDir::new().expect("there is room"),
});

/// Loads the bytes, and passes a delivery to what is a plugin.
pub fn run(bytes: &[u8]) {
    let path: PathBuf = BENCH.folder.path().join("plugin.wasm");
    fs::write(&path, bytes).expect("there is room");
    match BENCH.loader.load(&path) {
        // It may exceed any of its limits; what matters is that this process survives.
        Ok(plugin) => drop(plugin.measure(&Arc::new(super::service::request(b"{}")))),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
