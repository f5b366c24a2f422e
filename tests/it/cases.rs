//! Sends every provider's sample deliveries through HTTP and the compiled plugins; no address and no phone number may
//! remain anywhere afterwards, or appear in an answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use integration_tests::{Answer, PATIENCE, System, eventually, repository};
use serde_json::{Value, json};

use crate::outside::{Outside, Reply};

/// The host from which SNS serves the certificates of the cases, and where subscriptions are confirmed.
const SNS: &str = "sns.us-east-1.amazonaws.com";

/// Ends of the ids of messages that the cases do not expect.
const OTHER_IDS: [&str; 3] = [
    "@ismtpd0039p1iad1.sendgrid.net",
    "@email.example.com",
    "@smtp-relay.mailin.fr",
];

/// A case file.
struct Case {
    provider: String,
    account: String,
    value: Value,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for provider in fs::read_dir(repository().join("plugins")).expect("the plugins are there") {
        let folder = provider.expect("the plugins are there").path().join("cases");
        let Ok(files) = fs::read_dir(folder) else { continue };
        for file in files {
            let text =
                fs::read_to_string(file.expect("the cases are there").path()).expect("a case is readable");
            let value: Value = serde_json::from_str(&text).expect("a case is JSON");
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            cases.push(Case {
                provider: text("provider"),
                account: text("name"),
                value,
            });
        }
    }
    cases
}

/// Creates an account for every case, named after it. Deliveries signed long ago count as fresh if the case says that they were.
fn configuration(cases: &[Case]) -> String {
    let mut configuration = String::new();
    for case in cases {
        configuration.push_str(&format!("[accounts.{}.{}]\n", case.provider, case.account));
        let Some(config) = case.value["config"].as_object() else {
            configuration.push_str("allow_unsigned = true\n");
            continue;
        };
        let is_accepted = case.value["expect"]["outcome"] == "accepted";
        for (name, value) in config {
            let is_tolerance = name == "timestamp_tolerance_seconds";
            if value.is_object() || (is_tolerance && is_accepted) {
                continue;
            }
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            configuration.push_str(&format!("{name} = {}\n", Value::from(text)));
        }
        if is_accepted
            && case.value.get("now").is_some()
            && case.provider != "sendgrid"
            && case.provider != "mailgun"
        {
            configuration.push_str("timestamp_tolerance_seconds = 10000000000\n");
        }
    }
    configuration
}

/// Returns the certificates that the cases were signed with, by URL.
fn certificates(cases: &[Case]) -> BTreeMap<String, String> {
    let given = cases
        .iter()
        .filter_map(|case| case.value["config"]["signing_certs"].as_object());
    let text = |value: &Value| value.as_str().expect("a certificate is a text").to_owned();
    given
        .flatten()
        .map(|(url, pem)| (url.clone(), text(pem)))
        .collect()
}

async fn send(system: &System, case: &Case) -> Answer {
    let request = &case.value["request"];
    let method = request["method"]
        .as_str()
        .unwrap_or("POST")
        .parse()
        .expect("a method");
    let query = request["query"].as_str().unwrap_or_default();
    let url = format!(
        "http://{}/webhooks/{}/{}?{query}",
        system.host, case.provider, case.account
    );
    let mut sent = system
        .http
        .request(method, url.trim_end_matches('?'))
        .body(body(case));
    for (name, value) in request["headers"].as_object().into_iter().flatten() {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            sent = sent.header(name, value.as_str().unwrap_or_default());
        }
    }
    Answer::of(sent).await
}

fn body(case: &Case) -> Vec<u8> {
    let request = &case.value["request"];
    match request["body_base64"].as_str() {
        Some(encoded) => STANDARD.decode(encoded).expect("base64"),
        None => request["body"].as_str().unwrap_or_default().as_bytes().to_vec(),
    }
}

/// Returns what the cases expect of their events.
fn expected(cases: &[Case]) -> impl Iterator<Item = &Value> {
    let events = cases
        .iter()
        .filter_map(|case| case.value["expect"]["events"].as_array());
    events.flatten()
}

/// Returns the recipients' addresses, in lower case.
fn recipients(cases: &[Case]) -> BTreeSet<String> {
    expected(cases)
        .filter_map(|event| event["recipient_email"].as_str())
        .map(str::to_lowercase)
        .collect()
}

