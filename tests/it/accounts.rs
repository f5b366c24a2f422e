//! Accounts that are added through the command line while the host runs.

use std::{fs, path::Path, process::Output};

use integration_tests::{System, binary, eventually, plugins, run, told};

use crate::{postmark_click, postmark_headers};

const CONFIGURED: &str = "[accounts.postmark.us]\nbasic_auth_user = 'me'\nbasic_auth_password = 'other'\n";

fn account(system: &System, arguments: &[&str]) -> Output {
    account_in(system.folder(), arguments)
}

fn account_in(folder: &Path, arguments: &[&str]) -> Output {
    let with_data = ["--data", "data", "--plugins", "plugins", "account"];
    run(folder, &[&with_data, arguments].concat())
}

#[tokio::test]
async fn an_account_added_while_the_host_runs_is_served_and_ends_when_it_is_removed() {
    let mut system = System::start(CONFIGURED, &["postmark"]).await;
    let status = async |system: &System| {
        let click = postmark_click("ann@example.com", "m-1", "2026-01-05T18:30:00Z");
        system
            .webhook("postmark/eu", &postmark_headers(), click)
            .await
            .status
    };
    assert_eq!(status(&system).await, 404);

    fs::write(system.folder().join("password"), "secret\n").expect("a file can be written");
    let values = ["basic_auth_user=me", "basic_auth_password=@password", "extra=1"];
    let added = account(&system, &[&["set", "postmark/eu"], &values[..]].concat());
    assert!(added.status.success(), "{}", told(&added));
    assert!(
        told(&added).contains("has `extra`, which the plugin does not know"),
        "{}",
        told(&added)
    );
    assert!(
        told(&added).contains(
            "stored in `data/identity.db`; running hosts that use it serve `/webhooks/postmark/eu`"
        ),
        "{}",
        told(&added)
    );
    assert!(!told(&added).contains("was not there"), "{}", told(&added));
    eventually("the host serves it", || async { status(&system).await == 200 }).await;

    // The account survives the process, and no file contains the secret.
    assert!(system.stop().await);
    for entry in fs::read_dir(system.data()).expect("the data folder is there") {
        let path = entry.expect("the data folder can be listed").path();
        if path.is_file() {
            let bytes = fs::read(&path).expect("a file can be read");
            assert!(
                !bytes.windows(6).any(|window| window == b"secret"),
                "{}",
                path.display()
            );
        }
    }
    system.launch().await;
    assert_eq!(status(&system).await, 200);

    let listed = account(&system, &["list"]);
    let shown = told(&listed);
    assert!(
        shown.contains("eu") && shown.contains("basic_auth_password"),
        "{shown}"
    );
    assert!(
        shown.contains("configuration") && !shown.contains("secret"),
        "{shown}"
    );

    let wrong_key = [("SENDFLOWR_HOST__SEAL_KEY", "ab".repeat(32))];
    let refused = std::process::Command::new(binary())
        .current_dir(system.folder())
        .args(["--data", "data", "account", "set", "postmark/eu", "extra="])
        .envs(wrong_key)
        .output()
        .expect("the binary runs");
    assert!(!refused.status.success());
    assert!(
        told(&refused).contains("another key than `host.seal_key`"),
        "what it holds is not given up by mistake: {}",
        told(&refused)
    );

    fs::write(system.folder().join("empty"), "\n").expect("a file can be written");
    for (arguments, problem) in [
        (
            ["set", "postmark/eu", "basic_auth_password=@empty"],
            "the source of `basic_auth_password` is empty",
        ),
        // Standard input is empty here.
        (
            ["set", "postmark/eu", "basic_auth_password=-"],
            "the source of `basic_auth_password` is empty",
        ),
        (
            ["set", "postmark/us", "basic_auth_user=x"],
            "is in the configuration, which takes precedence",
        ),
        (
            ["set", "postmark/eu", "record_deliveries=5"],
            "can only be set in the configuration",
        ),
        (
            ["set", "postmark/e+u", "basic_auth_user=x"],
            "`postmark/e+u` is no account",
        ),
    ] {
        let refused = account(&system, &arguments);
        assert!(!refused.status.success(), "{arguments:?}");
        assert!(told(&refused).contains(problem), "{}", told(&refused));
    }
    let listed = account(&system, &["list"]);
    assert!(
        told(&listed).contains("basic_auth_password, basic_auth_user, extra"),
        "{}",
        told(&listed)
    );

    let removed = account(&system, &["remove", "postmark/eu"]);
    assert!(removed.status.success(), "{}", told(&removed));
    eventually("the host knows it no more", || async {
        status(&system).await == 404
    })
    .await;
    let again = account(&system, &["remove", "postmark/eu"]);
    assert!(!again.status.success() && told(&again).contains("no `postmark` account `eu` is stored"));
}

