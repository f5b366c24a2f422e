//! Checks the deployment files: compose.yml, its example of an environment, the alerts and their tests, the dashboard and the
//! runbook must use the same names. A misspelt name in one of them would fail nowhere else; it would be ignored. That the roles
//! read what compose.yml sets is checked by a test of their configuration.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, bail};

use crate::{
    process::{in_ci, root, run as run_command, say, succeeds},
    setup,
};

/// The number of processors that a container may use by default. A container engine refuses to start a container that may use
/// more processors than the machine has, and the smallest machine in docs/deployment.md has two.
const PROCESSORS: f64 = 2.0;

/// The services of compose.yml that are our own.
const ROLES: [&str; 3] = ["inference", "connector", "consumer"];

/// Runs all of these checks, and the tools of Docker and Prometheus where they are installed.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut mistakes = Vec::new();
    let compose = read("compose.yml")?;
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
            "deploy/prometheus/alerts.test.yml",
            &read("deploy/prometheus/alerts.test.yml")?,
        ),
        (
            "deploy/grafana/dashboard.json",
            &read("deploy/grafana/dashboard.json")?,
        ),
    ] {
        for metric in metrics(text).difference(&counted) {
            mistakes.push(format!("{file} uses `{metric}`, which is not in docs/metrics.md"));
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
    let scrapes = read("deploy/prometheus/prometheus.yml")?;
    for service in ROLES {
        if !scrapes.contains(&format!("names: [{service}]")) {
            mistakes.push(format!(
                "deploy/prometheus/prometheus.yml does not look `{service}` up by its name: when it is scaled, all its \
                 containers would be one target"
            ));
        }
    }
    if !mistakes.is_empty() {
        bail!("{}", mistakes.join("\n"));
    }
    docker_compose(&["--file", "compose.yml", "config", "--quiet"])?;
    tool(
        "promtool",
        "prometheus",
        &["check", "rules", "deploy/prometheus/alerts.yml"],
    )?;
    tool(
        "promtool",
        "prometheus",
        &["test", "rules", "deploy/prometheus/alerts.test.yml"],
    )
}

/// Runs Docker Compose: Docker's plugin, which people use, otherwise the program that was before it.
fn docker_compose(arguments: &[&str]) -> anyhow::Result<()> {
    if !succeeds(Command::new("docker").args(["compose", "version"])) {
        return tool("docker-compose", "docker-compose", arguments);
    }
    run_command(
        Command::new("docker")
            .arg("compose")
            .args(arguments)
            .current_dir(root()),
    )
}

/// Runs a tool of a Debian package. CI installs it; elsewhere the check is skipped if it is missing.
fn tool(program: &str, package: &str, arguments: &[&str]) -> anyhow::Result<()> {
    if !setup::has_program(program) {
        if !in_ci() {
            say(&format!(
                "skipped: `{program}` (Debian package `{package}`) is not installed"
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

/// Returns the names that Docker Compose interpolates: `${NAME:-default}`.
fn interpolations(compose: &str) -> BTreeSet<String> {
    compose
        .split("${")
        .skip(1)
        .map(|rest| word(rest).to_owned())
        .collect()
}

/// Returns the value of each `cpus:`.
fn processor_limits(compose: &str) -> impl Iterator<Item = &str> {
    compose
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("cpus: "))
}

/// Returns the default of a limit of the form `${NAME:-2}`.
fn default(limit: &str) -> Option<f64> {
    let (_, default) = limit.strip_suffix('}')?.split_once(":-")?;
    default.parse().ok()
}

/// Returns the names that the example offers, each in a line `#NAME=default`.
fn offered(example: &str) -> BTreeSet<String> {
    let lines = example
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once('='));
    lines
        .filter(|(name, _)| !name.is_empty() && word(name) == *name)
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Returns the rest of each line that starts with the mark.
fn after(text: &str, mark: &str) -> BTreeSet<String> {
    let lines = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix(mark));
    lines.map(|rest| rest.trim().to_owned()).collect()
}

/// Returns the names of our metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let names = text.match_indices("sendflowr_");
    names
        .map(|(position, _)| word(&text[position..]).to_owned())
        .collect()
}

/// Returns the names of all series on the page of metrics, which a test of the roles compares with what they report: one for each
/// row, or for a histogram the names that the exposition makes of it.
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

/// Returns the letters, digits and underscores at the start of the text.
fn word(text: &str) -> &str {
    let end = text.find(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric());
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

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
