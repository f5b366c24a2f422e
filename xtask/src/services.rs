//! `cargo xtask services`: real servers (Kafka, ClickHouse, PostgreSQL, Redis) for the tests and for trying things out.
//!
//! If a Docker engine responds, the servers are those of `compose.yml`; otherwise they come from package registries and run as
//! processes of this machine. A server whose address is already in the environment is used as it is and never touched.
//!
//! The servers are recorded in `target/services/state` before they are started, so that `down` can stop them from anywhere, even
//! after a crash. They use free ports, their data is in a temporary folder that `down` removes, and their logs stay in
//! `target/services/logs`.

mod clickhouse;
mod docker;
mod kafka;
mod native;
mod ports;
mod postgres;
mod redis;
mod state;

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, anyhow, bail};
use state::{Engine, State};

use crate::process::{Workspace, in_ci, say, succeeds};

/// Chooses where the servers come from, `docker` or `native`, to try one of them where the other works too.
const CHOICE: &str = "SENDFLOWR_SERVICES";

/// Names the program with which a test stops and starts servers: `$SENDFLOWR_TEST_SERVICES services stop kafka`.
const CONTROL: &str = "SENDFLOWR_TEST_SERVICES";

/// Names the folder of Kafka's libraries, for the test that starts its own broker.
pub(crate) const KAFKA_LIBRARIES: &str = "SENDFLOWR_TEST_KAFKA_LIBRARIES";

/// A server that the scale-out engines use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// The bus.
    Kafka,
    /// The events.
    ClickHouse,
    /// The identity graph.
    Postgres,
    /// The profiles.
    Redis,
}

/// User, password and database of each server that has them: a test's data needs no protection, but a wrong password must be
/// refused.
const NAME: &str = "sendflowr";

impl Service {
    const ALL: [Self; 4] = [Self::Kafka, Self::ClickHouse, Self::Postgres, Self::Redis];

    /// Returns its name in `compose.yml`, on the command line and in the state.
    fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::ClickHouse => "clickhouse",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        }
    }

    /// Returns the variable in which the tests find its address.
    fn variable(self) -> &'static str {
        match self {
            Self::Kafka => "SENDFLOWR_TEST_KAFKA",
            Self::ClickHouse => "SENDFLOWR_TEST_CLICKHOUSE",
            Self::Postgres => "SENDFLOWR_TEST_POSTGRES",
            Self::Redis => "SENDFLOWR_TEST_REDIS",
        }
    }

    /// Returns the address in the form that the tests expect.
    fn address(self, port: u16) -> String {
        match self {
            Self::Kafka => format!("127.0.0.1:{port}"),
            Self::ClickHouse => format!("http://{NAME}:{NAME}@127.0.0.1:{port}"),
            Self::Postgres => format!("postgres://{NAME}:{NAME}@127.0.0.1:{port}/{NAME}"),
            Self::Redis => format!("redis://:{NAME}@127.0.0.1:{port}"),
        }
    }

    fn named(name: &str) -> anyhow::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|service| service.name() == name)
            .with_context(|| {
                format!("there is no service `{name}`; there are kafka, clickhouse, postgres, redis")
            })
    }

    /// Checks whether the environment has the address of a server that somebody else runs.
    fn is_foreign(self) -> bool {
        std::env::var(self.variable()).is_ok_and(|address| !address.is_empty())
    }
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The server may finish and save its data.
    Gracefully,
    /// The server ends as in a crash.
    Kill,
}

/// `cargo xtask services …`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["up"] => {
            let state = up()?;
            say("\nFor the tests that need servers:");
            for running in &state.running {
                say(&format!(
                    "export {}={}",
                    running.service.variable(),
                    running.address
                ));
            }
            say(&format!("export {CONTROL}={}", this_program().display()));
        }
        ["down"] => down()?,
        ["status"] => status()?,
        ["stop", name] => stop(Service::named(name)?, Stop::Gracefully)?,
        ["stop", name, "--kill"] | ["stop", "--kill", name] => stop(Service::named(name)?, Stop::Kill)?,
        ["start", name] => start(Service::named(name)?)?,
        ["guard"] => guard()?,
        _ => bail!("`services` takes `up`, `down`, `status`, `stop NAME [--kill]` and `start NAME`"),
    }
    Ok(())
}

