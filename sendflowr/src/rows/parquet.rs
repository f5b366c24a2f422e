//! Reads a Parquet file: the columns of the CSV, in whatever type tools write them.

use std::{borrow::Cow, fs::File, sync::Arc};

use anyhow::{Context, anyhow, bail};
use parquet::{
    basic::{LogicalType, TimeUnit},
    file::{
        reader::{FileReader, SerializedFileReader},
        serialized_reader::ReadOptionsBuilder,
    },
    record::Field,
    schema::types::{Type, TypePtr},
};

use super::{Columns, Row, Wrong, on_the_bus, tell_unused};

/// The first bytes of a Parquet file.
pub(super) const MAGIC: &[u8; 4] = b"PAR1";

/// Reads a file, wherever it has been read up to; `name` is for messages.
///
/// # Errors
/// Fails if the file is damaged or lacks a column. Otherwise returns the first mistake in it, naming its row, from 1, and column.
pub(super) fn read(
    name: &str,
    file: File,
    columns: Columns,
    mut take: impl FnMut(Row<'_>) -> Result<(), Wrong>,
) -> anyhow::Result<Vec<bool>> {
    let unreadable = || format!("cannot read `{name}`");
    if !file.metadata().with_context(unreadable)?.is_file() {
        bail!(
            "`{name}` is Parquet from a pipe, and its table of contents is at the end: save it as a file first"
        );
    }
    let options = ReadOptionsBuilder::new().build();
    let reader = SerializedFileReader::new_with_options(file, options).with_context(unreadable)?;
    let schema = reader.metadata().file_metadata().schema();
    let mut wanted = Vec::with_capacity(columns.names.len());
    // The index of each column among those that are wanted.
    let mut places: Vec<Option<(usize, Stands)>> = vec![None; columns.names.len()];
    for (column, name_of_csv) in columns.names.iter().enumerate() {
        let found = [*name_of_csv, on_the_bus(name_of_csv)]
            .iter()
            .find_map(|name| schema.get_fields().iter().find(|field| field.name() == *name));
        match found {
            Some(field) if field.is_primitive() => {
                places[column] = Some((wanted.len(), Stands::of(field)));
                wanted.push(Arc::clone(field));
            }
            Some(field) => bail!("`{name}`, column `{}`: not one value a row", field.name()),
            None if column < columns.needed => bail!("`{name}` has no column `{name_of_csv}`"),
            None => {}
        }
    }
    let is_wanted = |field: &TypePtr| wanted.iter().any(|other| other.name() == field.name());
    let unused = schema.get_fields().iter().filter(|field| !is_wanted(field));
    let unused: Vec<String> = unused.map(|field| field.name().to_owned()).collect();
    tell_unused(name, &unused);
    let names: Vec<String> = wanted.iter().map(|field| field.name().to_owned()).collect();
    let projection = projection(schema, wanted).with_context(unreadable)?;
    let rows = reader.get_row_iter(Some(projection)).with_context(unreadable)?;
    for (row, read) in (1_u64..).zip(rows) {
        let read = read.with_context(|| format!("cannot read `{name}`, row {row}"))?;
        let fields: Vec<&Field> = read.get_column_iter().map(|(_, field)| field).collect();
        let of_column = |column: usize| match places[column] {
            Some((place, stands)) => text(fields[place], stands),
            None => Ok(Cow::Borrowed("")),
        };
        take(&of_column).map_err(|(column, what)| {
            let column = places[column].map_or("", |(place, _)| names[place].as_str());
            anyhow!("`{name}`, row {row}, column `{column}`: {what}")
        })?;
    }
    Ok(places.iter().map(Option::is_some).collect())
}

/// Returns the schema with only the wanted columns: others may be of any type, and cost nothing.
fn projection(schema: &Type, wanted: Vec<TypePtr>) -> parquet::errors::Result<Type> {
    Type::group_type_builder(schema.name())
        .with_fields(wanted)
        .build()
}

/// What whole numbers in a column stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// Themselves.
    Plain,
    /// Nanoseconds since 1970: the only unit of time that the row reader returns as a number.
    Nanoseconds,
}

impl Stands {
    fn of(field: &Type) -> Self {
        match field.get_basic_info().logical_type_ref() {
            Some(LogicalType::Timestamp(timestamp)) if timestamp.unit == TimeUnit::NANOS => Self::Nanoseconds,
            _ => Self::Plain,
        }
    }
}

/// Returns a value as the CSV would write it; empty for no value.
fn text(field: &Field, stands: Stands) -> Result<Cow<'_, str>, String> {
    let of_millis = |millis: i64| (millis as f64 / 1_000.0).to_string();
    let text = match field {
        Field::Null => return Ok("".into()),
        Field::Long(nanos) if stands == Stands::Nanoseconds => of_millis(nanos.div_euclid(1_000_000)),
        Field::TimestampMillis(millis) => of_millis(*millis),
        Field::TimestampMicros(micros) => of_millis(micros.div_euclid(1_000)),
        Field::Str(text) => return Ok(text.trim().into()),
        Field::Bytes(bytes) => {
            let text = str::from_utf8(bytes.data()).map_err(|_| "not UTF-8 text")?;
            return Ok(text.trim().into());
        }
        Field::Bool(value) => value.to_string(),
        Field::Byte(number) => number.to_string(),
        Field::Short(number) => number.to_string(),
        Field::Int(number) => number.to_string(),
        Field::Long(number) => number.to_string(),
        Field::UByte(number) => number.to_string(),
        Field::UShort(number) => number.to_string(),
        Field::UInt(number) => number.to_string(),
        Field::ULong(number) => number.to_string(),
        Field::Float(number) => number.to_string(),
        Field::Double(number) => number.to_string(),
        _ => return Err("neither text, number, time nor boolean".to_owned()),
    };
    Ok(text.into())
}
