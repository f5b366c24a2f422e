//! `sendflowr backtest`: what timing would have achieved for the operator's own people, before it is switched on.
//!
//! The log is split by time; every policy chooses with the knowledge of what came before and is scored on what came after,
//! see [`score`]. The same log and seed give the same report.

mod report;
mod score;
mod statistics;
mod verdict;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context, bail};
use event::Timestamp;

use crate::{cli::Global, engines::Engines, event_log::EventLog, output};
use score::Unscorable;

/// What `backtest` reads and writes.
#[derive(Debug, clap::Args)]
pub(crate) struct BacktestArgs {
    /// File of events, as for `decide`, up to now [default: the event store]
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// File to write the comparison to, as one HTML page with plots.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Seed; the same seed gives the same windows and intervals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// People read from the event store.
const STORE_PEOPLE: usize = 20_000;

/// Events read for each of them: enough for what a profile remembers, and the tested weeks.
const STORE_EVENTS_EACH: usize = 2_000;

/// Scores the policies, prints the comparison and writes the report.
///
/// # Errors
/// Fails if the events cannot be read, span too little time or contain nothing that is scored, or the report cannot be written.
pub(crate) async fn run(args: &BacktestArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let now = Timestamp::from(SystemTime::now());
    let log = match &args.events {
        Some(path) => tokio::task::block_in_place(|| -> anyhow::Result<EventLog> {
            let mut log = EventLog::open(path)?;
            drop_future(&mut log, path, now);
            Ok(log)
        })?,
        None => {
            let engines = Engines::existing(&global.load()?)?;
            let log = engines.closed_after(async |engines| {
                let (events, identities) = tokio::try_join!(engines.events(), engines.identities())?;
                EventLog::from_store(&*events, &*identities, STORE_PEOPLE, STORE_EVENTS_EACH, now).await
            });
            log.await?
        }
    };
    let page = tokio::task::block_in_place(|| backtest(&log, args.seed))?;
    output::line(&page.text);
    if let Some(path) = &args.report {
        std::fs::write(path, page.html).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Leaves out the events of a file that have not happened yet, as for the event store, and says so: the tested weeks would end
/// with them.
fn drop_future(log: &mut EventLog, path: &Path, now: Timestamp) {
    let dropped = log.end_at(now);
    if dropped > 0 {
        output::note(&format!(
            "`{}`: left out are events later than now, {dropped} in number",
            path.display()
        ));
    }
}

fn backtest(log: &EventLog, seed: u64) -> anyhow::Result<report::Page> {
    let scores = match score::score(log, seed) {
        Ok(scores) => scores,
        Err(Unscorable::TooShort { days, needed_days }) => {
            bail!("the events span {days} days; a backtest needs at least {needed_days}")
        }
        Err(Unscorable::NoActs) => {
            bail!("no clicks, replies or conversions by people in these events: opens are not scored")
        }
    };
    let rows = verdict::rows(&scores, seed);
    let verdict = verdict::verdict(&scores, &rows);
    Ok(report::page(&scores, &rows, &verdict))
}

#[cfg(test)]
mod tests;
