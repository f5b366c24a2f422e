//! Removes addresses from free text.
//!
//! Providers repeat the recipient's address in bounce reasons, and senders put it into links and metadata. None of it may
//! leave the host, so every free text passes through [`Redactor::text`] before it becomes part of an event.

use std::{borrow::Cow, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use memchr::memmem::Finder;

/// The text that replaces an address.
pub const PLACEHOLDER: &str = "[address]";

/// Fewest characters by which base64 shows an address. The shortest addresses on the internet (`a@b.co`) have as many wherever
/// they begin; fewer could be in a text by accident.
const MIN_BASE64: usize = 7;

/// Redacts anything that looks like an address, and the recipient's own address in many spellings.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    /// Spellings of the recipient's address in a folded text.
    own: Vec<Finder<'static>>,
}

impl Redactor {
    /// Creates a redactor for texts about the person with these addresses: none, or the same one as given and normalized. Text
    /// without something before and after an `@` counts as no address.
    pub fn for_recipient<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Self {
        let forms = addresses.into_iter().flat_map(|raw| {
            let raw = raw.trim();
            [raw.to_owned(), raw.to_lowercase()]
        });
        let mut forms: Vec<String> = forms.collect();
        forms.sort_unstable();
        forms.dedup();
        let mut own = Vec::new();
        for form in &forms {
            let Some((local, domain)) = form.rsplit_once('@') else {
                continue;
            };
            if local.is_empty() || domain.is_empty() {
                continue;
            }
            own.extend(in_base64(form));
            // Folding makes the form in upper case the same.
            if *form == form.to_lowercase() {
                own.extend(in_mail_paths(local, domain));
                let encoded = (percent_encoded(local), percent_encoded(domain));
                if (encoded.0.as_str(), encoded.1.as_str()) != (local, domain) {
                    own.extend(in_mail_paths(&encoded.0, &encoded.1));
                }
            }
        }
        own.sort_unstable();
        own.dedup();
        let own = own.iter().map(|spelling| Finder::new(spelling).into_owned());
        Self { own: own.collect() }
    }

    /// Redacts the recipient's own address only. For message ids, which have the form of an address without being one.
    pub fn own_address<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.own.is_empty() {
            return Cow::Borrowed(text);
        }
        let folded = Folded::of(text);
        let mut found: Vec<Range<usize>> = Vec::new();
        for spelling in &self.own {
            let length = spelling.needle().len();
            let starts = spelling.find_iter(folded.text.as_bytes());
            found.extend(starts.map(|start| folded.place(start)..folded.end(start + length)));
        }
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_unstable_by_key(|range| range.start);
        let mut result = String::new();
        let mut copied = 0;
        for range in found {
            // One that overlaps the one before is part of the same placeholder.
            if range.start >= copied {
                result.push_str(&text[copied..range.start]);
                result.push_str(PLACEHOLDER);
            }
            copied = copied.max(range.end);
        }
        result.push_str(&text[copied..]);
        Cow::Owned(result)
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

/// Returns how an address is spelled in a folded text: `local@domain`, and as bounce addresses contain it, `local=domain` (VERP) or
/// `domain=local` (SRS). After folding, `@` and `=` are the same; quoted-printable text has `=40` and `=3d` for them.
fn in_mail_paths(local: &str, domain: &str) -> Vec<String> {
    let spellings = [
        format!("{local}@{domain}"),
        format!("{domain}@{local}"),
        format!("{local}@40{domain}"),
        format!("{local}@3d{domain}"),
        format!("{domain}@3d{local}"),
    ];
    let mut found = Vec::with_capacity(spellings.len());
    for spelling in &spellings {
        found.push(Folded::of(spelling).text);
        // What begins with the digits of a sign (`40`, `3d`, `2540`, `253d`) becomes part of that sign behind a percent sign.
        if spelling.starts_with(['2', '3', '4']) {
            let behind = ["%", "%25"].map(|percent| Folded::of(&format!("{percent}{spelling}")).text);
            found.extend(behind.into_iter().filter(|folded| folded.starts_with('@')));
        }
    }
    found
}

/// Returns what base64 of any text with this address in it contains, folded: the characters that the address alone decides, for
/// each of the three places in a group of three bytes at which it may begin. In both alphabets, if they differ.
fn in_base64(address: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (before, first) in [(0, 0), (1, 2), (2, 3)] {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(address.as_bytes());
        let last = bytes.len() * 8 / 6;
        if last < first + MIN_BASE64 {
            continue;
        }
        let encoded = STANDARD_NO_PAD.encode(&bytes)[first..last].to_ascii_lowercase();
        if encoded.contains(['+', '/']) {
            found.push(encoded.replace('+', "-").replace('/', "_"));
        }
        found.push(encoded);
    }
    found
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

/// A text as it is searched for spellings of an address: in lower case, full-width letters as ASCII, the final `ς` as `σ`, and every
/// spelling of `@` and of `=` as `@`.
struct Folded {
    text: String,
    /// For each byte of the folded text, and its end: where the letter that it comes from begins. Empty if all are in their place.
    places: Vec<usize>,
}

impl Folded {
    fn of(text: &str) -> Self {
        if text.is_ascii() && !text.bytes().any(|byte| matches!(byte, b'%' | b'&' | b'\\')) {
            return Self {
                text: text.to_ascii_lowercase().replace('=', "@"),
                places: Vec::new(),
            };
        }
        let mut folded = String::with_capacity(text.len());
        let mut places = Vec::with_capacity(text.len() + 1);
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let place = text.len() - rest.len();
            let mut signs = AT_SIGNS.iter().chain(&EQUALS_SIGNS);
            let may_be_sign = rest.bytes().next().is_some_and(may_begin_sign);
            let sign = signs.find(|sign| may_be_sign && starts_with(rest, sign));
            if let Some(sign) = sign {
                folded.push('@');
                rest = &rest[sign.len()..];
            } else {
                folded.extend(half_width(letter).to_lowercase().map(one_sigma));
                rest = &rest[letter.len_utf8()..];
            }
            places.resize(folded.len(), place);
        }
        places.push(text.len());
        Self { text: folded, places }
    }

    /// Returns where the letter begins of which this is a byte.
    fn place(&self, position: usize) -> usize {
        self.places.get(position).copied().unwrap_or(position)
    }

    /// Returns where the letter ends of which the byte before this one is a part.
    fn end(&self, position: usize) -> usize {
        let before = self.place(position - 1);
        (position..self.places.len())
            .map(|position| self.place(position))
            .find(|place| *place != before)
            .unwrap_or(position)
    }
}

/// Returns the ASCII character of which this is the full-width form, or the letter itself.
fn half_width(letter: char) -> char {
    match letter {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(letter) - 0xfee0).unwrap_or(letter),
        _ => letter,
    }
}

