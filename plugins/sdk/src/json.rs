//! Parses JSON once into a flat list of positions and looks values up by name.
//!
//! Providers' payloads are read field by field with all their deviations (numbers as text, text instead of a list, null, fields
//! of another type), and numbers must survive digit by digit: ids beyond 2^53, `1.50`. Therefore nothing is converted while
//! parsing: a [`Value`] is a position in the text, text without escapes is borrowed from it, and a missing field reads like
//! `null`, so that lookups can be chained: `event.get("message").get("headers").text("subject")`.
//!
//! Guarantees: time and memory are linear in the size of the text; nesting beyond 128 levels is malformed instead of a stack
//! overflow, and a large text of almost nothing but short values is malformed instead of exhausting memory; no input causes a
//! panic. If a name is repeated, the last one counts.

mod parse;

use std::borrow::Cow;

use crate::bytes;
use crate::text::{owned, present};
use crate::{Pair, Rejection};
use parse::{Kind, Node, Parser};

/// A parsed JSON text.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    nodes: Vec<Node>,
}

impl<'a> Document<'a> {
    /// Parses the whole of `body`; malformed if it is not JSON.
    pub fn parse(body: &'a [u8]) -> Result<Document<'a>, Rejection> {
        let mut document = Document::new(utf8(body)?);
        let mut parser = Parser::new(document.text);
        document.nodes = parser.room();
        let parsed = parser.value(&mut document.nodes).and_then(|()| parser.end());
        parsed.map_err(|fault| malformed(fault, &parser))?;
        Ok(document)
    }

    const fn new(text: &'a str) -> Document<'a> {
        Document {
            text,
            nodes: Vec::new(),
        }
    }

    /// Returns the outermost value.
    pub fn root(&self) -> Value<'_> {
        Value {
            document: self,
            index: 0,
        }
    }
}

/// Calls `visit` with the index and value of each element of a body that is a JSON array.
///
/// Each element is parsed into the same memory, so a large batch needs no more than its largest element. Malformed if the body is
/// not a JSON array, possibly after some elements were visited.
pub fn for_each_element(body: &[u8], mut visit: impl FnMut(usize, Value<'_>)) -> Result<(), Rejection> {
    let mut document = Document::new(utf8(body)?);
    let mut parser = Parser::new(document.text);
    let mut more = match parser.begin_array() {
        Ok(Some(more)) => more,
        Ok(None) => return Err(Rejection::Malformed("the body is not a JSON array".to_owned())),
        Err(fault) => return Err(malformed(fault, &parser)),
    };
    let mut index = 0;
    while more {
        document.nodes.clear();
        more = match parser
            .value(&mut document.nodes)
            .and_then(|()| parser.another_element())
        {
            Ok(more) => more,
            Err(fault) => return Err(malformed(fault, &parser)),
        };
        visit(index, document.root());
        index += 1;
    }
    parser.end().map_err(|fault| malformed(fault, &parser))
}

/// Returns the entries of the JSON object in a text, as metadata (see [`Value::to_pairs`]); `None` if it is not an object. Some
/// providers pass on what the sender attached as such a text.
pub fn pairs_in(text: &str) -> Option<Vec<Pair>> {
    let document = Document::parse(text.as_bytes()).ok()?;
    document.root().is_object().then(|| document.root().to_pairs())
}

fn utf8(body: &[u8]) -> Result<&str, Rejection> {
    match bytes::utf8(body) {
        // Positions are stored in 32 bits; a guest's whole memory is no larger.
        Some(text) if u32::try_from(text.len()).is_ok() => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Some(_) => Err(Rejection::Malformed("the body is larger than 4 GiB".to_owned())),
        None => Err(Rejection::Malformed("the body is not UTF-8".to_owned())),
    }
}

fn malformed(fault: &str, parser: &Parser<'_>) -> Rejection {
    Rejection::Malformed(format!(
        "the body is not JSON: {fault} at byte {}",
        parser.position()
    ))
}

/// A document in which every value is missing.
static NOTHING: Document<'static> = Document::new("");

/// A value of a [`Document`], or the absence of one, which reads like `null`.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    document: &'a Document<'a>,
    /// The index of the value's node.
    index: usize,
}

impl<'a> Value<'a> {
    /// A missing value.
    pub const MISSING: Value<'static> = Value {
        document: &NOTHING,
        index: 0,
    };