#[tokio::test]
async fn the_seal_key_is_replaced_and_even_lost_without_refusing_a_delivery() {
    let mut system = System::start("", &["postmark"]).await;
    let deliver = async |system: &System| {
        let click = postmark_click("ann@example.com", "m-1", "2026-01-05T18:30:00Z");
        system.webhook("postmark/eu", &postmark_headers(), click).await
    };
    let values = ["basic_auth_user=me", "basic_auth_password=secret"];
    let added = account(&system, &[&["set", "postmark/eu"], &values[..]].concat());
    assert!(added.status.success(), "{}", told(&added));

    let file = system.data().join("seal.key");
    let former = fs::read_to_string(&file).expect("the host has made a key");
    let new = "ab".repeat(32);
    fs::write(&file, format!("{new}\n{former}")).expect("a file can be written");
    assert!(system.stop().await);
    system.launch().await;
    assert_eq!(deliver(&system).await.status, 200, "the former key opens");
    let resealed = account(&system, &["reseal"]);
    assert!(
        resealed.status.success() && told(&resealed).contains("1 accounts are sealed"),
        "{}",
        told(&resealed)
    );
    fs::write(&file, &new).expect("a file can be written");
    assert!(system.stop().await);
    system.launch().await;
    assert_eq!(
        deliver(&system).await.status,
        200,
        "the former key is not needed any more"
    );

    fs::write(&file, "cd".repeat(32)).expect("a file can be written");
    assert!(system.stop().await);
    system.launch().await;
    let put_off = deliver(&system).await;
    assert_eq!(
        (put_off.status, put_off.error_code()),
        (503, "accounts_unavailable")
    );
    let resealed = account(&system, &["reseal"]);
    assert!(
        !resealed.status.success() && told(&resealed).contains("1 accounts cannot be opened"),
        "{}",
        told(&resealed)
    );
    let put = account(
        &system,
        &[&["set", "--replace", "postmark/eu"], &values[..]].concat(),
    );
    assert!(
        put.status.success() && told(&put).contains("its earlier values are discarded"),
        "{}",
        told(&put)
    );
    eventually("the host serves it again", || async {
        deliver(&system).await.status == 200
    })
    .await;
}

#[test]
fn an_account_is_stored_whatever_its_plugin_s_file_is() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::create_dir(folder.path().join("plugins")).expect("a folder can be made");
    fs::write(folder.path().join("plugins/acme.wasm"), "no plugin").expect("a file can be written");
    let added = account_in(folder.path(), &["set", "acme/eu", "key=x"]);
    assert!(added.status.success(), "{}", told(&added));
    let note = "note: the values that the plugin needs cannot be checked: ";
    assert!(told(&added).contains(note), "{}", told(&added));
    let listed = account_in(folder.path(), &["list"]);
    assert!(told(&listed).contains("acme"), "{}", told(&listed));
    // What is wrong for every plugin is not stored.
    let refused = account_in(
        folder.path(),
        &["set", "acme/us", "key=x", "timestamp_tolerance_seconds=5m"],
    );
    assert!(!refused.status.success());
    assert!(
        told(&refused)
            .contains("`accounts.acme.us.timestamp_tolerance_seconds` must be a whole number of seconds"),
        "{}",
        told(&refused)
    );
}

#[test]
fn an_account_that_no_running_host_sees_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::create_dir(folder.path().join("plugins")).expect("a folder can be made");
    for name in ["mailgun.wasm", "brevo.wasm", "README"] {
        fs::write(folder.path().join("plugins").join(name), "").expect("a file can be written");
    }
    let shown = told(&account_in(folder.path(), &["set", "mialgun/eu", "key=x"]));
    for expected in [
        "added `mialgun` account `eu`, stored in `data/identity.db`; running hosts that use it",
        "note: `data/identity.db` was not there and is created, so no running host uses it",
        "note: there is no plugin `plugins/mialgun.wasm` yet; there is `brevo`, `mailgun`\n",
    ] {
        assert!(shown.contains(expected), "{shown}");
    }
    let again = told(&account_in(folder.path(), &["set", "mialgun/eu", "key=y"]));
    assert!(
        again.contains("changed") && !again.contains("was not there"),
        "{again}"
    );
}

#[test]
fn the_list_of_plugins_shows_stored_accounts_too() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    fs::create_dir(folder.join("plugins")).expect("a folder can be made");
    fs::copy(
        plugins().join("mailgun.wasm"),
        folder.join("plugins/mailgun.wasm"),
    )
    .expect("the plugin can be copied");
    let list = |seal_key: Option<String>| {
        let output = std::process::Command::new(binary())
            .current_dir(folder)
            .args(["--data", "data", "--plugins", "plugins", "plugin", "list"])
            .envs(seal_key.map(|key| ("SENDFLOWR_HOST__SEAL_KEY", key)))
            .output()
            .expect("the binary runs");
        (output.status.code(), told(&output))
    };
    let set = |values: &[&str]| {
        let added = account_in(folder, &[&["set"], values].concat());
        assert!(added.status.success(), "{}", told(&added));
    };
    let (code, text) = list(None);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("default: refuses all deliveries without `signing_key`"),
        "{text}"
    );
    assert!(!folder.join("data").exists(), "a list makes no store");

    set(&["mailgun", "signing_key=k"]);
    set(&["mailgun/eu", "singing_key=k"]);
    let (code, text) = list(None);
    assert_eq!(code, Some(0), "{text}");
    for shown in [
        "default: ok; eu: refuses all deliveries without `signing_key`",
        "has `singing_key`, which the plugin does not know\n",
    ] {
        assert!(text.contains(shown), "{text}");
    }

    set(&["acme/eu", "key=x"]);
    let (code, text) = list(None);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("eu: no plugin serves `acme`"), "{text}");

    // What no host with this key could serve.
    let (code, text) = list(Some("ab".repeat(32)));
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("default: the stored `mailgun` account `default` was sealed with another key")
            && !text.contains("default: refuses"),
        "{text}"
    );

    fs::remove_file(folder.join("data/seal.key")).expect("the key can be removed");
    let (code, text) = list(None);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains(
            "note: only the configured accounts are listed, because the stored ones cannot be read: "
        ) && !text.contains("default"),
        "{text}"
    );
}
