use sendflowr_plugin_sdk::{BounceType, EventType, Plugin, Proof, Rejection};
use sendflowr_plugin_testing::{RequestExt, batch, normalize, post};

use crate::Iterable;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<Iterable>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<Iterable>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn the_token_may_come_bare() {
    let presented = |authorization: &str, auth_type: &str| {
        let request = post("{}")
            .with_secret("auth_token")
            .with_setting("auth_type", auth_type)
            .with_header("authorization", authorization);
        let proofs = Iterable::authenticate(&request).unwrap();
        let [Proof::SharedSecret(secret)] = proofs.as_slice() else {
            panic!("{proofs:?}")
        };
        secret.presented[0].clone()
    };
    assert_eq!(presented("Basic tok", "Basic"), "tok");
    assert_eq!(presented("tok", "Basic"), "tok");
    assert_eq!(presented("oauth2 tok", "OAuth2"), "tok");
    assert_eq!(
        presented("Bearer tok", "Basic"),
        "Bearer tok",
        "another word is part of what is compared"
    );
    let missing = Iterable::authenticate(&post("{}").with_secret("auth_token"));
    assert!(matches!(missing, Err(Rejection::MissingProof(_))));
}

#[test]
fn an_event_without_a_time_takes_the_day_of_its_receipt() {
    let mut request = post(r#"{"eventName":"emailSendSkip","email":"a@example.com"}"#);
    let mut received = |at_ms| {
        request.received_at_ms = at_ms;
        batch(Iterable::normalize(&request)).events.remove(0)
    };
    let (first, again) = (received(1_768_046_400_077), received(1_768_050_000_000));
    assert_eq!(
        (first.event_type, first.timestamp_ms),
        (EventType::Rejected, 1_768_003_200_000)
    );
    assert_eq!(first, again, "sent again the same day, it is the same event");
    let odd = normalize::<Iterable>(
        r#"{"eventName":"emailOpen","email":"a@example.com","dataFields":{"createdAt":"noon"}}"#,
    );
    assert_eq!(odd.rejected.len(), 1);
}

#[test]
fn fields_stand_at_the_top_or_inside() {
    let body = r#"{"eventName":"emailBounce","dataFields":{"email":"in@example.com","userId":"7","recipientState":"SoftBounce",
        "createdAt":"2016-12-02 20:21:04 +02:00"}}"#;
    let event = normalize::<Iterable>(body).events.remove(0);
    assert_eq!(event.recipient_email.as_deref(), Some("in@example.com"));
    assert_eq!(event.identifiers[0].value, "7");
    assert_eq!(event.bounce_type, Some(BounceType::Soft));
    assert_eq!(event.timestamp_ms, 1_480_702_864_000);
}

#[test]
fn unknown_events_are_skipped_and_no_event_is_malformed() {
    assert_eq!(
        normalize::<Iterable>(r#"{"eventName":"inAppOpen"}"#).skipped[0].provider_type,
        "inAppOpen"
    );
    assert!(matches!(
        Iterable::normalize(&post("{}")),
        Err(Rejection::Malformed(_))
    ));
    assert!(matches!(
        Iterable::normalize(&post("[]")),
        Err(Rejection::Malformed(_))
    ));
}
