//! Dead letters, replayed by the binary beside the running system.

use std::process::{Command, Output};

use integration_tests::{System, binary, eventually};

const UNSIGNED: &str = "[accounts.sendgrid.default]\nallow_unsigned = true\n";

fn replay(system: &System) -> Output {
    Command::new(binary())
        .current_dir(system.folder())
        .args(["--data", "data", "replay"])
        .env("SENDFLOWR_HOST__PLUGINS__FOLDER", "plugins")
        .output()
        .expect("the binary runs")
}

fn open(email: &str, id: &str) -> String {
    format!(r#"{{"event":"open","timestamp":1767636000,"email":"{email}","sg_event_id":"{id}"}}"#)
}

#[tokio::test]
async fn a_replay_stores_nothing_twice() {
    let system = System::start(UNSIGNED, &["sendgrid"]).await;
    // The second element names nobody, so the whole delivery is kept as a dead letter beside the first one's event.
    let body = format!(
        r#"[{},{{"event":"open","timestamp":1767636000}}]"#,
        open("ann@example.com", "a")
    );
    let answer = system.webhook("sendgrid", &[], body).await;
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (200, r#"{"accepted":1,"skipped":0,"rejected":1}"#)
    );
    eventually("its event is stored", || async {
        system.stored_events().await == 1
    })
    .await;

    for told in [
        "1 letters replayed, 1 events, 0 letters failed, 0 left alone\n",
        "0 letters replayed, 0 events, 0 letters failed, 0 left alone\n",
    ] {
        let output = replay(&system);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text, told, "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success());
    }
    // Behind the replayed event on the bus: when these are stored, the consumer has seen that one again.
    for number in 0..20 {
        let body = format!("[{}]", open(&format!("b{number}@example.com"), "b"));
        assert_eq!(system.webhook("sendgrid", &[], body).await.status, 200);
    }
    eventually("the later events are stored", || async {
        system.stored_events().await >= 21
    })
    .await;
    assert_eq!(system.stored_events().await, 21);
}
