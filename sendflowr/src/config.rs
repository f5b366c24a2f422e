//! One configuration out of a file and the environment.
//!
//! Later sources win: built-in defaults, then the TOML file, then environment variables, then command line flags. A
//! variable `SENDFLOWR_HOST__LISTEN` sets `listen` in `[host]`: the prefix, then the path in capitals, its parts joined
//! by two underscores. A key that ends in `_file` names a file whose content, without the final line break, becomes the
//! value of the key without that ending, so that secrets need not stand in the configuration or the environment.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::Deserialize;
use toml::{Table, Value};

/// What begins the names of our environment variables.
const PREFIX: &str = "SENDFLOWR_";

/// Variables with the prefix that are no configuration keys: flags read by the command line parser.
const RESERVED: [&str; 2] = ["SENDFLOWR_CONFIG", "SENDFLOWR_LOG"];

/// The whole configuration, parsed but not yet validated. Unknown keys are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawConfig {
    /// Where the embedded engines, keys and caches live. Default `data`.
    pub(crate) data_folder: Option<PathBuf>,
    /// `[identity]`.
    pub(crate) identity: RawIdentityConfig,
    /// `[store]`: the embedded engines.
    pub(crate) store: store::embedded::RawEmbeddedConfig,
    /// `[host]`.
    pub(crate) host: host::RawHostConfig,
    /// `[consumer]`.
    pub(crate) consumer: consumer::RawConsumerConfig,
    /// `[inference]`.
    pub(crate) inference: inference::RawInferenceConfig,
    /// `[accounts.<provider>.<account>]`: secrets and settings of the providers.
    pub(crate) accounts: host::RawAccounts,
}

/// `[identity]`: how identities are hashed. Host and inference must agree on it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawIdentityConfig {
    /// Key of the HMAC that hashes addresses. None: plain SHA-256. Changing it makes everybody a stranger.
    pub(crate) pepper: Option<String>,
}

/// Reads the configuration file (if there is one) and the environment.
///
/// # Errors
/// Names the file, variable or key that is wrong. Values are never repeated: they may be secrets.
pub(crate) fn load(file: Option<&Path>, environment: &BTreeMap<String, String>) -> anyhow::Result<RawConfig> {
    let mut table = match file {
        Some(path) => read_file(path)?,
        None => Table::new(),
    };
    merge_environment(&mut table, environment)?;
    let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
    resolve_files(&mut table, base, "")?;
    // The error of `toml` quotes the input around the mistake; only its message may be shown.
    RawConfig::deserialize(Value::Table(table))
        .map_err(|error| anyhow::anyhow!("configuration: {}", error.message()))
}

fn read_file(path: &Path) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read configuration `{}`", path.display()))?;
    text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(0, |span| {
            text[..span.start.min(text.len())].matches('\n').count() + 1
        });
        anyhow::anyhow!(
            "configuration `{}`, line {line}: {}",
            path.display(),
            error.message()
        )
    })
}

fn merge_environment(table: &mut Table, environment: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (name, value) in environment {
        let Some(path) = name
            .strip_prefix(PREFIX)
            .filter(|_| !RESERVED.contains(&name.as_str()))
        else {
            continue;
        };
        // Variables of the test and build tooling share the prefix without being paths.
        if !path.contains("__") && path != "DATA_FOLDER" {
            continue;
        }
        let path = path.to_ascii_lowercase();
        let mut parts: Vec<&str> = path.split("__").collect();
        if parts.iter().any(|part| part.is_empty()) {
            bail!("environment variable `{name}` has an empty part in its path");
        }
        let key = parts.pop().unwrap_or_default();
        let is_account = parts.first() == Some(&"accounts");
        let mut target = &mut *table;
        for part in parts {
            let entry = target.entry(part).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = entry else {
                bail!("environment variable `{name}` goes through `{part}`, which is a value, not a section");
            };
            target = inner;
        }
        target.insert(key.to_owned(), typed(key, value, is_account));
    }
    Ok(())
}

/// The value of a variable, typed as the same text in the file would be. Secrets of accounts stay text: `0123` must not
/// become a number.
fn typed(key: &str, value: &str, is_account: bool) -> Value {
    if let Ok(flag) = value.parse::<bool>()
        && (!is_account || key == "allow_unsigned")
    {
        return Value::Boolean(flag);
    }
    if !is_account {
        if let Ok(number) = value.parse::<i64>() {
            return Value::Integer(number);
        }
        if let Ok(number) = value.parse::<f64>() {
            return Value::Float(number);
        }
    }
    Value::String(value.to_owned())
}

