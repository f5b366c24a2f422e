//! `sendflowr explain`: what a stored decision was based on, and whether it can be reproduced.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use inference::{Replay, ReplayVerdict};
use serde_json::Value;

use crate::{
    cli::Format,
    config::{self, RawConfig},
    engines::Engines,
    output,
};

/// Which decision to explain, and how.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The decision's `decision_id`.
    decision_id: String,
    /// Recompute the decision from what is stored with it, and compare byte for byte. Exit code 1 if it differs.
    #[arg(long)]
    replay: bool,
    /// Output format; `json` is the explanation as it is stored, or the result of the replay.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Prints the explanation, or the result of its replay.
///
/// # Errors
/// Fails if the store cannot be read, or the decision does not exist or cannot be replayed.
pub(crate) async fn run(args: &ExplainArgs, config: RawConfig) -> anyhow::Result<ExitCode> {
    let engines = Engines::existing(&config)?;
    let found = engines.closed_after(async |engines| {
        let events = engines.events().await?;
        Ok(events.explanation(&args.decision_id).await?)
    });
    let found = found.await?;
    let Some(stored) = found else {
        bail!(
            "no decision is stored under `{}`: explanations are kept only for a time, and are stored some moments after the \
             answer",
            args.decision_id
        );
    };
    if !args.replay {
        match args.format {
            Format::Json => output::line(&stored.body),
            Format::Text => print(&serde_json::from_str(&stored.body)?),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let folder = config::model_folder(&config);
    let replay = inference::replay(&args.decision_id, &stored.body, None, Some(&folder));
    match args.format {
        Format::Json => output::line(&serde_json::to_string(&replay)?),
        Format::Text => print_replay(&replay),
    }
    match replay.verdict {
        ReplayVerdict::Same => Ok(ExitCode::SUCCESS),
        ReplayVerdict::Different => Ok(ExitCode::FAILURE),
        _ => bail!("`{}` cannot be replayed: {}", args.decision_id, replay.text),
    }
}

fn print_replay(replay: &Replay) {
    if !matches!(replay.verdict, ReplayVerdict::Same | ReplayVerdict::Different) {
        // Reported by the error that the command ends with.
        return;
    }
    output::line(&format!("{}: {}", replay.explanation_ref, replay.text));
    if replay.differences.is_empty() {
        return;
    }
    let row = |value: &Value| {
        let text = text(value);
        match text.char_indices().nth(48) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    };
    let rows: Vec<Vec<String>> = replay
        .differences
        .iter()
        .map(|difference| {
            vec![
                difference.field.clone(),
                row(&difference.stored),
                row(&difference.replayed),
            ]
        })
        .collect();
    output::line("");
    output::line(&output::table(&["field", "stored", "replayed"], &rows));
}

/// Prints the explanation for people: what was decided, why, and from which data.
fn print(explanation: &Value) {
    let at = |path: &str| text(explanation.pointer(path).unwrap_or(&Value::Null));
    output::line(&at("/explanation_ref"));
    output::line("");
    for (name, fact) in facts(explanation) {
        output::line(&format!("{name:<12} {fact}"));
    }
    output::line("");
    for sentence in explanation["why"].as_array().into_iter().flatten() {
        output::line(&text(sentence));
    }
    let peaks = explanation["peaks"].as_array();
    let rows: Vec<Vec<String>> = peaks.into_iter().flatten().map(peak).collect();
    if !rows.is_empty() {
        output::line("");
        output::line(&output::table(
            &["best minutes", "worth", "hot paths", "could be chosen"],
            &rows,
        ));
    }
}

/// Returns what is printed of an explanation, each with its name.
fn facts(explanation: &Value) -> Vec<(&'static str, String)> {
    let at = |path: &str| text(explanation.pointer(path).unwrap_or(&Value::Null));
    let mut facts = vec![
        ("person", at("/universal_id")),
        ("decided at", at("/decided_at")),
        ("arrives at", at("/chosen/at")),
        ("trigger at", at("/trigger_at")),
        (
            "window",
            format!("{} to {}", at("/request/window/start"), at("/request/window/end")),
        ),
        (
            "minutes",
            format!(
                "{} asked for, {} allowed",
                at("/minutes_asked"),
                at("/minutes_left")
            ),
        ),
        (
            "confidence",
            format!(
                "{} within {} s of arrival",
                at("/confidence"),
                at("/confidence_span_seconds")
            ),
        ),
        (
            "delay",
            match explanation.pointer("/latency/part_samples") {
                Some(part) => format!(
                    "{} s ({} from {} deliveries, {part} in this part of the week)",
                    at("/latency/seconds"),
                    at("/latency/source"),
                    at("/latency/samples")
                ),
                None => format!("{} s ({})", at("/latency/seconds"), at("/latency/source")),
            },
        ),
        (
            "evidence",
            match explanation.pointer("/evidence/recent_weight") {
                Some(recent) => format!(
                    "{} events, {} of the evidence from other people, {recent} of the curve from the short memory ({})",
                    at("/evidence/n"),
                    at("/evidence/prior_weight"),
                    at("/evidence/rung")
                ),
                None => format!(
                    "{} events, {} of the evidence from other people ({})",
                    at("/evidence/n"),
                    at("/evidence/prior_weight"),
                    at("/evidence/rung")
                ),
            },
        ),
        ("tables", at("/evidence/population_version")),
        (
            "profile",
            format!("{} ({})", at("/profile_digest"), at("/evidence/profile_source")),
        ),
        ("service", at("/service_version")),
    ];
    for (name, path) in [
        ("delay table", "/latency_version"),
        ("provider", "/request/esp"),
        ("campaign", "/request/campaign_id"),
        ("group", "/experiment/group"),
        ("propensity", "/experiment/propensity"),
        ("moved from", "/moved/from"),
    ] {
        if explanation.pointer(path).is_some_and(|value| !value.is_null()) {
            facts.push((name, at(path)));
        }
    }
    facts
}

fn peak(point: &Value) -> Vec<String> {
    let number = |name: &str| format!("{:.2}", point[name].as_f64().unwrap_or_default());
    vec![
        text(&point["at"]),
        number("response"),
        number("factor"),
        text(&point["candidate"]),
    ]
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
