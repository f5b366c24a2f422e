//! Files that are not plugins, or not plugins that this host serves. Each is refused for a reason that says what to do.

use std::{fs, os::unix::fs::symlink};

use super::{
    World, eventually,
    gallery::{branches_and_variables, fickle, many_imports},
    guest::{Guest, component, guest},
};

/// Returns why this file is refused, beside a healthy one that is served.
async fn refusal(bytes: Vec<u8>) -> String {
    let world = World::with(&[("bad.wasm", bytes), ("healthy.wasm", guest("healthy").build())]).await;
    assert_eq!(world.plugins.slugs(), ["healthy"]);
    assert_eq!(world.deliver("healthy").await.unwrap(), 1);
    assert_eq!(refused_files(&world), 1);
    world.problem("bad.wasm")
}

/// Returns the number of refused files, over all reasons.
fn refused_files(world: &World) -> i64 {
    let text = world.metrics();
    let series = text
        .lines()
        .filter(|line| line.starts_with("sendflowr_plugin_refused_files{"));
    series
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<i64>().ok())
        .sum()
}

fn described(change: impl FnOnce(&mut Guest)) -> Vec<u8> {
    let mut plugin = guest("bad");
    change(&mut plugin);
    plugin.build()
}

#[tokio::test]
async fn text() {
    assert_eq!(
        refusal(b"hello".to_vec()).await,
        "`bad.wasm` is not a WebAssembly component: its magic number is wrong"
    );
    assert!(
        refusal(Vec::new())
            .await
            .contains("is not a WebAssembly component")
    );
}

#[tokio::test]
async fn half_a_component() {
    let mut bytes = guest("bad").build();
    bytes.truncate(bytes.len() / 2);
    assert!(
        refusal(bytes)
            .await
            .starts_with("`bad.wasm` is not a WebAssembly component: ")
    );
}

#[tokio::test]
async fn a_core_module() {
    assert_eq!(
        refusal(component("(module)")).await,
        "`bad.wasm` is a core WebAssembly module, not a component: convert it with `sendflowr plugin pack`"
    );
}

#[tokio::test]
async fn a_core_module_that_imports_wasi() {
    let module = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))))"#;
    assert_eq!(
        refusal(component(module)).await,
        "`bad.wasm` is a core WebAssembly module built for `wasm32-wasip1`: build for `wasm32-unknown-unknown`, or use \
         `cargo component build` or the target `wasm32-wasip2`"
    );
}

#[tokio::test]
async fn a_component_of_another_world() {
    assert_eq!(
        refusal(component("(component)")).await,
        "`bad.wasm` does not export `sendflowr:connector/plugin`, so it is not a SendFlowr plugin; it exports nothing"
    );
    let other = refusal(component(
        r#"(component (instance $i) (export "acme:other/thing@1.0.0" (instance $i)))"#,
    ))
    .await;
    assert!(other.ends_with("it exports `acme:other/thing@1.0.0`"), "{other}");
}

#[tokio::test]
async fn names_are_shown_without_what_a_terminal_would_obey() {
    let exported = r#"(component (instance $i) (export "evil\1b[2J\0aall is well" (instance $i)))"#;
    let reason = refusal(component(exported)).await;
    assert!(reason.ends_with("it exports `evil [2J all is well`"), "{reason}");
    let long = format!(
        r#"(component
             (import "evil\1b[2J{}" (instance $log))
             (instance $plugin)
             (export "sendflowr:connector/plugin@1.0.0" (instance $plugin)))"#,
        "y".repeat(60_000)
    );
    let reason = refusal(component(&long)).await;
    assert!(reason.starts_with("`bad.wasm` imports `evil [2Jyyy"), "{reason}");
    assert!(reason.len() < 400, "{}", reason.len());
}

