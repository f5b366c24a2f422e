//! Runs the servers of `compose.yml`, in a project of their own.

use std::{
    fs::{self, File},
    process::Command,
};

use anyhow::Context;

use super::{
    NAME, Service, Stop, logs, ports,
    state::{Engine, Running, State},
};
use crate::process::{root, run as run_command};

/// Starts the servers and waits until they are healthy.
pub(super) fn up(wanted: &[Service]) -> anyhow::Result<State> {
    let state = State {
        engine: Engine::Docker,
        folder: std::env::temp_dir().join(format!("sendflowr-services-{}", std::process::id())),
        running: wanted
            .iter()
            .zip(ports::free(wanted.len())?)
            .map(|(service, port)| Running {
                service: *service,
                port,
                pid: None,
                address: service.address(port),
            })
            .collect(),
    };
    let secrets = state.folder.join("secrets");
    fs::create_dir_all(&secrets).with_context(|| format!("cannot create `{}`", secrets.display()))?;
    for name in [
        "clickhouse_password",
        "postgres_password",
        "redis_password",
        "api_token",
        "metrics_token",
        "seal_key",
    ] {
        fs::write(secrets.join(name), NAME)?;
    }
    state.write()?;
    let mut command = compose(&state, &["up", "--detach", "--wait"]);
    let result = run_command(command.args(wanted.iter().map(|service| service.name())));
    if result.is_err() {
        super::down()?;
    }
    result.map(|()| state)
}

/// Stops and removes the servers and their data; their logs are kept.
pub(super) fn down(state: &State) -> anyhow::Result<()> {
    fs::create_dir_all(logs())?;
    let log = File::create(logs().join("docker.log"))?;
    run_command(compose(state, &["logs", "--no-color"]).stdout(log))?;
    run_command(&mut compose(state, &["down", "--volumes"]))
}

/// Stops a server; it keeps its port and its data.
pub(super) fn stop(state: &State, service: Service, how: Stop) -> anyhow::Result<()> {
    let verb = match how {
        Stop::Gracefully => "stop",
        Stop::Kill => "kill",
    };
    run_command(&mut compose(state, &[verb, service.name()]))
}

/// Starts a stopped server, and waits until it is healthy.
pub(super) fn start(state: &State, service: Service) -> anyhow::Result<()> {
    run_command(&mut compose(state, &["up", "--detach", "--wait", service.name()]))
}

/// Creates a `docker compose` command with the variables that `compose.yml` reads.
fn compose(state: &State, arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(["compose", "--project-name", &project(state)]);
    command.args(["--file", "compose.yml"]);
    command.args(arguments).current_dir(root());
    // What is set here takes precedence over a developer's `.env`, which may open the servers to the network. Its limits of memory
    // and processors count: they are those that the machine needs.
    command.env("SENDFLOWR_SERVERS_ADDRESS", "127.0.0.1");
    command.env("SENDFLOWR_SECRETS", state.folder.join("secrets"));
    for running in &state.running {
        let (port, second) = port_variables(running.service);
        command.env(port, running.port.to_string());
        if let Some(second) = second {
            command.env(second, (running.port + 1).to_string());
        }
    }
    command
}

/// Returns the name of the project, that of the folder: it keeps the servers apart from those that `docker compose up` runs in the
/// repository, and from those of another checkout.
fn project(state: &State) -> String {
    let name = state.folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Returns the variables of `compose.yml` that set a server's ports on this machine: the one that the tests use, and a second one
/// if the server publishes two.
fn port_variables(service: Service) -> (&'static str, Option<&'static str>) {
    match service {
        Service::Kafka => ("KAFKA_HOST_PORT", Some("KAFKA_INTERNAL_HOST_PORT")),
        Service::ClickHouse => ("CLICKHOUSE_HOST_PORT", Some("CLICKHOUSE_NATIVE_HOST_PORT")),
        Service::Postgres => ("POSTGRES_HOST_PORT", None),
        Service::Redis => ("REDIS_HOST_PORT", None),
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, path::PathBuf};

    use super::*;

    #[test]
    fn each_start_has_a_project_of_its_own_that_only_this_machine_reaches() {
        let state = State {
            engine: Engine::Docker,
            folder: PathBuf::from("/tmp/sendflowr-services-7"),
            running: Vec::new(),
        };
        let command = compose(&state, &["up"]);
        let arguments: Vec<&OsStr> = command.get_args().collect();
        assert_eq!(
            arguments,
            [
                "compose",
                "--project-name",
                "sendflowr-services-7",
                "--file",
                "compose.yml",
                "up"
            ]
        );
        let address = command
            .get_envs()
            .find(|(name, _)| *name == "SENDFLOWR_SERVERS_ADDRESS");
        assert_eq!(
            address.and_then(|(_, value)| value),
            Some(OsStr::new("127.0.0.1"))
        );
    }
}
