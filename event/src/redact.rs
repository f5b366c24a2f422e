//! Removes addresses from free text.
//!
//! Providers repeat the recipient's address in bounce reasons, and senders put it into links and metadata. None of it may
//! leave the host, so every free text passes through [`Redactor::text`] before it becomes part of an event.

use std::{borrow::Cow, collections::VecDeque};

/// The text that replaces an address.
pub const PLACEHOLDER: &str = "[address]";

/// Redacts anything that looks like an address, and the recipient's own address whatever it looks like.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    /// Spellings of the recipient's address, longest first.
    own: Vec<Spelling>,
}

impl Redactor {
    /// Creates a redactor for texts about the person with this raw address, if the event has one. Text without an `@` counts
    /// as no address.
    pub fn for_recipient(raw: Option<&str>) -> Self {
        let Some(address) = raw
            .map(|raw| raw.trim().to_lowercase())
            .filter(|address| address.contains('@'))
        else {
            return Self::default();
        };
        let percent = percent_encoded(&address);
        let mut own = vec![
            (percent.replace("%40", "@"), "@"),
            (percent, "%40"),
            (address, "@"),
        ];
        own.sort_by_key(|(spelling, _)| std::cmp::Reverse(spelling.len()));
        own.dedup();
        let own = own.iter().map(|(text, at_sign)| Spelling::new(text, at_sign));
        Self { own: own.collect() }
    }

    /// Redacts the recipient's own address only. For message ids, which have the form of an address without being one.
    pub fn own_address<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut result = Cow::Borrowed(text);
        for spelling in &self.own {
            if let Some(replaced) = spelling.replaced_in(&result) {
                result = Cow::Owned(replaced);
            }
        }
        result
    }

    /// Redacts everything that looks like an address.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let without_own = self.own_address(text);
        match redact_addresses(&without_own) {
            Some(redacted) => Cow::Owned(redacted),
            None => without_own,
        }
    }
}

/// Percent-encodes the bytes that the `application/x-www-form-urlencoded` rules encode, in lower case.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02x}"));
        }
    }
    encoded
}

/// A spelling of an address, searched for in one pass over a text even if text and address are repetitive (Knuth, Morris
/// and Pratt): both come from untrusted senders, and everybody shares the processing time.
#[derive(Debug, Clone)]
struct Spelling {
    /// How its at sign is spelled. Most texts have none, and are not searched further.
    at_sign: &'static str,
    /// The letters in lower case.
    letters: Vec<char>,
    /// For each letter: the length of the longest proper prefix of the letters up to it that is also their suffix.
    borders: Vec<usize>,
}

impl Spelling {
    fn new(lower: &str, at_sign: &'static str) -> Self {
        let letters: Vec<char> = lower.chars().collect();
        let mut borders = vec![0; letters.len()];
        for position in 1..letters.len() {
            borders[position] = continued(&letters, &borders, borders[position - 1], letters[position]);
        }
        Self {
            at_sign,
            letters,
            borders,
        }
    }

    /// Returns `text` with every occurrence in any letter case replaced, or `None` if there are no occurrences.
    fn replaced_in(&self, text: &str) -> Option<String> {
        if !text.contains(self.at_sign) {
            return None;
        }
        let mut result = String::new();
        let mut copied = 0;
        let mut matched = 0;
        // Where the last letters begin. Lower-casing turns a few letters into two; a match must begin at the first of these.
        let mut begins = VecDeque::with_capacity(self.letters.len() + 1);
        for (position, letter) in text.char_indices() {
            let mut begin = Some(position);
            for lower in letter.to_lowercase() {
                begins.push_back(begin.take());
                if begins.len() > self.letters.len() {
                    begins.pop_front();
                }
                matched = continued(&self.letters, &self.borders, matched, lower);
                if matched < self.letters.len() {
                    continue;
                }
                matched = self.borders[matched - 1];
                if let Some(Some(start)) = begins.front() {
                    result.push_str(&text[copied..*start]);
                    result.push_str(PLACEHOLDER);
                    copied = position + letter.len_utf8();
                    matched = 0;
                    begins.clear();
                    break;
                }
            }
        }
        if copied == 0 {
            return None;
        }
        result.push_str(&text[copied..]);
        Some(result)
    }
}

