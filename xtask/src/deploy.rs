//! Checks of what is deployed: that compose.yml, the alerts, the dashboard and the runbook speak of settings and metrics that
//! the code has. A misspelt name in one of them would fail nowhere else; it would be ignored.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::{
    process::{in_ci, root, run as run_command, say},
    setup,
};

/// The services of compose.yml that run this repository's binary, and the block whose variables they share.
const OURS: [&str; 4] = ["x-servers", "inference", "connector", "consumer"];

/// Variables that the command line reads itself.
const OF_THE_COMMAND_LINE: [&str; 3] = ["SENDFLOWR_CONFIG", "SENDFLOWR_LOG", "SENDFLOWR_DATA_FOLDER"];

/// What a container may use unless somebody sets it. An engine refuses to start one that may use more processors than the
/// machine has, and the smallest machine that docs/deployment.md speaks of has two.
const PROCESSORS: f64 = 2.0;

/// Runs all of them, and the tools of Docker and Prometheus where they are.
pub(crate) fn check() -> anyhow::Result<()> {
    let sources = sources()?;
    let mut mistakes = Vec::new();
    let compose = read("compose.yml")?;
    for name in our_variables(&compose) {
        if !is_read(&name, &sources) {
            mistakes.push(format!(
                "compose.yml sets `{name}`, which the configuration does not read"
            ));
        }
    }
    let (asked, offered) = (interpolations(&compose), offered(&read(".env.example")?));
    for name in asked.symmetric_difference(&offered) {
        let (there, missing) = if asked.contains(name) {
            ("compose.yml", ".env.example")
        } else {
            (".env.example", "compose.yml")
        };
        mistakes.push(format!("`{name}` is in {there} and not in {missing}"));
    }
    for limit in processor_limits(&compose) {
        if !default(limit).is_some_and(|default| default <= PROCESSORS) {
            mistakes.push(format!(
                "compose.yml has `cpus: {limit}`: its default must be a number of at most {PROCESSORS}"
            ));
        }
    }
    let counted = counted(&read("docs/metrics.md")?);
    let alerts = read("deploy/prometheus/alerts.yml")?;
    for (file, text) in [
        ("deploy/prometheus/alerts.yml", &alerts),
        (
            "deploy/grafana/dashboard.json",
            &read("deploy/grafana/dashboard.json")?,
        ),
    ] {
        for metric in metrics(text).difference(&counted) {
            mistakes.push(format!(
                "{file} asks for `{metric}`, which docs/metrics.md does not have"
            ));
        }
    }
    let (alerts, entries) = (
        after(&alerts, "- alert: "),
        after(&read("docs/runbook.md")?, "## "),
    );
    for name in alerts.symmetric_difference(&entries) {
        mistakes.push(format!(
            "`{name}` is only in one of alerts.yml and docs/runbook.md"
        ));
    }
    if !mistakes.is_empty() {
        bail!("{}", mistakes.join("\n"));
    }
    tool(
        "docker-compose",
        "docker-compose",
        &["--file", "compose.yml", "config", "--quiet"],
    )?;
    tool(
        "promtool",
        "prometheus",
        &["check", "rules", "deploy/prometheus/alerts.yml"],
    )
}

/// Runs a tool of a Debian package. CI installs it, a desk goes without.
fn tool(program: &str, package: &str, arguments: &[&str]) -> anyhow::Result<()> {
    if !setup::has_program(program) {
        if !in_ci() {
            say(&format!(
                "skipped: `{program}`, of Debian's package {package}, is not here"
            ));
            return Ok(());
        }
        setup::install(&[package])?;
    }
    run_command(Command::new(program).args(arguments).current_dir(root()))
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| format!("cannot read `{path}`"))
}

/// The Rust sources in which settings and metrics are declared, one text each.
fn sources() -> anyhow::Result<Vec<String>> {
    let mut texts = Vec::new();
    for folder in ["sendflowr", "host", "consumer", "inference", "store", "listener"] {
        collect(&root().join(folder).join("src"), &mut texts)?;
    }
    Ok(texts)
}

fn collect(folder: &Path, texts: &mut Vec<String>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    for entry in entries {
        let path: PathBuf = entry?.path();
        if path.is_dir() {
            collect(&path, texts)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// The names below `environment:` of our services, and in the shared block.
fn our_variables(compose: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_ours = false;
    let mut depth = None;
    for line in compose.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        let Some((key, _)) = text.split_once(':') else {
            continue;
        };
        if text.starts_with('#') {
            continue;
        }
        if depth.is_some_and(|depth| indent <= depth) {
            depth = None;
        }
        // A block of the file, or a service.
        if indent == 0 || indent == 2 && depth.is_none() {
            is_ours = OURS.contains(&key);
        }
        if is_ours && (key == "environment" || key == "x-servers") {
            depth = Some(indent);
        } else if is_ours && depth.is_some() && key != "<<" {
            names.insert(key.to_owned());
        }
    }
    names
}

/// The names that Docker Compose replaces: `${NAME:-default}`.
fn interpolations(compose: &str) -> BTreeSet<String> {
    compose
        .split("${")
        .skip(1)
        .map(|rest| word(rest).to_owned())
        .collect()
}

/// What stands behind each `cpus:`.
fn processor_limits(compose: &str) -> impl Iterator<Item = &str> {
    compose
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("cpus: "))
}

/// The number of a limit `${NAME:-2}` unless the variable is set.
fn default(limit: &str) -> Option<f64> {
    let (_, default) = limit.strip_suffix('}')?.split_once(":-")?;
    default.parse().ok()
}

/// The names that the example offers, each in a line `#NAME=default`.
fn offered(example: &str) -> BTreeSet<String> {
    let lines = example
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once('='));
    lines
        .filter(|(name, _)| !name.is_empty() && word(name) == *name)
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// The rest of each line after the mark.
fn after(text: &str, mark: &str) -> BTreeSet<String> {
    let lines = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix(mark));
    lines.map(|rest| rest.trim().to_owned()).collect()
}

