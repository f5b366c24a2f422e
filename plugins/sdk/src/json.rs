//! JSON, read once into a flat list of positions and looked up by name.
//!
//! Providers' payloads are read field by field with all their deviations (numbers as text, text for a list,
//! null, fields of another type), and numbers must survive digit by digit: ids beyond 2^53, `1.50`. So
//! nothing is converted on the way in: a [`Value`] is a place in the text, text without escapes is borrowed
//! from it, and a missing field reads like `null`, which lets lookups chain:
//! `event.get("message").get("headers").text("subject")`.
//!
//! Guarantees: time and memory linear in the text; nesting beyond 128 levels is malformed rather than a stack
//! overflow, and a large text of almost nothing but short values rather than more memory than there is; no input
//! panics. Of a repeated name the last one counts.

mod parse;

use std::borrow::Cow;

use crate::bytes;
use crate::text::{owned, present};
use crate::{Pair, Rejection};
use parse::{Kind, Node, Parser};

/// A parsed text.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    nodes: Vec<Node>,
}

impl<'a> Document<'a> {
    /// Parses the whole of `body`, which is malformed when it is no JSON.
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

    /// The outermost value.
    pub fn root(&self) -> Value<'_> {
        Value {
            document: self,
            index: 0,
        }
    }
}

/// Calls `visit` with index and value of every element of a body that is a JSON array; each element is parsed
/// into the same memory, so a large batch needs no more than its largest element. Malformed when the body is
/// no JSON or no array, possibly after some elements were visited.
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

fn utf8(body: &[u8]) -> Result<&str, Rejection> {
    match bytes::utf8(body) {
        // Positions are kept in 32 bits; a guest's whole memory is no larger.
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

/// Of which every value is missing.
static NOTHING: Document<'static> = Document::new("");

/// One value of a [`Document`], or the absence of one, which reads like `null`.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    document: &'a Document<'a>,
    /// Of its node.
    index: usize,
}

impl<'a> Value<'a> {
    /// A value that is missing.
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

    /// The text between the value's borders; without the quotes of a string.
    fn raw(&self) -> &'a str {
        let node = self.node();
        &self.document.text[node.start as usize..node.end as usize]
    }

    /// Whether the value is `null` or missing.
    pub fn is_null(self) -> bool {
        matches!(self.node().kind, Kind::Missing | Kind::Null)
    }

    /// Whether the value is an object.
    pub fn is_object(self) -> bool {
        self.node().kind == Kind::Object
    }

    /// Whether the value is an array.
    pub fn is_array(self) -> bool {
        self.node().kind == Kind::Array
    }

    /// The field of this name; missing when there is none or the value is no object.
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

    /// Name and value of the object's fields, in order; none when the value is no object.
    pub fn entries(self) -> impl Iterator<Item = (Cow<'a, str>, Value<'a>)> {
        self.fields()
            .map(|(key, value)| (key.string().unwrap_or_default(), value))
    }

    /// The array's elements, in order; none when the value is no array.
    pub fn elements(self) -> impl Iterator<Item = Value<'a>> {
        self.children(Kind::Array)
    }

    /// The element at `position`; missing when there is none.
    pub fn element(self, position: usize) -> Value<'a> {
        self.elements().nth(position).unwrap_or(Value::MISSING)
    }

    fn fields(self) -> impl Iterator<Item = (Value<'a>, Value<'a>)> {
        // Below an object names and values alternate, a name being a node without any below it.
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

    /// The characters of a JSON string, blank or not; `None` for every other kind.
    pub fn string(self) -> Option<Cow<'a, str>> {
        match self.node().kind {
            Kind::Text => Some(Cow::Borrowed(self.raw())),
            Kind::EscapedText => Some(Cow::Owned(parse::unescape(self.raw()))),
            _ => None,
        }
    }

    /// A string that is not blank, verbatim, or a number as it is written; `None` for everything else.
    pub fn as_text(self) -> Option<Cow<'a, str>> {
        if self.node().kind == Kind::Number {
            return Some(Cow::Borrowed(self.raw()));
        }
        self.string().filter(|text| present(text).is_some())
    }

    /// [`as_text`](Self::as_text), owned, for an event.
    pub fn to_text(self) -> Option<String> {
        match self.node().kind {
            // Most texts by far: copied without a detour.
            Kind::Text => present(self.raw()).map(bytes::owned),
            _ => self.as_text().map(owned),
        }
    }

    /// [`as_text`](Self::as_text) of a field, empty when there is none: for comparing and matching.
    pub fn str(self, name: &str) -> Cow<'a, str> {
        self.get(name).as_text().unwrap_or_default()
    }

    /// [`to_text`](Self::to_text) of a field.
    pub fn text(self, name: &str) -> Option<String> {
        self.get(name).to_text()
    }

    /// [`to_text`](Self::to_text) of the first of these fields that has any.
    pub fn first_text<const N: usize>(self, names: [&str; N]) -> Option<String> {
        names.into_iter().find_map(|name| self.text(name))
    }

    /// An id in the field: as [`text`](Self::text), where `0` means none.
    pub fn id(self, name: &str) -> Option<String> {
        self.text(name).filter(|id| id != "0")
    }

    /// The time in the field, read by one of the [`time`](crate::time) functions from a number or text.
    pub fn time(self, name: &str, read: fn(&str) -> Option<i64>) -> Option<i64> {
        read(&self.get(name).as_text()?)
    }

    /// `true` or `false`, also as text in any letter case; `None` for everything else.
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

    /// Whether the field is `true`, also as text.
    pub fn is_true(self, name: &str) -> bool {
        self.get(name).as_bool() == Some(true)
    }

    /// A list of texts: the array's texts and numbers, or the one text that stands for a list; blank ones
    /// left out.
    pub fn to_list(self) -> Vec<String> {
        match self.to_text() {
            Some(one) => vec![one],
            None => self.elements().filter_map(Value::to_text).collect(),
        }
    }

    /// [`to_list`](Self::to_list) of a field: tags.
    pub fn list(self, name: &str) -> Vec<String> {
        self.get(name).to_list()
    }

    /// The object's entries as metadata: see [`to_metadata`](Self::to_metadata); no entries when it is no
    /// object.
    pub fn to_pairs(self) -> Vec<Pair> {
        let pair = |(name, value): (Cow<'_, str>, Value<'_>)| {
            Some(Pair {
                name: owned(name),
                value: value.to_metadata()?,
            })
        };
        self.entries().filter_map(pair).collect()
    }

    /// [`to_pairs`](Self::to_pairs) of a field: metadata.
    pub fn pairs(self, name: &str) -> Vec<Pair> {
        self.get(name).to_pairs()
    }

    /// The value as metadata: strings as they are, numbers and booleans as written, objects and arrays as
    /// compact JSON; nothing for `null`.
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

    /// Appends the value as JSON without blanks and needless escapes, numbers as written.
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
