//! Only files that the lock file pins and a trusted key has signed become plugins: this is checked before anything of
//! them is compiled, and again whenever file, signature or lock file change.

use std::{fs, path::Path, time::Duration};

use minisign::{KeyPair, PublicKey, SecretKey};
use sendflowr_host::plugin::{
    Pin, PluginLock, PluginMetrics, PluginState, Plugins, PluginsConfig, TrustedKeys, signature_path,
};
use tempfile::TempDir;

use super::{
    World, config, eventually, gallery::branches_and_variables, guest::guest, is_loading, rename_into,
};

fn version(version: &str) -> Vec<u8> {
    guest("acme").version(version).build()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}

/// Returns a lock file that pins these bytes for these slugs.
fn lock(pins: &[(&str, &str, &[u8])]) -> String {
    let mut lock = PluginLock::default();
    for (slug, file, bytes) in pins {
        let pin = Pin {
            file: (*file).to_owned(),
            version: "1.0.0".to_owned(),
            contract: "1.0.0".to_owned(),
            sha256: sha256(bytes),
            source: None,
        };
        lock.pin(slug, pin);
    }
    lock.to_text()
}

fn pinned(bytes: &[u8]) -> String {
    lock(&[("acme", "acme.wasm", bytes)])
}

/// Opens a folder with these files and this lock file.
async fn world(files: &[(&str, Vec<u8>)], lock: &str, locked: bool) -> World {
    let mut files = files.to_vec();
    files.push(("plugins.lock", lock.as_bytes().to_vec()));
    World::configured(&files, |config| config.locked = locked).await
}

fn serves(world: &World, tag: &str) -> bool {
    world
        .plugins
        .get("acme")
        .is_some_and(|plugin| plugin.tag() == tag)
}

fn has_problem(world: &World, file: &str) -> bool {
    let status = world.plugins.status();
    status
        .iter()
        .any(|status| status.file == file && status.problem.is_some())
}

/// Returns the number of plugins compiled or taken from the cache so far.
fn touched(world: &World) -> i64 {
    world.metric("sendflowr_plugin_compilations_total") + world.metric("sendflowr_plugin_cache_hits_total")
}

/// Returns why the plugins of this folder cannot be opened.
async fn refusal_to_start(config: &PluginsConfig) -> String {
    let metrics = PluginMetrics::register(&mut prometheus_client::registry::Registry::default());
    Plugins::open(config.clone(), metrics)
        .await
        .unwrap_err()
        .to_string()
}

