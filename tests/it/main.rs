//! End to end on the embedded engines: HTTP in, compiled plugins, rows and decisions out.

mod accounts;
mod bad_input;
mod cases;
mod damage;
mod durability;
mod explain;
mod front_door;
mod golden;
mod lift;
mod offline;
mod plugins;
mod providers;
mod recorded;
mod registry;
mod replay;
mod supply;
mod telemetry;
mod texts;
mod watch;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// Postmark accounts with these credentials are what most tests deliver to: one event, one object, basic authentication.
const POSTMARK: &str =
    "[accounts.postmark.default]\nbasic_auth_user = 'me'\nbasic_auth_password = 'secret'\n";

/// What proves a delivery to [`POSTMARK`].
fn postmark_headers() -> Vec<(String, String)> {
    let credentials = STANDARD.encode("me:secret");
    vec![
        ("authorization".to_owned(), format!("Basic {credentials}")),
        ("content-type".to_owned(), "application/json".to_owned()),
    ]
}

/// A click as Postmark reports it.
fn postmark_click(email: &str, message: &str, at: &str) -> String {
    let click: Value = json!({
        "RecordType": "Click", "MessageID": message, "Recipient": email, "ReceivedAt": at,
        "OriginalLink": "https://example.com/", "UserAgent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
    });
    click.to_string()
}
