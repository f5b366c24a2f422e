//! Tests of decisions from files.

use super::{requests::parse as requests, *};
use crate::event_log::parse as log;

const HEADER: &str = "user_id,timestamp_utc,event_type,message_id,is_machine\n";

/// Monday 2026-01-05T00:00:00Z.
const MONDAY: i64 = 1_767_571_200;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Returns eight weeks of clicks before [`MONDAY`], every day at `hour`.
fn habit(user_id: &str, hour: i64) -> String {
    (1..=56)
        .map(|days| format!("{user_id},{},,,\n", MONDAY - days * DAY + hour * HOUR))
        .collect()
}

fn asked() -> Vec<Request> {
    let lines = [
        ("ann", 0, 24),
        ("bob", 2 * DAY, 168),
        ("eve", DAY, 24),
        ("ann", 30 * DAY, 24),
        ("ann", 90, 24),
    ];
    let lines: String = lines
        .iter()
        .map(|(who, after, hours)| format!("{who},{},{hours}\n", MONDAY + after))
        .collect();
    requests(&format!("user_id,decision_time,window_hours\n{lines}")).unwrap()
}

fn decisions(events: &str) -> Vec<Decision> {
    decide(&log(&format!("{HEADER}{events}")).unwrap(), &asked(), false).0
}

#[test]
fn decides_in_the_order_of_requests_within_the_window_at_the_persons_hours() {
    let events = habit("ann", 9) + &habit("bob", 20);
    let decisions = decisions(&events);
    for (decision, request) in decisions.iter().zip(asked()) {
        assert_eq!(decision.user_id, request.user_id);
        assert!(decision.target_timestamp >= request.decision_time.as_seconds());
        assert!(decision.target_timestamp < request.window_end().as_seconds());
        assert_eq!(decision.target_timestamp % 60, 0);
        assert!(decision.confidence > 0.0 && decision.confidence < 1.0);
        // Two hours, as long as no deliveries are known.
        assert_eq!(decision.confidence_span_seconds, 7_200);
    }
    // The value looks ahead two hours: what arrives shortly before the habit is read at once.
    let hour_of = |index: usize| decisions[index].target_timestamp / HOUR % 24;
    assert!((7..=9).contains(&hour_of(0)), "{}", hour_of(0));
    assert!((18..=20).contains(&hour_of(1)), "{}", hour_of(1));
    let line = serde_json::to_string(&decisions[0]).unwrap();
    let expected =
        format!("{{\"user_id\":\"ann\",\"decision_time\":{MONDAY},\"window_hours\":24,\"target_timestamp\":");
    assert!(line.starts_with(&expected), "{line}");
}

#[test]
fn what_happens_at_or_after_a_decision_changes_nothing_in_it() {
    let events = habit("ann", 9) + &habit("bob", 20);
    let before = decisions(&events);
    let request_times: Vec<i64> = asked()
        .iter()
        .map(|request| request.decision_time.as_seconds())
        .collect();
    for (index, time) in request_times.iter().enumerate() {
        // From the time of this decision on, everybody, the person included, behaves differently.
        let later: String = (0..500)
            .flat_map(|n| ["ann", "bob", "eve", "new"].map(|who| format!("{who},{},,,\n", time + n * 1_111)))
            .collect();
        let after = decisions(&(events.clone() + &later));
        for (other, other_time) in request_times.iter().enumerate() {
            if other_time <= time {
                assert_eq!(
                    before[other], after[other],
                    "decision {other}, events from decision {index} on"
                );
            }
        }
        // The test would prove nothing if these events never mattered.
        let latest = request_times.iter().max().unwrap();
        if time < latest {
            assert_ne!(before[3], after[3]);
        }
    }
}

