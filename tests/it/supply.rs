//! Where plugins come from: pins, signatures and registries, through the binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use integration_tests::{System, binary, plugins, run, told};
use minisign::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    POSTMARK, drop_postmark,
    guest::guest,
    postmark_answer, postmark_headers,
    registry::{Door, Manner, Registry, USER, digest},
};

/// Creates a folder with a plugin folder in it.
fn folder(slugs: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::create_dir(folder.path().join("docker")).unwrap();
    for slug in slugs {
        let name = format!("{slug}.wasm");
        fs::copy(plugins().join(&name), folder.path().join("plugins").join(&name)).unwrap();
    }
    folder
}

/// Runs `sendflowr plugin …` on the plugin folder, isolated from docker's credentials on this machine.
fn plugin(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(binary())
        .current_dir(folder)
        .env("DOCKER_CONFIG", folder.join("docker"))
        .envs(environment.iter().copied())
        .args(["--log", "warn", "--plugins", "plugins", "plugin"])
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn works(folder: &Path, arguments: &[&str]) -> String {
    let output = plugin(folder, arguments, &[]);
    assert!(output.status.success(), "{arguments:?}: {}", told(&output));
    told(&output)
}

/// Runs a command that must fail without leaving anything in the plugin folder.
#[track_caller]
fn fails(folder: &Path, arguments: &[&str]) -> String {
    let before = listed(folder);
    let output = plugin(folder, arguments, &[]);
    assert!(!output.status.success(), "{arguments:?}: {}", told(&output));
    assert_eq!(listed(folder), before, "{arguments:?} leaves something");
    told(&output)
}

fn listed(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("plugins")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Returns the bytes of a plugin with one custom section more: another file that works just as well.
fn altered(plugin: &[u8]) -> Vec<u8> {
    [plugin, &[0, 2, 1, b'x']].concat()
}

/// A failure on what anyone may send says nothing about the provider's deliveries.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_at_a_delivery_without_content_is_no_worse_than_one_that_a_host_serves() {
    let folder = folder(&[]);
    let folder = folder.path();
    let file = "plugins/eager.wasm";
    let eager =
        guest("eager").normalize("(if (i32.eqz (local.get $body_length)) (then unreachable)) i32.const 768");
    fs::write(folder.join(file), eager.build()).unwrap();
    let note =
        "note: on a delivery without content plugin `eager@1.0.0` hit its limit `trap` in `normalize`: ";
    let text = works(folder, &["check", file]);
    assert!(
        text.contains("is a plugin that the host serves") && text.contains(note),
        "{text}"
    );
    let text = works(folder, &["check", file, "--format", "json"]);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["serves"], true);
    let of_json = told["note"].as_str().unwrap();
    assert!(format!("note: {of_json}").starts_with(note), "{text}");
    let text = works(folder, &["pin"]);
    assert!(
        text.contains(note) && text.contains("pinned    eager 1.0.0"),
        "{text}"
    );
    let registry = Registry::start(Door::Open).await;
    packaged(&registry, "1", &eager.build(), |_| {});
    let text = works(folder, &["pull", &registry.reference("1")]);
    assert!(text.contains(note), "{text}");

    fs::write(folder.join(file), guest("eager").describe("unreachable").build()).unwrap();
    let text = fails(folder, &["check", file]);
    assert!(text.contains("is refused"), "{text}");
}