#[tokio::test]
async fn a_contract_that_is_too_new_or_too_old() {
    let too_new = refusal(described(|plugin| plugin.contract = "1.2.0")).await;
    assert_eq!(
        too_new,
        "`bad.wasm` plugin `bad` is built for contract 1.2.0, this host serves 1.0 and 1.1: upgrade the host"
    );
    let too_old = refusal(described(|plugin| plugin.contract = "0.9.0")).await;
    assert_eq!(
        too_old,
        "`bad.wasm` plugin `bad` is built for contract 0.9.0, this host serves 1.0 and 1.1: rebuild the plugin with a newer SDK"
    );
}

#[tokio::test]
async fn every_minor_version_of_the_contract_is_served() {
    for contract in ["1.0.0", "1.1.0"] {
        let world = World::with(&[("served.wasm", described(|plugin| plugin.contract = contract))]).await;
        assert_eq!(world.deliver("bad").await.unwrap(), 1, "{contract}");
        let shown = world.status("served.wasm").plugin.unwrap().contract;
        assert_eq!(shown, contract[..3]);
    }
}

/// Its events have the shape of 1.0.
#[tokio::test]
async fn a_component_that_lies_about_its_contract() {
    let reason = refusal(described(|plugin| plugin.contract = "1.1.7")).await;
    assert!(
        reason.ends_with("in `describe`: expected record of 19 fields, found 18 fields"),
        "{reason}"
    );
}

#[tokio::test]
async fn an_import_of_another_version_than_the_export() {
    let mixed = component(
        r#"(component
             (import "sendflowr:connector/logging@1.1.0" (instance $log))
             (instance $plugin)
             (export "sendflowr:connector/plugin@1.0.0" (instance $plugin)))"#,
    );
    assert_eq!(
        refusal(mixed).await,
        "`bad.wasm` imports `sendflowr:connector/logging@1.1.0`, which is not available to plugins"
    );
}

#[tokio::test]
async fn a_patch_of_the_contract_is_served() {
    let world = World::with(&[("patched.wasm", described(|plugin| plugin.contract = "1.0.3"))]).await;
    assert_eq!(world.deliver("bad").await.unwrap(), 1);
}

#[tokio::test]
async fn an_import_that_plugins_do_not_get() {
    let curious = described(|plugin| {
        plugin.wants = Some((
            "interface wanted { now: func() -> s64; }",
            r#"(import "sendflowr:connector/wanted@1.0.0" "now" (func $now (result i64)))"#,
        ));
        plugin.normalize = "(drop (call $now)) i32.const 768".to_owned();
    });
    assert_eq!(
        refusal(curious).await,
        "`bad.wasm` imports `sendflowr:connector/wanted@1.0.0`, which is not available to plugins"
    );
}

#[tokio::test]
async fn wrong_types_behind_the_right_name() {
    let liar = component(
        r#"(component
             (core module $m (func (export "f") (result i32) i32.const 0))
             (core instance $i (instantiate $m))
             (func $f (result u32) (canon lift (core func $i "f")))
             (instance $plugin (export "describe" (func $f)))
             (export "sendflowr:connector/plugin@1.0.0" (instance $plugin)))"#,
    );
    let reason = refusal(liar).await;
    assert!(reason.starts_with("`bad.wasm` cannot be compiled: "), "{reason}");
}

#[tokio::test]
async fn a_small_file_that_would_grow_in_the_compiler() {
    // Each level instantiates the one before twice: 2^20 instances from 20 lines.
    let mut bomb = "(component (component $l0 (core module $m) (core instance (instantiate $m)))".to_owned();
    for level in 1..=20 {
        let before = level - 1;
        bomb.push_str(&format!(
            "(component $l{level} (alias outer 1 $l{before} (component $b)) (instance (instantiate $b)) (instance (instantiate $b)))"
        ));
    }
    bomb.push_str("(instance (instantiate $l20)))");
    assert_eq!(
        refusal(component(&bomb)).await,
        "`bad.wasm` has 41 component instances; a plugin may have 12"
    );
}

