//! The folder is watched: files that are added, changed, broken or removed take effect automatically.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::{ffi::OsStrExt, fs::symlink},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sendflowr_host::{
    DEFAULT_ACCOUNT,
    plugin::{Limits, LoadError, PluginError, PluginState, Plugins},
};
use serde_json::json;

use super::{
    World, deliver, eventually, gallery::branches_and_variables, guest::guest, is_loading, rename_into,
    request,
};

/// From the end of the copy to being served, including compiling a small plugin.
const SOON: Duration = Duration::from_secs(1);

fn version(version: &str) -> Vec<u8> {
    guest("acme").version(version).build()
}

fn serves(world: &World, tag: &str) -> bool {
    world
        .plugins
        .get("acme")
        .is_some_and(|plugin| plugin.tag() == tag)
}

#[tokio::test]
async fn a_file_that_is_dropped_in_is_served_and_one_that_is_removed_is_gone() {
    let world = World::alone(&[]).await;
    assert!(world.plugins.get("acme").is_none());
    fs::write(world.path("acme.wasm"), version("1.0.0")).unwrap();
    let took = eventually("it serves", async || serves(&world, "acme@1.0.0")).await;
    assert!(took < SOON, "{took:?}");
    assert_eq!(world.deliver("acme").await.unwrap(), 1);
    assert!(world.metrics().contains("plugin=\"acme\""));

    fs::remove_file(world.path("acme.wasm")).unwrap();
    let took = eventually("it is gone", async || world.plugins.get("acme").is_none()).await;
    assert!(took < 2 * SOON, "{took:?}");
    assert!(world.plugins.status().is_empty());
    assert!(!world.metrics().contains("plugin=\"acme\""));
}

#[tokio::test]
async fn a_slow_copy_is_served_when_it_is_whole() {
    let world = World::with(&[]).await;
    let bytes = version("1.0.0");
    let mut file = File::create(world.path("acme.wasm")).unwrap();
    for part in bytes.chunks(bytes.len().div_ceil(8)) {
        file.write_all(part).unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(
            world
                .plugins
                .status()
                .iter()
                .all(|status| status.problem.is_none()),
            "half a file is not judged"
        );
    }
    eventually("it serves", async || serves(&world, "acme@1.0.0")).await;
}

#[tokio::test]
async fn a_copy_that_stalls_is_refused_and_then_served() {
    let world = World::with(&[]).await;
    let bytes = version("1.0.0");
    let mut file = File::create(world.path("acme.wasm")).unwrap();
    file.write_all(&bytes[..100]).unwrap();
    eventually("half a file is refused", async || {
        let status = world.plugins.status();
        status.iter().any(|status| status.state == PluginState::Refused)
    })
    .await;
    assert!(
        world
            .problem("acme.wasm")
            .contains("is not a WebAssembly component")
    );
    file.write_all(&bytes[100..]).unwrap();
    eventually("it serves", async || serves(&world, "acme@1.0.0")).await;
    assert_eq!(world.status("acme.wasm").problem, None);
}

#[tokio::test]
async fn a_delivery_ends_on_the_plugin_that_it_began_with() {
    let world = World::with(&[("acme.wasm", version("1.0.0"))]).await;
    let old = world.plugin("acme");
    let (guest, _) = old
        .instantiate(DEFAULT_ACCOUNT)
        .await
        .unwrap()
        .authenticate(request(b""))
        .await
        .unwrap();
    let mut newer = guest_with_events(3);
    newer = newer.version("2.0.0");
    fs::write(world.path("acme.wasm"), newer.build()).unwrap();
    eventually("the new one serves", async || serves(&world, "acme@2.0.0")).await;
    let outcome = guest.normalize(request(b"")).await.unwrap().unwrap();
    let sendflowr_host::plugin::types::Outcome::Events(batch) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(batch.events.len(), 1, "the old one answers");
    assert_eq!(world.deliver("acme").await.unwrap(), 3);
    assert_eq!(
        world.metric("sendflowr_plugin_deliveries_total{plugin=\"acme\"}"),
        2,
        "counted on"
    );
}

