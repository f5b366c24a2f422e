//! `sendflowr plugin bench`: measures what a plugin costs.

mod deliveries;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use event::Timestamp;
use host::{
    cases,
    plugin::{Limits, Plugin, Plugins, types::Request},
};
use serde::Serialize;

use self::deliveries::{Deliveries, Sample};
use super::files::{case_files, load, read_case};
use crate::{cli::Format, output};

/// Runs before measuring begins: they warm up caches, branch predictors and the pool's slots.
const WARM_UP: usize = 200;

/// Measured runs: twenty of them are above the 99th percentile.
const RUNS: usize = 2_000;

/// Slow guests (interpreters take milliseconds) get fewer runs, so that no measurement takes much longer than this.
const PATIENCE: Duration = Duration::from_secs(5);

/// The costs of one plugin.
#[derive(Debug, Serialize)]
struct Report {
    provider: String,
    version: String,
    bytes: u64,
    one: Cost,
    /// Absent if the provider sends no batches, or no case has one.
    batch: Option<Cost>,
    /// CPU time that a delivery may take.
    limit_us: f64,
}

/// The costs of one delivery.
#[derive(Debug, Serialize)]
struct Cost {
    delivery: String,
    events: usize,
    runs: usize,
    instantiate_p50_us: f64,
    p50_us: f64,
    p99_us: f64,
    per_event_p50_us: f64,
    /// The same on every machine.
    instructions: u64,
    /// Memory at the end of the delivery, which is the peak: memory is never returned within a delivery.
    memory_bytes: usize,
}

/// Measures the plugins, one after the other.
///
/// # Errors
/// Fails if a file cannot be read, a plugin cannot be loaded, or there is no delivery that gives exactly one event for a plugin.
pub(crate) async fn run(
    files: &[PathBuf],
    folder: Option<&Path>,
    limits: &Limits,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let now = Timestamp::from(SystemTime::now());
    let mut cases = Vec::new();
    if let Some(folder) = folder {
        for file in case_files(folder)? {
            cases.push(read_case(&file)?);
        }
    }
    let mut reports = Vec::with_capacity(files.len());
    for file in files {
        let plugin = load(file, limits).await?;
        let found = match folder {
            Some(folder) => deliveries::of_cases(&plugin, &cases, now)
                .await
                .with_context(|| format!("`{}`", folder.display()))?,
            None => deliveries::made_up(&plugin, now).await?,
        };
        let report = report(file, &plugin, found, limits, now).await?;
        match format {
            Format::Json => output::line(&serde_json::to_string(&report)?),
            Format::Text => reports.push(report),
        }
    }
    if format == Format::Text {
        print(&reports, limits);
    }
    Ok(ExitCode::SUCCESS)
}

async fn report(
    file: &Path,
    plugin: &Arc<Plugin>,
    found: Deliveries,
    limits: &Limits,
    now: Timestamp,
) -> anyhow::Result<Report> {
    let (path, limits) = (file.to_owned(), limits.clone());
    let plugin = Arc::clone(plugin);
    // Not on the threads that run tasks: compiling and measuring take a while.
    tokio::task::spawn_blocking(move || {
        let counting = Plugins::load_counting(&path, &limits)?;
        let batch = found.batch.map(|sample| cost(&plugin, &counting, &sample, now));
        Ok(Report {
            provider: plugin.descriptor().slug.clone(),
            version: plugin.descriptor().version.clone(),
            bytes: fs::metadata(&path)?.len(),
            one: cost(&plugin, &counting, &found.one, now)?,
            batch: batch.transpose()?,
            limit_us: micros(limits.cpu_time),
        })
    })
    .await?
}

