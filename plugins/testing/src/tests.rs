use std::{panic::catch_unwind, thread, time::Duration};

use sendflowr_plugin_sdk::{
    Batch, Descriptor, Event, EventType, Outcome, Plugin, Proof, Proofs, Rejection, Request, Skipped,
};

use crate::case::Case;
use crate::{RequestExt, compare, damage::Damage, mutate, post, run_case};

/// A plugin that reads one object; the parameter selects what it does wrong.
struct Sample<const FAULT: u8>;

const NONE: u8 = 0;
const PANICS: u8 = 1;
const NAMES_NOBODY: u8 = 2;
const DEMANDS_NOTHING: u8 = 3;
const IS_SLOW: u8 = 4;
const SKIPS_UNTYPED: u8 = 5;

impl<const FAULT: u8> Plugin for Sample<FAULT> {
    fn describe() -> Descriptor {
        Descriptor::new("sample", "Sample", "1.0.0", "https://example.com").bearer_token()
    }

    fn authenticate(request: &Request) -> Result<Vec<Proof>, Rejection> {
        let mut proofs = Proofs::new(request);
        if FAULT != DEMANDS_NOTHING {
            proofs.bearer_token()?;
        }
        Ok(proofs.finish())
    }

    fn normalize(request: &Request) -> Result<Outcome, Rejection> {
        let document = request.json_object()?;
        let email = document.root().text("email");
        assert!(FAULT != PANICS || email.is_some(), "no address");
        if FAULT == IS_SLOW && email.is_none() {
            // Too short for a person to notice in a run of the tests, but a thousand times too long for a delivery.
            thread::sleep(Duration::from_millis(20));
        }
        let mut event = Event {
            recipient_email: email,
            ..Event::new(EventType::Opened, 1_000)
        };
        if FAULT == NAMES_NOBODY {
            event.recipient_email = None;
            return Ok(Outcome::Events(Batch {
                events: vec![event],
                skipped: Vec::new(),
                rejected: Vec::new(),
            }));
        }
        if FAULT == SKIPS_UNTYPED {
            return Ok(Outcome::Events(Batch {
                skipped: vec![Skipped {
                    index: 0,
                    provider_type: document.root().text("type").unwrap_or_default(),
                    reason: "not used".to_owned(),
                }],
                ..Batch::new()
            }));
        }
        Ok(Outcome::of_one(Ok(event)))
    }
}

#[test]
fn headers_of_tests_reach_the_plugin_as_a_host_passes_them() {
    let request = post("{}")
        .with_header("Content-Type", "text/plain")
        .with_header("Authorization", "Bearer t")
        .with_secret("bearer_token");
    let names: Vec<_> = request
        .headers
        .iter()
        .map(|header| header.name.as_str())
        .collect();
    assert_eq!(names, ["content-type", "authorization"]);
    assert_eq!(
        Sample::<NONE>::authenticate(&request).map(|proofs| proofs.len()),
        Ok(1)
    );
}

fn case(expect: &str) -> Case {
    let json = format!(
        r#"{{"provider":"sample","name":"one","config":{{"bearer_token":"t"}},
            "request":{{"headers":{{"Authorization":"Bearer t"}},"body":"{{\"email\":\"a@example.com\"}}"}},
            "expect":{expect}}}"#
    );
    Case::parse(&json).unwrap()
}

const ACCEPTED: &str = r#"{"outcome":"accepted","skipped":0,"events":[{"event_type":"opened","esp":"sample",
    "timestamp":"1970-01-01T01:00:01+01:00","recipient_email":"a@example.com","subject":null,"tags":null}]}"#;

#[test]
fn a_case_that_holds_has_no_differences() {
    assert_eq!(run_case::<Sample<NONE>>(&case(ACCEPTED)), [""; 0]);
    assert_eq!(
        run_case::<Sample<NONE>>(&case(r#"{"outcome":"unauthorized"}"#)),
        [""; 0]
    );
}

#[test]
fn fields_fit_as_they_do_in_the_host() {
    for row in include_str!("comparisons.jsonl").lines() {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let fits = compare::fits(row["field"].as_str().unwrap(), &row["wanted"], row.get("got"));
        assert_eq!(row["fits"], fits, "{row}");
    }
}

#[test]
fn every_deviation_is_told() {
    for (from, to, told) in [
        ("opened", "clicked", "`event_type`"),
        ("01:00:01", "01:00:02", "`timestamp`"),
        ("a@example.com", "b@example.com", "`recipient_email`"),
        (r#""subject":null"#, r#""subject":"Hi""#, "`subject`"),
        (r#""skipped":0"#, r#""skipped":1"#, "without an event"),
        (r#""subject""#, r#""subjekt""#, "no such field"),
        ("accepted", "bad_request", "malformed"),
    ] {
        let differences = run_case::<Sample<NONE>>(&case(&ACCEPTED.replace(from, to)));
        assert!(
            differences.len() == 1 && differences[0].contains(told),
            "{to}: {differences:?}"
        );
    }
    let none = case(r#"{"outcome":"accepted","events":[],"skipped":0}"#);
    assert_eq!(run_case::<Sample<NONE>>(&none), ["expected 0 events, got 1"]);
}

#[test]
fn a_plugin_that_demands_nothing_is_found_out() {
    for expect in [ACCEPTED, r#"{"outcome":"unauthorized"}"#] {
        assert_eq!(run_case::<Sample<DEMANDS_NOTHING>>(&case(expect)).len(), 1);
    }
}

#[test]
fn forms_and_documents_in_texts_are_damaged_inside() {
    // `{"a":{"b":1}}` and `x`.
    let form: Vec<Vec<u8>> = Damage::of(b"events=%7B%22a%22%3A%7B%22b%22%3A1%7D%7D&other=x", 1)
        .take(400)
        .collect();
    let inside = |copy: &[u8]| copy.starts_with(b"events=%7B%22a%22%3A") && copy.ends_with(b"&other=x");
    let distinct: std::collections::BTreeSet<&Vec<u8>> = form.iter().filter(|copy| inside(copy)).collect();
    assert!(distinct.len() > 10, "{}", distinct.len());
    assert!(form.iter().any(|copy| copy == b"other=x"));

    let message = Damage::of(br#"{"Message":"{\"a\":{\"b\":1}}"}"#, 1).take(400);
    let inside = message.filter(|copy| copy.starts_with(br#"{"Message":"{\"a\":"#));
    assert!(inside.collect::<std::collections::BTreeSet<_>>().len() > 10);
}

#[test]
fn damage_finds_the_plugin_that_cannot_take_it() {
    let request = post(r#"{"email":"a@example.com","at":1}"#);
    mutate::check::<Sample<NONE>>("sound", &request, 1);
    let found = |check: fn(&str, &Request, u64)| {
        catch_unwind(|| check("faulty", &post(r#"{"email":"a@example.com"}"#), 1)).is_err()
    };
    assert!(found(mutate::check::<Sample<PANICS>>));
    assert!(found(mutate::check::<Sample<NAMES_NOBODY>>));
    assert!(found(mutate::check::<Sample<IS_SLOW>>));
    assert!(found(mutate::check::<Sample<SKIPS_UNTYPED>>));
}
