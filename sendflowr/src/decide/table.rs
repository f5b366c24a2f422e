//! Reads a CSV file row by row, plain or gzipped, and says exactly where it is wrong.
//!
//! Columns are found by their name in the header, in any order; unknown ones are passed over. Lines end in LF or CRLF,
//! blank ones are skipped. Fields may be quoted as in RFC 4180, line breaks inside the quotes included.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use anyhow::{Context, anyhow, bail};
use event::Timestamp;
use flate2::bufread::MultiGzDecoder;

/// A record is longer only when a quote was never closed. Far above any user agent with its neighbours, and small
/// enough that the mistake is found at once.
const MAX_RECORD_BYTES: usize = 64 * 1024;

/// The first bytes of a gzip file (RFC 1952, 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A CSV file that is being read.
pub(crate) struct Table {
    name: String,
    lines: Box<dyn BufRead>,
    /// Lines read so far.
    line: usize,
    /// Fields in the header, and so in every row.
    width: usize,
    /// The wanted columns, and where each is in the file.
    columns: Vec<(&'static str, Option<usize>)>,
    record: Record,
}

impl Table {
    /// Opens a file and reads its header. The columns get the numbers 0, 1, … in the order `required`, `optional`.
    ///
    /// # Errors
    /// When the file cannot be read or its header lacks a required column.
    pub(crate) fn open(
        path: &Path,
        required: &[&'static str],
        optional: &[&'static str],
    ) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        Self::read(path.display().to_string(), file, required, optional)
    }

    /// Like [`Table::open`], from anything that can be read; `name` is for messages.
    pub(crate) fn read(
        name: String,
        source: impl Read + 'static,
        required: &[&'static str],
        optional: &[&'static str],
    ) -> anyhow::Result<Self> {
        let mut source = BufReader::with_capacity(1 << 16, source);
        let start = source
            .fill_buf()
            .with_context(|| format!("cannot read `{name}`"))?;
        let lines: Box<dyn BufRead> = if start.starts_with(&GZIP_MAGIC) {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(source)))
        } else {
            Box::new(source)
        };
        let mut table = Self {
            name,
            lines,
            line: 0,
            width: 0,
            columns: Vec::new(),
            record: Record::default(),
        };
        if table.next_record()?.is_none() {
            bail!(
                "`{}` is empty: a header `{}` is needed",
                table.name,
                required.join(",")
            );
        }
        let header: Vec<String> = (0..table.record.len())
            .map(|field| table.record.field(field).trim().to_ascii_lowercase())
            .collect();
        table.width = header.len();
        for name in required.iter().chain(optional) {
            let place = header.iter().position(|column| column == name);
            if place.is_none() && required.contains(name) {
                bail!(
                    "`{}`, line {}: the header has no column `{name}`; needed are `{}`",
                    table.name,
                    table.line,
                    required.join(",")
                );
            }
            table.columns.push((name, place));
        }
        Ok(table)
    }

    /// The next row, or `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read, or a row has more or fewer fields than the header.
    pub(crate) fn next_row(&mut self) -> anyhow::Result<Option<Row<'_>>> {
        let Some(line) = self.next_record()? else {
            return Ok(None);
        };
        if self.record.len() != self.width {
            bail!(
                "`{}`, line {line}: {} fields where the header has {}",
                self.name,
                self.record.len(),
                self.width
            );
        }
        Ok(Some(Row { table: self, line }))
    }

    /// Reads the next record that is not blank, and gives the line that it begins on.
    fn next_record(&mut self) -> anyhow::Result<Option<usize>> {
        self.record.text.clear();
        let mut begins = 0;
        loop {
            let before = self.record.text.len();
            let read = self.read_line()?;
            let Some(read) = read else {
                if begins == 0 {
                    return Ok(None);
                }
                bail!(
                    "`{}`, line {begins}: a quote is opened and never closed",
                    self.name
                );
            };
            if begins == 0 {
                if self.record.text.trim().is_empty() {
                    self.record.text.clear();
                    continue;
                }
                begins = read;
                // A byte order mark, as spreadsheets write it.
                if begins == 1 && self.record.text.starts_with('\u{feff}') {
                    self.record.text.drain(..'\u{feff}'.len_utf8());
                }
            }
            // Only a quote can end a field that runs over several lines.
            let may_be_whole = before == 0 || self.record.text[before..].contains('"');
            if may_be_whole && self.record.split() {
                return Ok(Some(begins));
            }
            if self.record.text.len() > MAX_RECORD_BYTES {
                bail!(
                    "`{}`, line {begins}: a quote is opened and never closed",
                    self.name
                );
            }
        }
    }

