//! Plugins that are added, replaced, broken and removed while the host serves.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use integration_tests::{System, binary, eventually, plugins, repository, run, told};
use serde_json::{Value, json};

use crate::{POSTMARK, drop_postmark, guest::guest, postmark_answer, postmark_click, postmark_headers};

fn click() -> String {
    postmark_click("ann@example.com", "m", "2026-01-05T18:30:00Z")
}

#[tokio::test]
async fn a_file_is_served_when_it_comes_and_gone_when_it_goes() {
    let system = System::start(POSTMARK, &["mailgun"]).await;
    // There is an account, so the provider is asked to send deliveries again later.
    assert_eq!(postmark_answer(&system).await, 503);
    drop_postmark(&system, &plugins()).await;
    let list = system.host_get("/plugins").await;
    let slugs: Vec<_> = list.body["plugins"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|plugin| plugin["slug"].clone())
        .collect();
    assert_eq!(slugs, ["mailgun", "postmark"], "{}", list.text);
    fs::remove_file(system.folder().join("plugins/postmark.wasm")).expect("the plugin can be removed");
    eventually("the plugin is gone", || async {
        postmark_answer(&system).await == 503
    })
    .await;
}

#[tokio::test]
async fn a_bad_file_is_reported_and_the_old_plugin_serves_on() {
    let system = System::start(POSTMARK, &["postmark"]).await;
    let file = system.folder().join("plugins/postmark.wasm");
    let good = fs::read(&file).expect("the plugin is there");
    fs::write(&file, "not a component").expect("the plugin can be overwritten");
    eventually("the bad file is reported", || async {
        let list = system.host_get("/plugins").await;
        list.body["plugins"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|plugin| plugin["problem"].is_string())
    })
    .await;
    assert_eq!(postmark_answer(&system).await, 200);
    fs::write(&file, good).expect("the plugin can be restored");
    eventually("the log says that it is well again", || async {
        system
            .log()
            .contains("plugin file `postmark.wasm` is no longer refused")
    })
    .await;
}