/// Our metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let names = text.match_indices("sendflowr_");
    names
        .map(|(position, _)| word(&text[position..]).to_owned())
        .collect()
}

/// The series of the page of metrics, which a test of the roles holds to what they count: a row for each metric, a histogram
/// with the names that the exposition makes of it.
fn counted(page: &str) -> BTreeSet<String> {
    let mut series = BTreeSet::new();
    for row in page.lines().filter_map(|line| line.strip_prefix("| `")) {
        let name = word(row);
        let is_histogram = row.split(" | ").nth(1) == Some("histogram");
        let ends: &[&str] = if is_histogram {
            &["_bucket", "_sum", "_count"]
        } else {
            &[""]
        };
        series.extend(ends.iter().map(|end| format!("{name}{end}")));
    }
    series
}

/// Letters, digits and underscores from the start of the text.
fn word(text: &str) -> &str {
    let end = text.find(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric());
    &text[..end.unwrap_or(text.len())]
}

/// Whether the configuration reads a variable: it stands in the sources as it is, or it is the path of a key whose parts are
/// all fields.
fn is_read(name: &str, sources: &[String]) -> bool {
    let base = name.strip_suffix("_FILE").unwrap_or(name);
    if OF_THE_COMMAND_LINE.contains(&name) {
        return true;
    }
    if let Some(path) = base.strip_prefix("SENDFLOWR_") {
        return path.to_ascii_lowercase().split("__").all(|part| {
            let field = format!(" {part}: ");
            sources.iter().any(|source| source.contains(&field))
        });
    }
    // The names that users know for the servers stand in a table of the configuration.
    let quoted = format!("\"{base}\"");
    sources.iter().any(|source| source.contains(&quoted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_our_services_are_found_and_no_others() {
        let compose = "\
x-servers: &servers
  # KAFKA: a comment
  Kafka__BootstrapServers: kafka:9092
services:
  postgres:
    environment:
      POSTGRES_INITDB_ARGS: x
  connector:
    environment:
      <<: *servers
      SENDFLOWR_HOST__LISTEN: 0.0.0.0:5215
    ports: [\"a:b\"]
volumes:
  data:
";
        let expected = ["Kafka__BootstrapServers", "SENDFLOWR_HOST__LISTEN"];
        assert_eq!(our_variables(compose), expected.map(str::to_owned).into());
    }

    #[test]
    fn settings_are_read_when_the_code_names_them() {
        let sources = [
            "pub(crate) host: RawHostConfig,\n    seal_key: Option<Secret>".to_owned(),
            "pub kafka: RawKafkaConfig, [(\"REDIS_PASSWORD\", \"redis.password\")]".to_owned(),
        ];
        for name in [
            "SENDFLOWR_HOST__SEAL_KEY_FILE",
            "REDIS_PASSWORD_FILE",
            "SENDFLOWR_LOG",
        ] {
            assert!(is_read(name, &sources), "{name}");
        }
        for name in [
            "SENDFLOWR_HOST__SEAL_KEYS",
            "REDIS_PASS",
            "SENDFLOWR_HOSTS__SEAL_KEY",
        ] {
            assert!(!is_read(name, &sources), "{name}");
        }
    }

    #[test]
    fn metrics_are_asked_for_as_they_are_exposed() {
        let page = "\
| metric | kind | labels | meaning |
| `sendflowr_consumer_batch_seconds` | histogram | - | Time of a batch |
| `sendflowr_consumer_events_total` | counter | - | Events |
Not `sendflowr_consumer_other`.
";
        let asked =
            metrics("rate(sendflowr_consumer_batch_seconds_bucket[5m]) sendflowr_consumer_events_total");
        assert_eq!(asked.len(), 2);
        assert!(asked.is_subset(&counted(page)));
        for name in ["batch_seconds", "events", "other"] {
            let name = format!("sendflowr_consumer_{name}");
            assert!(!counted(page).contains(&name), "{name}");
        }
    }

    #[test]
    fn limits_of_processors_have_their_defaults_read() {
        let compose = "services:\n  kafka:\n    cpus: ${KAFKA_CPUS:-2}\n    cpuset: 1\n    cpus: 4\n";
        let limits: Vec<&str> = processor_limits(compose).collect();
        assert_eq!(limits, ["${KAFKA_CPUS:-2}", "4"]);
        assert_eq!(default(limits[0]), Some(2.0));
        assert_eq!(default(limits[1]), None);
    }

    #[test]
    fn what_compose_asks_for_is_offered() {
        assert_eq!(
            interpolations("a: ${B_C:-x}${D}"),
            ["B_C", "D"].map(str::to_owned).into()
        );
        assert_eq!(
            offered("# Text, e=f.\n#B_C=x\nD=1\n"),
            ["B_C"].map(str::to_owned).into()
        );
    }
}
