//! Every target, on its seeds and on changes of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use fuzz_targets::{
    TARGETS,
    mutate::{Numbers, changed},
};

/// What a target begins with, in the order of the names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folders = match target {
        // Plugins that were built for good, which need no second copy.
        "components" => vec![root.join("tests/golden/1.0.0"), root.join("tests/golden/1.1.0")],
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

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = seeds(name);
    for seed in &seeds {
        (target.run)(seed);
    }
    (target.run)(b"");
    // More by `SENDFLOWR_FUZZ_CHANGES`, beginning elsewhere by `SENDFLOWR_FUZZ_SEED`.
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
