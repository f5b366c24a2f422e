//! `cargo xtask contract`: generates the reference in docs/contract.md from the comments of the contract, and the digests that
//! keep released versions from changing.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use wit_parser::{Docs, Resolve, Type, TypeDefKind, TypeId};

use crate::process::{root, say};

/// The file of digests, in the format that `sha256sum --check` reads.
const DIGESTS: &str = "wit/frozen.sha256";

/// The generated reference.
const REFERENCE: &str = "docs/contract.md";

/// Folders whose files never change: each has one folder for every version of the contract.
const FROZEN: [&str; 2] = ["wit", "tests/golden"];

/// A version of the contract, for the compatibility table.
struct Version {
    contract: &'static str,
    /// The first host that serves it; all later ones do too.
    host: &'static str,
    /// The first SDK that writes it.
    sdk: &'static str,
    changed: &'static str,
}

/// In order. The SDK of the last entry is the one in the repository.
const VERSIONS: [Version; 2] = [
    Version {
        contract: "1.0.0",
        host: "0.1.0",
        sdk: "1.0.0",
        changed: "the first",
    },
    Version {
        contract: "1.1.0",
        host: "0.1.0",
        sdk: "1.1.0",
        changed: "`event.sent-at-ms`: when the provider accepted the message, from which the host computes the delivery delay",
    },
];

const INTRODUCTION: &str = "\
<!-- Made from wit/ by `cargo xtask contract`; change the comments there. -->

# The contract

The interface between plugins and the host, generated from the comments in `wit/`.
[ADR 2](adr/0002-plugins-run-fresh-on-blocking-threads.md) explains how plugins run, [Write a plugin](write-a-plugin.md) how to
write one.

## Versions

A component names the version of the contract that it is built for in its exports, and the host reads this version before it
compiles anything. A contract that is newer than the host is refused with *upgrade the host*, one that is no longer served with
*rebuild the plugin with a newer SDK*. So a plugin runs on the hosts of its row in this table and on all newer ones: upgrade hosts
first, then plugins. All patch versions of a minor version have the same types. Plugins built for every version in the table are
kept in `tests/golden/` and run in the tests of every change.

| contract | served by hosts from | written by the Rust SDK from | what changed |
|---|---|---|---|
";

/// What the comments of the frozen versions leave open.
const BEYOND_THE_COMMENTS: &str = "
## Beyond the comments

- A message to be signed has at most 256 parts: join what is longer in the plugin.
- `header.value` shows text that was sent in UTF-8 as its bytes: `é` as `Ã©`. A `shared-secret` may present it unchanged: the host
  compares the text itself, and the bytes whose Latin-1 letters it is, with the operator's secret.
- If a delivery is one report about several recipients, these are its elements: the `index` is a recipient's place in the list.
  When a delivery is replayed that yielded events, only the indexes that were rejected count.
";

/// Writes the reference, and the digests of new files. Fails if a frozen file has changed.
pub(crate) fn run() -> anyhow::Result<()> {
    let (listed, there) = digests()?;
    refuse_changes(&listed, &there)?;
    let mut text = String::new();
    for (path, digest) in &there {
        writeln!(text, "{digest}  {path}")?;
    }
    fs::write(root().join(DIGESTS), text).with_context(|| format!("cannot write `{DIGESTS}`"))?;
    fs::write(root().join(REFERENCE), reference()?).with_context(|| format!("cannot write `{REFERENCE}`"))?;
    say(&format!("{} files are frozen; wrote `{REFERENCE}`", there.len()));
    Ok(())
}

/// Checks that the frozen files are unchanged, and that the reference is current.
pub(crate) fn check() -> anyhow::Result<()> {
    let (listed, there) = digests()?;
    refuse_changes(&listed, &there)?;
    if let Some(path) = there.keys().find(|path| !listed.contains_key(*path)) {
        bail!("`{path}` is not in `{DIGESTS}`: run `cargo xtask contract` to add it");
    }
    let written = fs::read_to_string(root().join(REFERENCE)).unwrap_or_default();
    if written != reference()? {
        bail!("`{REFERENCE}` is out of date with `wit/`: run `cargo xtask contract`");
    }
    Ok(())
}

type Digests = BTreeMap<String, String>;

/// Returns the recorded digests, and those of the files as they are.
fn digests() -> anyhow::Result<(Digests, Digests)> {
    let text = fs::read_to_string(root().join(DIGESTS)).unwrap_or_default();
    let mut listed = Digests::new();
    for line in text.lines() {
        let (digest, path) = line
            .split_once("  ")
            .with_context(|| format!("`{DIGESTS}`: `{line}` is not a digest and a path"))?;
        listed.insert(path.to_owned(), digest.to_owned());
    }
    let mut there = Digests::new();
    for folder in FROZEN {
        for version in folders(&root().join(folder))? {
            add_files(&version, &mut there)?;
        }
    }
    Ok((listed, there))
}

