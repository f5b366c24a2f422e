//! Runs the servers as processes of this machine.

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
use crate::{
    process::{output, say, succeeds},
    setup,
};

/// How long a server may take until it responds. The slowest, Kafka, needs 4 s on two idle cores; a busy machine takes ten times
/// as long.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a server may take to stop. Kafka writes its open files first.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// How often a process or a port is checked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The folder and port of a server.
pub(super) struct Place {
    /// Its data. The path appears in the server's command line and in no other process's.
    pub(super) data: PathBuf,
    /// Its port. The next port is free too, for servers that need two.
    pub(super) port: u16,
}

/// Finds or installs what the servers consist of.
pub(super) fn get(wanted: &[Service]) -> anyhow::Result<()> {
    // All packages at once: whoever has to install them by hand need not try again for each, and knows before anything is
    // downloaded.
    let missing: Vec<&str> = wanted
        .iter()
        .flat_map(|service| match service {
            Service::Kafka => kafka::missing(),
            Service::ClickHouse => clickhouse::missing(),
            Service::Postgres => postgres::missing(),
            Service::Redis => redis::missing(),
        })
        .collect();
    if !missing.is_empty() {
        setup::install(&missing).context("programs that the servers need are missing")?;
    }
    for service in wanted {
        match service {
            Service::Kafka => kafka::download(),
            Service::ClickHouse => clickhouse::download(),
            // Their packages are all that they need.
            Service::Postgres | Service::Redis => Ok(()),
        }
        .with_context(|| format!("cannot get `{}`", service.name()))?;
    }
    Ok(())
}

