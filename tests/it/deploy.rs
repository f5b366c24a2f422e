//! The scripts that compose.yml's containers run.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use integration_tests::{repository, told};

fn ended(script: &Path, arguments: &[&Path], path: &str) -> Output {
    Command::new("sh")
        .arg(script)
        .args(arguments)
        .env("PATH", path)
        .output()
        .expect("there is a shell")
}

fn run(script: &Path, arguments: &[&Path], path: &str) -> String {
    let output = ended(script, arguments, path);
    assert!(output.status.success(), "{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn path() -> String {
    std::env::var("PATH").expect("there is a PATH")
}

#[test]
fn a_password_reaches_its_server_without_the_end_of_its_line_and_no_secret_is_changed() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (secrets, servers) = (folder.path().join("secrets"), folder.path().join("servers"));
    for part in [&secrets, &servers.join("redis"), &servers.join("clickhouse")] {
        fs::create_dir_all(part).expect("it can be made");
    }
    fs::write(secrets.join("redis_password"), " pass word\r\n").expect("it can be written");
    let script = repository().join("deploy/make-secrets.sh");
    let read = |file: &Path| fs::read_to_string(file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    let mut keys = Vec::new();
    for _ in 0..2 {
        run(&script, &[&secrets, &servers], &path());
        assert_eq!(read(&secrets.join("redis_password")), " pass word\r\n");
        assert_eq!(read(&servers.join("redis/password")), " pass word");
        let made = read(&secrets.join("clickhouse_password"));
        assert_eq!(
            (made.len(), &made),
            (64, &read(&servers.join("clickhouse/password")))
        );
        keys.push(read(&secrets.join("seal_key")));
    }
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn prometheus_gets_the_first_token_of_the_metrics_and_no_other_secret() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (secrets, servers) = (folder.path().join("secrets"), folder.path().join("servers"));
    let of_prometheus = servers.join("prometheus");
    for part in [&secrets, &of_prometheus] {
        fs::create_dir_all(part).expect("it can be made");
    }
    let script = repository().join("deploy/make-secrets.sh");
    let token = || fs::read_to_string(of_prometheus.join("metrics_token")).expect("it is readable");
    run(&script, &[&secrets, &servers], &path());
    let made = fs::read_to_string(secrets.join("metrics_token")).expect("it is made");
    assert_eq!((made.len(), &made), (64, &token()));
    let api = fs::read_to_string(secrets.join("api_token")).expect("it is made");
    assert_ne!(made, api);
    // As while it is replaced.
    fs::remove_file(secrets.join("metrics_token")).expect("it can be removed");
    fs::write(secrets.join("metrics_token"), "\r\n new-token\r\nformer-token\n").expect("it can be written");
    run(&script, &[&secrets, &servers], &path());
    assert_eq!(token(), "new-token");
    assert_eq!(fs::read_dir(&of_prometheus).expect("it is readable").count(), 1);

    let read = |file: &str| fs::read_to_string(repository().join(file)).expect("it is readable");
    assert!(
        read("deploy/prometheus/prometheus.yml").contains("credentials_file: /run/secrets/metrics_token\n")
    );
    assert!(read("compose.yml").contains("- metrics-token:/run/servers/prometheus\n"));
}

#[test]
fn a_blank_secret_counts_as_missing_and_a_password_is_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (secrets, servers) = (folder.path().join("secrets"), folder.path().join("servers"));
    for part in [&secrets, &servers.join("redis")] {
        fs::create_dir_all(part).expect("it can be made");
    }
    let script = repository().join("deploy/make-secrets.sh");
    let password = secrets.join("redis_password");
    for blank in ["", "\n", " \t\r\n\n"] {
        fs::write(&password, blank).expect("it can be written");
        run(&script, &[&secrets, &servers], &path());
        let made = fs::read_to_string(&password).expect("it is readable");
        assert_eq!(made.trim().len(), 64, "{blank:?}");
        fs::remove_file(&password).expect("it can be removed");
    }
    fs::write(&password, "first\nsecond\n").expect("it can be written");
    let output = ended(&script, &[&secrets, &servers], &path());
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stderr)),
        (
            Some(1),
            "redis_password has several lines: a password is one line\n".into()
        )
    );
}

#[test]
fn redis_gets_any_password_and_half_of_its_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let place = |name: &str| folder.path().join(name);
    let script = fs::read_to_string(repository().join("deploy/redis.sh")).expect("the script is readable");
    let script = [
        ("/etc/redis.conf", repository().join("deploy/redis.conf")),
        ("/run/secrets/password", place("password")),
        ("/sys/fs/cgroup/memory.max", place("limit")),
        ("/tmp/redis.conf", place("redis.conf")),
    ]
    .iter()
    .fold(script, |script, (theirs, ours)| {
        assert!(script.contains(theirs), "{theirs}");
        script.replace(theirs, &ours.display().to_string())
    });
    fs::write(place("redis.sh"), script).expect("it can be written");
    fs::write(place("password"), " pa\"ss\\ w#ord\n").expect("it can be written");
    // In place of the server: shows the configuration that it is given.
    let server = place("redis-server");
    fs::write(&server, "#!/bin/sh\ncat \"$1\"\n").expect("it can be written");
    fs::set_permissions(&server, PermissionsExt::from_mode(0o755)).expect("the mode can be set");
    let path = format!("{}:{}", folder.path().display(), path());

    for (limit, memory) in [("67108864\n", Some("maxmemory 33554432")), ("max\n", None)] {
        fs::write(place("limit"), limit).expect("it can be written");
        let configuration = run(&place("redis.sh"), &[], &path);
        let last = configuration.lines().rfind(|line| line.starts_with("maxmemory "));
        assert_eq!(last, memory.or(Some("maxmemory 512mb")));
        assert!(
            configuration
                .lines()
                .any(|line| line == r#"requirepass " pa\"ss\\ w#ord""#),
            "{configuration}"
        );
    }
}

#[test]
fn clickhouse_gets_the_hash_of_any_password() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let place = |name: &str| folder.path().join(name);
    let compose = fs::read_to_string(repository().join("compose.yml")).expect("it is readable");
    let (_, command) = compose
        .split_once("export CLICKHOUSE_PASSWORD_SHA256")
        .expect("it exports the hash");
    let (command, _) = command
        .split_once("\n    environment:")
        .expect("the command ends");
    let password = place("password").display().to_string();
    let command = format!("export CLICKHOUSE_PASSWORD_SHA256{command}")
        .replace("$$", "$")
        .replace("/run/secrets/password", &password)
        .replace('\n', " ");
    fs::write(place("start.sh"), command).expect("it can be written");
    fs::write(&password, "a&b <c> \"d\" $e\\\n").expect("it can be written");
    // In place of the server: shows the variable that deploy/clickhouse/users.xml names.
    let server = place("clickhouse-server");
    fs::write(&server, "#!/bin/sh\nprintf %s \"$CLICKHOUSE_PASSWORD_SHA256\"\n").expect("it can be written");
    fs::set_permissions(&server, PermissionsExt::from_mode(0o755)).expect("the mode can be set");
    let path = format!("{}:{}", folder.path().display(), path());
    let hash = run(&place("start.sh"), &[], &path);
    assert_eq!(
        hash,
        "8d7b5aa6f522e6ff3d4968ff68550cd6ada6f9bf531efe98c5849c7ef33cd959"
    );
    let users = fs::read_to_string(repository().join("deploy/clickhouse/users.xml")).expect("it is readable");
    assert!(users.contains(r#"<password_sha256_hex from_env="CLICKHOUSE_PASSWORD_SHA256"/>"#));
}
