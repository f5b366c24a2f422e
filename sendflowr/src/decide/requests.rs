//! The requested decisions: a CSV file.

use std::path::Path;

use event::Timestamp;

use crate::rows::{
    Columns,
    table::{Row, Table},
};

const COLUMNS: Columns = Columns {
    names: &["user_id", "decision_time", "window_hours"],
    needed: 3,
};

const USER_ID: usize = 0;
const DECISION_TIME: usize = 1;
const WINDOW_HOURS: usize = 2;

/// A year: windows beyond it repeat the same week.
const MAX_WINDOW_HOURS: f64 = 8_784.0;

/// One requested decision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    /// The person, who may be unknown to the event log.
    pub(crate) user_id: String,
    /// When the decision is made: it knows only what happened before.
    pub(crate) decision_time: Timestamp,
    /// How long after the decision the mail may arrive.
    pub(crate) window_hours: f64,
}

impl Request {
    /// Returns when the window ends.
    pub(crate) fn window_end(&self) -> Timestamp {
        self.decision_time
            .plus_millis((self.window_hours * 3_600_000.0) as i64)
    }
}

/// Reads requests, in the order of the file.
///
/// # Errors
/// Returns the first mistake in the file, naming line and column.
pub(crate) fn open(path: &Path) -> anyhow::Result<Vec<Request>> {
    read(Table::open(path, COLUMNS)?)
}

fn read(mut table: Table) -> anyhow::Result<Vec<Request>> {
    let mut requests = Vec::new();
    while let Some(row) = table.next_row()? {
        requests.push(request(&row)?);
    }
    Ok(requests)
}

fn request(row: &Row<'_>) -> anyhow::Result<Request> {
    let user_id = row.text(USER_ID);
    if user_id.is_empty() {
        return Err(row.wrong(USER_ID, "empty"));
    }
    let text = row.text(WINDOW_HOURS);
    let window_hours = text
        .parse()
        .ok()
        // A window contains at least one minute, the unit of decisions.
        .filter(|hours: &f64| (1.0 / 60.0..=MAX_WINDOW_HOURS).contains(hours))
        .ok_or_else(|| {
            let what = format!("`{text}` is not a number of hours from one minute to {MAX_WINDOW_HOURS}");
            row.wrong(WINDOW_HOURS, &what)
        })?;
    Ok(Request {
        user_id: user_id.to_owned(),
        decision_time: row.moment(DECISION_TIME)?,
        window_hours,
    })
}

/// Parses requests, for tests of the code that uses them.
#[cfg(test)]
pub(crate) fn parse(text: &str) -> anyhow::Result<Vec<Request>> {
    let source = std::io::Cursor::new(text.as_bytes().to_vec());
    read(Table::read("requests.csv".to_owned(), source, COLUMNS)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_requests_and_names_mistakes() {
        let requests = parse("window_hours,decision_time,user_id\n1.5,60,a\n").unwrap();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].user_id, "a");
        assert_eq!(requests[0].window_end().as_seconds(), 60 + 5_400);
        for wrong in ["0", "-1", "", "nan", "1e9", "a day"] {
            let message = parse(&format!("user_id,decision_time,window_hours\na,1,{wrong}\n"))
                .unwrap_err()
                .to_string();
            let expected = "`requests.csv`, line 2, column `window_hours`: ";
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
