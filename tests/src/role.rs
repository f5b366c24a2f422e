//! A role that runs as a process of its own.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{announced, binary, plugins};

/// A running role.
pub struct Role {
    /// Its name on the command line.
    pub name: &'static str,
    child: Child,
    /// The URL at which it is served: `http://127.0.0.1:40123`.
    pub url: String,
}

impl Role {
    /// Starts a role in this folder, with the folder's configuration and data, and waits until it reports
    /// that it is ready.
    pub async fn launch(folder: &Path, name: &'static str) -> Self {
        Self::launch_with(folder, name, &[]).await
    }

    /// Like [`Role::launch`], with these environment variables.
    pub(crate) async fn launch_with(folder: &Path, name: &'static str, variables: &[(&str, &str)]) -> Self {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join(format!("{name}.log")))
            .unwrap();
        let mut child = Command::new(binary())
            .current_dir(folder)
            .args([name, "--listen", "127.0.0.1:0", "--data", "data", "--plugins"])
            .arg(plugins())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let url = |line: &str| {
            let (_, url) = line.rsplit_once(' ')?;
            line.contains("is ready").then(|| url.to_owned())
        };
        let Some(url) = announced(stdout, url, |_| {}).await else {
            let log = fs::read_to_string(folder.join(format!("{name}.log"))).unwrap();
            panic!("the {name} did not become ready; its log:\n{log}");
        };
        Self { name, child, url }
    }

    /// Starts host, consumer and inference service at the same time.
    pub async fn launch_all(folder: &Path) -> (Self, Self, Self) {
        tokio::join!(
            Self::launch(folder, "host"),
            Self::launch(folder, "consumer"),
            Self::launch(folder, "inference"),
        )
    }

    /// Kills the process as the kernel does when memory is short: there is no signal to handle, and it cannot
    /// finish anything.
    pub fn kill(mut self) {
        self.end();
    }

    /// Does the same by reference.
    pub(crate) fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Returns its resident memory, in kB.
    pub fn resident_kb(&self) -> u64 {
        crate::resident_kb(&self.child)
    }

    /// Returns the id of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Returns the processor time, in seconds, that it has used.
    pub fn cpu_seconds(&self) -> f64 {
        crate::cpu_seconds(self.child.id())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Fails if it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
