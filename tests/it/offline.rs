//! The commands that work on files, with every supported format of events, through the binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{collections::HashSet, fs, io::Write, path::Path, sync::Arc, time::SystemTime};

use event::{Event, EventType, Hasher, Timestamp, UniversalId};
use flate2::{Compression, write::GzEncoder};
use integration_tests::{System, run, told};
use parquet::{
    basic::{Compression as ParquetCompression, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int64Type},
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::parser::parse_message_type,
};
use serde_json::{Value, json};
use store::{
    events::{Enrichment, Events, SqliteEvents, SqliteEventsConfig, StoredEvent},
    identity::SqliteIdentities,
};
use tempfile::TempDir;

/// Decides from `events.csv` and `requests.csv`.
const DECIDE: [&str; 7] = [
    "decide",
    "--events",
    "events.csv",
    "--requests",
    "requests.csv",
    "--out",
    "out",
];

const PEOPLE: u64 = 30;
const DAYS: u64 = 63;

/// Monday 2025-09-01T00:00:00Z, in seconds.
const START: u64 = 1_756_684_800;

/// An event of the test's log.
#[derive(Clone, Copy)]
struct Logged {
    person: u64,
    second: u64,
    event_type: &'static str,
    is_machine: bool,
}

/// Creates a log of people who click or open on most days, each around an hour of their own.
fn log() -> Vec<Logged> {
    let mut random = 7_u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % bound
    };
    let mut events = Vec::new();
    for day in 0..DAYS {
        for person in 0..PEOPLE {
            if below(3) > 0 {
                let second = START + day * 86_400 + (7 + person % 14) * 3_600 + below(3_600);
                events.push(Logged {
                    person,
                    second,
                    event_type: if below(4) == 0 { "opened" } else { "clicked" },
                    is_machine: below(50) == 0,
                });
            }
        }
    }
    events
}

/// Returns the log with its lines in the opposite order.
fn reversed(log: &[Logged]) -> Vec<Logged> {
    log.iter().rev().copied().collect()
}

fn csv(log: &[Logged]) -> String {
    let mut text = "timestamp_utc,user_id,event_type,is_machine,note\n".to_owned();
    for event in log {
        text += &format!(
            "{},\"person, {}\",{},{},\"two\nlines\"\r\n",
            event.second, event.person, event.event_type, event.is_machine
        );
    }
    text
}

fn json_lines(log: &[Logged]) -> String {
    let mut text = String::new();
    for event in log {
        let line = json!({
            "user_id": format!("person, {}", event.person), "timestamp_utc": event.second,
            "event_type": event.event_type, "is_machine": event.is_machine,
        });
        text += &format!("{line}\n");
    }
    text
}

