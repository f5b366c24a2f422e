//! `sendflowr plugin new`: creates a folder that contains a working plugin.
//!
//! The files of this repository that it needs are copied into the folder, as they were when this program was built: a plugin
//! outside of the repository needs nothing but this program, the language's own tools and their package registry.

mod javascript;
mod python;
mod rust;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use event::identity::{MAX_SLUG, is_slug};

use crate::output;

/// Languages for which there is a scaffold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// A crate with the SDK.
    Rust,
    /// A module for componentize-js.
    #[value(alias = "javascript")]
    Js,
    /// A module for componentize-py.
    Python,
}

/// The path of a file in the folder, and its text, with the names of what is to be filled in between double braces.
type Template = (&'static str, &'static str);

/// The values to fill in, by name.
type Filling = Vec<(&'static str, String)>;

/// Sample deliveries, the same for every language.
const CASES: [Template; 5] = [
    ("cases/batch.json", include_str!("new/cases/batch.json.template")),
    (
        "cases/bounced.json",
        include_str!("new/cases/bounced.json.template"),
    ),
    (
        "cases/byte-order-mark.json",
        include_str!("new/cases/byte-order-mark.json.template"),
    ),
    (
        "cases/invalid-utf8.json",
        include_str!("new/cases/invalid-utf8.json.template"),
    ),
    (
        "cases/wrong-signature.json",
        include_str!("new/cases/wrong-signature.json.template"),
    ),
];

/// Includes files of the plugins' workspace, by their path in it.
macro_rules! of_plugins {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!("../../../../plugins/", $path)))),*]
    };
}
use of_plugins;

/// The contract.
const CONTRACT: Template = (
    "wit/1.1.0/connector.wit",
    include_str!("../../../wit/1.1.0/connector.wit"),
);

/// Writes the plugin `slug` into `folder`, or into a new folder of that name.
///
/// # Errors
/// Fails if `slug` is not a slug, or the folder already exists or cannot be written.
pub(crate) fn run(slug: &str, language: Language, folder: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    if !is_slug(slug) {
        bail!(
            "`{slug}` is not a slug: it must be 1 to {MAX_SLUG} lower-case letters, digits and inner hyphens"
        );
    }
    if language == Language::Rust {
        rust::check_slug(slug)?;
    }
    let folder = folder.unwrap_or_else(|| PathBuf::from(slug));
    if folder.exists() {
        bail!("`{}` already exists", folder.display());
    }
    let next = match language {
        Language::Rust => {
            write_templates(slug, &folder, &rust::TEMPLATES, rust::filling(slug)?)?;
            rust::write_rest(&folder)?;
            rust::next(slug)
        }
        Language::Js => {
            write_templates(slug, &folder, &javascript::TEMPLATES, javascript::filling()?)?;
            javascript::write_rest(slug, &folder)?;
            javascript::NEXT.to_owned()
        }
        Language::Python => {
            write_templates(slug, &folder, &python::TEMPLATES, python::filling())?;
            python::write_rest(&folder)?;
            python::next(slug)
        }
    };
    output::line(&format!(
        "A plugin for `{slug}` is in `{}`. Next:\n\n  \
         cd {}\n  \
         {next}\n  \
         sendflowr plugin test {slug}.wasm --cases cases\n\n\
         Its README.md explains the rest.",
        folder.display(),
        folder.display(),
    ));
    Ok(ExitCode::SUCCESS)
}

/// Fills in and writes the templates of a language and the cases.
fn write_templates(slug: &str, folder: &Path, own: &[Template], more: Filling) -> anyhow::Result<()> {
    let common = [
        ("slug", slug.to_owned()),
        ("name", display_name(slug)),
        ("contract", contract().to_owned()),
        (
            "contract_version",
            contract().trim_start_matches("wit/").to_owned(),
        ),
    ];
    for (path, template) in own.iter().chain(&CASES) {
        let mut text = (*template).to_owned();
        for (name, value) in common.iter().chain(&more) {
            text = text.replace(&format!("{{{{{name}}}}}"), value);
        }
        write(&folder.join(path), &text)?;
    }
    Ok(())
}

/// Returns the contract's folder.
fn contract() -> &'static str {
    CONTRACT
        .0
        .rsplit_once('/')
        .map_or(CONTRACT.0, |(folder, _)| folder)
}

/// Guesses the provider's name: "Acme Mail" for `acme-mail`.
fn display_name(slug: &str) -> String {
    let words = slug.split('-').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
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

    pub(super) fn files(folder: &Path, below: &Path, into: &mut BTreeSet<String>) {
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
    fn scaffolds_are_filled_in() {
        let folder = tempfile::tempdir().unwrap();
        for (language, templates) in [
            (Language::Rust, &rust::TEMPLATES[..]),
            (Language::Js, &javascript::TEMPLATES),
            (Language::Python, &python::TEMPLATES),
        ] {
            let folder = folder.path().join(format!("{language:?}"));
            run("acme-mail", language, Some(folder.clone())).unwrap();
            let mut there = BTreeSet::new();
            files(&folder, &folder, &mut there);
            assert!(there.iter().any(|path| path.ends_with(CONTRACT.0)) && there.contains(".gitignore"));
            for (path, _) in templates.iter().chain(&CASES) {
                assert!(there.contains(*path), "{path}");
                let text = fs::read_to_string(folder.join(path)).unwrap();
                assert!(!text.contains("{{"), "{path}");
                if path.ends_with(".json") {
                    serde_json::from_str::<serde_json::Value>(&text).unwrap();
                }
            }
            let again = run("acme-mail", language, Some(folder)).unwrap_err();
            assert!(again.to_string().ends_with("already exists"), "{again}");
        }
    }

    #[test]
    fn slugs_are_those_of_addresses() {
        let folder = tempfile::tempdir().unwrap();
        for slug in ["", "Acme", "a_b", "../a", "-a"] {
            for language in [Language::Rust, Language::Js, Language::Python] {
                let refused = run(slug, language, Some(folder.path().join("x"))).unwrap_err();
                assert!(refused.to_string().contains("is not a slug"), "{refused}");
            }
        }
        // A crate cannot have this name; a folder can.
        run("2go", Language::Rust, Some(folder.path().join("rust"))).unwrap_err();
        run("2go", Language::Python, Some(folder.path().join("python"))).unwrap();
    }

    #[test]
    fn names_are_guessed() {
        assert_eq!(display_name("acme-mail-2"), "Acme Mail 2");
        assert_eq!(display_name("a--b"), "A  B");
    }
}
