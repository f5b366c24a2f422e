//! Damaged deliveries of every provider through the compiled plugins, behind the host's fences.
//!
//! Instructions stand for time: they are the same on every machine and every run.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use event::Timestamp;
use host::{
    cases::{self, Case},
    plugin::{
        Limits, Plugin, Plugins,
        types::{Batch, Outcome, Request},
    },
};
use integration_tests::{plugins, repository};
use sendflowr_plugin_testing::damage::Damage;

/// Damaged copies of each delivery: each field of the samples is met several times.
const COPIES: usize = 150;

/// A damaged delivery may take this many times the instructions of the whole one.
const MORE_AT_MOST: u64 = 10;

/// What a delivery may take in any case, as much as a few events: of a small one, damage can make several times as much to
/// read (hundreds of nested brackets).
const FLOOR: u64 = 150_000;

#[test]
fn damaged_deliveries_never_harm() {
    let folders: Vec<PathBuf> = fs::read_dir(repository().join("plugins"))
        .expect("the plugins are there")
        .map(|entry| entry.expect("the plugins are there").path().join("cases"))
        .filter(|folder| folder.is_dir())
        .collect();
    assert!(folders.len() >= 16, "only {} providers", folders.len());
    let found = thread::scope(|scope| {
        let checks: Vec<_> = folders
            .iter()
            .map(|folder| scope.spawn(|| check(folder)))
            .collect();
        let found = checks
            .into_iter()
            .map(|check| check.join().expect("a check does not panic"));
        found.collect::<String>()
    });
    assert!(found.is_empty(), "{found}");
}

/// What is wrong with a provider's plugin, one line each.
fn check(folder: &Path) -> String {
    let mut found = String::new();
    let mut plugin: Option<Arc<Plugin>> = None;
    let mut deliveries = Vec::new();
    let files = fs::read_dir(folder).expect("the cases can be listed");
    let mut files: Vec<PathBuf> = files
        .map(|file| file.expect("the cases can be listed").path())
        .collect();
    // On every machine the same copies of each.
    files.sort();
    for (file, seed) in files.into_iter().zip(1..) {
        let bytes = fs::read(file).expect("a case is readable");
        let case = Case::from_json(&bytes).expect("a case is one");
        let plugin = plugin.get_or_insert_with(|| {
            let file = plugins().join(format!("{}.wasm", case.provider));
            Plugins::load_counting(&file, &Limits::default()).expect("a plugin loads")
        });
        let now = Timestamp::try_from_millis(1_768_046_400_000).expect("a time in range");
        let whole = Arc::new(cases::request(plugin, &case, now).expect("a case has a delivery"));
        let name = format!("{}/{}", case.provider, case.name);
        match instructions(plugin, &whole) {
            Ok(spent) => deliveries.push((name, seed, whole, spent)),
            Err(fault) => {
                let _ = writeln!(found, "{name}, undamaged: {fault}");
            }
        }
    }
    let Some(plugin) = plugin else {
        return format!("{} holds no case", folder.display());
    };
    // One that is refused at its first byte is no measure for a copy that is read to its end.
    let mut all: Vec<u64> = deliveries.iter().map(|(.., spent)| *spent).collect();
    all.sort_unstable();
    let usual = all.get(all.len() / 2).copied().unwrap_or_default();
    for (name, seed, whole, spent) in deliveries {
        let most = (spent.max(usual) * MORE_AT_MOST).max(FLOOR);
        for body in Damage::of(&whole.body, seed).take(COPIES) {
            let copy = Arc::new(Request {
                body,
                ..Request::clone(&whole)
            });
            let fault = match instructions(&plugin, &copy) {
                Err(fault) => fault,
                Ok(spent) if spent > most => format!("{spent} instructions, over {most}"),
                Ok(_) => continue,
            };
            let _ = writeln!(
                found,
                "{name}: {fault} for {}",
                String::from_utf8_lossy(&copy.body)
            );
        }
    }
    found
}

/// Instructions that the delivery takes, or what is wrong with the answer.
fn instructions(plugin: &Plugin, request: &Arc<Request>) -> Result<u64, String> {
    let measured = plugin.measure(request).map_err(|error| error.to_string())?;
    if let Ok(Outcome::Events(batch)) = &measured.outcome {
        sound(batch)?;
    }
    measured
        .instructions
        .ok_or_else(|| "instructions were not counted".to_owned())
}

/// Type and time of an event cannot be absent in the contract, but a time can be out of range and an identity empty.
fn sound(batch: &Batch) -> Result<(), String> {
    for event in &batch.events {
        let address = event.recipient_email.iter();
        let mut names = address.chain(event.identifiers.iter().map(|identifier| &identifier.value));
        // Whether what stands there is an address is the host's to judge.
        if names.all(|name| name.trim().is_empty()) {
            return Err(format!("event {} names nobody", event.index));
        }
        if event.timestamp_ms < 0 || Timestamp::try_from_millis(event.timestamp_ms).is_none() {
            return Err(format!("event {} has no time", event.index));
        }
    }
    Ok(())
}