/// How a Parquet file represents times: the column's type, and how many of its units make a second.
#[derive(Clone, Copy)]
enum Times {
    Number(&'static str, i64),
    Text,
}

fn parquet(path: &Path, log: &[Logged], times: Times, compression: ParquetCompression) {
    let times_type = match times {
        Times::Number(annotation, _) => format!("INT64 timestamp_utc {annotation}"),
        Times::Text => "BYTE_ARRAY timestamp_utc (UTF8)".to_owned(),
    };
    let schema = format!(
        "message events {{
            REQUIRED INT64 something_else;
            REQUIRED {times_type};
            OPTIONAL group tags (LIST) {{ REPEATED group list {{ OPTIONAL BYTE_ARRAY element (UTF8); }} }}
            REQUIRED BYTE_ARRAY user_id (UTF8);
            OPTIONAL BYTE_ARRAY event_type (UTF8);
            REQUIRED BOOLEAN is_machine;
        }}"
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    // Two row groups, because large files have many.
    for part in log.chunks(log.len().div_ceil(2).max(1)) {
        let mut group = writer.next_row_group().unwrap();
        let texts = |text: fn(&Logged) -> String| -> Vec<ByteArray> {
            part.iter().map(|event| text(event).as_bytes().into()).collect()
        };
        column::<Int64Type>(&mut group, &vec![0; part.len()], None, None);
        match times {
            Times::Number(_, per_second) => {
                let seconds = part.iter().map(|event| i64::try_from(event.second).unwrap());
                let times: Vec<i64> = seconds.map(|second| second * per_second).collect();
                column::<Int64Type>(&mut group, &times, None, None);
            }
            Times::Text => {
                let moments = texts(|event| moment(event.second).to_string());
                column::<ByteArrayType>(&mut group, &moments, None, None);
            }
        }
        // No row has a list.
        column::<ByteArrayType>(
            &mut group,
            &[],
            Some(&vec![0; part.len()]),
            Some(&vec![0; part.len()]),
        );
        column::<ByteArrayType>(
            &mut group,
            &texts(|event| format!("person, {}", event.person)),
            None,
            None,
        );
        // An event without a type is a click.
        let opens: Vec<ByteArray> = part
            .iter()
            .filter(|event| event.event_type == "opened")
            .map(|event| event.event_type.into())
            .collect();
        let is_open = part.iter().map(|event| i16::from(event.event_type == "opened"));
        column::<ByteArrayType>(&mut group, &opens, Some(&is_open.collect::<Vec<_>>()), None);
        let machines: Vec<bool> = part.iter().map(|event| event.is_machine).collect();
        column::<BoolType>(&mut group, &machines, None, None);
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// Writes a column; `defined` and `repeated` are the definition and repetition levels of its values, if it
/// may be absent or a list.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, fs::File>,
    values: &[T::T],
    defined: Option<&[i16]>,
    repeated: Option<&[i16]>,
) {
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<T>()
        .write_batch(values, defined, repeated)
        .unwrap();
    column.close().unwrap();
}

fn moment(second: u64) -> Timestamp {
    Timestamp::from_millis_clamped(i64::try_from(second).unwrap() * 1_000)
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_backtest_says_the_same_of_every_form_of_a_log() {
    let (folder, log) = (TempDir::new().unwrap(), log());
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a.csv"), csv(&log)).unwrap();
    fs::write(at("a.csv.gz"), gzip(&csv(&log))).unwrap();
    fs::write(at("reversed.csv"), csv(&reversed(&log))).unwrap();
    fs::write(at("a.jsonl"), json_lines(&log)).unwrap();
    fs::write(at("a.ndjson.gz"), gzip(&json_lines(&log))).unwrap();
    let zstd = ParquetCompression::ZSTD(ZstdLevel::default());
    let gzipped = ParquetCompression::GZIP(Default::default());
    let (snappy, plain) = (ParquetCompression::SNAPPY, ParquetCompression::UNCOMPRESSED);
    let seconds = Times::Number("", 1);
    let millis = Times::Number("(TIMESTAMP(MILLIS,true))", 1_000);
    let micros = Times::Number("(TIMESTAMP(MICROS,true))", 1_000_000);
    let nanos = Times::Number("(TIMESTAMP(NANOS,true))", 1_000_000_000);
    parquet(&at("seconds.parquet"), &log, seconds, plain);
    parquet(&at("millis.parquet"), &log, millis, snappy);
    parquet(&at("micros.parquet"), &log, micros, zstd);
    parquet(&at("nanos.parquet"), &log, nanos, gzipped);
    // Recognised by its first bytes.
    parquet(&at("text.bin"), &log, Times::Text, snappy);

    let expected = run(
        folder.path(),
        &["backtest", "--events", "a.csv", "--report", "a.html"],
    );
    assert!(expected.status.success(), "{}", told(&expected));
    assert_eq!(
        String::from_utf8_lossy(&expected.stderr),
        "note: `a.csv`: ignored columns: `note`\n"
    );
    let expected = String::from_utf8_lossy(&expected.stdout).into_owned();
    assert!(expected.contains(&format!("{PEOPLE} people")), "{expected}");
    assert!(fs::read_to_string(at("a.html")).unwrap().contains("<svg"));
    for name in [
        "a.csv.gz",
        "reversed.csv",
        "a.jsonl",
        "a.ndjson.gz",
        "seconds.parquet",
        "millis.parquet",
        "micros.parquet",
        "nanos.parquet",
        "text.bin",
    ] {
        let output = run(folder.path(), &["backtest", "--events", name]);
        assert!(output.status.success(), "{name}: {}", told(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{name}");
    }
}

/// The end of the tested weeks is not beyond the present, and the file's owner is told of the mistake.
#[test]
fn events_of_the_future_are_left_out_of_a_backtest() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a.csv"), csv(&log())).unwrap();
    let ahead = "2100-01-01T00:00:00Z,\"person, 1\",clicked,,\n";
    fs::write(at("ahead.csv"), csv(&log()) + ahead).unwrap();
    let [expected, output] =
        ["a.csv", "ahead.csv"].map(|name| run(folder.path(), &["backtest", "--events", name]));
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&expected.stdout)
    );
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(
        notes.contains("note: `ahead.csv`: left out are events later than now, 1 in number\n"),
        "{notes}"
    );
}

/// Stores a log in the folder, and returns what a backtest of the store prints.
async fn backtest_of_store(folder: &Path, log: &[Logged]) -> String {
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    let stored: Vec<StoredEvent> = log.iter().enumerate().map(stored).collect();
    let events = SqliteEvents::open(&data, SqliteEventsConfig::default())
        .await
        .unwrap();
    for part in stored.chunks(500) {
        events.write(part).await.unwrap();
    }
    events.close().await;
    // The roles make both.
    SqliteIdentities::open(&data).await.unwrap().close().await;
    let path = folder.to_owned();
    let output = tokio::task::spawn_blocking(move || run(&path, &["--data", "data", "backtest"]));
    let output = output.await.unwrap();
    assert!(output.status.success(), "{}", told(&output));
    told(&output)
}

#[tokio::test]
async fn a_backtest_reads_the_event_store() {
    let folder = TempDir::new().unwrap();
    let text = backtest_of_store(folder.path(), &log()).await;
    assert!(text.contains(&format!("{PEOPLE} people")), "{text}");
}

/// The end of the tested weeks is the end of the log, and not beyond the present.
#[tokio::test]
async fn an_event_from_a_clock_that_is_ahead_does_not_move_the_end_of_a_backtest() {
    let folder = TempDir::new().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    let shift = now - 3_600 - (START + DAYS * 86_400);
    let mut log = log();
    for event in &mut log {
        event.second += shift;
    }
    log.push(Logged {
        person: 1,
        second: now + 2 * 3_600,
        event_type: "clicked",
        is_machine: false,
    });
    let text = backtest_of_store(folder.path(), &log).await;
    let tested = text.lines().find(|line| line.contains("tested from")).unwrap();
    let until = tested.rsplit(' ').next().unwrap();
    assert!(until.parse::<Timestamp>().unwrap() <= moment(now), "{tested}");
}

fn stored((number, logged): (usize, &Logged)) -> StoredEvent {
    let address = format!("person{}@example.com", logged.person);
    let identifier = Hasher::new().email_identifier(&address).unwrap();
    let universal_id = UniversalId::from_identifier(&identifier);
    let timestamp = moment(logged.second);
    StoredEvent {
        event: Event {
            event_id: format!("{number:032x}"),
            esp: "sendgrid".into(),
            account: "default".into(),
            identifiers: vec![identifier],
            plugin: "sendgrid@1.0.0".into(),
            ingested_at: timestamp,
            ..Event::bare(
                EventType::parse(logged.event_type).unwrap(),
                timestamp,
                universal_id,
            )
        },
        enrichment: Enrichment {
            machine: logged.is_machine,
            ..Enrichment::default()
        },
    }
}

#[test]
fn decisions_come_from_plain_and_gzipped_files_alike() {
    let (folder, log) = (TempDir::new().unwrap(), log());
    let at = |name: &str| folder.path().join(name);
    let decided_at = START + 40 * 86_400;
    let requests = format!(
        "window_hours,user_id,decision_time\r\n24,\"person, 3\",{decided_at}\r\n\r\n168,\"says \"\"hi\"\"\",{}\r\n",
        moment(decided_at)
    );
    fs::write(at("events.csv"), csv(&log)).unwrap();
    fs::write(at("events.csv.gz"), gzip(&csv(&log))).unwrap();
    fs::write(at("requests.csv"), &requests).unwrap();
    fs::write(at("requests.gz"), gzip(&requests)).unwrap();
    fs::write(at("events.jsonl"), json_lines(&log)).unwrap();
    fs::write(at("reversed.csv"), csv(&reversed(&log))).unwrap();
    let decide = |events: &str, requests: &str, out: &str| {
        let curves = format!("{out}.curves");
        let output = run(
            folder.path(),
            &[
                "decide",
                "--events",
                events,
                "--requests",
                requests,
                "--out",
                out,
                "--curves",
                &curves,
            ],
        );
        assert!(output.status.success(), "{}", told(&output));
        (
            fs::read_to_string(at(out)).unwrap(),
            fs::read_to_string(at(&curves)).unwrap(),
        )
    };
    let (decisions, curves) = decide("events.csv", "requests.csv", "plain");
    assert_eq!(
        (decisions.clone(), curves.clone()),
        decide("events.csv.gz", "requests.gz", "gzipped")
    );
    assert_eq!(
        (decisions.clone(), curves.clone()),
        decide("events.jsonl", "requests.csv", "of lines")
    );
    assert_eq!(
        (decisions.clone(), curves.clone()),
        decide("reversed.csv", "requests.csv", "reversed")
    );

    let lines: Vec<Value> = decisions
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let asked: Vec<&Value> = lines.iter().map(|line| &line["user_id"]).collect();
    assert_eq!(asked, ["person, 3", "says \"hi\""]);
    for (line, hours) in lines.iter().zip([24, 168]) {
        let target = line["target_timestamp"].as_u64().unwrap();
        assert!((decided_at..decided_at + hours * 3_600).contains(&target) && target.is_multiple_of(60));
    }
    // Person 3 acts between ten and eleven.
    let hour = lines[0]["target_timestamp"].as_u64().unwrap() / 3_600 % 24;
    assert!((8..=11).contains(&hour), "{hour}");

    let rows: Vec<&str> = curves.lines().collect();
    assert_eq!(rows.len(), 3);
    assert!(rows[0].starts_with("user_id,p0,p1,") && rows[0].ends_with(",p10079"));
    assert!(rows[1].starts_with("\"person, 3\",") && rows[2].starts_with("\"says \"\"hi\"\"\","));
    let shares = rows[2].rsplit(',').take(10_080);
    let sum: f64 = shares.map(|share| share.parse::<f64>().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{sum}");
}

/// Of strangers nothing is known but their ids, which spread them in the same way.
#[tokio::test]
async fn strangers_get_the_same_minutes_from_a_file_as_from_the_service() {
    let system = System::start("", &[]).await;
    let midnight = Timestamp::from(SystemTime::now()).as_seconds() / 86_400 * 86_400 + 86_400;
    let mut requests = "user_id,decision_time,window_hours\n".to_owned();
    let mut answers = Vec::new();
    for number in 0..12 {
        let question = json!({
            "email": format!("person{number}@example.com"), "experiment": false,
            "window": {"start": moment(midnight as u64), "end": moment(midnight as u64 + 86_400)},
        });
        let answer = system.ask("/timing/decide", &question).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        requests += &format!(
            "{},{midnight},24\n",
            answer.body["universal_id"].as_str().unwrap()
        );
        let arrive_at: Timestamp = answer.body["arrive_at"].as_str().unwrap().parse().unwrap();
        answers.push(arrive_at.as_seconds());
    }
    let folder = system.folder().to_owned();
    fs::write(folder.join("requests.csv"), requests).unwrap();
    fs::write(folder.join("events.csv"), "user_id,timestamp_utc\n").unwrap();
    let out = folder.join("out");
    let output = tokio::task::spawn_blocking(move || run(&folder, &DECIDE));
    let output = output.await.unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let decided: Vec<i64> = fs::read_to_string(out)
        .unwrap()
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["target_timestamp"]
                .as_i64()
                .unwrap()
        })
        .collect();
    assert_eq!(decided, answers);
    let different: HashSet<i64> = decided.into_iter().collect();
    assert!(different.len() > 6, "{different:?}");
}

