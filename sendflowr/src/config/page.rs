//! Tests that docs/settings.md has every key of the configuration and no other, with its default and its range.

use std::{collections::BTreeSet, path::Path};

use toml::{Table, Value};

use super::{kinds, known};
use crate::telemetry::TelemetryConfig;

const PAGE: &str = include_str!("../../../docs/settings.md");

/// Sections whose keys are in docs/limits.md, which has a test of its own.
const OF_THE_LIMITS: [&str; 2] = ["host.plugins.limits", "host.plugins.quarantine"];

/// Keys whose default the page describes in words.
const DESCRIBED: [&str; 17] = [
    "host.allow_mock_events",
    "host.seal_key",
    "host.plugins.cache_folder",
    "host.plugins.lock",
    "inference.model_folder",
    "inference.experiment.salt",
    "kafka.ca",
    "kafka.replication_factor",
    "clickhouse.ca",
    "clickhouse.port",
    "clickhouse.ttl_days",
    "postgres.ca",
    "redis.ca",
    "redis.user",
    "store.event_retention_seconds",
    "telemetry.service_name",
    "telemetry.sample_ratio",
];

/// Keys that make no difference on loopback, where the roles listen by default.
const BEYOND_LOOPBACK: [&str; 3] = [
    "consumer.allow_anonymous",
    "host.allow_anonymous",
    "inference.allow_anonymous",
];

/// What has to be configured for the other keys of a section to have an effect.
const CONFIGURED: &str = "
    kafka.bootstrap_servers = 'k:9092'
    clickhouse.host = 'c'
    postgres.host = 'p'
    redis.host = 'r'
    telemetry.endpoint = 'http://t:4318'
    [inference.hot_paths]
    site_visit = { weight = 0.5, half_life_seconds = 1800 }
    product_view = { weight = 1.0, half_life_seconds = 3600 }
    sms_click = { weight = 1.0, half_life_seconds = 1800 }
    push_click = { weight = 0.8, half_life_seconds = 1800 }
";

/// A key and what its row says about it.
struct Row {
    key: String,
    default: &'static str,
    range: &'static str,
}

/// Returns the keys on the page: rows below a heading, which names the sections that have them. Where there are several and their
/// defaults differ, the row lists these in the order of the sections.
fn documented() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut sections: Vec<String> = Vec::new();
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let names = heading.split('`').skip(1).step_by(2);
            let names = names.map(|name| name.trim_matches(['[', ']']).to_owned() + ".");
            sections = names.collect();
            if sections.is_empty() {
                sections.push(String::new());
            }
        }
        if !line.starts_with("| `") {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (key, default, range) = (cells[0].trim_matches('`'), cells[1], cells[2]);
        let defaults: Vec<&str> = default.split(", ").collect();
        for (index, section) in sections.iter().enumerate() {
            let own = sections.len() > 1 && defaults.len() == sections.len();
            rows.push(Row {
                key: format!("{section}{key}"),
                default: if own { defaults[index] } else { default },
                range,
            });
        }
    }
    rows
}

/// Returns a key's default as a variable would set it, or `None` if the page describes it in words. A longer explanation may
/// follow a number in brackets.
fn value(key: &str, default: &str) -> Option<Value> {
    let plain = default
        .split_once(" (")
        .map_or(default, |(plain, _)| plain)
        .trim_matches('`');
    let is_text = default == format!("`{plain}`") && !plain.contains('`');
    (is_text || plain.parse::<f64>().is_ok()).then(|| kinds::of_variable(key, plain))
}

/// Returns both ends of a range of numbers.
fn ends(range: &str) -> Option<(f64, f64)> {
    let (least, most) = range.split_once(" to ")?;
    Some((least.parse().ok()?, most.parse().ok()?))
}

/// Returns a number of the same type as the default, or a whole one if there is none.
fn number(like: Option<&Value>, number: f64) -> Value {
    match like {
        Some(Value::Float(_)) => Value::from(number),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the ranges of whole numbers are whole"
        )]
        _ => Value::from(number as i64),
    }
}

/// Returns [`CONFIGURED`], with a certificate for every role in the folder.
fn configured(folder: &Path) -> Table {
    let mut table: Table = CONFIGURED.parse().unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut tls = Table::new();
    for (name, pem) in [
        ("certificate", certified.cert.pem()),
        ("key", certified.signing_key.serialize_pem()),
    ] {
        let file = folder.join(name);
        std::fs::write(&file, pem).unwrap();
        tls.insert(name.to_owned(), Value::from(file.to_str().unwrap()));
    }
    for role in ["host", "consumer", "inference"] {
        let section = table
            .entry(role)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .unwrap();
        section.insert("tls".to_owned(), Value::Table(tls.clone()));
    }
    table
}