/// Returns the phone numbers, as `+` and digits.
fn phone_numbers(cases: &[Case]) -> BTreeSet<String> {
    expected(cases)
        .filter_map(|event| event["identifiers"].as_array())
        .flatten()
        .filter(|identifier| identifier["kind"] == "phone_number")
        .filter_map(|identifier| identifier["value"].as_str())
        .map(str::to_owned)
        .collect()
}

/// Returns every address in the deliveries, in lower case: of recipients, of senders, of whoever is mentioned. Ids of messages look
/// like addresses and are kept.
fn addresses(cases: &[Case]) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "._+-".contains(letter);
    let ids: String = expected(cases)
        .filter_map(|event| event["message_id"].as_str())
        .map(|id| id.to_lowercase() + "\n")
        .collect();
    let mut found = recipients(cases);
    for case in cases {
        let body = String::from_utf8_lossy(&body(case))
            .to_lowercase()
            .replace("%40", "@");
        for (at, _) in body.match_indices('@') {
            let name = body[..at].rsplit(|letter| !is_part(letter)).next();
            let host = body[at + 1..].split(|letter| !is_part(letter)).next();
            let (name, host) = (name.unwrap_or_default(), host.unwrap_or_default());
            let address = format!("{name}@{}", host.trim_end_matches('.'));
            let is_id = ids.contains(&address) || OTHER_IDS.iter().any(|end| address.ends_with(end));
            if !name.is_empty() && host.contains('.') && !is_id {
                found.insert(address);
            }
        }
    }
    found
}

/// Asks about everybody in each way that takes an address or a phone number, and returns the answers, which must be good ones.
async fn answers_about(system: &System, emails: &BTreeSet<String>, phones: &BTreeSet<String>) -> String {
    let emails = emails.iter().map(|email| ("email", email));
    let phones = phones.iter().map(|phone| ("phone_number", phone));
    let mut answers = String::new();
    for (kind, name) in emails.chain(phones) {
        let question = json!({ kind: name, "explain": true });
        let decision = system.ask("/timing/decide", &question).await;
        let told = format!(
            "/explanations/{}",
            decision.body["explanation_ref"].as_str().unwrap_or_default()
        );
        eventually("the explanation is stored", || async {
            system.look(&told).await.status == 200
        })
        .await;
        let who = json!({ kind: name });
        for answer in [
            decision,
            system.look(&told).await,
            system.ask("/resolve-identity", &who).await,
            system.ask("/predict", &who).await,
        ] {
            assert_eq!(answer.status, 200, "{}", answer.text);
            answers.push_str(&answer.text);
        }
    }
    answers
}

/// Counts the different events on the bus, of which there are so many records: some cases contain the same event as others, which
/// is stored once.
async fn events_on_the_bus(system: &System, records: usize) -> u64 {
    let stores = system.stores().await;
    let topic = store::bus::EVENTS_TOPIC;
    let mut bus = stores
        .bus
        .subscribe("test", &[topic])
        .await
        .expect("the bus can be read");
    let (mut read, mut ids) = (0, BTreeSet::new());
    while read < records {
        let more = bus.poll(1_000, PATIENCE).await.expect("the bus can be read");
        assert!(!more.is_empty(), "{read} of {records} records");
        read += more.len();
        for record in more {
            let event: Value = serde_json::from_slice(&record.value).expect("an event is JSON");
            ids.insert(event["event_id"].to_string());
        }
    }
    drop(bus);
    stores.close().await;
    assert_eq!(read, records);
    ids.len() as u64
}

fn files_below(folder: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the folder is readable").path();
        if path.is_dir() {
            files_below(&path, into);
        } else if let Ok(bytes) = fs::read(&path) {
            into.insert(path.display().to_string(), bytes);
        }
    }
}

