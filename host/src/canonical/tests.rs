use proptest::prelude::*;

use super::*;

const RECEIVED: &str = "2026-01-10T12:00:00.000Z";

fn origin() -> Origin<'static> {
    Origin {
        provider: "acme",
        account: "eu",
        plugin: "acme@1.2.3",
        external_id_scope: None,
        received_at: RECEIVED.parse().unwrap(),
        now: RECEIVED.parse().unwrap(),
    }
}

fn raw() -> types::Event {
    types::Event {
        index: 0,
        event_type: types::EventType::Clicked,
        timestamp_ms: 1_768_046_399_123,
        provider_event_id: None,
        recipient_email: Some("Ann@Example.com".into()),
        identifiers: vec![],
        campaign_id: None,
        campaign_name: None,
        message_id: None,
        subject: None,
        click_url: None,
        user_agent: None,
        ip_address: None,
        bounce_type: None,
        reason: None,
        tags: vec![],
        metadata: vec![],
        is_machine: None,
        sent_at_ms: None,
    }
}

fn identifier(kind: types::IdentifierKind, value: &str) -> types::Identifier {
    types::Identifier {
        kind,
        value: value.into(),
    }
}

fn convert_one(raw: types::Event) -> Converted {
    let batch = types::Batch {
        events: vec![raw],
        skipped: vec![],
        rejected: vec![],
    };
    convert(batch, &Hasher::new(), &origin())
}

fn event(raw: types::Event) -> Event {
    let mut converted = convert_one(raw);
    assert!(converted.rejected.is_empty(), "{:?}", converted.rejected);
    converted.events.remove(0)
}

fn rejection(raw: types::Event) -> String {
    let mut converted = convert_one(raw);
    assert!(converted.events.is_empty());
    converted.rejected.remove(0).reason
}

#[test]
fn hashes_who_it_is() {
    let event = event(types::Event {
        identifiers: vec![
            identifier(types::IdentifierKind::EspUserId, "77"),
            identifier(types::IdentifierKind::PhoneNumber, "+1 415 555 0100"),
        ],
        ..raw()
    });
    let email = Hasher::new().email("ann@example.com").unwrap();
    assert_eq!(event.recipient_email_hash.as_ref(), Some(&email));
    assert_eq!(event.mailbox_provider, Some(MailboxProvider::Other));
    let shown: Vec<_> = event
        .identifiers
        .iter()
        .map(|i| (i.kind, i.value.as_str()))
        .collect();
    let phone = Hasher::new().phone_identifier("+14155550100").unwrap();
    assert_eq!(
        shown,
        [
            (IdentifierKind::EmailHash, email.as_str()),
            (IdentifierKind::PhoneNumber, phone.value.as_str()),
            (IdentifierKind::EspUserId, "acme:eu:77"),
        ]
    );
    assert_eq!(
        Some(event.universal_id.clone()),
        UniversalId::from_identifiers(&event.identifiers[..1])
    );
    assert_eq!(event.event_id, event_id(&event));
    assert_eq!(
        (event.esp.as_str(), event.account.as_str(), event.plugin.as_str()),
        ("acme", "eu", "acme@1.2.3")
    );
}

#[test]
fn an_id_that_is_an_address_becomes_one() {
    let id = || identifier(types::IdentifierKind::ExternalId, "Ann@example.com");
    let alone = event(types::Event {
        recipient_email: None,
        identifiers: vec![id()],
        reason: Some("to ann@example.com".into()),
        ..raw()
    });
    assert_eq!(
        alone.recipient_email_hash,
        Hasher::new().email("ann@example.com").ok()
    );
    assert_eq!(alone.identifiers.len(), 1);
    assert_eq!(alone.reason.as_deref(), Some("to [address]"));

    let beside = convert_one(types::Event {
        identifiers: vec![id()],
        ..raw()
    });
    assert_eq!(beside.events[0].identifiers.len(), 1);
    assert_eq!(beside.identifiers_dropped, 1);
}

#[test]
fn ids_that_hold_an_address_do_not_join_people() {
    let converted = convert_one(types::Event {
        recipient_email: None,
        identifiers: vec![
            identifier(types::IdentifierKind::ExternalId, "crm bob@example.org"),
            identifier(types::IdentifierKind::KlaviyoId, "01H"),
            identifier(types::IdentifierKind::PhoneNumber, "none"),
        ],
        ..raw()
    });
    assert_eq!(converted.identifiers_dropped, 2);
    assert_eq!(converted.events[0].identifiers.len(), 1);
}

