//! The configuration, and what the check of it reports.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, process::Command};

use integration_tests::{binary, run, told};

#[test]
fn empty_variables_of_the_command_line_count_as_not_set() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::write(folder.path().join("sendflowr.toml"), "data_folder = 'here'").expect("a file can be written");
    // An address that nobody has, where the role's start ends.
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

/// As with `$(head -c 32 /dev/urandom)`: without its pepper, a host would start for good.
#[test]
fn a_variable_that_is_not_text_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for command in [&["config", "check", "--offline"][..], &["up"]] {
        let output = Command::new(binary())
            .current_dir(folder.path())
            .env("SENDFLOWR_IDENTITY__PEPPER", OsStr::from_bytes(b"s3cret\xff"))
            .args(command)
            .output()
            .expect("the binary runs");
        let told = told(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(
            told.contains("environment variable `SENDFLOWR_IDENTITY__PEPPER` is not UTF-8 text")
                && !told.contains("s3cret"),
            "{told}"
        );
    }
}

/// Without its file, a host would run with neither its accounts nor its pepper.
#[test]
fn a_file_that_is_named_in_the_way_of_compose_is_not_passed_over() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::write(folder.path().join("mine.toml"), "data_folder = 'here'").expect("a file can be written");
    let check = |flags: &[&str]| {
        let output = Command::new(binary())
            .current_dir(folder.path())
            .env("SENDFLOWR_CONFIG_FILE", "mine.toml")
            .args(flags)
            .args(["config", "check", "--offline"])
            .output()
            .expect("the binary runs");
        (output.status.code(), told(&output))
    };
    let (code, text) = check(&[]);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("`SENDFLOWR_CONFIG_FILE` is read by compose.yml alone"),
        "{text}"
    );
    let (code, text) = check(&["--config", "mine.toml"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("data_folder = \"here\""), "{text}");
}

/// Configurations that the host refuses at startup.
#[test]
fn a_configuration_that_no_host_starts_with_has_problems() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let check = |configuration: &str| {
        fs::write(folder.join("sendflowr.toml"), configuration).expect("a file can be written");
        let output = run(folder, &["config", "check", "--offline"]);
        (output.status.code(), told(&output))
    };
    let (code, text) = check("");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with("configuration is valid\n"), "{text}");
    fs::write(folder.join("bad.lock"), "version = 2").expect("a file can be written");
    for (configuration, line) in [
        (
            "[host]\nseal_key = 's3cret'",
            "\nhost: `host.seal_key` must be 32 bytes",
        ),
        (
            "[host.plugins]\nlocked = true",
            "\nhost: plugin lock `plugins.lock` does not exist, and `host.plugins.locked` requires it: write it with \
             `sendflowr plugin pin`\n",
        ),
        (
            "[host.plugins]\nlock = 'bad.lock'",
            "\nhost: plugin lock `bad.lock` has the layout 2, this program reads 1: upgrade it, or delete the file \
             and write it anew with `sendflowr plugin pin`\n",
        ),
        (
            "[host.plugins.quarantine]\nfirst_seconds = 60\nlongest_seconds = 30",
            "\nhost: `host.plugins.quarantine.longest_seconds` is 30, it must be between 60 and 86400\n",
        ),
        (
            "[host.plugins.limits]\nevents = 0",
            "\nhost: `host.plugins.limits.events` is 0, it must be between 1 and 1000000\n",
        ),
        (
            "[inference]\nexplanation_queue = 9223372036854775807",
            "\ninference: `inference.explanation_queue` is 9223372036854775807, it must be between 1 and 1000000\n",
        ),
        (
            "[telemetry]\nsample_ratio = 2",
            "\ntelemetry: `telemetry.sample_ratio` is 2, it must be between 0 and 1\n",
        ),
        (
            "[store]\nlease_ms = 1",
            "\n`store.lease_ms` is 1, it must be between 1000 and 600000\n",
        ),
        (
            "[registry]\nhost = 'ghcr.io'",
            "\nregistry: `[registry]` needs all of",
        ),
    ] {
        let (code, text) = check(configuration);
        assert_eq!(code, Some(1), "{configuration}: {text}");
        assert!(text.contains(line), "{configuration}: {text}");
        // The check ends early if the engines cannot be determined.
        let ends_early = configuration.starts_with("[store]");
        assert!(
            (ends_early || text.contains("\nconfiguration has problems\n")) && !text.contains("s3cret"),
            "{text}"
        );
    }
    assert!(!folder.join("data/seal.key").exists(), "a check makes no key");
}

