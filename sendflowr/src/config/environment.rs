//! Configuration from environment variables.
//!
//! Two kinds of names are read. `SENDFLOWR_HOST__LISTEN` sets `listen` in `[host]`: the prefix, then the path in
//! capitals, its parts joined by two underscores. Every key whose path has no capitals can be set that way; a shell cannot
//! name one with a hyphen, orchestrators can. Lists are separated by commas. [`NAMES`] are those of the documentation that
//! users already have; a name with our prefix takes precedence over them. Both also exist with the suffix `_FILE`, naming
//! a file that contains the value. An empty variable counts as not set, because orchestrators pass on variables without a
//! value as empty.

use std::{collections::BTreeMap, ffi::OsString, net::SocketAddr};

use anyhow::bail;
use toml::{Table, Value};

use super::{kinds, known};

/// The prefix of our own variables.
const PREFIX: &str = "SENDFLOWR_";

/// Keys outside of any section, whose variables have no double underscore.
pub(crate) const TOP_LEVEL: [&str; 2] = ["data_folder", "inference_url"];

/// Variables with our prefix that others read: compose.yml, whose `.env` an operator may load into the shell, the tests and the
/// build.
const OF_OTHERS: [&str; 13] = [
    "SENDFLOWR_BIN",
    FILE_OF_COMPOSE,
    "SENDFLOWR_CONNECTOR_ADDRESS",
    "SENDFLOWR_CONSUMER_ADDRESS",
    "SENDFLOWR_FUZZ_CHANGES",
    "SENDFLOWR_FUZZ_SEED",
    "SENDFLOWR_GUESTS",
    "SENDFLOWR_INFERENCE_ADDRESS",
    "SENDFLOWR_SECRETS",
    "SENDFLOWR_SERVERS_ADDRESS",
    "SENDFLOWR_SERVICES",
    "SENDFLOWR_VERSION",
    "SENDFLOWR_WASM_TOOLCHAIN",
];

/// The one of them that names a configuration file, which containers find elsewhere.
const FILE_OF_COMPOSE: &str = "SENDFLOWR_CONFIG_FILE";

/// The prefix of variables that only the tests read.
const OF_TESTS: &str = "SENDFLOWR_TEST_";

/// The suffix of variables that name a file.
const FILE_SUFFIX: &str = "_FILE";

/// A documented variable, and the key that it sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    /// The variable, in the documented case.
    pub(crate) variable: &'static str,
    /// The path of the key.
    pub(crate) key: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Port,
}

const fn text(variable: &'static str, key: &'static str) -> Name {
    let kind = Kind::Text;
    Name { variable, key, kind }
}

const fn port(variable: &'static str, key: &'static str) -> Name {
    let kind = Kind::Port;
    Name { variable, key, kind }
}

/// All documented variables that are read.
pub(crate) const NAMES: [Name; 23] = [
    text("Kafka__BootstrapServers", "kafka.bootstrap_servers"),
    text("InferenceService__Url", "inference_url"),
    text("ClickHouse__Host", "clickhouse.host"),
    port("ClickHouse__Port", "clickhouse.port"),
    text("ClickHouse__Database", "clickhouse.database"),
    text("ClickHouse__User", "clickhouse.user"),
    text("ClickHouse__Password", "clickhouse.password"),
    text("CLICKHOUSE_HOST", "clickhouse.host"),
    port("CLICKHOUSE_PORT", "clickhouse.port"),
    text("CLICKHOUSE_DATABASE", "clickhouse.database"),
    text("CLICKHOUSE_DB", "clickhouse.database"),
    text("CLICKHOUSE_USER", "clickhouse.user"),
    text("CLICKHOUSE_PASSWORD", "clickhouse.password"),
    text("REDIS_HOST", "redis.host"),
    port("REDIS_PORT", "redis.port"),
    text("REDIS_PASSWORD", "redis.password"),
    text("POSTGRES_HOST", "postgres.host"),
    port("POSTGRES_PORT", "postgres.port"),
    text("POSTGRES_DB", "postgres.database"),
    text("POSTGRES_USER", "postgres.user"),
    text("POSTGRES_PASSWORD", "postgres.password"),
    text("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.endpoint"),
    text("OTEL_SERVICE_NAME", "telemetry.service_name"),
];

