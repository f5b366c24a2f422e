use sendflowr_plugin_sdk::{BounceType, EventType, Plugin, Proof, Rejection};
use sendflowr_plugin_testing::{RequestExt, normalize, post};

use crate::Postmark;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<Postmark>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<Postmark>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn record(kind: &str, fields: &str) -> String {
    format!(
        r#"{{"RecordType":"{kind}","Email":"a@example.com","BouncedAt":"2014-08-01T13:28:10.2735393-04:00"{fields}}}"#
    )
}

#[test]
fn every_bounce_type_is_known_by_name() {
    use EventType::{Bounced, Deferred, MarkedSpam, Rejected, Resubscribed, Unsubscribed};
    for (name, event_type, bounce_type) in [
        ("HardBounce", Bounced, Some(BounceType::Hard)),
        ("SoftBounce", Bounced, Some(BounceType::Soft)),
        ("Blocked", Bounced, Some(BounceType::Soft)),
        ("Unknown", Bounced, Some(BounceType::Soft)),
        ("VirusNotification", Bounced, Some(BounceType::Soft)),
        ("SomethingNew", Bounced, Some(BounceType::Soft)),
        ("Transient", Deferred, None),
        ("DnsError", Deferred, None),
        ("Unsubscribe", Unsubscribed, None),
        ("Subscribe", Resubscribed, None),
        ("SpamNotification", MarkedSpam, None),
        ("SpamComplaint", MarkedSpam, None),
        ("BadEmailAddress", Rejected, None),
        ("ManuallyDeactivated", Rejected, None),
        ("Unconfirmed", Rejected, None),
        ("SMTPApiError", Rejected, None),
        ("DMARCPolicy", Rejected, None),
        ("TemplateRenderingFailed", Rejected, None),
    ] {
        // The code contradicts the name, as in published samples.
        let batch = normalize::<Postmark>(&record("Bounce", &format!(r#","Type":"{name}","TypeCode":512"#)));
        let event = &batch.events[0];
        assert_eq!(
            (event.event_type, event.bounce_type),
            (event_type, bounce_type),
            "{name}"
        );
    }
    for name in [
        "AutoResponder",
        "AddressChange",
        "OpenRelayTest",
        "ChallengeVerification",
        "InboundError",
    ] {
        let batch = normalize::<Postmark>(&record("Bounce", &format!(r#","Type":"{name}""#)));
        assert_eq!(batch.skipped[0].provider_type, format!("Bounce/{name}"));
    }
}

#[test]
fn a_suppression_tells_why() {
    for (fields, event_type, bounce_type) in [
        (r#""SuppressSending":false"#, EventType::Resubscribed, None),
        (
            r#""SuppressSending":true,"SuppressionReason":"ManualSuppression""#,
            EventType::Unsubscribed,
            None,
        ),
        (
            r#""SuppressSending":true,"SuppressionReason":"HardBounce""#,
            EventType::Bounced,
            Some(BounceType::Hard),
        ),
        (
            r#""SuppressSending":true,"SuppressionReason":"SpamComplaint""#,
            EventType::MarkedSpam,
            None,
        ),
    ] {
        let batch = normalize::<Postmark>(&record("SubscriptionChange", &format!(",{fields}")));
        assert_eq!(
            (batch.events[0].event_type, batch.events[0].bounce_type),
            (event_type, bounce_type),
            "{fields}"
        );
    }
    assert_eq!(
        normalize::<Postmark>(&record("SubscriptionChange", ""))
            .rejected
            .len(),
        1
    );
}

#[test]
fn fields_follow_the_table() {
    let fields = r#","ID":9007199254740993,"Type":"HardBounce","MessageID":"m-1","Subject":"Hi","Tag":"welcome",
        "Details":"","Description":"no such user","Geo":{},"Metadata":{"user_id":43,"list":[1, 2]}"#;
    let event = normalize::<Postmark>(&record("Bounce", fields)).events.remove(0);
    assert_eq!(event.timestamp_ms, 1_406_914_090_273);
    assert_eq!(event.provider_event_id.as_deref(), Some("9007199254740993"));
    assert_eq!(event.recipient_email.as_deref(), Some("a@example.com"));
    assert_eq!(event.reason.as_deref(), Some("no such user"));
    assert_eq!(event.tags, ["welcome"]);
    assert_eq!(event.ip_address, None);
    let metadata: Vec<_> = event
        .metadata
        .iter()
        .map(|pair| (pair.name.as_str(), pair.value.as_str()))
        .collect();
    assert_eq!(metadata, [("user_id", "43"), ("list", "[1,2]")]);
}

#[test]
fn id_and_subject_belong_to_bounces_and_complaints() {
    let of = |kind: &str| {
        let fields = r#","ID":7,"Subject":"Hi","Type":"HardBounce","SuppressSending":true"#;
        let event = normalize::<Postmark>(&record(kind, fields)).events.remove(0);
        (event.provider_event_id, event.subject)
    };
    for kind in ["Bounce", "SpamComplaint"] {
        assert_eq!(of(kind), (Some("7".to_owned()), Some("Hi".to_owned())), "{kind}");
    }
    for kind in ["Delivery", "Open", "Click", "SubscriptionChange"] {
        assert_eq!(of(kind), (None, None), "{kind}");
    }
}

#[test]
fn a_record_without_address_or_time_is_rejected() {
    for body in [
        r#"{"RecordType":"Open","ReceivedAt":"2024-01-01T00:00:00Z"}"#,
        r#"{"RecordType":"Open","Recipient":"a@example.com","ReceivedAt":"yesterday"}"#,
    ] {
        let batch = normalize::<Postmark>(body);
        assert_eq!((batch.events.len(), batch.rejected.len()), (0, 1), "{body}");
    }
}

#[test]
fn what_is_not_reported_is_skipped() {
    // Incoming messages may have no type.
    for (body, name) in [
        (r#"{"RecordType":"Inbound"}"#, "Inbound"),
        ("{}", "Inbound"),
        (r#"{"RecordType":"Novelty"}"#, "Novelty"),
    ] {
        let batch = normalize::<Postmark>(body);
        assert_eq!(
            (batch.skipped.len(), &*batch.skipped[0].provider_type),
            (1, name),
            "{body}"
        );
    }
}

#[test]
fn a_body_that_is_no_object_is_malformed() {
    for body in ["", "[]", "[{}]", "7", "{"] {
        assert!(
            matches!(Postmark::normalize(&post(body)), Err(Rejection::Malformed(_))),
            "{body}"
        );
    }
}

#[test]
fn password_and_header_must_both_hold_when_both_are_configured() {
    let request = post("{}")
        .with_secret("basic_auth_user")
        .with_secret("basic_auth_password")
        .with_secret("header_value")
        .with_setting("header_name", "X-Key")
        .with_header("x-key", "v");
    assert!(matches!(
        Postmark::authenticate(&request),
        Err(Rejection::MissingProof(_))
    ));
    let proofs = Postmark::authenticate(&request.with_header("authorization", "Basic eDp5")).unwrap();
    assert!(matches!(
        proofs[..],
        [Proof::BasicAuth(_), Proof::SharedSecret(_)]
    ));
}