#[tokio::test]
async fn swapping_under_load_fails_no_delivery() {
    let system = System::start(POSTMARK, &["postmark"]).await;
    let file = system.folder().join("plugins/postmark.wasm");
    let original = fs::read(&file).expect("the plugin is there");
    // One custom section more: another file of the same plugin.
    let mut other = original.clone();
    other.extend_from_slice(&[0, 5, 4, b'n', b'o', b't', b'e']);
    let url = format!("http://{}/webhooks/postmark", system.host);
    let http = system.http.clone();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let load = tokio::spawn(async move {
        let mut statuses = Vec::new();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let mut request = http.post(&url).body(click());
            for (name, value) in postmark_headers() {
                request = request.header(name, value);
            }
            statuses.push(
                request
                    .send()
                    .await
                    .map_or(0, |response| response.status().as_u16()),
            );
        }
        statuses
    });
    let digest = |body: &Value| {
        body["plugins"][0]["digest"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    for bytes in [&other, &original, &other] {
        let before = digest(&system.host_get("/plugins").await.body);
        let beside = system.folder().join("plugins/postmark.new");
        fs::write(&beside, bytes).expect("a file can be written");
        fs::rename(&beside, &file).expect("a file can be renamed");
        eventually("the new file is served", || async {
            digest(&system.host_get("/plugins").await.body) != before
        })
        .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let statuses = load.await.expect("the load does not panic");
    assert!(statuses.len() > 10, "only {} deliveries", statuses.len());
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[test]
fn two_files_of_one_provider_are_not_tested_as_one() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let copy = folder.path().join("other.wasm");
    fs::copy(plugins().join("postmark.wasm"), &copy).expect("the plugin can be copied");
    let output = Command::new(binary())
        .args(["plugin", "test", "--cases"])
        .arg(repository().join("plugins/postmark/cases"))
        .args([plugins().join("postmark.wasm"), copy])
        .output()
        .expect("the binary runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("are both plugins for `postmark`"), "{told}");
}

#[test]
fn what_the_host_refuses_is_no_event_of_a_case() {
    let plugin = repository().join("tests/golden/1.1.0/mandrill.wasm");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let cases = folder.path().join("case.json");
    // One event with a recipient, a report and an act with only a message id, one event with neither, which the plugin itself
    // rejects, and one of the year 2100.
    let events = json!([
        { "event": "open", "ts": 1_768_046_400, "msg": { "_id": "m-1", "email": "ann@example.com" } },
        { "event": "send", "ts": 1_768_046_400, "msg": { "_id": "m-2" } },
        { "event": "open", "ts": 1_768_046_400, "msg": { "_id": "m-2" } },
        { "event": "open", "ts": 1_768_046_400, "msg": {} },
        { "event": "open", "ts": 4_102_444_800_i64, "msg": { "_id": "m-3", "email": "ann@example.com" } },
    ]);
    let case = json!({
        "provider": "mandrill",
        "name": "refused-by-the-host",
        "now": "2026-01-10T12:00:00Z",
        "request": {
            "headers": { "content-type": "application/x-www-form-urlencoded" },
            "body": format!("mandrill_events={events}"),
        },
        "expect": { "outcome": "accepted", "events": [{ "message_id": "m-1" }, { "message_id": "m-2" }], "skipped": 3 },
    });
    fs::write(&cases, case.to_string()).expect("the case can be written");

    let run = |arguments: &[&str]| {
        let output = Command::new(binary())
            .arg("plugin")
            .args(arguments)
            .args([&cases, &plugin])
            .output()
            .expect("the binary runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{told}");
        told
    };
    run(&["test", "--cases"]);
    let reading: Value = serde_json::from_str(&run(&["normalize", "--delivery"])).expect("a reading");
    assert_eq!(
        reading["rejected"],
        json!([
            { "index": 2, "reason": "there is no address and no other identity of the recipient" },
            { "index": 3, "reason": "the event names neither recipient nor message" },
            { "index": 4, "reason": "its time is more than a day after its receipt" },
        ])
    );
}

#[test]
fn plugins_are_judged_by_the_limits_that_are_configured() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let configuration = "[host.plugins.limits]\nfile_bytes = 1024";
    fs::write(folder.path().join("sendflowr.toml"), configuration).expect("a file can be written");
    fs::create_dir(folder.path().join("plugins")).expect("a folder can be made");
    let file = "plugins/postmark.wasm";
    fs::copy(plugins().join("postmark.wasm"), folder.path().join(file)).expect("the plugin can be copied");
    let cases = repository().join("plugins/postmark/cases");
    let cases = cases.to_str().expect("the path is UTF-8");
    for arguments in [
        &["plugin", "check", file][..],
        &["plugin", "list"],
        &["plugin", "test", file, "--cases", cases],
        &["plugin", "normalize", file, "--delivery", cases],
        &["plugin", "bench", file],
        &["account", "set", "postmark", "basic_auth_user=me"],
    ] {
        let output = run(folder.path(), &[&["--plugins", "plugins"], arguments].concat());
        let told = told(&output);
        assert!(told.contains("has more than 1024 bytes"), "{arguments:?}: {told}");
    }
}

#[test]
fn a_plugin_folder_that_is_not_there_is_named_with_its_setting() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let output = run(folder.path(), &["--plugins", "plugons", "plugin", "list"]);
    let told = told(&output);
    assert!(!output.status.success(), "{told}");
    assert!(
        told.contains("the plugin folder `plugons` (`host.plugins.folder` or `--plugins`) cannot be read"),
        "{told}"
    );
}

#[test]
fn a_case_that_fails_shows_all_that_the_plugin_logged() {
    const LINES: usize = 1000;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let talkative = guest("talkative").normalize(&format!(
        "(local $left i32)
         (local.set $left (i32.const {LINES}))
         (loop $next
           (call $log (i32.const 1) (i32.const 1024) (i32.const 5))
           (local.set $left (i32.sub (local.get $left) (i32.const 1)))
           (br_if $next (local.get $left)))
         i32.const 768"
    ));
    fs::write(folder.path().join("talkative.wasm"), talkative.build()).expect("a file can be written");
    let case = r#"{"provider": "talkative", "name": "a", "request": {"body": "[]"}, "expect": {"outcome": "skipped"}}"#;
    fs::write(folder.path().join("case.json"), case).expect("a file can be written");
    let output = run(
        folder.path(),
        &[
            "--log",
            "debug",
            "plugin",
            "test",
            "talkative.wasm",
            "--cases",
            "case.json",
        ],
    );
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(log.matches("plugin=talkative").count(), LINES, "{log}");
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::copy(
        plugins().join("postmark.wasm"),
        folder.path().join("postmark.wasm"),
    )
    .expect("the plugin can be copied");
    let cases = repository().join("plugins/postmark/cases");
    let cases = cases.to_str().expect("the path is UTF-8");
    let printing = |arguments: &[&str], out: Stdio| {
        Command::new(binary())
            .current_dir(folder.path())
            .args(["--plugins", "."])
            .args(arguments)
            .stdout(out)
            .output()
            .expect("the binary runs")
    };
    for arguments in [
        &["plugin", "check", "postmark.wasm"][..],
        &["plugin", "list"],
        &["plugin", "test", "postmark.wasm", "--cases", cases],
        &["config", "check", "--offline"],
    ] {
        let full = fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("Linux has it");
        let output = printing(arguments, full.into());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", told(&output));
        let problem = "cannot write the result to standard output: No space left on device";
        assert!(
            told(&output).contains(problem),
            "{arguments:?}: {}",
            told(&output)
        );
    }
    // Nobody who closes a pipe wants the rest.
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    let output = printing(&["plugin", "list"], writer.into());
    assert!(output.status.success(), "{}", told(&output));
}

/// A case that asserts nothing would cover nothing.
#[test]
fn a_case_that_expects_what_nothing_is_compared_with_fails() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let plugin = plugins().join("postmark.wasm");
    let plugin = plugin.to_str().expect("the path is UTF-8");
    for (expect, problem) in [
        (
            r#""expect": {"outcome": "accepted", "skiped": 9}"#,
            "unknown field `skiped`",
        ),
        (
            r#""expects": {"outcome": "accepted"}"#,
            "unknown key `expects`: did you mean `expect`?",
        ),
        (r#""wanted": {"outcome": "accepted"}"#, "`expect` is empty"),
        (
            r#""cofnig": {"basic_auth_user": "me"}, "expect": {"outcome": "accepted"}"#,
            "unknown key `cofnig`: did you mean `config`?",
        ),
    ] {
        let case =
            format!(r#"{{"provider": "postmark", "name": "typo", "request": {{"body": "[]"}}, {expect}}}"#);
        fs::write(folder.path().join("case.json"), case).expect("a file can be written");
        let output = run(folder.path(), &["plugin", "test", plugin, "--cases", "case.json"]);
        let told = told(&output);
        assert!(!output.status.success() && told.contains(problem), "{told}");
    }
}

#[test]
fn every_case_file_has_a_result_of_its_own() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let write = |file: &str, provider: &str, name: &str, expect: &str| {
        let case = format!(
            r#"{{"provider": "{provider}", "name": "{name}", "request": {{"body": "[]"}}, "expect": {expect}}}"#
        );
        fs::write(folder.path().join(file), case).expect("a file can be written");
    };
    write("1.json", "postmark", "twin", r#"{"outcome": "bad_request"}"#);
    write("2.json", "postmark", "twin", r#"{"outcome": "bad_request"}"#);
    write("3.json", "postmrak", "stranger", r#"{"outcome": "bad_request"}"#);
    fs::write(folder.path().join("4.json"), "{").expect("a file can be written");
    let long = format!(r#"{{"outcome": "{}"}}"#, "x".repeat(200));
    write("5.json", "postmark", "long", &long);
    let plugin = plugins().join("postmark.wasm");
    let plugin = plugin.to_str().expect("the path is UTF-8");
    let arguments = ["plugin", "test", plugin, "--cases", "."];
    let output = run(folder.path(), &arguments);
    let told = told(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let (table, below) = told.split_once("\n\n").expect("a table and what follows it");
    for (line, expected) in table.lines().skip(2).zip([
        &["postmark/twin (./1.json)", "ok"][..],
        &["postmark/twin (./2.json)", "ok"],
        &[
            "postmrak/stranger",
            "FAILED",
            "the case is for `postmrak`, the plugin is `postmark`",
        ],
        &["./4.json", "FAILED", "`./4.json`: is not a case"],
        &["postmark/long", "FAILED", "outcome: expected `xxx", "…"],
    ]) {
        assert!(
            expected.iter().all(|part| line.contains(part)),
            "{expected:?}: {told}"
        );
        assert!(line.chars().count() < 130, "{told}");
    }
    assert!(below.contains(&"x".repeat(200)), "{told}");
    assert!(below.ends_with("2 passed, 3 failed\n"), "{told}");

    // With several plugins, the files of others may lie beside theirs.
    let mailgun = plugins().join("mailgun.wasm");
    let mailgun = mailgun.to_str().expect("the path is UTF-8");
    let output = run(folder.path(), &[&arguments[..], &[mailgun]].concat());
    let told = self::told(&output);
    assert!(told.contains("2 passed, 2 failed; 1 cases are for"), "{told}");
}

#[test]
fn a_command_tells_the_cause_of_an_error_once() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::write(folder.path().join("case.json"), r#"{ "provider": 1 }"#).expect("a file can be written");
    let plugin = plugins().join("postmark.wasm");
    let plugin = plugin.to_str().expect("the path is UTF-8");
    let output = run(
        folder.path(),
        &["plugin", "normalize", plugin, "--delivery", "case.json"],
    );
    let told = told(&output);
    assert!(
        told.contains("is not a case: ") && told.matches("invalid type").count() == 1,
        "{told}"
    );
}
