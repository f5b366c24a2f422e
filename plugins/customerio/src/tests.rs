use sendflowr_plugin_sdk::{BounceType, EventType, IdentifierKind, Plugin, Proof, Rejection};
use sendflowr_plugin_testing::{RequestExt, normalize, post};

use crate::CustomerIo;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<CustomerIo>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<CustomerIo>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn body(object: &str, metric: &str, data: &str) -> String {
    format!(
        r#"{{"event_id":"e","object_type":"{object}","metric":"{metric}","timestamp":"1613063089","data":{{{data}}}}}"#
    )
}

#[test]
fn bounces_go_by_the_smtp_code() {
    let bounce = |message: &str| {
        let data = format!(r#""recipient":"a@example.com","failure_message":"{message}""#);
        normalize::<CustomerIo>(&body("email", "bounced", &data)).events[0].bounce_type
    };
    assert_eq!(bounce("550 5.1.1 unknown"), Some(BounceType::Hard));
    assert_eq!(bounce("421 later"), Some(BounceType::Soft));
    assert_eq!(bounce("mailbox is gone"), None);
}

#[test]
fn the_recipient_of_an_sms_is_a_phone_number() {
    let batch = normalize::<CustomerIo>(&body(
        "sms",
        "clicked",
        r#""recipient":"+14155550100","identifiers":{"id":"42"}"#,
    ));
    let event = &batch.events[0];
    assert_eq!(
        (event.event_type, event.recipient_email.as_deref()),
        (EventType::SmsClick, None)
    );
    let kinds: Vec<_> = event
        .identifiers
        .iter()
        .map(|identifier| identifier.kind)
        .collect();
    assert_eq!(kinds, [IdentifierKind::ExternalId, IdentifierKind::PhoneNumber]);
}

#[test]
fn machines_click_in_every_channel() {
    let machine = |object: &str, data: &str| {
        let data = format!(r#"{data},"identifiers":{{"id":"42"}}"#);
        let event = normalize::<CustomerIo>(&body(object, "clicked", &data))
            .events
            .remove(0);
        event.is_machine
    };
    for object in ["email", "sms", "push"] {
        assert_eq!(machine(object, r#""machine":true"#), Some(true), "{object}");
        assert_eq!(machine(object, r#""machine":false"#), None, "{object}");
        assert_eq!(machine(object, r#""prefetched":true"#), None, "{object}");
    }
}

#[test]
fn deleted_people_and_unused_metrics_do_no_harm() {
    let deleted = normalize::<CustomerIo>(&body(
        "email",
        "opened",
        r#""customer_id":"","identifiers":{"id":null}"#,
    ));
    assert_eq!(deleted.events.len(), 0);
    assert_eq!(deleted.rejected.len(), 1, "nobody is named");
    for (object, metric) in [
        ("email", "drafted"),
        ("slack", "sent"),
        ("push", "sent"),
        ("comet", "seen"),
    ] {
        assert_eq!(
            normalize::<CustomerIo>(&body(object, metric, "")).skipped.len(),
            1,
            "{object} {metric}"
        );
    }
}

#[test]
fn an_event_without_its_two_names_is_rejected() {
    for body in [
        r#"{"event_id":"1","timestamp":1}"#,
        r#"{"object_type":"email","timestamp":1}"#,
        r#"{"metric":"opened","timestamp":1}"#,
        r#"{"metric":"cio_subscription_preferences_changed","object_type":null}"#,
    ] {
        let batch = normalize::<CustomerIo>(body);
        assert_eq!((batch.skipped.len(), batch.rejected.len()), (0, 1), "{body}");
    }
}

#[test]
fn the_version_before_the_digest_is_optional() {
    let digest = |header: &str| {
        let request = post("{}")
            .with_secret("signing_secret")
            .with_header("x-cio-timestamp", "1613063092")
            .with_header("x-cio-signature", header);
        let proofs = CustomerIo::authenticate(&request).unwrap();
        let Some(Proof::KeyedHash(hash)) = proofs.into_iter().next_back() else {
            panic!("no hash")
        };
        hash.signatures[0].text.clone()
    };
    assert_eq!(digest("v0=ab"), "ab");
    assert_eq!(digest("ab"), "ab");
    let undated = post("{}")
        .with_secret("signing_secret")
        .with_header("x-cio-signature", "ab");
    assert!(matches!(
        CustomerIo::authenticate(&undated),
        Err(Rejection::MissingProof(_))
    ));
}
