use sendflowr_plugin_sdk::{BounceType, EventType, Outcome, Plugin, Proof, PublicKey, Rejection};
use sendflowr_plugin_testing::{RequestExt, normalize, post};

use crate::Ses;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<Ses>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<Ses>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn notification(message: &str) -> String {
    let quoted = message
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!(
        r#"{{"Type":"Notification","MessageId":"sns-1","Timestamp":"2026-01-01T00:00:00.000Z","Message":"{quoted}"}}"#
    )
}

const MAIL: &str = r#""mail":{"timestamp":"2026-01-01T00:00:00.000Z","messageId":"m","destination":["a@example.com","b@example.com"]}"#;

#[test]
fn one_message_fans_out_to_its_recipients() {
    let bounce = format!(
        r#"{{"eventType":"Bounce",{MAIL},"bounce":{{"bounceType":"Undetermined","timestamp":"2026-01-01T00:00:01.500Z",
            "bouncedRecipients":[{{"emailAddress":"a@example.com","diagnosticCode":"450 a"}},{{"emailAddress":"b@example.com"}}]}}}}"#
    );
    let batch = normalize::<Ses>(&notification(&bounce));
    let read: Vec<_> = batch
        .events
        .iter()
        .map(|event| {
            (
                event.recipient_email.as_deref(),
                event.bounce_type,
                event.reason.as_deref(),
                event.timestamp_ms,
            )
        })
        .collect();
    let soft = Some(BounceType::Soft);
    let at = 1_767_225_601_500;
    assert_eq!(
        read,
        [
            (Some("a@example.com"), soft, Some("450 a"), at),
            (Some("b@example.com"), soft, None, at)
        ]
    );
    assert!(
        batch
            .events
            .iter()
            .all(|event| event.provider_event_id.as_deref() == Some("sns-1"))
    );
}

#[test]
fn complaints_withdrawn_are_no_complaints() {
    let complaint = |fields: &str| {
        format!(
            r#"{{"notificationType":"Complaint",{MAIL},"complaint":{{"timestamp":"2026-01-01T00:00:01Z",
                "complainedRecipients":[{{"emailAddress":"a@example.com"}}]{fields}}}}}"#
        )
    };
    let kinds = |fields: &str| {
        let batch = normalize::<Ses>(&notification(&complaint(fields)));
        batch
            .events
            .iter()
            .map(|event| event.event_type)
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(""), [EventType::MarkedSpam]);
    assert_eq!(
        kinds(r#","complaintSubType":"OnAccountSuppressionList""#),
        [EventType::Rejected]
    );
    assert_eq!(kinds(r#","complaintFeedbackType":"not-spam""#), []);
}

#[test]
fn a_topic_left_counts_as_leaving() {
    let subscription = |old: &str, new: &str| {
        let list = |status: &str| {
            format!(
                r#"{{"unsubscribeAll":false,"topicSubscriptionStatus":[{{"topicName":"t","subscriptionStatus":"{status}"}}]}}"#
            )
        };
        let message = format!(
            r#"{{"eventType":"Subscription","mail":{{"destination":["a@example.com"]}},"subscription":{{
                "timestamp":"2026-01-01T00:00:01Z","oldTopicPreferences":{},"newTopicPreferences":{}}}}}"#,
            list(old),
            list(new)
        );
        let batch = normalize::<Ses>(&notification(&message));
        batch.events.first().map(|event| event.event_type)
    };
    assert_eq!(subscription("OptIn", "OptOut"), Some(EventType::Unsubscribed));
    assert_eq!(subscription("OptOut", "OptIn"), Some(EventType::Resubscribed));
    assert_eq!(subscription("OptIn", "OptIn"), None);
}

#[test]
fn the_version_chooses_the_scheme_and_the_topic_is_checked() {
    let body = |version: &str, file: &str| {
        format!(
            r#"{{"Type":"Notification","Message":"x","MessageId":"1","Timestamp":"2026-01-01T00:00:00Z","TopicArn":"arn:t",
                "SignatureVersion":"{version}","Signature":"c2ln","SigningCertURL":"https://sns.eu-west-1.amazonaws.com/{file}"}}"#
        )
    };
    let proofs = Ses::authenticate(&post(body("2", "a.pem")).with_setting("topic_arn", "arn:t")).unwrap();
    let [Proof::PublicKey(signature)] = proofs.as_slice() else {
        panic!("{proofs:?}")
    };
    assert!(matches!(&signature.key, PublicKey::CertificateUrl(url) if url.ends_with("/a.pem")));
    for (body, topic) in [
        (body("3", "a.pem"), "arn:t"),
        (body("2", "a.txt"), "arn:t"),
        (body("2", "a.pem"), "arn:other"),
    ] {
        let refused = Ses::authenticate(&post(&body).with_setting("topic_arn", topic));
        assert!(
            matches!(refused, Err(Rejection::InvalidProof(_))),
            "{body} {topic}"
        );
    }
}

#[test]
fn only_confirmations_of_subscriptions_are_fetched() {
    let handshake = |kind: &str| {
        let body =
            format!(r#"{{"Type":"{kind}","SubscribeURL":"https://sns.eu-west-1.amazonaws.com/?Token=t"}}"#);
        Ses::normalize(&post(body)).unwrap()
    };
    let expected = "https://sns.eu-west-1.amazonaws.com/?Token=t".to_owned();
    assert_eq!(handshake("SubscriptionConfirmation"), Outcome::Confirm(expected));
    assert_eq!(handshake("UnsubscribeConfirmation"), Outcome::nothing());
}

#[test]
fn an_address_to_confirm_must_be_https() {
    let body = r#"{"Type":"SubscriptionConfirmation","SubscribeURL":"ftp://sns.eu-west-1.amazonaws.com/"}"#;
    let expected = Rejection::Malformed("`SubscribeURL` is no `https` address".to_owned());
    assert_eq!(Ses::normalize(&post(body)), Err(expected));
}

#[test]
fn raw_delivery_needs_basic_authentication() {
    let event = format!(r#"{{"eventType":"Send",{MAIL}}}"#);
    let raw = post(&event)
        .with_header("x-amz-sns-rawdelivery", "true")
        .with_header("x-amz-sns-message-id", "raw-1");
    assert_eq!(Ses::authenticate(&raw), Ok(Vec::new()), "nothing proves it");
    let Outcome::Events(batch) = Ses::normalize(&raw).unwrap() else {
        panic!("no events")
    };
    assert_eq!(batch.events.len(), 2);
    assert_eq!(batch.events[0].provider_event_id.as_deref(), Some("raw-1"));
    let unproven = raw.with_secret("basic_auth_user");
    assert!(matches!(
        Ses::authenticate(&unproven),
        Err(Rejection::MissingProof(_))
    ));
}

#[test]
fn a_certificate_in_a_bucket_is_not_snss() {
    for host in ["sns.s3.amazonaws.com", "SNS.s3-eu-west-1.amazonaws.com"] {
        let body = format!(
            r#"{{"Type":"Notification","Message":"x","Timestamp":"2026-01-01T00:00:00Z","SignatureVersion":"2",
                "Signature":"c2ln","SigningCertURL":"https://{host}/a.pem"}}"#
        );
        let refused = Ses::authenticate(&post(body));
        assert!(matches!(refused, Err(Rejection::InvalidProof(_))), "{host}");
    }
}
