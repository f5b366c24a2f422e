//! Reads a file with one JSON object per line: the columns of the CSV as fields, or as events on the bus name them.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
};

use anyhow::{Context, anyhow};
use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

use super::{Columns, Row, Wrong, on_the_bus, tell_unused};

/// Name endings of files with one JSON object per line.
const ENDINGS: [&str; 4] = [".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"];

/// A line longer than this is not an event.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Names of fields that are not used are remembered up to this number: more are no columns, but data.
const MAX_UNUSED: usize = 100;

/// Returns whether a file is named as one of JSON lines.
pub(super) fn is_json_lines(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Reads a file of this name, see [`super::read`]. A field that is null in all lines is none.
///
/// # Errors
/// Returns the first mistake in the file, naming its line.
pub(super) fn read(
    name: &str,
    source: impl Read + 'static,
    columns: Columns,
    take: impl FnMut(Row<'_>) -> Result<(), Wrong>,
) -> anyhow::Result<Vec<bool>> {
    let file = BufReader::with_capacity(1 << 16, source);
    let lines: Box<dyn BufRead> = if name.ends_with(".gz") {
        Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    };
    read_lines(name, lines, columns, take)
}

fn read_lines(
    name: &str,
    mut lines: impl BufRead,
    columns: Columns,
    mut take: impl FnMut(Row<'_>) -> Result<(), Wrong>,
) -> anyhow::Result<Vec<bool>> {
    let mut present = vec![false; columns.names.len()];
    let mut unused = BTreeSet::new();
    let mut text = String::new();
    for number in 1.. {
        text.clear();
        let read = lines.by_ref().take(MAX_LINE_BYTES).read_line(&mut text);
        if read.with_context(|| format!("cannot read `{name}`, line {number}"))? == 0 {
            break;
        }
        // A file from Windows may begin with a byte order mark.
        let text = match number {
            1 => text.strip_prefix('\u{feff}').unwrap_or(&text),
            _ => &text,
        };
        if text.trim().is_empty() {
            continue;
        }
        let place = || format!("`{name}`, line {number}");
        let line = parse(text).with_context(place)?;
        let value = |column: usize| {
            let name = columns.names[column];
            line.get(name).or_else(|| line.get(on_the_bus(name)))
        };
        take(&|column| value(column).map_or(Ok("".into()), as_column))
            .map_err(|(column, what)| anyhow!("`{}`: {what}", columns.names[column]))
            .with_context(place)?;
        for (column, present) in present.iter_mut().enumerate() {
            *present |= value(column).is_some_and(|value| !value.is_null());
        }
        let is_used = |field: &str| {
            let mut names = columns.names.iter();
            names.any(|name| field == *name || field == on_the_bus(name))
        };
        let room = MAX_UNUSED.saturating_sub(unused.len());
        unused.extend(
            line.into_iter()
                .map(|(field, _)| field)
                .filter(|field| !is_used(field))
                .take(room),
        );
    }
    tell_unused(name, &Vec::from_iter(unused));
    Ok(present)
}

fn parse(text: &str) -> anyhow::Result<Map<String, Value>> {
    serde_json::from_str(text).map_err(|error| {
        // Of its own, serde counts lines within this one.
        let told = error.to_string();
        let what = told.split(" at line ").next().unwrap_or_default();
        anyhow!("column {}: {what}", error.column())
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = Columns {
        names: &["user_id", "timestamp_utc", "event_type"],
        needed: 2,
    };

    /// Returns the rows of a file, and which columns it has.
    fn rows(text: &str) -> anyhow::Result<(Vec<Vec<String>>, Vec<bool>)> {
        let mut rows = Vec::new();
        let present = read_lines("f.jsonl", text.as_bytes(), COLUMNS, |row| {
            let column = |column| row(column).map(Cow::into_owned).map_err(|what| (column, what));
            rows.push((0..3).map(column).collect::<Result<_, _>>()?);
            Ok(())
        })?;
        Ok((rows, present))
    }

    #[test]
    fn fields_are_columns_by_either_name() {
        let text = "{\"user_id\":7,\"timestamp_utc\":12.5,\"event_type\":null}\n\n\
            {\"universal_id\":\" b \",\"timestamp\":\"1970-01-01T00:00:05Z\",\"other\":[1]}\n";
        let (found, present) = rows(text).unwrap();
        assert_eq!(found, [["7", "12.5", ""], ["b", "1970-01-01T00:00:05Z", ""]]);
        assert_eq!(present, [true, true, false]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        for begin in ["\u{feff}", "\u{feff}\n", "\u{feff}\r\n"] {
            let (found, _) = rows(&format!("{begin}{{\"user_id\":\"a\"}}\n")).unwrap();
            assert_eq!(found, [["a", "", ""]], "{begin:?}");
        }
        assert!(rows("{\"user_id\":\"a\"}\n\u{feff}{\"user_id\":\"b\"}\n").is_err());
    }

    #[test]
    fn names_line_and_field_of_a_mistake() {
        let error = |line: &str| format!("{:#}", rows(&format!("\n{line}\n")).unwrap_err());
        assert_eq!(
            error("{\"user_id\":[]}"),
            "`f.jsonl`, line 2: `user_id`: neither a number nor a text"
        );
        let broken = error("a,1");
        assert!(broken.starts_with("`f.jsonl`, line 2: column 1: "), "{broken}");
        assert!(error("{\"user_id\":").starts_with("`f.jsonl`, line 2: "));
    }
}
