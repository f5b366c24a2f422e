use sendflowr_plugin_sdk::{BounceType, EventType, IdentifierKind, Plugin, Proof, Rejection};
use sendflowr_plugin_testing::{RequestExt, normalize, post};

use crate::Klaviyo;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<Klaviyo>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<Klaviyo>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn element(topic: &str, properties: &str) -> String {
    format!(
        r#"{{"topic":"event:{topic}","external_id":"e","payload":{{"data":{{
            "attributes":{{"timestamp":1700503941,"event_properties":{properties}}},
            "relationships":{{"profile":{{"data":{{"id":"01H"}}}}}}}}}}}}"#
    )
}

#[test]
fn events_without_an_address_keep_the_profile() {
    let batch = normalize::<Klaviyo>(&format!(
        r#"{{"data":[{}]}}"#,
        element("klaviyo.opened_email", "{}")
    ));
    let event = &batch.events[0];
    assert_eq!(
        (event.event_type, event.timestamp_ms),
        (EventType::Opened, 1_700_503_941_000)
    );
    assert_eq!(event.recipient_email, None);
    assert_eq!(event.identifiers[0].kind, IdentifierKind::KlaviyoId);
    assert_eq!(event.identifiers[0].value, "01H");
}

#[test]
fn shop_events_count_from_any_integration() {
    for (topic, expected) in [
        ("shopify.placed_order", Some(EventType::Converted)),
        ("api.viewed_product", Some(EventType::ProductView)),
        ("klaviyo.active_on_site", Some(EventType::SiteVisit)),
        ("shopify.opened_email", None),
        ("klaviyo.manually_suppressed_from_email_marketing", None),
        ("klaviyo.clicked_email_to_unsubscribe", None),
    ] {
        let batch = normalize::<Klaviyo>(&format!(r#"{{"data":[{}]}}"#, element(topic, "{}")));
        assert_eq!(
            batch.events.first().map(|event| event.event_type),
            expected,
            "{topic}"
        );
        assert_eq!(batch.skipped.len(), usize::from(expected.is_none()), "{topic}");
    }
}

#[test]
fn bounces_and_machines_are_read_in_any_spelling() {
    let elements = [
        element("klaviyo.bounced_email", r#"{"Bounce Type":"HardBounce"}"#),
        element("klaviyo.bounced_email", r#"{"Bounce Type":"soft"}"#),
        element("klaviyo.bounced_email", "{}"),
        element(
            "klaviyo.clicked_email",
            r#"{"Bot Click":"true","URL":"https://example.com"}"#,
        ),
        element("klaviyo.opened_email", r#"{"machine_open":false}"#),
    ];
    let batch = normalize::<Klaviyo>(&format!(r#"{{"data":[{}]}}"#, elements.join(",")));
    let bounces: Vec<_> = batch.events[..3].iter().map(|event| event.bounce_type).collect();
    assert_eq!(bounces, [Some(BounceType::Hard), Some(BounceType::Soft), None]);
    assert_eq!(batch.events[3].is_machine, Some(true));
    assert_eq!(batch.events[4].is_machine, None);
}

#[test]
fn the_single_event_tells_of_machines_too() {
    let single = |metric: &str, properties: &str| {
        let body = format!(
            r#"{{"data":{{"id":"e","attributes":{{"datetime":"2026-01-01T00:00:00Z","event_properties":{properties},
                "metric":{{"data":{{"attributes":{{"name":"{metric}"}}}}}},"profile":{{"data":{{"id":"01H"}}}}}}}}}}"#
        );
        normalize::<Klaviyo>(&body).events.remove(0).is_machine
    };
    assert_eq!(single("Opened Email", r#"{"machine_open":true}"#), Some(true));
    assert_eq!(single("Clicked Email", r#"{"Bot Click":"true"}"#), Some(true));
    assert_eq!(single("Clicked Email", r#"{"machine_open":true}"#), None);
    assert_eq!(single("Opened Email", "{}"), None);
}

#[test]
fn every_event_may_have_a_link() {
    for topic in [
        "klaviyo.clicked_email",
        "klaviyo.clicked_sms",
        "shopify.viewed_product",
    ] {
        let element = element(topic, r#"{"URL":"https://example.com"}"#);
        let batch = normalize::<Klaviyo>(&format!(r#"{{"data":[{element}]}}"#));
        assert_eq!(
            batch.events[0].click_url.as_deref(),
            Some("https://example.com"),
            "{topic}"
        );
    }
    for metric in ["Clicked SMS", "Viewed Product"] {
        let body = format!(
            r#"{{"data":{{"id":"e","attributes":{{"datetime":"2026-01-01T00:00:00Z","url":"https://example.com",
                "metric":{{"data":{{"attributes":{{"name":"{metric}"}}}}}},"profile":{{"data":{{"id":"01H"}}}}}}}}}}"#
        );
        let event = normalize::<Klaviyo>(&body).events.remove(0);
        assert_eq!(
            event.click_url.as_deref(),
            Some("https://example.com"),
            "{metric}"
        );
    }
}

/// Returns the source of the signing time if the header was written at `header` on 10 January 2026, the body at `meta`, and the
/// delivery received at 12:00.
fn dated_by(header: &str, meta: &str) -> String {
    let request = post(format!(
        r#"{{"meta":{{"timestamp":"2026-01-10T{meta}.5+00:00"}}}}"#
    ))
    .with_secret("signing_secret")
    .with_header("klaviyo-signature", "aa")
    .with_header("klaviyo-timestamp", &format!("Sat, 10 Jan 2026 {header} GMT"));
    let proofs = Klaviyo::authenticate(&request).unwrap();
    let Proof::Fresh(fresh) = &proofs[0] else {
        panic!("{proofs:?}")
    };
    fresh.source.clone()
}

#[test]
fn the_body_dates_a_delivery_only_if_the_header_is_four_or_five_hours_ahead() {
    let (in_header, in_body) = ("header `klaviyo-timestamp`", "`meta.timestamp`");
    for (header, meta, source) in [
        ("12:00:00", "12:00:00", in_header),
        ("17:00:01", "12:00:00", in_body),
        ("17:00:59", "12:00:00", in_body),
        ("16:59:02", "12:00:00", in_body),
        ("16:00:01", "12:00:00", in_body),
        // If it is the body that is behind.
        ("12:00:01", "07:00:00", in_header),
        // A stale or future header stays one.
        ("17:01:01", "12:00:00", in_header),
        ("16:58:59", "12:00:00", in_header),
        ("15:58:59", "12:00:00", in_header),
        ("14:00:00", "12:00:00", in_header),
        ("11:50:00", "12:00:00", in_header),
        ("12:10:00", "12:00:00", in_header),
        ("07:00:00", "12:00:00", in_header),
    ] {
        assert_eq!(dated_by(header, meta), source, "{header} {meta}");
    }
}

#[test]
fn one_bad_element_does_not_harm_the_rest() {
    let bad = r#"{"topic":"event:klaviyo.opened_email","payload":{}}"#;
    let batch = normalize::<Klaviyo>(&format!(
        r#"{{"data":[{bad},7,{},{}]}}"#,
        element("klaviyo.opened_email", "{}"),
        element("klaviyo.novelty", "{}")
    ));
    assert_eq!(batch.events[0].index, 2);
    let rejected = batch.rejected.iter().map(|rejected| rejected.index);
    assert!(rejected.eq([0, 1]));
    assert_eq!(batch.skipped[0].index, 3);
}

#[test]
fn a_dateless_or_mismatched_delivery_is_refused() {
    let request = || {
        post("{}")
            .with_secret("signing_secret")
            .with_header("klaviyo-signature", "aa")
    };
    assert!(matches!(
        Klaviyo::authenticate(&request()),
        Err(Rejection::MissingProof(_))
    ));
    let undated = request().with_header("klaviyo-timestamp", "yesterday");
    assert!(matches!(
        Klaviyo::authenticate(&undated),
        Err(Rejection::InvalidProof(_))
    ));
    let other = request()
        .with_header("klaviyo-timestamp", "1700503941")
        .with_header("klaviyo-webhook-id", "w");
    assert!(matches!(
        Klaviyo::authenticate(&other),
        Err(Rejection::InvalidProof(_))
    ));
    let neither = post("{}").with_secret("signing_secret");
    assert!(matches!(
        Klaviyo::authenticate(&neither),
        Err(Rejection::MissingProof(_))
    ));
}
