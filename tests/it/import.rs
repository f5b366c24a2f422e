//! Past events: from a file or the embedded engines to decisions, through the binary.

use std::{fs, io::Write, path::Path, process::Output};

use flate2::{Compression, write::GzEncoder};
use integration_tests::{Answer, System, eventually, run, run_with_input, told};
use serde_json::{Value, json};

use crate::{postmark_click, postmark_headers};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// The end of the history in the file, and the time of the decisions: 2026-01-05T00:00:00Z, a Monday.
const END_MS: i64 = 1_767_571_200_000;

/// Days of history in the file.
const DAYS: i64 = 56;

fn import(folder: &Path, arguments: &[&str]) -> Output {
    run(folder, &[&["--data", "data", "import"], arguments].concat())
}

/// Writes `events.csv`: Ann is mailed and clicks every day at 09:00 UTC, known by her address; Bob clicks at 20:00, known by his
/// address and an own id; Eve has unsubscribed, known by an own id.
fn write_past(folder: &Path) {
    let mut csv = "user_id,email,timestamp_utc,event_type,message_id,campaign_id,esp\n".to_owned();
    for day in 1..=DAYS {
        let at = |hour: i64| (END_MS - day * DAY_MS + hour * HOUR_MS) / 1_000;
        csv += &format!("Ann@Example.com,,{},delivered,m-{day},spring,\n", at(8));
        csv += &format!("ann@example.com,,{},clicked,m-{day},spring,\n", at(9));
        csv += &format!("c-7,bob@example.com,{},clicked,n-{day},,mailgun/eu\n", at(20));
    }
    csv += &format!("c-9,,{},unsubscribed,,,\n", (END_MS - DAY_MS) / 1_000);
    fs::write(folder.join("events.csv"), csv).expect("it can be written");
}

/// The number of events in [`write_past`]'s file.
const ALL: u64 = 3 * DAYS as u64 + 1;

/// Asks for a decision without experiments about the person whom `who` names.
async fn ask(system: &System, who: Value) -> Answer {
    let mut question = json!({"window_hours": 48, "experiment": false, "now": "2026-01-05T00:00:00Z"});
    let fields = question.as_object_mut().expect("it is an object");
    fields.extend(who.as_object().expect("it is an object").clone());
    system.ask("/timing/decide", &question).await
}

async fn decide(system: &System, who: Value) -> Value {
    let answer = ask(system, who).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body
}

async fn assert_eve_is_suppressed(system: &System) {
    let eve = ask(
        system,
        json!({"identifiers": [{"kind": "external_id", "value": "c-9"}]}),
    )
    .await;
    assert_eq!(
        (eve.status, eve.error_code()),
        (409, "suppressed"),
        "{}",
        eve.text
    );
}