#[tokio::test]
async fn too_many_core_instances_imports_and_memories() {
    let many = format!(
        "(component (core module $m) {})",
        "(core instance (instantiate $m))".repeat(65)
    );
    assert_eq!(
        refusal(component(&many)).await,
        "`bad.wasm` has 65 core instances; a plugin may have 64"
    );

    assert_eq!(
        refusal(many_imports()).await,
        "`bad.wasm` has 101 imports and exports; a plugin may have 100"
    );

    let reason = refusal(described(|plugin| plugin.items = "(memory 1)".repeat(4))).await;
    assert!(reason.starts_with("`bad.wasm` cannot be compiled: "), "{reason}");
    assert!(reason.contains("memories"), "{reason}");
}

#[tokio::test]
async fn too_many_tables() {
    let reason = refusal(described(|plugin| plugin.items = "(table 1 funcref)".repeat(9))).await;
    assert!(reason.starts_with("`bad.wasm` cannot be compiled: "), "{reason}");
    assert!(reason.contains("tables"), "{reason}");
}

#[tokio::test]
async fn code_that_the_compiler_would_take_too_long_for() {
    // Some kilobytes each, which would occupy a compiler for minutes and take gigabytes.
    let loops = described(|plugin| plugin.items = branches_and_variables(50_000, 1_000));
    assert_eq!(
        refusal(loops).await,
        "`bad.wasm` has 50000 nested loops; a plugin may have 100"
    );
    let variables = described(|plugin| plugin.items = branches_and_variables(100, 50_000));
    let reason = refusal(variables).await;
    assert!(
        reason.starts_with("`bad.wasm` would take too long to compile: ")
            && reason.ends_with(" steps for one function; a plugin may take 8000000"),
        "{reason}"
    );
}

#[tokio::test]
async fn ten_thousand_functions_are_served() {
    let many =
        described(|plugin| plugin.items = "(func (param i32) (result i32) (local.get 0))".repeat(10_000));
    let world = World::with(&[("many.wasm", many)]).await;
    assert_eq!(world.deliver("bad").await.unwrap(), 1);
}

#[tokio::test]
async fn huge_data_segments_count_as_memory_or_as_file() {
    let data = |pages: &'static str, bytes: usize| {
        described(|plugin| {
            plugin.memory = pages;
            plugin.items = format!("(data (i32.const 131072) \"{}\")", "x".repeat(bytes));
        })
    };
    let world = World::with(&[("large.wasm", data("1000", 30 << 20))]).await;
    assert_eq!(world.deliver("bad").await.unwrap(), 1);
    assert_eq!(
        world.metric("sendflowr_plugin_memory_peak_bytes{plugin=\"bad\"}"),
        1000 << 16
    );
    drop(world);
    assert_eq!(
        refusal(data("1000", 32 << 20)).await,
        "`bad.wasm` has more than 33554432 bytes (`file_bytes`)"
    );
    let beyond = refusal(data("2", 1)).await;
    assert!(
        beyond.starts_with("`bad.wasm` failed to describe itself: ") && beyond.contains("out of bounds"),
        "{beyond}"
    );
}

#[tokio::test]
async fn a_memory_that_begins_over_the_limit() {
    let reason = refusal(described(|plugin| plugin.memory = "1025")).await;
    assert!(reason.contains("memory"), "{reason}");
}

#[tokio::test]
async fn a_file_over_the_size_limit() {
    let bytes = described(|plugin| plugin.items = format!("(data \"{}\")", "x".repeat(10_000)));
    let world = World::configured(&[("bad.wasm", bytes)], |config| config.limits.file_bytes = 10_000).await;
    assert_eq!(
        world.problem("bad.wasm"),
        "`bad.wasm` has more than 10000 bytes (`file_bytes`)"
    );
}

#[tokio::test]
async fn a_plugin_that_does_not_describe_itself() {
    let loops = refusal(described(|plugin| {
        plugin.describe = "(loop $again (br $again)) unreachable".to_owned()
    }))
    .await;
    assert_eq!(
        loops,
        "`bad.wasm` failed to describe itself: plugin `bad` hit its limit `cpu_time` in `describe`: the delivery has \
         used up its CPU time"
    );
    let starts = refusal(described(|plugin| {
        plugin.items = "(func $main (loop $again (br $again))) (start $main)".to_owned();
    }))
    .await;
    assert!(starts.contains("`cpu_time`"), "{starts}");
    let panics = refusal(described(|plugin| plugin.describe = "unreachable".to_owned())).await;
    assert!(panics.contains("`trap`"), "{panics}");
}

