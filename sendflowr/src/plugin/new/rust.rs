//! The scaffold in Rust: a crate, and the SDK as of when this program was built.

use std::path::Path;

use anyhow::{Context, bail};

use super::{CONTRACT, Filling, Template, of_plugins, write};

/// The files that are the plugin.
pub(super) const TEMPLATES: [Template; 4] = [
    ("Cargo.toml", include_str!("rust/Cargo.toml.template")),
    ("README.md", include_str!("rust/README.md.template")),
    ("src/lib.rs", include_str!("rust/lib.rs.template")),
    ("src/tests.rs", include_str!("rust/tests.rs.template")),
];

/// The SDK.
const SDK: [Template; 29] = of_plugins![
    "sdk/Cargo.toml",
    "sdk/README.md",
    "sdk/src/allocator.rs",
    "sdk/src/batch.rs",
    "sdk/src/bindings.rs",
    "sdk/src/bytes.rs",
    "sdk/src/descriptor.rs",
    "sdk/src/form.rs",
    "sdk/src/form/multipart.rs",
    "sdk/src/json.rs",
    "sdk/src/json/parse.rs",
    "sdk/src/json/tests.rs",
    "sdk/src/lib.rs",
    "sdk/src/log.rs",
    "sdk/src/proof.rs",
    "sdk/src/request.rs",
    "sdk/src/text.rs",
    "sdk/src/time.rs",
    "testing/Cargo.toml",
    "testing/README.md",
    "testing/src/case.rs",
    "testing/src/compare.rs",
    "testing/src/comparisons.jsonl",
    "testing/src/damage.rs",
    "testing/src/keys.jsonl",
    "testing/src/lib.rs",
    "testing/src/mutate.rs",
    "testing/src/requests.jsonl",
    "testing/src/tests.rs",
];

/// The files with the versions of the SDK and of its dependencies.
const PLUGINS_MANIFEST: &str = include_str!("../../../../plugins/Cargo.toml");
const PLUGINS_LOCK: &str = include_str!("../../../../plugins/Cargo.lock");

/// Names that are valid slugs but not valid names of a crate with these dependencies, besides keywords.
const TAKEN: [&str; 11] = [
    "alloc",
    "core",
    "jiff",
    "proc-macro",
    "sendflowr-plugin-sdk",
    "sendflowr-plugin-testing",
    "serde-json",
    "std",
    "strsim",
    "test",
    "wit-bindgen",
];

/// Rust's keywords that are valid slugs.
const KEYWORDS: [&str; 50] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while",
];

/// Checks that a slug can be the name of a crate.
///
/// # Errors
/// Fails if it cannot, and says why.
pub(super) fn check_slug(slug: &str) -> anyhow::Result<()> {
    if !slug.starts_with(|letter: char| letter.is_ascii_lowercase()) || slug.contains("--") {
        bail!("`{slug}` cannot be the name of a crate: it must begin with a letter and have single hyphens");
    }
    if TAKEN.contains(&slug) || KEYWORDS.contains(&slug) {
        bail!("`{slug}` cannot be the name of a crate: it already has a meaning in Rust; add a word to it");
    }
    Ok(())
}

/// Returns the values that these templates need in addition.
pub(super) fn filling(slug: &str) -> anyhow::Result<Filling> {
    let manifest: toml::Table = PLUGINS_MANIFEST.parse().context("the SDK's manifest")?;
    let workspace = &manifest["workspace"];
    let sdk_version = workspace["package"]["version"].as_str().unwrap_or_default();
    Ok(vec![
        ("module", module(slug)),
        ("sdk_version", sdk_version.to_owned()),
        ("dependencies", dependencies(&workspace["dependencies"])),
    ])
}

/// Writes the other files: the SDK, the contract, and the versions that the SDK is tested with.
pub(super) fn write_rest(folder: &Path) -> anyhow::Result<()> {
    // As in the repository, but not in the crate's own folder: cargo-component would take a `wit/` there for the plugin's own.
    let along = folder.join("sendflowr");
    for (path, text) in SDK {
        write(&along.join("plugins").join(path), text)?;
    }
    write(&along.join(CONTRACT.0), CONTRACT.1)?;
    // Cargo drops what is not needed.
    write(&folder.join("Cargo.lock"), PLUGINS_LOCK)?;
    write(&folder.join(".gitignore"), "/target\n/*.wasm\n")
}

/// Returns the commands that test and build the plugin.
pub(super) fn next(slug: &str) -> String {
    format!(
        "cargo test\n  \
         cargo build --release --target wasm32-unknown-unknown\n  \
         sendflowr plugin pack target/wasm32-unknown-unknown/release/{}.wasm --out {slug}.wasm",
        module(slug)
    )
}

/// Returns the SDK's external dependencies, as lines of a manifest.
fn dependencies(all: &toml::Value) -> String {
    let all = all.as_table().into_iter().flatten();
    let others = all.filter(|(_, dependency)| dependency.get("path").is_none());
    others
        .map(|(name, dependency)| format!("{name} = {dependency}\n"))
        .collect()
}

/// Returns the name of the crate's module file.
fn module(slug: &str) -> String {
    slug.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::{super::tests::files, *};

    #[test]
    fn every_file_of_the_sdk_goes_along() {
        let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
        let mut there = BTreeSet::new();
        for part in ["sdk", "testing"] {
            files(&plugins.join(part), &plugins, &mut there);
        }
        let along: BTreeSet<String> = SDK.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(along, there);
    }

    #[test]
    fn the_workspace_is_that_of_the_sdk() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("acme-mail");
        super::super::run("acme-mail", super::super::Language::Rust, Some(folder.clone())).unwrap();
        let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml"))
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some("acme-mail"));
        let plugins: toml::Table = PLUGINS_MANIFEST.parse().unwrap();
        assert_eq!(manifest["profile"], plugins["profile"]);
        assert_eq!(manifest["workspace"]["package"], plugins["workspace"]["package"]);
        let needed = &manifest["workspace"]["dependencies"];
        assert_eq!(
            needed["wit-bindgen"],
            plugins["workspace"]["dependencies"]["wit-bindgen"]
        );
    }

    #[test]
    fn slugs_must_be_names_of_crates() {
        for slug in ["acme", "a", "acme-2-go"] {
            check_slug(slug).unwrap();
        }
        for slug in ["2go", "a--b", "match", "std", "serde-json"] {
            assert!(check_slug(slug).is_err(), "{slug}");
        }
    }

    #[test]
    fn modules_have_no_hyphens() {
        assert_eq!(module("acme-mail-2"), "acme_mail_2");
    }
}
