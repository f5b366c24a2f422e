//! Reads `multipart/form-data` (RFC 7578).

use super::into_text;

/// Returns a parameter of a header's value, unquoted: `boundary` of `; boundary="x"`.
pub(super) fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        let (found, after) = rest.trim_start_matches([';', ' ', '\t']).split_once('=')?;
        let value;
        (value, rest) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        if found.trim().eq_ignore_ascii_case(name) {
            return Some(value);
        }
    }
}

/// Returns the unescaped text up to the closing quote, and the rest behind it.
fn unquote(quoted: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// Returns the named fields between the boundaries, without files; `None` if the closing boundary is missing.
///
/// A form whose first boundary ends with a line feed alone is accepted too; in any other form a boundary follows a whole line end
/// (CR LF), as the RFC demands.
pub(super) fn fields(body: &[u8], boundary: &str) -> Option<Vec<(String, String)>> {
    let delimiter = format!("--{boundary}");
    let mut fields = Vec::new();
    let mut part_from = None;
    let mut line_from = 0;
    let mut whole_ends = false;
    while line_from < body.len() {
        let rest = &body[line_from..];
        let line_length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(rest.len(), |at| at + 1);
        if let Some(tail) = rest[..line_length].strip_prefix(delimiter.as_bytes())
            && (tail.starts_with(b"--") || tail.trim_ascii().is_empty())
            && (!whole_ends || body[..line_from].ends_with(b"\r\n"))
        {
            match part_from {
                None => whole_ends = tail.ends_with(b"\r\n"),
                Some(from) => fields.extend(field(&body[from..line_from])),
            }
            if tail.starts_with(b"--") {
                return Some(fields);
            }
            part_from = Some(line_from + line_length);
        }
        line_from += line_length;
    }
    None
}

/// Returns name and content of one part, whose last line end belongs to the boundary; `None` for a file.
fn field(part: &[u8]) -> Option<(String, String)> {
    let part = part.strip_suffix(b"\n")?;
    let part = part.strip_suffix(b"\r").unwrap_or(part);
    let mut name = None;
    let mut rest = part;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = rest[..end].trim_ascii_end();
        rest = &rest[end + 1..];
        if line.is_empty() {
            return Some((name?, into_text(rest.to_vec())));
        }
        let line = into_text(line.to_vec());
        let Some((header, value)) = line.split_once(':') else {
            continue;
        };
        if header.eq_ignore_ascii_case("content-disposition") {
            let (_, parameters) = value.split_once(';')?;
            if parameter(parameters, "filename").is_some() {
                return None;
            }
            name = parameter(parameters, "name");
        }
    }
}
