//! The servers as processes of this machine.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use super::{
    Service, Stop, clickhouse, kafka, logs, ports, postgres, redis,
    state::{Engine, Running, State},
};
use crate::process::{output, say, succeeds};

/// How long a server may take until it answers. The slowest, Kafka, needs 4 s on two idle cores; a busy machine takes ten times
/// as long.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a server may take to stop. Kafka writes its open files first.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// How often a process or a port is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where a server works.
pub(super) struct Place {
    /// Its data; its path stands in the server's command line and in no other's.
    pub(super) data: PathBuf,
    /// Its port. The next one is free too, for those that need two.
    pub(super) port: u16,
}

/// Installs what is missing, prepares the data and starts the servers, all at once.
pub(super) fn up(wanted: &[Service]) -> anyhow::Result<State> {
    for service in wanted {
        match service {
            Service::Kafka => kafka::install(),
            Service::ClickHouse => clickhouse::install(),
            Service::Postgres => postgres::install(),
            Service::Redis => redis::install(),
        }
        .with_context(|| format!("cannot get `{}`", service.name()))?;
    }
    let folder = std::env::temp_dir().join(format!("sendflowr-services-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    let ports = ports::free(wanted.len())?;
    let mut state = State {
        engine: Engine::Native,
        folder,
        running: Vec::new(),
    };
    for (service, port) in wanted.iter().zip(ports) {
        state.running.push(Running {
            service: *service,
            port,
            pid: None,
            address: service.address(port),
        });
    }
    // Before the first starts: a state without processes is better than processes without a state.
    state.write()?;
    let result = start_all(&mut state);
    if result.is_err() {
        super::down()?;
    }
    result.map(|()| state)
}

fn start_all(state: &mut State) -> anyhow::Result<()> {
    let start = Instant::now();
    for running in state.running.clone() {
        let place = place(state, &running);
        match running.service {
            Service::Kafka => kafka::prepare(&place),
            Service::ClickHouse => clickhouse::prepare(&place),
            Service::Postgres => postgres::prepare(&place),
            Service::Redis => redis::prepare(&place),
        }
        .with_context(|| format!("cannot prepare `{}`", running.service.name()))?;
        let pid = spawn(running.service, &place)?;
        state.set_pid(running.service, pid)?;
    }
    for running in &state.running {
        await_ready(state, running)?;
        say(&format!(
            "{:11} {:45} after {:.1} s",
            running.service.name(),
            running.address,
            start.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

/// Starts one again.
pub(super) fn start(mut state: State, service: Service) -> anyhow::Result<()> {
    let running = state.of(service).cloned().context("an unknown service")?;
    if !is_alive(&state, &running) {
        let pid = spawn(service, &place(&state, &running))?;
        state.set_pid(service, pid)?;
    }
    let running = state.of(service).context("an unknown service")?;
    await_ready(&state, running)
}

/// Stops one; it keeps its port and its data.
pub(super) fn stop(state: &State, service: Service, how: Stop) -> anyhow::Result<()> {
    let running = state.of(service).context("an unknown service")?;
    end(state, running, how)
}

/// Stops all.
pub(super) fn down(state: &State) -> anyhow::Result<()> {
    for running in &state.running {
        end(state, running, Stop::Gracefully)?;
    }
    Ok(())
}

/// Whether its process runs. A process of another program that got the same number since does not count: it does not work on
/// the server's data.
pub(super) fn is_alive(state: &State, running: &Running) -> bool {
    let Some(pid) = running.pid else { return false };
    works_on(pid, &place(state, running).data)
}

/// Whether there is such a process, and its command line names the folder.
fn works_on(pid: u32, data: &Path) -> bool {
    command_line(pid).is_some_and(|line| line.contains(&*data.to_string_lossy()))
}

/// Whether a server of this kind answers on the port, and is ready for work.
pub(super) fn answers(service: Service, port: u16) -> bool {
    match service {
        Service::Kafka => kafka::answers(port),
        Service::ClickHouse => clickhouse::answers(port),
        Service::Postgres => postgres::answers(port),
        Service::Redis => redis::answers(port),
    }
}

/// Keeps signals that the terminal sends to this program, such as Ctrl-C, from the command.
#[cfg(unix)]
pub(super) fn detach(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

#[cfg(not(unix))]
pub(super) fn detach(_: &mut Command) {}

fn place(state: &State, running: &Running) -> Place {
    Place {
        data: state.folder.join(running.service.name()),
        port: running.port,
    }
}

fn log_file(service: Service) -> PathBuf {
    logs().join(format!("{}.log", service.name()))
}

fn spawn(service: Service, place: &Place) -> anyhow::Result<u32> {
    let mut command = match service {
        Service::Kafka => kafka::server(place),
        Service::ClickHouse => clickhouse::server(place),
        Service::Postgres => postgres::server(place),
        Service::Redis => redis::server(place),
    }?;
    let path = log_file(service);
    let log = fs::create_dir_all(logs())
        .and_then(|()| File::options().create(true).append(true).open(&path))
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    let errors = log.try_clone()?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    detach(&mut command);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{}`", service.name()))?;
    // The system goes on with this program a moment before the new one has the command line by which it is known.
    while !works_on(child.id(), &place.data) && child.try_wait()?.is_none() {
        sleep(LOOK_EVERY);
    }
    // It outlives this program; whoever reads the state ends it.
    Ok(child.id())
}

fn await_ready(state: &State, running: &Running) -> anyhow::Result<()> {
    let until = Instant::now() + READY_WITHIN;
    let name = running.service.name();
    while !answers(running.service, running.port) {
        if !is_alive(state, running) {
            bail!(
                "`{name}` ended while it started:\n{}",
                last_lines(&log_file(running.service))
            );
        }
        if Instant::now() > until {
            let lines = last_lines(&log_file(running.service));
            bail!(
                "`{name}` does not answer within {} s:\n{lines}",
                READY_WITHIN.as_secs()
            );
        }
        sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Ends a server's process and waits until it is gone.
fn end(state: &State, running: &Running, how: Stop) -> anyhow::Result<()> {
    let Some(pid) = running.pid.filter(|_| is_alive(state, running)) else {
        return Ok(());
    };
    let signal = match (running.service, how) {
        // The others of PostgreSQL's signals wait for its clients, or leave its children behind.
        (Service::Postgres, Stop::Gracefully) => "INT",
        (Service::Postgres, Stop::Kill) => "QUIT",
        (_, Stop::Gracefully) => "TERM",
        (_, Stop::Kill) => "KILL",
    };
    send(signal, pid);
    let until = Instant::now() + STOPPED_WITHIN;
    while is_alive(state, running) {
        if Instant::now() > until {
            say(&format!(
                "{} does not stop, and is killed",
                running.service.name()
            ));
            send("KILL", pid);
            sleep(LOOK_EVERY);
            break;
        }
        sleep(LOOK_EVERY);
    }
    Ok(())
}

fn send(signal: &str, pid: u32) {
    // The shell's own `kill`: a slim machine has no other. A process that has just ended is as good as one that was signalled.
    succeeds(Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]));
}

/// The command line of a process, `None` when there is no such process.
fn command_line(pid: u32) -> Option<String> {
    if Path::new("/proc/self").exists() {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    output(Command::new("ps").args(["-p", &pid.to_string(), "-o", "command="]))
}

/// The end of a log: what a server says when it cannot start.
fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