/// Servers that run for as long as this value lives, however this program ends.
pub(crate) struct Servers {
    addresses: Vec<(&'static str, String)>,
    guard: Option<Child>,
}

impl Servers {
    /// Starts the servers that are not running yet. Servers that `services up` started before are used, and keep running.
    ///
    /// # Errors
    /// Returns an error if a server is not available; nothing is left behind in that case.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let is_up_already = started()?.is_some();
        let mut servers = Self {
            addresses: Vec::new(),
            guard: None,
        };
        if !is_up_already {
            servers.guard = Some(spawn_guard()?);
        }
        let state = up()?;
        for running in state.running {
            servers
                .addresses
                .push((running.service.variable(), running.address));
        }
        servers
            .addresses
            .push((CONTROL, this_program().display().to_string()));
        Ok(servers)
    }

    /// Returns the environment in which tests find the servers.
    pub(crate) fn environment(&self) -> &[(&'static str, String)] {
        &self.addresses
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            // The end of its input tells the guard to stop the servers. It is not an error if the guard has already died:
            // `services down` still works.
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

/// Finds or installs Redis, wherever the servers come from.
pub(crate) fn redis_server() -> anyhow::Result<()> {
    native::get(&[Service::Redis])
}

/// Finds or downloads Kafka's libraries, and Java, wherever the servers come from.
pub(crate) fn kafka_libraries() -> anyhow::Result<PathBuf> {
    native::get(&[Service::Kafka])?;
    Ok(kafka::libraries())
}

/// Starts the program that stops the servers once this one has ended for any reason: the end of this process closes the pipe
/// between them.
fn spawn_guard() -> anyhow::Result<Child> {
    let mut command = Command::new(this_program());
    command.args(["services", "guard"]).stdin(Stdio::piped());
    native::detach(&mut command);
    command.spawn().context("cannot start the servers' guard process")
}

fn guard() -> anyhow::Result<()> {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
        .context("cannot wait for the end of the input")?;
    down()
}

/// Returns the path of this program. Not `current_exe`: building the workspace replaces the file, and the running one then has no
/// name.
fn this_program() -> PathBuf {
    Workspace::Main.program("xtask")
}

/// Starts every service that is not run by somebody else and is not running yet.
fn up() -> anyhow::Result<State> {
    let wanted: Vec<Service> = Service::ALL
        .into_iter()
        .filter(|service| !service.is_foreign())
        .collect();
    for service in Service::ALL {
        if service.is_foreign() {
            say(&format!(
                "{}: using the server that `{}` names",
                service.name(),
                service.variable()
            ));
        }
    }
    if wanted.is_empty() {
        return Ok(State::empty());
    }
    if let Some(state) = started()? {
        return complete(state, &wanted);
    }
    match engine()? {
        Engine::Docker => docker::up(&wanted),
        Engine::Native => native::up(&wanted),
    }
}

/// Returns the servers that were started here. Those whose folder is gone, as after a restart of the machine that empties its folder
/// for temporary files, are forgotten: without their data they cannot be started again.
fn started() -> anyhow::Result<Option<State>> {
    let Some(state) = State::read()? else {
        return Ok(None);
    };
    if state.folder.exists() {
        return Ok(Some(state));
    }
    say(&format!(
        "the data of the servers that were started before, in `{}`, is gone: forgetting them",
        state.folder.display()
    ));
    down()?;
    Ok(None)
}

/// Starts the servers of a known set that have stopped.
fn complete(state: State, wanted: &[Service]) -> anyhow::Result<State> {
    for service in wanted {
        let Some(running) = state.of(*service) else {
            bail!(
                "`{}` is not among the running servers: run `cargo xtask services down`, then `up` again",
                service.name()
            );
        };
        if !is_up(&state, running) {
            start(*service).map_err(|error| {
                anyhow!(
                    "{error:#}\n`cargo xtask services down` forgets the servers; `up` then starts new ones"
                )
            })?;
        }
    }
    say("the servers are already running; `cargo xtask services down` stops them");
    State::read()?.context("the servers were stopped in the meantime")
}

fn is_up(state: &State, running: &state::Running) -> bool {
    match state.engine {
        Engine::Docker => native::answers(running.service, running.port),
        Engine::Native => native::is_alive(state, running) && native::answers(running.service, running.port),
    }
}

/// Stops all servers and removes their state.
fn down() -> anyhow::Result<()> {
    let Some(state) = State::read()? else {
        say("no servers are running");
        return Ok(());
    };
    match state.engine {
        Engine::Docker => docker::down(&state)?,
        Engine::Native => native::down(&state),
    }
    // The data. The folder was created by `up`, inside the machine's folder for temporary files.
    if let Err(error) = fs::remove_dir_all(&state.folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        say(&format!("cannot remove `{}`: {error}", state.folder.display()));
    }
    State::remove()?;
    say(&format!(
        "the servers are stopped; their logs are in {}",
        logs().display()
    ));
    Ok(())
}

fn status() -> anyhow::Result<()> {
    let Some(state) = State::read()? else {
        say("no servers are running; `cargo xtask services up` starts them");
        return Ok(());
    };
    for running in &state.running {
        let is = if is_up(&state, running) { "up" } else { "down" };
        let pid = running.pid.map(|pid| format!("  pid {pid}")).unwrap_or_default();
        say(&format!(
            "{:11} {is:5} {}{pid}",
            running.service.name(),
            running.address
        ));
    }
    say(&format!("{}, logs in {}", state.engine.name(), logs().display()));
    Ok(())
}

/// Stops a server, which keeps its port and its data.
fn stop(service: Service, how: Stop) -> anyhow::Result<()> {
    let state = known(service)?;
    match state.engine {
        Engine::Docker => docker::stop(&state, service, how)?,
        Engine::Native => native::stop(&state, service, how)?,
    }
    say(&format!("{} is stopped", service.name()));
    Ok(())
}

/// Starts a stopped server, with the same port and data, and waits until it responds.
fn start(service: Service) -> anyhow::Result<()> {
    let state = known(service)?;
    match state.engine {
        Engine::Docker => docker::start(&state, service)?,
        Engine::Native => native::start(state, service)?,
    }
    say(&format!("{} is up", service.name()));
    Ok(())
}

fn known(service: Service) -> anyhow::Result<State> {
    let state = State::read()?.context("no servers are running; `cargo xtask services up` starts them")?;
    if state.of(service).is_none() {
        bail!(
            "`{}` is not one of the servers that were started here",
            service.name()
        );
    }
    Ok(state)
}

/// Returns Docker if its engine responds and has Compose, otherwise processes.
fn engine() -> anyhow::Result<Engine> {
    match std::env::var(CHOICE).ok().as_deref() {
        Some("docker") => return Ok(Engine::Docker),
        Some("native") => return Ok(Engine::Native),
        None | Some("") => {}
        Some(other) => bail!("`{CHOICE}` is `{other}`; it may be `docker` or `native`"),
    }
    let has_docker = succeeds(Command::new("docker").args(["compose", "version"]))
        && succeeds(Command::new("docker").arg("info"));
    Ok(if has_docker {
        Engine::Docker
    } else {
        Engine::Native
    })
}

/// Returns the folder of the state, the logs and the downloads.
fn folder() -> PathBuf {
    Workspace::Main.target_folder().join("services")
}

/// Returns the folder of the servers' logs.
fn logs() -> PathBuf {
    folder().join("logs")
}

/// Checks whether tests may continue without servers that are not available, with a message. Never in CI.
pub(crate) fn may_be_missing() -> bool {
    !in_ci()
}
