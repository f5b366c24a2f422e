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
fn the_token_may_come_bare_if_it_is_for_basic() {
    let presented = |authorization: &str, auth_type: &str| {
        let request = post("{}")
            .with_secret("auth_token")
            .with_setting("auth_type", auth_type)
            .with_header("authorization", authorization);
        let proofs = Iterable::authenticate(&request)?;
        let [Proof::SharedSecret(secret)] = proofs.as_slice() else {
            panic!("{proofs:?}")
        };
        Ok(secret.presented[0].clone())
    };
    let token = Ok("tok".to_owned());
    assert_eq!(presented("Basic tok", "Basic"), token);
    assert_eq!(presented("tok", "Basic"), token);
    assert_eq!(presented("oauth2 tok", "OAuth2"), token);
    assert_eq!(
        presented("Bearer tok", "Basic"),
        Ok("Bearer tok".to_owned()),
        "another word is part of what is compared"
    );
    for (authorization, auth_type) in [("tok", "OAuth2"), ("Basic tok", "OAuth2")] {
        let refused = presented(authorization, auth_type);
        assert!(
            matches!(refused, Err(Rejection::InvalidProof(_))),
            "{authorization}"
        );
    }
    let missing = Iterable::authenticate(&post("{}").with_secret("auth_token"));
    assert!(matches!(missing, Err(Rejection::MissingProof(_))));
}

#[test]
fn user_and_password_may_come_without_the_word() {
    let presented = |authorization: &str| {
        let request = post("{}")
            .with_secret("basic_auth_user")
            .with_secret("basic_auth_password")
            .with_header("authorization", authorization);
        let proofs = Iterable::authenticate(&request).unwrap();
        let [Proof::BasicAuth(basic)] = proofs.as_slice() else {
            panic!("{proofs:?}")
        };
        basic.authorization.clone()
    };
    assert_eq!(presented("bWU6c2VjcmV0"), "Basic bWU6c2VjcmV0");
    assert_eq!(presented("Basic bWU6c2VjcmV0"), "Basic bWU6c2VjcmV0");
    assert_eq!(presented("Bearer bWU6c2VjcmV0"), "Bearer bWU6c2VjcmV0");
    for secret in ["basic_auth_user", "basic_auth_password"] {
        let missing = Iterable::authenticate(&post("{}").with_secret(secret));
        assert!(matches!(missing, Err(Rejection::MissingProof(_))), "{secret}");
    }
}

#[test]
fn an_event_without_a_time_takes_that_of_its_receipt() {
    for fields in ["", r#","dataFields":null"#, r#","dataFields":{"createdAt":null}"#] {
        let mut request = post(format!(
            r#"{{"eventName":"emailSendSkip","email":"a@example.com"{fields}}}"#
        ));
        request.received_at_ms = 1_768_046_400_077;
        let event = batch(Iterable::normalize(&request)).events.remove(0);
        assert_eq!(
            (event.event_type, event.timestamp_ms),
            (EventType::Rejected, 1_768_046_400_077),
            "{fields}"
        );
    }
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
