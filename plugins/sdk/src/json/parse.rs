//! The JSON parser: turns text into nodes in one pass.

use crate::bytes::plain_bytes;

/// The deepest nesting that is accepted. Real payloads stay below ten levels; the guest's 1 MiB stack has room for many times
/// this many frames.
const MAX_DEPTH: usize = 128;

/// The number of nodes that any text may have, however short it is: 1 MiB of them.
const FEW_NODES: usize = 64 * 1024;

/// The least number of bytes for each node of a longer text. The providers' own samples have nine and more. The nodes of a text
/// of nothing but `0,` would take more memory than a guest has, and anybody can send one: it is read before any proof is checked.
const BYTES_PER_NODE: usize = 4;

/// The expected number of bytes for each node, used for the first allocation: as many as in the densest samples, so that few
/// texts need more room, and so that doubling it once makes room for all that [`BYTES_PER_NODE`] allows.
const EXPECTED_BYTES_PER_NODE: usize = 2 * BYTES_PER_NODE;

/// The kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No value: the result of a lookup that finds nothing.
    Missing,
    Null,
    True,
    False,
    Number,
    /// A string without escapes.
    Text,
    /// A string with escapes.
    EscapedText,
    Array,
    Object,
}

/// A value or name, and its position. Nodes are in the order of the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// Position of the first byte; for a string, of the first byte after its opening quote.
    pub(super) start: u32,
    /// Position after the last byte; for a string, of its closing quote.
    pub(super) end: u32,
    /// Index of the first node that is not inside this one.
    pub(super) next: u32,
}

impl Node {
    pub(super) const MISSING: Node = Node {
        kind: Kind::Missing,
        start: 0,
        end: 0,
        next: 1,
    };
}

type Fault = &'static str;

