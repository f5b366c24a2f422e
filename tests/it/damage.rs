//! Sends damaged deliveries of every provider through the compiled plugins, behind the host's limits.
//!
//! Instructions are counted instead of time: they are the same on every machine and in every run.

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
        types::{Batch, EventType, Outcome, Request},
    },
};
use integration_tests::{plugins, repository};
use sendflowr_plugin_testing::damage::Damage;

/// Damaged copies of each delivery: enough to hit each field of the samples several times.
const COPIES: usize = 150;

/// A damaged delivery may take this many times the instructions of the undamaged one.
const MORE_AT_MOST: u64 = 10;

/// The number of instructions that a delivery may take in any case, as many as a few events take: damage can make a small
/// delivery several times as expensive to read (hundreds of nested brackets).
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

/// Returns what is wrong with a provider's plugin, one line for each fault.
fn check(folder: &Path) -> String {
    let mut found = String::new();
    let mut plugin: Option<Arc<Plugin>> = None;
    let mut deliveries = Vec::new();
    let files = fs::read_dir(folder).expect("the cases can be listed");
    let mut files: Vec<PathBuf> = files
        .map(|file| file.expect("the cases can be listed").path())
        .collect();
    // Sorted, so that every machine makes the same copies.
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
    // A delivery that is refused at its first byte is not a standard for a copy that is read to its end.
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

/// Returns the number of instructions that the delivery takes, or what is wrong with the outcome.
fn instructions(plugin: &Plugin, request: &Arc<Request>) -> Result<u64, String> {
    let measured = plugin.measure(request).map_err(|error| error.to_string())?;
    if let Ok(Outcome::Events(batch)) = &measured.outcome {
        sound(batch)?;
    }
    measured
        .instructions
        .ok_or_else(|| "instructions were not counted".to_owned())
}

/// The contract guarantees that an event has a type and a time, but the time can be out of range and an identity empty. Only
/// reports on the way of a message may name nothing but the message: what a person did, an opt-out above all, must not be
/// nobody's.
fn sound(batch: &Batch) -> Result<(), String> {
    for event in &batch.events {
        let is_report = matches!(
            event.event_type,
            EventType::Sent
                | EventType::Delivered
                | EventType::Deferred
                | EventType::Bounced
                | EventType::Rejected
        );
        let message = event.message_id.iter().filter(|_| is_report);
        let people = event.identifiers.iter().map(|identifier| &identifier.value);
        let mut names = event.recipient_email.iter().chain(people).chain(message);
        // Whether the value is a valid address is for the host to judge.
        if names.all(|name| name.trim().is_empty()) {
            return Err(format!(
                "event {} ({:?}) is about nobody",
                event.index, event.event_type
            ));
        }
        if event.timestamp_ms < 0 || Timestamp::try_from_millis(event.timestamp_ms).is_none() {
            return Err(format!("event {} has no time", event.index));
        }
    }
    Ok(())
}
