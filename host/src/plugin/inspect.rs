//! Reads a plugin file without compiling it: what it is, which contract it is built for, what it imports.
//!
//! Everything that can be refused cheaply is refused here, before the compiler spends time on it.

use std::fmt::Display;

use semver::Version;
use wasmparser::{ComponentTypeRef, Encoding, Instance, Parser, Payload};

use super::{
    bindings::{Contract, PACKAGE, Unsupported},
    error::LoadError,
    limits::Limits,
    wasi,
};
use crate::canonical::scrub::on_one_line;

/// What a file reveals about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspection {
    pub(crate) contract: Contract,
    /// The exact version of the contract's package that the component exports.
    pub(crate) contract_version: Version,
    /// Names of its imports, except types.
    pub(crate) imports: Vec<String>,
    /// Number of core instances that it defines.
    pub(crate) core_instances: u64,
}

impl Inspection {
    /// Returns whether it needs the closed WASI.
    pub(crate) fn imports_wasi(&self) -> bool {
        self.imports
            .iter()
            .any(|import| wasi::interface(import).is_some())
    }
}

/// Component instances that a file may define. In-tree plugins have one, plus one for each adapter they are composed with. Nested
/// components may be instantiated again and again, each time with everything that they instantiate themselves, so this also
/// bounds the exponential growth (at most 3^4, with three per level) that a small file could cause in the compiler.
const MOST_COMPONENT_INSTANCES: u64 = 12;

/// Imports and exports of the outer component: the contract has four.
const MOST_EXTERNS: u64 = 100;

/// Names shown in a message.
const MOST_NAMES_SHOWN: usize = 5;

/// How much of a name from a file a message shows. The longest in WASI has 60 bytes.
const MOST_OF_A_NAME: usize = 200;

/// How much of what the parser, the compiler or the linker says about a file a message shows: a chain of a few sentences.
const MOST_OF_AN_ERROR: usize = 1000;

/// Inspects a file; `name` is its name in messages.
pub(crate) fn inspect(bytes: &[u8], name: &str, limits: &Limits) -> Result<Inspection, LoadError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(LoadError::NotWebAssembly("its magic number is wrong".to_owned()));
    }
    if is_of_wasip1(bytes) {
        return Err(LoadError::Wasip1Module);
    }
    if Parser::is_core_wasm(bytes) {
        return Err(LoadError::CoreModule);
    }
    let mut seen = Seen::default();
    seen.read(bytes)
        .map_err(|error| LoadError::NotWebAssembly(said(error)))?;
    at_most(
        "component instances",
        seen.component_instances,
        MOST_COMPONENT_INSTANCES,
    )?;
    at_most("core instances", seen.core_instances, u64::from(limits.instances))?;
    at_most("imports and exports", seen.externs, MOST_EXTERNS)?;

    let exported = seen.exports.iter().find_map(|name| {
        name.strip_prefix(PACKAGE)?
            .strip_prefix("plugin@")
            .and_then(|version| Version::parse(version).ok())
    });
    let Some(contract_version) = exported else {
        return Err(LoadError::NotAPlugin {
            exports: listed(&seen.exports),
        });
    };
    let plugin = name.to_owned();
    let version = seen.version;
    let contract = match Contract::of(&contract_version) {
        Ok(contract) => contract,
        Err(Unsupported::TooNew) => {
            return Err(LoadError::TooNew {
                plugin,
                version,
                contract: contract_version,
            });
        }
        Err(Unsupported::TooOld) => {
            return Err(LoadError::TooOld {
                plugin,
                version,
                contract: contract_version,
            });
        }
    };
    let ours = [
        format!("{PACKAGE}types@{contract_version}"),
        format!("{PACKAGE}logging@{contract_version}"),
    ];
    if let Some(import) = seen
        .imports
        .iter()
        .find(|import| !ours.contains(import) && wasi::interface(import).is_none())
    {
        let import = shown(import, MOST_OF_A_NAME);
        return Err(LoadError::Import { import });
    }
    Ok(Inspection {
        contract,
        contract_version,
        imports: seen.imports,
        core_instances: seen.core_instances,
    })
}

/// Returns whether this is a core module that imports from the first version of WASI, as those built for `wasm32-wasip1` do.
pub fn is_of_wasip1(module: &[u8]) -> bool {
    // In a component, the modules may: their imports are provided there.
    if !Parser::is_core_wasm(module) {
        return false;
    }
    for payload in Parser::new(0).parse_all(module) {
        match payload {
            Ok(Payload::ImportSection(section)) => {
                return section
                    .into_imports()
                    .any(|import| import.is_ok_and(|import| import.module == "wasi_snapshot_preview1"));
            }
            Ok(_) => {}
            // Reported by whoever reads the module.
            Err(_) => return false,
        }
    }
    false
}

fn at_most(pieces: &'static str, count: u64, limit: u64) -> Result<(), LoadError> {
    if count > limit {
        return Err(LoadError::TooManyPieces { pieces, count, limit });
    }
    Ok(())
}

/// Returns an error about a file in a form fit for a terminal or a log: it may repeat names that nobody has checked.
pub(crate) fn said(error: impl Display) -> String {
    shown(&error.to_string(), MOST_OF_AN_ERROR)
}

/// Returns a text of at most `most` bytes without control characters.
fn shown(text: &str, most: usize) -> String {
    let cut = &text[..text.floor_char_boundary(most)];
    let ellipsis = if cut.len() < text.len() { "…" } else { "" };
    on_one_line(cut) + ellipsis
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let mut text = String::new();
    for name in names.iter().take(MOST_NAMES_SHOWN) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push('`');
        text.push_str(&shown(name, MOST_OF_A_NAME));
        text.push('`');
    }
    if names.len() > MOST_NAMES_SHOWN {
        text.push_str(", …");
    }
    text
}

/// What the parser found. Counts cover all nested components, names only the outer one.
#[derive(Debug, Default)]
struct Seen {
    imports: Vec<String>,
    exports: Vec<String>,
    externs: u64,
    component_instances: u64,
    core_instances: u64,
    /// The version that build tools put into a custom section.
    version: Option<String>,
}

impl Seen {
    fn read(&mut self, bytes: &[u8]) -> wasmparser::Result<()> {
        // 0 outside, 1 in the outer component, more in nested ones.
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::Version { encoding, .. } => {
                    depth += 1;
                    debug_assert!(depth > 1 || encoding == Encoding::Component);
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        let import = import?;
                        // A type alone gives the component nothing to call.
                        if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                            self.imports.push(import.name.name.to_owned());
                        }
                        self.externs += 1;
                        if self.externs > MOST_EXTERNS {
                            return Ok(());
                        }
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        self.exports.push(export?.name.name.to_owned());
                        self.externs += 1;
                        if self.externs > MOST_EXTERNS {
                            return Ok(());
                        }
                    }
                }
                Payload::InstanceSection(section) => {
                    for instance in section {
                        if matches!(instance?, Instance::Instantiate { .. }) {
                            self.core_instances += 1;
                        }
                    }
                }
                Payload::ComponentInstanceSection(section) => {
                    for instance in section {
                        if matches!(instance?, wasmparser::ComponentInstance::Instantiate { .. }) {
                            self.component_instances += 1;
                        }
                    }
                }
                Payload::CustomSection(section) if depth == 1 && section.name() == "version" => {
                    let text = String::from_utf8_lossy(section.data());
                    // Semantic versions are short; anything else is not worth showing.
                    self.version = Version::parse(&text).ok().map(|version| version.to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }
}
