//! Another pepper than the one that the identities in PostgreSQL were hashed with.

use std::fs;

use integration_tests::{run, scaled::System, told};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn another_pepper_is_refused_where_machines_share_the_identities() {
    // Its roles keep what tells their pepper, none, apart from others.
    let system = System::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let configuration = system.servers.configuration("") + "[identity]\npepper = 's3cret'\n";
    fs::write(folder.path().join("sendflowr.toml"), configuration).unwrap();
    fs::write(folder.path().join("events.csv"), "user_id,timestamp_utc\n").unwrap();
    for arguments in [
        &["host", "--listen", "127.0.0.1:0"][..],
        &["inference", "--listen", "127.0.0.1:0"],
        &["config", "check"],
        &["person", "erase", "--email", "ann@example.com"],
        &["import", "--events", "events.csv", "--account", "sendgrid"],
        &["replay"],
    ] {
        let output = run(folder.path(), &[&["--plugins", "plugins"], arguments].concat());
        let told = told(&output);
        assert!(
            !output.status.success()
                && told.contains("`identity.pepper` is not the one that the data in PostgreSQL at ")
                && !told.contains("s3cret"),
            "{arguments:?}: {told}"
        );
    }
    system.clean().await;
}
