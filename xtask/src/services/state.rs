//! The state of the servers, in a small text file, where the next command finds it, even after a crash.

use std::{
    fmt::Write,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use super::{Service, folder};

/// What the servers run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// `docker compose`.
    Docker,
    /// Processes of this machine.
    Native,
}

impl Engine {
    /// Returns its name in the state.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Native => "native",
        }
    }
}

/// The servers that were started.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// What the servers run in.
    pub(super) engine: Engine,
    /// The folder of their data.
    pub(super) folder: PathBuf,
    /// One entry for each server.
    pub(super) running: Vec<Running>,
}

/// A server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Running {
    /// Which service it is.
    pub(super) service: Service,
    /// The port on 127.0.0.1 where it responds.
    pub(super) port: u16,
    /// The id of its process, if it is one of this machine and has been started.
    pub(super) pid: Option<u32>,
    /// The address to which the tests connect.
    pub(super) address: String,
}

impl State {
    /// Creates the state in which nothing runs, because nothing had to be started.
    pub(super) fn empty() -> Self {
        Self {
            engine: Engine::Native,
            folder: PathBuf::new(),
            running: Vec::new(),
        }
    }

    /// Returns the entry of a service.
    pub(super) fn of(&self, service: Service) -> Option<&Running> {
        self.running.iter().find(|running| running.service == service)
    }

    /// Records the process of a service.
    pub(super) fn set_pid(&mut self, service: Service, pid: u32) -> anyhow::Result<()> {
        for running in &mut self.running {
            if running.service == service {
                running.pid = Some(pid);
            }
        }
        self.write()
    }

    /// Reads the state that was written last; `None` if nothing runs.
    pub(super) fn read() -> anyhow::Result<Option<Self>> {
        let path = path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        Self::parse(&text)
            .map(Some)
            .with_context(|| format!("cannot parse `{}`", path.display()))
    }

    /// Replaces the file atomically.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let path = path();
        let beside = path.with_extension("new");
        fs::create_dir_all(folder())
            .and_then(|()| fs::write(&beside, self.to_text()))
            .and_then(|()| fs::rename(&beside, &path))
            .with_context(|| format!("cannot write `{}`", path.display()))
    }

    /// Removes the file.
    pub(super) fn remove() -> anyhow::Result<()> {
        let path = path();
        fs::remove_file(&path).with_context(|| format!("cannot remove `{}`", path.display()))
    }

    fn to_text(&self) -> String {
        let mut text = format!("{}\t{}\n", self.engine.name(), self.folder.display());
        for running in &self.running {
            let Running {
                service,
                port,
                pid,
                address,
            } = running;
            let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}\t{port}\t{pid}\t{address}", service.name());
        }
        text
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines();
        let (engine, folder) = lines
            .next()
            .and_then(|line| line.split_once('\t'))
            .context("the first line has no engine and folder")?;
        let engine = match engine {
            "docker" => Engine::Docker,
            "native" => Engine::Native,
            other => bail!("there is no engine `{other}`"),
        };
        let mut running = Vec::new();
        for line in lines {
            let fields: Vec<&str> = line.split('\t').collect();
            let [name, port, pid, address] = fields[..] else {
                bail!("`{line}` has {} fields instead of 4", fields.len());
            };
            running.push(Running {
                service: Service::named(name)?,
                port: port.parse().context("a port is not a number")?,
                pid: match pid {
                    "-" => None,
                    pid => Some(pid.parse().context("a process id is not a number")?),
                },
                address: address.to_owned(),
            });
        }
        Ok(Self {
            engine,
            folder: Path::new(folder).to_owned(),
            running,
        })
    }
}

fn path() -> PathBuf {
    folder().join("state")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_as_it_was_written() {
        let entry = |service, pid| Running {
            service,
            port: 20_000,
            pid,
            address: "127.0.0.1:20000".to_owned(),
        };
        let state = State {
            engine: Engine::Native,
            folder: PathBuf::from("/tmp/a folder"),
            running: vec![entry(Service::Kafka, Some(7)), entry(Service::Redis, None)],
        };
        assert_eq!(State::parse(&state.to_text()).unwrap(), state);
    }

    #[test]
    fn a_damaged_state_is_an_error() {
        for text in [
            "",
            "native",
            "vm\t/tmp",
            "native\t/tmp\nkafka\t1",
            "native\t/tmp\nkafka\tx\t-\ta",
        ] {
            assert!(State::parse(text).is_err(), "{text:?}");
        }
    }
}