#[tokio::test]
async fn every_case_ends_as_it_says_and_leaves_no_address_behind() {
    let cases = cases();
    assert!(cases.len() >= 100, "only {} cases", cases.len());
    let sns = Outside::start(SNS, certificates(&cases)).await;
    let mut system = System::start_in(sns.environment(), &configuration(&cases)).await;
    let mut wrong = Vec::new();
    let mut answers = String::new();
    let mut expected_events = 0;
    for case in &cases {
        let answer = send(&system, case).await;
        answers.push_str(&answer.text);
        let expect = &case.value["expect"];
        let fits = match expect["outcome"].as_str() {
            Some("accepted") => answer.status == 200,
            Some("unauthorized") => answer.status == 401,
            // One provider gets another status code.
            Some("bad_request") => matches!(answer.status, 400 | 406),
            other => panic!("unknown outcome {other:?}"),
        };
        let number = expect["events"].as_array().map_or(0, Vec::len);
        let is_handshake = answer.text.is_empty() || answer.body.get("accepted").is_none();
        if !fits || (answer.status == 200 && !is_handshake && answer.body["accepted"] != number) {
            wrong.push(format!(
                "{}/{}: {} {}",
                case.provider, case.account, answer.status, answer.text
            ));
        }
        expected_events += number;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Each certificate is fetched once, however many deliveries it has signed; one case asks to confirm a
    // subscription.
    let asked = sns.asked().into_iter();
    let (confirmed, fetched): (Vec<_>, Vec<_>) =
        asked.partition(|url| url.contains("?Action=ConfirmSubscription&"));
    assert_eq!(confirmed.len(), 1, "{confirmed:?}");
    assert_eq!(fetched, certificates(&cases).into_keys().collect::<Vec<_>>());
    let sent = events_on_the_bus(&system, expected_events).await;
    eventually("the events are stored", || async {
        system.stored_events().await == sent
    })
    .await;
    let (recipients, phones) = (recipients(&cases), phone_numbers(&cases));
    answers.push_str(&answers_about(&system, &recipients, &phones).await);
    assert!(system.stop().await, "{}", system.log());

    let mut files = BTreeMap::new();
    files_below(&system.data(), &mut files);
    files.insert("the log".to_owned(), system.log().into_bytes());
    files.insert("what was printed".to_owned(), system.printed().into_bytes());
    files.insert("the answers".to_owned(), answers.into_bytes());
    assert!(files.len() > 6, "{:?}", files.keys());
    let addresses = addresses(&cases);
    assert!(addresses.len() > recipients.len() && recipients.len() > 20 && !phones.is_empty());
    let mut leaks = Vec::new();
    for (name, bytes) in &files {
        let text = String::from_utf8_lossy(bytes).to_lowercase();
        for who in addresses.iter().chain(&phones) {
            for spelling in [who.clone(), who.replace('@', "%40").replace('+', "%2b")] {
                if let Some(at) = text.find(&spelling) {
                    let from = text.floor_char_boundary(at.saturating_sub(60));
                    let to = text.ceil_char_boundary((at + 60).min(text.len()));
                    leaks.push(format!("{name}: …{}…", &text[from..to]));
                }
            }
        }
    }
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
}

#[tokio::test]
async fn the_host_accepts_only_small_direct_and_prompt_answers_to_its_own_requests() {
    let mut cases = cases();
    cases.retain(|case| case.account == "subscription-confirmation");
    let [case] = &cases[..] else {
        panic!("{} cases ask for a confirmation", cases.len())
    };
    let message: Value = serde_json::from_str(case.value["request"]["body"].as_str().unwrap_or_default())
        .expect("the message is JSON");
    let address = message["SubscribeURL"].as_str().expect("an address");
    let elsewhere = format!("https://{SNS}/elsewhere");
    let sns = Outside::start(SNS, certificates(&cases)).await;
    let system = System::start_in(sns.environment(), &configuration(&cases)).await;
    let most = 64 * 1024;
    for (reply, words) in [
        (Reply::Text("x".repeat(most)), None),
        (Reply::Text("x".repeat(most + 1)), Some("more than 65536 bytes")),
        (Reply::Redirect(elsewhere.clone()), Some("answered 302")),
        (Reply::Silence, Some("no answer")),
    ] {
        sns.reply(address, reply);
        let began = Instant::now();
        let answer = send(&system, case).await;
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        let Some(words) = words else {
            assert_eq!(answer.status, 200, "{}", answer.text);
            continue;
        };
        assert_eq!(answer.error_code(), "confirmation_failed", "{}", answer.text);
        assert!(answer.text.contains(words), "{}", answer.text);
    }
    assert!(!sns.asked().contains(&elsewhere), "{:?}", sns.asked());
}