/// Returns how many of the first `letters` match up to and including `next`, if `matched` of them, not all, matched before it.
fn continued(letters: &[char], borders: &[usize], mut matched: usize, next: char) -> usize {
    while matched > 0 && letters[matched] != next {
        matched = borders[matched - 1];
    }
    matched + usize::from(letters[matched] == next)
}

/// The spellings of `@`, including those in percent-encoded and HTML-encoded text.
const AT_SIGNS: [&str; 5] = ["@", "%40", "%2540", "&#64;", "\\u0040"];

/// Returns `text` with everything of the form local@domain.tld replaced, or `None` if there is nothing to replace.
fn redact_addresses(text: &str) -> Option<String> {
    let mut result = String::new();
    let mut copied = 0;
    let mut search = 0;
    while let Some((at, sign)) = next_at_sign(text, search) {
        let after = at + sign.len();
        search = after;
        // The domain is checked first: searching back for the local part only pays off, and is only bounded, if there is one.
        let domain: usize = text[after..]
            .chars()
            .take_while(|c| is_domain(*c))
            .map(char::len_utf8)
            .sum();
        let domain = text[after..after + domain].trim_end_matches(['.', '-']).len();
        if !text[after..after + domain].trim_start_matches('.').contains('.') {
            continue;
        }
        let local = text[copied..at]
            .char_indices()
            .rev()
            .take_while(|(_, c)| is_local(*c))
            .last();
        let Some(start) = local.map(|(offset, _)| copied + offset) else {
            continue;
        };
        result.push_str(&text[copied..start]);
        result.push_str(PLACEHOLDER);
        copied = after + domain;
        search = copied;
    }
    if copied == 0 {
        return None;
    }
    result.push_str(&text[copied..]);
    Some(result)
}

/// Finds the next at sign from this position on, in one pass whatever the text.
fn next_at_sign(text: &str, from: usize) -> Option<(usize, &'static str)> {
    for (offset, byte) in text.as_bytes()[from..].iter().enumerate() {
        if !matches!(byte, b'@' | b'%' | b'&' | b'\\') {
            continue;
        }
        let at = from + offset;
        let sign = AT_SIGNS
            .iter()
            .find(|sign| text.as_bytes()[at..].starts_with(sign.as_bytes()));
        if let Some(sign) = sign {
            return Some((at, sign));
        }
    }
    None
}

/// Checks whether a letter can be part of a local part. Percent-encoding (`%2B` for a plus sign) can; what separates it
/// from its surroundings in links and SMTP replies (`=`, `&`, `/`, `<`, `:`, quotes, spaces) cannot.
fn is_local(letter: char) -> bool {
    letter.is_alphanumeric()
        || matches!(
            letter,
            '.' | '_' | '-' | '+' | '%' | '\'' | '!' | '#' | '$' | '*' | '~'
        )
}