/// Variables that the command line parser reads; they set no keys.
pub(crate) const FLAGS: [(&str, &str); 2] = [("SENDFLOWR_CONFIG", "--config"), ("SENDFLOWR_LOG", "--log")];

/// Returns the variables of the process that are text. All others are left out, for they are none of ours.
///
/// # Errors
/// Names a variable that is ours, or is documented, and is not text. Passed over in silence, a pepper would be none.
pub(crate) fn variables(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for (name, value) in all {
        match (name.to_str(), value.to_str()) {
            (Some(name), Some(value)) => {
                variables.insert(name.to_owned(), value.to_owned());
            }
            _ if is_for_us(&name.to_string_lossy()) => bail!(
                "environment variable `{}` is not UTF-8 text: give it a value that is, such as random bytes in base64 \
                 (`openssl rand -base64 32`)",
                name.display()
            ),
            _ => {}
        }
    }
    Ok(variables)
}

/// Returns whether the variable is meant for a key.
fn is_for_us(name: &str) -> bool {
    let documented = name.strip_suffix(FILE_SUFFIX).unwrap_or(name);
    // A path may be anything, and the command line parser takes it so.
    let is_flag = FLAGS.iter().any(|(flag, _)| *flag == name);
    let is_ours = name.starts_with(PREFIX) && !is_flag && !OF_OTHERS.contains(&name);
    is_ours || NAMES.iter().any(|known| known.variable == documented)
}

/// Adds the keys that the environment sets to `table`, replacing existing ones.
pub(super) fn merge(table: &mut Table, environment: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (key, Documented { variable, value }) in documented(environment)? {
        insert(table, &key, value, variable.as_str())?;
    }
    for (name, value) in environment {
        if value.is_empty() {
            continue;
        }
        let Some(path) = key_of(name) else {
            refuse_unread(name, value, environment)?;
            continue;
        };
        if environment
            .get(&format!("{name}{FILE_SUFFIX}"))
            .is_some_and(|file| !file.is_empty())
        {
            bail!("environment variables `{name}` and `{name}{FILE_SUFFIX}` set the same key: keep one");
        }
        if path.split('.').any(str::is_empty) {
            bail!("environment variable `{name}` has an empty part in its path");
        }
        insert(table, &path, kinds::of_variable(&path, value), name)?;
    }
    Ok(())
}

/// Returns the variable that sets the key with this path.
pub(super) fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "__"))
}

/// Returns the path of the key that one of our variables sets.
fn key_of(name: &str) -> Option<String> {
    if FLAGS.iter().any(|(flag, _)| *flag == name) {
        return None;
    }
    let path = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
    let is_top_level = TOP_LEVEL.contains(&path.strip_suffix("_file").unwrap_or(&path));
    (path.contains("__") || is_top_level).then(|| path.replace("__", "."))
}

/// Refuses a variable that has our prefix and that nobody reads. It was meant for a key, and a host that once started without its
/// pepper can never be given one later.
fn refuse_unread(name: &str, value: &str, environment: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return Ok(());
    };
    // compose.yml adds the port itself.
    let section = match name {
        "SENDFLOWR_CONNECTOR_ADDRESS" => Some("HOST"),
        "SENDFLOWR_CONSUMER_ADDRESS" => Some("CONSUMER"),
        "SENDFLOWR_INFERENCE_ADDRESS" => Some("INFERENCE"),
        _ => None,
    };
    if let Some(section) = section
        && value.parse::<SocketAddr>().is_ok()
    {
        bail!(
            "environment variable `{name}` is read by compose.yml alone, and without a port: did you mean \
             `{PREFIX}{section}__LISTEN`?"
        );
    }
    let is_read = FLAGS.iter().any(|(flag, _)| *flag == name)
        || OF_OTHERS.contains(&name)
        || name.starts_with(OF_TESTS)
        // The tests set both; alone it was meant for the folder.
        || (name == "SENDFLOWR_PLUGINS" && environment.contains_key("SENDFLOWR_BIN"));
    if is_read || is_of_kubernetes(name, value) {
        return Ok(());
    }
    let meant = meant(&rest.to_ascii_lowercase());
    if meant.is_empty() {
        bail!(
            "environment variable `{name}` is not read: `{PREFIX}<SECTION>__<KEY>` sets a key of docs/settings.md, and \
             `sendflowr config names` lists the other variables"
        );
    }
    bail!(
        "environment variable `{name}` is not read: did you mean {}?",
        meant.join(" or ")
    )
}