#[tokio::test]
async fn a_description_that_the_contract_does_not_allow() {
    let slug = refusal(described(|plugin| plugin.slug = "Not A Slug".to_owned())).await;
    assert!(
        slug.contains("has an invalid descriptor: slug `Not A Slug`"),
        "{slug}"
    );
    let version = refusal(described(|plugin| plugin.version = "one".to_owned())).await;
    assert!(version.contains("version `one` is not SemVer"), "{version}");
    let status = refusal(described(|plugin| plugin.unproven_status = 200)).await;
    assert!(status.contains("status `200` for `unproven`"), "{status}");
    let hosts = refusal(described(|plugin| plugin.hosts = vec!["*.com".to_owned()])).await;
    assert!(hosts.contains("host `*.com`"), "{hosts}");
    let secret = refusal(described(|plugin| {
        plugin.secret = Some("timestamp_tolerance_seconds")
    }))
    .await;
    assert_eq!(
        secret,
        "`bad.wasm` has an invalid descriptor: secret `timestamp_tolerance_seconds` has the name of a setting that the host reads: \
         rename it"
    );
}

/// Whoever replaces a plugin cannot have its account's secret handed over.
#[tokio::test]
async fn a_secret_that_became_a_setting() {
    let signed = described(|plugin| plugin.secret = Some("signing_key"));
    let world = World::with(&[("bad.wasm", signed)]).await;
    assert_eq!(world.deliver("bad").await.unwrap(), 1);
    let greedy = described(|plugin| {
        plugin.version = "2.0.0".to_owned();
        plugin.setting = Some("signing_key");
    });
    fs::write(world.path("bad.wasm"), &greedy).unwrap();
    eventually("it is refused", async || refused_files(&world) == 1).await;
    assert_eq!(
        world.problem("bad.wasm"),
        "`bad.wasm` has an invalid descriptor: setting `signing_key` has the name of a secret: declare it as a secret, or rename \
         it if it is none"
    );
    assert_eq!(world.plugin("bad").tag(), "bad@1.0.0", "the old one serves");
    drop(world);
    // Nor by waiting for a restart.
    assert!(refusal(greedy).await.contains("has the name of a secret"));
    // Other settings are served.
    let modest = described(|plugin| plugin.setting = Some("webhook_url"));
    let world = World::with(&[("bad.wasm", modest)]).await;
    assert_eq!(world.plugin("bad").descriptor().settings[0].name, "webhook_url");
}

#[tokio::test]
async fn a_description_that_changes() {
    assert_eq!(
        refusal(fickle().build()).await,
        "`bad.wasm` has an invalid descriptor: a second call returned a different descriptor"
    );
}

#[tokio::test]
async fn what_is_no_regular_file() {
    let world = World::with(&[("healthy.wasm", guest("healthy").build())]).await;
    fs::create_dir(world.path("folder.wasm")).unwrap();
    symlink("/nowhere", world.path("dangling.wasm")).unwrap();
    symlink("/dev/zero", world.path("device.wasm")).unwrap();
    symlink(world.path("around.wasm"), world.path("around.wasm")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(world.path("pipe.wasm"))
        .status()
        .unwrap();
    assert!(made.success());
    super::eventually("all are reported", async || {
        world
            .plugins
            .status()
            .iter()
            .filter(|status| status.problem.is_some())
            .count()
            == 5
    })
    .await;
    for name in ["folder.wasm", "device.wasm", "pipe.wasm"] {
        assert_eq!(world.problem(name), format!("`{name}` is not a regular file"));
    }
    for name in ["dangling.wasm", "around.wasm"] {
        let problem = world.problem(name);
        assert!(
            problem.starts_with(&format!("`{name}` cannot be read: ")),
            "{problem}"
        );
    }
    assert_eq!(world.deliver("healthy").await.unwrap(), 1);
}
