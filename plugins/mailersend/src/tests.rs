use hmac::{Hmac, KeyInit, Mac};
use sendflowr_plugin_sdk::{EventType, HashKey, Plugin, Proof, Rejection};
use sendflowr_plugin_testing::{RequestExt, normalize, post};
use sha2::Sha256;

use crate::{MailerSend, PING_KEY};

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<MailerSend>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<MailerSend>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn signed_with_ping_key(body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(PING_KEY.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    let digest = mac.finalize().into_bytes();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_published_key_is_for_the_ping_alone() {
    let published_for = |body: &str, signature: &str| {
        let request = post(body)
            .with_secret("signing_secret")
            .with_header("signature", signature);
        let proofs = MailerSend::authenticate(&request).unwrap();
        let [Proof::KeyedHash(hash)] = proofs.as_slice() else {
            panic!("{proofs:?}")
        };
        matches!(hash.key, HashKey::Published(_))
    };
    let ping = r#"{"type":"webhook.test"}"#;
    let by_published_key = "d5aaec598a6824fc9e35f2974fc7e6e7455894499ed5efb3b655260d7afdba75";
    assert!(published_for(ping, by_published_key));
    assert!(published_for(ping, &by_published_key.to_uppercase()));
    // Signed with another key, such as the webhook's own.
    assert!(!published_for(ping, "ab"));
    let published = |body: &str| published_for(body, &signed_with_ping_key(body));
    assert!(published(ping));
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
fn version_2_may_name_the_recipient_in_an_object() {
    let body = r#"{"type":"activity.sent","created_at":"2026-10-05T08:15:30Z","data":{"id":"1","message_id":"m",
        "recipient":{"id":"r","email":"a@example.com"}}}"#;
    let event = normalize::<MailerSend>(body).events.remove(0);
    assert_eq!(event.recipient_email.as_deref(), Some("a@example.com"));
    assert_eq!(event.identifiers[0].value, "r");
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
