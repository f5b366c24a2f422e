//! Reads a CSV file row by row, plain or gzipped, and reports exactly where it is wrong.
//!
//! Columns are found by their name in the header, in any order; others are not read, which is said. Lines end in LF or CRLF, blank
//! ones are skipped. Fields may be quoted as in RFC 4180, with line breaks inside the quotes.

use std::io::{self, BufRead, BufReader, Read};

use anyhow::{Context, anyhow, bail};
use csv::{ByteRecord, Reader, ReaderBuilder, StringRecord, Terminator};
use flate2::bufread::MultiGzDecoder;

use super::{Columns, Wrong, tell_unused};

/// A record is longer than this only if a quote was never closed, or in a file that is not CSV. Far more than any user agent
/// with its neighbours, and small enough that the mistake is found at once.
const MAX_RECORD_BYTES: u64 = 128 * 1024;

/// The first bytes of a gzip file (RFC 1952, 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A CSV file that is being read.
pub(super) struct Table {
    name: String,
    reader: Reader<Source>,
    /// Number of fields in the header, and so in every row.
    width: usize,
    /// The requested columns, and the position of each in the file.
    columns: Vec<(&'static str, Option<usize>)>,
    /// The names of the other columns.
    unused: Vec<String>,
    record: StringRecord,
}

impl Table {
    /// Reads the header of a file, and says which columns are not used; `name` is for messages.
    ///
    /// # Errors
    /// Fails if the file cannot be read or its header lacks a needed column.
    pub(super) fn open(name: String, source: impl Read + 'static, columns: Columns) -> anyhow::Result<Self> {
        let table = Self::read(name, source, columns)?;
        tell_unused(&table.name, &table.unused);
        Ok(table)
    }

    /// Like [`Table::open`], but says nothing.
    pub(super) fn read(name: String, source: impl Read + 'static, columns: Columns) -> anyhow::Result<Self> {
        let needed = &columns.names[..columns.needed];
        let mut source = BufReader::with_capacity(1 << 16, source);
        let start = source
            .fill_buf()
            .with_context(|| format!("cannot read `{name}`"))?;
        let bytes: Box<dyn Read> = if start.starts_with(&GZIP_MAGIC) {
            Box::new(MultiGzDecoder::new(source))
        } else {
            Box::new(source)
        };
        // A carriage return before the line end is part of the last field, and is trimmed from it like any blank: with a
        // single byte as the terminator of records, line numbers are exact.
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .terminator(Terminator::Any(b'\n'))
            .from_reader(Source::of(bytes));
        let mut table = Self {
            name,
            reader,
            width: 0,
            columns: Vec::new(),
            unused: Vec::new(),
            record: StringRecord::new(),
        };
        let Some(line) = table.next_record()? else {
            bail!(
                "`{}` is empty: a header `{}` is needed",
                table.name,
                needed.join(",")
            );
        };
        let header: Vec<String> = table
            .record
            .iter()
            .map(|field| field.trim().to_ascii_lowercase())
            .collect();
        table.width = header.len();
        for name in columns.names {
            let mut places = (0..header.len()).filter(|place| header[*place] == *name);
            let place = places.next();
            if places.next().is_some() {
                bail!(
                    "`{}`, line {line}: the header has the column `{name}` twice",
                    table.name
                );
            }
            if place.is_none() && needed.contains(name) {
                bail!(
                    "`{}`, line {line}: the header has no column `{name}`; needed are `{}`",
                    table.name,
                    needed.join(",")
                );
            }
            table.columns.push((name, place));
        }
        let is_used = |column: &String| table.columns.iter().any(|(name, _)| column == name);
        table.unused = header
            .into_iter()
            .filter(|column| !column.is_empty() && !is_used(column))
            .collect();
        Ok(table)
    }

    /// Reads all rows, see [`super::read`].
    ///
    /// # Errors
    /// Returns the first mistake in the file, naming its line, and its column.
    pub(super) fn read_all(
        mut self,
        mut take: impl FnMut(super::Row<'_>) -> Result<(), Wrong>,
    ) -> anyhow::Result<Vec<bool>> {
        while let Some(line) = self.next_row()? {
            take(&|column| Ok(self.text(column).into())).map_err(|(column, what)| {
                let (file, name) = (&self.name, self.columns[column].0);
                anyhow!("`{file}`, line {line}, column `{name}`: {what}")
            })?;
        }
        Ok(self.columns.iter().map(|(_, place)| place.is_some()).collect())
    }

    /// Reads the next row, and returns the line that it begins on, or `None` at the end.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or a row has more or fewer fields than the header.
    fn next_row(&mut self) -> anyhow::Result<Option<u64>> {
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
        Ok(Some(line))
    }

    /// Returns the field of the row in a column, without surrounding blanks; empty if the file has no such column.
    fn text(&self, column: usize) -> &str {
        match self.columns[column].1 {
            Some(place) => self.record[place].trim(),
            None => "",
        }
    }

    /// Reads the next record that is not blank, and returns the line that it begins on.
    fn next_record(&mut self) -> anyhow::Result<Option<u64>> {
        loop {
            let mut record = std::mem::take(&mut self.record).into_byte_record();
            let before = self.reader.position().line();
            match self.reader.read_byte_record(&mut record) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => return Err(self.unreadable(before, error)),
            }
            let (next_byte, next_line) = (self.reader.position().byte(), self.reader.position().line());
            let source = self.reader.get_mut();
            source.record_begins = next_byte;
            if source.has_ended_at(next_byte) {
                let line = next_line - line_ends(&record);
                bail!("`{}`, line {line}: a quote is opened and never closed", self.name);
            }
            let line = next_line - 1 - line_ends(&record);
            self.record = StringRecord::from_byte_record(record)
                .map_err(|_| anyhow!("`{}`, line {line}: not UTF-8 text", self.name))?;
            let is_blank = self.record.len() == 1 && self.record[0].trim().is_empty();
            if !is_blank {
                return Ok(Some(line));
            }
        }
    }

