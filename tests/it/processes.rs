//! The three roles as processes of their own, on one folder and the embedded engines.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use integration_tests::{Answer, Role, Signal, System, asked_to_stop, binary, client, eventually, run, told};
use serde_json::json;

use crate::{POSTMARK, postmark_answer, postmark_click, postmark_headers, report_click};

/// Reports that Ann has clicked in this many messages, one an hour, starting with message `first`.
async fn clicks(http: &reqwest::Client, host: &Role, first: usize, count: usize) {
    for number in first..first + count {
        let at = format!("2026-01-05T{number:02}:00:00Z");
        report_click(http, host, &format!("message-{number}"), &at).await;
    }
}

/// Returns how many of Ann's clicks decisions take into account.
async fn known(http: &reqwest::Client, inference: &Role) -> f64 {
    let question = json!({"email": "ann@example.com", "now": "2026-01-06T00:00:00Z"});
    let url = format!("{}/timing/decide", inference.url);
    let answer = Answer::of(http.post(url).json(&question)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["evidence"]["n"].as_f64().unwrap_or_default()
}

/// Reports five clicks, and waits until decisions take some of them into account.
async fn first_clicks(http: &reqwest::Client, host: &Role, inference: &Role) {
    clicks(http, host, 0, 5).await;
    eventually("the clicks show in decisions", async || {
        known(http, inference).await > 0.0
    })
    .await;
}

#[tokio::test]
async fn three_processes_share_a_folder_and_each_may_restart_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    fs::write(folder.join("sendflowr.toml"), POSTMARK).expect("the configuration can be written");
    let http = client();
    // All at the same time, on a folder that none of them has used before.
    let (host, consumer, inference) = Role::launch_all(folder).await;
    first_clicks(&http, &host, &inference).await;

    host.kill();
    consumer.kill();
    let host = Role::launch(folder, "host").await;
    clicks(&http, &host, 5, 5).await;
    let few = known(&http, &inference).await;
    let _consumer = Role::launch(folder, "consumer").await;
    eventually("the later clicks show too", async || {
        known(&http, &inference).await > few
    })
    .await;

    inference.kill();
    let inference = Role::launch(folder, "inference").await;
    assert!(known(&http, &inference).await > few);
}

#[tokio::test]
async fn roles_start_without_redis_and_tell_which_engines_they_use() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let redis = free_address();
    let port = redis.port();
    let configuration =
        format!("{POSTMARK}\n[redis]\nhost = '127.0.0.1'\nport = {port}\npassword = 's3cret'\n");
    fs::write(folder.join("sendflowr.toml"), configuration).expect("the configuration can be written");
    let http = client();
    let (host, consumer, inference) = Role::launch_all(folder).await;
    first_clicks(&http, &host, &inference).await;
    for role in [&consumer, &inference] {
        let ready = Answer::of(http.get(format!("{}/ready", role.url))).await;
        assert_eq!(
            (ready.status, &ready.body["status"]),
            (200, &json!("degraded")),
            "{}",
            ready.text
        );
    }
    let log = |role| fs::read_to_string(folder.join(format!("{role}.log"))).expect("it has logged");
    for role in ["consumer", "inference"] {
        let log = log(role);
        assert!(log.contains(&format!("profiles: redis at {redis}")), "{log}");
        assert!(log.contains("events: embedded in data"), "{log}");
        let told = log
            .lines()
            .find(|line| line.contains("ERROR"))
            .unwrap_or_default();
        assert!(told.contains("`redis.host`"), "{log}");
        assert!(!log.contains("s3cret"), "{log}");
    }
    let log = log("host");
    assert!(
        log.contains("bus: embedded in data") && !log.contains("redis"),
        "{log}"
    );
}

#[test]
fn a_server_without_an_address_is_refused_by_every_role() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    fs::write(
        folder.join("sendflowr.toml"),
        "[clickhouse]\npassword = 's3cret'\n",
    )
    .expect("the configuration can be written");
    for (command, listen) in [
        ("up", "--host-listen"),
        ("host", "--listen"),
        ("consumer", "--listen"),
        ("inference", "--listen"),
    ] {
        // An address that nobody has: a role that continued would end there.
        let ended = run(folder, &[command, listen, "192.0.2.1:1"]);
        let text = told(&ended);
        assert!(!ended.status.success(), "{command}: {text}");
        assert!(text.contains("`clickhouse.host` is not"), "{command}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert!(!folder.join("data").exists(), "no embedded store took its place");
}

/// Returns an address at which nothing listens.
fn free_address() -> SocketAddr {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    nobody.local_addr().expect("it is bound")
}

/// A process that is killed when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the binary in a folder without plugins, under these limits of the shell. Its log is in `log.txt`.
fn spawn(folder: &Path, limits: &str, arguments: &[&str]) -> Running {
    fs::create_dir_all(folder.join("plugins")).expect("a folder can be made");
    let child = Command::new("sh")
        .current_dir(folder)
        .args(["-c", &format!("{limits} exec \"$@\""), "sh"])
        .arg(binary())
        .args(arguments)
        .args(["--data", "data", "--plugins", "plugins"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(folder.join("log.txt")).expect("a log can be written"))
        .spawn();
    Running(child.expect("the binary starts"))
}

#[tokio::test]
async fn what_still_starts_stops_when_it_is_asked_to() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    // Accepts connections and never answers: roles wait 10 s for it, and then fail.
    let broker = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = broker.local_addr().expect("it is bound");
    let configuration = format!("[kafka]\nbootstrap_servers = '{address}'\n");
    fs::write(folder.join("sendflowr.toml"), configuration).expect("the configuration can be written");
    for (command, listen) in [
        ("up", "--host-listen"),
        ("host", "--listen"),
        ("consumer", "--listen"),
    ] {
        let mut child = spawn(folder, "", &[command, listen, "127.0.0.1:0"]);
        let log = || fs::read_to_string(folder.join("log.txt")).unwrap_or_default();
        eventually("the engines are about to be opened", async || {
            log().contains("bus: kafka at")
        })
        .await;
        let began = Instant::now();
        let ended = asked_to_stop(&mut child.0).await;
        assert_eq!(
            ended.and_then(|status| status.code()),
            Some(0),
            "{command}: {}",
            log()
        );
        assert!(began.elapsed() < Duration::from_secs(5), "{command}: {}", log());
    }
}

#[tokio::test]
async fn a_process_that_may_open_too_few_files_does_not_start() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let mut host = spawn(folder, "ulimit -n 100 &&", &["host", "--listen", "127.0.0.1:0"]);
    let ended = tokio::task::spawn_blocking(move || host.0.wait()).await;
    let status = ended.expect("it does not panic").expect("it ends");
    assert_eq!(status.code(), Some(2));
    let log = fs::read_to_string(folder.join("log.txt")).expect("it has logged");
    assert!(log.contains("may open only 100 files and needs 128"), "{log}");
}

