//! End-to-end tests on the embedded engines: HTTP in, compiled plugins, rows and decisions out.

mod accounts;
mod bad_input;
mod cases;
mod configuration;
mod damage;
mod deploy;
mod durability;
mod explain;
mod folder;
mod front_door;
mod golden;
#[path = "../../host/tests/plugin_runtime/guest.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "the builder of the plugin runtime's tests, which need more of it"
)]
mod guest;
mod import;
mod lift;
mod metrics;
mod offline;
mod outside;
mod person;
mod plugins;
mod processes;
mod providers;
mod recorded;
mod registry;
mod replay;
mod supply;
mod telemetry;
mod texts;
mod watch;

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use integration_tests::{Answer, Role, System, eventually};
use serde_json::{Value, json};

/// An account of Postmark with these credentials, to which most tests deliver: one event, one object, basic authentication.
const POSTMARK: &str =
    "[accounts.postmark.default]\nbasic_auth_user = 'me'\nbasic_auth_password = 'secret'\n";

/// The headers that prove a delivery to [`POSTMARK`].
fn postmark_headers() -> Vec<(String, String)> {
    let credentials = STANDARD.encode("me:secret");
    vec![
        ("authorization".to_owned(), format!("Basic {credentials}")),
        ("content-type".to_owned(), "application/json".to_owned()),
    ]
}

/// Returns a click as Postmark reports it.
fn postmark_click(email: &str, message: &str, at: &str) -> String {
    let click: Value = json!({
        "RecordType": "Click", "MessageID": message, "Recipient": email, "ReceivedAt": at,
        "OriginalLink": "https://example.com/", "UserAgent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
    });
    click.to_string()
}

/// Reports to a host with the [`POSTMARK`] account that Ann has clicked in a message.
async fn report_click(http: &reqwest::Client, host: &Role, message: &str, at: &str) {
    let click = postmark_click("ann@example.com", message, at);
    let mut request = http.post(format!("{}/webhooks/postmark", host.url)).body(click);
    for (name, value) in postmark_headers() {
        request = request.header(name, value);
    }
    let answer = Answer::of(request).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

/// Returns the status of the response to that click, with the proof that [`POSTMARK`] requires.
async fn postmark_answer(system: &System) -> u16 {
    let click = postmark_click("ann@example.com", "m", "2026-01-05T18:30:00Z");
    system
        .webhook("postmark", &postmark_headers(), click)
        .await
        .status
}

/// Copies the plugin from `folder` into that of the running host, and waits until it is served.
async fn drop_postmark(system: &System, folder: &Path) {
    let name = "postmark.wasm";
    fs::copy(folder.join(name), system.folder().join("plugins").join(name))
        .expect("the plugin can be copied");
    eventually("the plugin is served", || async {
        postmark_answer(system).await == 200
    })
    .await;
}
