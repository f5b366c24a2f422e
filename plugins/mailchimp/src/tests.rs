use sendflowr_plugin_sdk::{EventType, Part, Plugin, Proof, Rejection, Request, proof};
use sendflowr_plugin_testing::{RequestExt, batch, post};

use crate::Mailchimp;

#[test]
fn case_files_hold() {
    sendflowr_plugin_testing::run_cases::<Mailchimp>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn damaged_deliveries_are_survived() {
    sendflowr_plugin_testing::survives_damage::<Mailchimp>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

fn form(body: &str) -> Request {
    post(body).with_header("content-type", "application/x-www-form-urlencoded")
}

fn kind(fields: &str) -> Option<EventType> {
    let request = form(&format!(
        "fired_at=2009-03-26+21:40:57&data[email]=a%2Bb@example.com&{fields}"
    ));
    let batch = batch(Mailchimp::normalize(&request));
    if let Some(event) = batch.events.first() {
        assert_eq!(event.recipient_email.as_deref(), Some("a+b@example.com"));
        assert!(event.metadata.is_empty(), "merge fields are personal");
    }
    batch.events.first().map(|event| event.event_type)
}

#[test]
fn reasons_tell_complaints_apart() {
    assert_eq!(
        kind("type=unsubscribe&data[reason]=abuse"),
        Some(EventType::MarkedSpam)
    );
    assert_eq!(
        kind("type=unsubscribe&data[merges][FNAME]=Ann"),
        Some(EventType::Unsubscribed)
    );
    assert_eq!(
        kind("type=cleaned&data[reason]=abuse"),
        Some(EventType::MarkedSpam)
    );
    assert_eq!(kind("type=cleaned&data[reason]=hard"), Some(EventType::Bounced));
    assert_eq!(kind("type=upemail"), None);
}

#[test]
fn every_part_of_the_signature_is_needed() {
    let signed = |header: &str| {
        let request = form("type=profile")
            .with_secret("signing_secret")
            .with_header("x-mailchimp-signature", header);
        Mailchimp::authenticate(&request)
    };
    for header in ["v1=aa", "t=1", ""] {
        assert!(
            matches!(signed(header), Err(Rejection::MissingProof(_))),
            "{header}"
        );
    }
    let proofs = signed(" t = 1, v1=aa ,v1 = bb,v0=cc").unwrap();
    let Some(Proof::KeyedHash(hash)) = proofs.last() else {
        panic!("{proofs:?}")
    };
    assert_eq!(hash.messages[0], [proof::part("1"), proof::part("."), Part::Body]);
    assert_eq!(
        hash.signatures
            .iter()
            .map(|signature| signature.text.as_str())
            .collect::<Vec<_>>(),
        ["aa", "bb"]
    );
}

#[test]
fn the_validation_needs_the_urls_secret_only() {
    let get = || post("").with_method("GET").with_secret("signing_secret");
    assert_eq!(Mailchimp::authenticate(&get()), Ok(vec![Proof::Handshake]));
    assert!(matches!(
        Mailchimp::authenticate(&get().with_secret("url_secret")),
        Err(Rejection::MissingProof(_))
    ));
    let proofs = Mailchimp::authenticate(&get().with_secret("url_secret").with_query("secret=x")).unwrap();
    assert!(matches!(proofs.as_slice(), [Proof::SharedSecret(_)]));
}

#[test]
fn everything_but_the_validation_is_signed() {
    for method in ["POST", "PUT", "PATCH"] {
        let unsigned = form("type=profile")
            .with_method(method)
            .with_secret("signing_secret")
            .with_secret("url_secret")
            .with_query("secret=x");
        let refused = Mailchimp::authenticate(&unsigned);
        assert!(matches!(refused, Err(Rejection::MissingProof(_))), "{method}");
    }
}

#[test]
fn the_first_field_that_is_not_blank_counts() {
    let fields = "type=&data[email]=&data[id]=+&fired_at=&type=subscribe&fired_at=2009-03-26+21:40:57\
        &data[email]=a@example.com&data[email]=b@example.com&data[id]=7";
    let event = batch(Mailchimp::normalize(&form(fields))).events.remove(0);
    assert_eq!(event.recipient_email.as_deref(), Some("a@example.com"));
    assert_eq!(event.identifiers[0].value, "7");
}

#[test]
fn a_campaign_makes_people_leave_not_come() {
    let campaign = |name: &str| {
        let fields = format!("type={name}&fired_at=2009-03-26+21:40:57&data[id]=7&data[campaign_id]=c");
        batch(Mailchimp::normalize(&form(&fields)))
            .events
            .remove(0)
            .campaign_id
    };
    assert_eq!(campaign("unsubscribe").as_deref(), Some("c"));
    assert_eq!(campaign("cleaned").as_deref(), Some("c"));
    assert_eq!(campaign("subscribe"), None);
}

#[test]
fn a_form_without_a_type_is_malformed() {
    for fields in ["fired_at=x", "type=&fired_at=x", "type=+"] {
        assert!(
            matches!(Mailchimp::normalize(&form(fields)), Err(Rejection::Malformed(_))),
            "{fields}"
        );
    }
    assert!(matches!(
        Mailchimp::normalize(&post("{}")),
        Err(Rejection::Malformed(_))
    ));
}
