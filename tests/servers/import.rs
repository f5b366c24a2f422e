//! The way from the embedded engines to the servers.

use std::fs;

use integration_tests::{eventually, run, scaled, told};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn servers_take_over_what_embedded_engines_have_stored() {
    const CLICKS: u64 = 40;
    let embedded = integration_tests::System::start("", &["postmark"]).await;
    let system = scaled::System::start(&[]).await;
    let address = format!("ann-{}@example.com", system.servers.mark);
    let mut csv = "user_id,timestamp_utc,message_id\n".to_owned();
    for day in 1..=CLICKS {
        csv += &format!("{address},{},m-{day}\n", 1_767_571_200 - day * 86_400);
    }
    fs::write(embedded.folder().join("events.csv"), csv).unwrap();
    let arguments = [
        "--data",
        "data",
        "import",
        "--events",
        "events.csv",
        "--account",
        "sendgrid",
    ];
    let imported = run(embedded.folder(), &arguments);
    assert!(imported.status.success(), "{}", told(&imported));
    eventually("the events are stored", || async {
        embedded.stored_events().await == CLICKS
    })
    .await;

    let consumer = system.consumer().await;
    let data = embedded.data();
    let printed = system.run(&["import", "--embedded", data.to_str().unwrap()]);
    assert!(
        printed.starts_with(&format!("{CLICKS} events by 1 person put")),
        "{printed}"
    );
    let question = json!({"email": address, "now": "2026-01-05T00:00:00Z", "experiment": false});
    eventually("decisions know the person", async || {
        let decision = system.ask("/timing/decide", &question).await;
        decision.body["evidence"]["n"] == CLICKS
    })
    .await;
    system.until_committed(&consumer).await;
    system.clean().await;
}
