//! Deliveries that are kept with the operator's consent, and how a new version of a plugin reads them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use integration_tests::{System, binary, eventually, plugins, repository, run, told};
use serde_json::Value;

const CASE: &str = "plugins/ses/cases/delivery-signature-v2-without-subject.json";

/// Accepts raw SES notifications with basic authentication and keeps the last three.
const ACCOUNTS: &str = "[accounts.ses.default]\nbasic_auth_user = 'me'\nbasic_auth_password = 'secret'\n\
    record_deliveries = 3\n";

/// Returns the event of SES's own sample, as SNS's raw delivery sends it.
fn delivery() -> String {
    let case = fs::read_to_string(repository().join(CASE)).expect("the case is there");
    let case: Value = serde_json::from_str(&case).expect("a case is JSON");
    let envelope: Value =
        serde_json::from_str(case["request"]["body"].as_str().expect("a body")).expect("a notification");
    envelope["Message"].as_str().expect("a message").to_owned()
}

fn recordings(system: &System) -> Vec<PathBuf> {
    let folder = system.data().join("recordings/ses@default");
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let files = entries.map(|entry| entry.expect("a file").path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "sealed"))
        .collect()
}

fn compare(system: &System, plugin: &Path, arguments: &[&str]) -> Output {
    Command::new(binary())
        .current_dir(system.folder())
        .args(["--data", "data", "plugin", "test", "--recorded"])
        .arg(plugin)
        .args(arguments)
        .env("SENDFLOWR_HOST__PLUGINS__FOLDER", "plugins")
        .output()
        .expect("the binary runs")
}

#[tokio::test]
async fn recorded_deliveries_show_what_a_new_version_changes() {
    let mut system = System::start(ACCOUNTS, &["ses"]).await;
    // The installed plugin is the one of contract 1.0.0, which does not report the time of sending yet.
    let old = repository().join("tests/golden/1.0.0/ses.wasm");
    let mut headers = crate::postmark_headers();
    headers.push(("x-amz-sns-rawdelivery".to_owned(), "true".to_owned()));
    let deliver = async |times| {
        for _ in 0..times {
            let answer = system.webhook("ses", &headers, delivery()).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    };
    deliver(3).await;
    eventually("three are kept", || async { recordings(&system).len() == 3 }).await;
    let mut first = recordings(&system);
    first.sort();
    deliver(2).await;
    eventually("the two oldest have made room", || async {
        let kept = recordings(&system);
        kept.len() == 3 && !kept.contains(&first[0]) && !kept.contains(&first[1])
    })
    .await;
    for path in recordings(&system) {
        let bytes = fs::read(&path).expect("a recording is readable");
        let shows = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!shows("example.com") && !shows("recipient"));
        assert!(!path.to_string_lossy().contains("recipient"));
    }

    // Listed, but gone when it is read, as happens while a host records.
    let folder = system.data().join("recordings/ses@default");
    let gone = folder.join(format!("{:015}_gone_ses@1.0.0.sealed", 0));
    std::os::unix::fs::symlink("nowhere", gone).expect("a link can be made");

    let new = plugins().join("ses.wasm");
    let against = ["--against", old.to_str().expect("a path")];
    let output = compare(&system, &new, &against);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains(r#"events[0].metadata.latency_seconds: null -> "11.893""#),
        "{text}"
    );
    assert!(
        text.ends_with("3 deliveries: 0 alike, 3 different, 0 of them with losses\n"),
        "{text}"
    );
    assert!(!text.contains("@example.com"), "{text}");

    let strict = compare(&system, &new, &[&against[..], &["--no-changes"]].concat());
    assert_eq!(strict.status.code(), Some(1));
    let alike = compare(
        &system,
        &new,
        &["--no-changes", "--format", "json", "--account", "ses"],
    );
    assert!(
        alike.status.success(),
        "{}",
        String::from_utf8_lossy(&alike.stderr)
    );
    let lines = String::from_utf8(alike.stdout).expect("text");
    assert_eq!(lines.lines().count(), 3);
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("a line is JSON");
        assert_eq!(line["differences"], Value::Array(Vec::new()));
    }

    let unknown = compare(&system, &new, &["--account", "ses/nope"]);
    assert_eq!(unknown.status.code(), Some(2));
    let message = String::from_utf8_lossy(&unknown.stderr).into_owned();
    let expected = "no delivery of `ses/nope` is recorded: set `record_deliveries` in its account, `[accounts.ses.nope]`";
    assert!(message.contains(expected), "{message}");
    let postmark = plugins().join("postmark.wasm");
    let other = compare(&system, &new, &["--against", postmark.to_str().expect("a path")]);
    assert_eq!(other.status.code(), Some(2));
    let message = String::from_utf8_lossy(&other.stderr).into_owned();
    let expected = "the plugin to compare with serves `postmark`, the new one `ses`";
    assert!(message.contains(expected), "{message}");

    // If all of them are gone by then, the error says what to do.
    for path in recordings(&system).iter().filter(|path| path.is_file()) {
        fs::remove_file(path).expect("a recording can be removed");
    }
    let too_late = compare(&system, &new, &against);
    assert_eq!(too_late.status.code(), Some(2));
    let message = String::from_utf8_lossy(&too_late.stderr).into_owned();
    assert!(message.contains("raise `record_deliveries`"), "{message}");

    // A new key would open nothing, and the host could not tell any more that the former one is lost.
    let key = system.data().join("seal.key");
    let kept = system.data().join("kept.key");
    fs::rename(&key, &kept).expect("the key is there");
    let keyless = compare(&system, &new, &against);
    assert_eq!(keyless.status.code(), Some(2));
    let message = String::from_utf8_lossy(&keyless.stderr).into_owned();
    assert!(
        message.contains("the seal key `data/seal.key` is missing"),
        "{message}"
    );
    assert!(!key.exists());
    fs::rename(&kept, &key).expect("the key can be moved back");
    let new = new.to_str().expect("a path");
    let mistyped = run(
        system.folder(),
        &[
            "--data",
            "dta",
            "--plugins",
            "plugins",
            "plugin",
            "test",
            "--recorded",
            new,
        ],
    );
    assert_eq!(mistyped.status.code(), Some(2));
    assert!(
        told(&mistyped).contains("the seal key `dta/seal.key` is missing"),
        "{}",
        told(&mistyped)
    );
    assert!(!system.folder().join("dta").exists());

    // Consent withdrawn: nothing is left after the next start.
    system.stop().await;
    let without = ACCOUNTS.replace("record_deliveries = 3\n", "");
    fs::write(system.folder().join("sendflowr.toml"), without).expect("the configuration can be written");
    system.launch().await;
    assert!(!system.data().join("recordings/ses@default").exists());
}
