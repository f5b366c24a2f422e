//! The file of the requested decisions.

use std::path::Path;

use event::Timestamp;

use crate::rows::{self, Columns, Row, Wrong};

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
/// Returns the first mistake in the file, naming its line or row, and its column.
pub(crate) fn open(path: &Path) -> anyhow::Result<Vec<Request>> {
    let mut requests = Vec::new();
    rows::read(path, COLUMNS, |row| {
        requests.push(request(row)?);
        Ok(())
    })?;
    Ok(requests)
}

fn request(row: Row<'_>) -> Result<Request, Wrong> {
    let text = |column: usize| row(column).map_err(|what| (column, what));
    let user_id = text(USER_ID)?;
    if user_id.is_empty() {
        return Err((USER_ID, "empty".to_owned()));
    }
    let hours = text(WINDOW_HOURS)?;
    let window_hours = hours
        .parse()
        .ok()
        // A window contains at least one minute, the unit of decisions.
        .filter(|hours: &f64| (1.0 / 60.0..=MAX_WINDOW_HOURS).contains(hours))
        .ok_or_else(|| {
            let what = format!("`{hours}` is not a number of hours from one minute to {MAX_WINDOW_HOURS}");
            (WINDOW_HOURS, what)
        })?;
    let decision_time = rows::moment(&text(DECISION_TIME)?).map_err(|what| (DECISION_TIME, what))?;
    Ok(Request {
        user_id: user_id.into_owned(),
        decision_time,
        window_hours,
    })
}

/// Parses requests, for tests of the code that uses them.
#[cfg(test)]
pub(crate) fn parse(text: &str) -> anyhow::Result<Vec<Request>> {
    let mut requests = Vec::new();
    rows::read_text("requests.csv", text, COLUMNS, |row| {
        requests.push(request(row)?);
        Ok(())
    })?;
    Ok(requests)
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
        for (wrong, column) in [(",1,24", "user_id"), ("a,soon,24", "decision_time")] {
            let message = parse(&format!("user_id,decision_time,window_hours\n{wrong}\n"))
                .unwrap_err()
                .to_string();
            let expected = format!("`requests.csv`, line 2, column `{column}`: ");
            assert!(message.starts_with(&expected), "{message}");
        }
    }

    #[test]
    fn requests_may_be_json_lines() {
        let csv = parse("user_id,decision_time,window_hours\n7,60,1.5\nb,1970-01-01T00:02:00Z,24\n").unwrap();
        let lines = "{\"user_id\":7,\"decision_time\":60,\"window_hours\":1.5}\n\
                     {\"user_id\":\"b\",\"decision_time\":\"1970-01-01T00:02:00Z\",\"window_hours\":24}\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests.jsonl");
        std::fs::write(&path, lines).unwrap();
        assert_eq!(open(&path).unwrap(), csv);
        std::fs::write(&path, "{\"user_id\":\"a\",\"decision_time\":1}\n").unwrap();
        let error = open(&path).unwrap_err();
        let told = format!("{error:#}");
        assert!(
            told.contains("requests.jsonl`, line 1: `window_hours`: `` is not a number"),
            "{told}"
        );
    }
}
