//! What is stored about a person: from webhooks to `sendflowr person export` and `erase`.

use std::{path::Path, process::Output, time::SystemTime};

use event::{Hasher, Timestamp, UniversalId};
use integration_tests::{System, eventually, run, run_with_input, told};
use serde_json::{Value, json};
use store::identity::Sighting;

use crate::{POSTMARK, postmark_click, postmark_headers};

const PEPPER: &str = "[identity]\npepper = 'a pepper of this test'\n";

fn person(folder: &Path, arguments: &[&str]) -> Output {
    run(folder, &[&["--data", "data", "person"], arguments].concat())
}

/// Like `person`, with an address on standard input.
fn person_told(folder: &Path, arguments: &[&str], address: &str) -> Output {
    let arguments = [&["--data", "data", "person"], arguments].concat();
    run_with_input(folder, &arguments, address.as_bytes())
}

fn json_of(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", told(output));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

/// Starts a system in which Ann and Bob have clicked, a decision has been made about each, and another id of
/// Ann's is known.
async fn filled() -> (System, Hasher) {
    let system = System::start(&format!("{PEPPER}{POSTMARK}"), &["postmark"]).await;
    let now = Timestamp::from(SystemTime::now());
    for (address, count) in [("Ann@Example.com", 130), ("bob@example.com", 2)] {
        for number in 0..count {
            let at = now.plus_millis(-3_600_000 * (number + 1)).to_string();
            let click = postmark_click(address, &format!("m-{number}"), &at);
            let answer = system.webhook("postmark", &postmark_headers(), click).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        let answer = system.ask("/timing/decide", &json!({ "email": address })).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let linked = json!({
        "email": "ann@example.com", "identifiers": [{"kind": "external_id", "value": "customer-7"}], "source": "shop",
    });
    let answer = system.ask("/link-identifiers", &linked).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    eventually("everything is stored", || async {
        let stores = system.stores().await;
        let decided = [
            json!({"email": "ann@example.com"}),
            json!({"email": "bob@example.com"}),
        ];
        let mut explained = 0;
        for who in &decided {
            let person = system.ask("/resolve-identity", who).await.body;
            let id = UniversalId::parse(person["universal_id"].as_str().unwrap_or_default());
            let held = stores
                .events
                .holdings(&Vec::from_iter(id))
                .await
                .expect("it answers");
            explained += held.explanations;
        }
        system.stored_events().await == 132 && explained == 2
    })
    .await;
    (system, Hasher::with_pepper(b"a pepper of this test".to_vec()))
}

fn id_of(hasher: &Hasher, address: &str) -> String {
    let identifier = hasher.email_identifier(address).expect("it is an address");
    UniversalId::from_identifier(&identifier).to_string()
}

#[tokio::test]
async fn a_person_is_exported_and_erased_and_others_stay() {
    let (system, hasher) = filled().await;
    let folder = system.folder();
    let (ann, bob) = (
        id_of(&hasher, "ann@example.com"),
        id_of(&hasher, "bob@example.com"),
    );

    let exported = json_of(&person(folder, &["export", "--email", " ANN@example.com "]));
    assert_eq!(exported["universal_id"], ann.as_str());
    let alias = exported["aliases"][0].as_str().expect("there is one").to_owned();
    let kinds: Vec<&Value> = exported["identifiers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|identifier| &identifier["kind"])
        .collect();
    assert_eq!(kinds, ["email_hash", "external_id"]);
    let hash = exported["identifiers"][0]["value"]
        .as_str()
        .expect("a text")
        .to_owned();
    let actions: Vec<&Value> = exported["identity_log"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| &entry["action"])
        .collect();
    assert_eq!(actions, ["created", "created", "attached"]);
    // More than one page; each event once and in order.
    let events = exported["events"].as_array().expect("a list");
    let times: Vec<&str> = events
        .iter()
        .filter_map(|event| event["timestamp"].as_str())
        .collect();
    assert_eq!(times.len(), 130);
    assert!(times.is_sorted());
    assert_eq!(events[0]["click_url"], "https://example.com/");
    assert_eq!(events[0]["machine"], false);
    assert_eq!(exported["explanations"].as_array().map(Vec::len), Some(1));
    assert_eq!(exported["explanations"][0]["universal_id"], ann.as_str());
    assert!(!exported.to_string().to_lowercase().contains("ann@"));

    // The result is the same whichever identifier is given; nothing that was typed is repeated.
    for who in [
        ["--email-hash", hash.as_str()],
        ["--universal-id", alias.as_str()],
    ] {
        let again = json_of(&person(folder, &[&["export"][..], &who].concat()));
        assert_eq!(again["events"], exported["events"]);
    }
    let by_input = person_told(folder, &["export", "--email", "-"], "ann@example.com\n");
    assert_eq!(json_of(&by_input)["identity_log"], exported["identity_log"]);
    let by_own_id = person(folder, &["export", "--external-id", " customer-7"]);
    assert_eq!(json_of(&by_own_id)["events"], exported["events"]);
    for flag in ["--email", "--phone-number", "--external-id"] {
        let nobody = told(&person_told(folder, &["export", flag, "-"], " \n"));
        assert!(
            nobody.contains(&format!("standard input, for `{flag}`, is ")),
            "{nobody}"
        );
    }
    let mistaken = person(folder, &["export", "--email", "ann example.com"]);
    let text = told(&mistaken);
    assert!(
        mistaken.status.code() == Some(2) && text.contains("`--email` is not an address"),
        "{text}"
    );
    assert!(!text.contains("ann"), "{text}");
    let unknown = person(folder, &["erase", "--email", "nobody@example.com"]);
    let text = told(&unknown);
    assert!(
        unknown.status.code() == Some(2) && text.contains("nothing is stored about this person"),
        "{text}"
    );
    assert!(!text.contains("nobody"), "{text}");

    let erase = ["erase", "--email-hash", hash.as_str(), "--format", "json"];
    let planned = json_of(&person(folder, &[&erase[..], &["--dry-run"]].concat()));
    let counts = json!({
        "events": 130, "explanations": 1, "profiles": null, "identifiers": 2, "identity_log": 3,
    });
    assert_eq!(planned["erased"], counts);
    let unchanged = json_of(&person(folder, &["export", "--universal-id", &ann]));
    assert_eq!(unchanged["events"], exported["events"]);
    let erased = json_of(&person(folder, &erase));
    assert_eq!((&erased["erased"], &erased["dry_run"]), (&counts, &json!(false)));
    for id in [&ann, &alias] {
        let gone = person(folder, &["export", "--universal-id", id]);
        assert_eq!(gone.status.code(), Some(2), "{}", told(&gone));
    }
    let again = told(&person(folder, &erase));
    assert!(again.contains("nothing is stored about this person"), "{again}");

    let of_bob = json_of(&person(folder, &["export", "--universal-id", &bob]));
    assert_eq!(of_bob["events"].as_array().map(Vec::len), Some(2));
    assert_eq!(of_bob["explanations"].as_array().map(Vec::len), Some(1));
    let text = person(folder, &["erase", "--email", "bob@example.com"]);
    let text = told(&text);
    for part in [
        "addresses 1, phone numbers 0, other ids 0",
        "identity log",
        "Out of reach of this command",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn an_erasure_that_failed_half_way_is_taken_up() {
    let (mut system, hasher) = filled().await;
    assert!(system.stop().await);
    let (ann, folder) = (id_of(&hasher, "ann@example.com"), system.folder());
    // Erases everything but the identity graph, which comes last.
    let stores = system.stores().await;
    let id = UniversalId::parse(&ann).expect("it is an id");
    let people = stores.identities.people(&[id]).await.expect("it answers");
    let erased = stores.events.erase(&people[0].ids).await.expect("it erases");
    assert_eq!((erased.events, erased.explanations), (130, 1));
    stores.close().await;
    let taken_up = json_of(&person(
        folder,
        &["erase", "--universal-id", &ann, "--format", "json"],
    ));
    assert_eq!(
        taken_up["erased"],
        json!({ "events": 0, "explanations": 0, "profiles": null, "identifiers": 2, "identity_log": 3 })
    );
}

#[tokio::test]
async fn many_customers_under_one_phone_number_are_not_taken_for_one() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let stores = store::testing::open_embedded(&folder.path().join("data"))
        .await
        .expect("it opens");
    let phone = Hasher::new()
        .phone_identifier("+4930123456")
        .expect("a phone number");
    let address = |number: usize| format!("customer{number}@example.com");
    for number in 0..11 {
        let identifier = Hasher::new()
            .email_identifier(&address(number))
            .expect("an address");
        let sighting = Sighting {
            identifiers: vec![identifier, phone.clone()],
            source: format!("event:{number}"),
            seen_at: Timestamp::default(),
        };
        stores
            .identities
            .record(&[sighting])
            .await
            .expect("it is recorded");
    }
    stores.close().await;
    let who = ["--email", &address(3)];
    let by_phone = ["export", "--phone-number", "-"];
    for refused in [
        person(folder.path(), &[&["export"][..], &who].concat()),
        person(folder.path(), &[&["erase"][..], &who].concat()),
        person_told(folder.path(), &by_phone, "+4930123456\n"),
    ] {
        let text = told(&refused);
        assert!(
            refused.status.code() == Some(2) && text.contains("has 11 addresses"),
            "{text}"
        );
    }
    let alone = json_of(&person(
        folder.path(),
        &[&["export", "--alone"][..], &who].concat(),
    ));
    assert_eq!(alone["identifiers"].as_array().map(Vec::len), Some(1));
    let erase = [&["erase", "--alone", "--format", "json"][..], &who].concat();
    assert_eq!(
        json_of(&person(folder.path(), &erase))["erased"]["identifiers"],
        1
    );
    let others = json_of(&person(folder.path(), &["export", "--email", &address(4)]));
    assert_eq!(others["identifiers"].as_array().map(Vec::len), Some(11));
    assert!(!others.to_string().contains(&id_of(&Hasher::new(), &address(3))));
    let merged = person(
        folder.path(),
        &["erase", "--merged", "--format", "json", "--email", &address(4)],
    );
    assert_eq!(json_of(&merged)["erased"]["identifiers"], 11);
}
