//! The scaffold in Python: one module, which componentize-py makes a component of.

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

/// The example's requirements: the version of the compiler that is tested.
const REQUIREMENTS: &str = include_str!("../../../../plugins/examples/python/requirements.txt");

/// What the templates have of their own.
pub(super) fn filling() -> Filling {
    vec![("requirements", REQUIREMENTS.trim_end().to_owned())]
}

/// Writes what goes along: the contract.
pub(super) fn write_rest(folder: &Path) -> anyhow::Result<()> {
    write(&folder.join(CONTRACT.0), CONTRACT.1)?;
    write(
        &folder.join(".gitignore"),
        "/.venv/\n/bindings/\n__pycache__/\n*.wasm\n",
    )
}

/// The commands that lead from the folder to a plugin.
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
