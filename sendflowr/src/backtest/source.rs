//! The sources of the events that offline commands learn from: a CSV, JSON lines or Parquet file, or the event store.

mod parquet;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use anyhow::{Context, anyhow, bail};
use event::Timestamp;
use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use crate::decide::{
    events::{self, EventLog, Logged},
    table,
};

/// People read from the store at once.
const PAGE: usize = 500;

/// Name endings of files with one JSON object per line.
const JSON_ENDINGS: [&str; 4] = [".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"];

/// A line longer than this is not an event.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// One line of a JSON file: the columns of the CSV, or an event as on the bus.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(alias = "universal_id")]
    user_id: String,
    #[serde(alias = "timestamp")]
    timestamp_utc: Value,
    event_type: Option<String>,
    message_id: Option<String>,
    user_agent: Option<String>,
    ip_address: Option<String>,
    is_machine: Option<bool>,
    #[serde(flatten)]
    unused: HashMap<String, IgnoredAny>,
}

/// Names of fields that are not used are remembered up to this number: more are no columns, but data.
const MAX_UNUSED: usize = 100;

/// Reads a file: Parquet is recognized by its first bytes, JSON lines by the end of the name, anything else is CSV. The latter
/// two may be gzipped.
///
/// # Errors
/// Returns the first mistake in the file, naming its line or row.
pub(crate) fn read(path: &Path) -> anyhow::Result<EventLog> {
    let name = path.display().to_string();
    if parquet::is_parquet(path) {
        return parquet::read(path);
    }
    if !JSON_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
        return EventLog::open(path);
    }
    let file = File::open(path).with_context(|| format!("cannot open `{name}`"))?;
    let file = BufReader::with_capacity(1 << 16, file);
    let lines: Box<dyn BufRead> = if name.ends_with(".gz") {
        Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    };
    json_lines(&name, lines)
}

fn json_lines(name: &str, mut lines: impl BufRead) -> anyhow::Result<EventLog> {
    let mut log = EventLog::default();
    let (mut unused, mut has_event_type) = (BTreeSet::new(), false);
    let mut text = String::new();
    for number in 1.. {
        text.clear();
        let read = lines.by_ref().take(MAX_LINE_BYTES).read_line(&mut text);
        if read.with_context(|| format!("cannot read `{name}`, line {number}"))? == 0 {
            break;
        }
        if !text.trim().is_empty() {
            let line = take(&mut log, &text).with_context(|| format!("`{name}`, line {number}"))?;
            has_event_type |= line.event_type.is_some();
            let room = MAX_UNUSED.saturating_sub(unused.len());
            unused.extend(line.unused.into_keys().take(room));
        }
    }
    table::tell_unused(name, &Vec::from_iter(unused));
    if !has_event_type {
        events::tell_all_are_clicks(name);
    }
    log.sort();
    Ok(log)
}

fn take(log: &mut EventLog, text: &str) -> anyhow::Result<Line> {
    let line: Line = serde_json::from_str(text).map_err(|error| {
        // Of its own, serde counts lines within this one.
        let told = error.to_string();
        let what = told.split(" at line ").next().unwrap_or_default();
        anyhow!("column {}: {what}", error.column())
    })?;
    let user_id = line.user_id.trim();
    if user_id.is_empty() {
        bail!("`user_id`: empty");
    }
    let at = match &line.timestamp_utc {
        Value::String(text) => table::moment(text),
        Value::Number(number) => table::moment(&number.to_string()),
        _ => Err("neither a number nor a text".to_owned()),
    };
    let at = at.map_err(|what| anyhow!("`timestamp_utc`: {what}"))?;
    let event_type = events::event_type(line.event_type.as_deref().unwrap_or_default())
        .map_err(|what| anyhow!("`event_type`: {what}"))?;
    let event = Logged {
        at,
        event_type,
        machine: line.is_machine == Some(true),
        message: line.message_id.as_deref(),
        user_agent: line.user_agent.as_deref(),
        ip_address: line
            .ip_address
            .as_deref()
            .and_then(|address| address.parse().ok()),
    };
    log.push(user_id, event);
    Ok(line)
}

/// Reads the histories up to `now` of at most `people` people from the event store. Ids are hashes, so the first ones in their
/// order are a random sample, and the same one each time. Events from a clock that is ahead are left out: the tested weeks would
/// end with them.
///
/// # Errors
/// Fails if a store cannot be read.
pub(crate) async fn from_store(
    events: &dyn store::events::Events,
    identities: &dyn store::identity::Identities,
    people: usize,
    events_each: usize,
    now: Timestamp,
) -> anyhow::Result<EventLog> {
    let mut log = EventLog::default();
    let mut seen = HashSet::new();
    let mut after = None;
    while seen.len() < people {
        let page = events
            .people(Timestamp::default(), after.as_ref(), PAGE)
            .await
            .context("cannot read the event store")?;
        let Some(last) = page.last() else { break };
        for person in identities.people(&page).await? {
            // A person with several ids is listed under each of them, but counts once.
            if !seen.insert(person.canonical.clone()) {
                continue;
            }
            let history = events
                .history(&person.with_events, Timestamp::default(), events_each)
                .await?;
            for stored in history.into_iter().filter(|stored| stored.event.timestamp <= now) {
                let event = Logged {
                    at: stored.event.timestamp,
                    event_type: stored.event.event_type,
                    machine: stored.enrichment.machine,
                    message: stored.event.message_id.as_deref(),
                    user_agent: stored.event.user_agent.as_deref(),
                    ip_address: stored.event.ip_address.and_then(|address| address.parse().ok()),
                };
                log.push(person.canonical.as_str(), event);
            }
        }
        after = Some(last.clone());
    }
    log.sort();
    Ok(log)
}

#[cfg(test)]
mod tests {
    use event::EventType;

    use super::*;

    #[test]
    fn reads_json_lines_and_names_mistakes() {
        let text = "{\"user_id\":\"a\",\"timestamp_utc\":12.5}\n\n\
            {\"universal_id\":\"b\",\"timestamp\":\"1970-01-01T00:00:05Z\",\"event_type\":\"opened\",\"other\":1}\n";
        let log = json_lines("f.jsonl", text.as_bytes()).unwrap();
        let read: Vec<(i64, EventType)> = log
            .events()
            .iter()
            .map(|event| (event.at.as_millis(), event.event_type))
            .collect();
        assert_eq!(read, [(5_000, EventType::Opened), (12_500, EventType::Clicked)]);
        for wrong in [
            "{}",
            "{\"user_id\":\"a\",\"timestamp_utc\":\"soon\"}",
            "{\"user_id\":\" \",\"timestamp_utc\":1}",
            "a,1",
        ] {
            let error = json_lines("f.jsonl", format!("\n{wrong}\n").as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "`f.jsonl`, line 2", "{wrong}");
        }
    }
}
