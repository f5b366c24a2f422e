//! The sources of the events that offline commands learn from: a CSV, JSON lines or Parquet file, or the event store.

mod parquet;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use anyhow::{Context, anyhow};
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
    #[serde(default, alias = "universal_id")]
    user_id: Value,
    #[serde(default, alias = "timestamp")]
    timestamp_utc: Value,
    #[serde(default)]
    event_type: Value,
    #[serde(default)]
    message_id: Value,
    #[serde(default)]
    user_agent: Value,
    #[serde(default)]
    ip_address: Value,
    #[serde(default)]
    is_machine: Value,
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
    let (mut unused, mut has_lines, mut has_event_type) = (BTreeSet::new(), false, false);
    let mut text = String::new();
    for number in 1.. {
        text.clear();
        let read = lines.by_ref().take(MAX_LINE_BYTES).read_line(&mut text);
        if read.with_context(|| format!("cannot read `{name}`, line {number}"))? == 0 {
            break;
        }
        if !text.trim().is_empty() {
            let line = take(&mut log, &text).with_context(|| format!("`{name}`, line {number}"))?;
            has_lines = true;
            has_event_type |= !line.event_type.is_null();
            let room = MAX_UNUSED.saturating_sub(unused.len());
            unused.extend(line.unused.into_keys().take(room));
        }
    }
    table::tell_unused(name, &Vec::from_iter(unused));
    if has_lines && !has_event_type {
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
    let value = |column| match column {
        events::USER_ID => &line.user_id,
        events::TIMESTAMP => &line.timestamp_utc,
        events::EVENT_TYPE => &line.event_type,
        events::MESSAGE_ID => &line.message_id,
        events::IS_MACHINE => &line.is_machine,
        events::USER_AGENT => &line.user_agent,
        _ => &line.ip_address,
    };
    log.take(|column| as_column(value(column)))
        .map_err(|(column, what)| anyhow!("`{}`: {what}", events::COLUMNS[column]))?;
    Ok(line)
}

/// Returns a value as the text of a column: a missing one, null and blanks are no value.
fn as_column(value: &Value) -> Result<Cow<'_, str>, String> {
    match value {
        Value::Null => Ok("".into()),
        Value::String(text) => Ok(text.trim().into()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string().into()),
        Value::Array(_) | Value::Object(_) => Err("neither a number nor a text".to_owned()),
    }
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
        // What CSV says by leaving a field empty, or in words.
        let csv = events::parse(
            "user_id,timestamp_utc,event_type,message_id,user_agent,is_machine\n7,1,opened,,,1\n",
        )
        .unwrap();
        let json = r#"{"user_id":7,"timestamp_utc":"1","event_type":"opened","message_id":" ","user_agent":"","is_machine":"true"}"#;
        let json = json_lines("f.jsonl", json.as_bytes()).unwrap();
        assert_eq!(json.events(), csv.events());
        assert_eq!(json.people(), csv.people());
        for wrong in [
            "{}",
            "{\"user_id\":[],\"timestamp_utc\":1}",
            "{\"user_id\":\"a\",\"timestamp_utc\":\"soon\"}",
            "{\"user_id\":\" \",\"timestamp_utc\":1}",
            "a,1",
        ] {
            let error = json_lines("f.jsonl", format!("\n{wrong}\n").as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "`f.jsonl`, line 2", "{wrong}");
        }
    }
}
