//! Small functions on text that several providers share.

use std::borrow::Cow;

use crate::{BounceType, Identifier, IdentifierKind, Pair, bytes};

/// Returns the text as a `String`, for an event. Does the same as `Cow::into_owned`, but is cheaper in the sandbox, where a copy
/// of a length unknown at compile time is a call out of the guest's code.
pub fn owned(text: Cow<'_, str>) -> String {
    match text {
        Cow::Borrowed(text) => bytes::owned(text),
        Cow::Owned(text) => text,
    }
}

/// Returns the text, unless it is blank: providers send empty text where they mean "none".
pub fn present(text: &str) -> Option<&str> {
    // Most text begins with a letter or digit, which saves the search for a character that is not blank.
    let begins_visibly = text.as_bytes().first().is_some_and(u8::is_ascii_graphic);
    if begins_visibly || !text.trim().is_empty() {
        Some(text)
    } else {
        None
    }
}

/// Returns the bare address in `Name <user@example.com>` or `user@example.com`; `None` if it is blank, or a list of
/// several.
pub fn bare_address(mailbox: &str) -> Option<&str> {
    // Few names contain a comma.
    if mailbox.contains(',') && is_list(mailbox) {
        return None;
    }
    let inside = match mailbox.rsplit_once('<') {
        Some((_, tail)) => tail.split('>').next().unwrap_or(tail),
        None => mailbox,
    };
    present(inside.trim())
}

/// Returns whether more than one of the parts that commas outside quotation marks separate contains an address.
fn is_list(mailboxes: &str) -> bool {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = mailboxes.split(|letter| {
        if letter == '"' && !is_escaped {
            is_quoted = !is_quoted;
        }
        is_escaped = letter == '\\' && !is_escaped;
        letter == ',' && !is_quoted
    });
    parts.filter(|part| part.contains('@')).count() > 1
}

/// Reads from the SMTP code at the beginning of a response whether a bounce is hard or soft: `550 …` and `5.1.1 …` are hard, `4…`
/// is soft, other text says nothing.
pub fn smtp_bounce(answer: &str) -> Option<BounceType> {
    let answer = answer.trim_start().as_bytes();
    let kind = match answer.first()? {
        b'5' => BounceType::Hard,
        b'4' => BounceType::Soft,
        _ => return None,
    };
    let basic = answer.len() >= 3
        && answer[1..3].iter().all(u8::is_ascii_digit)
        && !answer.get(3).is_some_and(u8::is_ascii_alphanumeric);
    let enhanced = answer.len() >= 3 && answer[1] == b'.' && answer[2].is_ascii_digit();
    if basic || enhanced { Some(kind) } else { None }
}

impl Identifier {
    /// Creates the identifiers of an event, without those whose value is missing or blank.
    pub fn list<const N: usize>(values: [(IdentifierKind, Option<String>); N]) -> Vec<Identifier> {
        let identifier = |(kind, value): (IdentifierKind, Option<String>)| {
            let value = value.filter(|value| present(value).is_some())?;
            Some(Identifier { kind, value })
        };
        values.into_iter().filter_map(identifier).collect()
    }
}

impl Pair {
    /// Creates one pair of metadata.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Pair {
        Pair {
            name: name.into(),
            value: value.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_address_out_of_a_mailbox() {
        assert_eq!(bare_address("Ann <ann@example.com>"), Some("ann@example.com"));
        assert_eq!(
            bare_address("\"<Ann>\" <ann@example.com>"),
            Some("ann@example.com")
        );
        assert_eq!(bare_address(" ann@example.com "), Some("ann@example.com"));
        assert_eq!(bare_address("Ann <>"), None);
        for one in [
            "Doe, Ann <ann@example.com>",
            "\"ann@work.example, at work\" <ann@example.com>",
            "\"\\\", bob@example.com\" <ann@example.com>",
            "ann@example.com <ann@example.com>",
        ] {
            assert_eq!(bare_address(one), Some("ann@example.com"), "{one}");
        }
        for several in [
            "Ann <ann@example.com>, Bob <bob@example.com>",
            "ann@example.com,bob@example.com",
        ] {
            assert_eq!(bare_address(several), None, "{several}");
        }
    }

    #[test]
    fn identifiers_without_a_value_are_left_out() {
        let value = |text: &str| Some(text.to_owned());
        let list = Identifier::list([
            (IdentifierKind::EspUserId, value("7")),
            (IdentifierKind::ExternalId, None),
            (IdentifierKind::KlaviyoId, value(" ")),
            (IdentifierKind::PhoneNumber, value("+33600000000")),
        ]);
        let values: Vec<_> = list.iter().map(|identifier| identifier.value.as_str()).collect();
        assert_eq!(values, ["7", "+33600000000"]);
    }

    #[test]
    fn reads_hard_and_soft_from_smtp_answers() {
        assert_eq!(smtp_bounce("550 5.1.1 no such user"), Some(BounceType::Hard));
        assert_eq!(smtp_bounce("5.1.1"), Some(BounceType::Hard));
        assert_eq!(smtp_bounce("421-try later"), Some(BounceType::Soft));
        assert_eq!(smtp_bounce("452"), Some(BounceType::Soft));
        assert_eq!(smtp_bounce("5 attempts"), None);
        assert_eq!(smtp_bounce("5500"), None);
        assert_eq!(smtp_bounce("smtp; 550"), None);
        assert_eq!(smtp_bounce(""), None);
    }
}