#[test]
fn the_senders_own_ids_are_shared_within_their_scope() {
    let person = |provider, external_id_scope| {
        let batch = types::Batch {
            events: vec![types::Event {
                recipient_email: None,
                identifiers: vec![identifier(types::IdentifierKind::ExternalId, "1001")],
                ..raw()
            }],
            skipped: vec![],
            rejected: vec![],
        };
        let origin = Origin {
            provider,
            external_id_scope,
            ..origin()
        };
        let event = convert(batch, &Hasher::new(), &origin).events.remove(0);
        (event.universal_id, event.identifiers[0].value.clone())
    };
    assert_eq!(person("acme", None), person("other", None));
    assert_eq!(person("acme", Some("shop")), person("other", Some("shop")));
    let (shop, club) = (person("acme", Some("shop")), person("acme", Some("club")));
    assert_ne!(shop.0, club.0);
    assert_ne!(shop.0, person("acme", None).0);
    assert_eq!(shop.1, "shop:1001");
}

/// What providers give in place of an address.
const NO_ADDRESSES: [Option<&str>; 4] = [None, Some(""), Some("no address"), Some("a b@example.com")];

#[test]
fn an_event_about_nobody_is_rejected_unless_it_reports_on_a_message() {
    let acts = [types::EventType::Clicked, types::EventType::Unsubscribed].map(|act| (act, Some("m1")));
    let of_no_message = (types::EventType::Bounced, None);
    for (email, (event_type, message)) in NO_ADDRESSES
        .iter()
        .flat_map(|email| acts.iter().chain([&of_no_message]).map(move |of| (email, *of)))
    {
        let reason = rejection(types::Event {
            event_type,
            recipient_email: email.map(str::to_owned),
            message_id: message.map(str::to_owned),
            ..raw()
        });
        assert_eq!(
            reason,
            "there is no address and no other identity of the recipient"
        );
    }
}

#[test]
fn a_report_on_a_message_to_nobody_is_stored_under_an_id_of_its_own() {
    let of = |message: &str, email: Option<&str>| {
        let event = event(types::Event {
            event_type: types::EventType::Bounced,
            recipient_email: email.map(str::to_owned),
            message_id: Some(message.to_owned()),
            reason: Some("550 <a b@example.com> is no mailbox".to_owned()),
            ..raw()
        });
        assert_eq!((&event.recipient_email_hash, event.identifiers.len()), (&None, 0));
        let stored = String::from_utf8(event.to_json()).unwrap();
        assert!(!stored.contains("a b@"), "{stored}");
        event.universal_id
    };
    for email in NO_ADDRESSES {
        assert_eq!(of("m1", email), of("m1", email));
        assert_ne!(of("m1", email), of("m2", email));
    }
    assert_eq!(of("m1", None), of("m1", Some("")));
    assert_ne!(of("m1", Some("no address")), of("m1", Some("none either")));
}

#[test]
fn impossible_times_are_rejected() {
    let received = origin().received_at.as_millis();
    let at = |ms| types::Event {
        timestamp_ms: ms,
        ..raw()
    };
    assert_eq!(rejection(at(-1)), "its time is outside the years 1970 to 9999");
    assert_eq!(rejection(at(1_768_046_399)), "its time is before the year 2000");
    assert_eq!(
        rejection(at(received + MAX_AHEAD_MS + 1)),
        "its time is more than a day after its receipt"
    );
    assert_eq!(
        event(at(received + MAX_AHEAD_MS)).timestamp.as_millis(),
        received + MAX_AHEAD_MS
    );
}

#[test]
fn what_a_clock_that_was_behind_took_for_the_future_is_taken_in_when_it_is_replayed() {
    let mut origin = origin();
    let days = |days: i64| days * MAX_AHEAD_MS;
    let batch = || types::Batch {
        events: vec![types::Event {
            timestamp_ms: origin.received_at.as_millis() + days(3),
            ..raw()
        }],
        skipped: vec![],
        rejected: vec![],
    };
    let (first, again) = (batch(), batch());
    assert_eq!(convert(first, &Hasher::new(), &origin).rejected.len(), 1);
    origin.now = origin.received_at.plus_millis(days(4));
    let converted = convert(again, &Hasher::new(), &origin);
    assert_eq!(converted.events[0].ingested_at, origin.received_at);
}

#[test]
fn texts_are_redacted_then_cut() {
    let padding = "x".repeat(MAX_LINE_BYTES - 8);
    let event = event(types::Event {
        subject: Some(format!("{padding} bob@example.org and more")),
        reason: Some("é".repeat(MAX_REASON_BYTES)),
        message_id: Some("<17@mx.example.net>".into()),
        provider_event_id: Some("e".repeat(2000)),
        user_agent: Some("  ".into()),
        ip_address: Some(" 2001:DB8::1 ".into()),
        tags: vec!["a".into(), String::new(), "bob@example.org".into()],
        metadata: vec![types::Pair {
            name: "who".into(),
            value: "ANN%40example.COM\0".into(),
        }],
        ..raw()
    });
    assert_eq!(event.subject.unwrap(), format!("{padding} [addres"));
    assert_eq!(event.reason.unwrap().len(), MAX_REASON_BYTES);
    assert_eq!(event.message_id.as_deref(), Some("<17@mx.example.net>"));
    assert_eq!(event.provider_event_id.unwrap().len(), "sha256:".len() + 64);
    assert_eq!(event.user_agent, None);
    assert_eq!(event.ip_address.as_deref(), Some("2001:db8::1"));
    assert_eq!(event.tags, ["a", "[address]"]);
    assert_eq!(event.metadata["who"], "[address]");
}

