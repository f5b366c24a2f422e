//! Plugins that are swapped while deliveries keep coming in.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sendflowr_host::plugin::Plugin;
use store::{bus::header, testing::eventually};
use tokio::{task::JoinSet, time};

use crate::{Host, guest::guest, lines};

const SWAPS: usize = 10;

/// More than a plugin's slots on a small machine, so that some deliveries wait while the plugin changes.
const SENDERS: usize = 8;

fn tag(swap: usize) -> String {
    format!("acme@1.0.{swap}")
}

/// Counts the deliveries on the bus by the plugin that read them. The guest's event identifies nobody, so each delivery
/// leaves one dead letter.
fn by_plugin(host: &Host) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in host.bus.appends().into_iter().flatten() {
        *counts.entry(record.headers[header::PLUGIN].clone()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_and_a_rollback_under_load_lose_nothing_and_leave_nothing_behind() {
    let version = |swap: usize| guest("acme").version(&format!("1.0.{swap}")).build();
    let host = Arc::new(Host::open(guest("acme")).await);
    let file = host._data.path().join("plugins/acme.wasm");
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (host, stop) = (Arc::clone(&host), Arc::clone(&stop));
        senders.spawn(async move {
            let mut taken = 0;
            while !stop.load(Ordering::Relaxed) {
                let answer = host.post("/webhooks/acme", "x").await;
                assert_eq!(answer.status, 200, "{answer:?}");
                taken += 1;
            }
            taken
        });
    }
    // The last swap puts the first file back.
    for swap in (1..=SWAPS).chain([0]) {
        let serving = host.intake.plugins().get("acme").unwrap();
        let old: Weak<Plugin> = Arc::downgrade(&serving);
        drop(serving);
        let before = by_plugin(&host).get(&tag(swap)).copied().unwrap_or_default();
        let beside = file.with_extension("part");
        std::fs::write(&beside, version(swap)).unwrap();
        std::fs::rename(&beside, &file).unwrap();
        eventually("the new version reads deliveries", async || {
            by_plugin(&host)
                .get(&tag(swap))
                .is_some_and(|count| *count > before)
        })
        .await;
        // The compiled code goes with the plugin: nothing else holds it.
        eventually("the old version is dropped with its last delivery", async || {
            old.strong_count() == 0
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let taken: usize = senders.join_all().await.into_iter().sum();
    let by_plugin = by_plugin(&host);
    assert_eq!(by_plugin.values().sum::<usize>(), taken, "{by_plugin:?}");
    let served: Vec<_> = by_plugin.keys().cloned().collect();
    let mut versions: Vec<_> = (0..=SWAPS).map(tag).collect();
    versions.sort();
    assert_eq!(served, versions);
}

#[tokio::test]
async fn accounts_that_lose_their_plugin_are_named_in_the_log() {
    lines::keep();
    let accounts = "[orphan.eu]\ntoken = 'x'\n[never.eu]\ntoken = 'x'";
    let host = Host::start(&[guest("orphan")], "", accounts).await;
    let warned = |provider: &str| {
        let lines = lines::of(provider);
        let warning = format!("`{provider}` has accounts, but no plugin serves it: ");
        lines.iter().filter(|line| line.starts_with(&warning)).count()
    };
    eventually("the one without a plugin from the start is named", async || {
        warned("never") == 1
    })
    .await;
    assert_eq!(warned("orphan"), 0);
    // Another plugin is copied over its file.
    let file = host._data.path().join("plugins/orphan.wasm");
    std::fs::write(&file, guest("heir").build()).unwrap();
    eventually("the other one is named too", async || warned("orphan") == 1).await;
    assert_eq!(host.post("/webhooks/orphan/eu", "x").await.code(), "no_plugin");
    std::fs::write(&file, guest("orphan").build()).unwrap();
    eventually("its plugin is back", async || {
        host.intake.plugins().get("orphan").is_some()
    })
    .await;
    time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!((warned("orphan"), warned("never")), (1, 1), "once each");
}
