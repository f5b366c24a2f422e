//! Two runs of one delivery give the same bytes, in guests in other languages that ask for the time and for randomness.

use std::{fs, path::PathBuf, sync::Arc};

use event::Timestamp;
use host::{
    cases::{self, Case, Reading},
    plugin::{Limits, Plugin, Plugins},
};
use integration_tests::guests;
use serde_json::{Value, json};

/// When the deliveries are received: long ago, so that no real clock can give this time.
const RECEIVED: &str = "2026-01-10T12:00:00.250Z";

#[tokio::test]
#[ignore = "needs guests that `cargo xtask test` builds"]
async fn two_runs_of_one_delivery_give_the_same_bytes() {
    let files = fs::read_dir(guests()).expect("the guests can be listed");
    let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("a guest").path()).collect();
    files.sort();
    let names: Vec<_> = files.iter().filter_map(|file| file.file_name()).collect();
    assert_eq!(names, ["repeatable.javascript.wasm", "repeatable.python.wasm"]);
    for file in files {
        let plugin = Plugins::load_file(&file, &Limits::default())
            .unwrap_or_else(|error| panic!("`{}`: {error}", file.display()));
        let first = metadata(&plugin, "one").await;
        assert_eq!(first, metadata(&plugin, "one").await, "{}", file.display());
        let received: Timestamp = RECEIVED.parse().expect("a time");
        assert_eq!(
            first["clock"],
            received.as_millis().to_string(),
            "{}",
            file.display()
        );
        // Randomness is derived from the delivery: another one has other numbers, at the same time of receipt.
        let other = metadata(&plugin, "two").await;
        assert_ne!(first["random"], other["random"], "{}", file.display());
        assert_eq!(first["clock"], other["clock"]);
    }
}

/// Returns what the guest found out, which it reports as metadata of its only event.
async fn metadata(plugin: &Arc<Plugin>, body: &str) -> Value {
    let case = json!({ "provider": "repeatable", "now": RECEIVED, "request": { "body": body } });
    let case = Case::from_json(case.to_string().as_bytes()).expect("a case");
    let now = RECEIVED.parse().expect("a time");
    let reading = cases::normalize_one(plugin, &case, now)
        .await
        .expect("the guest answers");
    let Reading::Accepted { events, .. } = reading else {
        panic!("{reading:?}")
    };
    events[0]["metadata"].clone()
}
