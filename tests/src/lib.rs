//! Starts the real binary on a folder of its own, and talks to it as users do.
//!
//! `cargo xtask test` builds the binary and the plugins and passes their paths in `SENDFLOWR_BIN` and `SENDFLOWR_PLUGINS`.

pub mod flow;
pub mod letter;
mod role;
pub mod scaled;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use event::{Hasher, Identifier, IdentifierKind, identity::scoped_esp_user_id};
use rustix::process::Pid;
use serde_json::Value;
use synth::delivery::{Account, Delivery};
use tempfile::TempDir;

pub use rustix::process::Signal;
pub use store::testing::{PATIENCE, eventually};

pub use self::role::Role;

/// The log filter of tested processes: everything of the product's own.
const LOG: &str = "debug,sqlx=info,hyper=info,h2=info";

/// The binary under test.
pub fn binary() -> PathBuf {
    from_environment("SENDFLOWR_BIN")
}

/// Runs a command of the binary in a folder and waits for its end.
pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(binary())
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("the binary runs")
}

/// Runs a command of the binary in a folder, with this on its standard input.
pub fn run_with_input(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(binary())
        .current_dir(folder)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut pipe = child.stdin.take().expect("it was asked for");
    pipe.write_all(input).expect("it is read");
    drop(pipe);
    child.wait_with_output().expect("it ends")
}

/// Returns everything that a command printed.
pub fn told(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}{err}")
}

/// The folder of the compiled plugins.
pub fn plugins() -> PathBuf {
    from_environment("SENDFLOWR_PLUGINS")
}

/// The folder of the guests in other languages.
pub fn guests() -> PathBuf {
    from_environment("SENDFLOWR_GUESTS")
}

fn from_environment(name: &str) -> PathBuf {
    let value =
        std::env::var_os(name).unwrap_or_else(|| panic!("`{name}` is not set: run `cargo xtask test`"));
    let path = PathBuf::from(value);
    assert!(
        path.exists(),
        "`{}`, which `{name}` names, does not exist",
        path.display()
    );
    path
}

/// Returns the identifier of the person whom a made-up delivery to the provider's default account names: the one of the address,
/// or that of the contact for the provider that names only contacts.
pub fn named(account: &Account, email: &str, delivery: &Delivery) -> Identifier {
    if account.provider() != "hubspot" {
        return Hasher::new().email_identifier(email).expect("an address");
    }
    let elements: Value = serde_json::from_slice(&delivery.body).expect("the delivery is JSON");
    let contact = elements[0]["objectId"].to_string();
    Identifier {
        kind: IdentifierKind::EspUserId,
        value: scoped_esp_user_id("hubspot", "default", &contact),
    }
}

/// The repository's top folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// A running `sendflowr up` with a folder of its own for data, configuration, plugins and logs.
pub struct System {
    folder: TempDir,
    child: Option<Child>,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    /// Address at which the host listens.
    pub host: SocketAddr,
    /// Address at which the inference service listens.
    pub inference: SocketAddr,
    /// The client for requests.
    pub http: reqwest::Client,
}

impl System {
    /// Starts with this configuration (TOML) and the named plugins, or all plugins if none is named.
    pub async fn start(configuration: &str, slugs: &[&str]) -> Self {
        Self::start_with(configuration, slugs, &[]).await
    }

    /// Like [`start`](Self::start), with more arguments for `sendflowr up`.
    pub async fn start_with(configuration: &str, slugs: &[&str], arguments: &[&str]) -> Self {
        Self::start_logging(configuration, slugs, arguments, LOG).await
    }