/// Installs what is missing, prepares the data and starts the servers, all at once.
pub(super) fn up(wanted: &[Service]) -> anyhow::Result<State> {
    get(wanted)?;
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
    // Written before the first server starts: a state without processes is better than processes without a state.
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
            "{:11} {:45} ready after {:.1} s",
            running.service.name(),
            running.address,
            start.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

/// Starts a server again.
pub(super) fn start(mut state: State, service: Service) -> anyhow::Result<()> {
    let running = state.of(service).cloned().context("an unknown service")?;
    if running.pid.is_none() {
        bail!(
            "`{}` was never started: the start of the servers was interrupted, or is not over yet",
            service.name()
        );
    }
    if !is_alive(&state, &running) {
        let pid = spawn(service, &place(&state, &running))?;
        state.set_pid(service, pid)?;
    }
    let running = state.of(service).context("an unknown service")?;
    await_ready(&state, running)
}

/// Stops a server; it keeps its port and its data.
pub(super) fn stop(state: &State, service: Service, how: Stop) -> anyhow::Result<()> {
    let running = state.of(service).context("an unknown service")?;
    end(state, running, how);
    Ok(())
}

/// Stops all servers.
pub(super) fn down(state: &State) {
    for running in &state.running {
        end(state, running, Stop::Gracefully);
    }
}

/// Checks whether a server's process is running. A process of another program that has got the same id since does not count: it
/// does not work on the server's data.
pub(super) fn is_alive(state: &State, running: &Running) -> bool {
    let Some(pid) = running.pid else { return false };
    works_on(pid, &place(state, running).data)
}

/// Checks whether there is a process with this id whose command line names the folder.
fn works_on(pid: u32, data: &Path) -> bool {
    command_line(pid).is_some_and(|line| names(&line, data))
}

fn names(command_line: &str, data: &Path) -> bool {
    command_line.contains(&*data.to_string_lossy())
}

/// Checks whether a server of this kind responds on the port and is ready for work.
pub(super) fn answers(service: Service, port: u16) -> bool {
    match service {
        Service::Kafka => kafka::answers(port),
        Service::ClickHouse => clickhouse::answers(port),
        Service::Postgres => postgres::answers(port),
        Service::Redis => redis::answers(port),
    }
}

/// Shields the command from signals that the terminal sends to this program, such as Ctrl-C.
pub(super) fn detach(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

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
    // For a moment after the fork, the new process still has this program's command line rather than the one by which it is
    // recognised.
    let until = Instant::now() + READY_WITHIN;
    while !works_on(child.id(), &place.data) && child.try_wait()?.is_none() {
        if Instant::now() > until {
            // Nothing would find it again.
            child.kill()?;
            child.wait()?;
            bail!(
                "cannot see the command line of `{}`, by which its process is recognised",
                service.name()
            );
        }
        sleep(LOOK_EVERY);
    }
    // The server outlives this program; a later command that reads the state stops it.
    Ok(child.id())
}

fn await_ready(state: &State, running: &Running) -> anyhow::Result<()> {
    let until = Instant::now() + READY_WITHIN;
    let name = running.service.name();
    while !answers(running.service, running.port) {
        if !is_alive(state, running) {
            bail!(
                "`{name}` exited during startup:\n{}",
                last_lines(&log_file(running.service))
            );
        }
        if Instant::now() > until {
            let lines = last_lines(&log_file(running.service));
            bail!(
                "`{name}` did not respond within {} s:\n{lines}",
                READY_WITHIN.as_secs()
            );
        }
        sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Stops a server's process and waits until it is gone.
fn end(state: &State, running: &Running, how: Stop) {
    let signal = match (running.service, how) {
        // PostgreSQL's other signals wait for its clients, or leave its child processes behind.
        (Service::Postgres, Stop::Gracefully) => "INT",
        (Service::Postgres, Stop::Kill) => "QUIT",
        (_, Stop::Gracefully) => "TERM",
        (_, Stop::Kill) => "KILL",
    };
    let until = Instant::now() + STOPPED_WITHIN;
    let mut signalled = None;
    while let Some(pid) = process(state, running) {
        if Instant::now() > until {
            say(&format!("{} does not stop; killing it", running.service.name()));
            send("KILL", pid);
            sleep(LOOK_EVERY);
            break;
        }
        if signalled != Some(pid) {
            send(signal, pid);
            signalled = Some(pid);
        }
        sleep(LOOK_EVERY);
    }
}

/// Returns the process of a server, also if this program was interrupted before it could record it: then it is whichever works on
/// the server's data, perhaps still to prepare them.
fn process(state: &State, running: &Running) -> Option<u32> {
    if is_alive(state, running) {
        return running.pid;
    }
    let data = place(state, running).data;
    let found = processes().into_iter().find(|(_, line)| names(line, &data));
    found.map(|(pid, _)| pid)
}

fn send(signal: &str, pid: u32) {
    // The shell's own `kill`: a slim machine has no other. It does not matter if the process has just ended.
    succeeds(Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]));
}

/// Returns the command line of a process; `None` if there is no such process.
fn command_line(pid: u32) -> Option<String> {
    if Path::new("/proc/self").exists() {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    // `-ww`: not cut at the width of the terminal.
    output(Command::new("ps").args(["-ww", "-p", &pid.to_string(), "-o", "command="]))
}

/// Returns the ids and command lines of all processes.
fn processes() -> Vec<(u32, String)> {
    if Path::new("/proc/self").exists() {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        return entries
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                Some((pid, command_line(pid)?))
            })
            .collect();
    }
    let text = output(Command::new("ps").args(["-A", "-ww", "-o", "pid=,command="])).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (pid, line) = line.trim_start().split_once(' ')?;
            Some((pid.parse().ok()?, line.to_owned()))
        })
        .collect()
}

/// Returns the end of a log: what a server says when it cannot start.
fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_server_that_was_not_recorded_is_stopped() {
        let running = Running {
            service: Service::Redis,
            port: 1,
            pid: None,
            address: String::new(),
        };
        let state = State {
            engine: Engine::Native,
            folder: std::env::temp_dir().join(format!("sendflowr-not-recorded-{}", std::process::id())),
            running: vec![running.clone()],
        };
        // Works, as far as anybody can see, on the server's data.
        let mut server = Command::new("sh")
            .args(["-c", "read line"])
            .arg(place(&state, &running).data)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // It has its command line a moment after it was started.
        while !works_on(server.id(), &place(&state, &running).data) {
            assert_eq!(server.try_wait().unwrap(), None);
        }
        end(&state, &running, Stop::Kill);
        assert_eq!(server.wait().unwrap().signal(), Some(9));
    }
}
