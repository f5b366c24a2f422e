//! Runs Kafka from its published Java libraries, as broker and controller in one (KRaft mode).

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::Context;

use super::{folder, native::Place, ports};
use crate::{
    process::{output, root, run as run_command, say},
    setup,
};

/// The oldest Java that the broker runs on.
const JAVA: u32 = 17;

/// The id of the cluster. Any id will do, because all data folders are new.
const CLUSTER: &str = "c2VuZGZsb3dyLXRlc3RzIQ";

/// Finds or installs Java, and downloads the libraries once.
pub(super) fn install() -> anyhow::Result<()> {
    if java_version().is_none_or(|version| version < JAVA) {
        setup::install(&["openjdk-17-jre-headless"])?;
    }
    let description = description();
    let wanted = fs::read_to_string(&description)
        .with_context(|| format!("cannot read `{}`", description.display()))?;
    // Written last, so that an interrupted download, or one of another version, is repeated.
    let done = libraries().join("done");
    if fs::read_to_string(&done).is_ok_and(|present| present == wanted) {
        return Ok(());
    }
    if !setup::has_program("mvn") {
        setup::install(&["maven"])?;
    }
    say("downloading Kafka, about 45 MB");
    if libraries().exists() {
        fs::remove_dir_all(libraries())?;
    }
    let mut maven = Command::new("mvn");
    maven
        .args(["--batch-mode", "--quiet", "-Dstyle.color=never", "--file"])
        .arg(&description);
    maven.args(["dependency:copy-dependencies", "-DincludeScope=runtime"]);
    maven.arg(format!("-DoutputDirectory={}", libraries().display()));
    run_command(&mut maven)?;
    Ok(fs::write(done, wanted)?)
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
