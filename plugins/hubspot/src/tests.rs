use sendflowr_plugin_sdk::{
    BounceType, EventType, HashConstruction, Part, Plugin, Proof, Rejection, Request,
};
use sendflowr_plugin_testing::{RequestExt, normalize, post};

use crate::HubSpot;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<HubSpot>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<HubSpot>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn request() -> Request {
    post("[]")
        .with_secret("client_secret")
        .with_setting("webhook_url", "https://example.com/hook")
}

fn messages(request: &Request) -> (HashConstruction, Vec<String>) {
    let proofs = HubSpot::authenticate(request).unwrap();
    let Some(Proof::KeyedHash(hash)) = proofs.into_iter().next_back() else {
        panic!("no hash")
    };
    let text = |part: &Part| match part {
        Part::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        Part::Body => "<body>".to_owned(),
    };
    (
        hash.construction,
        hash.messages
            .iter()
            .map(|parts| parts.iter().map(text).collect())
            .collect(),
    )
}

#[test]
fn version_3_signs_the_url_decoded_or_not() {
    let request = request()
        .with_query("a=%3a%2C&b=%26%2")
        .with_header("x-hubspot-signature-v3", "c2ln")
        .with_header("x-hubspot-request-timestamp", "1767000000000");
    let expected = [
        "POSThttps://example.com/hook?a=:,&b=%26%2<body>1767000000000",
        "POSThttps://example.com/hook?a=%3a%2C&b=%26%2<body>1767000000000",
    ];
    let (construction, found) = messages(&request);
    assert_eq!(
        (construction, found),
        (HashConstruction::Hmac, expected.map(str::to_owned).to_vec())
    );
}

#[test]
fn older_versions_count_only_alone() {
    let v2 = request()
        .with_header("x-hubspot-signature", "ab")
        .with_header("x-hubspot-signature-version", "v2");
    let (construction, found) = messages(&v2);
    assert_eq!(
        (construction, found),
        (
            HashConstruction::KeyThenMessage,
            vec!["POSThttps://example.com/hook<body>".to_owned()]
        )
    );
    let v1 = request()
        .with_header("x-hubspot-signature", "ab")
        .with_header("x-hubspot-signature-version", "v1");
    assert_eq!(messages(&v1).1, ["<body>"]);
    // Version 3 without its timestamp, or with a blank signature, must not fall back to version 1.
    for signature in ["c2ln", " ", ""] {
        let both = v1.clone().with_header("x-hubspot-signature-v3", signature);
        assert!(matches!(
            HubSpot::authenticate(&both),
            Err(Rejection::MissingProof(_))
        ));
    }
    assert!(matches!(
        HubSpot::authenticate(&request()),
        Err(Rejection::MissingProof(_))
    ));
}

fn change(property: &str, value: &str) -> Option<(EventType, i64)> {
    change_with(property, &format!(r#","propertyValue":"{value}""#))
}

fn change_with(property: &str, fields: &str) -> Option<(EventType, i64)> {
    let body = format!(
        r#"[{{"subscriptionType":"contact.propertyChange","eventId":1,"objectId":7,"occurredAt":5,
            "propertyName":"{property}"{fields}}}]"#
    );
    let batch = normalize::<HubSpot>(&body);
    assert_eq!(batch.events.len() + batch.skipped.len(), 1);
    batch
        .events
        .first()
        .map(|event| (event.event_type, event.timestamp_ms))
}

#[test]
fn properties_tell_what_happened() {
    assert_eq!(
        change("hs_email_last_click_date", "9"),
        Some((EventType::Clicked, 9))
    );
    assert_eq!(change("hs_email_last_click_date", ""), None);
    assert_eq!(
        change("hs_email_optout", "TRUE"),
        Some((EventType::Unsubscribed, 5))
    );
    assert_eq!(change("hs_email_optout", ""), Some((EventType::Resubscribed, 5)));
    assert_eq!(change("hs_email_optout_123", "true"), None);
    assert_eq!(change("hs_email_open", "3"), None);
}

#[test]
fn only_a_cleared_opt_out_is_a_return() {
    let kind = |fields: &str| change_with("hs_email_optout", fields).map(|(kind, _)| kind);
    assert_eq!(kind(r#","propertyValue":true"#), Some(EventType::Unsubscribed));
    for cleared in [r#"false"#, r#""false""#, r#""""#, "null"] {
        assert_eq!(
            kind(&format!(r#","propertyValue":{cleared}"#)),
            Some(EventType::Resubscribed),
            "{cleared}"
        );
    }
    for unclear in [
        "",
        r#","propertyValue":" ""#,
        r#","propertyValue":"maybe""#,
        r#","propertyValue":{}"#,
    ] {
        assert_eq!(kind(unclear), None, "{unclear}");
    }
}

#[test]
fn bounces_go_by_status_then_category() {
    let bounce = |fields: &str| {
        let body =
            format!(r#"{{"events":[{{"type":"BOUNCE","created":5,"recipient":"a@example.com"{fields}}}]}}"#);
        normalize::<HubSpot>(&body).events[0].bounce_type
    };
    assert_eq!(
        bounce(r#","status":"5.1.1","category":"MAILBOX_FULL""#),
        Some(BounceType::Hard)
    );
    assert_eq!(bounce(r#","status":"4.2.2""#), Some(BounceType::Soft));
    assert_eq!(bounce(r#","category":"MAILBOX_FULL""#), Some(BounceType::Soft));
    assert_eq!(bounce(r#","category":"UNKNOWN_USER""#), Some(BounceType::Hard));
    assert_eq!(bounce(""), None);
}

#[test]
fn events_tell_when_their_mail_was_sent() {
    let sent_at = |sent_by: &str| {
        let body = format!(
            r#"[{{"type":"DELIVERED","created":9000,"recipient":"a@example.com","sentBy":{sent_by}}}]"#
        );
        let event = normalize::<HubSpot>(&body).events.remove(0);
        (event.message_id, event.sent_at_ms)
    };
    let id = Some("m1".to_owned());
    assert_eq!(sent_at(r#"{"id":"m1","created":5000}"#), (id.clone(), Some(5000)));
    assert_eq!(sent_at(r#"{"id":"m1"}"#), (id, None));
    assert_eq!(sent_at("null"), (None, None));
}

#[test]
fn other_objects_are_skipped_and_other_bodies_malformed() {
    let other = r#"[{"subscriptionType":"deal.creation"},{"subscriptionType":"object.propertyChange","objectTypeId":"0-2"},
        {},{"kind":"SENT"}]"#;
    let batch = normalize::<HubSpot>(other);
    assert_eq!(batch.skipped.len(), 2);
    // Without a type, what it is about is not known.
    let rejected = batch.rejected.iter().map(|rejected| rejected.index);
    assert!(rejected.eq([2, 3]));
    assert!(matches!(
        HubSpot::normalize(&post("{}")),
        Err(Rejection::Malformed(_))
    ));
}