/// So many people that the confidence is fitted to what they did.
#[test]
fn a_log_that_ends_at_the_decision_gives_the_same_bytes() {
    let past: String = (0..450)
        .map(|person| habit(&format!("p{person}"), person % 24))
        .collect();
    // Everybody goes on in another way, and before them in the list of people are others who have yet to begin.
    let later: String = (0..450)
        .flat_map(|n| {
            let at = MONDAY + n * 1_111;
            [format!("0new{n},{at},,,\n"), format!("p{n},{at},,,\n")]
        })
        .collect();
    let asked: String = ["p0", "p17", "0new3", "nobody"]
        .iter()
        .flat_map(|who| [24, 168].map(|hours| format!("{who},{MONDAY},{hours}\n")))
        .collect();
    let asked = requests(&format!("user_id,decision_time,window_hours\n{asked}")).unwrap();
    let bytes = |events: &str| {
        let (decisions, curves) = decide(&log(&format!("{HEADER}{events}")).unwrap(), &asked, true);
        let mut bytes = serde_json::to_vec(&decisions).unwrap();
        write_curves(&mut bytes, &asked, &curves).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let truncated = bytes(&past);
    assert!(bytes(&(past.clone() + &later)) == truncated);
    // The test would prove nothing if the confidence were still the built-in one.
    assert!(bytes(&habit("p0", 0)) != truncated);
}

#[test]
fn the_order_of_lines_does_not_matter() {
    let events = habit("ann", 9) + &habit("bob", 20);
    let mut lines: Vec<&str> = events.lines().collect();
    lines.reverse();
    assert_eq!(decisions(&events), decisions(&(lines.join("\n") + "\n")));
}

#[test]
fn machines_teach_nothing() {
    let events = habit("ann", 9);
    let machines: String = (1..400)
        .map(|n| format!("ann,{},clicked,m{n},true\n", MONDAY - n * 5 * HOUR))
        .collect();
    assert_eq!(decisions(&events), decisions(&(events.clone() + &machines)));
}

#[test]
fn scanners_are_recognized_by_what_they_do() {
    let mail = |message: i64| {
        let at = MONDAY - message * 5 * HOUR;
        format!("ann,{at},delivered,m{message},,\n")
    };
    let mails: String = (1..200).map(mail).collect();
    let scans: String = (1..200)
        .map(|message| {
            let at = MONDAY - message * 5 * HOUR + 1;
            format!(
                "ann,{at},clicked,m{message},10.0.0.{},python-requests/2.31\n",
                message % 9
            )
        })
        .collect();
    let header = "user_id,timestamp_utc,event_type,message_id,ip_address,user_agent\n";
    let decided = |events: &str| decide(&log(&format!("{header}{events}")).unwrap(), &asked(), false).0;
    let habit: String = (1..=56)
        .map(|days| format!("ann,{},,,,\n", MONDAY - days * DAY + 9 * HOUR))
        .collect();
    assert_eq!(
        decided(&(habit.clone() + &mails)),
        decided(&(habit + &mails + &scans))
    );
}

#[test]
fn an_empty_log_is_answered_from_the_built_in_tables() {
    let decisions = decisions("");
    assert_eq!(decisions.len(), 5);
    assert!(decisions.iter().all(|decision| decision.confidence > 0.0));
}

#[test]
fn curves_are_written_once_a_person_and_sum_to_one() {
    let asked = requests("user_id,decision_time,window_hours\n\"a,b\",9,1\nc,8,1\n\"a,b\",7,1\n").unwrap();
    assert_eq!(earliest_of_each(&asked), [1, 2]);
    let (_, curves) = decide(&log(HEADER).unwrap(), &asked, true);
    let mut bytes = Vec::new();
    write_curves(&mut bytes, &asked, &curves).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("user_id,p0,p1,") && lines[0].ends_with(",p10079"));
    assert!(lines[1].starts_with("c,") && lines[2].starts_with("\"a,b\","));
    let shares: Vec<f64> = lines[1]
        .split(',')
        .skip(1)
        .map(|share| share.parse().unwrap())
        .collect();
    assert_eq!(shares.len(), grid::SLOTS);
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-6);
}

#[test]
fn runs_from_file_to_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("events.csv"), format!("{HEADER}{}", habit("ann", 9))).unwrap();
    std::fs::write(
        path("requests.csv"),
        "user_id,decision_time,window_hours\nann,1767571200.5,0.5\n",
    )
    .unwrap();
    let args = DecideArgs {
        events: path("events.csv"),
        requests: path("requests.csv"),
        out: path("out.jsonl"),
        curves: Some(path("curves.csv")),
    };
    run(&args).unwrap();
    let line = std::fs::read_to_string(path("out.jsonl")).unwrap();
    let decision: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(decision["decision_time"], 1_767_571_200.5);
    assert_eq!(decision["window_hours"], 0.5);
    assert_eq!(
        std::fs::read_to_string(path("curves.csv"))
            .unwrap()
            .lines()
            .count(),
        2
    );
    let missing = DecideArgs {
        events: path("none.csv"),
        ..args
    };
    let message = run(&missing).unwrap_err().to_string();
    assert!(
        message.starts_with("cannot open `") && message.ends_with("none.csv`"),
        "{message}"
    );
}