fn folders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn add_files(folder: &Path, digests: &mut Digests) -> anyhow::Result<()> {
    for inner in folders(folder)? {
        add_files(&inner, digests)?;
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            let bytes = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
            let mut digest = String::new();
            for byte in Sha256::digest(&bytes) {
                write!(digest, "{byte:02x}")?;
            }
            let name = path.strip_prefix(root())?.display().to_string();
            digests.insert(name, digest);
        }
    }
    Ok(())
}

fn refuse_changes(listed: &Digests, there: &Digests) -> anyhow::Result<()> {
    for (path, digest) in listed {
        match there.get(path) {
            Some(now) if now == digest => {}
            Some(_) => bail!(
                "`{path}` has changed, but plugins are built for its old content: restore it and add a new version beside it"
            ),
            None => bail!("`{path}` is gone, but plugins are built for it: restore it"),
        }
    }
    Ok(())
}

/// Returns the text of the reference; each item that is newer than the first version says since when it exists.
fn reference() -> anyhow::Result<String> {
    let mut versions = Vec::new();
    for folder in folders(&root().join("wit"))? {
        let mut resolve = Resolve::default();
        resolve
            .push_dir(&folder)
            .with_context(|| format!("`{}` is not a valid contract", folder.display()))?;
        let version = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        versions.push((version, resolve));
    }
    let known: Vec<&str> = VERSIONS.iter().map(|version| version.contract).collect();
    let found: Vec<&str> = versions.iter().map(|(version, _)| version.as_str()).collect();
    if known != found {
        bail!(
            "`wit/` has the versions {found:?}, but xtask/src/contract.rs lists {known:?}: add the new one there"
        );
    }
    let manifest = fs::read_to_string(root().join("plugins/sdk/Cargo.toml"))?;
    let sdk = VERSIONS[VERSIONS.len() - 1].sdk;
    if !manifest.contains(&format!("version = \"{sdk}\"")) {
        bail!(
            "plugins/sdk/Cargo.toml has another version than the last entry in xtask/src/contract.rs, {sdk}"
        );
    }

    let mut text = INTRODUCTION.to_owned();
    for version in VERSIONS {
        let Version {
            contract,
            host,
            sdk,
            changed,
        } = version;
        writeln!(text, "| {contract} | {host} | {sdk} | {changed} |")?;
    }
    text.push_str(BEYOND_THE_COMMENTS);
    let mut since: BTreeMap<String, &str> = BTreeMap::new();
    for (version, resolve) in &versions {
        for name in names(resolve) {
            since.entry(name).or_insert(version);
        }
    }
    let (first, _) = &versions[0];
    since.retain(|_, version| version != first);
    let (_, newest) = versions.last().context("`wit/` is empty")?;
    write_interfaces(&mut text, newest, &since)?;
    Ok(text)
}

/// Returns the path of every item and field: `types.event.sent-at-ms`.
fn names(resolve: &Resolve) -> Vec<String> {
    let mut names = Vec::new();
    for (_, interface) in resolve.interfaces.iter() {
        let place = interface.name.clone().unwrap_or_default();
        for name in interface.functions.keys() {
            names.push(format!("{place}.{name}"));
        }
        for (name, id) in &interface.types {
            names.push(format!("{place}.{name}"));
            for (field, ..) in members(resolve, *id) {
                names.push(format!("{place}.{name}.{field}"));
            }
        }
    }
    names
}

/// Returns the fields or cases of a type: name, type, documentation.
fn members(resolve: &Resolve, id: TypeId) -> Vec<(&str, Option<Type>, &Docs)> {
    match &resolve.types[id].kind {
        TypeDefKind::Record(record) => {
            let fields = record.fields.iter();
            fields
                .map(|field| (field.name.as_str(), Some(field.ty), &field.docs))
                .collect()
        }
        TypeDefKind::Variant(variant) => {
            let cases = variant.cases.iter();
            cases
                .map(|case| (case.name.as_str(), case.ty, &case.docs))
                .collect()
        }
        TypeDefKind::Enum(list) => {
            let cases = list.cases.iter();
            cases.map(|case| (case.name.as_str(), None, &case.docs)).collect()
        }
        _ => Vec::new(),
    }
}