#[test]
fn pins_are_written_compared_and_kept_in_order() {
    let folder = folder(&["postmark", "mailgun"]);
    let folder = folder.path();
    let check = || plugin(folder, &["pin", "--check"], &[]).status.code();
    assert_eq!(check(), Some(1), "nothing is pinned yet");
    assert_eq!(
        listed(folder),
        ["mailgun.wasm", "postmark.wasm"],
        "--check writes nothing"
    );
    let text = works(folder, &["pin"]);
    assert!(
        text.contains("pinned    mailgun 1.") && text.contains("pinned    postmark 1."),
        "{text}"
    );
    let lock = fs::read_to_string(folder.join("plugins/plugins.lock")).unwrap();
    let digest = &digest(&fs::read(plugins().join("postmark.wasm")).unwrap())["sha256:".len()..];
    assert!(lock.contains(&format!("sha256 = \"{digest}\"")), "{lock}");
    assert!(
        lock.find("[plugins.mailgun]") < lock.find("[plugins.postmark]"),
        "{lock}"
    );
    assert_eq!(check(), Some(0));

    let file = folder.join("plugins/postmark.wasm");
    let original = fs::read(&file).unwrap();
    fs::write(&file, altered(&original)).unwrap();
    let output = plugin(folder, &["pin", "--check"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told(&output).contains(&format!("sha256 {digest} -> ")),
        "{}",
        told(&output)
    );
    // Pinning one file leaves the pins of the others as they are, even if the file is outside the folder.
    let elsewhere = folder.join("postmark.wasm");
    fs::write(&elsewhere, altered(&original)).unwrap();
    works(folder, &["pin", "postmark.wasm"]);
    assert_eq!(check(), Some(0));
    // A pin is about slug, version and digest: the file may be named otherwise where it comes from.
    let newer = [altered(&original), b"\0\x02\x01y".to_vec()].concat();
    fs::write(folder.join("v2.wasm"), &newer).unwrap();
    works(folder, &["pin", "v2.wasm"]);
    assert_eq!(check(), Some(1), "it is not in the folder yet");
    fs::copy(folder.join("v2.wasm"), &file).unwrap();
    assert_eq!(check(), Some(0));

    fs::remove_file(&file).unwrap();
    let text = works(folder, &["pin"]);
    assert!(
        text.contains("unpinned  postmark") && !text.contains("mailgun"),
        "{text}"
    );

    fs::write(folder.join("plugins/bad.wasm"), "no plugin").unwrap();
    let text = fails(folder, &["pin"]);
    assert!(
        text.contains("bad.wasm") && text.contains("is not a WebAssembly component"),
        "{text}"
    );
}

#[tokio::test]
async fn locked_starts_only_with_a_lock_and_serves_only_what_it_pins() {
    let place = folder(&["postmark"]);
    let output = run(
        place.path(),
        &[
            "--plugins",
            "plugins",
            "up",
            "--locked",
            "--host-listen",
            "127.0.0.1:0",
        ],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(
        told(&output).contains("plugin lock `plugins.lock` does not exist"),
        "{}",
        told(&output)
    );

    works(place.path(), &["pin"]);
    let lock = place.path().join("plugins/plugins.lock");
    let configuration = format!("[host.plugins]\nlock = '{}'\n{POSTMARK}", lock.display());
    let system = System::start_with(&configuration, &["postmark", "mailgun"], &["--locked"]).await;
    assert_eq!(postmark_answer(&system).await, 200);
    let other = system.webhook("mailgun", &postmark_headers(), "{}").await;
    assert_eq!(other.status, 404, "{}", other.text);
    let list = system.host_get("/plugins").await;
    let of = |file: &str| {
        let plugins = list.body["plugins"].as_array().unwrap();
        plugins
            .iter()
            .find(|plugin| plugin["file"] == file)
            .unwrap()
            .clone()
    };
    assert_eq!(of("postmark.wasm")["pinned"], true, "{}", list.text);
    let problem = of("mailgun.wasm")["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("is not pinned in `plugins.lock`"), "{problem}");
    assert!(system.log().contains("is not pinned in `plugins.lock`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_author_signs_and_pushes_an_operator_pulls_pins_and_serves_locked() {
    let registry = Registry::start(Door::Open).await;
    let author = folder(&["postmark"]);
    let file = author.path().join("plugins/postmark.wasm");
    let bytes = fs::read(&file).unwrap();
    let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
    let signature = minisign::sign(None, &sk, bytes.as_slice(), None, None).unwrap();
    fs::write(
        author.path().join("plugins/postmark.wasm.minisig"),
        signature.into_string(),
    )
    .unwrap();
    let target = registry.reference("1.0");
    let pushed = works(author.path(), &["push", "plugins/postmark.wasm", &target]);
    assert!(pushed.contains("with its signature"), "{pushed}");
    assert_eq!(
        works(author.path(), &["push", "plugins/postmark.wasm", &target]),
        pushed,
        "the same again"
    );

    let operator = folder(&[]);
    let configuration = format!("[host.plugins]\ntrusted_keys = ['{}']\n", pk.to_base64());
    fs::write(operator.path().join("sendflowr.toml"), &configuration).unwrap();
    let pulled = works(operator.path(), &["pull", &target, "--pin"]);
    assert!(pulled.contains("signed by a trusted key"), "{pulled}");
    assert_eq!(
        listed(operator.path()),
        ["plugins.lock", "postmark.wasm", "postmark.wasm.minisig"]
    );
    assert_eq!(
        fs::read(operator.path().join("plugins/postmark.wasm")).unwrap(),
        bytes
    );
    let lock = fs::read_to_string(operator.path().join("plugins/plugins.lock")).unwrap();
    let by_digest = pushed.split('`').nth(1).unwrap();
    assert!(lock.contains(&format!("source = \"{by_digest}\"")), "{lock}");
    // Pulled by its digest; the source is kept for as long as the file is there.
    works(operator.path(), &["pull", by_digest]);
    works(operator.path(), &["pin"]);
    assert_eq!(
        fs::read_to_string(operator.path().join("plugins/plugins.lock")).unwrap(),
        lock
    );

    let folder = operator.path().join("plugins");
    let configuration = format!(
        "{configuration}lock = '{}'\n{POSTMARK}",
        folder.join("plugins.lock").display()
    );
    let system = System::start_with(&configuration, &["none"], &["--locked"]).await;
    let signature = "postmark.wasm.minisig";
    fs::copy(
        folder.join(signature),
        system.folder().join("plugins").join(signature),
    )
    .unwrap();
    drop_postmark(&system, &folder).await;

    // Another file under the same tag, unsigned: an operator who requires signatures does not get it.
    let before = listed(operator.path());
    fs::write(&file, altered(&bytes)).unwrap();
    fs::remove_file(author.path().join("plugins/postmark.wasm.minisig")).unwrap();
    works(author.path(), &["push", "plugins/postmark.wasm", &target]);
    let told = fails(operator.path(), &["pull", &target]);
    assert!(
        told.contains("is not signed, and `host.plugins.trusted_keys` requires a signature"),
        "{told}"
    );
    assert_eq!(listed(operator.path()), before);
    // Signed, but by a stranger.
    let stranger = KeyPair::generate_unencrypted_keypair().unwrap();
    let signature = minisign::sign(None, &stranger.sk, altered(&bytes).as_slice(), None, None).unwrap();
    fs::write(
        author.path().join("plugins/postmark.wasm.minisig"),
        signature.into_string(),
    )
    .unwrap();
    works(author.path(), &["push", "plugins/postmark.wasm", &target]);
    let told = fails(operator.path(), &["pull", &target]);
    assert!(
        told.contains("is signed by none of the keys in `host.plugins.trusted_keys`"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_never_names_a_plugin_without_the_signature_that_it_is_pushed_with() {
    let registry = Registry::start(Door::Open).await;
    let author = folder(&["postmark"]);
    let author = author.path();
    let [file, signature_file] =
        ["postmark.wasm", "postmark.wasm.minisig"].map(|name| author.join("plugins").join(name));
    let released = fs::read(&file).unwrap();
    let tagged = packaged(&registry, "1", &released, |_| {});
    let target = registry.reference("1");
    let push = ["push", "plugins/postmark.wasm", &target];
    fs::write(&file, altered(&released)).unwrap();
    let sign = |keys: &KeyPair| {
        let signature = minisign::sign(None, &keys.sk, altered(&released).as_slice(), None, None).unwrap();
        fs::write(&signature_file, signature.into_string()).unwrap();
    };
    let still_released = || {
        let operator = folder(&[]);
        let text = works(operator.path(), &["pull", &target]);
        assert!(text.contains(&tagged), "{text}");
    };

    let [own, stranger] = [(); 2].map(|()| KeyPair::generate_unencrypted_keypair().unwrap());
    let configuration = format!("[host.plugins]\ntrusted_keys = ['{}']\n", own.pk.to_base64());
    fs::write(author.join("sendflowr.toml"), configuration).unwrap();
    let told = fails(author, &push);
    assert!(
        told.contains("`plugins/postmark.wasm` is not signed, and `host.plugins.trusted_keys`"),
        "{told}"
    );
    sign(&stranger);
    let told = fails(author, &push);
    assert!(
        told.contains("`plugins/postmark.wasm` is signed by none of the keys"),
        "{told}"
    );
    still_released();

    sign(&own);
    registry.behave(Manner::NoSignatures);
    let told = fails(author, &push);
    assert!(
        told.contains("its signature: the registry answered 507"),
        "{told}"
    );
    still_released();
    registry.behave(Manner::Honest);
    works(author, &push);
    works(author, &["pull", &target, "--replace"]);
}

#[test]
fn pins_that_are_written_at_once_are_all_in_the_lock() {
    // More than this machine has cores, so that they come between each other's steps.
    const WRITERS: usize = 24;
    let folder = folder(&[]);
    let folder = folder.path();
    let slugs: Vec<String> = (0..WRITERS).map(|number| format!("p{number:02}")).collect();
    for slug in &slugs {
        fs::write(folder.join(format!("plugins/{slug}.wasm")), guest(slug).build()).unwrap();
    }
    std::thread::scope(|scope| {
        for slug in &slugs {
            scope.spawn(move || works(folder, &["pin", &format!("plugins/{slug}.wasm")]));
        }
    });
    let lock = fs::read_to_string(folder.join("plugins/plugins.lock")).unwrap();
    let pinned: Vec<&str> = lock
        .lines()
        .filter_map(|line| line.strip_prefix("[plugins."))
        .collect();
    let expected: Vec<String> = slugs.iter().map(|slug| format!("{slug}]")).collect();
    assert_eq!(pinned, expected);
    assert_eq!(listed(folder).len(), WRITERS + 1, "nothing else is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_cannot_be_pinned_is_not_put_into_the_folder() {
    let registry = Registry::start(Door::Open).await;
    let place = folder(&["postmark"]);
    let file = place.path().join("plugins/postmark.wasm");
    let installed = fs::read(&file).unwrap();
    packaged(&registry, "new", &altered(&installed), |_| {});
    let new = registry.reference("new");
    fs::write(place.path().join("bad.lock"), "version = 2").unwrap();
    for (lock, part) in [
        ("bad.lock", "has the layout 2"),
        ("nowhere/plugins.lock", "cannot be written"),
    ] {
        let told = fails(
            place.path(),
            &["pull", &new, "--replace", "--pin", "--lock", lock],
        );
        assert!(told.contains(part) && !told.contains("pinned"), "{told}");
        assert_eq!(fs::read(&file).unwrap(), installed, "{lock}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_cannot_be_put_in_place_is_not_pinned() {
    let registry = Registry::start(Door::Open).await;
    let author = folder(&["postmark"]);
    let file = author.path().join("plugins/postmark.wasm");
    let bytes = altered(&fs::read(&file).unwrap());
    fs::write(&file, &bytes).unwrap();
    let key = KeyPair::generate_unencrypted_keypair().unwrap().sk;
    let signature = minisign::sign(None, &key, bytes.as_slice(), None, None).unwrap();
    fs::write(file.with_extension("wasm.minisig"), signature.into_string()).unwrap();
    let target = registry.reference("1.0");
    works(author.path(), &["push", "plugins/postmark.wasm", &target]);

    let operator = folder(&["postmark"]);
    let operator = operator.path();
    // No file can take the place of a folder.
    fs::create_dir(operator.join("plugins/postmark.wasm.minisig")).unwrap();
    let pull = ["pull", &target, "--replace", "--pin"];
    let text = fails(operator, &pull);
    assert!(
        text.contains("cannot write `plugins/postmark.wasm.minisig`") && !text.contains("pinned"),
        "{text}"
    );
    works(operator, &["pin"]);
    let lock = || fs::read_to_string(operator.join("plugins/plugins.lock")).unwrap();
    let before = lock();
    fails(operator, &pull);
    assert_eq!(lock(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_from_elsewhere_is_replaced_only_when_that_is_asked_for() {
    let (registry, stranger) = (
        Registry::start(Door::Open).await,
        Registry::start(Door::Open).await,
    );
    let place = folder(&["postmark"]);
    let file = place.path().join("plugins/postmark.wasm");
    let installed = fs::read(&file).unwrap();
    let newer = altered(&installed);
    packaged(&registry, "1", &installed, |_| {});
    packaged(&registry, "2", &newer, |_| {});
    packaged(&stranger, "1", &altered(&newer), |_| {});
    let (first, second, other) = (
        registry.reference("1"),
        registry.reference("2"),
        stranger.reference("1"),
    );

    let refused = fails(place.path(), &["pull", &second, "--pin"]);
    assert!(
        refused.contains("from an unknown origin is already installed") && refused.contains("`--replace`"),
        "{refused}"
    );
    assert_eq!(fs::read(&file).unwrap(), installed);
    // Pulling the same bytes replaces nothing, and then their source is known.
    works(place.path(), &["pull", &first, "--pin"]);
    let output = plugin(place.path(), &["pull", &other, "--pin"], &[]);
    assert_eq!(output.status.code(), Some(2));
    let refused = told(&output);
    assert!(
        refused.contains(&format!("from `{first}@")) && refused.contains(&format!("the one from `{other}@")),
        "{refused}"
    );
    assert_eq!(fs::read(&file).unwrap(), installed);
    works(place.path(), &["pull", &second, "--pin"]);
    assert_eq!(fs::read(&file).unwrap(), newer, "an upgrade");
    // The pin stands for the plugin while the file is gone.
    fs::remove_file(&file).unwrap();
    fails(place.path(), &["pull", &other]);
    works(place.path(), &["pull", &other, "--pin", "--replace"]);
    assert_eq!(fs::read(&file).unwrap(), altered(&newer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_another_file_is_already_is_not_pulled_beside_it() {
    let registry = Registry::start(Door::Open).await;
    let place = folder(&["sendgrid"]);
    let good = fs::read(plugins().join("postmark.wasm")).unwrap();
    packaged(&registry, "1", &altered(&good), |_| {});
    let reference = registry.reference("1");
    let other = place.path().join("plugins/postmark-1.0.wasm");
    fs::write(&other, &good).unwrap();
    let is_refused = |arguments: &[&str]| {
        let refused = fails(place.path(), arguments);
        assert!(
            refused.contains("`plugins/postmark-1.0.wasm` is a plugin for `postmark` too")
                && refused.contains("remove it, or name it `postmark.wasm`"),
            "{refused}"
        );
    };
    is_refused(&["pull", &reference]);
    // The same holds if the lock file says what the other one is.
    works(place.path(), &["pin"]);
    is_refused(&["pull", &reference, "--pin", "--replace"]);
    fs::rename(&other, place.path().join("plugins/postmark.wasm")).unwrap();
    works(place.path(), &["pull", &reference, "--pin", "--replace"]);
    assert_eq!(
        listed(place.path()),
        ["plugins.lock", "postmark.wasm", "sendgrid.wasm"]
    );
}

#[test]
fn list_and_check_judge_as_the_host_does() {
    let place = folder(&["postmark", "sendgrid"]);
    let in_folder = |name: &str| place.path().join("plugins").join(name);
    let list = || {
        let output = plugin(place.path(), &["list"], &[]);
        (output.status.code(), told(&output))
    };
    let row = |text: &str, file: &str| {
        let mut lines = text.lines().filter(|line| line.contains(file));
        let line = lines.next().unwrap_or_else(|| panic!("no `{file}` in {text}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let (code, text) = list();
    assert_eq!(code, Some(0), "{text}");
    // The second file with a slug is refused, even though it is listed first.
    fs::copy(in_folder("sendgrid.wasm"), in_folder("a-copy.wasm")).unwrap();
    let (code, text) = list();
    assert_eq!(code, Some(1), "{text}");
    let refused =
        "a-copy.wasm refused `a-copy.wasm` claims the slug `sendgrid`, which `sendgrid.wasm` serves already";
    assert!(row(&text, "a-copy.wasm").starts_with(refused), "{text}");
    fs::remove_file(in_folder("a-copy.wasm")).unwrap();

    // An account's deliveries wait for a plugin.
    let accounts =
        "[accounts.acme.eu]\ntoken = 'x'\n[accounts.acme.us]\ntoken = 'x'\n[accounts.sendgrid.eu]\n";
    fs::write(place.path().join("sendflowr.toml"), accounts).unwrap();
    let (code, text) = list();
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(
        row(&text, "acme"),
        "acme eu, us: no plugin serves `acme`",
        "{text}"
    );
    fs::remove_file(place.path().join("sendflowr.toml")).unwrap();

    works(place.path(), &["pin", "plugins/postmark.wasm"]);
    let (code, text) = list();
    assert_eq!(code, Some(0), "{text}");
    assert!(
        row(&text, "postmark.wasm").contains("postmark.wasm pinned"),
        "{text}"
    );
    assert!(
        row(&text, "sendgrid.wasm").contains("sendgrid.wasm not pinned"),
        "{text}"
    );
    let check = |file: &str| works(place.path(), &["check", file]);
    let last = |text: String| text.trim_end().lines().next_back().unwrap_or_default().to_owned();
    assert!(
        last(check("plugins/postmark.wasm"))
            .contains("serves it as configured: it is pinned in `plugins/plugins.lock`")
    );
    assert!(last(check("plugins/sendgrid.wasm")).contains("it is not pinned in `plugins/plugins.lock`"));
    let text = works(
        place.path(),
        &["check", "plugins/sendgrid.wasm", "--format", "json"],
    );
    let json: Value = serde_json::from_str(&text).unwrap();
    let setting = serde_json::json!({"name": "timestamp_tolerance_seconds", "required": false});
    assert!(json["settings"].as_array().unwrap().contains(&setting), "{text}");
    assert!(json["secrets"][0]["name"].is_string(), "{text}");

    fs::write(
        place.path().join("sendflowr.toml"),
        "[host.plugins]\nlocked = true\n",
    )
    .unwrap();
    let (code, text) = list();
    assert_eq!(code, Some(1), "{text}");
    assert!(
        row(&text, "sendgrid.wasm").contains("sendgrid.wasm refused `sendgrid.wasm` is not pinned"),
        "{text}"
    );
    let refused = last(check("plugins/sendgrid.wasm"));
    assert!(
        refused.contains("refuses it as configured: it is not pinned in `plugins.lock`"),
        "{refused}"
    );

    let keys = KeyPair::generate_unencrypted_keypair().unwrap();
    let configuration = format!("[host.plugins]\ntrusted_keys = [\"{}\"]\n", keys.pk.to_base64());
    fs::write(place.path().join("sendflowr.toml"), configuration).unwrap();
    let (code, text) = list();
    assert_eq!(code, Some(1), "{text}");
    assert!(row(&text, "postmark.wasm").contains("is not signed"), "{text}");
    let refused = last(check("plugins/postmark.wasm"));
    assert!(
        refused.contains("refuses it as configured: it is not signed"),
        "{refused}"
    );
}

/// Packages a component by hand as `wkg` and `oras` do.
fn packaged(
    registry: &Registry,
    tag: &str,
    component: &[u8],
    change: impl FnOnce(&mut serde_json::Value),
) -> String {
    let config = json!({
        "created": "2026-01-05T18:30:00Z", "author": "Ann", "architecture": "wasm", "os": "wasip2",
        "layerDigests": [digest(component)],
        "component": { "exports": ["sendflowr:connector/plugin@1.1.0"], "imports": [], "target": null },
    })
    .to_string();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.wasm.config.v0+json",
            "digest": registry.blob(config.as_bytes()), "size": config.len(),
        },
        "layers": [{ "mediaType": "application/wasm", "digest": registry.blob(component), "size": component.len() }],
        "annotations": { "org.opencontainers.image.title": "postmark" },
    });
    change(&mut manifest);
    registry.manifest(tag, manifest.to_string().as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_components_that_the_host_would_serve_are_pulled() {
    let registry = Registry::start(Door::Open).await;
    let place = folder(&[]);
    let component = fs::read(plugins().join("postmark.wasm")).unwrap();
    let size = component.len();
    let good = packaged(&registry, "good", &component, |_| {});
    let other_type =
        |manifest: &mut serde_json::Value| manifest["layers"][0]["mediaType"] = json!("application/x-tar");
    packaged(&registry, "layer", &component, other_type);
    packaged(&registry, "config", &component, |manifest| {
        manifest["config"]["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    });
    packaged(&registry, "two", &component, |manifest| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"] = json!([layer, layer]);
    });
    packaged(&registry, "large", &component, |manifest| {
        manifest["layers"][0]["size"] = json!(40_000_000)
    });
    packaged(&registry, "short", &component, |manifest| {
        manifest["layers"][0]["size"] = json!(size - 1)
    });
    packaged(&registry, "traversal", &component, |manifest| {
        manifest["layers"][0]["digest"] = json!("sha256:../../../etc/passwd");
    });
    packaged(&registry, "index", &component, |manifest| {
        *manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [] });
    });
    packaged(&registry, "text", b"no plugin", |_| {});
    let missing = registry.reference("missing");
    for (tag, part) in [
        ("layer", "layer has the type `application/x-tar`"),
        (
            "config",
            "the artifact is not a WebAssembly component: its config has the type `application/vnd.oci.image.config.v1+json`",
        ),
        ("two", "the artifact has 2 layers, a component has one"),
        (
            "large",
            "the component has 40000000 bytes, a plugin may have 33554432 (`host.plugins.limits.file_bytes`)",
        ),
        ("short", "has more than"),
        ("traversal", "a digest, as after `@`, must be"),
        ("index", "is an index of several"),
        ("text", "is not a WebAssembly component"),
        ("missing", "there is no such artifact in the registry"),
    ] {
        let told = fails(place.path(), &["pull", &registry.reference(tag)]);
        assert!(told.contains(part), "{tag}: {told}");
    }
    assert!(fails(place.path(), &["pull", &format!("{missing}@{good}x")]).contains("a digest, as after"));

    let told = works(
        place.path(),
        &["pull", &registry.reference("good"), "--out", "elsewhere", "--pin"],
    );
    assert!(told.contains("not signed"), "{told}");
    assert_eq!(
        fs::read(place.path().join("elsewhere/postmark.wasm")).unwrap(),
        component
    );
    assert!(place.path().join("elsewhere/plugins.lock").exists());
    assert!(listed(place.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lies_stalls_or_babbles_changes_nothing() {
    let registry = Registry::start(Door::Open).await;
    let place = folder(&[]);
    let component = fs::read(plugins().join("postmark.wasm")).unwrap();
    let good = packaged(&registry, "good", &component, |_| {});
    let by_tag = registry.reference("good");
    let by_digest = format!("{by_tag}@{good}");
    let something_else = "the registry sent something other than a manifest";
    for (manner, part) in [
        (
            Manner::LyingHeader,
            "the digest that the registry states for the manifest",
        ),
        (Manner::Manifests(b"\xff\xfe garbage"), something_else),
        (Manner::Manifests(b""), something_else),
        (Manner::Manifests(b"{\"schemaVersion\":1}"), something_else),
        (
            Manner::LongManifests(300_000),
            "the manifest: has more than 262144 bytes",
        ),
        (Manner::AlteredBlobs, "sent a layer with the digest"),
        (Manner::LongBlobs, "the layer: has more than"),
        (
            Manner::Status(429),
            "the registry answered 429 Too Many Requests, TOOMANYREQUESTS",
        ),
        (Manner::Status(500), "the registry answered 500"),
        (Manner::Circles, "it redirects too many times"),
        (Manner::Silent, "it takes longer than 1 s (`--timeout`)"),
    ] {
        registry.behave(manner);
        let told = fails(place.path(), &["pull", &by_tag, "--timeout", "1"]);
        // On a busy machine some fail by the timeout; the manner that is meant to do so is the last.
        let by_clock = manner != Manner::Silent && told.contains("(`--timeout`)");
        let told = if by_clock {
            fails(place.path(), &["pull", &by_tag])
        } else {
            told
        };
        assert!(told.contains(part), "{manner:?}: {told}");
        assert!(!told.contains('\u{1b}') && !told.contains("evil"), "{told}");
    }
    registry.behave(Manner::Manifests(b"{}"));
    let told = fails(place.path(), &["pull", &by_digest]);
    assert!(
        told.contains("the registry sent a manifest with the digest"),
        "{told}"
    );
    registry.behave(Manner::Honest);
    works(place.path(), &["pull", &by_digest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn private_registries_get_credentials_that_nobody_else_sees() {
    let component = fs::read(plugins().join("postmark.wasm")).unwrap();
    for door in [Door::Basic, Door::Token] {
        let registry = Registry::start(door).await;
        packaged(&registry, "good", &component, |_| {});
        let reference = registry.reference("good");
        let place = folder(&[]);
        let refused = fails(place.path(), &["pull", &reference]);
        assert!(refused.contains("log in with `docker login`"), "{refused}");

        let host = registry.address.to_string();
        let given = |password: &str| {
            let environment = [
                ("SENDFLOWR_REGISTRY__HOST", host.as_str()),
                ("SENDFLOWR_REGISTRY__USERNAME", USER.0),
                ("SENDFLOWR_REGISTRY__PASSWORD", password),
            ];
            let output = plugin(
                place.path(),
                &["--log", "trace", "pull", &reference],
                &environment,
            );
            (output.status.success(), told(&output))
        };
        let (is_pulled, text) = given("a-wrong-one");
        assert!(
            !is_pulled && text.contains("denies access") && !text.contains("a-wrong-one"),
            "{text}"
        );
        let (is_pulled, text) = given(USER.1);
        assert!(is_pulled && !text.contains(USER.1), "{text}");

        // As `docker login` stores them.
        use base64::{Engine, engine::general_purpose::STANDARD};
        let auth = STANDARD.encode(format!("{}:{}", USER.0, USER.1));
        let docker = json!({ "auths": { host.as_str(): { "auth": auth } } }).to_string();
        fs::write(place.path().join("docker/config.json"), docker).unwrap();
        works(place.path(), &["pull", &reference]);
        works(
            place.path(),
            &["push", "plugins/postmark.wasm", &registry.reference("again")],
        );
        // Each command sends three requests, so that a token expires in the middle.
        registry.behave(Manner::ShortTokens);
        works(place.path(), &["pull", &reference]);
        works(
            place.path(),
            &["push", "plugins/postmark.wasm", &registry.reference("later")],
        );
    }
    let registry = Registry::start(Door::BrokenToken).await;
    let place = folder(&[]);
    let environment = [
        ("SENDFLOWR_REGISTRY__HOST", registry.address.to_string()),
        ("SENDFLOWR_REGISTRY__USERNAME", USER.0.to_owned()),
        ("SENDFLOWR_REGISTRY__PASSWORD", USER.1.to_owned()),
    ];
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let output = plugin(place.path(), &["pull", &registry.reference("good")], &environment);
    assert!(!output.status.success());
    assert!(
        told(&output).contains("sent a token that is not a valid header value"),
        "{}",
        told(&output)
    );
}