/// Returns the variables of all keys that are called like this, apart from separators and missing outer sections. `rest` is what
/// follows the prefix.
fn meant(rest: &str) -> Vec<String> {
    if rest.starts_with("accounts_") {
        // Only the operator knows where the names of provider and account end.
        return vec![format!(
            "`{PREFIX}ACCOUNTS__<PROVIDER>__<ACCOUNT>__<KEY>`, with two underscores between the parts"
        )];
    }
    let plain = |text: &str| text.replace(['_', '.'], "");
    let (rest, suffix) = match rest.strip_suffix("_file") {
        Some(rest) => (rest, FILE_SUFFIX),
        None => (rest, ""),
    };
    let rest = plain(rest);
    let is_meant = |path: &str| {
        let inner = path.match_indices('.').map(|(at, _)| &path[at + 1..]);
        std::iter::once(path).chain(inner).any(|name| plain(name) == rest)
    };
    let paths = known::paths();
    let is_section = |path: &str| paths.iter().any(|other| other.starts_with(&format!("{path}.")));
    let found = paths.iter().filter(|path| is_meant(path)).map(|path| {
        let end = if is_section(path) { "__<KEY>" } else { suffix };
        format!("`{}{end}`", variable_of(path))
    });
    found.collect()
}

/// Refuses compose.yml's variable for the configuration file where no other way names one: without the file a host would run with
/// neither its accounts nor its pepper.
///
/// # Errors
/// Says what names the file.
pub(crate) fn refuse_file_of_compose(environment: &BTreeMap<String, String>) -> anyhow::Result<()> {
    if environment
        .get(FILE_OF_COMPOSE)
        .is_none_or(|file| file.is_empty())
    {
        return Ok(());
    }
    bail!(
        "environment variable `{FILE_OF_COMPOSE}` is read by compose.yml alone: name the configuration file with `--config` or \
         `SENDFLOWR_CONFIG`"
    )
}

/// Returns whether the variable is one that Kubernetes sets in every pod if there is a service named `sendflowr-consumer` or
/// similar: `…_SERVICE_HOST`, `…_SERVICE_PORT` and `…_SERVICE_PORT_HTTP`, `…_PORT=tcp://10.0.0.1:8002`, `…_PORT_8002_TCP`
/// and names that begin like the last one.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let of_a_port = name.rsplit_once("_PORT_").is_some_and(|(_, port)| {
        let protocol = port.trim_start_matches(|digit: char| digit.is_ascii_digit());
        protocol.len() < port.len()
            && ["_TCP", "_UDP", "_SCTP"]
                .iter()
                .any(|begin| protocol.starts_with(begin))
    });
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || of_a_port
}

/// The value of a documented key, and the variable it comes from.
struct Documented {
    variable: String,
    value: Value,
}

/// Returns what the documented variables set, by key; a key ends in `_file` if the value names a file.
fn documented(environment: &BTreeMap<String, String>) -> anyhow::Result<BTreeMap<String, Documented>> {
    let mut found: BTreeMap<&str, (String, Documented)> = BTreeMap::new();
    for Name { variable, key, kind } in NAMES {
        for is_file in [false, true] {
            let (variable, target) = if is_file {
                (format!("{variable}{FILE_SUFFIX}"), format!("{key}_file"))
            } else {
                (variable.to_owned(), key.to_owned())
            };
            let Some(given) = environment.get(&variable).filter(|value| !value.is_empty()) else {
                continue;
            };
            let value = if kind == Kind::Port && !is_file {
                // Kubernetes sets `REDIS_PORT=tcp://10.0.0.1:6379` by itself if there is a service `redis`.
                if given.starts_with("tcp://") {
                    continue;
                }
                let Ok(port) = given.parse::<u16>() else {
                    bail!("environment variable `{variable}` must be a port, 1 to 65535");
                };
                Value::Integer(port.into())
            } else {
                Value::String(given.clone())
            };
            if let Some((earlier_target, earlier)) = found.get(key)
                && (*earlier_target != target || earlier.value != value)
            {
                bail!(
                    "environment variables `{}` and `{variable}` set `{key}` differently: keep one",
                    earlier.variable
                );
            }
            found.insert(key, (target, Documented { variable, value }));
        }
    }
    Ok(found.into_values().collect())
}