    /// Starts with this configuration and all plugins in a process with these additional environment variables.
    pub async fn start_in(environment: Vec<(&'static str, String)>, configuration: &str) -> Self {
        Self::start_all(environment, configuration, &[], &[], LOG).await
    }

    /// Like [`start_with`](Self::start_with), with another log filter: tests read the log, benchmarks must not pay for it.
    pub async fn start_logging(configuration: &str, slugs: &[&str], arguments: &[&str], log: &str) -> Self {
        Self::start_all(Vec::new(), configuration, slugs, arguments, log).await
    }

    async fn start_all(
        environment: Vec<(&'static str, String)>,
        configuration: &str,
        slugs: &[&str],
        arguments: &[&str],
        log: &str,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(folder.path().join("sendflowr.toml"), configuration)
            .expect("the configuration can be written");
        fs::create_dir(folder.path().join("plugins")).expect("a folder can be made");
        for entry in fs::read_dir(plugins()).expect("the plugins can be listed") {
            let path = entry.expect("the plugins can be listed").path();
            let slug = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let is_wanted = slugs.is_empty() || slugs.contains(&slug.as_str());
            if is_wanted && path.extension().is_some_and(|extension| extension == "wasm") {
                fs::copy(
                    &path,
                    folder
                        .path()
                        .join("plugins")
                        .join(path.file_name().unwrap_or_default()),
                )
                .expect("a plugin can be copied");
            }
        }
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut system = Self {
            folder,
            child: None,
            arguments: arguments
                .iter()
                .copied()
                .chain(["--log", log])
                .map(str::to_owned)
                .collect(),
            environment,
            host: nowhere,
            inference: nowhere,
            http: client(),
        };
        system.launch().await;
        system
    }

    /// Starts (again) on the same folder and waits until the system is ready.
    pub async fn launch(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("a log can be written");
        let mut child = Command::new(binary())
            .current_dir(self.folder.path())
            .args([
                "up",
                "--host-listen",
                "127.0.0.1:0",
                "--inference-listen",
                "127.0.0.1:0",
            ])
            .args(["--plugins", "plugins", "--data", "data"])
            .args(&self.arguments)
            .envs(self.environment.clone())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let stdout = child.stdout.take().expect("the output was asked for");
        self.child = Some(child);
        let out_file = self.folder.path().join("stdout.txt");
        let mut printed = String::new();
        let keep = move |line: &str| {
            printed.push_str(line);
            printed.push('\n');
            // A test that reads this file expects all that was printed.
            let _ = fs::write(&out_file, &printed);
        };
        let Some((host, inference)) = announced(stdout, addresses, keep).await else {
            panic!("sendflowr did not become ready; its log:\n{}", self.log());
        };
        self.host = host;
        self.inference = inference;
    }

    /// Kills the process at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the process can be killed");
            child.wait().expect("the process has ended");
        }
    }

    /// Sends the process this signal.
    pub fn signal(&self, signal: Signal) {
        send(self.child.as_ref().expect("it runs"), signal);
    }

    /// Asks the process to stop and waits for it; returns whether it exited successfully.
    pub async fn stop(&mut self) -> bool {
        let Some(mut child) = self.child.take() else {
            return true;
        };
        match asked_to_stop(&mut child).await {
            Some(status) => status.success(),
            None => panic!("the process does not stop; its log:\n{}", self.log()),
        }
    }

    /// The folder of everything that the process wrote.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Returns what the process logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Returns what the process has printed since its last start.
    pub fn printed(&self) -> String {
        fs::read_to_string(self.folder.path().join("stdout.txt")).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log.txt")
    }

    /// Posts a delivery to `/webhooks/{path}`.
    pub async fn webhook(
        &self,
        path: &str,
        headers: &[(String, String)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let mut request = self
            .http
            .post(format!("http://{}/webhooks/{path}", self.host))
            .body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        Answer::of(request).await
    }

    /// Posts JSON to the inference service and returns its answer.
    pub async fn ask(&self, path: &str, body: &Value) -> Answer {
        Answer::of(
            self.http
                .post(format!("http://{}{path}", self.inference))
                .json(body),
        )
        .await
    }

    /// Sends a GET request to the inference service.
    pub async fn look(&self, path: &str) -> Answer {
        Answer::of(self.http.get(format!("http://{}{path}", self.inference))).await
    }

    /// Sends a GET request to the host.
    pub async fn host_get(&self, path: &str) -> Answer {
        Answer::of(self.http.get(format!("http://{}{path}", self.host))).await
    }

    /// Opens the stores of the running (or stopped) system beside it.
    pub async fn stores(&self) -> store::testing::Embedded {
        store::testing::open_embedded(&self.data())
            .await
            .expect("the data folder opens")
    }

    /// Returns the resident memory of the process, in kB.
    pub fn resident_kb(&self) -> u64 {
        self.child.as_ref().map(resident_kb).unwrap_or_default()
    }

    /// Counts the distinct stored events.
    pub async fn stored_events(&self) -> u64 {
        let stores = self.stores().await;
        store::testing::stored_events(stores.events.as_ref())
            .await
            .expect("the events can be counted")
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            // The folder is removed with the test, so the log that explains the failure is printed.
            let log = self.log();
            let from = log.len().saturating_sub(8_000);
            let tail = log
                .char_indices()
                .find(|(at, _)| *at >= from)
                .map_or("", |(at, _)| &log[at..]);
            #[expect(clippy::print_stdout, reason = "the test harness shows it beside the failure")]
            {
                println!("the end of the log:\n{tail}");
            }
        }
    }
}

