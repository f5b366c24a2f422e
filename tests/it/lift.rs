//! Decisions of the control group, from HTTP to `sendflowr lift`.

use integration_tests::{System, eventually, run, told};
use serde_json::{Value, json};

#[tokio::test]
async fn decisions_of_both_groups_show_in_the_comparison() {
    let system = System::start("", &["postmark"]).await;
    for number in 0..60 {
        let question = json!({ "email": format!("person{number}@example.com") });
        let answer = system.ask("/timing/decide", &question).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    // Explanations are stored after the answers have been sent.
    eventually("all decisions are counted", || async {
        system.look("/lift").await.body["pending"] == 60
    })
    .await;
    let by_http = system.look("/lift").await.body;
    assert_eq!(by_http["verdict"]["code"], "not_enough_data");

    let lift = |arguments: &[&str]| {
        let output = run(
            system.folder(),
            &[&["--data", "data", "lift"], arguments].concat(),
        );
        (output.status.success(), told(&output))
    };
    let (is_well, told) = lift(&["--format", "json"]);
    assert!(is_well, "{told}");
    let by_command: Value = serde_json::from_str(&told).expect("it is JSON");
    for key in ["pending", "treated", "control", "verdict"] {
        assert_eq!(by_command[key], by_http[key], "{key}");
    }
    let (is_well, told) = lift(&[]);
    assert!(
        is_well && told.contains("60 are too young") && told.contains("Not enough data yet"),
        "{told}"
    );
    let (is_well, told) = lift(&["--since", "tomorrow"]);
    assert!(!is_well && told.contains("`--since` must be a time"), "{told}");
}
