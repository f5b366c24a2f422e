//! `sendflowr plugin new`: a crate that is a working plugin from its first build on.
//!
//! The SDK and the contract are written into it, as they were when this program was built: a plugin outside this
//! repository needs nothing but this program, Rust and crates.io.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::output;

/// Languages that there is a scaffold for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// A crate with the SDK.
    Rust,
}

/// The files that are the plugin, with what is to be filled in between double braces.
const TEMPLATES: [(&str, &str); 7] = [
    ("Cargo.toml", include_str!("new/Cargo.toml.template")),
    ("README.md", include_str!("new/README.md.template")),
    ("src/lib.rs", include_str!("new/lib.rs.template")),
    ("src/tests.rs", include_str!("new/tests.rs.template")),
    ("cases/batch.json", include_str!("new/batch.json.template")),
    ("cases/bounced.json", include_str!("new/bounced.json.template")),
    (
        "cases/wrong-signature.json",
        include_str!("new/wrong-signature.json.template"),
    ),
];

/// Files of the plugins' workspace, by their path in it.
macro_rules! of_plugins {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!("../../../plugins/", $path)))),*]
    };
}

/// The SDK.
const SDK: [(&str, &str); 25] = of_plugins![
    "sdk/Cargo.toml",
    "sdk/README.md",
    "sdk/src/allocator.rs",
    "sdk/src/batch.rs",
    "sdk/src/bindings.rs",
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
    "testing/src/damage.rs",
    "testing/src/lib.rs",
    "testing/src/mutate.rs",
    "testing/src/tests.rs",
];

/// The contract.
const CONTRACT: (&str, &str) = (
    "wit/1.1.0/connector.wit",
    include_str!("../../../wit/1.1.0/connector.wit"),
);

/// Where the SDK's versions, and those of what it needs, are written down.
const PLUGINS_MANIFEST: &str = include_str!("../../../plugins/Cargo.toml");
const PLUGINS_LOCK: &str = include_str!("../../../plugins/Cargo.lock");

/// Names that are good slugs and cannot be names of a crate with these dependencies. Keywords are another matter.
const TAKEN: [&str; 10] = [
    "alloc",
    "core",
    "jiff",
    "proc-macro",
    "sendflowr-plugin-sdk",
    "sendflowr-plugin-testing",
    "serde-json",
    "std",
    "test",
    "wit-bindgen",
];

/// Rust's words, as far as they are good slugs.
const KEYWORDS: [&str; 50] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while",
];

/// Writes the plugin `slug` into `folder`, or into a new folder of that name.
///
/// # Errors
/// A slug that cannot be one, and a folder that is there already or cannot be written.
pub(crate) fn run(slug: &str, language: Language, folder: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    check_slug(slug)?;
    let folder = folder.unwrap_or_else(|| PathBuf::from(slug));
    if folder.exists() {
        bail!("`{}` is there already", folder.display());
    }
    match language {
        Language::Rust => write_rust(slug, &folder)?,
    }
    output::line(&format!(
        "A plugin for `{slug}` is in `{}`. Next:\n\n  \
         cd {}\n  \
         cargo test\n  \
         cargo build --release --target wasm32-unknown-unknown\n  \
         sendflowr plugin pack target/wasm32-unknown-unknown/release/{}.wasm --out {slug}.wasm\n  \
         sendflowr plugin test {slug}.wasm --cases cases\n\n\
         Its README.md tells the rest.",
        folder.display(),
        folder.display(),
        module(slug),
    ));
    Ok(ExitCode::SUCCESS)
}

fn check_slug(slug: &str) -> anyhow::Result<()> {
    if !host::plugin::is_slug(slug) {
        bail!("`{slug}` is no slug: it must be 1 to 32 lower-case letters, digits and inner hyphens");
    }
    if !slug.starts_with(|letter: char| letter.is_ascii_lowercase()) || slug.contains("--") {
        bail!("`{slug}` cannot be the name of a crate: it must begin with a letter and have single hyphens");
    }
    if TAKEN.contains(&slug) || KEYWORDS.contains(&slug) {
        bail!("`{slug}` cannot be the name of a crate: it has a meaning in Rust already; add a word to it");
    }
    Ok(())
}

fn write_rust(slug: &str, folder: &Path) -> anyhow::Result<()> {
    let manifest: toml::Table = PLUGINS_MANIFEST.parse().context("the SDK's manifest")?;
    let workspace = &manifest["workspace"];
    let fill = |template: &str| {
        template
            .replace("{{slug}}", slug)
            .replace("{{name}}", &display_name(slug))
            .replace("{{module}}", &module(slug))
            .replace(
                "{{sdk_version}}",
                workspace["package"]["version"].as_str().unwrap_or_default(),
            )
            .replace("{{dependencies}}", &dependencies(&workspace["dependencies"]))
    };
    for (path, template) in TEMPLATES {
        write(&folder.join(path), &fill(template))?;
    }
    for (path, text) in SDK {
        write(&folder.join("sendflowr").join(path), text)?;
    }
    write(&folder.join(CONTRACT.0), CONTRACT.1)?;
    // With the versions that the SDK is tested with; cargo drops what is not needed.
    write(&folder.join("Cargo.lock"), PLUGINS_LOCK)?;
    write(&folder.join(".gitignore"), "/target\n/*.wasm\n")
}

/// What the SDK needs of others, as lines of a manifest.
fn dependencies(all: &toml::Value) -> String {
    let all = all.as_table().into_iter().flatten();
    let others = all.filter(|(_, dependency)| dependency.get("path").is_none());
    others
        .map(|(name, dependency)| format!("{name} = {dependency}\n"))
        .collect()
}

/// The name of the crate's module file.
fn module(slug: &str) -> String {
    slug.replace('-', "_")
}

/// A first guess at the provider's name: `acme-mail` is "Acme Mail".
fn display_name(slug: &str) -> String {
    let words = slug.split('-').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_ascii_uppercase() + rest
    });
    words.collect::<Vec<_>>().join(" ")
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn files(folder: &Path, below: &Path, into: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, below, into);
            } else {
                into.insert(path.strip_prefix(below).unwrap().display().to_string());
            }
        }
    }

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
    fn a_scaffold_is_filled_in() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("acme-mail");
        run("acme-mail", Language::Rust, Some(folder.clone())).unwrap();
        let mut there = BTreeSet::new();
        files(&folder, &folder, &mut there);
        for (path, _) in TEMPLATES {
            assert!(there.contains(path), "{path}");
            let text = fs::read_to_string(folder.join(path)).unwrap();
            assert!(!text.contains("{{"), "{path}");
        }
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
        let again = run("acme-mail", Language::Rust, Some(folder)).unwrap_err();
        assert!(again.to_string().ends_with("is there already"), "{again}");
    }

    #[test]
    fn slugs_must_be_names_of_crates() {
        for slug in ["acme", "a", "acme-2-go"] {
            check_slug(slug).unwrap();
        }
        for slug in [
            "",
            "Acme",
            "a_b",
            "../a",
            "-a",
            "2go",
            "a--b",
            "match",
            "std",
            "serde-json",
        ] {
            assert!(check_slug(slug).is_err(), "{slug}");
        }
    }

    #[test]
    fn names_are_guessed() {
        assert_eq!(display_name("acme-mail-2"), "Acme Mail 2");
        assert_eq!(module("acme-mail-2"), "acme_mail_2");
    }
}
