//! Runs every target on its seeds and on changes of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use fuzz_targets::{
    TARGETS,
    mutate::{Numbers, changed},
    outcomes, webhooks,
};

/// Returns the seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folders = match target {
        // The golden plugins, which are not stored a second time.
        "components" => folders(&root.join("tests/golden")),
        _ => vec![root.join("fuzz/seeds").join(target)],
    };
    let mut paths = Vec::new();
    for folder in folders {
        paths.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    paths.retain(|path| path.is_file());
    paths.sort();
    assert!(paths.len() > 1, "`{target}` has no seeds");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| path.is_dir());
    paths
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = seeds(name);
    for seed in &seeds {
        (target.run)(seed);
    }
    (target.run)(b"");
    // `SENDFLOWR_FUZZ_CHANGES` sets another number of changes, `SENDFLOWR_FUZZ_SEED` another start.
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse().unwrap());
    let changes = setting("SENDFLOWR_FUZZ_CHANGES").unwrap_or(target.changes as u64);
    let first = setting("SENDFLOWR_FUZZ_SEED").unwrap_or(0);
    for number in first..first + changes {
        let mut numbers = Numbers::new(number);
        let (seed, other) = (numbers.below(seeds.len()), numbers.below(seeds.len()));
        let bytes = changed(&seeds[seed], &seeds[other], &mut numbers);
        let panicked = std::panic::catch_unwind(|| (target.run)(&bytes)).is_err();
        assert!(
            !panicked,
            "`{name}` fails on change {number}: {:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(4_000)])
        );
    }
}

/// A seed that is refused early would not exercise the code behind that check.
#[test]
fn seeds_reach_what_they_are_for() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds");
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    for (name, status, part) in [
        ("one-event-old", 200, r#""rejected":1"#),
        ("one-event-new", 200, r#""rejected":1"#),
        ("person-old", 200, r#""accepted":1"#),
        ("skipped-and-rejected", 200, r#""skipped":1,"rejected":1"#),
        ("reply", 200, "hi"),
        ("confirm", 401, "confirmation_refused"),
        ("malformed", 400, "text"),
        ("no-proofs", 200, r#""rejected":1"#),
        ("fresh", 401, "timestamp_stale"),
    ] {
        let (given, text) = outcomes::answer(&read(&format!("outcomes/{name}"))).unwrap();
        assert!(given == status && text.contains(part), "{name}: {given} {text}");
    }
    for (name, status, part) in [
        ("mandrill-send-deferral-bounces", 200, r#""accepted""#),
        ("sendgrid-unsigned", 200, r#""accepted":2"#),
        ("mailgun-unsigned", 200, r#""accepted":1"#),
        ("sendgrid-tampered-body", 401, "signature"),
        ("gzip", 200, r#""accepted":0"#),
        ("no-provider", 404, "unknown_provider"),
    ] {
        let (given, text) = webhooks::answer(&read(&format!("webhooks/{name}"))).unwrap();
        assert!(given == status && text.contains(part), "{name}: {given} {text}");
    }
}

#[test]
fn json() {
    run("json");
}

#[test]
fn forms() {
    run("forms");
}

#[test]
fn proofs() {
    run("proofs");
}

#[test]
fn components() {
    run("components");
}

#[test]
fn outcomes() {
    run("outcomes");
}

#[test]
fn webhooks() {
    run("webhooks");
}