    /// Appends a line, without its end when nothing follows it in the record, and gives its number.
    fn read_line(&mut self) -> anyhow::Result<Option<usize>> {
        let mut bytes = Vec::new();
        let limit = 2 * MAX_RECORD_BYTES as u64;
        let read = self.lines.by_ref().take(limit).read_until(b'\n', &mut bytes);
        let number = self.line + 1;
        let read = read.map_err(|error| self.unreadable(number, error))?;
        if read == 0 {
            return Ok(None);
        }
        if read as u64 == limit {
            bail!("`{}`, line {number}: longer than {limit} bytes", self.name);
        }
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| anyhow!("`{}`, line {number}: not UTF-8 text", self.name))?;
        self.record.text.push_str(text);
        self.line = number;
        Ok(Some(number))
    }

    fn unreadable(&self, line: usize, error: io::Error) -> anyhow::Error {
        anyhow::Error::new(error).context(format!("cannot read `{}`, line {line}", self.name))
    }
}

/// One row of a [`Table`].
pub(crate) struct Row<'a> {
    table: &'a Table,
    line: usize,
}

impl<'a> Row<'a> {
    /// The field in a column, without surrounding blanks; empty where the file has no such column.
    pub(crate) fn text(&self, column: usize) -> &'a str {
        match self.table.columns[column].1 {
            Some(place) => self.table.record.field(place).trim(),
            None => "",
        }
    }

    /// The moment in a column: epoch seconds, possibly with a fraction, or RFC 3339.
    ///
    /// # Errors
    /// When it is neither, naming file, line and column.
    pub(crate) fn moment(&self, column: usize) -> anyhow::Result<Timestamp> {
        moment(self.text(column)).map_err(|what| self.wrong(column, &what))
    }

    /// Says what is wrong with a column of this row.
    pub(crate) fn wrong(&self, column: usize, what: &str) -> anyhow::Error {
        let (file, name) = (&self.table.name, self.table.columns[column].0);
        anyhow!("`{file}`, line {}, column `{name}`: {what}", self.line)
    }
}

/// Epoch seconds, possibly with a fraction, or RFC 3339.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    let Ok(seconds) = text.parse::<f64>() else {
        return text.parse().map_err(|_| {
            format!("`{text}` is neither epoch seconds nor an RFC 3339 time between 1970 and 9999")
        });
    };
    let out_of_range = || format!("`{text}` seconds since 1970 is not between the years 1970 and 9999");
    if !seconds.is_finite() {
        return Err(out_of_range());
    }
    // Out of range, the conversion saturates, and is still out of range.
    Timestamp::try_from_millis((seconds * 1000.0).round() as i64).ok_or_else(out_of_range)
}

/// A record's text, cut into fields.
#[derive(Default)]
struct Record {
    /// As it is in the file, from one line or several.
    text: String,
    /// The fields one after the other, quotes removed.
    fields: String,
    /// Where each field ends in `fields`.
    ends: Vec<usize>,
}

impl Record {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn field(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.fields[start..self.ends[index]]
    }

