//! One configuration, merged from a file and the environment.
//!
//! Later sources win: built-in defaults, then the TOML file, then the documented environment variables
//! (`CLICKHOUSE_HOST`, see [`environment::NAMES`]), then variables with our prefix (`SENDFLOWR_CLICKHOUSE__HOST`), then
//! command line flags. A key that ends in `_file` names a file whose content, without the final line break, becomes the
//! value of the key without that suffix, so that secrets need not be in the configuration or the environment.

pub(crate) mod environment;
mod files;
mod kinds;
mod known;
#[cfg(test)]
mod page;
pub(crate) mod secrets;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use event::settings::Secret;
use host::HostConfig;
use serde::Deserialize;
use toml::{Table, Value};

use crate::telemetry::RawTelemetryConfig;

/// The whole configuration, parsed but not yet validated. Unknown keys are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawConfig {
    /// Folder of the embedded engines, keys and caches. Default `data`.
    pub(crate) data_folder: Option<PathBuf>,
    /// Address at which the inference service is reached from elsewhere, `http://inference:8001`. Only `sendflowr config
    /// check` uses it: the roles share the stores and never call each other.
    pub(crate) inference_url: Option<String>,
    /// `[identity]`.
    pub(crate) identity: RawIdentityConfig,
    /// `[store]`: the embedded engines.
    pub(crate) store: store::embedded::RawEmbeddedConfig,
    /// `[kafka]`: the bus, if `bootstrap_servers` is set.
    pub(crate) kafka: store::bus::RawKafkaConfig,
    /// `[clickhouse]`: the event store, if `host` is set.
    pub(crate) clickhouse: store::events::RawClickHouseConfig,
    /// `[postgres]`: the identity graph, if `host` is set.
    pub(crate) postgres: store::identity::RawPostgresConfig,
    /// `[redis]`: the profiles, if `host` is set.
    pub(crate) redis: store::profiles::RawRedisConfig,
    /// `[host]`.
    pub(crate) host: host::RawHostConfig,
    /// `[consumer]`.
    pub(crate) consumer: consumer::RawConsumerConfig,
    /// `[inference]`.
    pub(crate) inference: inference::RawInferenceConfig,
    /// `[telemetry]`: the export of spans, if `endpoint` is set.
    pub(crate) telemetry: RawTelemetryConfig,
    /// `[registry]`: credentials for the registry that plugins are pulled from.
    pub(crate) registry: crate::oci::RawRegistryConfig,
    /// `[accounts.<provider>.<account>]`: secrets and settings of the providers.
    pub(crate) accounts: host::RawAccounts,
    /// The error if settings of a server lack its address. [`Engines`](crate::engines::Engines) reject such settings: the
    /// embedded engine would silently take the server's place. Commands that open no engine ignore it.
    #[serde(skip)]
    pub(crate) server_without_address: Option<String>,
}

/// `[identity]`: how identities are hashed. Host and inference must agree on it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawIdentityConfig {
    /// Key of the HMAC that hashes addresses; plain SHA-256 without it. If it changes, no known person is recognized.
    pub(crate) pepper: Option<Secret>,
}

/// The folder of the embedded engines if none is configured.
const DEFAULT_DATA_FOLDER: &str = "data";

/// Returns the folder of the embedded engines, keys and caches.
pub(crate) fn data_folder(config: &RawConfig) -> PathBuf {
    config
        .data_folder
        .clone()
        .unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_FOLDER))
}

/// Returns the folder of the population's tables.
pub(crate) fn model_folder(config: &RawConfig) -> PathBuf {
    let configured = config.inference.model_folder.clone();
    configured.unwrap_or_else(|| data_folder(config).join("model"))
}

/// Returns the host's configuration. The host must have time to tell a provider that Kafka does not acknowledge, and to count
/// that.
///
/// # Errors
/// Names the setting that cannot work.
pub(crate) fn host_config(config: &RawConfig) -> anyhow::Result<HostConfig> {
    let (raw, accounts) = (config.host.clone(), config.accounts.clone());
    let host = HostConfig::try_new(raw, accounts, &data_folder(config))?;
    let (kafka, request) = (config.kafka.delivery_timeout_ms, host.request_timeout.as_millis());
    if config.kafka.bootstrap_servers.is_some() && u128::from(kafka) >= request {
        bail!(
            "`kafka.delivery_timeout_ms` is {kafka} and `host.request_timeout_ms` {request}: a request must be given \
             more time than its delivery to Kafka"
        );
    }
    Ok(host)
}