/// Returns what the roles make of this configuration and these keys.
///
/// # Errors
/// Returns what they would refuse it with.
fn made_of(configured: &Table, keys: &[(&str, Value)]) -> Result<String, String> {
    let mut table = configured.clone();
    for (key, value) in keys {
        let mut target = &mut table;
        let mut path: Vec<&str> = key.split('.').collect();
        let last = path.pop().unwrap();
        for section in path {
            let entry = target
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            target = entry.as_table_mut().unwrap();
        }
        target.insert(last.to_owned(), value.clone());
    }
    let raw = super::parse(table).map_err(|error| error.to_string())?;
    let folder = crate::config::data_folder(&raw);
    let text = |error: &dyn std::error::Error| error.to_string();
    let host = host::HostConfig::try_new(raw.host, host::RawAccounts::default(), &folder);
    Ok(format!(
        "{:?}",
        (
            folder,
            host.map_err(|error| text(&error))?,
            consumer::ConsumerConfig::try_from(raw.consumer).map_err(|error| text(&error))?,
            inference::InferenceConfig::try_from(raw.inference).map_err(|error| text(&error))?,
            TelemetryConfig::try_new(raw.telemetry).map_err(|error| text(&error))?,
            store::embedded::EmbeddedConfig::try_from(raw.store).map_err(|error| text(&error))?,
            store::bus::KafkaConfig::try_from(raw.kafka).map_err(|error| text(&error))?,
            store::events::ClickHouseConfig::try_from(raw.clickhouse).map_err(|error| text(&error))?,
            store::identity::PostgresConfig::try_from(raw.postgres).map_err(|error| text(&error))?,
            store::profiles::RedisConfig::try_from(raw.redis).map_err(|error| text(&error))?,
        )
    ))
}

#[test]
fn every_key_is_on_the_page_and_no_other() {
    let is_of_the_limits = |path: &str| OF_THE_LIMITS.iter().any(|section| path.starts_with(section));
    let is_key = |path: &str| known::keys_of(&path.split('.').collect::<Vec<_>>()).is_none();
    let mut known: BTreeSet<String> = known::paths()
        .into_iter()
        .filter(|path| !is_of_the_limits(path) && is_key(path))
        .collect();
    // Its keys are names that the operator chooses.
    assert!(known.remove("accounts") && known.len() > 100, "{known:?}");
    let rows = documented().len();
    let page: BTreeSet<String> = documented().into_iter().map(|row| row.key).collect();
    assert_eq!(page.len(), rows, "a key has two rows");
    let missing: Vec<&String> = known.difference(&page).collect();
    assert!(missing.is_empty(), "docs/settings.md lacks {missing:?}");
    let unknown: Vec<&String> = page.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "docs/settings.md lists keys that do not exist: {unknown:?}"
    );
}

#[test]
fn every_default_is_that_of_the_code() {
    let folder = tempfile::tempdir().unwrap();
    let configured = configured(folder.path());
    let usual = made_of(&configured, &[]).unwrap();
    let mut wrong = Vec::new();
    let (mut compared, mut described, mut alike) = (0, BTreeSet::new(), BTreeSet::new());
    for Row { key, default, range } in documented() {
        if default == "-" {
            continue;
        }
        let Some(default) = value(&key, default) else {
            described.insert(key);
            continue;
        };
        let written = made_of(&configured, &[(&key, default.clone())]);
        if written.as_ref() != Ok(&usual) {
            wrong.push(format!("{key} = {default}"));
            continue;
        }
        // The comparison would find another default: another value makes a difference, or is refused.
        let another = match (&default, ends(range)) {
            (Value::Boolean(is_set), _) => Value::from(!is_set),
            (Value::String(_) | Value::Array(_), _) => continue,
            (_, Some((least, most))) => {
                let given = default
                    .as_float()
                    .or(default.as_integer().map(|whole| whole as f64));
                let end = if given == Some(most) { least } else { most };
                number(Some(&default), end)
            }
            (Value::Integer(whole), None) => Value::from(whole + 1),
            _ => panic!("`{key}` has no range"),
        };
        if made_of(&configured, &[(&key, another)]) == written {
            alike.insert(key);
        }
        compared += 1;
    }
    assert!(
        wrong.is_empty(),
        "docs/settings.md has other defaults than the code: {wrong:?}"
    );
    assert_eq!(alike, BEYOND_LOOPBACK.map(str::to_owned).into());
    assert!(compared > 60, "only {compared}");
    assert_eq!(described, DESCRIBED.map(str::to_owned).into());
}

#[test]
fn every_range_is_that_of_the_code() {
    let folder = tempfile::tempdir().unwrap();
    let configured = configured(folder.path());
    let mut compared = 0;
    for Row { key, default, range } in documented() {
        let Some((least, most)) = ends(range) else {
            continue;
        };
        let default = value(&key, default);
        let within = format!("it must be between {least} and {most}");
        // Whole numbers below zero have another error, that of their type.
        let below = (least >= 1.0).then_some(least - 1.0);
        for outside in below.into_iter().chain([most + 1.0]) {
            let error = made_of(&configured, &[(&key, number(default.as_ref(), outside))]);
            let error = error.expect_err(&key);
            assert!(
                error.contains(&format!("`{key}` ")) && error.ends_with(&within),
                "{key}: {error}"
            );
        }
        compared += 1;
    }
    assert!(compared > 60, "only {compared}");
}