#[test]
fn a_person_may_have_no_event_one_or_a_hundred_thousand() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut events = "user_id,timestamp_utc\n".to_owned();
    for number in 0..100_000 {
        // A thousand a day, all between eight and nine in the evening.
        let (day, place) = (number / 1_000, number % 1_000);
        events += &format!("busy,{}\n", START + day * 86_400 + 20 * 3_600 + place * 3);
    }
    events += &format!("once,{}\n", START + 9 * 3_600);
    let decided_at = START + 100 * 86_400 + 12 * 3_600;
    let people = ["busy", "once", "never"];
    let requests: String = people
        .iter()
        .map(|person| format!("{person},{decided_at},24\n{person},{decided_at},168\n"))
        .collect();
    fs::write(at("events.csv"), events).unwrap();
    fs::write(
        at("requests.csv"),
        format!("user_id,decision_time,window_hours\n{requests}"),
    )
    .unwrap();
    let output = run(folder.path(), &DECIDE);
    assert!(output.status.success(), "{}", told(&output));
    let out = fs::read_to_string(at("out")).unwrap();
    let decisions: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(decisions.len(), 2 * people.len(), "{out}");
    for decision in &decisions {
        let target = decision["target_timestamp"].as_u64().unwrap();
        let window = decided_at..decided_at + decision["window_hours"].as_u64().unwrap() * 3_600;
        assert!(window.contains(&target), "{decision}");
        let confidence = decision["confidence"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&confidence), "{decision}");
    }
    let hour = decisions[0]["target_timestamp"].as_u64().unwrap() / 3_600 % 24;
    assert!((18..=20).contains(&hour), "{hour}");
}

