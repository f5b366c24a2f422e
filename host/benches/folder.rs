//! Measures what many plugins cost a host: the time to load fifty components of real size, cold and from the compiled
//! cache, and the memory of the idle process with ten and with fifty of them.
//!
//! Needs the compiled plugins: `cargo xtask plugins`, then `cargo bench -p sendflowr-host --bench folder`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking and reports by printing"
)]

use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus_client::registry::Registry;
use sendflowr_host::plugin::{PluginMetrics, Plugins, PluginsConfig, RawPluginsConfig, types::Request};
use tempfile::TempDir;

const FEW: usize = 10;
const MANY: usize = 50;

/// Number of starts from the cache; the target is about the fastest, the slowest shows the noise.
const STARTS: usize = 5;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    // Memory is measured in separate processes: what another start has left behind must not count.
    if let [_, load, folder, cache] = arguments.as_slice()
        && load == "--load"
    {
        println!("{}", load_folder(Path::new(folder), Path::new(cache)));
        return;
    }
    let data = TempDir::new().unwrap();
    let (few, many) = (data.path().join("few"), data.path().join("many"));
    let cache = data.path().join("compiled");
    for (folder, count) in [(&few, FEW), (&many, MANY)] {
        fs::create_dir(folder).unwrap();
        for (slug, bytes) in variants().into_iter().take(count) {
            fs::write(folder.join(format!("{slug}.wasm")), bytes).unwrap();
        }
    }
    let start = |folder: &Path| -> Vec<f64> {
        let output = Command::new(env::current_exe().unwrap())
            .arg("--load")
            .args([folder, &cache])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let told = String::from_utf8(output.stdout).unwrap();
        told.split_whitespace()
            .map(|figure| figure.parse().unwrap())
            .collect()
    };
    let cold = start(&many)[0];
    println!("{MANY} plugins, compiled: {cold:.0} ms");
    let starts: Vec<Vec<f64>> = (0..STARTS).map(|_| start(&many)).collect();
    let mut times: Vec<f64> = starts.iter().map(|start| start[0]).collect();
    times.sort_by(f64::total_cmp);
    println!(
        "{MANY} plugins, from the cache: {:.0} ms (median {:.0}, slowest {:.0})",
        times[0],
        times[STARTS / 2],
        times[STARTS - 1]
    );
    let (fewer, more) = (start(&few), &starts[0]);
    for (state, at) in [("loaded", 1), ("after a delivery each", 2)] {
        let growth = (more[at] - fewer[at]) / (MANY - FEW) as f64;
        println!(
            "{state}: {:.1} MiB with {FEW}, {:.1} MiB with {MANY}, {growth:.2} MiB for each further one",
            fewer[at], more[at]
        );
    }
}

/// Returns the providers' plugins under other slugs of the same length. Slugs of six letters and more occur in the
/// files only as slugs; Klaviyo's occurs in the contract too.
fn variants() -> Vec<(String, Vec<u8>)> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/plugins");
    let entries = fs::read_dir(&built)
        .unwrap_or_else(|error| panic!("`{}`: {error}; run `cargo xtask plugins` first", built.display()));
    let mut originals: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .map(|path| {
            (
                path.file_stem().unwrap().to_str().unwrap().to_owned(),
                fs::read(&path).unwrap(),
            )
        })
        .filter(|(slug, _)| slug.len() >= 6 && slug != "klaviyo")
        .collect();
    originals.sort();
    let mut made = Vec::new();
    for digit in b'0'..=b'9' {
        for (slug, bytes) in &originals {
            let mut other = slug.clone().into_bytes();
            *other.last_mut().unwrap() = digit;
            let mut bytes = bytes.clone();
            for at in 0..bytes.len() - slug.len() {
                if bytes[at..].starts_with(slug.as_bytes()) {
                    bytes[at..at + slug.len()].copy_from_slice(&other);
                }
            }
            made.push((String::from_utf8(other).unwrap(), bytes));
        }
    }
    made
}

/// Returns the milliseconds to load the folder, and the MiB of the process then and after one delivery through each plugin.
fn load_folder(folder: &Path, cache: &Path) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let raw = RawPluginsConfig {
        folder: Some(folder.to_owned()),
        cache_folder: Some(cache.to_owned()),
        ..RawPluginsConfig::default()
    };
    let config = PluginsConfig::try_new(raw, cache).unwrap();
    let metrics = PluginMetrics::register(&mut Registry::default());
    let began = Instant::now();
    let plugins = runtime.block_on(Plugins::open(config, metrics)).unwrap();
    let took: Duration = began.elapsed();
    let files = fs::read_dir(folder).unwrap().count();
    let refused: Vec<_> = plugins
        .status()
        .into_iter()
        .filter_map(|status| status.problem)
        .collect();
    assert_eq!((plugins.slugs().len(), refused), (files, Vec::new()));
    let loaded = resident_mib();
    let request = Arc::new(Request {
        method: "POST".to_owned(),
        path: "/webhooks/test".to_owned(),
        query: String::new(),
        headers: Vec::new(),
        body: b"[]".to_vec(),
        received_at_ms: 1_760_000_000_000,
        settings: Vec::new(),
        secrets: Vec::new(),
    });
    for slug in plugins.slugs() {
        // Whether it understands the delivery does not matter.
        plugins.get(&slug).unwrap().measure(&request).unwrap();
    }
    format!(
        "{:.1} {loaded:.2} {:.2}",
        took.as_secs_f64() * 1e3,
        resident_mib()
    )
}

fn resident_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024.0
}
