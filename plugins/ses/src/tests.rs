use sendflowr_plugin_sdk::{BounceType, EventType, Outcome, Plugin, Proof, PublicKey, Rejection, Request};
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
            "bouncedRecipients":[{{"emailAddress":"Ann <a@example.com>","diagnosticCode":"450 a"}},{{"emailAddress":"b@example.com"}}]}}}}"#
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
}

#[test]
fn the_message_s_id_is_that_of_its_only_event() {
    let ids = |recipients: &str| {
        let delivery = format!(
            r#"{{"eventType":"Delivery",{MAIL},"delivery":{{"timestamp":"2026-01-01T00:00:01Z","recipients":[{recipients}]}}}}"#
        );
        let events = normalize::<Ses>(&notification(&delivery)).events;
        events
            .into_iter()
            .map(|event| event.provider_event_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(r#""a@example.com""#), [Some("sns-1".to_owned())]);
    assert_eq!(ids(r#""a@example.com","b@example.com""#), [None, None]);
}

#[test]
fn no_recipient_goes_missing_when_a_field_is_renamed() {
    let complaint = |recipients: &str| {
        let body = format!(
            r#"{{"eventType":"Complaint",{MAIL},"complaint":{{"timestamp":"2026-01-01T00:00:01Z",{recipients}}}}}"#
        );
        let batch = normalize::<Ses>(&notification(&body));
        let indexes: Vec<u32> = batch.events.iter().map(|event| event.index).collect();
        let rejected: Vec<u32> = batch.rejected.iter().map(|rejected| rejected.index).collect();
        (indexes, rejected)
    };
    // Each recipient has a place of their own, by which a replay knows whose event is stored.
    assert_eq!(
        complaint(r#""complainedRecipients":[{"emailAddress":"a@example.com"},{"address":"b@example.com"}]"#),
        (vec![0], vec![1])
    );
    // A message that yields no event counts once.
    for recipients in [
        r#""recipients":[{"emailAddress":"a@example.com"}]"#,
        r#""complainedRecipients":[{},{"address":"b@example.com"}]"#,
    ] {
        assert_eq!(complaint(recipients), (vec![], vec![0]), "{recipients}");
    }
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

/// Returns what a change from one of these preferences to the other amounts to.
fn subscription(old: &str, new: &str) -> Option<EventType> {
    let message = format!(
        r#"{{"eventType":"Subscription","mail":{{"destination":["a@example.com"]}},"subscription":{{
            "timestamp":"2026-01-01T00:00:01Z","oldTopicPreferences":{old},"newTopicPreferences":{new}}}}}"#
    );
    let batch = normalize::<Ses>(&notification(&message));
    assert_eq!(batch.events.len() + batch.skipped.len(), 1);
    batch.events.first().map(|event| event.event_type)
}

/// Creates preferences with one topic in each of the two lists, unless its status is blank.
fn preferences(unsubscribe_all: bool, chosen: &str, default: &str) -> String {
    let list = |status: &str| match status {
        "" => String::new(),
        status => format!(r#"{{"topicName":"t","subscriptionStatus":"{status}"}}"#),
    };
    format!(
        r#"{{"unsubscribeAll":{unsubscribe_all},"topicSubscriptionStatus":[{}],"topicDefaultSubscriptionStatus":[{}]}}"#,
        list(chosen),
        list(default)
    )
}

#[test]
fn a_topic_left_counts_as_leaving() {
    let topic =
        |old: &str, new: &str| subscription(&preferences(false, old, ""), &preferences(false, new, ""));
    assert_eq!(topic("OptIn", "OptOut"), Some(EventType::Unsubscribed));
    assert_eq!(topic("OptOut", "OptIn"), Some(EventType::Resubscribed));
    assert_eq!(topic("OptIn", "OptIn"), None);
    assert_eq!(topic("OptOut", "OptOut"), None);
}

#[test]
fn who_never_chose_had_the_default() {
    let topic = |default: &str, new: &str| {
        subscription(
            &preferences(false, "", default),
            &preferences(false, new, default),
        )
    };
    assert_eq!(topic("OptIn", "OptOut"), Some(EventType::Unsubscribed));
    assert_eq!(topic("OptOut", "OptIn"), Some(EventType::Resubscribed));
    assert_eq!(topic("OptIn", "OptIn"), None);
    assert_eq!(topic("OptOut", "OptOut"), None);
    // Nothing is known of before: only an opt-out must not be lost.
    assert_eq!(topic("", "OptOut"), Some(EventType::Unsubscribed));
    assert_eq!(topic("", "OptIn"), None);
    // The choice counts, not the default.
    let chosen = preferences(false, "OptOut", "OptIn");
    assert_eq!(subscription(&chosen, &chosen), None);
}

#[test]
fn everything_counts_before_a_topic() {
    let all = |old, new| subscription(&preferences(old, "OptOut", ""), &preferences(new, "OptIn", ""));
    assert_eq!(all(false, true), Some(EventType::Unsubscribed));
    assert_eq!(all(true, false), Some(EventType::Resubscribed));
    assert_eq!(
        all(true, true),
        None,
        "SES sends nothing, whatever the topic says"
    );
}

const CERTIFICATE: &str = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0f.pem";

/// Creates a notification of the topic `arn:t` that claims to be signed.
fn signed(version: &str, certificate: &str) -> Request {
    // Escape backslashes as JSON does.
    let certificate = certificate.replace('\\', "\\\\");
    post(format!(
        r#"{{"Type":"Notification","Message":"x","MessageId":"1","Timestamp":"2026-01-01T00:00:00Z","TopicArn":"arn:t",
            "SignatureVersion":"{version}","Signature":"c2ln","SigningCertURL":"{certificate}"}}"#
    ))
}

#[test]
fn the_version_chooses_the_scheme_and_the_topic_is_checked() {
    let proofs = Ses::authenticate(&signed("2", CERTIFICATE).with_setting("topic_arn", "arn:t")).unwrap();
    let [Proof::PublicKey(signature)] = proofs.as_slice() else {
        panic!("{proofs:?}")
    };
    assert!(matches!(&signature.key, PublicKey::CertificateUrl(url) if url == CERTIFICATE));
    for (version, topic) in [("3", "arn:t"), ("2", "arn:other")] {
        let refused = Ses::authenticate(&signed(version, CERTIFICATE).with_setting("topic_arn", topic));
        assert!(
            matches!(refused, Err(Rejection::InvalidProof(_))),
            "{version} {topic}"
        );
    }
}

#[test]
fn without_a_topic_only_basic_authentication_proves() {
    // The host refuses what nothing proves, unless the account accepts unsigned deliveries.
    for request in [signed("2", CERTIFICATE), post(notification("{}")), post("nope")] {
        assert_eq!(Ses::authenticate(&request), Ok(Vec::new()));
        assert_eq!(
            Ses::authenticate(&request.with_setting("topic_arn", " ")),
            Ok(Vec::new())
        );
    }
    // Half a configuration lets nothing through.
    let half = signed("2", CERTIFICATE)
        .with_secret("basic_auth_password")
        .with_header("authorization", "Basic bWU6c2VjcmV0");
    let Err(Rejection::InvalidProof(text)) = Ses::authenticate(&half) else {
        panic!("anybody's topic is taken")
    };
    assert!(text.contains("`topic_arn`"), "{text}");
    let known = signed("2", CERTIFICATE)
        .with_secret("basic_auth_user")
        .with_secret("basic_auth_password")
        .with_header("authorization", "Basic bWU6c2VjcmV0");
    let proofs = Ses::authenticate(&known).unwrap();
    assert!(
        matches!(proofs.as_slice(), [Proof::BasicAuth(_), Proof::PublicKey(_)]),
        "{proofs:?}"
    );
}

#[test]
fn what_has_no_signature_is_refused_for_that() {
    let event = format!(r#"{{"eventType":"Send",{MAIL}}}"#);
    for body in [
        "{}",
        &event,
        r#"{"Type":"Other","TopicArn":"arn:t"}"#,
        r#"{"Type":"Notification","TopicArn":"arn:t","Signature":" "}"#,
    ] {
        let refused = Ses::authenticate(&post(body).with_setting("topic_arn", "arn:t"));
        assert!(matches!(refused, Err(Rejection::MissingProof(_))), "{body}");
    }
    for body in [
        r#"{"Type":"Other","TopicArn":"arn:t","Signature":"c2ln"}"#,
        "[]",
        "nope",
    ] {
        let refused = Ses::authenticate(&post(body).with_setting("topic_arn", "arn:t"));
        assert!(matches!(refused, Err(Rejection::Malformed(_))), "{body}");
    }
}

#[test]
fn a_message_that_is_no_object_is_skipped() {
    for (message, provider_type) in [
        ("hello", "not-json"),
        ("", "not-json"),
        ("[1]", "not-json"),
        (r#""x""#, "not-json"),
        (r#"{"eventType":"#, "not-json"),
        (
            "Successfully validated SNS topic for Amazon SES event publishing.\n",
            "topic-validation",
        ),
    ] {
        let batch = normalize::<Ses>(&notification(message));
        assert_eq!(batch.events.len(), 0, "{message}");
        assert_eq!(batch.skipped[0].provider_type, provider_type, "{message}");
    }
    let without = Ses::normalize(&post(r#"{"Type":"Notification"}"#));
    assert!(matches!(without, Err(Rejection::Malformed(_))));
}

#[test]
fn certificates_lie_at_sns_under_a_plain_name() {
    let authenticate =
        |url: &str| Ses::authenticate(&signed("2", url).with_setting("topic_arn", "arn:t")).map(|_| ());
    for good in [
        CERTIFICATE,
        "https://sns.us-gov-east-1.amazonaws.com/SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem",
        "https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-0f.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0F.pem",
        "https://sns.eu-west-1.amazonaws.com/rotated_2026.1.pem",
    ] {
        assert_eq!(authenticate(good), Ok(()), "{good}");
    }
    let file = "SimpleNotificationService-0f.pem";
    for bad in [
        // Responses of SNS that the sender can influence.
        "https://sns.eu-west-1.amazonaws.com/?Action=ListTopics&x=.pem".to_owned(),
        format!("{CERTIFICATE}?n=1&.pem"),
        format!("{CERTIFICATE}#.pem"),
        // Buckets, however they are written.
        format!("https://sns.s3.amazonaws.com/{file}"),
        format!("https://SNS.s3-eu-west-1.amazonaws.com/{file}"),
        format!("https://sns.s3-eu-west-1.amazonaws.com/{file}"),
        format!("https:/sns.s3.amazonaws.com/{file}"),
        format!("https:\\\\sns.s3.amazonaws.com/{file}"),
        format!(" https://sns.s3.amazonaws.com/{file}"),
        // Other hosts, ports and users.
        format!("https://evil.test/sns.eu-west-1.amazonaws.com/{file}"),
        format!("https://sns.eu-west-1.amazonaws.com.evil.test/{file}"),
        format!("https://sns.evil.test/x.eu-west-1.amazonaws.com/{file}"),
        format!("https://sns.eu-west-1.amazonaws.com:8443/{file}"),
        format!("https://me@sns.eu-west-1.amazonaws.com/{file}"),
        format!("https://sns.me@evil-1.amazonaws.com/{file}"),
        format!("http://sns.eu-west-1.amazonaws.com/{file}"),
        // Folders, other kinds of files, and the same name spelled differently.
        format!("https://sns.eu-west-1.amazonaws.com/a/{file}"),
        format!("https://sns.eu-west-1.amazonaws.com/./{file}"),
        format!("https://sns.eu-west-1.amazonaws.com/../{file}"),
        format!("https://sns.eu-west-1.amazonaws.com//{file}"),
        "https://sns.eu-west-1.amazonaws.com/Simple%4eotificationService-0f.pem".to_owned(),
        "https://sns.eu-west-1.amazonaws.com/a b.pem".to_owned(),
        "https://sns.eu-west-1.amazonaws.com/é.pem".to_owned(),
        "https://sns.eu-west-1.amazonaws.com/a;b.pem".to_owned(),
        "https://sns.eu-west-1.amazonaws.com/.pem".to_owned(),
        "https://sns.eu-west-1.amazonaws.com/apem".to_owned(),
        "https://sns.eu-west-1.amazonaws.com/a.txt".to_owned(),
    ] {
        assert!(
            matches!(authenticate(&bad), Err(Rejection::InvalidProof(_))),
            "{bad}"
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
fn an_address_to_confirm_lies_at_sns() {
    for url in [
        "https://sns.s3.amazonaws.com/?Token=t",
        "https://evil.test/?Token=t",
        "http://sns.eu-west-1.amazonaws.com/?Token=t",
    ] {
        let body = format!(r#"{{"Type":"SubscriptionConfirmation","SubscribeURL":"{url}"}}"#);
        let refused = Ses::normalize(&post(body));
        assert!(matches!(refused, Err(Rejection::InvalidProof(_))), "{url}");
    }
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
    assert_eq!(batch.events[0].provider_event_id, None, "one of two events");
    let unproven = raw.clone().with_secret("basic_auth_user");
    assert!(matches!(
        Ses::authenticate(&unproven),
        Err(Rejection::MissingProof(_))
    ));
    let proven = unproven
        .with_secret("basic_auth_password")
        .with_setting("topic_arn", "arn:t")
        .with_header("authorization", "Basic bWU6c2VjcmV0");
    // The topic is named only by a header, if at all; another one is refused.
    for (topic, is_accepted) in [("", true), ("arn:t", true), ("arn:tx", false), ("arn:T", false)] {
        let request = proven.clone().with_header("x-amz-sns-topic-arn", topic);
        match Ses::authenticate(&request) {
            Ok(proofs) => assert!(
                is_accepted && matches!(proofs.as_slice(), [Proof::BasicAuth(_)]),
                "{topic}"
            ),
            Err(refused) => assert!(
                !is_accepted && matches!(refused, Rejection::InvalidProof(_)),
                "{topic}"
            ),
        }
    }
}
