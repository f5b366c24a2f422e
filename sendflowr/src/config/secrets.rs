//! Which keys are secrets, and how to show a configuration without them.

use toml::{Table, Value};

use super::known;

/// The text shown in place of a secret.
const HIDDEN: &str = "(hidden)";

/// Parts of the names of secret keys. Hiding too much costs a look into the file, hiding too little a secret.
const SECRET_WORDS: [&str; 7] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "pepper",
    "key",
    "credential",
];

/// Paths of keys that only look like secrets.
const NOT_SECRET: [&str; 5] = [
    "host.plugins.trusted_keys",
    "host.tls.key",
    "inference.tls.key",
    "consumer.tls.key",
    "redis.key_prefix",
];

/// Keys of servers' addresses, which contain no user and password.
const ADDRESSES: [&str; 2] = ["host", "bootstrap_servers"];

/// Keys of an account that belong to the host and are not secrets.
const HOSTS_OWN: [&str; 3] = ["allow_unsigned", "external_id_scope", "record_deliveries"];

/// Returns whether the key with this path is a secret. In an account only the plugin knows which keys are secrets: all count
/// that do not belong to the host.
pub(crate) fn is_secret(path: &str) -> bool {
    let key = path.rsplit('.').next().unwrap_or(path);
    if path.starts_with("accounts.") {
        return !HOSTS_OWN.contains(&key);
    }
    // As a text in place of a section, they contain the secrets of all their keys.
    if matches!(path, "accounts" | "telemetry.headers") || path.starts_with("telemetry.headers.") {
        return true;
    }
    if NOT_SECRET.contains(&path) || key.ends_with("_file") {
        return false;
    }
    // Only the last part: a section's name says what it is about, not whether it is secret.
    SECRET_WORDS.iter().any(|word| key.contains(word))
}

/// Returns the path of a secret that has no value, which is surely a mistake: the pepper would silently be none. Those of accounts
/// are checked with their providers.
pub(super) fn empty(table: &Table) -> Option<String> {
    empty_in(table, "")
}

fn empty_in(table: &Table, section: &str) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let path = format!("{section}{key}");
        match value {
            Value::Table(inner) if path != "accounts" => empty_in(inner, &format!("{path}.")),
            Value::String(text) if text.trim().is_empty() && is_secret(&path) => Some(path),
            _ => None,
        }
    })
}

/// Returns the table with every secret replaced.
pub(crate) fn hidden(table: &Table) -> Table {
    hidden_in(table, "")
}

fn hidden_in(table: &Table, section: &str) -> Table {
    let mut shown = Table::new();
    for (key, value) in table {
        let path = if section.is_empty() {
            key.clone()
        } else {
            format!("{section}.{key}")
        };
        let value = match value {
            Value::Table(inner) => Value::Table(hidden_in(inner, &path)),
            // A value in place of a section by mistake, `identity = "…"`: nobody can say what it is.
            _ if is_secret(&path) || is_section(&path) => Value::String(HIDDEN.to_owned()),
            // A user and a password by mistake: it is shown before it is refused.
            Value::String(text) if ADDRESSES.contains(&key.as_str()) && text.contains('@') => {
                Value::String(HIDDEN.to_owned())
            }
            Value::String(text) => Value::String(without_credentials(text)),
            other => other.clone(),
        };
        shown.insert(key.clone(), value);
    }
    shown
}

/// Returns whether this is the path of a section with fixed keys.
fn is_section(path: &str) -> bool {
    known::keys_of(&path.split('.').collect::<Vec<_>>()).is_some()
}

/// Returns an address without the user, password and query that it may contain.
pub(crate) fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    match (rest.rsplit_once('@'), rest.split_once(['?', '#'])) {
        (None, None) => text.to_owned(),
        (Some((_, address)), None) => format!("{scheme}://{HIDDEN}@{address}"),
        (None, Some((address, _))) => format!("{scheme}://{address}?{HIDDEN}"),
        // Each may contain the other.
        (Some(_), Some(_)) => format!("{scheme}://{HIDDEN}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_what_may_be_secret() {
        for (text, shown) in [
            ("http://collector:4318/otlp", "http://collector:4318/otlp"),
            ("http://me:s3cret@db:1", "http://(hidden)@db:1"),
            ("http://c/otlp?api_key=s3cret", "http://c/otlp?(hidden)"),
            ("http://c/#s3cret", "http://c/?(hidden)"),
            ("http://c/?key=s3@cret", "http://(hidden)"),
            ("http://me:s3?cret@db", "http://(hidden)"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
        let table: Table = "[redis]\nhost = 'me:s3cret@db'\n[postgres]\nhost = 'db.internal'\n\
             [kafka]\nbootstrap_servers = 'a:1,me:s3cret@kafka:9092'"
            .parse()
            .unwrap();
        let shown = toml::to_string(&hidden(&table)).unwrap();
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("db.internal"), "{shown}");
    }

    #[test]
    fn a_value_in_place_of_a_section_is_not_shown() {
        for file in [
            "identity = 's3cret'",
            "accounts = 's3cret'",
            "accounts.acme = 's3cret'",
            "telemetry.headers = 'authorization=Bearer s3cret'",
            "telemetry.headers = ['authorization=Bearer s3cret']",
            "host.tls = 's3cret'",
            "[[redis]]\npassword = 's3cret'",
        ] {
            let shown = toml::to_string(&hidden(&file.parse().unwrap())).unwrap();
            assert!(shown.contains(HIDDEN) && !shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let table: Table = "
            inference_url = 'http://me:s3cret@inference:8001'
            [identity]
            pepper = 's3cret'
            [host]
            listen = '0.0.0.0:5215'
            seal_key = 's3cret'
            admin_token = 's3cret'
            metrics_token = 's3cret s3cret'
            [host.tls]
            key = '/run/tls.pem'
            [inference]
            token = 's3cret'
            [kafka]
            bootstrap_servers = 'kafka:9092'
            sasl_password = 's3cret'
            [clickhouse]
            user = 'me'
            password = 's3cret'
            [telemetry]
            endpoint = 'http://collector:4318'
            headers = { x-team = 's3cret' }
            [accounts.mailgun.default]
            signing_key = ['s3cret', 's3cret']
            webhook = 's3cret'
            allow_unsigned = false
            record_deliveries = 20
            external_id_scope = 'shop'
            [accounts.mailgun.record_deliveries]
            allow_unsigned_key = 's3cret'"
            .parse()
            .unwrap();
        let shown = hidden(&table);
        let text = toml::to_string(&shown).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(text.matches(HIDDEN).count(), 12, "{text}");
        for kept in [
            "0.0.0.0:5215",
            "/run/tls.pem",
            "kafka:9092",
            "http://collector:4318",
            "\"me\"",
            "allow_unsigned = false",
            "record_deliveries = 20",
            "external_id_scope = \"shop\"",
        ] {
            assert!(text.contains(kept), "{kept} is not in\n{text}");
        }
    }
}