#[test]
fn columns_that_are_not_used_are_said() {
    let folder = TempDir::new().unwrap();
    let requests = "user_id,decision_time,window_hours,windows\na,1756684800,24,48\n";
    fs::write(folder.path().join("requests.csv"), requests).unwrap();
    let notes = |events: &str| {
        let files = [
            "decide",
            "--events",
            events,
            "--requests",
            "requests.csv",
            "--out",
            "out",
        ];
        let output = run(folder.path(), &files);
        assert!(output.status.success(), "{}", told(&output));
        String::from_utf8(output.stderr).unwrap()
    };
    let of_requests = "note: `requests.csv`: ignored columns: `windows`\n";
    for (name, text) in [
        (
            "a.csv",
            "user_id,timestamp_utc,eventtype,esp\na,1756600000,delivered,ses\n",
        ),
        (
            "a.jsonl",
            "{\"user_id\":\"a\",\"timestamp_utc\":1756600000,\"eventtype\":\"delivered\",\"esp\":\"ses\"}\n",
        ),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
        let told = notes(name);
        assert!(told.contains(of_requests), "{told}");
        for column in ["eventtype", "esp"] {
            assert!(told.contains(&format!("`{column}`")), "{name}: {told}");
        }
        let all_clicks = format!("note: `{name}` has no `event_type`: all events count as clicks\n");
        assert!(told.contains(&all_clicks), "{told}");
    }
    let log = log();
    parquet(
        &folder.path().join("a.parquet"),
        &log,
        Times::Number("", 1),
        ParquetCompression::UNCOMPRESSED,
    );
    let told = notes("a.parquet");
    assert!(!told.contains("all events count as clicks"), "{told}");
}