fn write_interfaces(
    text: &mut String,
    resolve: &Resolve,
    since: &BTreeMap<String, &str>,
) -> anyhow::Result<()> {
    let new_in = |path: &str| match since.get(path) {
        Some(version) => format!(" *Since {version}.*"),
        None => String::new(),
    };
    // What a plugin implements comes first, then what the host offers it, then the types that both use.
    let mut interfaces: Vec<_> = resolve
        .interfaces
        .iter()
        .map(|(_, interface)| interface)
        .collect();
    interfaces.reverse();
    for interface in interfaces {
        let place = interface.name.as_deref().unwrap_or_default();
        writeln!(text, "\n## Interface `{place}`\n\n{}", sentence(&interface.docs))?;
        for function in interface.functions.values() {
            let parameters: Vec<String> = function
                .params
                .iter()
                .map(|parameter| format!("{}: {}", parameter.name, spelled(resolve, parameter.ty)))
                .collect();
            let result = function
                .result
                .map_or_else(String::new, |result| format!(" -> {}", spelled(resolve, result)));
            writeln!(
                text,
                "\n### `{}({}){result}`\n\n{}{}",
                function.name,
                parameters.join(", "),
                sentence(&function.docs),
                new_in(&format!("{place}.{}", function.name)),
            )?;
        }
        for (name, id) in &interface.types {
            let definition = &resolve.types[*id];
            let kind = match &definition.kind {
                TypeDefKind::Record(_) => "record",
                TypeDefKind::Variant(_) => "variant",
                TypeDefKind::Enum(_) => "enum",
                // An alias of another interface's type, which is described there.
                TypeDefKind::Type(_) => continue,
                _ => "type",
            };
            let path = format!("{place}.{name}");
            writeln!(
                text,
                "\n### {kind} `{name}`\n\n{}{}",
                sentence(&definition.docs),
                new_in(&path)
            )?;
            let members = members(resolve, *id);
            if !members.is_empty() {
                writeln!(text, "\n| name | type | |\n|---|---|---|")?;
            }
            for (member, ty, docs) in members {
                let ty = ty.map_or_else(String::new, |ty| format!("`{}`", spelled(resolve, ty)));
                let new = new_in(&format!("{path}.{member}"));
                writeln!(text, "| `{member}` | {ty} | {}{new} |", sentence(docs))?;
            }
        }
    }
    Ok(())
}

/// Returns a comment on one line, escaped for a table.
fn sentence(docs: &Docs) -> String {
    let text = docs.contents.as_deref().unwrap_or_default();
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

/// Returns a type in WIT's notation.
fn spelled(resolve: &Resolve, ty: Type) -> String {
    let Type::Id(id) = ty else {
        return format!("{ty:?}").to_lowercase();
    };
    let definition = &resolve.types[id];
    if let Some(name) = &definition.name {
        return name.clone();
    }
    let of = |ty: &Option<Type>| ty.map_or_else(|| "_".to_owned(), |ty| spelled(resolve, ty));
    match &definition.kind {
        TypeDefKind::List(inner) => format!("list<{}>", spelled(resolve, *inner)),
        TypeDefKind::Option(inner) => format!("option<{}>", spelled(resolve, *inner)),
        TypeDefKind::Result(result) => format!("result<{}, {}>", of(&result.ok), of(&result.err)),
        other => other.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Digests {
        pairs
            .iter()
            .map(|(path, digest)| ((*path).to_owned(), (*digest).to_owned()))
            .collect()
    }

    #[test]
    fn what_is_frozen_stays() {
        let listed = of(&[("wit/1.0.0/connector.wit", "a")]);
        let more = of(&[("wit/1.0.0/connector.wit", "a"), ("wit/1.1.0/connector.wit", "b")]);
        assert!(refuse_changes(&listed, &more).is_ok());
        let changed = refuse_changes(&listed, &of(&[("wit/1.0.0/connector.wit", "b")]));
        assert!(changed.is_err_and(|error| error.to_string().contains("has changed")));
        let gone = refuse_changes(&listed, &of(&[]));
        assert!(gone.is_err_and(|error| error.to_string().contains("is gone")));
    }

    #[test]
    fn new_fields_are_marked() {
        let text = reference().map_err(|error| error.to_string());
        assert!(
            text.as_ref().is_ok_and(|text| {
                let line = text.lines().find(|line| line.starts_with("| `sent-at-ms`"));
                line.is_some_and(|line| line.contains("`option<s64>`") && line.contains("*Since 1.1.0.*"))
            }),
            "{text:?}"
        );
        assert_eq!(text.map(|text| text.matches("*Since").count()), Ok(1));
    }
}
