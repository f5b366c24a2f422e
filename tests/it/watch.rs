//! `plugin test --watch`, as its user sees it.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use integration_tests::{Signal, binary, eventually, plugins, repository, send};

const CASE: &str = "plugins/postmark/cases/click.json";

/// The watching process, which ends with the test.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        // Fails if it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the output contains this text, and returns what has been printed so far.
async fn printed(out: &Path, after: usize, wanted: &str) -> String {
    let read = || fs::read_to_string(out).unwrap_or_default();
    eventually(wanted, || async { read()[after..].contains(wanted) }).await;
    read()
}

#[tokio::test]
async fn cases_run_again_when_a_case_or_the_plugin_changes() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("cases")).expect("a folder can be made");
    let case = fs::read_to_string(repository().join(CASE)).expect("the case is readable");
    fs::write(at("cases/one.json"), &case).expect("a case can be written");
    let out = fs::File::create(at("out.txt")).expect("a file can be made");
    let child = Command::new(binary())
        .current_dir(folder.path())
        .args(["plugin", "test", "postmark.wasm", "--cases", "cases", "--watch"])
        .stdin(Stdio::null())
        .stdout(out)
        .spawn()
        .expect("the binary starts");
    let mut watching = Watching(child);
    let out = at("out.txt");

    // It waits for a plugin that is not built yet.
    let text = printed(&out, 0, "Watching").await;
    assert!(text.starts_with("error: `postmark.wasm`: "), "{text}");
    let wasm = plugins().join("postmark.wasm");
    fs::copy(&wasm, at("postmark.wasm")).expect("the plugin can be copied");
    let text = printed(&out, text.len(), "Watching 2 files; Ctrl-C ends it.\n").await;
    assert!(text.contains("\n1 passed, 0 failed\n"), "{text}");

    let broken = case.replace("\"accepted\"", "\"unauthorized\"");
    assert_ne!(broken, case);
    fs::write(at("cases/one.json"), broken).expect("a case can be written");
    let text = printed(&out, text.len(), "\n0 passed, 1 failed\n").await;
    // A second case, and the first case restored.
    fs::write(at("cases/two.json"), &case).expect("a case can be written");
    fs::write(at("cases/one.json"), &case).expect("a case can be written");
    let text = printed(&out, text.len(), "\n2 passed, 0 failed\n").await;

    fs::write(at("postmark.wasm"), "not a component").expect("the plugin can be overwritten");
    let text = printed(&out, text.len(), "error: `postmark.wasm`: ").await;
    fs::copy(&wasm, at("postmark.wasm")).expect("the plugin can be copied");
    printed(&out, text.len(), "\n2 passed, 0 failed\n").await;

    send(&watching.0, Signal::INT);
    eventually("the process ends", || {
        let ended = watching.0.try_wait().expect("the process can be waited for");
        async move { ended.is_some_and(|status| status.success()) }
    })
    .await;
}