#[test]
fn mistakes_in_files_are_found_where_they_are() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let header = "user_id,timestamp_utc,event_type\n";
    let cases = [
        (
            "type.csv",
            format!("{header}\na,1,clicked\n\"a\n\",2,clacked\n"),
            "`type.csv`, line 4, column `event_type`: `clacked` is not one of",
        ),
        (
            "quote.csv",
            format!("{header}a,1,clicked\na,\"2,clicked\na,3,clicked\n"),
            "`quote.csv`, line 3: a quote is opened and never closed",
        ),
        (
            "width.csv",
            format!("{header}a,1\n"),
            "`width.csv`, line 2: 2 fields where the header has 3",
        ),
        (
            "time.jsonl",
            "{\"user_id\":\"a\",\"timestamp_utc\":1}\n{\"user_id\":\"a\",\"timestamp_utc\":\"soon\"}\n"
                .to_owned(),
            "`time.jsonl`, line 2",
        ),
        (
            "cut.jsonl",
            "{\"user_id\":\"a\",\"timestamp_utc\":1}\na,1\n".to_owned(),
            "`cut.jsonl`, line 2: column 1: expected value\n",
        ),
        (
            "twice.csv",
            "user_id,timestamp_utc,event_type,EVENT_TYPE\na,1,clicked,opened\n".to_owned(),
            "`twice.csv`, line 1: the header has the column `event_type` twice",
        ),
        (
            "cut.parquet",
            "PAR1 and no more".to_owned(),
            "cannot read `cut.parquet`",
        ),
    ];
    for (name, text, expected) in cases {
        fs::write(at(name), text).unwrap();
        let output = run(folder.path(), &["backtest", "--events", name]);
        assert!(
            !output.status.success() && told(&output).contains(expected),
            "{}",
            told(&output)
        );
    }
    let soon = [Logged {
        person: 1,
        second: 1 << 40,
        event_type: "clicked",
        is_machine: false,
    }];
    parquet(
        &at("time.parquet"),
        &soon,
        Times::Number("", 1),
        ParquetCompression::UNCOMPRESSED,
    );
    let output = run(folder.path(), &["backtest", "--events", "time.parquet"]);
    let expected =
        "`time.parquet`, row 1, column `timestamp_utc`: `1099511627776` seconds since 1970 is not between";
    assert!(
        !output.status.success() && told(&output).contains(expected),
        "{}",
        told(&output)
    );
}