fn is_domain(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '.' | '-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(input: &str) -> String {
        Redactor::for_recipient(Some("Ann+News@Example.com"))
            .text(input)
            .into_owned()
    }

    #[test]
    fn takes_addresses_out_of_reasons_and_links() {
        assert_eq!(
            text("550 5.1.1 <bob@example.org>: unknown"),
            "550 5.1.1 <[address]>: unknown"
        );
        assert_eq!(
            text("https://x.test/?u=ann%2Bnews%40example.com&a=1"),
            "https://x.test/?u=[address]&a=1"
        );
        assert_eq!(
            text("https://x.test/?u=ann%2bnews@EXAMPLE.com"),
            "https://x.test/?u=[address]"
        );
        assert_eq!(text("to ANN+NEWS@example.COM."), "to [address].");
        assert_eq!(text("a@b.co,c@d.co"), "[address],[address]");
    }

    #[test]
    fn leaves_what_is_no_address() {
        for plain in [
            "",
            "@",
            "50 % @ noon",
            "user@localhost",
            "https://example.com/@handle",
            "a @ b.c",
        ] {
            assert_eq!(text(plain), plain);
        }
        assert!(matches!(
            Redactor::default().text("nothing here"),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn message_ids_keep_their_form() {
        let redactor = Redactor::for_recipient(Some("ann@example.com"));
        assert_eq!(
            redactor.own_address("<14c5@ismtpd-555.example.net>"),
            "<14c5@ismtpd-555.example.net>"
        );
        assert_eq!(redactor.own_address("ann@example.com/7"), "[address]/7");
    }

    #[test]
    fn an_address_without_a_dot_is_still_the_persons_own() {
        assert_eq!(
            Redactor::for_recipient(Some("root@localhost")).text("for Root@Localhost"),
            "for [address]"
        );
    }

    #[test]
    fn letters_that_repeat_themselves_take_one_pass() {
        // Comparing the address at every position of the text would take hours.
        let address = format!("{}@x", "a".repeat(1_000_000));
        let text = format!("{}@{address}", "a".repeat(2_000_000));
        let redacted = Redactor::for_recipient(Some(&address))
            .own_address(&text)
            .into_owned();
        assert_eq!(redacted.len(), 2_000_001 + PLACEHOLDER.len());
    }

    /// The definition of what is replaced: every place where the text spells the address in any letter case, left to right.
    fn replaced_slowly(text: &str, spelling: &str) -> Option<String> {
        let mut result = String::new();
        let mut copied = 0;
        let mut position = 0;
        while position < text.len() {
            if let Some(length) = length_of(&text[position..], spelling) {
                result.push_str(&text[copied..position]);
                result.push_str(PLACEHOLDER);
                position += length;
                copied = position;
            } else {
                position += text[position..].chars().next().map_or(1, char::len_utf8);
            }
        }
        (copied > 0).then(|| result + &text[copied..])
    }

    /// Returns how many bytes of `text` spell `spelling`, if `text` begins with it.
    fn length_of(text: &str, spelling: &str) -> Option<usize> {
        let mut wanted = spelling.chars().peekable();
        for (position, letter) in text.char_indices() {
            for lower in letter.to_lowercase() {
                if wanted.next() != Some(lower) {
                    return None;
                }
                if wanted.peek().is_none() {
                    return Some(position + letter.len_utf8());
                }
            }
        }
        None
    }

    proptest! {
        #[test]
        fn takes_out_what_spells_the_address(
            local in "[aAİi\u{307}%@]{0,4}",
            domain in "[aAİi\u{307}%@]{0,4}",
            parts in prop::collection::vec((0_usize..4, "[aAİi\u{307}%@4]{0,3}"), 0..6),
            upper: bool,
        ) {
            let redactor = Redactor::for_recipient(Some(&format!("{local}@{domain}")));
            let spellings: Vec<String> = redactor.own.iter().map(|own| own.letters.iter().collect()).collect();
            let mut text = String::new();
            for (spelling, other) in parts {
                text.push_str(spellings.get(spelling).unwrap_or(&other));
                text.push_str(&other);
            }
            if upper {
                text = text.to_uppercase();
            }
            let mut expected = text.clone();
            for spelling in &spellings {
                expected = replaced_slowly(&expected, spelling).unwrap_or(expected);
            }
            prop_assert_eq!(redactor.own_address(&text), expected);
        }

        #[test]
        fn never_leaves_the_recipients_address(before in "\\PC{0,12}", after in "\\PC{0,12}", local in "[a-zA-Z0-9._+-]{1,8}") {
            let address = format!("{local}@Example.org");
            let redacted = Redactor::for_recipient(Some(&address)).text(&format!("{before}{address}{after}")).to_lowercase();
            prop_assert!(!redacted.contains(&address.to_lowercase()));
        }
    }
}
