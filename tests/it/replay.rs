//! Dead letters that the binary replays beside the running system.

use std::process::{Command, Output};

use integration_tests::{System, binary, eventually, letter};
use store::bus::{Bus, SqliteBus, SqliteBusConfig};

const UNSIGNED: &str = "[accounts.sendgrid.default]\nallow_unsigned = true\n";

fn command(system: &System, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .current_dir(system.folder())
        .args(["--data", "data", "replay"])
        .args(arguments)
        .env("SENDFLOWR_HOST__PLUGINS__FOLDER", "plugins");
    command
}

fn replay(system: &System, arguments: &[&str]) -> Output {
    command(system, arguments).output().expect("the binary runs")
}

/// Returns the last line of its output, and its exit code.
fn outcome(output: &Output) -> (String, Option<i32>) {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default().to_owned();
    (last, output.status.code())
}

fn open(email: &str, id: &str) -> String {
    format!(r#"{{"event":"open","timestamp":1767636000,"email":"{email}","sg_event_id":"{id}"}}"#)
}

#[tokio::test]
async fn a_replay_stores_nothing_twice() {
    let system = System::start(UNSIGNED, &["sendgrid"]).await;
    // The second element names nobody, so the whole delivery is kept as a dead letter, and the first element's event is stored.
    let body = format!(
        r#"[{},{{"event":"open","timestamp":1767636000}}]"#,
        open("ann@example.com", "a")
    );
    let answer = system.webhook("sendgrid", &[], body).await;
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (200, r#"{"accepted":1,"skipped":0,"rejected":1}"#)
    );
    eventually("its event is stored", || async {
        system.stored_events().await == 1
    })
    .await;

    // What cannot be read stays: a plugin that can read it may come later.
    for _ in 0..2 {
        let output = replay(&system, &[]);
        let text = String::from_utf8_lossy(&output.stdout);
        let letter = "sendgrid/default at offset 0 of partition 0: rejected_elements: 1 of its elements are still rejected\n  \
            element 1: `email` is missing";
        // The first element's event is stored: whatever a newer plugin made of it, it would not be stored again.
        let counts = "0 dead letters replayed, 0 events, 1 dead letter failed, 0 left alone";
        assert_eq!(
            text,
            format!("{letter}\n{counts}\n"),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(1));
    }
    // These follow on the bus whatever was replayed: once they are stored, the consumer has seen that too.
    for number in 0..20 {
        let body = format!("[{}]", open(&format!("b{number}@example.com"), "b"));
        assert_eq!(system.webhook("sendgrid", &[], body).await.status, 200);
    }
    eventually("the later events are stored", || async {
        system.stored_events().await >= 21
    })
    .await;
    assert_eq!(system.stored_events().await, 21);
}

#[tokio::test]
async fn of_a_report_about_several_recipients_only_the_rejected_are_replayed() {
    let system = System::start("[accounts.ses.default]\nallow_unsigned = true\n", &["ses"]).await;
    let report = r#"{"eventType":"Complaint","mail":{"messageId":"m"},"complaint":{"timestamp":"2026-01-05T18:00:00Z",
        "complainedRecipients":[{"emailAddress":"ann@example.com"},{"address":"bob@example.com"}]}}"#;
    let raw = [("x-amz-sns-rawdelivery".to_owned(), "true".to_owned())];
    let answer = system.webhook("ses", &raw, report).await;
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (200, r#"{"accepted":1,"skipped":0,"rejected":1}"#)
    );
    let output = replay(&system, &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text,
        "ses/default at offset 0 of partition 0: rejected_elements: 1 of its elements are still rejected\n  \
         element 1: the event names no recipient\n\
         0 dead letters replayed, 0 events, 1 dead letter failed, 0 left alone\n"
    );
}

#[tokio::test]
async fn a_letter_that_fails_stays_and_those_behind_it_are_done() {
    let system = System::start(UNSIGNED, &["sendgrid"]).await;
    let bus = SqliteBus::open(&system.folder().join("data"), SqliteBusConfig::default())
        .await
        .expect("the bus opens beside the system");
    // More than are read at once; one that cannot be read is among the first.
    let letters = (0..250).map(|number| {
        let esp = if number % 2 == 0 { "sendgrid" } else { "mailgun" };
        let mut event = letter::open_of(&format!("person-{number}"), esp);
        if number == 2 {
            event.schema_version += 1;
        }
        letter::too_new(&event)
    });
    bus.append(letters.collect()).await.expect("letters are taken");

    let counts = |arguments: &[&str]| outcome(&replay(&system, arguments));
    assert_eq!(
        counts(&["--dry-run"]),
        (
            "249 dead letters would be replayed, 249 events, 1 dead letter failed, 0 left alone".into(),
            Some(1)
        )
    );
    assert_eq!(
        counts(&["--provider", "mailgun"]),
        (
            "125 dead letters replayed, 125 events, 0 dead letters failed, 125 left alone".into(),
            Some(0)
        )
    );
    assert_eq!(
        counts(&[]),
        (
            "124 dead letters replayed, 124 events, 1 dead letter failed, 0 left alone".into(),
            Some(1)
        )
    );
    let late = letter::too_new(&letter::open_of("late", "mailgun"));
    bus.append(vec![late]).await.expect("a letter is taken");
    for (arguments, replayed) in [(&["--dry-run"][..], 1), (&[], 1), (&["--dry-run"], 0), (&[], 0)] {
        let (told, code) = counts(arguments);
        let s = if replayed == 1 { "" } else { "s" };
        assert!(told.starts_with(&format!("{replayed} dead letter{s} ")), "{told}");
        assert!(
            told.ends_with(&format!(
                "replayed, {replayed} event{s}, 1 dead letter failed, 0 left alone"
            )),
            "{told}"
        );
        assert_eq!(code, Some(1));
    }
    // `sendgrid` has a plugin, `nosuch` nothing at all.
    let nosuch = replay(&system, &["--provider", "nosuch"]);
    let told = String::from_utf8_lossy(&nosuch.stderr);
    assert!(
        told.contains("note: no dead letter of `nosuch` waits, and no plugin has that name"),
        "{told}"
    );
    let told = counts(&["--provider", "sendgrid"]).0;
    assert!(told.starts_with("0 dead letters replayed"), "{told}");
    // An event of a newer version is for a newer version.
    assert!(
        counts(&["--discard-unreadable"])
            .0
            .ends_with("1 dead letter failed, 0 left alone, 0 discarded")
    );
    eventually("every event is stored", || async {
        system.stored_events().await >= 250
    })
    .await;
    assert_eq!(system.stored_events().await, 250);
}