#[test]
fn a_recipient_that_is_no_address_leaves_texts_alone() {
    let event = event(types::Event {
        recipient_email: Some("-".into()),
        identifiers: vec![identifier(types::IdentifierKind::KlaviyoId, "k-1")],
        subject: Some("a - b".into()),
        ..raw()
    });
    assert_eq!(event.subject.as_deref(), Some("a - b"));
}

#[test]
fn a_recipient_longer_than_addresses_are_is_none() {
    // A naive search for it in the text would take hours.
    let event = event(types::Event {
        recipient_email: Some(format!("{}@x", "a".repeat(1_000_000))),
        identifiers: vec![identifier(types::IdentifierKind::KlaviyoId, "k-1")],
        subject: Some(format!("@{}", "a".repeat(2_000_000))),
        ..raw()
    });
    assert_eq!(event.recipient_email_hash, None);
    assert_eq!(event.subject.map(|subject| subject.len()), Some(MAX_LINE_BYTES));
}

#[test]
fn rejections_of_the_plugin_keep_their_place() {
    let rejected = |index| types::Rejected {
        index,
        reason: "for bob@example.org".into(),
    };
    let batch = types::Batch {
        events: vec![types::Event {
            index: 1,
            recipient_email: None,
            ..raw()
        }],
        skipped: vec![],
        rejected: vec![rejected(0), rejected(2)],
    };
    let converted = convert(batch, &Hasher::new(), &origin());
    let indexes: Vec<_> = converted.rejected.iter().map(|rejected| rejected.index).collect();
    assert_eq!(indexes, [0, 1, 2]);
    assert_eq!(converted.rejected[0].reason, "for [address]");
}

/// Percent-encodes the characters that `picked` selects, `layers` times over.
fn encoded(text: &str, picked: u64, layers: usize) -> String {
    let mut text = text.to_owned();
    for _ in 0..layers {
        text = text
            .bytes()
            .enumerate()
            .map(
                |(position, byte)| match (picked >> (position % 64)) & 1 == 1 || byte == b'%' {
                    true => format!("%{byte:02x}"),
                    false => char::from(byte).to_string(),
                },
            )
            .collect();
    }
    text
}

#[test]
fn an_address_in_a_bounce_address_or_in_base64_is_nowhere() {
    let with = |text: &str| {
        event(types::Event {
            recipient_email: Some("Marker.Ann@mk-secret.example".into()),
            provider_event_id: Some(text.to_owned()),
            message_id: Some(text.to_owned()),
            click_url: Some(format!("https://esp.example/c?t={text}")),
            reason: Some(text.to_owned()),
            ..raw()
        })
    };
    for (text, expected) in [
        (
            "bounce-marker.ann=mk-secret.example@esp.example",
            "bounce-[address]@esp.example",
        ),
        (
            "SRS0=HHH=TT=mk-secret.example=marker.ann@relay.example",
            "SRS0=HHH=TT=[address]@relay.example",
        ),
        ("7.bWFya2VyLmFubkBtay1zZWNyZXQuZXhhbXBsZQ.7", "7.[address]Q.7"),
    ] {
        let event = with(text);
        assert_eq!(event.provider_event_id.as_deref(), Some(expected));
        assert_eq!(event.message_id.as_deref(), Some(expected));
        assert_eq!(event.reason.as_deref(), Some(expected));
        assert_eq!(
            event.click_url.as_deref(),
            Some(format!("https://esp.example/c?t={expected}").as_str())
        );
    }
    // An id whose spelling cannot be cut out becomes a hash.
    let id = with("b-%6darker.ann%253Dmk-secret.example").message_id.unwrap();
    assert!(id.starts_with("sha256:"), "{id}");
}

#[test]
fn the_address_behind_a_name_is_taken_out_of_ids_too() {
    let event = event(types::Event {
        event_type: types::EventType::Bounced,
        recipient_email: Some("Ann B. <Ann@example.com>".into()),
        message_id: Some("7.ann=example.com@esp.example".into()),
        ..raw()
    });
    assert_eq!(event.message_id.as_deref(), Some("7.[address]@esp.example"));
}

