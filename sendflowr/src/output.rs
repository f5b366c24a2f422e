//! What commands print for people and programs: results go to standard output, logs to standard error.

use std::{
    io::{self, ErrorKind, Write},
    sync::{Mutex, PoisonError},
};

use anyhow::Context;

/// Why a line could not be printed. Kept for the end of the process: a host serves on even if nobody can read its lines.
static FAILURE: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints one line. A closed pipe (`sendflowr … | head`) is not an error; [`complete`] reports others.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            *FAILURE.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        _ => {}
    }
}

/// Checks that everything was printed.
///
/// # Errors
/// Says why a line could not be printed.
pub(crate) fn complete() -> anyhow::Result<()> {
    let failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure
        .map_or(Ok(()), Err)
        .context("cannot write the result to standard output")
}

/// Prints one line to standard error, for what is not part of the result.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "note: {text}");
}

/// Writes a count with its noun, which takes an `s` unless the count is 1.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Says what to do about decisions near whose time only mail of other campaigns was sent.
pub(crate) fn about_campaigns(under_another: usize) -> String {
    format!(
        "Followed by mail of another campaign only: {}. Give the provider's own id as `campaign_id` (docs/providers.md says \
         which field of its events that is), or leave it out.",
        counted(under_another, "decision")
    )
}

/// Formats a table: the header, a rule, and one line per row, with aligned columns. Columns in which every cell is a number
/// are aligned to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let columns = header.len();
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| cell(row, column).chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let numeric: Vec<bool> = (0..columns)
        .map(|column| !rows.is_empty() && rows.iter().all(|row| cell(row, column).parse::<f64>().is_ok()))
        .collect();
    let render = |cells: Vec<String>| {
        let padded = cells.into_iter().enumerate().map(|(column, text)| {
            let padding = " ".repeat(widths[column] - text.chars().count());
            if numeric[column] {
                padding + &text
            } else {
                text + &padding
            }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![render(header.iter().map(|name| (*name).to_owned()).collect())];
    lines.push(
        widths
            .iter()
            .map(|width| "─".repeat(*width))
            .collect::<Vec<_>>()
            .join("  "),
    );
    lines.extend(
        rows.iter()
            .map(|row| render((0..columns).map(|column| cell(row, column)).collect())),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_numbers_to_the_right() {
        let rows = vec![
            vec!["sendgrid".to_owned(), "12".to_owned()],
            vec!["ses".to_owned(), "3".to_owned()],
        ];
        let expected = "provider  accepted\n────────  ────────\nsendgrid        12\nses              3";
        assert_eq!(table(&["provider", "accepted"], &rows), expected);
    }
}
