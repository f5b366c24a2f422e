//! Runs every command of docs/write-a-plugin.md, in its order, and compares it with the output that the page shows.
//!
//! Blocks marked `sh` are run; one marked `sh fails` must fail, and one marked `sh background` belongs to another terminal, where
//! it runs to the end of the page. A block marked `text` shows lines of what the `sh` block before it prints, in order; `…`
//! stands for anything.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use integration_tests::{Signal, binary, eventually, repository};
use rustix::process::{Pid, kill_process_group};
use tempfile::TempDir;

const PAGE: &str = "docs/write-a-plugin.md";

/// The address of the page's host, which is replaced with that of the test's own.
const HOST: &str = "127.0.0.1:5215";

/// The folders of the plugins in JavaScript and Python, which have more CPU time than the default: a virtual machine that stalls
/// for a tenth of a second counts that as theirs, and they run long enough to be hit.
const INTERPRETED: [&str; 2] = ["acme-js", "acme-py"];

/// A fenced block: its info string and its content.
struct Block {
    kind: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(kind), None) => {
                open = Some(Block {
                    kind: kind.to_owned(),
                    text: String::new(),
                });
            }
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    blocks
}

/// A terminal, which stays in the folder that the last command changed to.
struct Terminal {
    root: TempDir,
    folder: PathBuf,
    /// Processes of other terminals, and the files that contain their output.
    others: Vec<(Child, PathBuf)>,
    host: Option<String>,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        for (child, _) in &mut self.others {
            // Each is a group of its own: what the shell has started ends with it.
            let _may_have_ended = kill_process_group(Pid::from_child(child), Signal::TERM);
            let _ = child.wait();
        }
    }
}

impl Terminal {
    fn command(&self, script: &str) -> Command {
        let script = match &self.host {
            Some(host) => script.replace(HOST, host),
            None => script.to_owned(),
        };
        let folder = binary().parent().map(Path::to_owned).unwrap_or_default();
        let mut path = std::env::var("PATH").unwrap_or_default();
        // The Rust that `cargo xtask test` has found for the page's commands, if it is not rustup's.
        if let Ok(rust) = std::env::var("SENDFLOWR_TEST_RUST") {
            path = format!("{rust}:{path}");
        }
        let mut command = Command::new("setsid");
        command
            .args(["sh", "-e", "-c", &script])
            .current_dir(&self.folder)
            .env("PATH", format!("{}:{path}", folder.display()))
            // The page builds in the plugin's own folder; the host listens on a free port.
            .env_remove("CARGO_TARGET_DIR")
            .env("SENDFLOWR_HOST__LISTEN", "127.0.0.1:0")
            .env("SENDFLOWR_INFERENCE__LISTEN", "127.0.0.1:0")
            .env("SENDFLOWR_LOG", "warn")
            .stdin(Stdio::null());
        let is_interpreted = |text: &str| INTERPRETED.iter().any(|folder| text.contains(folder));
        if is_interpreted(&script) || is_interpreted(&self.folder.to_string_lossy()) {
            // As much as for the case files in these languages.
            command.env("SENDFLOWR_HOST__PLUGINS__LIMITS__CPU_TIME_MS", "2000");
        }
        command
    }

    /// Runs the block to its end and returns what it printed.
    fn run(&mut self, block: &Block, fails: bool) -> String {
        let left = self.root.path().join("left-in");
        let script = format!("{}pwd > '{}'\n", block.text, left.display());
        let output = self.command(&script).output().expect("a shell runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            output.status.success(),
            !fails,
            "{}\n{printed}\n{}",
            block.text,
            String::from_utf8_lossy(&output.stderr)
        );
        if !fails {
            let folder = fs::read_to_string(&left).expect("the block says where it ended");
            self.folder = PathBuf::from(folder.trim_end());
        }
        printed
    }

    /// Starts the block in the background; waits for the output that it must show, or for the host's address.
    async fn start(&mut self, block: &Block, shown: Option<&Block>) {
        let out = self
            .root
            .path()
            .join(format!("terminal-{}.txt", self.others.len()));
        let child = self
            .command(&block.text)
            .stdout(fs::File::create(&out).expect("a file can be made"))
            .spawn()
            .expect("a shell runs");
        self.others.push((child, out.clone()));
        let printed = || {
            let mut text = String::new();
            let mut file = fs::File::open(&out).expect("the output is there");
            file.read_to_string(&mut text).map(|_| text).unwrap_or_default()
        };
        let what = format!("what `{}` shows", block.text.trim_end());
        if let Some(shown) = shown {
            eventually(&what, || async { missing(&shown.text, &printed()).is_none() }).await;
        }
        if block.text.contains("sendflowr up") {
            let address = || {
                let text = printed();
                let (_, rest) = text.split_once("sendflowr is ready: webhooks http://")?;
                Some(rest.split_whitespace().next()?.to_owned())
            };
            eventually("the host is ready", || async { address().is_some() }).await;
            self.host = address();
        }
    }
}

/// Returns the first shown line that was not printed after those before it.
fn missing<'a>(shown: &'a str, printed: &str) -> Option<&'a str> {
    let mut lines = printed.lines();
    shown
        .lines()
        .filter(|line| !line.trim().is_empty() && line.trim() != "…")
        .find(|line| !lines.any(|printed| matches(line.trim_end(), printed.trim_end())))
}

/// Checks whether a line is as shown, where `…` stands for anything.
fn matches(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[tokio::test]
#[ignore = "builds plugins with cargo, npm and pip"]
async fn every_command_of_the_tutorial_works() {
    let page = fs::read_to_string(repository().join(PAGE)).expect("the page is readable");
    let blocks = blocks(&page);
    let root = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = root.path().join("work");
    fs::create_dir(&folder).expect("a folder can be made");
    let mut terminal = Terminal {
        root,
        folder,
        others: Vec::new(),
        host: None,
    };
    let mut ran = 0;
    for (index, block) in blocks.iter().enumerate() {
        let shown = blocks.get(index + 1).filter(|next| next.kind == "text");
        match block.kind.as_str() {
            "sh" | "sh fails" => {
                let printed = terminal.run(block, block.kind == "sh fails");
                if let Some(shown) = shown {
                    let missing = missing(&shown.text, &printed);
                    assert_eq!(missing, None, "{}\n{printed}", block.text);
                }
                ran += 1;
            }
            "sh background" => {
                terminal.start(block, shown).await;
                ran += 1;
            }
            "text" | "rust" | "toml" => {}
            other => panic!("{PAGE} has a block marked `{other}`, which nothing tries"),
        }
    }
    assert!(ran >= 15, "only {ran} blocks with commands");
}

#[test]
fn shown_lines_are_found_in_order() {
    let printed = "one 12 µs\ntwo\nthree";
    assert_eq!(missing("one … µs\n…\nthree\n", printed), None);
    assert_eq!(missing("two\none…\n", printed), Some("one…"));
    assert_eq!(missing("tw\n", printed), Some("tw"));
    assert!(matches("a…c…e", "abcde") && !matches("a…c…f", "abcde"));
}
