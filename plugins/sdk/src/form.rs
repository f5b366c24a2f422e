//! Reads forms: `application/x-www-form-urlencoded` and `multipart/form-data`.

mod multipart;

use crate::text::present;
use crate::{Rejection, Request};

/// The largest number of fields that a form may have. Real forms have about fifty, and one for each of the sender's variables;
/// ten thousand take 240 kB of the guest's memory, whereas a body of little but separators would need more than all of it.
const MOST_FIELDS: usize = 10_000;

/// The decoded fields of a form, in order; a repeated name stays repeated. Bytes that are not UTF-8 become U+FFFD.
pub struct Form {
    fields: Vec<(String, String)>,
}

impl Form {
    /// Reads the body as a form of the kind that its content type names; malformed if it names neither kind.
    ///
    /// Uploaded files are left out: no provider puts facts about an event into them. A form with more than 10,000 fields is
    /// malformed.
    pub fn of(request: &Request) -> Result<Form, Rejection> {
        let content_type = request.header("content-type").unwrap_or_default();
        let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
        let kind = kind.trim();
        if kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Form::bounded(pairs(&request.body).take(MOST_FIELDS + 1).collect());
        }
        if kind.eq_ignore_ascii_case("multipart/form-data") {
            let Some(boundary) = multipart::parameter(parameters, "boundary") else {
                return Err(Rejection::Malformed(
                    "the content type `multipart/form-data` names no boundary".to_owned(),
                ));
            };
            return match multipart::fields(&request.body, &boundary) {
                Some(fields) => Form::bounded(fields),
                None => Err(Rejection::Malformed(
                    "the body is not the announced multipart form".to_owned(),
                )),
            };
        }
        Err(Rejection::Malformed("the body is not a form".to_owned()))
    }

    fn bounded(fields: Vec<(String, String)>) -> Result<Form, Rejection> {
        if fields.len() > MOST_FIELDS {
            let message = format!("the form has more than {MOST_FIELDS} fields");
            return Err(Rejection::Malformed(message));
        }
        Ok(Form { fields })
    }

    /// Returns all fields in order, as sent.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// Returns the first field with this name; a nested field is named as it was sent: `data[merges][FNAME]`.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Returns the last field with this name.
    pub fn last(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// Returns all fields with this name, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.fields
            .iter()
            .filter(move |(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the first field with this name as a `String`, for an event; a blank value counts as missing.
    pub fn text(&self, name: &str) -> Option<String> {
        self.first(name).and_then(present).map(str::to_owned)
    }
}

/// Decodes `name=value&…`: `+` is a blank, `%XX` a byte; a malformed escape stays as it is. Empty pieces are left out.
pub fn decode_pairs(encoded: &[u8]) -> Vec<(String, String)> {
    pairs(encoded).collect()
}

fn pairs(encoded: &[u8]) -> impl Iterator<Item = (String, String)> {
    let pieces = encoded.split(|byte| *byte == b'&');
    pieces.filter(|piece| !piece.is_empty()).map(|piece| {
        let (name, value) = match piece.iter().position(|byte| *byte == b'=') {
            Some(at) => (&piece[..at], &piece[at + 1..]),
            None => (piece, &piece[piece.len()..]),
        };
        (decode(name), decode(value))
    })
}

fn decode(encoded: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut at = 0;
    while let Some(byte) = encoded.get(at) {
        at += 1;
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => match (hex_digit(encoded.get(at)), hex_digit(encoded.get(at + 1))) {
                (Some(high), Some(low)) => {
                    bytes.push(high * 16 + low);
                    at += 2;
                }
                _ => bytes.push(b'%'),
            },
            other => bytes.push(*other),
        }
    }
    into_text(bytes)
}

fn hex_digit(byte: Option<&u8>) -> Option<u8> {
    let digit = char::from(*byte?).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// Converts bytes to text, without a copy if they are UTF-8.
fn into_text(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Header;

    fn form(content_type: &str, body: &[u8]) -> Result<Form, Rejection> {
        Form::of(&Request {
            method: "POST".to_owned(),
            path: String::new(),
            query: String::new(),
            headers: vec![Header {
                name: "content-type".to_owned(),
                value: content_type.to_owned(),
            }],
            body: body.to_vec(),
            received_at_ms: 0,
            settings: Vec::new(),
            secrets: Vec::new(),
        })
    }

    #[test]
    fn decodes_in_order_and_keeps_repetitions() {
        let body = b"tag=a&data%5Bmerges%5D%5BFNAME%5D=Z%C3%BC+rich&tag=b&&empty=&bare&e=a%2Bb%40c%zz%4";
        let form = form("application/x-www-form-urlencoded; charset=utf-8", body).unwrap();
        assert_eq!(form.all("tag").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((form.first("tag"), form.last("tag")), (Some("a"), Some("b")));
        assert_eq!(form.first("data[merges][FNAME]"), Some("Zü rich"));
        assert_eq!((form.first("empty"), form.text("empty")), (Some(""), None));
        assert_eq!(form.first("bare"), Some(""));
        assert_eq!(form.text("e").as_deref(), Some("a+b@c%zz%4"));
        assert_eq!(form.fields().len(), 6);
    }

    #[test]
    fn a_boundary_follows_a_line_end_of_the_form_s_own_kind() {
        let body = "--b\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\none\n--b--\ntwo\r\n--b--\r\n";
        for (body, text) in [
            (body.to_owned(), "one\n--b--\ntwo"),
            (body.replace('\r', ""), "one"),
        ] {
            let form = form("multipart/form-data; boundary=b", body.as_bytes()).unwrap();
            assert_eq!(form.fields(), [("text".to_owned(), text.to_owned())]);
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced() {
        assert_eq!(
            decode_pairs(b"a=%FFx"),
            [("a".to_owned(), "\u{fffd}x".to_owned())]
        );
    }

    #[test]
    fn reads_multipart_fields_and_leaves_files_out() {
        let body = b"preamble\r\n--b0\r\nContent-Disposition: form-data; name=\"event\"\r\n\r\nopened\r\n\
            --b0\r\ncontent-type: text/plain\r\nCONTENT-DISPOSITION: form-data; name=text\r\n\r\ntwo\r\nlines --b0 \r\n\
            --b0\r\nContent-Disposition: form-data; name=\"attachment-1\"; filename=\"a;b.txt\"\r\n\r\nfile\r\n--b0--\r\n";
        let form = form("multipart/form-data; boundary=\"b0\"", body).unwrap();
        assert_eq!(
            form.fields(),
            [
                ("event".to_owned(), "opened".to_owned()),
                ("text".to_owned(), "two\r\nlines --b0 ".to_owned()),
            ]
        );
    }

    #[test]
    fn a_form_of_too_many_fields_is_malformed() {
        let part = "--b\nContent-Disposition: form-data; name=a\n\n\n";
        for (content_type, field, end) in [
            ("application/x-www-form-urlencoded", "a&", ""),
            ("multipart/form-data; boundary=b", part, "--b--\n"),
        ] {
            let of = |fields: usize| form(content_type, (field.repeat(fields) + end).as_bytes());
            assert_eq!(of(10_000).unwrap().fields().len(), 10_000, "{content_type}");
            assert!(
                matches!(of(10_001), Err(Rejection::Malformed(_))),
                "{content_type}"
            );
        }
    }

    #[test]
    fn other_bodies_are_malformed() {
        for (content_type, body) in [
            ("application/json", &b"{}"[..]),
            ("multipart/form-data", b"--b\r\n"),
            ("multipart/form-data; boundary=b", b"no boundary in here"),
            (
                "multipart/form-data; boundary=b",
                b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\ncut off",
            ),
        ] {
            assert!(
                matches!(form(content_type, body), Err(Rejection::Malformed(_))),
                "{content_type}"
            );
        }
    }
}