/// Replaces every `name_file = "path"` by `name = "<content of the file>"`. Relative paths start at the configuration
/// file's folder.
fn resolve_files(table: &mut Table, base: &Path, section: &str) -> anyhow::Result<()> {
    let keys: Vec<String> = table.keys().cloned().collect();
    for key in keys {
        let full = if section.is_empty() {
            key.clone()
        } else {
            format!("{section}.{key}")
        };
        if let Some(Value::Table(inner)) = table.get_mut(&key) {
            resolve_files(inner, base, &full)?;
            continue;
        }
        let Some(target) = key.strip_suffix("_file") else {
            continue;
        };
        if table.contains_key(target) {
            bail!("configuration sets both `{full}` and the same key without `_file`: keep one");
        }
        let value = table.remove(&key);
        let read = |path: &str| -> anyhow::Result<Value> {
            let content = std::fs::read_to_string(base.join(path))
                .with_context(|| format!("cannot read the file `{path}` that `{full}` names"))?;
            Ok(Value::String(content.trim_end_matches(['\r', '\n']).to_owned()))
        };
        let resolved = match value {
            Some(Value::String(path)) => read(&path)?,
            // Several files: several values of a secret, during a rotation.
            Some(Value::Array(paths)) => {
                let mut contents = Vec::with_capacity(paths.len());
                for path in &paths {
                    let path = path
                        .as_str()
                        .with_context(|| format!("`{full}` must be a list of paths"))?;
                    contents.push(read(path)?);
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

    fn merged(file: &str, environment: &[(&str, &str)]) -> anyhow::Result<Table> {
        let mut table: Table = file.parse()?;
        let environment = environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        merge_environment(&mut table, &environment)?;
        Ok(table)
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let table = merged(
            "[host]\nlisten = '1.2.3.4:5'\nmax_body_bytes = 7",
            &[
                ("SENDFLOWR_HOST__LISTEN", "0.0.0.0:80"),
                ("SENDFLOWR_CONSUMER__BATCH_EVENTS", "10"),
                ("PATH", "x"),
            ],
        );
        let expected = "[host]\nlisten = '0.0.0.0:80'\nmax_body_bytes = 7\n[consumer]\nbatch_events = 10";
        assert_eq!(table.unwrap(), expected.parse::<Table>().unwrap());
    }

    #[test]
    fn secrets_of_accounts_stay_text() {
        let table = merged(
            "",
            &[
                ("SENDFLOWR_ACCOUNTS__MAILGUN__DEFAULT__SIGNING_KEY", "1e5"),
                ("SENDFLOWR_ACCOUNTS__MAILGUN__DEFAULT__ALLOW_UNSIGNED", "true"),
            ],
        );
        let expected = "[accounts.mailgun.default]\nsigning_key = '1e5'\nallow_unsigned = true";
        assert_eq!(table.unwrap(), expected.parse::<Table>().unwrap());
    }

    #[test]
    fn values_come_from_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("old"), "old secret\n").unwrap();
        std::fs::write(folder.path().join("new"), "new secret\n").unwrap();
        let mut table: Table = "[a.b]\nkey_file = ['old', 'new']".parse().unwrap();
        resolve_files(&mut table, folder.path(), "").unwrap();
        assert_eq!(
            table,
            "[a.b]\nkey = ['old secret', 'new secret']"
                .parse::<Table>()
                .unwrap()
        );

        let mut missing: Table = "[a]\nkey_file = 'nowhere'".parse().unwrap();
        let error = resolve_files(&mut missing, folder.path(), "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read the file `nowhere` that `a.key_file` names"
        );
    }

    #[test]
    fn unknown_keys_and_bad_paths_are_named() {
        let environment = BTreeMap::from([("SENDFLOWR_HOST__LISTNE".to_owned(), "s3cret".to_owned())]);
        let error = format!("{:#}", load(None, &environment).unwrap_err());
        assert!(error.contains("listne") && !error.contains("s3cret"), "{error}");
        assert!(merged("host = 1", &[("SENDFLOWR_HOST__LISTEN", "x")]).is_err());
    }
}
