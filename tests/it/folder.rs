//! The data folder: who may read it, and what keeps a role from starting with the wrong one.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use integration_tests::{Role, binary, client, eventually, run, told};

/// An address that nobody has, where a role's start ends if nothing else ends it.
const NOWHERE: &str = "192.0.2.1:1";

fn start(folder: &Path, arguments: &[&str]) -> String {
    fs::create_dir_all(folder.join("plugins")).expect("a folder can be made");
    told(&run(folder, &[&["--plugins", "plugins"], arguments].concat()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

fn open_to_all(path: &Path) {
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("the mode can be set");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder can be listed");
    entries
        .map(|entry| entry.expect("the folder can be listed").path())
        .collect()
}

#[tokio::test]
async fn what_a_role_keeps_is_its_users_alone_in_any_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let data = folder.path().join("data");
    for kept in ["model", "recordings"] {
        fs::create_dir_all(data.join(kept)).expect("a folder can be made");
        open_to_all(&data.join(kept));
    }
    open_to_all(&data);
    drop(Role::launch_all(folder.path()).await);
    let all_private = || {
        let open = files(&data).into_iter().filter(|path| mode(path) & 0o077 != 0);
        let open: Vec<_> = open.collect();
        assert!(open.is_empty(), "{open:?}");
    };
    all_private();
    assert!(data.join("bus.db").exists() && data.join("events.db").exists());
    // What an earlier version left behind.
    for path in files(&data)
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "db"))
    {
        open_to_all(path);
    }
    drop(Role::launch_all(folder.path()).await);
    all_private();
}

#[tokio::test]
async fn another_pepper_is_refused_before_anybody_becomes_a_stranger() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let configure = |pepper: &str| {
        let text = format!("[identity]\n{pepper}");
        fs::write(folder.join("sendflowr.toml"), text).expect("a file can be written");
    };
    configure("pepper = 's3cret'");
    drop(Role::launch(folder, "inference").await);
    for other in ["", "pepper = 's3cret2'"] {
        configure(other);
        for arguments in [
            &["host", "--listen", "127.0.0.1:0"][..],
            &["inference", "--listen", "127.0.0.1:0"],
            &["person", "export", "--email", "ann@example.com"],
            &["config", "check", "--offline"],
        ] {
            let told = start(folder, arguments);
            assert!(
                told.contains("`identity.pepper` is not the one that the data in `data` were hashed with")
                    && !told.contains("s3cret"),
                "{arguments:?}: {told}"
            );
        }
    }
    fs::write(folder.join("empty"), "\n").expect("a file can be written");
    configure("pepper_file = 'empty'");
    let told = start(folder, &["config", "check", "--offline"]);
    assert!(told.contains("`identity.pepper` is empty, or the file"), "{told}");
    configure("pepper = 's3cret'");
    drop(Role::launch(folder, "host").await);
}

#[tokio::test]
async fn a_lost_seal_key_is_not_replaced_while_only_it_opens_something() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let set = ["account", "set", "acme/eu", "key=x"];
    assert!(start(folder, &set).contains("added"), "the first key may be made");
    let key = folder.join("data/seal.key");
    fs::rename(&key, folder.join("backup")).expect("the key is there");
    for arguments in [
        &["host", "--listen", "127.0.0.1:0"][..],
        &set,
        &["account", "list"],
        &["replay"],
    ] {
        let told = start(folder, arguments);
        assert!(
            told.contains("`data/seal.key` is missing, and only it opens the stored accounts"),
            "{arguments:?}: {told}"
        );
        assert!(!key.exists(), "{arguments:?}");
    }
    fs::write(&key, "ab".repeat(32)).expect("a file can be written");
    let host = Role::launch(folder, "host").await;
    let ready = client()
        .get(format!("{}/ready", host.url))
        .send()
        .await
        .expect("it answers");
    assert_eq!(ready.status(), 200);
    let ready: serde_json::Value = ready.json().await.expect("it is JSON");
    assert_eq!(ready["status"], "degraded", "{ready}");
    assert_eq!(ready["dependencies"]["accounts"]["status"], "unusable", "{ready}");
}

