//! Compares docs/metrics.md with what `/metrics` exposes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use integration_tests::{Answer, Role, client, eventually, repository};
use serde_json::json;

use crate::{POSTMARK, report_click};

const PAGE: &str = include_str!("../../docs/metrics.md");

/// A metric without its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Metric {
    kind: String,
    meaning: String,
}

/// Returns the rows of the page's section with this title, by name, and the labels of each.
fn documented(title: &str) -> BTreeMap<String, (Metric, BTreeSet<String>)> {
    let sections = PAGE.split("\n## ");
    let section = sections
        .skip(1)
        .find_map(|section| section.strip_prefix(title)?.strip_prefix('\n'));
    let rows = section.expect("the section is there").lines();
    rows.filter_map(|line| line.strip_prefix("| `"))
        .map(|row| {
            let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
            let [name, kind, labels, meaning] = cells[..] else {
                panic!("four cells: {row}");
            };
            let metric = Metric {
                kind: kind.to_owned(),
                meaning: meaning.to_owned(),
            };
            let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned);
            (name.trim_end_matches('`').to_owned(), (metric, labels.collect()))
        })
        .collect()
}

/// Returns the metrics of an exposition, by their names on the page.
fn exposed(text: &str) -> BTreeMap<String, Metric> {
    let mut help = BTreeMap::new();
    let mut metrics = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, meaning)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            help.insert(name, meaning.trim_end_matches('.').to_owned());
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            let end = if kind == "counter" { "_total" } else { "" };
            let metric = Metric {
                kind: kind.to_owned(),
                meaning: help[name].clone(),
            };
            metrics.insert(format!("{name}{end}"), metric);
        }
    }
    metrics
}

/// Returns the labels of every series of an exposition, except a histogram's own, by their names on the page.
fn labels(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once(['{', ' ']).expect("a series has a value");
        let ends = ["_bucket", "_sum", "_count"];
        let name = ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        // None of our label values contains a quote or a comma.
        let (labels, _) = rest.split_once('}').unwrap_or_default();
        let names = labels.split(',').filter_map(|label| label.split_once('='));
        let names = names.map(|(name, _)| name.to_owned()).filter(|name| name != "le");
        found.insert(name.to_owned(), names.collect());
    }
    found
}

#[tokio::test]
async fn every_metric_is_documented_with_its_type_labels_and_meaning() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path();
    // Nothing listens there; spans are counted nevertheless.
    let configuration = format!("{POSTMARK}\n[telemetry]\nendpoint = 'http://127.0.0.1:9'\n");
    fs::write(folder.join("sendflowr.toml"), configuration).expect("the configuration can be written");
    let (host, consumer, inference) = Role::launch_all(folder).await;
    let http = client();
    report_click(&http, &host, "m", "2026-01-05T18:30:00Z").await;
    let question = json!({"email": "ann@example.com", "now": "2026-01-06T00:00:00Z"});
    let decision = http
        .post(format!("{}/timing/decide", inference.url))
        .json(&question);
    assert_eq!(Answer::of(decision).await.status, 200);
    let scrape = async |role: &Role| Answer::of(http.get(format!("{}/metrics", role.url))).await.text;
    eventually("the click is stored", async || {
        let text = scrape(&consumer).await;
        text.contains("sendflowr_consumer_verdicts_total{")
    })
    .await;

    let shared = documented("Every role");
    for (role, title, uses_bus) in [
        (&host, "Host", true),
        (&consumer, "Consumer", true),
        (&inference, "Inference", false),
    ] {
        let text = scrape(role).await;
        let mut page = documented(title);
        // Those of Kafka and Redis are compared in the tests that use them.
        page.extend(shared.clone().into_iter().filter(|(name, _)| {
            let of_all = [
                "sendflowr_telemetry_",
                "sendflowr_tls_",
                "sendflowr_build_",
                "process_",
            ];
            of_all.iter().any(|begin| name.starts_with(begin))
                || uses_bus && name.starts_with("sendflowr_bus_")
        }));
        let exposed = exposed(&text);
        for (name, metric) in &exposed {
            let row = page.get(name).map(|(metric, _)| metric);
            assert_eq!(row, Some(metric), "{title}: `{name}`");
        }
        // A family with labels is not exposed before it has counted something.
        for (name, _) in page.iter().filter(|(_, (_, labels))| labels.is_empty()) {
            assert!(exposed.contains_key(name), "{title} has no `{name}`");
        }
        for (name, found) in labels(&text) {
            assert_eq!(found, page[&name].1, "{name}");
        }
    }
}

/// Returns the names that a source file registers, with its registry's prefix if it has one.
fn registered(source: &str) -> Vec<String> {
    let prefix = match source.split_once("sub_registry_with_prefix(\"") {
        Some((_, rest)) => format!("{}_", rest.split('"').next().unwrap_or_default()),
        None => String::new(),
    };
    let mut names = Vec::new();
    for call in ["register(", "register_with_unit("] {
        let calls = source.split(call).skip(1);
        let texts = calls.filter_map(|rest| rest.trim_start().strip_prefix('"'));
        names.extend(texts.filter_map(|rest| Some(format!("{prefix}{}", rest.split_once('"')?.0))));
    }
    names
}

fn sources(folder: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the sources can be listed") {
        let path = entry.expect("the sources can be listed").path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(fs::read_to_string(&path).expect("a source can be read"));
        }
    }
}

/// Includes those that count nothing in a test.
#[test]
fn every_registered_metric_is_on_the_page_and_no_other() {
    let mut texts = Vec::new();
    for package in ["host", "consumer", "inference", "store", "listener", "sendflowr"] {
        sources(&repository().join(package).join("src"), &mut texts);
    }
    let mut page = BTreeSet::new();
    for title in ["Host", "Consumer", "Inference", "Every role"] {
        page.extend(documented(title).into_keys());
    }
    for name in texts.iter().flat_map(|text| registered(text)) {
        let row = ["", "_total", "_seconds", "_bytes"].map(|end| format!("{name}{end}"));
        let is_there = row.iter().any(|row| page.remove(row));
        assert!(is_there, "docs/metrics.md has no `{name}`");
    }
    assert!(
        page.is_empty(),
        "docs/metrics.md has what is never counted: {page:?}"
    );
}