/// What a laptop does that sleeps. Another process consumed the person's events meanwhile, which this one's memory lacks.
#[tokio::test]
async fn profiles_in_memory_are_not_used_once_another_process_has_consumed() {
    let configuration = format!("{POSTMARK}[store]\nlease_ms = 1000\n");
    let system = System::start(&configuration, &["postmark"]).await;
    let click = async |number: usize| {
        let at = format!("2026-01-05T{number:02}:00:00Z");
        let click = postmark_click("ann@example.com", &format!("message-{number}"), &at);
        let answer = system.webhook("postmark", &postmark_headers(), click).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    let question = json!({"email": "ann@example.com", "now": "2026-01-06T00:00:00Z"});
    let evidence = async || {
        let answer = system.ask("/timing/decide", &question).await;
        let evidence = &answer.body["evidence"];
        (
            evidence["n"].as_f64().unwrap_or_default(),
            evidence["profile_source"] == "stored",
        )
    };
    click(0).await;
    eventually("the click is in the profile", async || evidence().await.1).await;
    let (first, _) = evidence().await;

    let _other = Role::launch(system.folder(), "consumer").await;
    system.signal(Signal::STOP);
    // Longer than the lease.
    tokio::time::sleep(Duration::from_secs(3)).await;
    system.signal(Signal::CONT);
    click(1).await;
    eventually("the click that the other consumed counts", async || {
        evidence().await == (first + 1.0, false)
    })
    .await;
}

/// What is written to a file that was deleted is found by nobody.
#[tokio::test]
async fn nothing_is_acknowledged_once_the_data_folder_is_gone() {
    let system = System::start(POSTMARK, &["postmark"]).await;
    assert_eq!(postmark_answer(&system).await, 200);
    let aside = system.folder().join("aside");
    fs::rename(system.data(), &aside).expect("it can be moved");
    assert_eq!(postmark_answer(&system).await, 503);
    let ready = system.host_get("/ready").await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    assert!(
        system.log().contains("was moved, deleted or replaced"),
        "{}",
        system.log()
    );

    fs::rename(&aside, system.data()).expect("it can be moved back");
    eventually("deliveries are taken again", async || {
        postmark_answer(&system).await == 200
    })
    .await;
}

#[tokio::test]
async fn idle_connections_do_not_take_the_files_that_the_process_needs() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    let address = free_address();
    let limits = "ulimit -n 128 &&";
    let mut host = spawn(folder, limits, &["host", "--listen", &address.to_string()]);
    let http = client();
    let get = async |path: &str| {
        let answer = http.get(format!("http://{address}{path}")).send().await;
        answer.map(|answer| answer.status().as_u16()).ok()
    };
    eventually("the host is ready", async || get("/ready").await == Some(200)).await;
    let folder_of_files = format!("/proc/{}/fd", host.0.id());
    let open_files = || fs::read_dir(&folder_of_files).expect("the process runs").count();
    let before = open_files();
    // More than there are file descriptors for, but no more than the host holds and the system queues
    // together.
    let mut idle: Vec<TcpStream> = (0..110)
        .map(|_| TcpStream::connect(address).expect("the system completes the connection"))
        .collect();
    eventually("the host takes what it can hold", async || {
        open_files() >= before + 15
    })
    .await;
    // An accepted connection is served, and there are file descriptors left for that.
    idle[0]
        .write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is open");
    let mut answer = [0; 12];
    idle[0].read_exact(&mut answer).expect("it is answered");
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert!(open_files() < 100, "{} of 128", open_files());
    drop(idle);
    eventually("the host answers again", async || {
        get("/health").await == Some(200)
    })
    .await;
    assert!(host.0.try_wait().expect("it can be waited for").is_none());
    let log = fs::read_to_string(folder.join("log.txt")).expect("it has logged");
    assert!(
        log.contains("connections are held at once instead of 4096"),
        "{log}"
    );
    assert!(!log.contains("cannot be accepted"), "{log}");
    assert_eq!(
        asked_to_stop(&mut host.0).await.and_then(|status| status.code()),
        Some(0)
    );
}
