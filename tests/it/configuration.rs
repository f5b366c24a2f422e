//! What is configured, and what the check of it says.

use std::fs;

use integration_tests::{run, told};

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