fn cost(plugin: &Plugin, counting: &Plugin, sample: &Sample, now: Timestamp) -> anyhow::Result<Cost> {
    let request = Arc::new(cases::request(plugin, &sample.case, now)?);
    let counted = counting.measure(&request)?;
    let began = Instant::now();
    measured(plugin, &request, WARM_UP, began)?;
    let times = measured(plugin, &request, RUNS, Instant::now())?;
    let (mut totals, mut instantiations): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    totals.sort_unstable();
    instantiations.sort_unstable();
    let p50_us = micros(at(&totals, 50));
    Ok(Cost {
        delivery: sample.case.name.clone(),
        events: sample.events,
        runs: totals.len(),
        instantiate_p50_us: micros(at(&instantiations, 50)),
        p50_us,
        p99_us: micros(at(&totals, 99)),
        // Only deliveries that give events are measured.
        per_event_p50_us: tenths(p50_us / sample.events as f64),
        instructions: counted
            .instructions
            .context("the plugin's instructions were not counted")?,
        memory_bytes: counted.memory_bytes,
    })
}

/// Returns the total time and the time to create the instance, for up to `runs` deliveries and at least one.
fn measured(
    plugin: &Plugin,
    request: &Arc<Request>,
    runs: usize,
    began: Instant,
) -> anyhow::Result<Vec<(Duration, Duration)>> {
    let mut times = Vec::with_capacity(runs);
    while times.len() < runs && (times.is_empty() || began.elapsed() < PATIENCE) {
        let run = plugin.measure(request)?;
        times.push((run.total, run.instantiate));
    }
    Ok(times)
}

/// Returns the time that this many per cent of the runs do not exceed; `sorted` must not be empty.
fn at(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

fn micros(time: Duration) -> f64 {
    tenths(time.as_secs_f64() * 1e6)
}

/// Rounds to a tenth of a microsecond, which is below what can be measured.
fn tenths(micros: f64) -> f64 {
    (micros * 10.0).round() / 10.0
}

fn print(reports: &[Report], limits: &Limits) {
    let header = [
        "provider",
        "kB",
        "instance µs",
        "1 event µs",
        "p99",
        "k instr",
        "events",
        "batch µs",
        "p99",
        "k instr",
        "µs/event",
        "memory kB",
        "% of limit",
    ];
    let rows: Vec<Vec<String>> = reports.iter().map(row).collect();
    output::line(&output::table(&header, &rows));
    output::line(&format!(
        "\nEvery delivery gets a fresh instance and both calls; times are of the plugin alone, and columns marked `µs` show \
         medians. The last three columns are of the larger delivery: time per event, peak memory (a delivery may take {} kB), \
         and the share of the {} ms of CPU time that a delivery may use (p99).",
        limits.memory_bytes / 1_000,
        limits.cpu_time.as_millis()
    ));
}

fn row(report: &Report) -> Vec<String> {
    let Report { one, batch, .. } = report;
    let thousands = |instructions: u64| instructions.div_ceil(1_000).to_string();
    let mut row = vec![
        report.provider.clone(),
        report.bytes.div_ceil(1_000).to_string(),
        format!("{:.1}", one.instantiate_p50_us),
        format!("{:.1}", one.p50_us),
        format!("{:.1}", one.p99_us),
        thousands(one.instructions),
    ];
    match batch {
        Some(batch) => row.extend([
            batch.events.to_string(),
            format!("{:.0}", batch.p50_us),
            format!("{:.0}", batch.p99_us),
            thousands(batch.instructions),
        ]),
        None => row.extend(["-"; 4].map(str::to_owned)),
    }
    let larger = batch.as_ref().unwrap_or(one);
    row.push(format!("{:.1}", larger.per_event_p50_us));
    row.push((larger.memory_bytes / 1_000).to_string());
    row.push(format!("{:.2}", larger.p99_us * 100.0 / report.limit_us));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(at(&times, 50), Duration::from_micros(100));
        assert_eq!(at(&times, 99), Duration::from_micros(198));
        assert_eq!(at(&times[..1], 99), Duration::from_micros(1));
    }
}
