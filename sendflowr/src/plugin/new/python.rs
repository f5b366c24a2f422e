//! The scaffold in Python: one module, which componentize-py turns into a component.

use std::path::Path;

use super::{CONTRACT, Filling, Template, write};

/// The files that are the plugin.
pub(super) const TEMPLATES: [Template; 4] = [
    ("README.md", include_str!("python/README.md.template")),
    (
        "requirements.txt",
        include_str!("python/requirements.txt.template"),
    ),
    ("app.py", include_str!("python/app.py.template")),
    ("test_app.py", include_str!("python/test_app.py.template")),
];

/// The example's requirements: the tested version of the compiler.
const REQUIREMENTS: &str = include_str!("../../../../plugins/examples/python/requirements.txt");

/// Returns the values that these templates need in addition.
pub(super) fn filling() -> Filling {
    vec![("requirements", REQUIREMENTS.trim_end().to_owned())]
}

/// Writes the other files: the contract, and `.gitignore`.
pub(super) fn write_rest(folder: &Path) -> anyhow::Result<()> {
    write(&folder.join(CONTRACT.0), CONTRACT.1)?;
    write(
        &folder.join(".gitignore"),
        "/.venv/\n/bindings/\n__pycache__/\n*.wasm\n",
    )
}

/// Returns the commands that test and build the plugin.
pub(super) fn next(slug: &str) -> String {
    let tool = format!(
        "componentize-py --wit-path {} --world connector",
        super::contract()
    );
    format!(
        "python3 -m venv .venv && . .venv/bin/activate\n  \
         pip install --requirement requirements.txt\n  \
         {tool} bindings bindings\n  \
         python -m unittest\n  \
         {tool} componentize app --output {slug}.wasm"
    )
}
