//! The promises of the README: the demonstration, and every curl line as printed.

use std::{fs, net::TcpListener, process::Command};

use integration_tests::{Answer, System, eventually, repository, run, told};
use serde_json::json;
use synth::delivery::PROVIDERS;

#[tokio::test]
async fn the_demonstration_shows_every_provider_and_a_decision() {
    let mut system = System::start_with("", &[], &["--demo"]).await;
    eventually("the demonstration ends", || async {
        system.printed().contains("Stop with Ctrl-C")
    })
    .await;
    let printed = system.printed();
    for provider in PROVIDERS {
        let row = printed
            .lines()
            .find(|line| line.starts_with(&format!("{provider} ")));
        let row = row.unwrap_or_else(|| panic!("no row for {provider}:\n{printed}"));
        let numbers: Vec<u64> = row
            .split_whitespace()
            .skip(1)
            .filter_map(|number| number.parse().ok())
            .collect();
        let [deliveries, accepted, skipped, rejected, refused] = numbers[..] else {
            panic!("{row}")
        };
        assert!(deliveries >= 2 && accepted >= 1, "{row}");
        assert_eq!((skipped, rejected, refused), (1, 0, 1), "{row}");
    }
    assert!(
        printed.contains("Tue ") && printed.contains('█'),
        "no picture:\n{printed}"
    );
    assert!(
        printed.contains("explanation: http://"),
        "no explanation:\n{printed}"
    );

    curl_lines_work(&system);
    let explanation = printed
        .split_whitespace()
        .find(|word| word.contains("/explanations/"))
        .expect("a reference");
    let path = explanation
        .split_once("/explanations/")
        .map(|(_, reference)| format!("/explanations/{reference}"));
    let path = path.as_deref().unwrap_or_default();
    eventually("the explanation is stored", || async {
        system.look(path).await.status == 200
    })
    .await;
    let explanation = system.look(path).await;
    assert!(
        explanation.body["experiment"].is_null(),
        "what is shown is the model's choice on every day: {}",
        explanation.text
    );
    assert!(system.stop().await, "{}", system.log());
}

/// Runs every line of the README that begins with `curl`, with this system's addresses in place of the
/// default ones.
fn curl_lines_work(system: &System) {
    let readme = std::fs::read_to_string(repository().join("README.md")).expect("the README is readable");
    let lines: Vec<&str> = readme.lines().filter(|line| line.starts_with("curl ")).collect();
    assert!(lines.len() >= 6, "only {} lines", lines.len());
    for line in lines {
        let here = line
            .replace("127.0.0.1:5215", &system.host.to_string())
            .replace("127.0.0.1:8001", &system.inference.to_string());
        let output = Command::new("sh")
            .args(["-c", &here])
            .output()
            .expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let body: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{line}\n{text}"));
        // A webhook without its proof is meant to be refused.
        let is_refusal = !line.contains("-u demo:demo") && line.contains("/webhooks/");
        assert_eq!(body.get("error").is_some(), is_refusal, "{line}\n{text}");
    }
}

#[tokio::test]
async fn events_change_the_next_decision_and_can_be_explained() {
    let system = System::start(crate::POSTMARK, &["postmark"]).await;
    // A moment of its own: by the clock, the minute for strangers could happen to be the one that is learned.
    let now: event::Timestamp = "2026-01-05T10:00:00Z".parse().expect("a moment");
    let question = json!({
        "email": "bob@example.com", "window_hours": 24, "explain": true, "experiment": false, "now": now,
    });
    let before = system.ask("/timing/decide", &question).await;
    assert_eq!(before.status, 200, "{}", before.text);
    for week in 1..=6 {
        let at = now
            .plus_millis(-week * event::grid::WEEK_MS + 5 * 3_600_000)
            .to_string();
        let body = crate::postmark_click("bob@example.com", &format!("m{week}"), &at);
        assert_eq!(
            system
                .webhook("postmark", &crate::postmark_headers(), body)
                .await
                .status,
            200
        );
    }
    eventually("the clicks show in decisions", || async {
        let answer = system.ask("/timing/decide", &question).await;
        answer.body["evidence"]["n"].as_f64().unwrap_or_default() >= 6.0
    })
    .await;
    let after = system.ask("/timing/decide", &question).await;
    assert_ne!(after.body["target_timestamp"], before.body["target_timestamp"]);
    let reference = after.body["explanation_ref"]
        .as_str()
        .expect("a reference")
        .to_owned();
    eventually("the explanation is stored", || async {
        system.look(&format!("/explanations/{reference}")).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn synthetic_events_go_through_the_real_bus() {
    let system = System::start(crate::POSTMARK, &["postmark"]).await;
    let url = format!("http://{}/api/mock/events/generate?count=5", system.host);
    let answer = Answer::of(system.http.post(url)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    eventually("five events are stored", || async {
        system.stored_events().await == 5
    })
    .await;
    for path in ["/health", "/ready", "/metrics", "/plugins", "/"] {
        assert_eq!(system.host_get(path).await.status, 200, "{path}");
    }
    for path in [
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
        "/docs/",
        "/latency",
        "/",
    ] {
        assert_eq!(system.look(path).await.status, 200, "{path}");
    }
}

#[test]
fn the_demonstration_names_a_setting_that_would_keep_it_out() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (section, line) in [
        ("host", "admin_token = '0123456789abcdef'"),
        ("host.tls", "certificate = 'a.pem'\nkey = 'b.pem'"),
        ("inference", "token = '0123456789abcdef'"),
        ("inference.tls", "certificate = 'a.pem'\nkey = 'b.pem'"),
    ] {
        fs::write(
            folder.path().join("sendflowr.toml"),
            format!("[{section}]\n{line}"),
        )
        .expect("the configuration can be written");
        let output = run(folder.path(), &["up", "--demo"]);
        let told = told(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        let setting = match section.ends_with("tls") {
            true => section.to_owned(),
            false => format!("{section}.{}", line.split(' ').next().unwrap_or_default()),
        };
        assert!(told.contains(&format!("and `{setting}` is set")), "{told}");
    }
}

#[test]
fn the_demonstration_is_for_this_machine_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (file, listen) in [
        (
            "[host]\nallow_anonymous = true",
            &["--host-listen", "0.0.0.0:0"][..],
        ),
        ("[host]\nlisten = '0.0.0.0:0'\nallow_anonymous = true", &[]),
    ] {
        fs::write(folder.path().join("sendflowr.toml"), file).expect("the configuration can be written");
        let output = run(folder.path(), &[&["up", "--demo"], listen].concat());
        let told = told(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(
            told.contains("`host.listen` is `0.0.0.0:0`, which others can reach"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn roles_serve_on_after_a_demonstration_that_failed() {
    // Some of its deliveries are longer.
    let mut system = System::start_with("[host]\nmax_body_bytes = 1024", &[], &["--demo"]).await;
    eventually("the demonstration fails", || async {
        system.log().contains("the demonstration failed: ")
    })
    .await;
    assert_eq!(system.host_get("/ready").await.status, 200, "{}", system.log());
    assert!(system.stop().await, "{}", system.log());
}

#[test]
fn a_start_that_fails_stops_the_roles_that_serve_already() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let listen = [
        "up",
        "--host-listen",
        "127.0.0.1:0",
        "--inference-listen",
        &address,
    ];
    let output = run(folder.path(), &listen);
    let told = told(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("(`inference.listen`)"), "{told}");
    assert!(
        told.contains("stopping: open requests and batches end first"),
        "{told}"
    );
}