    /// Cuts the text into fields, or gives `false` when it ends inside quotes.
    fn split(&mut self) -> bool {
        self.fields.clear();
        self.ends.clear();
        let text = self.text.strip_suffix('\n').unwrap_or(&self.text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let mut rest = text;
        loop {
            if let Some(quoted) = rest.strip_prefix('"') {
                rest = quoted;
                loop {
                    let Some(quote) = rest.find('"') else { return false };
                    self.fields.push_str(&rest[..quote]);
                    rest = &rest[quote + 1..];
                    // Two quotes stand for one.
                    let Some(more) = rest.strip_prefix('"') else { break };
                    self.fields.push('"');
                    rest = more;
                }
            }
            let end = rest.find(',').unwrap_or(rest.len());
            self.fields.push_str(&rest[..end]);
            self.ends.push(self.fields.len());
            if end == rest.len() {
                return true;
            }
            rest = &rest[end + 1..];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn table(bytes: &[u8]) -> anyhow::Result<Table> {
        Table::read(
            "f.csv".to_owned(),
            Cursor::new(bytes.to_vec()),
            &["a", "b"],
            &["c"],
        )
    }

    fn all(bytes: &[u8]) -> anyhow::Result<Vec<(usize, Vec<String>)>> {
        let mut table = table(bytes)?;
        let mut rows = Vec::new();
        while let Some(row) = table.next_row()? {
            rows.push((
                row.line,
                (0..3).map(|column| row.text(column).to_owned()).collect(),
            ));
        }
        Ok(rows)
    }

    fn row(line: usize, fields: [&str; 3]) -> (usize, Vec<String>) {
        (line, fields.map(str::to_owned).to_vec())
    }

    #[test]
    fn columns_are_found_by_name_and_lines_counted_as_an_editor_does() {
        let text = "\u{feff}B , x,a\r\n\r\n 2,,1\r\n \r\n4,\"y, \"\"z\"\"\r\nmore\",3\r\n6,\"\",5";
        let expected = vec![
            row(3, ["1", "2", ""]),
            row(5, ["3", "4", ""]),
            row(7, ["5", "6", ""]),
        ];
        assert_eq!(all(text.as_bytes()).unwrap(), expected);
        let quotes = all(b"a,b,c\n1,2,\"say \"\"hi\"\", twice\"\n1,2,12\" pipe\n").unwrap();
        let expected = vec![
            row(2, ["1", "2", "say \"hi\", twice"]),
            row(3, ["1", "2", "12\" pipe"]),
        ];
        assert_eq!(quotes, expected);
    }

    #[test]
    fn gzip_is_recognized_whatever_the_name() {
        let mut bytes = Vec::new();
        // Two members in a row, as `cat a.gz b.gz` makes them.
        for part in ["a,b\n1,", "2\n"] {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(part.as_bytes()).unwrap();
            bytes.extend(encoder.finish().unwrap());
        }
        assert_eq!(all(&bytes).unwrap(), vec![row(2, ["1", "2", ""])]);
        bytes.truncate(bytes.len() - 12);
        assert!(
            all(&bytes)
                .unwrap_err()
                .to_string()
                .starts_with("cannot read `f.csv`, line")
        );
    }

    #[test]
    fn says_where_a_file_is_wrong() {
        let message = |bytes: &[u8]| all(bytes).unwrap_err().to_string();
        assert_eq!(message(b""), "`f.csv` is empty: a header `a,b` is needed");
        assert_eq!(message(b"\n\n"), "`f.csv` is empty: a header `a,b` is needed");
        assert_eq!(
            message(b"\na,x\n"),
            "`f.csv`, line 2: the header has no column `b`; needed are `a,b`"
        );
        assert_eq!(
            message(b"a,b\n1,2\n\n1,2,3\n"),
            "`f.csv`, line 4: 3 fields where the header has 2"
        );
        assert_eq!(
            message(b"a,b\n1,2\n\"1,2\n3,4\n"),
            "`f.csv`, line 3: a quote is opened and never closed"
        );
        assert_eq!(message(b"a,b\n1,\xff\n"), "`f.csv`, line 2: not UTF-8 text");
        let endless = [b"a,b\n\"".as_slice(), &b"x\n".repeat(200_000)].concat();
        assert_eq!(
            message(&endless),
            "`f.csv`, line 2: a quote is opened and never closed"
        );
        assert_eq!(
            message(&[b"a,b\n".as_slice(), &[b'x'; 300_000]].concat()),
            "`f.csv`, line 2: longer than 131072 bytes"
        );
    }

    #[test]
    fn moments_are_epoch_seconds_or_rfc_3339() {
        let millis = |text: &str| moment(text).map(Timestamp::as_millis);
        assert_eq!(millis("1767225600"), Ok(1_767_225_600_000));
        assert_eq!(millis("1767225600.25"), Ok(1_767_225_600_250));
        assert_eq!(millis("2026-01-01T01:00:00+01:00"), Ok(1_767_225_600_000));
        for text in [
            "",
            "-1",
            "nan",
            "inf",
            "1e300",
            "1767225600000",
            "yesterday",
            "2026-13-01T00:00:00Z",
        ] {
            assert!(millis(text).is_err(), "{text}");
        }
    }
}
