use sendflowr_plugin_sdk::{BounceType, Event, EventType, Plugin, Proof, Rejection};
use sendflowr_plugin_testing::{RequestExt, normalize, post};

use crate::{SIGNATURE, SendGrid, TIMESTAMP};

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<SendGrid>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<SendGrid>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn one(name: &str, fields: &str) -> Event {
    let body = format!(r#"[{{"event":"{name}","email":"a@example.com","timestamp":1513299569{fields}}}]"#);
    normalize::<SendGrid>(&body).events.remove(0)
}

#[test]
fn names_are_compared_without_regard_to_case() {
    assert_eq!(one("Open", "").event_type, EventType::Opened);
    assert_eq!(one("GROUP_RESUBSCRIBE", "").event_type, EventType::Resubscribed);
}

#[test]
fn bounces_are_hard_or_soft() {
    for (fields, bounce_type) in [
        (r#","type":"bounce","status":"4.0.0""#, BounceType::Hard),
        (r#","type":"blocked","status":"5.7.1""#, BounceType::Soft),
        (r#","type":"expired""#, BounceType::Soft),
        (r#","status":"4.2.2""#, BounceType::Soft),
        (
            r#","status":"5.1.1","bounce_classification":"Mailbox Unavailable""#,
            BounceType::Hard,
        ),
        ("", BounceType::Hard),
    ] {
        assert_eq!(one("bounce", fields).bounce_type, Some(bounce_type), "{fields}");
    }
    assert_eq!(one("dropped", r#","type":"bounce""#).bounce_type, None);
}

#[test]
fn the_address_of_a_sending_server_is_nobodys() {
    let fields = r#","ip":"203.0.113.7","url":"https://example.com""#;
    for name in [
        "processed",
        "delivered",
        "deferred",
        "bounce",
        "dropped",
        "spamreport",
    ] {
        assert_eq!(
            (one(name, fields).ip_address, one(name, fields).click_url),
            (None, None),
            "{name}"
        );
    }
    for name in [
        "open",
        "click",
        "unsubscribe",
        "group_unsubscribe",
        "group_resubscribe",
    ] {
        let event = one(name, fields);
        assert_eq!(event.ip_address.as_deref(), Some("203.0.113.7"), "{name}");
        assert_eq!(event.click_url.is_some(), name == "click", "{name}");
    }
}

#[test]
fn ids_fall_back_and_become_text() {
    let event = one(
        "delivered",
        r#","sg_message_id":"","smtp-id":"<x@y>","singlesend_id":"s","singlesend_name":"n""#,
    );
    assert_eq!(event.message_id.as_deref(), Some("<x@y>"));
    assert_eq!(
        (event.campaign_id.as_deref(), event.campaign_name.as_deref()),
        (Some("s"), Some("n"))
    );
    let event = one(
        "delivered",
        r#","marketing_campaign_id":9007199254740993,"singlesend_id":"s""#,
    );
    assert_eq!(event.campaign_id.as_deref(), Some("9007199254740993"));
}

#[test]
fn mail_of_an_automation_has_its_campaign() {
    let automation = r#","mc_auto_id":"a","mc_auto_name":"Welcome","mc_auto_step_id":"s","mc_auto_msg_id":"m",
        "mc_auto_unique_id":"u","mc_stats":"automation","plan":"pro""#;
    let event = one("delivered", automation);
    assert_eq!(
        (event.campaign_id.as_deref(), event.campaign_name.as_deref()),
        (Some("a"), Some("Welcome"))
    );
    let metadata: Vec<_> = event.metadata.iter().map(|pair| pair.name.as_str()).collect();
    assert_eq!(metadata, ["plan"]);
    let event = one("delivered", &format!(r#"{automation},"singlesend_id":"1""#));
    assert_eq!(event.campaign_id.as_deref(), Some("1"));
}

#[test]
fn metadata_is_what_is_not_reserved() {
    let fields = r#","tls":1,"pool":{"id":2},"order":1.50,"vip":true,"none":null,"cart":{ "ids": [1, "a\u00e9"] },"plan":"pro""#;
    let metadata: Vec<_> = one("open", fields)
        .metadata
        .into_iter()
        .map(|pair| (pair.name, pair.value))
        .collect();
    let expected = [
        ("order", "1.50"),
        ("vip", "true"),
        ("cart", r#"{"ids":[1,"aé"]}"#),
        ("plan", "pro"),
    ];
    assert_eq!(
        metadata,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn categories_are_tags_in_every_form() {
    assert_eq!(one("open", r#","category":"one""#).tags, ["one"]);
    assert_eq!(one("open", r#","category":["a","b"]"#).tags, ["a", "b"]);
    assert_eq!(one("open", r#","category":[]"#).tags, [""; 0]);
}

#[test]
fn times_are_seconds_or_milliseconds_as_number_or_text() {
    let time = |timestamp: &str| {
        let body = format!(r#"[{{"event":"open","email":"a@example.com","timestamp":{timestamp}}}]"#);
        normalize::<SendGrid>(&body)
            .events
            .first()
            .map(|event| event.timestamp_ms)
    };
    assert_eq!(time("1513299569"), Some(1_513_299_569_000));
    assert_eq!(time("\"1513299569\""), Some(1_513_299_569_000));
    assert_eq!(time("1591726752372"), Some(1_591_726_752_372));
    for bad in ["null", "\"soon\"", "-5", "{}"] {
        assert_eq!(time(bad), None, "{bad}");
    }
}

#[test]
fn one_bad_element_never_harms_the_rest() {
    let body = r#"[7, {"event":"open","timestamp":1}, {"event":"open","email":"a@example.com"}, {"email":"a@example.com"},
        {"event":"novelty"}, {"event":"click","email":"a@example.com","timestamp":1}]"#;
    let batch = normalize::<SendGrid>(body);
    assert_eq!(
        batch.events.iter().map(|event| event.index).collect::<Vec<_>>(),
        [5]
    );
    assert_eq!(
        batch
            .rejected
            .iter()
            .map(|rejected| rejected.index)
            .collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    assert_eq!(
        (batch.skipped[0].index, batch.skipped[0].provider_type.as_str()),
        (4, "novelty")
    );
}

#[test]
fn a_body_that_is_no_array_is_malformed() {
    for body in ["", "{}", "[", "null", r#"[{"event":"open"}"#] {
        assert!(
            matches!(SendGrid::normalize(&post(body)), Err(Rejection::Malformed(_))),
            "{body}"
        );
    }
    let nothing = normalize::<SendGrid>("[]\r\n");
    assert_eq!(
        (
            nothing.events.len(),
            nothing.skipped.len(),
            nothing.rejected.len()
        ),
        (0, 0, 0)
    );
}

#[test]
fn signature_and_password_are_both_demanded_when_both_are_configured() {
    let signed = post("[]")
        .with_secret("public_key")
        .with_header(SIGNATURE, "c2ln")
        .with_header(TIMESTAMP, "1600112502");
    assert!(matches!(
        SendGrid::authenticate(&signed).unwrap()[..],
        [Proof::PublicKey(_)]
    ));
    let both = signed.clone().with_secret("basic_auth_user");
    assert!(matches!(
        SendGrid::authenticate(&both),
        Err(Rejection::MissingProof(_))
    ));
    for header in [SIGNATURE, TIMESTAMP] {
        let refused = SendGrid::authenticate(&signed.clone().with_header(header, " "));
        let expected = format!("header `{header}` is missing or empty");
        assert_eq!(refused, Err(Rejection::MissingProof(expected)));
    }
    let fresh = signed.with_setting("timestamp_tolerance_seconds", "300");
    assert!(matches!(
        SendGrid::authenticate(&fresh).unwrap()[..],
        [Proof::PublicKey(_), Proof::Fresh(_)]
    ));
}