#[tokio::test]
async fn what_strangers_have_left_holds_nothing_back_once_it_is_discarded() {
    let accounts = "[accounts.mailgun.default]\nsigning_key = 'k'\n\
        [accounts.sendgrid.default]\nallow_unsigned = true\n";
    let system = System::start(accounts, &["mailgun", "sendgrid"]).await;
    // Nothing proves the first; the second was accepted without a proof by configuration, so it counts as genuine.
    let answer = system.webhook("mailgun", &[], "no form").await;
    assert_eq!((answer.status, answer.error_code()), (406, "malformed"));
    let answer = system.webhook("sendgrid", &[], "no list").await;
    assert_eq!((answer.status, answer.error_code()), (400, "malformed"));

    let output = replay(&system, &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains(
            "mailgun/default at offset 0 of partition 0: malformed: it is unproven: the body is not JSON: a value expected at byte 0\n"
        ),
        "{text}"
    );
    assert_eq!(
        outcome(&output),
        (
            "0 dead letters replayed, 0 events, 2 dead letters failed, 0 left alone".into(),
            Some(1)
        )
    );
    assert_eq!(
        outcome(&replay(&system, &["--discard-unproven"])),
        (
            "0 dead letters replayed, 0 events, 1 dead letter failed, 0 left alone, 1 discarded".into(),
            Some(1)
        )
    );
    let output = replay(&system, &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("mailgun"), "it is read once more: {text}");
    assert_eq!(
        outcome(&output).0,
        "0 dead letters replayed, 0 events, 1 dead letter failed, 0 left alone"
    );
}

#[tokio::test]
async fn what_no_plugin_will_ever_read_can_be_discarded() {
    let system = System::start(UNSIGNED, &["sendgrid"]).await;
    assert_eq!(system.webhook("sendgrid", &[], "no list").await.status, 400);
    let nobody = r#"[{"event":"open","timestamp":1767636000}]"#;
    assert_eq!(system.webhook("sendgrid", &[], nobody).await.status, 200);

    let (told, code) = outcome(&replay(&system, &["--dry-run"]));
    assert_eq!(
        told,
        "0 dead letters would be replayed, 0 events, 2 dead letters failed, 0 left alone"
    );
    assert_eq!(code, Some(1), "a dry run says what the real one does");
    let dry = replay(&system, &["--dry-run", "--discard-unreadable"]);
    assert_eq!(
        outcome(&dry),
        (
            "0 dead letters would be replayed, 0 events, 0 dead letters failed, 0 left alone, 2 would be discarded"
                .into(),
            Some(0)
        )
    );
    let output = replay(&system, &["--discard-unreadable"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text,
        "sendgrid/default at offset 0 of partition 0: malformed: discarded: the body is not a JSON array\n\
         sendgrid/default at offset 1 of partition 0: rejected_elements: discarded: 1 of its elements are still rejected\n  \
         element 0: `email` is missing\n\
         0 dead letters replayed, 0 events, 0 dead letters failed, 0 left alone, 2 discarded\n"
    );
    assert_eq!(
        outcome(&replay(&system, &[])),
        (
            "0 dead letters replayed, 0 events, 0 dead letters failed, 0 left alone".into(),
            Some(0)
        )
    );
}

#[tokio::test]
async fn a_replay_leaves_recordings_to_the_host() {
    let system = System::start(&format!("{UNSIGNED}record_deliveries = 3\n"), &["sendgrid"]).await;
    let body = format!("[{}]", open("ann@example.com", "a"));
    assert_eq!(system.webhook("sendgrid", &[], body).await.status, 200);
    let kept = || {
        let folder = system.folder().join("data/recordings/sendgrid@default");
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    };
    eventually("the delivery is recorded", || async { kept() == 1 }).await;
    // Its setting of recordings differs from the host's.
    let replayed = command(&system, &[])
        .env("SENDFLOWR_ACCOUNTS__SENDGRID__DEFAULT__RECORD_DELIVERIES", "0")
        .output()
        .expect("the binary runs");
    assert_eq!(outcome(&replayed).1, Some(0));
    assert_eq!(kept(), 1);
}
