use sendflowr_plugin_sdk::{BounceType, EventType, HashKey, Plugin, Proof, Rejection};
use sendflowr_plugin_testing::{RequestExt, normalize, post};

use crate::Resend;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<Resend>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<Resend>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn only_signatures_of_version_1_count() {
    let signed = |header: &str| {
        let request = post("{}")
            .with_secret("signing_secret")
            .with_header("svix-id", "msg_1")
            .with_header("svix-timestamp", "1")
            .with_header("svix-signature", header);
        Resend::authenticate(&request)
    };
    let proofs = signed("v1,aa= v1a,zz v1,bb=").unwrap();
    let Some(Proof::KeyedHash(hash)) = proofs.last() else {
        panic!("{proofs:?}")
    };
    assert_eq!(
        hash.signatures
            .iter()
            .map(|signature| signature.text.as_str())
            .collect::<Vec<_>>(),
        ["aa=", "bb="]
    );
    assert!(matches!(&hash.key, HashKey::Secret(key) if key.strip_prefix == "whsec_"));
    assert!(matches!(signed("v1a,zz"), Err(Rejection::MissingProof(_))));
}

fn event(fields: &str) -> String {
    format!(
        r#"{{"type":"email.bounced","created_at":"2026-02-22T23:41:12.126894Z","data":{{"to":["Ann <a@example.com>"]{fields}}}}}"#
    )
}

#[test]
fn a_bounce_without_a_type_is_hard() {
    let bounce = |fields: &str| normalize::<Resend>(&event(fields)).events[0].bounce_type;
    assert_eq!(bounce(r#","bounce":{"message":"x"}"#), Some(BounceType::Hard));
    assert_eq!(
        bounce(r#","bounce":{"type":"Transient"}"#),
        Some(BounceType::Soft)
    );
    assert_eq!(
        bounce(r#","bounce":{"type":"transient"}"#),
        Some(BounceType::Soft)
    );
    assert_eq!(
        bounce(r#","bounce":{"type":"permanent"}"#),
        Some(BounceType::Hard)
    );
    assert_eq!(bounce(r#","bounce":{"type":"Undetermined"}"#), None);
}

#[test]
fn tags_come_as_object_or_list() {
    for tags in [
        r#"{"a":"1","b":2}"#,
        r#"[{"name":"a","value":"1"},{"name":"b","value":2}]"#,
    ] {
        let event = normalize::<Resend>(&event(&format!(r#","tags":{tags}"#)))
            .events
            .remove(0);
        let pairs: Vec<_> = event
            .metadata
            .iter()
            .map(|pair| (pair.name.as_str(), pair.value.as_str()))
            .collect();
        assert_eq!(pairs, [("a", "1"), ("b", "2")], "{tags}");
        assert_eq!(event.recipient_email.as_deref(), Some("a@example.com"));
        assert_eq!(event.timestamp_ms % 1000, 126);
    }
}

#[test]
fn what_is_not_about_a_message_is_skipped() {
    for name in [
        "email.scheduled",
        "email.received",
        "domain.updated",
        "contact.created",
        "novelty",
    ] {
        let batch = normalize::<Resend>(&format!(r#"{{"type":"{name}"}}"#));
        assert_eq!(batch.skipped[0].provider_type, name);
    }
    assert!(matches!(
        Resend::normalize(&post("{}")),
        Err(Rejection::Malformed(_))
    ));
    let timeless = normalize::<Resend>(r#"{"type":"email.opened","data":{"to":["a@example.com"]}}"#);
    assert_eq!((timeless.events.len(), timeless.rejected.len()), (0, 1));
    assert_eq!(
        normalize::<Resend>(&event("")).events[0].event_type,
        EventType::Bounced
    );
}