#[test]
fn a_check_creates_no_database() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let told = start(folder, &["config", "check"]);
    assert!(
        told.contains("not there yet: the first role creates it")
            && told.ends_with("configuration is valid\n"),
        "{told}"
    );
    assert!(!folder.join("data").exists());
    start(folder, &["synth", "--count", "1"]);
    let topics = start(folder, &["topics"]);
    assert!(
        topics.contains("sendflowr-replay") && topics.contains("email-events-dlq"),
        "{topics}"
    );
    let told = start(folder, &["config", "check"]);
    assert!(told.contains("bus         embedded    data  ok in"), "{told}");
    assert_eq!(told.matches("not there yet").count(), 2, "{told}");
}

#[test]
fn a_command_that_only_reads_refuses_a_store_that_is_not_there() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    for arguments in [
        &["person", "export", "--email", "ann@example.com"][..],
        &["person", "erase", "--email", "ann@example.com"],
        &["topics"],
        &["replay"],
        &["train"],
        &["backtest"],
        &["explain", "none"],
        &["lift"],
        &["latency"],
        &["account", "remove", "acme/eu"],
        &["account", "reseal"],
        &["import", "--embedded", "former"],
    ] {
        let output = run(folder, &[&["--plugins", "plugins"], arguments].concat());
        let told = told(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(
            told.contains("there is no `data/") && told.contains("`--config` or `--data` (`data_folder`)"),
            "{arguments:?}: {told}"
        );
        assert_eq!(files(folder), Vec::<PathBuf>::new(), "{arguments:?}");
    }
    let listed = run(folder, &["account", "list"]);
    assert_eq!(listed.status.code(), Some(0), "{}", told(&listed));
    assert!(
        told(&listed).contains("note: there is no `data/identity.db`, so no account is stored"),
        "{}",
        told(&listed)
    );
    assert_eq!(files(folder), Vec::<PathBuf>::new());
}

#[test]
fn a_command_that_fails_closes_what_it_has_opened() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    start(folder, &["account", "set", "acme/eu", "key=x"]);
    let before = files(&folder.join("data")).len();
    let told = start(folder, &["account", "remove", "acme/us"]);
    assert!(told.contains("no `acme` account `us` is stored"), "{told}");
    // SQLite's own files are there as long as the database is open.
    assert_eq!(files(&folder.join("data")).len(), before);
}

#[tokio::test]
async fn a_plugin_folder_that_is_not_there_is_told_of() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let told = |arguments: &[&str]| told(&run(folder, &[&["--plugins", "mistyped"], arguments].concat()));
    let checked = told(&["config", "check", "--offline"]);
    assert!(
        checked.contains("\nnote: `mistyped` (`host.plugins.folder`) is not there"),
        "{checked}"
    );
    assert!(!folder.join("mistyped").exists());
    let log = folder.join("host.log");
    let mut host = Command::new(binary())
        .current_dir(folder)
        .args(["--plugins", "mistyped", "host", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).expect("a file can be made"))
        .spawn()
        .expect("the binary runs");
    eventually("the folder is there", async || folder.join("mistyped").exists()).await;
    host.kill().expect("it still runs");
    host.wait().expect("it ends");
    let told = fs::read_to_string(log).expect("the log can be read");
    assert!(
        told.contains("`mistyped` (`host.plugins.folder` or `--plugins`) is not there and is created"),
        "{told}"
    );
}

#[test]
fn what_ends_a_process_is_a_log_line_too() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let told = start(
        folder.path(),
        &["--log-format", "json", "host", "--listen", NOWHERE],
    );
    let last = told.lines().last().expect("it tells why");
    let line: serde_json::Value = serde_json::from_str(last).expect("it is JSON");
    assert_eq!(line["level"], "ERROR");
    let message = line["message"].as_str().unwrap_or_default();
    assert!(
        message.contains(NOWHERE) && line["timestamp"].is_string(),
        "{line}"
    );
    let told = start(folder.path(), &["host", "--listen", "localhost:1"]);
    assert!(told.contains("must be an IP address and a port"), "{told}");
}