/// Returns the resident memory of a process, in kB.
fn resident_kb(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// Returns the processor time, in seconds, that this process has used.
pub fn own_cpu_seconds() -> f64 {
    cpu_seconds(std::process::id())
}

/// Returns the processor time, in seconds, that a process and those that it has started have used.
fn cpu_seconds(pid: u32) -> f64 {
    /// Linux counts times in hundredths of a second.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let numbers = stat
        .rsplit_once(") ")
        .map(|(_, numbers)| numbers)
        .unwrap_or_default();
    // Its own time, and that of children that have ended.
    let ticks = numbers.split_whitespace().skip(11).take(4);
    let ticks: f64 = ticks.map(|ticks| ticks.parse().unwrap_or(0.0)).sum();
    ticks / TICKS_PER_SECOND + children(pid).into_iter().map(cpu_seconds).sum::<f64>()
}

/// Memory, in kB, of a process and of those that it has started; what they share counts once.
fn shared_memory_kb(pid: u32) -> u64 {
    let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let own = memory.lines().find_map(|line| line.strip_prefix("Pss:"));
    let own: u64 = own
        .and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default();
    own + children(pid).into_iter().map(shared_memory_kb).sum::<u64>()
}

/// The processes that a process has started and that still run.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let children =
        threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    let children = children.flat_map(|list| {
        let numbers = list.split_whitespace().filter_map(|number| number.parse().ok());
        numbers.collect::<Vec<u32>>()
    });
    children.collect()
}

/// A status and a JSON body.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body, or `null` if it is not JSON.
    pub body: Value,
    /// Body as text.
    pub text: String,
    /// The `Retry-After` header, if there is one.
    pub retry_after: Option<String>,
}

impl Answer {
    /// Sends the request and reads the response.
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("the service answers");
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let status = response.status().as_u16();
        let text = response.text().await.expect("the answer is readable");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self {
            status,
            body,
            text,
            retry_after,
        }
    }

    /// Returns the stable code of an error.
    pub fn error_code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

/// Returns what `read` finds in the first line in which it finds something; `None` if there is no such line within [`PATIENCE`].
/// Keeps reading after that, so that the pipe never fills up, and passes every line to `see`.
async fn announced<T: Send + 'static>(
    stdout: ChildStdout,
    read: fn(&str) -> Option<T>,
    mut see: impl FnMut(&str) + Send + 'static,
) -> Option<T> {
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut ready = Some(ready);
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let (Some(found), true) = (read(&line), ready.is_some()) {
                // Nobody is waiting any more if the test has ended.
                let _ = ready.take().map(|ready| ready.send(found));
            }
            see(&line);
        }
    });
    tokio::time::timeout(PATIENCE, is_ready).await.ok()?.ok()
}

fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let rest = line.strip_prefix("sendflowr is ready: webhooks http://")?;
    let (host, inference) = rest.split_once("  timing http://")?;
    Some((host.parse().ok()?, inference.parse().ok()?))
}

/// Sends a process a signal.
pub fn send(child: &Child, signal: Signal) {
    rustix::process::kill_process(Pid::from_child(child), signal).expect("the process takes the signal");
}

/// Asks a process to stop and waits for its end; returns its exit status, or `None` if it did not end within [`PATIENCE`].
pub async fn asked_to_stop(child: &mut Child) -> Option<ExitStatus> {
    send(child, Signal::TERM);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            return Some(status);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// Creates a client for loopback. The product's TLS provider is the only one that is compiled in.
pub fn client() -> reqwest::Client {
    // Fails only if another test of this process has set it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(30))
        .build()
        .expect("a client can be made")
}