async fn until_stored(system: &System, count: u64) {
    eventually("the events are stored", || async {
        system.stored_events().await == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_know_people_from_a_file() {
    let system = System::start(
        "[accounts.mailgun.eu]\nsigning_key = 'k'\nexternal_id_scope = 'shop'\n",
        &["postmark"],
    )
    .await;
    let folder = system.folder();
    write_past(folder);
    let dry = import(
        folder,
        &["--events", "events.csv", "--account", "sendgrid", "--dry-run"],
    );
    assert_eq!(dry.status.code(), Some(0), "{}", told(&dry));
    let printed = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert_eq!(
        printed,
        format!("{ALL} events by 3 people would be put on the bus\n")
    );
    assert_eq!(system.stored_events().await, 0);

    let imported = import(folder, &["--events", "events.csv", "--account", "sendgrid"]);
    assert_eq!(imported.status.code(), Some(0), "{}", told(&imported));
    until_stored(&system, ALL).await;
    let ann = decide(&system, json!({"email": "ann@example.com"})).await;
    assert_eq!(ann["evidence"]["n"], DAYS, "{ann}");
    assert!(
        ann["target_timestamp"]
            .as_str()
            .is_some_and(|at| at.contains("T08:") || at.contains("T09:")),
        "{ann}"
    );
    let bob = decide(&system, json!({"email": "bob@example.com"})).await;
    assert_eq!(bob["evidence"]["n"], DAYS, "{bob}");
    // Whose id it is, another group writes.
    eventually("an id leads to the person", async || {
        let bob = json!({"identifiers": [{"kind": "external_id", "value": "shop:c-7"}]});
        decide(&system, bob).await["evidence"]["n"] == DAYS
    })
    .await;
    assert_eve_is_suppressed(&system).await;
    assert!(!system.log().contains("ann@"));

    // The same file again, and one more event, to know that it has been read.
    let one_more = "user_id,timestamp_utc,esp\ndan@example.com,2026-01-05T10:00:00Z,postmark\n";
    fs::write(folder.join("more.csv"), one_more).expect("it can be written");
    for arguments in [
        &["--events", "events.csv", "--account", "sendgrid"][..],
        &["--events", "more.csv"],
    ] {
        let again = import(folder, arguments);
        assert_eq!(again.status.code(), Some(0), "{}", told(&again));
    }
    until_stored(&system, ALL + 1).await;
    let ann = decide(&system, json!({"email": "ann@example.com"})).await;
    assert_eq!(ann["evidence"]["n"], DAYS, "{ann}");
}

#[test]
fn a_file_with_a_mistake_is_not_imported_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |line: &str| {
        let header = "user_id,timestamp_utc,event_type,email,esp";
        let text = format!("{header}\nann@example.com,2026-01-05T09:00:00Z,clicked,,sendgrid\n{line}\n");
        fs::write(folder.path().join("events.csv"), text).expect("it can be written");
        let output = import(folder.path(), &["--events", "events.csv"]);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", told(&output));
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        printed.lines().last().unwrap_or_default().to_owned()
    };
    let known = [
        (
            "bob@example.com,soon,,,sendgrid",
            "column `timestamp_utc`: `soon` is neither",
        ),
        (
            "bob@example.com,5,,,sendgrid",
            "column `timestamp_utc`: its time is before the year 2000",
        ),
        (
            "bob@example.com,4102444800,,,sendgrid",
            "column `timestamp_utc`: its time is more than a day after",
        ),
        (
            "bob@example.com,2026-01-05T09:00:00Z,,,",
            "column `esp`: empty, and there is no `--account`",
        ),
        (
            "bob@example.com,2026-01-05T09:00:00Z,,,a b",
            "column `esp`: `a b/default` is no account",
        ),
        (
            "7,2026-01-05T09:00:00Z,,bob,sendgrid",
            "column `email`: not an email address",
        ),
        (
            " ,2026-01-05T09:00:00Z,,,sendgrid",
            "column `user_id`: there is no address and no other identity",
        ),
        (
            "sf_07104875b11f6cf0f2e16e0a4bbdbff4,2026-01-05T09:00:00Z,,,sendgrid",
            "column `user_id`: an id of SendFlowr's own",
        ),
    ];
    for (line, what) in known {
        let told = refused(line);
        assert!(told.contains(&format!("line 3, {what}")), "{line}: {told}");
    }
    let mistyped = import(
        folder.path(),
        &["--events", "events.csv", "--account", "Send Grid"],
    );
    assert_eq!(mistyped.status.code(), Some(2), "{}", told(&mistyped));
    assert!(
        told(&mistyped).contains("'--account <ACCOUNT>': `Send Grid/default` is no account"),
        "{}",
        told(&mistyped)
    );
    // What was refused left nothing on the bus.
    let topics = run(folder.path(), &["--data", "data", "topics"]);
    let printed = String::from_utf8_lossy(&topics.stdout).into_owned();
    let events = printed.lines().find(|line| line.starts_with("sendflowr-events"));
    assert!(events.is_some_and(|line| line.ends_with(" 0")), "{printed}");
}

#[test]
fn a_pipe_is_read_as_a_file_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let piped = |bytes: &[u8]| {
        let arguments = [
            "import",
            "--events",
            "/dev/stdin",
            "--account",
            "sendgrid",
            "--dry-run",
        ];
        told(&run_with_input(folder.path(), &arguments, bytes))
    };
    let csv = "user_id,timestamp_utc,event_type\nann@example.com,2026-01-05T09:00:00Z,clicked\n";
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(csv.as_bytes()).expect("it is written");
    for bytes in [csv.as_bytes(), &gzip.finish().expect("it ends")] {
        let told = piped(bytes);
        assert_eq!(told, "1 event by 1 person would be put on the bus\n");
    }
    let told = piped(b"PAR1 and more");
    assert!(told.contains("`/dev/stdin` is Parquet from a pipe"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_installation_takes_over_what_embedded_engines_have_stored() {
    let key = format!("[host]\nseal_key = '{}'\n", "ab".repeat(32));
    let former = System::start(&key, &["postmark"]).await;
    write_past(former.folder());
    let imported = import(
        former.folder(),
        &["--events", "events.csv", "--account", "sendgrid"],
    );
    assert_eq!(imported.status.code(), Some(0), "{}", told(&imported));
    until_stored(&former, ALL).await;
    for account in ["postmark/eu", "postmark/us"] {
        let set = [
            "account",
            "set",
            account,
            "basic_auth_user=me",
            "basic_auth_password=secret",
        ];
        let set = run(
            former.folder(),
            &[&["--data", "data", "--plugins", "plugins"][..], &set].concat(),
        );
        assert_eq!(set.status.code(), Some(0), "{}", told(&set));
    }
    let data = former.data();
    let data = data.to_str().expect("it is UTF-8");

    let system = System::start(&key, &["postmark"]).await;
    let dry = import(system.folder(), &["--embedded", data, "--dry-run"]);
    assert!(
        told(&dry).contains("2 accounts would be copied"),
        "{}",
        told(&dry)
    );
    let taken = import(system.folder(), &["--embedded", data]);
    assert_eq!(taken.status.code(), Some(0), "{}", told(&taken));
    assert!(told(&taken).contains("2 accounts copied"), "{}", told(&taken));
    assert!(
        told(&taken).contains(&format!("{ALL} events by 3 people put on the bus")),
        "{}",
        told(&taken)
    );
    let click = postmark_click("dan@example.com", "m-1", "2026-01-05T18:30:00Z");
    eventually("the new host serves the account", || async {
        let click = click.clone();
        system
            .webhook("postmark/eu", &postmark_headers(), click)
            .await
            .status
            == 200
    })
    .await;
    let again = import(system.folder(), &["--embedded", data]);
    assert!(
        told(&again).contains("accounts that are stored already, and stay as they are: 2"),
        "{}",
        told(&again)
    );
    until_stored(&system, ALL + 1).await;
    let bob = decide(&system, json!({"email": "bob@example.com"})).await;
    assert_eq!(bob["evidence"]["n"], DAYS, "{bob}");
    assert_eve_is_suppressed(&system).await;

    let refused = |folder: &Path, arguments: &[&str], what: &str| {
        let output = import(folder, arguments);
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        assert!(told(&output).contains(what), "{}", told(&output));
    };
    refused(
        system.folder(),
        &["--embedded", "data"],
        "is the data folder in use",
    );
    refused(
        system.folder(),
        &["--embedded", "elsewhere"],
        "there are no stored events and no accounts in `elsewhere`",
    );
    let other = tempfile::tempdir().expect("a folder");
    fs::write(
        other.path().join("sendflowr.toml"),
        "[identity]\npepper = 'another'\n",
    )
    .expect("it can be written");
    refused(
        other.path(),
        &["--embedded", data],
        "`identity.pepper` is not the one",
    );
}