/// Sets one key, replacing the value that the table has under its name or as its file.
pub(super) fn insert(table: &mut Table, path: &str, value: Value, variable: &str) -> anyhow::Result<()> {
    let (sections, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut target = table;
    for part in sections.split('.').filter(|part| !part.is_empty()) {
        let entry = target.entry(part).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = entry else {
            bail!("environment variable `{variable}` goes through `{part}`, which is a value, not a section");
        };
        target = inner;
    }
    match key.strip_suffix("_file") {
        Some(value_key) => target.remove(value_key),
        None => target.remove(&format!("{key}_file")),
    };
    target.insert(key.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn merged(file: &str, environment: &[(&str, &str)]) -> anyhow::Result<Table> {
        let mut table: Table = file.parse()?;
        let environment = environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        merge(&mut table, &environment)?;
        Ok(table)
    }

    fn error(environment: &[(&str, &str)]) -> String {
        merged("", environment).unwrap_err().to_string()
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let table = merged(
            "[host]\nlisten = '1.2.3.4:5'\nmax_body_bytes = 7",
            &[
                ("SENDFLOWR_HOST__LISTEN", "0.0.0.0:80"),
                ("SENDFLOWR_CONSUMER__BATCH_EVENTS", "10"),
                ("SENDFLOWR_DATA_FOLDER", "/data"),
                ("SENDFLOWR_LOG", "debug"),
                ("SENDFLOWR_BIN", "x"),
                ("PATH", "x"),
            ],
        );
        let expected = "data_folder = '/data'\n[host]\nlisten = '0.0.0.0:80'\nmax_body_bytes = 7\n\
                        [consumer]\nbatch_events = 10";
        assert_eq!(table.unwrap(), expected.parse::<Table>().unwrap());
        assert!(merged("host = 1", &[("SENDFLOWR_HOST__LISTEN", "x")]).is_err());
        assert!(merged("", &[("SENDFLOWR_HOST____LISTEN", "x")]).is_err());
    }

    #[test]
    fn what_was_meant_for_a_key_is_refused() {
        for (variable, meant) in [
            (
                "SENDFLOWR_IDENTITY_PEPPER_FILE",
                "SENDFLOWR_IDENTITY__PEPPER_FILE",
            ),
            ("SENDFLOWR_HOST_LISTEN", "SENDFLOWR_HOST__LISTEN"),
            ("SENDFLOWR_host_listen", "SENDFLOWR_HOST__LISTEN"),
            ("SENDFLOWR_HOST_PLUGINS_FOLDER", "SENDFLOWR_HOST__PLUGINS__FOLDER"),
            (
                "SENDFLOWR_HOST_PLUGINS_LIMITS_CPU_TIME_MS",
                "SENDFLOWR_HOST__PLUGINS__LIMITS__CPU_TIME_MS",
            ),
            ("SENDFLOWR_REDIS_PORT", "SENDFLOWR_REDIS__PORT"),
            (
                "SENDFLOWR_TELEMETRY_SERVICE_NAME",
                "SENDFLOWR_TELEMETRY__SERVICE_NAME",
            ),
            (
                "SENDFLOWR_ACCOUNTS_SENDGRID_DEFAULT_PUBLIC_KEY",
                "SENDFLOWR_ACCOUNTS__<PROVIDER>__<ACCOUNT>__<KEY>",
            ),
            ("SENDFLOWR_PEPPER", "SENDFLOWR_IDENTITY__PEPPER"),
            ("SENDFLOWR_PEPPER_FILE", "SENDFLOWR_IDENTITY__PEPPER_FILE"),
            ("SENDFLOWR_ADMIN_TOKEN", "SENDFLOWR_HOST__ADMIN_TOKEN"),
            ("SENDFLOWR_SEAL_KEY", "SENDFLOWR_HOST__SEAL_KEY"),
            ("SENDFLOWR_DATAFOLDER", "SENDFLOWR_DATA_FOLDER"),
            ("SENDFLOWR_PLUGINS", "SENDFLOWR_HOST__PLUGINS__<KEY>"),
            ("SENDFLOWR_PLUGINS_FOLDER", "SENDFLOWR_HOST__PLUGINS__FOLDER"),
            (
                "SENDFLOWR_TOKEN",
                "SENDFLOWR_CONSUMER__TOKEN` or `SENDFLOWR_INFERENCE__TOKEN",
            ),
        ] {
            let error = error(&[(variable, "6380")]);
            let expected = format!("environment variable `{variable}` is not read: did you mean `{meant}`");
            assert!(error.starts_with(&expected), "{error}");
            assert_eq!(merged("", &[(variable, "")]).unwrap(), Table::new());
        }
        let error = error(&[("SENDFLOWR_HOSTNAME", "s3cret")]);
        assert!(
            error.starts_with(
                "environment variable `SENDFLOWR_HOSTNAME` is not read: `SENDFLOWR_<SECTION>__<KEY>`"
            ),
            "{error}"
        );
    }

    #[test]
    fn what_is_for_us_and_is_not_text_is_refused() {
        let read = |name: &[u8]| {
            let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
            variables([(bytes(name), bytes(b"s3cret\xff"))].into_iter())
        };
        for name in [
            "SENDFLOWR_IDENTITY__PEPPER",
            "SENDFLOWR_IDENTITY__PEPPER_FILE",
            "POSTGRES_PASSWORD",
            "POSTGRES_PASSWORD_FILE",
        ] {
            let error = read(name.as_bytes()).unwrap_err().to_string();
            let expected = format!("environment variable `{name}` is not UTF-8 text");
            assert!(
                error.starts_with(&expected) && !error.contains("s3cret"),
                "{error}"
            );
        }
        assert!(read(b"SENDFLOWR_HOST__\xff").is_err());
        for other in ["SENDFLOWR_CONFIG", "SENDFLOWR_SECRETS", "LS_COLORS"] {
            assert_eq!(read(other.as_bytes()).unwrap(), BTreeMap::new(), "{other}");
        }
    }

    #[test]
    fn what_others_set_with_our_prefix_is_passed_over() {
        let others = [
            ("SENDFLOWR_TEST_REDIS", "127.0.0.1:6379"),
            ("SENDFLOWR_BIN", "x"),
            ("SENDFLOWR_PLUGINS", "x"),
            ("SENDFLOWR_CONSUMER_SERVICE_HOST", "10.0.0.1"),
            ("SENDFLOWR_CONSUMER_SERVICE_PORT", "8002"),
            ("SENDFLOWR_CONSUMER_SERVICE_PORT_HTTP", "8002"),
            ("SENDFLOWR_CONSUMER_PORT", "tcp://10.0.0.1:8002"),
            ("SENDFLOWR_CONSUMER_PORT_8002_TCP", "tcp://10.0.0.1:8002"),
            ("SENDFLOWR_CONSUMER_PORT_8002_TCP_ADDR", "10.0.0.1"),
            ("SENDFLOWR_CONSUMER_PORT_8002_TCP_PORT", "8002"),
            ("SENDFLOWR_HOST_PLUGINS_PORT_8002_UDP_PROTO", "udp"),
        ];
        assert_eq!(merged("", &others).unwrap(), Table::new());
        // compose.yml reads its variables from `.env`, which may also be in the environment of a role.
        let compose = include_str!("../../../compose.yml");
        let names: Vec<&str> = compose
            .split("${")
            .skip(1)
            .filter_map(|rest| rest.split([':', '}']).next())
            .filter(|name| name.starts_with(PREFIX))
            .collect();
        assert!(names.len() > 5, "{names:?}");
        for name in names {
            assert_eq!(merged("", &[(name, "x")]).unwrap(), Table::new(), "{name}");
        }
    }

    #[test]
    fn what_compose_takes_in_another_form_is_told() {
        for (variable, meant) in [
            ("SENDFLOWR_INFERENCE_ADDRESS", "SENDFLOWR_INFERENCE__LISTEN"),
            ("SENDFLOWR_CONSUMER_ADDRESS", "SENDFLOWR_CONSUMER__LISTEN"),
            ("SENDFLOWR_CONNECTOR_ADDRESS", "SENDFLOWR_HOST__LISTEN"),
        ] {
            for value in ["0.0.0.0:8001", "[::]:8001"] {
                let error = error(&[(variable, value)]);
                assert!(error.ends_with(&format!("did you mean `{meant}`?")), "{error}");
            }
            for value in ["0.0.0.0", "::", "[::]"] {
                assert_eq!(merged("", &[(variable, value)]).unwrap(), Table::new(), "{value}");
            }
        }
    }

    #[test]
    fn a_key_outside_of_any_section_may_be_in_a_file() {
        let table = merged("", &[("SENDFLOWR_INFERENCE_URL_FILE", "/run/url")]);
        let expected = "inference_url_file = '/run/url'".parse::<Table>();
        assert_eq!(table.unwrap(), expected.unwrap());
    }

    #[test]
    fn every_documented_name_sets_its_key() {
        for Name { variable, key, kind } in NAMES {
            let (value, expected) = match kind {
                Kind::Text => ("0123", Value::String("0123".to_owned())),
                Kind::Port => ("8123", Value::Integer(8123)),
            };
            let mut found = Value::Table(merged("", &[(variable, value)]).unwrap());
            for part in key.split('.') {
                found = found[part].clone();
            }
            assert_eq!(found, expected, "{variable}");

            let mut found = Value::Table(merged("", &[(&format!("{variable}_FILE"), "/run/x")]).unwrap());
            for part in format!("{key}_file").split('.') {
                found = found[part].clone();
            }
            assert_eq!(found, Value::String("/run/x".to_owned()), "{variable}");
        }
    }

    #[test]
    fn our_names_win_over_documented_ones_and_those_over_the_file() {
        let file = "[redis]\nhost = 'file'\npassword_file = '/file'";
        let documented = ("REDIS_HOST", "documented");
        let table = merged(file, &[documented, ("REDIS_PASSWORD", "x")]).unwrap();
        assert_eq!(
            table,
            "[redis]\nhost = 'documented'\npassword = 'x'"
                .parse::<Table>()
                .unwrap()
        );
        let table = merged(
            file,
            &[
                documented,
                ("SENDFLOWR_REDIS__HOST", "ours"),
                ("REDIS_PASSWORD_FILE", "/x"),
            ],
        );
        assert_eq!(
            table.unwrap(),
            "[redis]\nhost = 'ours'\npassword_file = '/x'"
                .parse::<Table>()
                .unwrap()
        );
    }

    #[test]
    fn names_that_contradict_each_other_are_refused() {
        assert_eq!(
            error(&[("CLICKHOUSE_DB", "a"), ("CLICKHOUSE_DATABASE", "b")]),
            "environment variables `CLICKHOUSE_DATABASE` and `CLICKHOUSE_DB` set `clickhouse.database` differently: keep one"
        );
        assert!(merged("", &[("CLICKHOUSE_DB", "a"), ("ClickHouse__Database", "a")]).is_ok());
        assert!(error(&[("REDIS_PASSWORD", "a"), ("REDIS_PASSWORD_FILE", "a")]).contains("keep one"));
        let ours = ("SENDFLOWR_REDIS__PASSWORD", "a");
        assert!(error(&[ours, ("SENDFLOWR_REDIS__PASSWORD_FILE", "a")]).contains("keep one"));
    }

    #[test]
    fn what_is_empty_or_set_by_kubernetes_counts_as_not_set() {
        let environment = [
            ("REDIS_PORT", "tcp://10.0.0.1:6379"),
            ("REDIS_HOST", ""),
            ("SENDFLOWR_REDIS__PASSWORD", ""),
        ];
        assert_eq!(merged("", &environment).unwrap(), Table::new());
        assert_eq!(
            error(&[("POSTGRES_PORT", "s3cret")]),
            "environment variable `POSTGRES_PORT` must be a port, 1 to 65535"
        );
    }

    #[test]
    fn secrets_stay_text() {
        let table = merged(
            "",
            &[
                ("SENDFLOWR_ACCOUNTS__MAILGUN__DEFAULT__SIGNING_KEY", "1e5"),
                ("SENDFLOWR_ACCOUNTS__MAILGUN__DEFAULT__ALLOW_UNSIGNED", "true"),
                ("SENDFLOWR_POSTGRES__PASSWORD", "0123"),
                ("SENDFLOWR_IDENTITY__PEPPER", "true"),
            ],
        );
        let expected = "[accounts.mailgun.default]\nsigning_key = '1e5'\nallow_unsigned = true\n\
                        [postgres]\npassword = '0123'\n[identity]\npepper = 'true'";
        assert_eq!(table.unwrap(), expected.parse::<Table>().unwrap());
    }
}