/// Returns the lower-case sigma for its form at the end of a word: which of the two a capital becomes depends on the letters around
/// it, and these differ between an address and the text that it is in.
fn one_sigma(letter: char) -> char {
    if letter == 'ς' { 'σ' } else { letter }
}

/// The spellings of `@`, including those in percent-encoded and HTML-encoded text.
const AT_SIGNS: [&str; 8] = [
    "@", "%40", "%2540", "&#64;", "&#x40;", "&commat;", "\\u0040", "\u{ff20}",
];

/// The spellings of `=`, which takes the place of `@` in bounce addresses.
const EQUALS_SIGNS: [&str; 3] = ["=", "%3d", "%253d"];

/// Checks whether this can be the first byte of a sign; the last one begins the full-width `@`.
fn may_begin_sign(byte: u8) -> bool {
    matches!(byte, b'@' | b'=' | b'%' | b'&' | b'\\' | 0xef)
}

/// Checks whether a text begins with this sign in any letter case.
fn starts_with(text: &str, sign: &str) -> bool {
    let start = text.as_bytes().get(..sign.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(sign.as_bytes()))
}

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
        if !may_begin_sign(*byte) {
            continue;
        }
        let at = from + offset;
        let sign = AT_SIGNS.iter().find(|sign| starts_with(&text[at..], sign));
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
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    fn text(input: &str) -> String {
        Redactor::for_recipient(["Ann+News@Example.com"])
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
        let redactor = Redactor::for_recipient(["ann@example.com"]);
        assert_eq!(
            redactor.own_address("<14c5@ismtpd-555.example.net>"),
            "<14c5@ismtpd-555.example.net>"
        );
        assert_eq!(redactor.own_address("ann@example.com/7"), "[address]/7");
    }

    #[test]
    fn an_address_without_a_dot_is_still_the_persons_own() {
        assert_eq!(
            Redactor::for_recipient(["root@localhost"]).text("for Root@Localhost"),
            "for [address]"
        );
    }

    #[test]
    fn letters_that_repeat_themselves_take_one_pass() {
        // Comparing the address at every position of the text would take hours.
        let address = format!("{}@x", "a".repeat(1_000_000));
        let text = format!("{}@{address}", "a".repeat(2_000_000));
        let redacted = Redactor::for_recipient([address.as_str()])
            .own_address(&text)
            .into_owned();
        assert_eq!(redacted.len(), 2_000_001 + PLACEHOLDER.len());
    }

    #[test]
    fn finds_the_own_address_in_bounce_addresses_and_encodings() {
        let shown = |input: &str| {
            Redactor::for_recipient(["Marker.Ann@mk-secret.example"])
                .own_address(input)
                .into_owned()
        };
        for (input, expected) in [
            (
                "bounce-marker.ann=mk-secret.example@esp.example",
                "bounce-[address]@esp.example",
            ),
            (
                "SRS0=HHH=TT=mk-secret.example=Marker.Ann@relay.example",
                "SRS0=HHH=TT=[address]@relay.example",
            ),
            ("?b=b-marker.ann%3Dmk-secret.example", "?b=b-[address]"),
            ("marker.ann=3Dmk-secret.example", "[address]"),
            ("mk-secret.example=3Dmarker.ann", "[address]"),
            ("to=20marker.ann=40mk-secret.example=20", "to=20[address]=20"),
            ("<b>marker.ann&commat;mk-secret.example</b>", "<b>[address]</b>"),
            ("marker.ann&#x40;mk-secret.example", "[address]"),
            ("marker.ann&#64;mk-secret.example", "[address]"),
            ("an marker.ann＠mk-secret.example.", "an [address]."),
            ("ｍarker.ann＠mk-secret.example", "[address]"),
            (
                "marker.ann=other.example@esp.example",
                "marker.ann=other.example@esp.example",
            ),
        ] {
            assert_eq!(shown(input), expected);
        }
        for before in ["", "1", "12", "{\"email\":\"", "\u{fb}"] {
            for address in ["marker.ann@mk-secret.example", "Marker.Ann@mk-secret.example"] {
                let text = format!("{before}{address}\"}}");
                for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    let link = format!("https://x.test/c?t={encoded}&n=1");
                    let redacted = shown(&link);
                    assert!(redacted.contains(PLACEHOLDER), "{text}: {redacted}");
                    assert!(redacted.starts_with("https://x.test/c?t=") && redacted.ends_with("&n=1"));
                }
            }
        }
        let other = format!(
            "https://x.test/c?t={}",
            STANDARD_NO_PAD.encode("ann@other.example")
        );
        assert_eq!(shown(&other), other);
    }

    #[test]
    fn an_address_that_begins_like_a_sign_is_found_behind_a_percent_sign() {
        for address in ["40ann@example.com", "3Dann@example.com"] {
            let redactor = Redactor::for_recipient([address]);
            for percent in ["", "%", "%25"] {
                let redacted = redactor
                    .own_address(&format!("id{percent}{address}"))
                    .into_owned();
                assert!(
                    !redacted.contains(address) && redacted.contains(PLACEHOLDER),
                    "{redacted}"
                );
            }
        }
    }

    #[test]
    fn a_greek_address_is_found_whichever_sigma_it_is_spelled_with() {
        for address in ["ΝΙΚΟΣ@example.gr", "νικος@example.gr", "νικοσ@example.gr"] {
            let redactor = Redactor::for_recipient([address]);
            for spelled in ["ΝΙΚΟΣ@example.gr", "νικος=example.gr", "example.gr=νικοσ"] {
                assert_eq!(
                    redactor.own_address(&format!("m-{spelled}")),
                    "m-[address]",
                    "{address}"
                );
            }
        }
    }

    #[test]
    fn too_short_an_address_is_not_searched_in_base64() {
        let redactor = Redactor::for_recipient(["a@b"]);
        let text = format!("?id={}", STANDARD_NO_PAD.encode("a@b"));
        assert_eq!(redactor.own_address(&text), text);
        let redactor = Redactor::for_recipient(["a@b.co"]);
        for before in ["", "1", "12"] {
            let text = STANDARD_NO_PAD.encode(format!("{before}a@b.co"));
            assert!(redactor.own_address(&text).contains(PLACEHOLDER));
        }
    }

    proptest! {
        #[test]
        fn takes_out_what_spells_the_address(
            local in "[aAİiΣςσ\u{307}%@=]{1,4}",
            domain in "[aAİiΣςσ\u{307}%@=]{0,3}[aAİiΣςσ\u{307}%=]",
            parts in prop::collection::vec((0_usize..8, "[aAİiΣςσ\u{307}%@4=＠]{0,3}"), 0..6),
            upper: bool,
        ) {
            let address = format!("{local}@{domain}");
            let redactor = Redactor::for_recipient([address.as_str()]);
            let spellings = [address.to_lowercase(), address.replace('@', "="), percent_encoded(&address.to_lowercase())];
            let mut text = String::new();
            for (spelling, other) in &parts {
                text.push_str(spellings.get(*spelling).unwrap_or(other));
                text.push_str(other);
            }
            if upper {
                text = text.to_uppercase();
            }
            let redacted = redactor.own_address(&text);
            prop_assert!(!redacted.to_lowercase().contains(&address.to_lowercase()));
            prop_assert_eq!(redactor.own_address(&redacted), redacted.as_ref());
            let is_shown = text.to_lowercase().contains(&address.to_lowercase());
            prop_assert!(!is_shown || redacted.contains(PLACEHOLDER));
            // What is left is left in its order.
            let mut rest = text.as_str();
            for left in redacted.split(PLACEHOLDER) {
                let Some(at) = rest.find(left) else {
                    return Err(TestCaseError::fail(format!("`{left}` is not in `{rest}`")));
                };
                rest = &rest[at + left.len()..];
            }
        }

        #[test]
        fn never_leaves_the_recipients_address(before in "\\PC{0,12}", after in "\\PC{0,12}", local in "[a-zA-Z0-9._+-]{1,8}") {
            let address = format!("{local}@Example.org");
            let redacted = Redactor::for_recipient([address.as_str()]).text(&format!("{before}{address}{after}")).to_lowercase();
            prop_assert!(!redacted.contains(&address.to_lowercase()));
        }
    }
}