    fn node(&self) -> &'a Node {
        self.document.nodes.get(self.index).unwrap_or(&Node::MISSING)
    }

    fn at(&self, index: usize) -> Value<'a> {
        Value { index, ..*self }
    }

    /// Returns the text of the value as it stands; for a string, without its quotes.
    fn raw(&self) -> &'a str {
        let node = self.node();
        &self.document.text[node.start as usize..node.end as usize]
    }

    /// Checks whether the value is `null` or missing.
    pub fn is_null(self) -> bool {
        matches!(self.node().kind, Kind::Missing | Kind::Null)
    }

    /// Checks whether the value is missing, which for most purposes is the same as `null`.
    pub fn is_missing(self) -> bool {
        self.node().kind == Kind::Missing
    }

    /// Checks whether the value is an object.
    pub fn is_object(self) -> bool {
        self.node().kind == Kind::Object
    }

    /// Checks whether the value is an array.
    pub fn is_array(self) -> bool {
        self.node().kind == Kind::Array
    }

    /// Returns the field with this name; a missing value if there is none or this value is not an object.
    pub fn get(self, name: &str) -> Value<'a> {
        let mut found = Value::MISSING;
        for (key, value) in self.fields() {
            if key.node().kind == Kind::Text {
                if key.raw() == name {
                    found = value;
                }
            } else if key.string().as_deref() == Some(name) {
                found = value;
            }
        }
        found
    }

    /// Returns the names and values of the object's fields, in order; empty if the value is not an object.
    pub fn entries(self) -> impl Iterator<Item = (Cow<'a, str>, Value<'a>)> {
        self.fields()
            .map(|(key, value)| (key.string().unwrap_or_default(), value))
    }

    /// Returns the array's elements, in order; empty if the value is not an array.
    pub fn elements(self) -> impl Iterator<Item = Value<'a>> {
        self.children(Kind::Array)
    }

    /// Returns the element at `position`; a missing value if there is none.
    pub fn element(self, position: usize) -> Value<'a> {
        self.elements().nth(position).unwrap_or(Value::MISSING)
    }

    fn fields(self) -> impl Iterator<Item = (Value<'a>, Value<'a>)> {
        // Inside an object, names and values alternate; a name is a node with no nodes inside it.
        let mut children = self.children(Kind::Object);
        std::iter::from_fn(move || Some((children.next()?, children.next()?)))
    }

    fn children(self, kind: Kind) -> impl Iterator<Item = Value<'a>> {
        let node = self.node();
        let end = if node.kind == kind { node.next as usize } else { 0 };
        let mut next = self.index + 1;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let child = self.at(next);
            next = child.node().next as usize;
            Some(child)
        })
    }

    /// Returns the characters of a JSON string, blank or not; `None` for every other kind of value.
    pub fn string(self) -> Option<Cow<'a, str>> {
        match self.node().kind {
            Kind::Text => Some(Cow::Borrowed(self.raw())),
            Kind::EscapedText => Some(Cow::Owned(parse::unescape(self.raw()))),
            _ => None,
        }
    }

    /// Returns a string that is not blank, verbatim, or a number as written; `None` for everything else.
    pub fn as_text(self) -> Option<Cow<'a, str>> {
        if self.node().kind == Kind::Number {
            return Some(Cow::Borrowed(self.raw()));
        }
        self.string().filter(|text| present(text).is_some())
    }

    /// Returns [`as_text`](Self::as_text) as a `String`, for an event.
    pub fn to_text(self) -> Option<String> {
        match self.node().kind {
            // By far the most common kind of text: copied directly.
            Kind::Text => present(self.raw()).map(bytes::owned),
            _ => self.as_text().map(owned),
        }
    }

    /// Returns [`as_text`](Self::as_text) of a field, or the empty text if there is none: for comparing and matching.
    pub fn str(self, name: &str) -> Cow<'a, str> {
        self.get(name).as_text().unwrap_or_default()
    }

    /// Returns [`to_text`](Self::to_text) of a field.
    pub fn text(self, name: &str) -> Option<String> {
        self.get(name).to_text()
    }

    /// Returns [`to_text`](Self::to_text) of the first of these fields that has a text.
    pub fn first_text<const N: usize>(self, names: [&str; N]) -> Option<String> {
        names.into_iter().find_map(|name| self.text(name))
    }

    /// Returns the id in a field: like [`text`](Self::text), but `0` means none.
    pub fn id(self, name: &str) -> Option<String> {
        self.text(name).filter(|id| id != "0")
    }

    /// Reads the time in a field, a number or text, with one of the [`time`](crate::time) functions.
    pub fn time(self, name: &str, read: fn(&str) -> Option<i64>) -> Option<i64> {
        read(&self.get(name).as_text()?)
    }

    /// Returns `true` or `false`, also from text in any letter case; `None` for everything else.
    pub fn as_bool(self) -> Option<bool> {
        let text = match self.node().kind {
            Kind::True => return Some(true),
            Kind::False => return Some(false),
            _ => self.string()?,
        };
        let text = text.trim();
        if text.eq_ignore_ascii_case("true") {
            Some(true)
        } else if text.eq_ignore_ascii_case("false") {
            Some(false)
        } else {
            None
        }
    }

    /// Checks whether a field is `true`, also as text.
    pub fn is_true(self, name: &str) -> bool {
        self.get(name).as_bool() == Some(true)
    }

    /// Returns a list of texts: the array's texts and numbers, or the single text that stands for a list; blank ones are left
    /// out.
    pub fn to_list(self) -> Vec<String> {
        match self.to_text() {
            Some(one) => vec![one],
            None => self.elements().filter_map(Value::to_text).collect(),
        }
    }

    /// Returns [`to_list`](Self::to_list) of a field, for example tags.
    pub fn list(self, name: &str) -> Vec<String> {
        self.get(name).to_list()
    }

    /// Returns the object's entries as metadata (see [`to_metadata`](Self::to_metadata)); empty if the value is not an object.
    pub fn to_pairs(self) -> Vec<Pair> {
        let pair = |(name, value): (Cow<'_, str>, Value<'_>)| {
            Some(Pair {
                name: owned(name),
                value: value.to_metadata()?,
            })
        };
        self.entries().filter_map(pair).collect()
    }

    /// Returns [`to_pairs`](Self::to_pairs) of a field, as metadata.
    pub fn pairs(self, name: &str) -> Vec<Pair> {
        self.get(name).to_pairs()
    }

    /// Returns the value as metadata: strings as they are, numbers and booleans as written, objects and arrays as compact JSON;
    /// `None` for `null`.
    pub fn to_metadata(self) -> Option<String> {
        match self.node().kind {
            Kind::Missing | Kind::Null => None,
            Kind::Text | Kind::EscapedText => self.string().map(owned),
            Kind::True | Kind::False | Kind::Number => Some(bytes::owned(self.raw())),
            Kind::Object | Kind::Array => {
                let mut out = String::with_capacity(self.raw().len());
                self.write_compact(&mut out);
                Some(out)
            }
        }
    }

    /// Appends the value as JSON without blanks and needless escapes; numbers as written.
    fn write_compact(self, out: &mut String) {
        match self.node().kind {
            Kind::Missing => {}
            Kind::Null | Kind::True | Kind::False | Kind::Number => out.push_str(self.raw()),
            Kind::Text => {
                out.push('"');
                out.push_str(self.raw());
                out.push('"');
            }
            Kind::EscapedText => parse::escape(&parse::unescape(self.raw()), out),
            Kind::Array => {
                out.push('[');
                for (position, element) in self.elements().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    element.write_compact(out);
                }
                out.push(']');
            }
            Kind::Object => {
                out.push('{');
                for (position, (key, value)) in self.fields().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    key.write_compact(out);
                    out.push(':');
                    value.write_compact(out);
                }
                out.push('}');
            }
        }
    }
}

#[cfg(test)]
mod tests;
