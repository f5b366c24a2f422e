//! `sendflowr decide`: decisions for a list of requests, from a file of events, without any store or service.
//!
//! A decision uses only events before its time, both for the person and for the population's tables; see [`sweep`] for how
//! that is guaranteed. The same files give the same bytes.

mod requests;

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use event::grid;
use inference::{model::Curve, one_of_the_best};
use serde::Serialize;
use serde_json::Number;

use crate::{
    event_log::EventLog,
    output,
    sweep::{self, Moment},
};
use requests::Request;

/// What `decide` reads and writes.
#[derive(Debug, clap::Args)]
pub(crate) struct DecideArgs {
    /// File of events: `user_id,timestamp_utc` and, if known, `event_type,message_id,user_agent,ip_address,is_machine`, in any
    /// order. Times are epoch seconds or RFC 3339; an event without an `event_type` is a click. CSV, or JSON lines with the same
    /// names (`.jsonl`, `.ndjson`), plain or gzipped, or Parquet with the same columns.
    #[arg(long, value_name = "FILE")]
    events: PathBuf,
    /// File of requests, in the same formats: `user_id,decision_time,window_hours`.
    #[arg(long, value_name = "FILE")]
    requests: PathBuf,
    /// File to write the decisions to: one JSON object per line, in the order of the requests, with times in epoch seconds.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// File to write each person's week to, as known at their first decision. CSV: `user_id,p0,…,p10079`, the share of the
    /// person's activity in each minute of the week. Minute 0 is Monday 00:00 UTC; the shares sum to 1.
    #[arg(long, value_name = "FILE")]
    curves: Option<PathBuf>,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Decision {
    user_id: String,
    decision_time: Number,
    window_hours: Number,
    /// The minute at which the mail should arrive.
    target_timestamp: i64,
    /// The probability that the person acts within `confidence_span_seconds` of it, given that they act in the window: see
    /// `docs/timing.md`.
    confidence: f64,
    /// The time that `confidence` is about. It differs between people with and without deliveries.
    confidence_span_seconds: i64,
}

/// Makes the requested decisions and writes them.
///
/// # Errors
/// Fails if a file cannot be read or written, or contains a mistake; names its line and column.
pub(crate) fn run(args: &DecideArgs) -> anyhow::Result<ExitCode> {
    let requests = requests::open(&args.requests)?;
    let log = EventLog::open(&args.events)?;
    let (decisions, curves) = decide(&log, &requests, args.curves.is_some());
    write_file(&args.out, |out| {
        for decision in &decisions {
            serde_json::to_writer(&mut *out, decision)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })?;
    if let Some(path) = &args.curves {
        write_file(path, |out| write_curves(out, &requests, &curves))?;
    }
    output::line(&format!(
        "{} decisions from {} events of {} people",
        decisions.len(),
        log.events().len(),
        log.people().len()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Returns the decision on each request and, if `with_curves`, the curve of each person's earliest request, with its index.
/// Nothing else is kept, so that memory grows only with the results.
fn decide(log: &EventLog, requests: &[Request], with_curves: bool) -> (Vec<Decision>, Vec<(usize, Curve)>) {
    let moments: Vec<Moment> = requests
        .iter()
        .map(|request| Moment {
            person: log.place(&request.user_id),
            at: request.decision_time,
        })
        .collect();
    let first_of_each = if with_curves {
        earliest_of_each(requests)
    } else {
        Vec::new()
    };
    let mut decisions = vec![None; requests.len()];
    let mut curves = Vec::with_capacity(first_of_each.len());
    sweep::sweep(log, &moments, |index, curve, _| {
        decisions[index] = Some(decision(&requests[index], &curve));
        if first_of_each.binary_search(&index).is_ok() {
            curves.push((index, curve));
        }
    });
    curves.sort_by_key(|(index, _)| *index);
    let decisions = decisions
        .into_iter()
        .map(|decision| decision.expect("the sweep stops at every moment"))
        .collect();
    (decisions, curves)
}

fn decision(request: &Request, curve: &Curve) -> Decision {
    let window = request.decision_time..request.window_end();
    // Mail arrives at whole minutes; the first of them is not before the decision.
    let up = request.decision_time.plus_millis(grid::MINUTE_MS - 1);
    let first_minute = grid::floor_minute(up);
    let whole_minutes = first_minute..window.end;
    let candidates = if whole_minutes.is_empty() {
        window.clone()
    } else {
        whole_minutes
    };
    let candidates = [candidates];
    let best = curve.best(&candidates);
    // As the service does it: strangers share a curve, and must not share a minute.
    let target = best.and_then(|best| {
        if curve.evidence().events > 0 {
            return Some(best.at);
        }
        let person = sweep::universal_id(&request.user_id);
        one_of_the_best(curve, &candidates, |_| 1.0, best.score, &person)
    });
    let target = target.unwrap_or(request.decision_time);
    let confidence = curve.confidence(target, &[window]);
    Decision {
        user_id: request.user_id.clone(),
        decision_time: number(request.decision_time.as_millis() as f64 / 1000.0),
        window_hours: number(request.window_hours),
        target_timestamp: target.as_seconds(),
        // More digits than the calibration justifies, and few enough to read.
        confidence: (confidence * 1e4).round() / 1e4,
        confidence_span_seconds: curve.span_ms() / 1_000,
    }
}

/// Converts a number to the form that people write: `24`, not `24.0`.
fn number(value: f64) -> Number {
    if value.fract() == 0.0 {
        return Number::from(value as i64);
    }
    Number::from_f64(value).expect("times and windows are finite")
}

/// Writes one row per person: the curve of their earliest decision, so that it contains nothing that came after any of their
/// decisions.
fn write_curves(out: &mut impl Write, requests: &[Request], curves: &[(usize, Curve)]) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_field("user_id")?;
    for slot in 0..grid::SLOTS {
        writer.write_field(format!("p{slot}"))?;
    }
    writer.write_record(None::<&[u8]>)?;
    for (index, curve) in curves {
        writer.write_field(&requests[*index].user_id)?;
        let minutes = curve.minutes();
        let total: f64 = minutes.iter().map(|share| f64::from(*share)).sum();
        for share in minutes {
            // Six digits: rounding changes the sum by less than a ten-millionth.
            writer.write_field(format!("{:.5e}", f64::from(share) / total))?;
        }
        writer.write_record(None::<&[u8]>)?;
    }
    writer.flush()
}

/// Returns the index of each person's earliest request, in the order of the requests.
fn earliest_of_each(requests: &[Request]) -> Vec<usize> {
    let mut by_time: Vec<usize> = (0..requests.len()).collect();
    by_time.sort_by_key(|index| requests[*index].decision_time);
    let mut seen: HashSet<&str> = HashSet::new();
    let mut earliest: Vec<usize> = by_time
        .into_iter()
        .filter(|index| seen.insert(&requests[*index].user_id))
        .collect();
    earliest.sort_unstable();
    earliest
}

fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> anyhow::Result<()> {
    let result = File::create(path).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 16, file);
        write(&mut out)?;
        out.flush()
    });
    result.with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests;
