//! Plugins pushed to and pulled from the registry of the distribution project, as Debian packages it.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use integration_tests::{eventually, plugins, run, told};
use tempfile::TempDir;

/// A registry of its own for each test.
struct Registry {
    child: Child,
    address: String,
    _folder: TempDir,
}

impl Registry {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let configuration = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            folder.path().join("data").display()
        );
        let file = folder.path().join("config.yml");
        fs::write(&file, configuration).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`docker-registry` is there: `cargo xtask test` installs it");
        eventually("the registry answers", || async {
            let answer = integration_tests::client()
                .get(format!("http://{address}/v2/"))
                .send()
                .await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        Self {
            child,
            address,
            _folder: folder,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; the test has noticed that then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a registry: `cargo xtask test` installs it"]
async fn a_real_registry_keeps_a_plugin_and_its_signature() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (file, signature) = (folder.join("postmark.wasm"), folder.join("postmark.wasm.minisig"));
    let bytes = fs::read(plugins().join("postmark.wasm")).unwrap();
    fs::write(&file, &bytes).unwrap();
    fs::write(&signature, "whoever asks for signatures checks it").unwrap();
    let reference = format!("oci://{}/acme/postmark:1.0", registry.address);
    let works = |arguments: &[&str]| {
        let output = run(
            folder,
            &[&["--log", "warn", "--plugins", "plugins", "plugin"], arguments].concat(),
        );
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
        told(&output)
    };
    let pushed = works(&["push", "postmark.wasm", &reference]);
    assert_eq!(
        works(&["push", "postmark.wasm", &reference]),
        pushed,
        "the same file is the same artifact"
    );
    let by_digest = pushed.split('`').nth(1).unwrap();
    for source in [reference.as_str(), by_digest] {
        works(&["pull", source, "--pin"]);
        let pulled = |name: &str| fs::read(folder.join("plugins").join(name)).unwrap();
        assert_eq!(pulled("postmark.wasm"), bytes);
        assert_eq!(pulled("postmark.wasm.minisig"), fs::read(&signature).unwrap());
        let lock = String::from_utf8(pulled("plugins.lock")).unwrap();
        assert!(lock.contains(&format!("source = \"{by_digest}\"")), "{lock}");
    }
    let missing = format!("oci://{}/acme/postmark:2.0", registry.address);
    let output = run(folder, &["plugin", "pull", &missing]);
    assert!(
        !output.status.success() && told(&output).contains("there is no such artifact in the registry"),
        "{}",
        told(&output)
    );
}