    /// Returns an error that says why reading stopped in or after the record that begins on `line`.
    fn unreadable(&self, line: u64, error: csv::Error) -> anyhow::Error {
        let csv::ErrorKind::Io(error) = error.into_kind() else {
            // Lengths and UTF-8 are checked in this file, so only reading can fail.
            return anyhow!("`{}`, line {line}: not CSV", self.name);
        };
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(TooLong::Record) => {
                anyhow!("`{}`, line {line}: a quote is opened and never closed", self.name)
            }
            Some(TooLong::Line) => anyhow!(
                "`{}`, line {line}: longer than {MAX_RECORD_BYTES} bytes",
                self.name
            ),
            None => anyhow::Error::new(error).context(format!("cannot read `{}`, line {line}", self.name)),
        }
    }
}

/// Counts the line ends within a record's fields.
fn line_ends(record: &ByteRecord) -> u64 {
    record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Appended to the file's own bytes: the line end that the last line may lack, and one more byte, which no record of a
/// well-formed file contains.
const END: &[u8] = b"\n\n";

/// A reader of the bytes of a file and then [`END`], never far ahead of the record that is being read.
struct Source {
    bytes: Box<dyn Read>,
    /// Number of bytes of [`END`] returned.
    end_given: usize,
    /// Number of bytes returned in all.
    given: u64,
    /// Offset just after the last line end among them.
    line_begins: u64,
    /// Offset of the record that is being read.
    record_begins: u64,
}

/// Says what is longer than [`MAX_RECORD_BYTES`].
#[derive(Debug, thiserror::Error)]
enum TooLong {
    #[error("the record is too long")]
    Record,
    #[error("the line is too long")]
    Line,
}

impl Source {
    fn of(bytes: Box<dyn Read>) -> Self {
        Self {
            bytes,
            end_given: 0,
            given: 0,
            line_begins: 0,
            record_begins: 0,
        }
    }

    /// Returns whether everything was returned and `byte` is the offset just after it: a record up to there contains [`END`].
    fn has_ended_at(&self, byte: u64) -> bool {
        self.end_given == END.len() && self.given == byte
    }
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given - self.record_begins > MAX_RECORD_BYTES {
            let too_long = if self.line_begins > self.record_begins {
                TooLong::Record
            } else {
                TooLong::Line
            };
            return Err(io::Error::other(too_long));
        }
        let mut count = self.bytes.read(into)?;
        if count == 0 {
            count = (&END[self.end_given..]).read(into)?;
            self.end_given += count;
        }
        let last_line_end = into[..count].iter().rposition(|byte| *byte == b'\n');
        if let Some(place) = last_line_end {
            self.line_begins = self.given + place as u64 + 1;
        }
        self.given += count as u64;
        Ok(count)
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
            Columns {
                names: &["a", "b", "c"],
                needed: 2,
            },
        )
    }

    fn all(bytes: &[u8]) -> anyhow::Result<Vec<(u64, Vec<String>)>> {
        let mut table = table(bytes)?;
        let mut rows = Vec::new();
        while let Some(line) = table.next_row()? {
            rows.push((line, (0..3).map(|column| table.text(column).to_owned()).collect()));
        }
        Ok(rows)
    }

    fn row(line: u64, fields: [&str; 3]) -> (u64, Vec<String>) {
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
        // A quoted field that ends in line ends is closed, even at the end of the file.
        for end in ["", "\n", "\n\n", "\r\n"] {
            let rows = all(format!("a,c,b\n1,,\"2\n\n\"{end}").as_bytes()).unwrap();
            assert_eq!(rows, vec![row(2, ["1", "2", ""])], "{end:?}");
        }
    }

    #[test]
    fn lines_are_right_wherever_reading_is_cut() {
        let mut text = String::from("a,b,c\n");
        let mut expected = Vec::new();
        let mut line = 2;
        for number in 0..4_000 {
            let blank = ["", "\n", " \r\n"][number % 3];
            let quoted = ["x", "\"x\"", "\"x\ny\"", "\"x\r\n\r\ny\""][number % 4];
            text += &format!("{blank}{number},{quoted},{}\r\n", "z".repeat(number % 50));
            line += u64::from(number % 3 > 0);
            expected.push((line, number.to_string()));
            line += [1, 1, 2, 3][number % 4];
        }
        let rows = all(text.as_bytes()).unwrap();
        let found: Vec<(u64, String)> = rows
            .into_iter()
            .map(|(line, fields)| (line, fields[0].clone()))
            .collect();
        assert_eq!(found, expected);
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
            message(b"a,c,b,C\n"),
            "`f.csv`, line 1: the header has the column `c` twice"
        );
        assert_eq!(table(b"a,x,b,,x y\n").unwrap().unused, ["x", "x y"]);
        assert_eq!(
            message(b"a,b\n1,2\n\n1,2,3\n"),
            "`f.csv`, line 4: 3 fields where the header has 2"
        );
        assert_eq!(
            message(b"a,b\n1,2\n\"1,2\n3,4\n"),
            "`f.csv`, line 3: a quote is opened and never closed"
        );
        for open in ["\"1,2", "\"1,2\n", "\"1,2\n\n\n", "1,\"", "1,2\n\n\"\n"] {
            let text = format!("a,b\n\n{open}");
            let line = 3 + if open.starts_with("1,2") { 2 } else { 0 };
            assert_eq!(
                message(text.as_bytes()),
                format!("`f.csv`, line {line}: a quote is opened and never closed"),
                "{text:?}"
            );
        }
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
}