/// Reads a text from a position on. Faults do not quote the text, which may be personal data.
pub(super) struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    most_nodes: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Parser<'a> {
        Parser {
            bytes: text.as_bytes(),
            at: 0,
            depth: 0,
            most_nodes: FEW_NODES.max(text.len() / BYTES_PER_NODE),
        }
    }

    /// Allocates room for the nodes of the whole text.
    pub(super) fn room(&self) -> Vec<Node> {
        Vec::with_capacity(self.bytes.len() / EXPECTED_BYTES_PER_NODE)
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Skips blanks and returns the byte that follows, without taking it.
    #[inline]
    fn skip_blanks(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Checks that nothing but blanks follows.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        match self.skip_blanks() {
            None => Ok(()),
            Some(_) => Err("unexpected text after the value"),
        }
    }

    /// Takes the opening bracket and returns whether an element follows; `None` if the text begins otherwise.
    pub(super) fn begin_array(&mut self) -> Result<Option<bool>, Fault> {
        match self.skip_blanks() {
            Some(b'[') => self.at += 1,
            Some(_) => return Ok(None),
            None => return Err("no text"),
        }
        self.depth += 1;
        if self.skip_blanks() == Some(b']') {
            self.at += 1;
            return Ok(Some(false));
        }
        Ok(Some(true))
    }

    /// Takes the separator or bracket after an element and returns whether another element follows.
    #[inline]
    pub(super) fn another_element(&mut self) -> Result<bool, Fault> {
        match self.skip_blanks() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(b']') => {
                self.at += 1;
                Ok(false)
            }
            _ => Err("`,` or `]` expected"),
        }
    }

    /// Takes one value and appends its nodes.
    pub(super) fn value(&mut self, nodes: &mut Vec<Node>) -> Result<(), Fault> {
        let index = nodes.len();
        // A name may be added before the next check.
        if index + 2 > self.most_nodes {
            return Err("too many values for so short a text");
        }
        let first = self.skip_blanks();
        let start = self.at;
        let kind = match first {
            Some(b'"') => return self.string(nodes),
            Some(b'{') => {
                nodes.push(Node {
                    kind: Kind::Object,
                    start: start as u32,
                    end: 0,
                    next: 0,
                });
                self.object(nodes)?;
                Kind::Object
            }
            Some(b'[') => {
                nodes.push(Node {
                    kind: Kind::Array,
                    start: start as u32,
                    end: 0,
                    next: 0,
                });
                self.array(nodes)?;
                Kind::Array
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word(b"true", Kind::True)?,
            Some(b'f') => self.word(b"false", Kind::False)?,
            Some(b'n') => self.word(b"null", Kind::Null)?,
            Some(_) => return Err("a value expected"),
            None => return Err("a value expected, but the text ends"),
        };
        if index == nodes.len() {
            nodes.push(Node {
                kind,
                start: start as u32,
                end: self.at as u32,
                next: index as u32 + 1,
            });
        } else {
            nodes[index].end = self.at as u32;
            nodes[index].next = nodes.len() as u32;
        }
        Ok(())
    }

    fn object(&mut self, nodes: &mut Vec<Node>) -> Result<(), Fault> {
        self.enter()?;
        if self.skip_blanks() == Some(b'}') {
            return self.leave();
        }
        loop {
            if self.skip_blanks() != Some(b'"') {
                return Err("a name expected");
            }
            self.string(nodes)?;
            if self.skip_blanks() != Some(b':') {
                return Err("`:` expected");
            }
            self.at += 1;
            self.value(nodes)?;
            match self.skip_blanks() {
                Some(b',') => self.at += 1,
                Some(b'}') => return self.leave(),
                _ => return Err("`,` or `}` expected"),
            }
        }
    }

    fn array(&mut self, nodes: &mut Vec<Node>) -> Result<(), Fault> {
        self.enter()?;
        if self.skip_blanks() == Some(b']') {
            return self.leave();
        }
        loop {
            self.value(nodes)?;
            if !self.another_element()? {
                self.depth -= 1;
                return Ok(());
            }
        }
    }

    fn enter(&mut self) -> Result<(), Fault> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            Err("nested too deeply")
        } else {
            Ok(())
        }
    }

    fn leave(&mut self) -> Result<(), Fault> {
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Result<Kind, Fault> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err("a value expected");
        }
        self.at += word.len();
        Ok(kind)
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == from {
            Err("a digit expected")
        } else {
            Ok(())
        }
    }

    fn number(&mut self) -> Result<Kind, Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Kind::Number)
    }

    /// Takes a string, including its opening quote.
    #[inline]
    fn string(&mut self, nodes: &mut Vec<Node>) -> Result<(), Fault> {
        self.at += 1;
        let start = self.at;
        let mut kind = Kind::Text;
        loop {
            self.at += plain_bytes(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    kind = Kind::EscapedText;
                    self.escape()?;
                }
                Some(_) => return Err("a control character in a string"),
                None => return Err("a string without end"),
            }
        }
        let next = nodes.len() as u32 + 1;
        nodes.push(Node {
            kind,
            start: start as u32,
            end: self.at as u32,
            next,
        });
        self.at += 1;
        Ok(())
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match self.bytes.get(self.at + 2..self.at + 6) {
                Some(code) if code.iter().all(u8::is_ascii_hexdigit) => self.at += 6,
                _ => return Err("four hexadecimal digits expected"),
            },
            _ => return Err("an unknown escape in a string"),
        }
        Ok(())
    }
}

/// Unescapes a string whose escapes the parser has checked; half of a surrogate pair becomes U+FFFD.
pub(super) fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut length = 1;
        match escaped.as_bytes().first() {
            Some(b'b') => out.push('\u{8}'),
            Some(b'f') => out.push('\u{c}'),
            Some(b'n') => out.push('\n'),
            Some(b'r') => out.push('\r'),
            Some(b't') => out.push('\t'),
            Some(b'u') => {
                let (character, taken) = unicode(escaped);
                out.push(character);
                length = taken;
            }
            Some(other) => out.push(char::from(*other)),
            None => break,
        }
        rest = escaped.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Returns the character of `uXXXX` or `uXXXX\uXXXX`, and the number of bytes taken.
fn unicode(escaped: &str) -> (char, usize) {
    let unit = |from: usize| {
        escaped
            .get(from..from + 4)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
    };
    let high = unit(1).unwrap_or(0xfffd);
    if (0xd800..0xdc00).contains(&high)
        && escaped.get(5..7) == Some("\\u")
        && let Some(low @ 0xdc00..0xe000) = unit(7)
    {
        let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 11);
    }
    (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 5)
}

/// Appends `text` as a JSON string with only the escapes that JSON requires.
pub(super) fn escape(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            control @ '\0'..'\u{20}' => {
                out.push_str("\\u00");
                let code = control as u8;
                out.push(char::from(b'0' + code / 16));
                out.push(char::from(b"0123456789abcdef"[usize::from(code % 16)]));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}
