use sendflowr_plugin_sdk::{EventType, HashKey, Plugin, Proof, Rejection};
use sendflowr_plugin_testing::{RequestExt, normalize, post};

use crate::MailerSend;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<MailerSend>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<MailerSend>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn the_published_key_is_for_the_ping_alone() {
    let published = |body: &str| {
        let request = post(body)
            .with_secret("signing_secret")
            .with_header("signature", "ab");
        let proofs = MailerSend::authenticate(&request).unwrap();
        let [Proof::KeyedHash(hash)] = proofs.as_slice() else {
            panic!("{proofs:?}")
        };
        matches!(hash.key, HashKey::Published(_))
    };
    assert!(published(r#"{"type":"webhook.test"}"#));
    assert!(!published(r#"{"type":"activity.opened"}"#));
    assert!(!published(
        r#"{"type":"activity.opened","data":{"type":"webhook.test"}}"#
    ));
    assert!(!published("nope"));
    // If a name is repeated, the last one counts, for the proof as well as for the events.
    assert!(!published(r#"{"type":"webhook.test","type":"activity.opened"}"#));
    let unsigned = post(r#"{"type":"webhook.test"}"#).with_secret("signing_secret");
    assert!(matches!(
        MailerSend::authenticate(&unsigned),
        Err(Rejection::MissingProof(_))
    ));
}

#[test]
fn most_fields_may_be_missing() {
    let body = r#"{"type":"activity.delivered","created_at":"2024-01-01T12:00:05Z","data":{"id":"1",
        "created_at":"2024-01-01T12:00:00.123456Z","morph":null,"email":{"recipient":{"email":"a@example.com"},"tags":null}}}"#;
    let event = normalize::<MailerSend>(body).events.remove(0);
    assert_eq!(
        (event.event_type, event.timestamp_ms),
        (EventType::Delivered, 1_704_110_400_123)
    );
    assert_eq!((event.tags.len(), event.message_id), (0, None));
}

#[test]
fn what_is_not_used_is_skipped() {
    for name in [
        "webhook.test",
        "activity.survey_opened",
        "inbound.message",
        "opened",
    ] {
        assert_eq!(
            normalize::<MailerSend>(&format!(r#"{{"type":"{name}"}}"#)).skipped[0].provider_type,
            name
        );
    }
    assert_eq!(
        normalize::<MailerSend>(r#"{"type":"activity.opened"}"#)
            .rejected
            .len(),
        1
    );
    assert!(matches!(
        MailerSend::normalize(&post("{}")),
        Err(Rejection::Malformed(_))
    ));
}
