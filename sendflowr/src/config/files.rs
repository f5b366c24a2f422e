//! Keys whose value is in a file of its own.

use std::path::Path;

use anyhow::{Context, bail};
use toml::{Table, Value};

use super::kinds;

/// Replaces every `name_file = "path"` by `name = "<content of the file>"`. Relative paths are resolved against the
/// configuration file's folder.
pub(super) fn resolve(table: &mut Table, base: &Path, section: &str) -> anyhow::Result<()> {
    let keys: Vec<String> = table.keys().cloned().collect();
    for key in keys {
        let full = if section.is_empty() {
            key.clone()
        } else {
            format!("{section}.{key}")
        };
        if let Some(Value::Table(inner)) = table.get_mut(&key) {
            resolve(inner, base, &full)?;
            continue;
        }
        let Some(target) = key.strip_suffix("_file") else {
            continue;
        };
        if table.contains_key(target) {
            bail!("configuration sets both `{full}` and the same key without `_file`: keep one");
        }
        let value = table.remove(&key);
        let read = |path: &str| -> anyhow::Result<String> {
            let content = std::fs::read_to_string(base.join(path))
                .with_context(|| format!("cannot read the file `{path}` that `{full}` names"))?;
            Ok(content.trim_end_matches(['\r', '\n']).to_owned())
        };
        let resolved = match value {
            Some(Value::String(path)) => {
                kinds::of_file(full.strip_suffix("_file").unwrap_or(&full), &read(&path)?)
            }
            // Several files: several values of a secret, during a rotation.
            Some(Value::Array(paths)) => {
                let mut contents = Vec::with_capacity(paths.len());
                for path in &paths {
                    let path = path
                        .as_str()
                        .with_context(|| format!("`{full}` must be a list of paths"))?;
                    contents.push(Value::String(read(path)?));
                }
                Value::Array(contents)
            }
            _ => bail!("`{full}` must be a path or a list of paths"),
        };
        table.insert(target.to_owned(), resolved);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_from_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("old"), "old secret\n").unwrap();
        std::fs::write(folder.path().join("new"), "new secret\n").unwrap();
        let mut table: Table = "[a.b]\nkey_file = ['old', 'new']".parse().unwrap();
        resolve(&mut table, folder.path(), "").unwrap();
        assert_eq!(
            table,
            "[a.b]\nkey = ['old secret', 'new secret']"
                .parse::<Table>()
                .unwrap()
        );

        let mut missing: Table = "[a]\nkey_file = 'nowhere'".parse().unwrap();
        let error = resolve(&mut missing, folder.path(), "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read the file `nowhere` that `a.key_file` names"
        );
    }
}