/// Merges the configuration file (if there is one) and the environment into one table, with all `…_file` keys resolved.
///
/// # Errors
/// Names the file, variable or key that is wrong. Values are never repeated: they may be secrets.
pub(crate) fn merge(file: Option<&Path>, environment: &BTreeMap<String, String>) -> anyhow::Result<Table> {
    let mut table = match file {
        Some(path) => read_file(path)?,
        None => Table::new(),
    };
    environment::merge(&mut table, environment)?;
    let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
    files::resolve(&mut table, base, "")?;
    Ok(table)
}

/// Sets a key that contains a path, for command line flags.
///
/// # Errors
/// Fails if a key on the way is not a section, or the path is not UTF-8.
pub(crate) fn set_path(table: &mut Table, keys: &[&str], path: &Path) -> anyhow::Result<()> {
    let Some((key, sections)) = keys.split_last() else {
        return Ok(());
    };
    let mut target = table;
    for section in sections {
        let entry = target
            .entry(*section)
            .or_insert_with(|| Value::Table(Table::new()));
        target = entry
            .as_table_mut()
            .with_context(|| format!("configuration: `{section}` must be a section"))?;
    }
    let text = path
        .to_str()
        .with_context(|| format!("the path `{}` is not UTF-8", path.display()))?;
    target.insert((*key).to_owned(), Value::String(text.to_owned()));
    Ok(())
}

/// Parses the keys of a merged table.
///
/// # Errors
/// Names the key that is unknown, has the wrong type, or is a secret without a value.
pub(crate) fn parse(table: Table) -> anyhow::Result<RawConfig> {
    if let Some(path) = secrets::empty(&table) {
        bail!(
            "configuration: `{path}` is empty, or the file that it is read from: give it a value, or leave the key out"
        );
    }
    if let Some(mistake) = account_without_name(&table) {
        bail!("{mistake}");
    }
    let server_without_address = server_without_address(&table);
    let config = serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        // The message would repeat the value, and what is in the wrong place may be a secret.
        if let Some((_, expected)) = error.inner().message().rsplit_once(", expected ")
            && (expected == "a map" || expected.starts_with("struct "))
        {
            return anyhow::anyhow!("{}", section_expected(&path));
        }
        // Messages about types repeat the value, for example that of `password = 123`.
        if secrets::is_secret(&path) {
            return anyhow::anyhow!("configuration: `{path}` must be a quoted string");
        }
        if path.ends_with(".listen") {
            return anyhow::anyhow!("configuration: `{path}` {NO_ADDRESS}");
        }
        anyhow::anyhow!("configuration: `{path}`: {}", error.inner().message())
    })?;
    Ok(RawConfig {
        server_without_address,
        ..config
    })
}

/// What is wrong with an address to listen on. A name may stand for several addresses, or for another one tomorrow.
pub(crate) const NO_ADDRESS: &str = "must be an IP address and a port, such as `127.0.0.1:5215`, not a name";

/// Describes the mistake if the key with this path has a value, although it is a section.
fn section_expected(path: &str) -> String {
    let variable = environment::variable_of(path);
    format!(
        "configuration: `{path}` is a section and cannot have a value: set the keys in it, each below `[{path}]` or by a \
         variable `{variable}__<KEY>`"
    )
}

/// Describes the mistake if a value is in a provider's section instead of that of an account.
fn account_without_name(table: &Table) -> Option<String> {
    for (provider, accounts) in table.get("accounts")?.as_table()? {
        let mut keys = accounts.as_table().into_iter().flatten();
        if let Some((key, _)) = keys.find(|(_, value)| !value.is_table()) {
            return Some(format!(
                "configuration: `accounts.{provider}.{key}` must be in the section of an account: \
                 `[accounts.{provider}.default]`, or another name for a further account"
            ));
        }
    }
    None
}