#[test]
fn a_value_in_place_of_a_section_is_shown_by_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (variable, configuration) in [
        ("authorization=Bearer s3cret", ""),
        ("", "identity = 's3cret'"),
        ("", "telemetry.headers = 's3cret'"),
    ] {
        fs::write(folder.path().join("sendflowr.toml"), configuration).expect("a file can be written");
        for command in [&["config", "check", "--offline"][..], &["consumer"]] {
            let output = Command::new(binary())
                .current_dir(folder.path())
                .env("SENDFLOWR_TELEMETRY__HEADERS", variable)
                .args(command)
                .output()
                .expect("the binary runs");
            let told = told(&output);
            assert_eq!(output.status.code(), Some(2), "{told}");
            assert!(
                told.contains("is a section and cannot have a value") && !told.contains("s3cret"),
                "{told}"
            );
        }
    }
}

#[test]
fn a_check_says_what_only_a_start_can_find() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let check = |configuration: &str| {
        fs::write(folder.join("sendflowr.toml"), configuration).expect("a file can be written");
        let output = run(folder, &["config", "check", "--offline"]);
        assert!(output.status.success(), "{}", told(&output));
        told(&output)
    };
    let listening =
        |port| format!("[host]\nlisten = '127.0.0.1:{port}'\n[inference]\nlisten = '127.0.0.1:{port}'\n");
    let told = check(&listening(17999));
    assert!(
        told.contains("\nnote: `host.listen` and `inference.listen` are the same address"),
        "{told}"
    );
    fs::create_dir(folder.join("data")).expect("a folder can be made");
    fs::write(folder.join("data/events.db"), "").expect("a file can be written");
    assert!(!check("").contains("events.db"));
    let told = check("[clickhouse]\nhost = 'db'");
    assert!(
        told.contains("\nnote: `data/events.db` (")
            && told.contains("no longer read, because `[clickhouse]`"),
        "{told}"
    );
    let told = check(&format!("{}[accounts.acme.eu]\nkey = 'x'", listening(0)));
    assert!(
        told.contains("\nnote: the names in `[accounts]`") && !told.contains("same address"),
        "{told}"
    );
}

#[test]
fn no_command_makes_a_seal_key_where_hosts_share_servers() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    fs::create_dir(folder.join("plugins")).expect("a folder can be made");
    let told_by = |arguments: &[&str]| {
        let output = run(folder, &[&["--plugins", "plugins"], arguments].concat());
        (output.status.success(), told(&output))
    };
    // A port on which nothing listens.
    for (server, commands) in [
        (
            "[postgres]\nhost = '127.0.0.1'\nport = 1\n",
            &[&["account", "set", "acme/eu", "key=x"][..], &["account", "list"]][..],
        ),
        ("[kafka]\nbootstrap_servers = '127.0.0.1:1'\n", &[&["replay"]]),
    ] {
        let server = format!("{server}[host]\nallow_anonymous = true\n");
        fs::write(folder.join("sendflowr.toml"), &server).expect("a file can be written");
        for command in commands {
            let (is_done, text) = told_by(command);
            assert!(
                !is_done && text.contains("error: `host.seal_key` is not set") && text.contains("openssl"),
                "{command:?}: {text}"
            );
        }
        assert!(
            !folder.join("data/seal.key").exists(),
            "a key that nobody else has was created"
        );
        let (is_sound, text) = told_by(&["config", "check", "--offline"]);
        assert!(
            is_sound && text.contains("\nnote: `host.seal_key` is not set"),
            "{text}"
        );
        // An address that nobody has, where the role's start ends.
        let (_, text) = told_by(&["host", "--listen", "192.0.2.1:1"]);
        assert!(
            text.contains("WARN") && text.contains("`host.seal_key` is not set"),
            "{text}"
        );
        let key = "ab".repeat(32);
        fs::write(
            folder.join("sendflowr.toml"),
            format!("{server}seal_key = '{key}'\n"),
        )
        .expect("a file can be written");
        let (is_sound, text) = told_by(&["config", "check", "--offline"]);
        assert!(is_sound && !text.contains("note:"), "{text}");
    }
}

