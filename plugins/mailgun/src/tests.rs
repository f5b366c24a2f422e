use sendflowr_plugin_sdk::{BounceType, EventType, Plugin, Proof, Rejection};
use sendflowr_plugin_testing::{RequestExt, batch, normalize, post};

use crate::Mailgun;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<Mailgun>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<Mailgun>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn mail_in_test_mode_is_not_mail() {
    for name in ["accepted", "delivered"] {
        let count = |flag: &str| {
            let body = format!(
                r#"{{"event-data":{{"event":"{name}","timestamp":1.5,"recipient":"a@example.com",
                    "flags":{{"is-test-mode":{flag}}}}}}}"#
            );
            let batch = normalize::<Mailgun>(&body);
            (batch.events.len(), batch.skipped.len())
        };
        assert_eq!(count("true"), (0, 1), "{name}");
        assert_eq!(count("false"), (1, 0), "{name}");
        assert_eq!(count("null"), (1, 0), "{name}");
    }
}

fn failure(fields: &str) -> (EventType, Option<BounceType>, Option<String>) {
    let body = format!(
        r#"{{"event-data":{{"event":"failed","timestamp":1.5,"recipient":"a@example.com",{fields}}}}}"#
    );
    let event = normalize::<Mailgun>(&body).events.remove(0);
    (event.event_type, event.bounce_type, event.reason)
}

#[test]
fn failures_are_told_apart() {
    assert_eq!(
        failure(r#""severity":"temporary","reason":"generic""#).0,
        EventType::Deferred
    );
    assert_eq!(
        failure(r#""severity":"permanent","reason":"suppress-bounce""#).0,
        EventType::Rejected
    );
    for (reason, expected) in [
        ("old", BounceType::Soft),
        ("espblock", BounceType::Soft),
        ("bounce", BounceType::Hard),
    ] {
        let (kind, bounce_type, _) = failure(&format!(r#""severity":"permanent","reason":"{reason}""#));
        assert_eq!(
            (kind, bounce_type),
            (EventType::Bounced, Some(expected)),
            "{reason}"
        );
    }
    let said = failure(
        r#""severity":"permanent","reason":"old","delivery-status":{"bounce-type":"hard","message":"","description":"gone"}"#,
    );
    assert_eq!(
        said,
        (
            EventType::Bounced,
            Some(BounceType::Hard),
            Some("gone".to_owned())
        )
    );
    let bare = failure(r#""severity":"permanent","reason":"bounce","delivery-status":null"#);
    assert_eq!(bare.2.as_deref(), Some("bounce"));
}

#[test]
fn fractions_are_cut_not_rounded() {
    let body =
        r#"{"event-data":{"event":"opened","timestamp":1529006854.3299999,"recipient":"a@example.com"}}"#;
    assert_eq!(
        normalize::<Mailgun>(body).events[0].timestamp_ms,
        1_529_006_854_329
    );
}

#[test]
fn message_ids_have_no_brackets() {
    let id = |id: &str| {
        let body = format!(
            r#"{{"event-data":{{"event":"opened","timestamp":1.5,"recipient":"a@example.com",
                "message":{{"headers":{{"message-id":"{id}"}}}}}}}}"#
        );
        normalize::<Mailgun>(&body).events.remove(0).message_id
    };
    assert_eq!(id("<id@example.net>").as_deref(), Some("id@example.net"));
    assert_eq!(id("id@example.net").as_deref(), Some("id@example.net"));
    assert_eq!(id("<>"), None);
}

#[test]
fn a_rejection_of_a_message_to_several_names_the_message() {
    let rejected = |to: &str, id: &str| {
        let body = format!(
            r#"{{"event-data":{{"event":"rejected","timestamp":1.5,"message":{{"headers":{{"to":"{to}","message-id":"{id}"}}}}}}}}"#
        );
        normalize::<Mailgun>(&body)
    };
    let event = rejected("a@example.com, B <b@example.com>", "m").events.remove(0);
    assert_eq!(event.recipient_email, None);
    assert_eq!(event.message_id.as_deref(), Some("m"));
    let event = rejected("B <b@example.com>", "m").events.remove(0);
    assert_eq!(event.recipient_email.as_deref(), Some("b@example.com"));
    assert_eq!(rejected("a@example.com, b@example.com", "").rejected.len(), 1);
    assert_eq!(rejected("", "m").rejected.len(), 1);
}

#[test]
fn variables_that_are_none_are_not_looked_for_elsewhere() {
    let metadata = |variables: &str| {
        let form = format!(
            "event=opened&recipient=a%40example.com&timestamp=1529006854&other=1\
            &message-headers=%5B%5B%22X-Mailgun-Variables%22%2C%22{variables}%22%5D%5D"
        );
        let request = post(form).with_header("content-type", "application/x-www-form-urlencoded");
        batch(Mailgun::normalize(&request))
            .events
            .remove(0)
            .metadata
            .len()
    };
    assert_eq!(metadata("%7B%7D"), 0);
    assert_eq!(metadata("nope"), 1, "what is no object tells nothing");
}

#[test]
fn either_signature_is_presented() {
    let body = r#"{"signature":{"timestamp":"1","token":"t","signature":"aa","parent-signature":"bb"}}"#;
    let proofs = Mailgun::authenticate(&post(body).with_secret("signing_key")).unwrap();
    let [Proof::KeyedHash(hash)] = proofs.as_slice() else {
        panic!("{proofs:?}")
    };
    assert_eq!(
        hash.signatures
            .iter()
            .map(|signature| signature.text.as_str())
            .collect::<Vec<_>>(),
        ["aa", "bb"]
    );
}

#[test]
fn what_cannot_be_proven_is_refused_before_it_is_read() {
    for body in [
        r#"{"event-data":{}}"#,
        r#"{"signature":{"token":"t","signature":"aa"}}"#,
    ] {
        let refused = Mailgun::authenticate(&post(body).with_secret("signing_key"));
        assert!(matches!(refused, Err(Rejection::MissingProof(_))), "{body}");
    }
    assert!(matches!(
        Mailgun::authenticate(&post("nope").with_secret("signing_key")),
        Err(Rejection::Malformed(_))
    ));
    assert!(matches!(
        Mailgun::normalize(&post(r#"{"signature":{}}"#)),
        Err(Rejection::Malformed(_))
    ));
}

#[test]
fn the_old_form_keeps_variables_apart() {
    let form = "event=bounced&recipient=a%40example.com&code=450&error=full%0Abox&timestamp=9&timestamp=1529006854&client-os=x\
        &message-headers=%5B%5B%22Subject%22%2C%22Hi%22%5D%2C%5B%22X-Mailgun-Variables%22%2C%22%7B%5C%22n%5C%22%3A1%7D%22%5D%5D\
        &Message-Id=%3Cid%40example.net%3E&other=1";
    let request = post(form).with_header("content-type", "application/x-www-form-urlencoded");
    let event = batch(Mailgun::normalize(&request)).events.remove(0);
    assert_eq!(event.bounce_type, Some(BounceType::Soft));
    assert_eq!(event.timestamp_ms, 1_529_006_854_000);
    assert_eq!(event.reason.as_deref(), Some("full\nbox"));
    assert_eq!(event.subject.as_deref(), Some("Hi"));
    assert_eq!(event.message_id.as_deref(), Some("id@example.net"));
    let metadata: Vec<_> = event
        .metadata
        .iter()
        .map(|pair| (pair.name.as_str(), pair.value.as_str()))
        .collect();
    assert_eq!(metadata, [("n", "1")], "variables in the headers win over fields");
}
