//! Checks `docs/limits.md` against the code.

use std::{collections::BTreeMap, thread};

use sendflowr_host::{HostConfig, RawAccounts, RawHostConfig, plugin::Limits};

const PAGE: &str = include_str!("../../../docs/limits.md");

/// Returns the cells of every table row, the first without its backticks.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| "));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

#[test]
fn defaults_are_those_of_the_code() {
    let data = tempfile::TempDir::new().unwrap();
    let host = HostConfig::try_new(RawHostConfig::default(), RawAccounts::default(), data.path()).unwrap();
    let Limits {
        cpu_time,
        wall_clock,
        memory_bytes,
        table_elements,
        memories,
        tables,
        instances,
        stack_bytes,
        output_bytes,
        events,
        concurrency,
        total_concurrency,
        waiting,
        queue_wait,
        file_bytes,
        compile_time,
        log_lines_per_second,
        log_line_bytes,
    } = host.plugins.limits;
    let quarantine = host.plugins.quarantine;
    let mut code: BTreeMap<&str, String> = BTreeMap::from([
        ("cpu_time_ms", cpu_time.as_millis().to_string()),
        ("wall_clock_ms", wall_clock.as_millis().to_string()),
        ("memory_bytes", memory_bytes.to_string()),
        ("table_elements", table_elements.to_string()),
        ("memories", memories.to_string()),
        ("tables", tables.to_string()),
        ("instances", instances.to_string()),
        ("stack_bytes", stack_bytes.to_string()),
        ("output_bytes", output_bytes.to_string()),
        ("events", events.to_string()),
        ("queue_wait_ms", queue_wait.as_millis().to_string()),
        ("file_bytes", file_bytes.to_string()),
        ("compile_time_seconds", compile_time.as_secs().to_string()),
        ("log_lines_per_second", log_lines_per_second.to_string()),
        ("log_line_bytes", log_line_bytes.to_string()),
        ("failures", quarantine.failures.to_string()),
        ("window_seconds", quarantine.window.as_secs().to_string()),
        ("first_seconds", quarantine.first.as_secs().to_string()),
        ("longest_seconds", quarantine.longest.as_secs().to_string()),
        ("max_body_bytes", host.max_body_bytes.to_string()),
        ("body_timeout_ms", host.body_timeout.as_millis().to_string()),
        ("request_timeout_ms", host.request_timeout.as_millis().to_string()),
        ("max_connections", host.limits.max_connections.to_string()),
        (
            "max_concurrent_deliveries",
            host.max_concurrent_deliveries.to_string(),
        ),
    ]);
    let cores = thread::available_parallelism().unwrap().get();
    let at_most = 512;
    let expected = ((2 * cores).min(at_most), (16 * cores).min(at_most));
    assert_eq!((concurrency, total_concurrency), expected);
    assert_eq!(waiting, host.max_concurrent_deliveries / 4);
    code.insert("concurrency", format!("twice the cores, at most {at_most}"));
    code.insert(
        "total_concurrency",
        format!("16 times the cores, at most {at_most}"),
    );
    let page: BTreeMap<&str, String> = rows()
        .filter(|cells| cells[0].starts_with('`'))
        .map(|cells| (cells[0].trim_matches('`'), cells[1].to_owned()))
        .collect();
    assert_eq!(page, code);
}

#[test]
fn the_tests_that_break_them_are_there() {
    let sources = BTreeMap::from([
        ("hostile", include_str!("hostile.rs")),
        ("refused", include_str!("refused.rs")),
        ("folder", include_str!("folder.rs")),
        ("fair", include_str!("fair.rs")),
        ("quarantine", include_str!("quarantine.rs")),
        ("wasi", include_str!("wasi.rs")),
        ("body", include_str!("../../src/http/body.rs")),
        ("fetch", include_str!("../../src/fetch.rs")),
        ("output", include_str!("../../src/plugin/output.rs")),
        ("limits", include_str!("../webhooks/limits.rs")),
        ("failures", include_str!("../webhooks/failures.rs")),
    ]);
    let mut named = 0;
    for words in PAGE.split('`').skip(1).step_by(2) {
        let Some((module, test)) = words.split_once("::").filter(|(_, test)| *test != "…") else {
            continue;
        };
        let source = sources
            .get(module)
            .unwrap_or_else(|| panic!("no module `{module}`"));
        assert!(source.contains(&format!("fn {test}()")), "no test `{words}`");
        named += 1;
    }
    assert!(named > 30, "{named}");
    for cells in rows().filter(|cells| !cells[0].starts_with("setting")) {
        let test = cells.last().unwrap();
        assert!(test.contains("::"), "{cells:?} names no test");
    }
}