fn guest_with_events(events: u32) -> super::guest::Guest {
    let mut plugin = guest("acme");
    plugin.events = events;
    plugin
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_delivery_fails_while_plugins_are_swapped() {
    let world = Arc::new(World::with(&[("acme.wasm", version("1.0.0"))]).await);
    let stop = Arc::new(AtomicBool::new(false));
    let delivered = Arc::new(AtomicUsize::new(0));
    let mut senders = Vec::new();
    for _ in 0..4 {
        let (world, stop, delivered) = (Arc::clone(&world), Arc::clone(&stop), Arc::clone(&delivered));
        senders.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let plugin = world.plugins.get("acme").expect("served all the time");
                assert_eq!(deliver(&plugin, b"").await.unwrap(), 1);
                delivered.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for round in 1..=6 {
        let tag = format!("acme@1.0.{round}");
        let bytes = version(&format!("1.0.{round}"));
        if round % 2 == 0 {
            fs::write(world.path("acme.wasm"), bytes).unwrap();
        } else {
            rename_into(&world.path("acme.wasm"), &bytes);
        }
        let before = delivered.load(Ordering::Relaxed);
        eventually("the next one serves", async || serves(&world, &tag)).await;
        eventually("deliveries go on", async || {
            delivered.load(Ordering::Relaxed) > before
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.unwrap();
    }
}

#[tokio::test]
async fn a_bad_file_is_reported_and_the_old_one_serves_on() {
    let world = World::with(&[("acme.wasm", version("1.0.0"))]).await;
    fs::write(world.path("acme.wasm"), "broken").unwrap();
    eventually("the bad file is reported", async || {
        world.status("acme.wasm").problem.is_some()
    })
    .await;
    let status = world.status("acme.wasm");
    assert_eq!(status.state, PluginState::Serving);
    assert_eq!(status.plugin.unwrap().version, "1.0.0");
    assert_eq!(world.deliver("acme").await.unwrap(), 1);

    fs::write(world.path("acme.wasm"), version("1.0.1")).unwrap();
    eventually("the good file serves", async || serves(&world, "acme@1.0.1")).await;
    assert_eq!(world.status("acme.wasm").problem, None);
}

/// Asserts that the file is refused because the owner serves the slug `acme`.
#[track_caller]
fn assert_second(world: &World, file: &str, owner: &str) {
    assert_eq!(
        world.problem(file),
        format!(
            "`{file}` claims the slug `acme`, which `{owner}` serves already; remove one of the two files"
        )
    );
}

#[tokio::test]
async fn a_slug_belongs_to_the_file_that_serves_it() {
    let world = World::with(&[
        ("first.wasm", version("1.0.0")),
        ("second.wasm", version("2.0.0")),
    ])
    .await;
    assert!(serves(&world, "acme@1.0.0"));
    assert_second(&world, "second.wasm", "first.wasm");
    assert_eq!(world.status("second.wasm").state, PluginState::Refused);
    fs::remove_file(world.path("first.wasm")).unwrap();
    eventually("the second takes over", async || serves(&world, "acme@2.0.0")).await;
    assert_eq!(world.status("second.wasm").problem, None);
}

#[tokio::test]
async fn of_two_files_the_one_named_after_the_slug_has_it_from_the_start() {
    let world = World::with(&[
        ("a-stranger.wasm", version("6.6.6")),
        ("acme.wasm", version("1.0.0")),
    ])
    .await;
    assert!(serves(&world, "acme@1.0.0"));
    assert_second(&world, "a-stranger.wasm", "acme.wasm");
    assert_eq!(world.status("a-stranger.wasm").state, PluginState::Refused);
    assert_eq!(world.status("acme.wasm").problem, None);
}

#[tokio::test]
async fn the_file_named_after_the_slug_has_it_again_when_it_comes_back() {
    let world = World::with(&[
        ("a-stranger.wasm", version("6.6.6")),
        ("acme.wasm", version("1.0.0")),
    ])
    .await;
    fs::remove_file(world.path("acme.wasm")).unwrap();
    eventually("the other takes over", async || serves(&world, "acme@6.6.6")).await;
    // The same bytes: a copy that serves may be changed later, so the file that was meant is the one that counts.
    fs::write(world.path("a-stranger.wasm"), version("1.0.0")).unwrap();
    eventually("the other serves the same", async || serves(&world, "acme@1.0.0")).await;
    fs::write(world.path("acme.wasm"), version("1.0.0")).unwrap();
    eventually("it is back", async || {
        world
            .plugins
            .status()
            .iter()
            .any(|status| status.file == "acme.wasm" && status.plugin.is_some())
    })
    .await;
    assert_eq!(world.status("a-stranger.wasm").state, PluginState::Refused);
    fs::write(world.path("a-stranger.wasm"), version("6.6.7")).unwrap();
    eventually("what the other became is refused", async || {
        world.status("a-stranger.wasm").problem.is_some()
    })
    .await;
    assert!(serves(&world, "acme@1.0.0"));
}

#[tokio::test]
async fn a_file_that_takes_to_claiming_anothers_slug_keeps_its_own() {
    let world = World::with(&[
        ("acme.wasm", version("1.0.0")),
        ("other.wasm", guest("other").build()),
    ])
    .await;
    fs::write(world.path("other.wasm"), version("6.6.6")).unwrap();
    eventually("the claim is refused", async || {
        world.status("other.wasm").problem.is_some()
    })
    .await;
    assert_second(&world, "other.wasm", "acme.wasm");
    assert!(serves(&world, "acme@1.0.0"));
    assert_eq!(world.deliver("acme").await.unwrap(), 1);
    assert_eq!(world.deliver("other").await.unwrap(), 1, "what it was serves on");
}

#[tokio::test]
async fn a_file_that_changes_all_the_time_is_served_once_it_rests() {
    let world = World::with(&[("healthy.wasm", guest("healthy").build())]).await;
    let path = world.path("acme.wasm");
    let (whole, half) = (version("1.0.1"), version("1.0.0")[..500].to_vec());
    fs::write(&path, &half).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Relaxed) {
                fs::write(&path, &half).unwrap();
                fs::write(&path, &whole).unwrap();
            }
        }
    });
    // Whatever is read of it meanwhile, only the complete file is served.
    for _ in 0..50 {
        assert_eq!(world.deliver("healthy").await.unwrap(), 1);
        if let Some(plugin) = world.plugins.get("acme") {
            assert_eq!(plugin.tag(), "acme@1.0.1");
            assert_eq!(deliver(&plugin, b"").await.unwrap(), 1);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    eventually("it serves", async || serves(&world, "acme@1.0.1")).await;
}

#[tokio::test]
async fn ten_thousand_files_are_reported_and_keep_nobody_waiting() {
    let names: Vec<String> = (0..10_000).map(|number| format!("{number}.wasm")).collect();
    let mut files: Vec<(&str, Vec<u8>)> = names
        .iter()
        .map(|name| (name.as_str(), b"junk".to_vec()))
        .collect();
    files.push(("zebra.wasm", guest("zebra").build()));
    let world = World::with(&files).await;
    let refused = r#"sendflowr_plugin_refused_files{reason="not_a_plugin"}"#;
    assert_eq!(world.metric(refused), 10_000);
    assert_eq!(world.deliver("zebra").await.unwrap(), 1);
    fs::write(world.path("acme.wasm"), version("1.0.0")).unwrap();
    eventually("what comes later serves", async || serves(&world, "acme@1.0.0")).await;
}

/// Returns a plugin that takes many times as long to compile as the other plugins of these tests together.
fn slow() -> Vec<u8> {
    guest("slow")
        .items(&branches_and_variables(80, 1_000).repeat(SLOW_FUNCTIONS))
        .build()
}

const SLOW_FUNCTIONS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_slow_to_compile_keeps_nobody_waiting_and_is_reported() {
    let files = [("acme.wasm", version("1.0.0"))];
    let world = World::configured(&files, |config| {
        // A small part of what eight functions take, however many cores compile them.
        config.limits.compile_time = Duration::from_secs(1);
    })
    .await;
    fs::write(world.path("a-slow.wasm"), slow()).unwrap();
    eventually("it is read before what comes next", async || {
        is_loading(&world, "a-slow.wasm")
    })
    .await;
    let shown = serde_json::to_value(world.status("a-slow.wasm")).unwrap();
    assert_eq!(shown, json!({"file": "a-slow.wasm", "state": "loading"}));
    fs::write(world.path("other.wasm"), guest("other").build()).unwrap();
    eventually("what comes later serves", async || {
        world.plugins.get("other").is_some()
    })
    .await;
    assert!(
        is_loading(&world, "a-slow.wasm"),
        "the slow one is still being compiled: {:?}",
        world.plugins.status()
    );
    assert_eq!(world.deliver("acme").await.unwrap(), 1);
    // Others are replaced and removed meanwhile.
    fs::write(world.path("acme.wasm"), version("1.0.1")).unwrap();
    eventually("the new one serves", async || serves(&world, "acme@1.0.1")).await;
    eventually("it is reported", async || !is_loading(&world, "a-slow.wasm")).await;
    assert_eq!(
        world.problem("a-slow.wasm"),
        "`a-slow.wasm` takes longer than 1 s to compile"
    );
    // The compiler continues; its result is kept, and not compiled again.
    eventually("it serves", async || world.plugins.get("slow").is_some()).await;
    assert_eq!(world.status("a-slow.wasm").problem, None);
    assert_eq!(world.metric("sendflowr_plugin_compilations_total"), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_does_not_wait_for_one_that_is_being_compiled() {
    // Half of what a starting host waits for a file: if one waited for the other, no two would be read at once.
    let world = World::configured(&[], |config| {
        config.limits.compile_time = Duration::from_secs(1);
    })
    .await;
    let functions = branches_and_variables(80, 1_000).repeat(2);
    for slug in ["one", "two"] {
        let bytes = guest(slug).items(&functions).build();
        fs::write(world.path(&format!("{slug}.wasm")), bytes).unwrap();
    }
    eventually("both are being compiled", async || {
        is_loading(&world, "one.wasm") && is_loading(&world, "two.wasm")
    })
    .await;
    eventually("both serve", async || world.plugins.slugs() == ["one", "two"]).await;
}

#[tokio::test]
async fn a_file_is_taken_while_deliveries_have_all_slots_and_takes_none_of_them() {
    let world = World::configured(&[("acme.wasm", version("1.0.0"))], |config| {
        config.limits.total_concurrency = 1;
    })
    .await;
    let (held, _) = world
        .plugin("acme")
        .instantiate(DEFAULT_ACCOUNT)
        .await
        .unwrap()
        .authenticate(request(b""))
        .await
        .unwrap();
    fs::write(world.path("other.wasm"), guest("other").build()).unwrap();
    eventually("it serves", async || world.plugins.get("other").is_some()).await;
    held.normalize(request(b"")).await.unwrap().unwrap();
    assert_eq!(world.deliver("other").await.unwrap(), 1);
}

#[tokio::test]
async fn renaming_a_file_leaves_no_gap() {
    let world = World::with(&[("old.wasm", version("1.0.0"))]).await;
    fs::rename(world.path("old.wasm"), world.path("new.wasm")).unwrap();
    let moved = || {
        world
            .plugins
            .status()
            .iter()
            .any(|status| status.file == "new.wasm" && status.plugin.is_some())
    };
    eventually("the new name serves", async || {
        assert!(world.plugins.get("acme").is_some(), "no gap");
        moved()
    })
    .await;
    eventually("the old name is gone", async || world.plugins.status().len() == 1).await;
    assert!(serves(&world, "acme@1.0.0"));
}

#[tokio::test]
async fn a_file_may_change_its_slug() {
    let world = World::with(&[("acme.wasm", version("1.0.0"))]).await;
    fs::write(world.path("acme.wasm"), guest("other").build()).unwrap();
    eventually("the new slug serves", async || world.plugins.slugs() == ["other"]).await;
    assert!(!world.metrics().contains("plugin=\"acme\""));
}

#[tokio::test]
async fn touching_a_file_changes_nothing() {
    let world = World::with(&[("acme.wasm", version("1.0.0"))]).await;
    let before = world.plugin("acme");
    fs::write(world.path("acme.wasm"), version("1.0.0")).unwrap();
    fs::write(world.path("later.wasm"), guest("later").build()).unwrap();
    eventually("what came later serves", async || {
        world.plugins.get("later").is_some()
    })
    .await;
    assert!(Arc::ptr_eq(&before, &world.plugin("acme")));
}

#[tokio::test]
async fn odd_names_and_links_are_served_and_other_files_left_alone() {
    let data = tempfile::TempDir::new().unwrap();
    let outside = data.path().join("release-7");
    fs::write(&outside, version("1.0.0")).unwrap();
    let world = World::with(&[
        ("späte Post (1).wasm", guest("late").build()),
        (".acme.wasm.swp", b"x".to_vec()),
        (".hidden.wasm", b"x".to_vec()),
        ("README.md", b"x".to_vec()),
        ("acme.wasm.part", b"x".to_vec()),
    ])
    .await;
    let odd = world.config.folder.join(OsStr::from_bytes(b"\xff\n.wasm"));
    fs::write(odd, guest("odd").build()).unwrap();
    symlink(&outside, world.path("acme.wasm")).unwrap();
    eventually("all serve", async || {
        world.plugins.slugs() == ["acme", "late", "odd"]
    })
    .await;
    let files: Vec<String> = world
        .plugins
        .status()
        .into_iter()
        .map(|status| status.file)
        .collect();
    assert_eq!(
        files,
        ["acme.wasm", "späte Post (1).wasm", "\u{fffd}\u{fffd}.wasm"]
    );

    // The link's target is replaced elsewhere, where nothing is watched.
    rename_into(&outside, &version("1.0.1"));
    eventually("the new target serves", async || serves(&world, "acme@1.0.1")).await;
}

#[tokio::test]
async fn a_folder_that_is_replaced_is_still_watched() {
    let world = World::with(&[("acme.wasm", version("1.0.0"))]).await;
    fs::remove_dir_all(&world.config.folder).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(
        serves(&world, "acme@1.0.0"),
        "a folder that cannot be read says nothing about its files"
    );
    fs::create_dir(&world.config.folder).unwrap();
    fs::write(world.path("acme.wasm"), version("1.0.1")).unwrap();
    eventually("the new file serves", async || serves(&world, "acme@1.0.1")).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_is_shown_until_it_can() {
    let world = World::with(&[("acme.wasm", version("1.0.0"))]).await;
    let refused = r#"sendflowr_plugin_refused_files{reason="unreadable"}"#;
    assert_eq!(world.metric(refused), 0);
    let away = world.config.folder.with_extension("away");
    fs::rename(&world.config.folder, &away).unwrap();
    eventually("it is counted", async || world.metric(refused) == 1).await;
    let problem = world.problem("plugins");
    assert!(
        problem.starts_with("the plugin folder cannot be read (No such file"),
        "{problem}"
    );
    assert_eq!(world.status("plugins").state, PluginState::Refused);
    assert!(serves(&world, "acme@1.0.0"));
    fs::rename(&away, &world.config.folder).unwrap();
    eventually("it is not counted any more", async || world.metric(refused) == 0).await;
    assert_eq!(world.plugins.status().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_removed_while_it_was_compiled_does_not_come_back_in_another_s_place() {
    let world = World::with(&[]).await;
    let functions = branches_and_variables(80, 1_000).repeat(4);
    let removed = guest("acme").version("6.6.6").items(&functions).build();
    fs::write(world.path("acme.wasm"), removed).unwrap();
    eventually("it is being compiled", async || is_loading(&world, "acme.wasm")).await;
    fs::remove_file(world.path("acme.wasm")).unwrap();
    eventually("it is not shown any more", async || {
        world.plugins.status().is_empty()
    })
    .await;
    // So long that it is forgotten.
    tokio::time::sleep(2 * SOON).await;
    assert_eq!(
        world.metric("sendflowr_plugin_compilations_total"),
        0,
        "it is still being compiled"
    );
    fs::write(world.path("acme.wasm"), version("1.0.0")).unwrap();
    let never = || assert!(!serves(&world, "acme@6.6.6"), "what was removed serves");
    eventually("both are compiled", async || {
        never();
        world.metric("sendflowr_plugin_compilations_total") == 2
    })
    .await;
    fs::write(world.path("other.wasm"), guest("other").build()).unwrap();
    eventually("what came last serves", async || {
        never();
        serves(&world, "acme@1.0.0") && world.plugins.get("other").is_some()
    })
    .await;
}

#[tokio::test]
async fn one_file_is_loaded_without_a_folder() {
    let data = tempfile::TempDir::new().unwrap();
    let path = data.path().join("acme.wasm");
    fs::write(&path, version("1.2.3")).unwrap();
    let plugin = Plugins::load_file(&path, &Limits::default()).unwrap();
    assert_eq!(plugin.tag(), "acme@1.2.3");
    assert_eq!(deliver(&plugin, b"").await.unwrap(), 1);

    fs::write(&path, "broken").unwrap();
    let error = Plugins::load_file(&path, &Limits::default()).unwrap_err();
    assert!(
        matches!(error, PluginError::Load(LoadError::NotWebAssembly(_))),
        "{error}"
    );
}

#[tokio::test]
async fn status_tells_what_a_plugin_is_and_does() {
    let world = World::with(&[("acme.wasm", version("1.0.0"))]).await;
    world.deliver("acme").await.unwrap();
    let status = serde_json::to_value(world.status("acme.wasm")).unwrap();
    assert_eq!(status["file"], "acme.wasm");
    assert_eq!(status["state"], "serving");
    assert_eq!(status["slug"], "acme");
    assert_eq!(status["version"], "1.0.0");
    assert_eq!(status["contract"], "1.0");
    assert_eq!(status["digest"].as_str().unwrap().len(), 64);
    assert_eq!(status["deliveries"], 1);
    assert_eq!(status["events"], 1);
    assert!(status["p50_us"].as_u64().unwrap() <= status["p99_us"].as_u64().unwrap());
    // Two pages.
    assert_eq!(status["memory_peak_bytes"], 131_072);
}