#[test]
fn an_identifier_that_spells_the_address_is_not_used() {
    let dropped = |recipient: &str, value: &str| {
        let converted = convert_one(types::Event {
            recipient_email: Some(recipient.into()),
            identifiers: vec![
                identifier(types::IdentifierKind::ExternalId, value),
                identifier(types::IdentifierKind::EspUserId, value),
                identifier(types::IdentifierKind::KlaviyoId, value),
                identifier(types::IdentifierKind::ShopifyCustomerId, value),
            ],
            ..raw()
        });
        let kinds = converted.events[0]
            .identifiers
            .iter()
            .map(|identifier| identifier.kind);
        assert_eq!(kinds.collect::<Vec<_>>(), [IdentifierKind::EmailHash], "{value}");
        converted.identifiers_dropped
    };
    for value in [
        "ann=example.com",
        "example.com=ann",
        "u:ANN=Example.com:7",
        "YW5uQGV4YW1wbGUuY29t",
        "ann%252540example.com",
        "%61nn%40example.com",
        // The store's form has no NUL.
        "ann@example.\0com",
        "ann\0=example.com",
    ] {
        assert_eq!(dropped("ann@example.com", value), 4, "{value}");
    }
    assert_eq!(dropped("root@localhost", "root=localhost"), 4);
}

proptest! {
    #[test]
    fn the_raw_address_is_nowhere(
        local in "[a-zA-Z0-9][a-zA-Z0-9._+/=-]{0,8}",
        domain in "[a-zA-Z0-9-]{1,8}(\\.[a-z]{2,4}){0,2}",
        before in "\\PC{0,8}",
        after in "\\PC{0,8}",
        picked: u64,
        layers in 0_usize..3,
        upper: bool,
    ) {
        let address = format!("{local}@{domain}");
        let spelled = if upper { address.to_uppercase() } else { address.clone() };
        let hidden = encoded(&spelled, picked, layers);
        let text = || Some(format!("{before}{hidden}{after}"));
        let converted = convert_one(types::Event {
            recipient_email: Some(address.clone()),
            identifiers: vec![
                identifier(types::IdentifierKind::ExternalId, &address),
                identifier(types::IdentifierKind::EspUserId, &text().unwrap()),
            ],
            provider_event_id: text(),
            campaign_id: text(),
            campaign_name: text(),
            message_id: text(),
            subject: text(),
            click_url: text(),
            user_agent: text(),
            ip_address: text(),
            reason: text(),
            tags: vec![text().unwrap()],
            metadata: vec![types::Pair { name: text().unwrap(), value: text().unwrap() }],
            ..raw()
        });
        let mut json = String::from_utf8(converted.events[0].to_json()).unwrap().to_lowercase();
        for _ in 0..4 {
            prop_assert!(!json.contains(&address.to_lowercase()), "{address} in {json}");
            json = encoded_back(&json).to_lowercase();
        }
    }
}

fn encoded_back(text: &str) -> String {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|pair| hex::decode(pair).ok())
            .filter(|_| *first == b'%');
        decoded.push(hex.as_ref().map_or(*first, |hex| hex[0]));
        rest = if hex.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[test]
fn the_time_of_sending_tells_the_delay_of_a_delivered_event() {
    let delivered = |sent_at_ms: Option<i64>| types::Event {
        event_type: types::EventType::Delivered,
        sent_at_ms,
        ..raw()
    };
    let at = raw().timestamp_ms;
    let delay = |raw| event(raw).metadata.get(latency::METADATA_KEY).cloned();
    assert_eq!(delay(delivered(Some(at - 61_005))).as_deref(), Some("61.005"));
    assert_eq!(delay(delivered(Some(at))).as_deref(), Some("0.000"));
    // Absent, after the event, longer ago than delivery is attempted, and out of all bounds.
    let week_ms = 7 * 24 * 3600 * 1000;
    for sent_at_ms in [None, Some(at + 1), Some(at - week_ms - 1), Some(i64::MIN)] {
        assert_eq!(delay(delivered(sent_at_ms)), None, "{sent_at_ms:?}");
    }
    let clicked = types::Event {
        sent_at_ms: Some(at - 1),
        ..raw()
    };
    assert_eq!(delay(clicked), None, "only a delivered event has a delay");
    let told = types::Event {
        metadata: vec![types::Pair {
            name: latency::METADATA_KEY.into(),
            value: "7".into(),
        }],
        ..delivered(Some(at - 1_000))
    };
    assert_eq!(delay(told).as_deref(), Some("7"), "the sender's own word stays");
}

#[test]
fn the_time_of_sending_changes_no_id() {
    let delivered = |sent_at_ms| types::Event {
        event_type: types::EventType::Delivered,
        sent_at_ms,
        ..raw()
    };
    assert_eq!(
        event(delivered(None)).event_id,
        event(delivered(Some(raw().timestamp_ms - 1_000))).event_id
    );
}
