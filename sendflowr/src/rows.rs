//! Rows of a file: CSV, JSON lines or Parquet, with the same columns.

mod json_lines;
mod parquet;
mod table;

use std::{
    borrow::Cow,
    fs::File,
    io::{Cursor, Read},
    path::Path,
};

use anyhow::Context;
use event::Timestamp;

use self::table::Table;
use crate::output;

/// The columns that a command reads, by their numbers. Others are not read, which is said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    pub(crate) names: &'static [&'static str],
    /// How many of them, the first ones, a file must have.
    pub(crate) needed: usize,
}

/// A row: returns the column with a given number, without surrounding blanks, empty if it has no value; or says why it cannot be
/// read.
pub(crate) type Row<'a> = &'a dyn Fn(usize) -> Result<Cow<'a, str>, String>;

/// The number of a column that is wrong, and what is wrong with it.
pub(crate) type Wrong = (usize, String);

/// Reads a file, calls `take` for each row, and returns for each column whether the file has it. Parquet is recognized by its
/// first bytes, JSON lines by the end of the name, anything else is CSV. The latter two may be gzipped, and come from a pipe.
///
/// # Errors
/// Returns the first mistake in the file, found here or by `take`, naming its line or row, and its column.
pub(crate) fn read(
    path: &Path,
    columns: Columns,
    take: impl FnMut(Row<'_>) -> Result<(), Wrong>,
) -> anyhow::Result<Vec<bool>> {
    let name = path.display().to_string();
    let mut file = File::open(path).with_context(|| format!("cannot open `{name}`"))?;
    // Opened once: a pipe does not give its first bytes again.
    let mut start = Vec::new();
    file.by_ref()
        .take(parquet::MAGIC.len() as u64)
        .read_to_end(&mut start)
        .with_context(|| format!("cannot read `{name}`"))?;
    if start == parquet::MAGIC {
        return parquet::read(&name, file, columns, take);
    }
    let source = Cursor::new(start).chain(file);
    if json_lines::is_json_lines(&name) {
        return json_lines::read(&name, source, columns, take);
    }
    Table::open(name, source, columns)?.read_all(take)
}

/// Reads the text of a CSV file, for tests of the code that reads files; `name` is for messages.
#[cfg(test)]
pub(crate) fn read_text(
    name: &str,
    text: &str,
    columns: Columns,
    take: impl FnMut(Row<'_>) -> Result<(), Wrong>,
) -> anyhow::Result<Vec<bool>> {
    let source = Cursor::new(text.as_bytes().to_vec());
    Table::read(name.to_owned(), source, columns)?.read_all(take)
}

/// Returns what an event on the bus calls a column.
fn on_the_bus(column: &str) -> &str {
    match column {
        "user_id" => "universal_id",
        "timestamp_utc" => "timestamp",
        same => same,
    }
}

/// Says which columns of a file are not used: a misspelt name must not go unnoticed.
fn tell_unused(name: &str, columns: &[String]) {
    if !columns.is_empty() {
        output::note(&format!("`{name}`: ignored columns: `{}`", columns.join("`, `")));
    }
}

/// Parses epoch seconds, possibly with a fraction, or RFC 3339.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    let Ok(seconds) = text.parse::<f64>() else {
        return text.parse().map_err(|_| {
            format!("`{text}` is neither epoch seconds nor an RFC 3339 time between 1970 and 9999")
        });
    };
    let out_of_range = || format!("`{text}` seconds since 1970 is not between the years 1970 and 9999");
    if !seconds.is_finite() {
        return Err(out_of_range());
    }
    // The conversion of a value that is out of range saturates, and the result is still out of range.
    Timestamp::try_from_millis((seconds * 1000.0).round() as i64).ok_or_else(out_of_range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_epoch_seconds_or_rfc_3339() {
        let millis = |text: &str| moment(text).map(Timestamp::as_millis);
        assert_eq!(millis("1767225600"), Ok(1_767_225_600_000));
        assert_eq!(millis("1767225600.25"), Ok(1_767_225_600_250));
        assert_eq!(millis("2026-01-01T01:00:00+01:00"), Ok(1_767_225_600_000));
        for text in [
            "",
            "-1",
            "nan",
            "inf",
            "1e300",
            "1767225600000",
            "yesterday",
            "2026-13-01T00:00:00Z",
        ] {
            assert!(millis(text).is_err(), "{text}");
        }
    }
}