/// Describes the mistake if a section sets something of a server but not its address.
fn server_without_address(table: &Table) -> Option<String> {
    for (section, address) in [
        ("kafka", "bootstrap_servers"),
        ("clickhouse", "host"),
        ("postgres", "host"),
        ("redis", "host"),
    ] {
        let Some(Value::Table(keys)) = table.get(section) else {
            continue;
        };
        let has_address = keys.get(address).is_some_and(|value| value.as_str() != Some(""));
        let other = keys.keys().find(|key| *key != address);
        if let (false, Some(other)) = (has_address, other) {
            return Some(format!(
                "configuration: `{section}.{other}` is set, but `{section}.{address}` is not: set it, or remove all of \
                 `[{section}]` and of its environment variables to use the embedded engine"
            ));
        }
    }
    None
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_more_time_than_its_delivery_to_kafka() {
        let checked = |host: &str| {
            let file =
                format!("{host}\n[kafka]\nbootstrap_servers = 'kafka:9092'\ndelivery_timeout_ms = 20000");
            host_config(&parse(file.parse().unwrap()).unwrap())
        };
        let error = checked("").unwrap_err().to_string();
        assert!(
            error.contains("`kafka.delivery_timeout_ms` is 20000 and `host.request_timeout_ms` 15000"),
            "{error}"
        );
        assert!(checked("[host]\nrequest_timeout_ms = 20000").is_err());
        assert!(checked("[host]\nrequest_timeout_ms = 20001").is_ok());
    }

    #[test]
    fn unknown_keys_are_named() {
        let environment = BTreeMap::from([("SENDFLOWR_HOST__LISTNE".to_owned(), "s3cret".to_owned())]);
        let table = merge(None, &environment).unwrap();
        let error = format!("{:#}", parse(table).unwrap_err());
        assert!(error.contains("listne") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn debug_hides_secrets() {
        let file = "[identity]\npepper = 's3cret'\n[telemetry.headers]\nauthorization = 's3cret'\n\
                    [host]\nadmin_token = 's3cret'\n[kafka]\nsasl_password = 's3cret'\n\
                    [accounts.acme.default]\nsigning_key = 's3cret'\n[registry]\npassword = 's3cret'";
        let config = parse(file.parse().unwrap()).unwrap();
        let shown = format!("{config:?}");
        assert!(
            shown.contains("Secret(…)") && !shown.contains("s3cret"),
            "{shown}"
        );
    }

    #[test]
    fn a_variable_and_a_file_mean_what_their_key_takes() {
        type List = fn(RawConfig) -> Vec<String>;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        let configured = |variable: &str, value: &str| {
            let environment = BTreeMap::from([(variable.to_owned(), value.to_owned())]);
            parse(merge(None, &environment).unwrap()).unwrap()
        };
        let from_file = |variable: &str, content: &str| {
            std::fs::write(&path, content).unwrap();
            configured(&format!("{variable}_FILE"), path.to_str().unwrap())
        };
        let lists: [(&str, List); 2] = [
            ("SENDFLOWR_HOST__PLUGINS__TRUSTED_KEYS", |config| {
                config.host.plugins.trusted_keys
            }),
            ("SENDFLOWR_CONSUMER__RELAY_RANGES", |config| {
                config.consumer.relay_ranges
            }),
        ];
        for (variable, list) in lists {
            assert_eq!(list(configured(variable, "a")), ["a"], "{variable}");
            assert_eq!(list(configured(variable, "1, b,")), ["1", "b"], "{variable}");
            assert_eq!(list(from_file(variable, "a, b\nc\n")), ["a, b\nc"], "{variable}");
        }
        for text in ["2024", "007", "1e5", "true", "a,b"] {
            assert_eq!(configured("SENDFLOWR_POSTGRES__USER", text).postgres.user, text);
            assert_eq!(from_file("SENDFLOWR_POSTGRES__USER", text).postgres.user, text);
        }
        let scope = "SENDFLOWR_ACCOUNTS__BRAZE__SHOP__EXTERNAL_ID_SCOPE";
        for text in ["1001", "007", "1e5", "true", "shop"] {
            for config in [configured(scope, text), from_file(scope, text)] {
                let accounts = host::Accounts::try_new(config.accounts, false).unwrap();
                let account = accounts.get("braze", "shop").unwrap();
                assert_eq!(account.external_id_scope(), Some(text));
            }
        }
        assert_eq!(configured("SENDFLOWR_POSTGRES__PORT", "7").postgres.port, 7);
        assert_eq!(from_file("POSTGRES_PORT", "7\n").postgres.port, 7);
        assert_eq!(
            configured("SENDFLOWR_TELEMETRY__SAMPLE_RATIO", "1")
                .telemetry
                .sample_ratio,
            Some(1.0)
        );
        assert!(
            configured("SENDFLOWR_HOST__ALLOW_ANONYMOUS", "true")
                .host
                .allow_anonymous
        );
    }

    #[test]
    fn a_value_in_place_of_a_section_is_not_repeated() {
        let headers = ("SENDFLOWR_TELEMETRY__HEADERS", "authorization=Bearer s3cret");
        let environment = BTreeMap::from([(headers.0.to_owned(), headers.1.to_owned())]);
        let error = parse(merge(None, &environment).unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "configuration: `telemetry.headers` is a section and cannot have a value: set the keys in it, each below \
             `[telemetry.headers]` or by a variable `SENDFLOWR_TELEMETRY__HEADERS__<KEY>`"
        );
        for (section, file) in [
            (
                "telemetry.headers",
                "telemetry.headers = 'authorization=Bearer s3cret'",
            ),
            (
                "telemetry.headers",
                "telemetry.headers = ['s3cret, expected u16']",
            ),
            ("identity", "identity = 's3cret'"),
            ("host.tls", "host.tls = 's3cret'"),
            ("accounts", "accounts = 's3cret'"),
            ("accounts.acme", "accounts.acme = 's3cret'"),
        ] {
            let error = parse(file.parse().unwrap()).unwrap_err().to_string();
            let expected = format!("configuration: `{section}` is a section");
            assert!(
                error.starts_with(&expected) && !error.contains("s3cret"),
                "{error}"
            );
        }
    }

    #[test]
    fn secrets_of_the_wrong_type_are_not_repeated() {
        let error = |file: &str| parse(file.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            error("[postgres]\npassword = 123456"),
            "configuration: `postgres.password` must be a quoted string"
        );
        assert!(error("[redis]\nport = 'x'").contains("`redis.port`"));
    }

    #[test]
    fn a_secret_without_a_value_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for secret in [
            "identity.pepper",
            "host.admin_token",
            "host.metrics_token",
            "host.seal_key",
            "inference.token",
            "inference.metrics_token",
            "consumer.token",
            "consumer.metrics_token",
            "clickhouse.password",
            "postgres.password",
            "redis.password",
            "kafka.sasl_password",
            "registry.password",
            "telemetry.headers.authorization",
        ] {
            for content in ["", "\n", " \t\r\n"] {
                std::fs::write(&path, content).unwrap();
                let error = |file: String| {
                    let table = merge(Some(&path_of(&folder, &file)), &BTreeMap::new()).unwrap();
                    parse(table).unwrap_err().to_string()
                };
                let expected = format!("configuration: `{secret}` is empty, or the file");
                let in_file = error(format!("{secret}_file = '{}'", path.display()));
                assert!(in_file.starts_with(&expected), "{in_file}");
                let in_place = error(format!("{secret} = {content:?}"));
                assert!(in_place.starts_with(&expected), "{in_place}");
            }
        }
    }

    /// Writes a configuration file and returns its path.
    fn path_of(folder: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = folder.path().join("sendflowr.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn common_mistakes_are_told_with_what_to_do() {
        let error = |file: &str| parse(file.parse().unwrap()).unwrap_err().to_string();
        for section in ["host", "inference", "consumer"] {
            assert_eq!(
                error(&format!("[{section}]\nlisten = 'localhost:17999'")),
                format!(
                    "configuration: `{section}.listen` must be an IP address and a port, such as `127.0.0.1:5215`, not a name"
                )
            );
        }
        let nameless = error("[accounts.postmark]\nbasic_auth_user = 's3cret'");
        assert!(
            nameless.starts_with(
                "configuration: `accounts.postmark.basic_auth_user` must be in the section of an account"
            ) && nameless.contains("`[accounts.postmark.default]`")
                && !nameless.contains("s3cret"),
            "{nameless}"
        );
    }

    #[test]
    fn the_documented_way_to_kafka_by_tls_and_sasl_is_accepted() {
        let guide = include_str!("../../docs/deployment.md");
        let (_, section) = guide.split_once("## Kafka by TLS and SASL").unwrap();
        let (_, block) = section.split_once("```toml\n").unwrap();
        let (block, _) = block.split_once("```").unwrap();
        // The contents of the files are not documented: only a certificate's first line is checked here.
        let pem = r#""-----BEGIN CERTIFICATE-----" #"#;
        let block = block.replace("ca_file = ", &format!("ca = {pem}"));
        let config = parse(block.replace("_file = ", " = ").parse().unwrap()).unwrap();
        store::bus::KafkaConfig::try_from(config.kafka).unwrap();
    }

    #[test]
    fn every_documented_name_sets_a_key_that_exists() {
        for name in environment::NAMES {
            let value = if name.key.ends_with("port") { "1" } else { "x" };
            let environment = BTreeMap::from([(name.variable.to_owned(), value.to_owned())]);
            parse(merge(None, &environment).unwrap()).unwrap();
        }
    }

    /// Returns the variables that compose.yml sets for the roles: the shared block, and those that each role adds after it.
    fn variables_of_compose() -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        let mut depth = None;
        for line in include_str!("../../compose.yml").lines() {
            let text = line.trim_start();
            let indent = line.len() - text.len();
            if text == "x-servers: &servers" {
                depth = Some(2);
            } else if text == "<<: *servers" {
                depth = Some(indent);
            } else if depth != Some(indent) {
                depth = None;
            } else if let Some((name, value)) = text.split_once(": ") {
                let value = value.trim_matches('"');
                let default = value
                    .split_once(":-")
                    .map(|(_, default)| default.trim_end_matches('}'));
                variables.insert(name.to_owned(), default.unwrap_or(value).to_owned());
            }
        }
        variables
    }

    #[test]
    fn the_roles_read_what_compose_sets() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "0".repeat(64)).unwrap();
        let variables = variables_of_compose();
        for one in [
            "Kafka__BootstrapServers",
            "SENDFLOWR_INFERENCE__LISTEN",
            "SENDFLOWR_HOST__LISTEN",
            "SENDFLOWR_CONSUMER__LISTEN",
        ] {
            assert!(variables.contains_key(one), "{one}");
        }
        for (name, mut value) in variables {
            if environment::FLAGS.iter().any(|(flag, _)| *flag == name) {
                continue;
            }
            if name.ends_with("_FILE") {
                value = secret.to_str().unwrap().to_owned();
            } else if value.is_empty() {
                "http://collector:4318".clone_into(&mut value);
            }
            let table = merge(None, &BTreeMap::from([(name.clone(), value)])).unwrap();
            assert!(!table.is_empty(), "compose.yml sets `{name}`, which is not read");
            parse(table).unwrap();
        }
    }

    #[test]
    fn settings_of_a_server_without_its_address_are_told() {
        let told = |file: &str, environment: &[(&str, &str)]| {
            let mut table: Table = file.parse().unwrap();
            let environment = environment.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            environment::merge(&mut table, &environment.collect()).unwrap();
            parse(table).unwrap().server_without_address
        };
        assert_eq!(
            told("[redis]\npassword = 's3cret'", &[]).unwrap(),
            "configuration: `redis.password` is set, but `redis.host` is not: set it, or remove all of `[redis]` and of \
             its environment variables to use the embedded engine"
        );
        for (section, address, other) in [
            ("kafka", "bootstrap_servers", "compression = 'zstd'"),
            ("clickhouse", "host", "port = 8123"),
            ("postgres", "host", "user = 'me'"),
            ("redis", "host", "database = 0"),
        ] {
            let missing = format!("`{section}.{address}` is not");
            for file in [
                format!("[{section}]\n{other}"),
                format!("[{section}]\n{address} = ''\n{other}"),
            ] {
                assert!(told(&file, &[]).unwrap().contains(&missing), "{file}");
            }
            assert_eq!(told(&format!("[{section}]"), &[]), None);
            assert_eq!(told(&format!("[{section}]\n{address} = 'x'\n{other}"), &[]), None);
        }
        let password = ("CLICKHOUSE_PASSWORD", "s3cret");
        assert!(
            told("", &[password, ("CLICKHOUSE_HOST", "")])
                .unwrap()
                .contains("`clickhouse.host` is not")
        );
        assert_eq!(told("", &[password, ("CLICKHOUSE_HOST", "x")]), None);
    }

    #[test]
    fn a_mistake_in_the_file_is_told_by_its_line_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sendflowr.toml");
        std::fs::write(&path, "[identity]\npepper = 's3cret\n").unwrap();
        let error = format!("{:#}", merge(Some(&path), &BTreeMap::new()).unwrap_err());
        assert!(error.contains("line 2") && !error.contains("s3cret"), "{error}");
    }
}