#[test]
fn events_that_decisions_read_are_not_to_be_removed() {
    const MONTH: u64 = 30 * 86_400;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let check = |configuration: &str| {
        fs::write(folder.join("sendflowr.toml"), configuration).expect("a file can be written");
        let output = run(folder, &["config", "check", "--offline"]);
        (output.status.success(), told(&output))
    };
    let kept = format!("[store]\nevent_retention_seconds = {MONTH}\n");
    let (is_sound, text) = check(&kept);
    let line = format!(
        "\n`store.event_retention_seconds` is {MONTH}, less than `inference.history_seconds`, which is 31536000: decisions would lack"
    );
    assert!(!is_sound && text.contains(&line), "{text}");
    let (is_sound, text) = check(&format!("{kept}[inference]\nhistory_seconds = {MONTH}"));
    assert!(is_sound, "{text}");
    let longer = format!(
        "{kept}[inference]\nhistory_seconds = {MONTH}\nlatency.window_seconds = {}",
        MONTH + 1
    );
    let (is_sound, text) = check(&longer);
    assert!(
        !is_sound && text.contains("less than `inference.latency.window_seconds`"),
        "{text}"
    );
    // The age of events in ClickHouse is a setting of its own.
    let (is_sound, text) = check(&format!("{kept}[clickhouse]\nhost = 'c'"));
    assert!(is_sound, "{text}");
}

#[test]
fn made_up_people_are_put_among_real_ones_only_on_request() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let output = run(folder, &["synth", "--count", "3"]);
    assert!(
        output.status.success() && told(&output).contains("3 events on the bus"),
        "{}",
        told(&output)
    );
    // A port on which nothing listens.
    fs::write(
        folder.join("sendflowr.toml"),
        "[kafka]\nbootstrap_servers = '127.0.0.1:1'",
    )
    .expect("a file can be written");
    let output = run(folder, &["synth", "--count", "3"]);
    let refusal = told(&output);
    assert!(
        output.status.code() == Some(2) && refusal.contains("if that is meant, add `--kafka`"),
        "{refusal}"
    );
    let meant = told(&run(folder, &["synth", "--count", "3", "--kafka"]));
    assert!(
        meant.contains("cannot reach")
            || meant.contains("`kafka.bootstrap_servers`") && !meant.contains("--kafka"),
        "{meant}"
    );
}

#[test]
fn a_role_tells_a_key_that_cannot_work_once() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    for (role, configuration, line) in [
        (
            "consumer",
            "[consumer]\nbatch_events = 0",
            "error: `consumer.batch_events` is 0, it must be between 1 and 50000\n",
        ),
        (
            "inference",
            "[inference]\ncurve_cache_entries = 0",
            "error: `inference.curve_cache_entries` is 0, it must be between 1 and 100000\n",
        ),
    ] {
        fs::write(folder.join("sendflowr.toml"), configuration).expect("a file can be written");
        let told = told(&run(folder, &[role]));
        assert!(told.ends_with(line), "{told}");
    }
}

/// A consumer that ends again after it has joined its groups takes partitions from those that work.
#[test]
fn the_certificate_of_a_consumer_is_looked_at_before_any_server() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::write(
        folder.path().join("sendflowr.toml"),
        "[kafka]\nbootstrap_servers = '127.0.0.1:1'\n\
         [consumer]\nlisten = '127.0.0.1:0'\n\
         [consumer.tls]\ncertificate = 'nowhere.pem'\nkey = 'nowhere.pem'",
    )
    .expect("a file can be written");
    let told = told(&run(folder.path(), &["consumer"]));
    let expected = "`consumer.tls.certificate`: the file `nowhere.pem` cannot be read";
    assert!(told.contains(expected), "{told}");
}

/// The key of a listener belongs to the role's user, who is not always the one that runs a command.
#[test]
fn only_what_listens_needs_the_key_of_its_certificate() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    fs::create_dir(folder.join("plugins")).expect("a folder can be made");
    let tls = "certificate = 'nowhere.pem'\nkey = 'nowhere.pem'";
    for section in ["host", "consumer", "inference"] {
        fs::write(
            folder.join("sendflowr.toml"),
            format!("[{section}]\nlisten = '127.0.0.1:0'\n[{section}.tls]\n{tls}"),
        )
        .expect("a file can be written");
        let expected = format!("`{section}.tls.certificate`: the file `nowhere.pem` cannot be read");
        for (code, command) in [
            (1, &["config", "check", "--offline"][..]),
            (2, &["--plugins", "plugins", section]),
        ] {
            let output = run(folder, command);
            let told = told(&output);
            assert_eq!(output.status.code(), Some(code), "{told}");
            assert!(told.contains(&expected), "{told}");
        }
        for command in [
            &["account", "list"][..],
            &["synth", "--count", "1"],
            &["--plugins", "plugins", "plugin", "list"],
            &["replay"],
        ] {
            let output = run(folder, command);
            assert!(output.status.success(), "{}", told(&output));
        }
    }
}
