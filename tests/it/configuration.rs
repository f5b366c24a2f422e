//! What is configured, and what the check of it says.

use std::{fs, process::Command};

use integration_tests::{binary, run, told};

#[test]
fn empty_variables_of_the_command_line_count_as_not_set() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::write(folder.path().join("sendflowr.toml"), "data_folder = 'here'").expect("a file can be written");
    // An address of nobody's, where a role ends.
    let output = Command::new(binary())
        .current_dir(folder.path())
        .envs([("SENDFLOWR_CONFIG", ""), ("SENDFLOWR_LOG", "")])
        .args(["--plugins", "plugins", "host", "--listen", "192.0.2.1:1"])
        .output()
        .expect("the binary runs");
    let told = told(&output);
    assert!(
        told.contains("INFO") && told.contains("bus: embedded in here"),
        "{told}"
    );
}

/// What the host refuses at its start.
#[test]
fn a_configuration_that_no_host_starts_with_is_not_sound() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let check = |configuration: &str| {
        fs::write(folder.join("sendflowr.toml"), configuration).expect("a file can be written");
        let output = run(folder, &["config", "check", "--offline"]);
        (output.status.code(), told(&output))
    };
    let (code, text) = check("");
    assert_eq!(code, Some(0), "{text}");
    fs::write(folder.join("bad.lock"), "version = 2").expect("a file can be written");
    for (configuration, line) in [
        (
            "[host]\nseal_key = 's3cret'",
            "\nhost: `host.seal_key` must be 32 bytes",
        ),
        (
            "[host.plugins]\nlocked = true",
            "\nhost: plugin lock `plugins.lock` is not there, and `host.plugins.locked` asks for it: write it with \
             `sendflowr plugin pin`\n",
        ),
        (
            "[host.plugins]\nlock = 'bad.lock'",
            "\nhost: plugin lock `bad.lock` has the layout 2, this program reads 1: upgrade it, or write the file anew \
             with `sendflowr plugin pin`\n",
        ),
        (
            "[registry]\nhost = 'ghcr.io'",
            "\nregistry: `[registry]` needs all of",
        ),
    ] {
        let (code, text) = check(configuration);
        assert_eq!(code, Some(1), "{configuration}: {text}");
        assert!(text.contains(line), "{configuration}: {text}");
        assert!(
            text.contains("\nnot sound\n") && !text.contains("s3cret"),
            "{text}"
        );
    }
    assert!(!folder.join("data/seal.key").exists(), "a check makes no key");
}
