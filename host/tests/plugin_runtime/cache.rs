//! Compiled plugins are cached, and used only if this installation has made them.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sendflowr_host::plugin::PluginsConfig;
use tempfile::TempDir;

use super::{World, config, eventually, guest::guest};

/// Opens the folder again; returns how many plugins were compiled and how many came from the cache.
async fn start(config: &PluginsConfig) -> (i64, i64) {
    let world = World::open(config.clone()).await;
    assert_eq!(world.deliver("acme").await.unwrap(), 1);
    (
        world.metric("sendflowr_plugin_compilations_total"),
        world.metric("sendflowr_plugin_cache_hits_total"),
    )
}

fn folder_with_a_plugin() -> (TempDir, PluginsConfig) {
    let data = TempDir::new().unwrap();
    let config = config(&data);
    fs::create_dir(&config.folder).unwrap();
    fs::write(config.folder.join("acme.wasm"), guest("acme").build()).unwrap();
    (data, config)
}

/// Returns the compiled plugin, the only entry.
fn entry(config: &PluginsConfig) -> PathBuf {
    let entries = fs::read_dir(&config.cache_folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut entries = entries.filter(|path| path.extension().is_some_and(|extension| extension == "bin"));
    let entry = entries.next().expect("one entry");
    assert_eq!(entries.next(), None);
    entry
}

#[tokio::test]
async fn the_second_start_does_not_compile() {
    let (_data, config) = folder_with_a_plugin();
    assert_eq!(start(&config).await, (1, 0));
    assert_eq!(start(&config).await, (0, 1));
}

#[tokio::test]
async fn fifty_plugins_in_three_versions_are_compiled_once_each() {
    let data = TempDir::new().unwrap();
    let config = config(&data);
    fs::create_dir(&config.folder).unwrap();
    let mut counts = Vec::new();
    for version in ["1.0.0", "1.0.1", "1.0.2", "1.0.0"] {
        for number in 0..50 {
            let slug = format!("acme-{number}");
            let bytes = guest(&slug).version(version).build();
            fs::write(config.folder.join(format!("{slug}.wasm")), bytes).unwrap();
        }
        let world = World::open(config.clone()).await;
        assert_eq!(world.plugins.slugs().len(), 50, "{:?}", world.plugins.status());
        counts.push((
            world.metric("sendflowr_plugin_compilations_total"),
            world.metric("sendflowr_plugin_cache_hits_total"),
        ));
    }
    // Back at the first versions, nothing is compiled.
    assert_eq!(counts, [(50, 0), (50, 0), (50, 0), (0, 50)]);
}

#[tokio::test]
async fn folder_and_files_are_closed_to_others() {
    let (_data, config) = folder_with_a_plugin();
    start(&config).await;
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(config.cache_folder.clone()), 0o700);
    assert_eq!(mode(config.cache_folder.join("key")), 0o600);
    assert_eq!(mode(entry(&config)), 0o600);
}

#[tokio::test]
async fn a_damaged_entry_is_compiled_again() {
    let (_data, config) = folder_with_a_plugin();
    assert_eq!(start(&config).await, (1, 0));
    let path = entry(&config);
    let whole = fs::read(&path).unwrap();
    for damaged in [
        flipped(&whole, 0),
        flipped(&whole, whole.len() / 2),
        whole[..whole.len() - 1].to_vec(),
        Vec::new(),
    ] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(start(&config).await, (1, 0));
        assert_eq!(start(&config).await, (0, 1), "it was replaced by a good one");
    }
}

fn flipped(bytes: &[u8], position: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[position] ^= 1;
    bytes
}

#[tokio::test]
async fn an_entry_of_another_plugin_is_not_taken_for_this_one() {
    let (_data, config) = folder_with_a_plugin();
    start(&config).await;
    let first = entry(&config);
    let other = fs::read(&first).unwrap();
    fs::remove_file(&first).unwrap();
    fs::write(
        config.folder.join("acme.wasm"),
        guest("acme").version("2.0.0").build(),
    )
    .unwrap();
    assert_eq!(start(&config).await, (1, 0));
    fs::write(entry(&config), other).unwrap();
    assert_eq!(start(&config).await, (1, 0));
}

#[tokio::test]
async fn an_entry_of_another_installation_is_not_used() {
    let (_data, config) = folder_with_a_plugin();
    start(&config).await;
    fs::remove_file(config.cache_folder.join("key")).unwrap();
    assert_eq!(start(&config).await, (1, 0));
}

#[tokio::test]
async fn a_cache_that_others_can_write_is_not_used() {
    let (_data, config) = folder_with_a_plugin();
    start(&config).await;
    fs::set_permissions(&config.cache_folder, Permissions::from_mode(0o777)).unwrap();
    assert_eq!(start(&config).await, (1, 0));
    assert_eq!(start(&config).await, (1, 0));
    fs::set_permissions(&config.cache_folder, Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(config.cache_folder.join("key"), Permissions::from_mode(0o644)).unwrap();
    assert_eq!(start(&config).await, (1, 0));
}

#[tokio::test]
async fn entries_of_other_engines_and_unfinished_ones_are_dropped() {
    let (_data, config) = folder_with_a_plugin();
    start(&config).await;
    let stale = [
        config.cache_folder.join("ab-0000000000000000.bin"),
        config.cache_folder.join("cd.tmp"),
    ];
    for path in &stale {
        fs::write(path, "x").unwrap();
        // An hour old: nobody writes it any more.
        let file = File::options().append(true).open(path).unwrap();
        let age = Duration::from_secs(3_600);
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    assert_eq!(start(&config).await, (0, 1));
    for path in &stale {
        assert!(!path.exists());
    }
}

/// Creates old entries of these sizes for the engine that `entry` is for. They are sparse files.
fn old_entries(config: &PluginsConfig, entry: &Path, sizes: &[u64]) -> Vec<PathBuf> {
    let name = entry.file_name().unwrap().to_string_lossy().into_owned();
    let (_, engine) = name.split_once('-').unwrap();
    let make = |(index, size): (usize, &u64)| {
        let path = config.cache_folder.join(format!("old{index}-{engine}"));
        let file = File::create(&path).unwrap();
        file.set_len(*size).unwrap();
        // The first is the oldest.
        let age = Duration::from_secs(10_000 - index as u64);
        file.set_modified(SystemTime::now() - age).unwrap();
        path
    };
    sizes.iter().enumerate().map(make).collect()
}

/// Returns which of these entries are left after a running host has compiled another version of the plugin.
async fn left_after_a_swap(sizes: &[u64]) -> Vec<usize> {
    let (_data, config) = folder_with_a_plugin();
    let world = World::open(config.clone()).await;
    let first = entry(&config);
    let old = old_entries(&config, &first, sizes);
    let newer = guest("acme").version("2.0.0").build();
    fs::write(config.folder.join("acme.wasm"), newer).unwrap();
    eventually("the new one serves", async || {
        world.plugin("acme").tag() == "acme@2.0.0"
    })
    .await;
    assert!(first.exists(), "what served before is younger");
    let is_left = |index: &usize| old[*index].exists();
    (0..old.len()).filter(is_left).collect()
}

#[tokio::test]
async fn a_host_that_runs_keeps_a_bounded_number_of_entries() {
    // With the plugin's own two entries, two are too many.
    assert_eq!(left_after_a_swap(&[1; 150]).await, (2..150).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_host_that_runs_keeps_a_bounded_number_of_bytes() {
    const HALF: u64 = 512 << 20;
    // The plugin's two entries and one half fit into the limit, the other half does not.
    assert_eq!(left_after_a_swap(&[1, HALF, HALF]).await, [2]);
}