#[tokio::test]
async fn a_pinned_file_serves_and_one_that_is_not_serves_with_a_word_about_it() {
    let files = [
        ("acme.wasm", version("1.0.0")),
        ("other.wasm", guest("other").build()),
    ];
    let world = world(&files, &pinned(&version("1.0.0")), false).await;
    assert_eq!(world.plugins.slugs(), ["acme", "other"]);
    assert_eq!(world.status("acme.wasm").pinned, Some(true));
    assert_eq!(world.status("other.wasm").pinned, Some(false));

    fs::remove_file(world.path("plugins.lock")).unwrap();
    eventually("nothing is pinned any more", async || {
        world.status("acme.wasm").pinned.is_none()
    })
    .await;
    assert_eq!(world.deliver("acme").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_file_that_is_gone_before_it_is_compiled_ends_nothing() {
    let world = World::with(&[("acme.wasm", version("1.0.0"))]).await;
    // Takes seconds to compile.
    let slow = guest("acme")
        .version("2.0.0")
        .items(&branches_and_variables(80, 1_000).repeat(4))
        .build();
    let pins = lock(&[("acme", "b-pinned.wasm", &slow)]);
    fs::write(world.path("plugins.lock"), pins).unwrap();
    fs::write(world.path("b-pinned.wasm"), slow).unwrap();
    eventually("it is being compiled", async || {
        is_loading(&world, "b-pinned.wasm")
    })
    .await;
    fs::remove_file(world.path("b-pinned.wasm")).unwrap();
    eventually("it is compiled", async || {
        world.metric("sendflowr_plugin_compilations_total") == 2
    })
    .await;
    for _ in 0..50 {
        assert!(serves(&world, "acme@1.0.0"), "{:?}", world.plugins.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn locked_serves_only_what_is_pinned_and_compiles_nothing_else() {
    let files = [
        ("acme.wasm", version("1.0.0")),
        ("other.wasm", guest("other").build()),
    ];
    let world = world(&files, &pinned(&version("1.0.0")), true).await;
    assert_eq!(world.plugins.slugs(), ["acme"]);
    assert_eq!(touched(&world), 1);
    assert_eq!(
        world.problem("other.wasm"),
        format!(
            "`other.wasm` is not pinned in `plugins.lock` and has the SHA-256 {}: remove it, or review it and pin it with \
             `sendflowr plugin pin`",
            sha256(&guest("other").build())
        )
    );
    assert_eq!(
        world.metric("sendflowr_plugin_refused_files{reason=\"unpinned\"}"),
        1
    );
    assert_eq!(
        world.metric("sendflowr_plugin_refused_files{reason=\"digest\"}"),
        0
    );
}

#[tokio::test]
async fn an_altered_byte_is_refused_before_it_is_compiled() {
    let good = version("1.0.0");
    // An additional custom section and nothing more: a component that would be served.
    let altered = [good.as_slice(), &[0, 2, 1, b'x']].concat();
    for locked in [false, true] {
        let world = world(&[("acme.wasm", altered.clone())], &pinned(&good), locked).await;
        assert!(world.plugins.slugs().is_empty());
        assert_eq!(touched(&world), 0);
        assert_eq!(
            world.problem("acme.wasm"),
            format!(
                "`acme.wasm` has the SHA-256 {}, but `plugins.lock` pins `acme` to {}: put the pinned file back, or review this \
                 one and pin it with `sendflowr plugin pin`",
                sha256(&altered),
                sha256(&good)
            )
        );
        assert_eq!(
            world.metric("sendflowr_plugin_refused_files{reason=\"digest\"}"),
            1
        );
    }
}

#[tokio::test]
async fn a_file_that_is_swapped_is_refused_and_the_pinned_plugin_serves_on() {
    let good = version("1.0.0");
    let world = world(&[("acme.wasm", good.clone())], &pinned(&good), true).await;
    let compiled = touched(&world);
    rename_into(&world.path("acme.wasm"), &version("6.6.6"));
    eventually("the swap is reported", async || has_problem(&world, "acme.wasm")).await;
    let status = world.status("acme.wasm");
    assert_eq!((status.state, status.pinned), (PluginState::Serving, Some(true)));
    assert!(serves(&world, "acme@1.0.0"));
    assert_eq!(world.deliver("acme").await.unwrap(), 1);
    assert_eq!(touched(&world), compiled, "nothing of it was compiled");

    rename_into(&world.path("acme.wasm"), &good);
    eventually("the pinned file is fine", async || {
        !has_problem(&world, "acme.wasm")
    })
    .await;
}

#[tokio::test]
async fn another_name_does_not_help_a_file_that_claims_a_pinned_slug() {
    let files = [("sneaky.wasm", version("6.6.6"))];
    let world = world(&files, &pinned(&version("1.0.0")), false).await;
    assert!(world.plugins.slugs().is_empty());
    let problem = world.problem("sneaky.wasm");
    assert!(problem.contains("pins `acme` to"), "{problem}");
}

#[tokio::test]
async fn bytes_that_are_pinned_for_another_slug_are_refused() {
    let bytes = version("1.0.0");
    let world = world(
        &[("acme.wasm", bytes.clone())],
        &lock(&[("other", "acme.wasm", &bytes)]),
        false,
    )
    .await;
    assert_eq!(
        world.problem("acme.wasm"),
        "`acme.wasm` describes itself as `acme`, but `plugins.lock` pins it as `other`: pin it again with `sendflowr plugin pin`"
    );
}

#[tokio::test]
async fn pin_then_copy_and_copy_then_pin_both_end_served() {
    let (one, two, three) = (version("1.0.0"), version("2.0.0"), version("3.0.0"));
    for locked in [false, true] {
        let world = world(&[("acme.wasm", one.clone())], &pinned(&one), locked).await;
        rename_into(&world.path("plugins.lock"), pinned(&two).as_bytes());
        eventually("the new pin is noticed", async || {
            has_problem(&world, "acme.wasm")
        })
        .await;
        assert!(
            serves(&world, "acme@1.0.0"),
            "the old one is served until the pinned file is there"
        );
        fs::write(world.path("acme.wasm"), &two).unwrap();
        eventually("pinned, then copied", async || serves(&world, "acme@2.0.0")).await;
        assert!(!has_problem(&world, "acme.wasm"));

        fs::write(world.path("acme.wasm"), &three).unwrap();
        eventually("the copy is refused", async || has_problem(&world, "acme.wasm")).await;
        assert!(serves(&world, "acme@2.0.0"));
        // As an editor would: in place.
        fs::write(world.path("plugins.lock"), pinned(&three)).unwrap();
        eventually("copied, then pinned", async || serves(&world, "acme@3.0.0")).await;
        assert!(!has_problem(&world, "acme.wasm"));
    }
}

#[tokio::test]
async fn of_two_files_for_a_slug_the_pinned_one_serves_and_rollback_is_a_change_of_the_lock() {
    let (old, new) = (version("1.0.0"), version("2.0.0"));
    let files = [("acme-1.wasm", old.clone()), ("acme-2.wasm", new.clone())];
    let pin_old = lock(&[("acme", "acme-1.wasm", &old)]);
    let pin_new = lock(&[("acme", "acme-2.wasm", &new)]);
    let world = world(&files, &pin_new, false).await;
    assert!(serves(&world, "acme@2.0.0"), "{:?}", world.plugins.status());
    for (pins, tag) in [(&pin_old, "acme@1.0.0"), (&pin_new, "acme@2.0.0")] {
        rename_into(&world.path("plugins.lock"), pins.as_bytes());
        eventually("the pinned one serves", async || {
            assert!(world.plugins.get("acme").is_some(), "no gap");
            serves(&world, tag)
        })
        .await;
    }
}

#[tokio::test]
async fn an_entry_that_is_removed_ends_the_plugin_where_only_pinned_ones_serve() {
    let bytes = version("1.0.0");
    let world = world(&[("acme.wasm", bytes.clone())], &pinned(&bytes), true).await;
    assert!(serves(&world, "acme@1.0.0"));
    fs::write(world.path("plugins.lock"), lock(&[])).unwrap();
    eventually("it is gone", async || world.plugins.get("acme").is_none()).await;
    assert_eq!(world.status("acme.wasm").state, PluginState::Refused);
    fs::write(world.path("plugins.lock"), pinned(&bytes)).unwrap();
    eventually("it is back", async || serves(&world, "acme@1.0.0")).await;
}

#[tokio::test]
async fn a_lock_that_changes_while_the_folder_cannot_be_read_takes_effect_afterwards() {
    let data = TempDir::new().unwrap();
    let bytes = version("1.0.0");
    let lock_file = data.path().join("pins.lock");
    fs::write(&lock_file, pinned(&bytes)).unwrap();
    let mut config = config(&data);
    config.locked = true;
    config.lock = lock_file.clone();
    fs::create_dir(&config.folder).unwrap();
    fs::write(config.folder.join("acme.wasm"), bytes).unwrap();
    let world = World::open(config).await;
    assert!(serves(&world, "acme@1.0.0"));

    let away = data.path().join("away");
    fs::rename(&world.config.folder, &away).unwrap();
    eventually("the folder cannot be read", async || {
        has_problem(&world, "plugins")
    })
    .await;
    rename_into(&lock_file, lock(&[]).as_bytes());
    // Several looks, while which it settles.
    tokio::time::sleep(Duration::from_secs(3)).await;
    fs::rename(&away, &world.config.folder).unwrap();
    eventually("it is withdrawn", async || world.plugins.get("acme").is_none()).await;
}

#[tokio::test]
async fn a_lock_that_breaks_or_goes_leaves_the_last_good_one_in_force() {
    let bytes = version("1.0.0");
    let world = world(&[("acme.wasm", bytes.clone())], &pinned(&bytes), true).await;
    for (what, problem) in [
        (
            Some("version = 1\nplugins = 3"),
            "plugin lock `plugins.lock` line 2: ",
        ),
        (None, "plugin lock `plugins.lock` does not exist"),
    ] {
        match what {
            Some(text) => fs::write(world.path("plugins.lock"), text).unwrap(),
            None => fs::remove_file(world.path("plugins.lock")).unwrap(),
        }
        let is_reported = async || {
            let status = world.plugins.status();
            let lock = status.iter().find(|status| status.file == "plugins.lock");
            lock.is_some_and(|lock| {
                lock.problem
                    .as_ref()
                    .is_some_and(|text| text.starts_with(problem))
            })
        };
        eventually("the lock's problem is reported", is_reported).await;
        eventually("it is counted", async || {
            world.metric("sendflowr_plugin_refused_files{reason=\"lock\"}") == 1
        })
        .await;
        assert!(serves(&world, "acme@1.0.0"));
        fs::write(world.path("other.wasm"), guest("other").build()).unwrap();
        eventually("what is not pinned is refused", async || {
            has_problem(&world, "other.wasm")
        })
        .await;
        fs::remove_file(world.path("other.wasm")).unwrap();
        eventually("it is forgotten", async || !has_problem(&world, "other.wasm")).await;
    }
    fs::write(world.path("plugins.lock"), pinned(&bytes)).unwrap();
    eventually("the lock is fine again", async || {
        world.plugins.status().len() == 1
    })
    .await;
}

#[tokio::test]
async fn a_start_without_the_lock_that_is_asked_for_or_with_a_broken_one_fails() {
    let data = TempDir::new().unwrap();
    let mut config = config(&data);
    config.lock = data.path().join("review/plugins.lock");
    config.locked = true;
    fs::create_dir(&config.folder).unwrap();
    assert_eq!(
        refusal_to_start(&config).await,
        "plugin lock `plugins.lock` does not exist, and `host.plugins.locked` requires it: write it with `sendflowr plugin pin`"
    );
    config.locked = false;
    fs::create_dir(data.path().join("review")).unwrap();
    fs::write(&config.lock, "version = 7").unwrap();
    let error = refusal_to_start(&config).await;
    assert!(error.contains("has the layout 7"), "{error}");
}

#[tokio::test]
async fn the_lock_may_lie_elsewhere() {
    let data = TempDir::new().unwrap();
    let mut config = config(&data);
    config.lock = data.path().join("review/plugins.lock");
    fs::create_dir(data.path().join("review")).unwrap();
    fs::create_dir(&config.folder).unwrap();
    fs::write(config.folder.join("acme.wasm"), version("1.0.0")).unwrap();
    fs::write(&config.lock, pinned(&version("2.0.0"))).unwrap();
    let world = World::open(config).await;
    assert!(world.plugins.slugs().is_empty());
    fs::write(&world.config.lock, pinned(&version("1.0.0"))).unwrap();
    eventually("the change is noticed", async || serves(&world, "acme@1.0.0")).await;
}

/// Generates keys as minisign does, with its own crate.
fn keys() -> (PublicKey, SecretKey) {
    let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
    (pk, sk)
}

fn signature(secret: &SecretKey, bytes: &[u8]) -> String {
    minisign::sign(None, secret, bytes, None, None)
        .unwrap()
        .into_string()
}

fn sign(file: &Path, secret: &SecretKey, bytes: &[u8]) {
    fs::write(signature_path(file), signature(secret, bytes)).unwrap();
}

async fn signed_world(keys: &[&PublicKey], files: &[(&str, Vec<u8>)]) -> World {
    let keys: Vec<String> = keys.iter().map(|key| key.to_base64()).collect();
    let keys = TrustedKeys::parse(&keys).unwrap();
    World::configured(files, |config| config.trusted_keys = keys).await
}

#[tokio::test]
async fn a_signature_by_any_trusted_key_makes_a_file_served() {
    let (bytes, other) = (version("1.0.0"), guest("other").build());
    let ((first, first_secret), (second, second_secret)) = (keys(), keys());
    let files = [
        ("acme.wasm", bytes.clone()),
        ("acme.wasm.minisig", signature(&first_secret, &bytes).into_bytes()),
        ("other.wasm", other.clone()),
        (
            "other.wasm.minisig",
            signature(&second_secret, &other).into_bytes(),
        ),
    ];
    let world = signed_world(&[&first, &second], &files).await;
    assert_eq!(world.plugins.slugs(), ["acme", "other"]);
    assert_eq!(world.plugins.status().len(), 2, "signatures are not plugins");
}

#[tokio::test]
async fn a_signature_that_arrives_later_makes_the_file_served_without_another_copy() {
    let bytes = version("1.0.0");
    let (public, secret) = keys();
    let world = signed_world(&[&public], &[("acme.wasm", bytes.clone())]).await;
    assert_eq!(
        world.problem("acme.wasm"),
        "`acme.wasm` is not signed: `acme.wasm.minisig` does not exist; sign the plugin with `minisign -S`, or pull it with its \
         signature"
    );
    assert_eq!(touched(&world), 0);
    assert_eq!(
        world.metric("sendflowr_plugin_refused_files{reason=\"signature\"}"),
        1
    );
    sign(&world.path("acme.wasm"), &secret, &bytes);
    eventually("it serves", async || serves(&world, "acme@1.0.0")).await;

    // An upgrade, file first: the old one serves until the new one's signature is there.
    let next = version("2.0.0");
    rename_into(&world.path("acme.wasm"), &next);
    eventually("it is refused", async || has_problem(&world, "acme.wasm")).await;
    assert!(serves(&world, "acme@1.0.0"));
    sign(&world.path("acme.wasm"), &secret, &next);
    eventually("the next one serves", async || serves(&world, "acme@2.0.0")).await;
}

#[tokio::test]
async fn signatures_that_prove_nothing_are_refused_before_anything_is_compiled() {
    let bytes = version("1.0.0");
    let ((public, secret), (_, strange)) = (keys(), keys());
    let good = signature(&secret, &bytes);
    let altered = "`acme.wasm` is not what was signed: the file or its signature has been altered, or they are of different \
                   versions";
    let malformed = "`acme.wasm` has a signature that is not in minisign's format";
    for (signature, problem) in [
        (
            signature(&strange, &bytes),
            "`acme.wasm` is signed by none of the keys in `host.plugins.trusted_keys`",
        ),
        (signature(&secret, b"something else"), altered),
        (good.replace("timestamp", "Timestamp"), altered),
        (good.lines().take(2).collect::<Vec<_>>().join("\n"), malformed),
        (String::new(), malformed),
        ("\u{1f984}\n".repeat(4), malformed),
        (
            "x".repeat(17_000),
            "`acme.wasm` has a signature that cannot be read: has more than 16384 bytes (the size limit of a signature file)",
        ),
    ] {
        let files = [
            ("acme.wasm", bytes.clone()),
            ("acme.wasm.minisig", signature.into_bytes()),
        ];
        let world = signed_world(&[&public], &files).await;
        assert_eq!(world.problem("acme.wasm"), problem);
        assert!(world.plugins.slugs().is_empty());
        assert_eq!(touched(&world), 0);
    }
}

#[tokio::test]
async fn signatures_of_minisign_s_program_hold_old_kind_and_new() {
    // Made by Debian's minisign 0.11 over the four bytes, by `-S` and by `-S -l`; both with the same key.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minisign");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let keys = TrustedKeys::parse(&[read("minisign.pub")]).unwrap();
    for name in ["prehashed.minisig", "legacy.minisig"] {
        assert_eq!(keys.check(b"wasm", &read(name)), Ok(()), "{name}");
        assert!(keys.check(b"wasn", &read(name)).is_err(), "{name}");
    }
}

#[tokio::test]
async fn both_are_asked_for_where_both_are_configured() {
    let (bytes, next) = (version("1.0.0"), version("2.0.0"));
    let (public, secret) = keys();
    let trusted = TrustedKeys::parse(&[public.to_base64()]).unwrap();
    let files = [
        ("acme.wasm", bytes.clone()),
        ("acme.wasm.minisig", signature(&secret, &bytes).into_bytes()),
        ("plugins.lock", pinned(&next).into_bytes()),
    ];
    let world = World::configured(&files, |config| config.trusted_keys = trusted).await;
    assert!(
        world.problem("acme.wasm").contains("but `plugins.lock` pins"),
        "signed, not pinned"
    );
    fs::write(world.path("acme.wasm"), &next).unwrap();
    eventually("pinned, not signed", async || {
        world.problem("acme.wasm").contains("not what was signed")
    })
    .await;
    sign(&world.path("acme.wasm"), &secret, &next);
    eventually("it serves", async || serves(&world, "acme@2.0.0")).await;
}

#[tokio::test]
async fn a_compiled_plugin_in_the_cache_is_used_for_verified_bytes_alone() {
    let (good, bad) = (version("1.0.0"), version("6.6.6"));
    let data = TempDir::new().unwrap();
    let config = config(&data);
    fs::create_dir(&config.folder).unwrap();
    // Without a lock both end up in the cache.
    for bytes in [&good, &bad] {
        fs::write(config.folder.join("acme.wasm"), bytes).unwrap();
        let world = World::open(config.clone()).await;
        assert_eq!(world.metric("sendflowr_plugin_compilations_total"), 1);
    }
    fs::write(&config.lock, pinned(&good)).unwrap();
    let world = World::open(config.clone()).await;
    assert!(world.plugins.slugs().is_empty());
    assert_eq!(
        touched(&world),
        0,
        "the refused file is not even looked for in the cache"
    );
    drop(world);
    fs::write(config.folder.join("acme.wasm"), &good).unwrap();
    let world = World::open(config).await;
    assert!(serves(&world, "acme@1.0.0"));
    assert_eq!(world.metric("sendflowr_plugin_cache_hits_total"), 1);
    // After one more check of the folder, what did not change is not loaded again.
    fs::write(world.path("later.wasm"), guest("later").build()).unwrap();
    eventually("what came later serves", async || {
        world.plugins.get("later").is_some()
    })
    .await;
    assert_eq!(world.metric("sendflowr_plugin_cache_hits_total"), 1);
}
