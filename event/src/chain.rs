//! Formatting an error together with its causes.

use std::error::Error;

/// Returns an error and its causes as one line, outermost first, for status and logs.
///
/// An error of this workspace either includes its cause in its message or returns it as its source, never both, so that each
/// cause appears in the line once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;

    #[test]
    fn a_cause_stands_in_the_line_once() {
        let error = Event::from_json(b"{").unwrap_err();
        let cause = error.source().unwrap().to_string();
        assert_eq!(chain(&error), format!("not an event: {cause}"));
    }
}
