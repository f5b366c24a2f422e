//! Small readings of text that several providers share.

use std::borrow::Cow;

use crate::{BounceType, Identifier, IdentifierKind, Pair, bytes};

/// The text as an event wants it. Like `Cow::into_owned`, and cheaper in the sandbox, where a copy of unknown length leaves
/// the guest's code.
pub fn owned(text: Cow<'_, str>) -> String {
    match text {
        Cow::Borrowed(text) => bytes::owned(text),
        Cow::Owned(text) => text,
    }
}

/// The text, unless it is blank: providers send empty text where they mean "none".
pub fn present(text: &str) -> Option<&str> {
    // Most text begins with a letter or digit, which spares the search for a character that is no blank.
    let begins_visibly = text.as_bytes().first().is_some_and(u8::is_ascii_graphic);
    if begins_visibly || !text.trim().is_empty() {
        Some(text)
    } else {
        None
    }
}

/// The address alone out of `Name <user@example.com>` or `user@example.com`; none where nothing is left.
pub fn bare_address(mailbox: &str) -> Option<&str> {
    let inside = match mailbox.rsplit_once('<') {
        Some((_, tail)) => tail.split('>').next().unwrap_or(tail),
        None => mailbox,
    };
    present(inside.trim())
}

/// Hard or soft by the SMTP code with which an answer begins: `550 …` and `5.1.1 …` are hard, `4…` soft,
/// other text tells nothing.
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
    /// An identifier, unless the value is blank.
    pub fn of(kind: IdentifierKind, value: Option<String>) -> Option<Identifier> {
        let value = value?;
        present(&value)?;
        Some(Identifier { kind, value })
    }
}

impl Pair {
    /// One pair of metadata.
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
