//! Runs Kafka from its published Java libraries, as broker and controller in one (KRaft mode).

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::{folder, native::Place, ports};
use crate::{
    process::{output, root, run as run_command, say},
    setup,
};

/// The oldest Java that the broker runs on.
const JAVA: u32 = 17;

/// The Debian package of that version.
const JAVA_PACKAGE: &str = "openjdk-17-jre-headless";

/// The Debian package of the release's own Java: a release has one version, or a few, and not always [`JAVA`].
const DEFAULT_JAVA_PACKAGE: &str = "default-jre-headless";

/// The goal that downloads the libraries. Without a version it would be the one that Maven's own defaults name.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// The id of the cluster. Any id will do, because all data folders are new.
const CLUSTER: &str = "c2VuZGZsb3dyLXRlc3RzIQ";

/// Returns the Debian packages that are needed and missing.
pub(super) fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if java_version().is_none_or(|version| version < JAVA) {
        missing.push(java_package());
    }
    if !setup::is_fetched(&libraries(), &description()) && !setup::has_program("mvn") {
        missing.push("maven");
    }
    missing
}

/// Finds the libraries, or downloads them.
pub(super) fn download() -> anyhow::Result<()> {
    let description = description();
    if setup::is_fetched(&libraries(), &description) {
        return Ok(());
    }
    say("downloading Kafka, about 45 MB");
    if libraries().exists() {
        fs::remove_dir_all(libraries())?;
    }
    let mut maven = Command::new("mvn");
    maven
        .args(["--batch-mode", "--quiet", "-Dstyle.color=never", "--file"])
        .arg(&description);
    maven.args([COPY, "-DincludeScope=runtime"]);
    maven.arg(format!("-DoutputDirectory={}", libraries().display()));
    run_command(&mut maven)?;
    setup::set_fetched(&libraries(), &description)
}

/// Formats the storage and writes the configuration.
pub(super) fn prepare(place: &Place) -> anyhow::Result<()> {
    fs::create_dir_all(&place.data)?;
    let logs = place.data.join("logs");
    let (port, controller) = (place.port, place.port + 1);
    // By default, brokers give the first members of a group three seconds to gather. Half of that is enough to show who does not
    // wait for them.
    fs::write(
        configuration(place),
        format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=1500
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
log.cleaner.dedupe.buffer.size=2097152
",
            logs.display()
        ),
    )?;
    let mut format = java();
    format.args(["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER]);
    format.arg("--config").arg(configuration(place));
    run_command(format.stdout(Stdio::null()))
}

/// Returns the command that runs it.
pub(super) fn server(place: &Place) -> anyhow::Result<Command> {
    let mut command = java();
    command.arg("kafka.Kafka").arg(configuration(place));
    Ok(command)
}

/// Checks whether it is ready, by asking for the versions of the protocol that it supports.
pub(super) fn answers(port: u16) -> bool {
    // Length, then request 18 in version 0, correlation id 1, and no client id.
    let question = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    // Length, the correlation id again, and no error.
    ports::exchange(port, &question).is_some_and(|answer| answer.get(4..10) == Some(&[0, 0, 0, 1, 0, 0]))
}

/// Returns a Java command with Kafka's libraries and little memory: the tests' data is a few megabytes.
fn java() -> Command {
    let mut command = Command::new("java");
    command.args([
        "-Xms64m",
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-Dlog4j2.level=WARN",
        "-cp",
    ]);
    command.arg(libraries().join("*"));
    command
}

fn java_version() -> Option<u32> {
    // `openjdk 17.0.15 2025-04-15`
    let text = output(Command::new("java").arg("--version"))?;
    let version = text.split_whitespace().nth(1)?;
    version.split('.').next()?.parse().ok()
}

/// Returns the Debian package to install: the default one, unless it is known to be too old.
fn java_package() -> &'static str {
    let policy = output(
        Command::new("apt-cache")
            .args(["policy", DEFAULT_JAVA_PACKAGE])
            .env("LC_ALL", "C"),
    );
    match policy.as_deref().and_then(candidate) {
        Some(version) if version < JAVA => JAVA_PACKAGE,
        _ => DEFAULT_JAVA_PACKAGE,
    }
}

/// Reads the version of Java in what `apt-cache policy` says: `Candidate: 2:1.17-74` is 17.
fn candidate(policy: &str) -> Option<u32> {
    let (_, version) = policy.split_once("Candidate: 2:1.")?;
    let end = version.find(|letter: char| !letter.is_ascii_digit())?;
    version[..end].parse().ok()
}

fn configuration(place: &Place) -> PathBuf {
    place.data.join("server.properties")
}

pub(super) fn libraries() -> PathBuf {
    folder().join("kafka")
}

/// Returns the file that names the libraries and their version.
fn description() -> PathBuf {
    root().join("xtask/kafka/pom.xml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_java_is_read_from_the_default_package() {
        for (policy, version) in [
            (
                "default-jre-headless:\n  Installed: (none)\n  Candidate: 2:1.17-74\n  Version table:",
                Some(17),
            ),
            ("  Candidate: 2:1.21-75+exp1\n", Some(21)),
            ("  Candidate: 2:1.11-72build2\n", Some(11)),
            ("  Candidate: (none)\n", None),
            ("", None),
        ] {
            assert_eq!(candidate(policy), version, "{policy}");
        }
    }
}
