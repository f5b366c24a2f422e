//! The scaffold in JavaScript: one module, and the build script that turns it into a component with componentize-js.

use std::path::Path;

use anyhow::Context;

use super::{CONTRACT, Filling, Template, write};

/// The files that are the plugin.
pub(super) const TEMPLATES: [Template; 5] = [
    ("README.md", include_str!("javascript/README.md.template")),
    ("package.json", include_str!("javascript/package.json.template")),
    ("build.js", include_str!("javascript/build.js.template")),
    ("plugin.js", include_str!("javascript/plugin.js.template")),
    (
        "plugin.test.js",
        include_str!("javascript/plugin.test.js.template"),
    ),
];

/// The example's manifest and lock file: the tested versions of the compiler and all its dependencies.
const MANIFEST: &str = include_str!("../../../../plugins/examples/javascript/package.json");
const LOCK: &str = include_str!("../../../../plugins/examples/javascript/package-lock.json");

/// Returns the values that these templates need in addition.
pub(super) fn filling() -> anyhow::Result<Filling> {
    let manifest: serde_json::Value = serde_json::from_str(MANIFEST).context("the example's manifest")?;
    let dependencies = serde_json::to_string_pretty(&manifest["devDependencies"])?.replace('\n', "\n  ");
    Ok(vec![("dependencies", dependencies)])
}

/// Writes the other files: the contract, and the exact versions of the compiler and its dependencies.
pub(super) fn write_rest(slug: &str, folder: &Path) -> anyhow::Result<()> {
    write(&folder.join(CONTRACT.0), CONTRACT.1)?;
    write(&folder.join("package-lock.json"), &lock(slug)?)?;
    write(&folder.join(".gitignore"), "node_modules/\n*.wasm\n")
}

/// The commands that test and build the plugin.
pub(super) const NEXT: &str = "npm install\n  npm test\n  npm run build";

/// Returns the example's lock file with the scaffold's name and version, and without the example's licence.
fn lock(slug: &str) -> anyhow::Result<String> {
    let mut lock: serde_json::Value = serde_json::from_str(LOCK).context("the example's lock file")?;
    let name = format!("sendflowr-plugin-{slug}");
    lock["name"] = name.clone().into();
    lock["version"] = "0.1.0".into();
    if let Some(own) = lock["packages"][""].as_object_mut() {
        own.insert("name".to_owned(), name.into());
        own.insert("version".to_owned(), "0.1.0".into());
        own.remove("license");
    }
    Ok(serde_json::to_string_pretty(&lock)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_goes_with_the_manifest() {
        let lock: serde_json::Value = serde_json::from_str(&lock("acme").unwrap()).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(MANIFEST).unwrap();
        assert_eq!(lock["name"], "sendflowr-plugin-acme");
        assert_eq!(
            lock["packages"][""]["devDependencies"],
            manifest["devDependencies"]
        );
        for (name, version) in manifest["devDependencies"].as_object().unwrap() {
            assert_eq!(
                lock["packages"][format!("node_modules/{name}")]["version"],
                *version
            );
        }
    }
}
