//! Parquet: only the text columns that are needed are read, batch by batch.

use super::columns::Columns;
use super::format::{after, broken};
use super::intake::Intake;
use super::row::{ByField, Cell, Field, Row};
use crate::error::{Error, Result};
use crate::pages;
use parquet::basic::{Compression, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use std::fs::File;

/// Rows decoded at a time.
const BATCH: usize = 1024;

pub(crate) fn read(input: File, file: &str, columns: &Columns, intake: &mut Intake) -> Result<()> {
    pages::guarded(|| read_trusting(input, file, columns, intake)).unwrap_or_else(|problem| Err(broken(file, problem)))
}

fn read_trusting(input: File, file: &str, columns: &Columns, intake: &mut Intake) -> Result<()> {
    let pages = input.try_clone().map_err(|e| broken(file, e))?;
    let reader = SerializedFileReader::new(input).map_err(|e| broken(file, e))?;
    let found = locate(reader.metadata().file_metadata().schema_descr(), file, columns)?;
    require_known_codec(reader.metadata(), file, &found)?;
    let wanted = |leaf| Field::ALL.into_iter().any(|field| found[field].as_ref().is_some_and(|column| column.index == leaf));
    pages::check(&pages, reader.metadata(), wanted).map_err(|problem| broken(file, problem))?;
    intake.columns(ByField::from_fn(|field| found[field].as_ref().map(|column| column.name.clone())));
    let mut row = 0u64;
    for number in 0..reader.num_row_groups() {
        let failed = |row: u64, e: ParquetError| {
            let last = (row > 0).then(|| format!("row {row}"));
            broken(format!("{}, in row group {number}", after(file, last)), e)
        };
        let group = reader.get_row_group(number).map_err(|e| failed(row, e))?;
        let mut cells = Cells::open(group.as_ref(), &found).map_err(|e| failed(row, e))?;
        let mut left = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        while left > 0 {
            let n = left.min(BATCH);
            for cells in cells.next(n).map_err(|e| failed(row, e))? {
                row += 1;
                if intake.row(row, cells)?.is_break() {
                    return Ok(());
                }
            }
            left -= n;
        }
    }
    Ok(())
}

/// A column of the file: its index among the leaves of the schema.
struct Leaf {
    index: usize,
    name: String,
}

/// The text columns among the leaves; a column inside a list or a struct is no column of a row.
fn locate(schema: &SchemaDescriptor, file: &str, columns: &Columns) -> Result<ByField<Option<Leaf>>> {
    let text: Vec<(usize, &str)> = schema
        .columns()
        .iter()
        .enumerate()
        .filter(|(_, column)| column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0 && column.path().parts().len() == 1)
        .map(|(index, column)| (index, column.name()))
        .collect();
    let names: Vec<&str> = text.iter().map(|(_, name)| *name).collect();
    let at = columns.locate(names.iter().copied());
    columns.require(&format!("{file} (text columns only)"), |field| at[field].is_some(), &names)?;
    Ok(ByField::from_fn(|field| at[field].and_then(|i| text.get(i)).map(|(index, name)| Leaf { index: *index, name: name.to_string() })))
}

/// Refuses a compression that this program is built without, before it looks like damage.
fn require_known_codec(metadata: &ParquetMetaData, file: &str, found: &ByField<Option<Leaf>>) -> Result<()> {
    for group in metadata.row_groups() {
        for leaf in Field::ALL.into_iter().filter_map(|field| found[field].as_ref()) {
            let codec = group.columns().get(leaf.index).map_or(Compression::UNCOMPRESSED, |column| column.compression());
            if !matches!(codec, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_)) {
                let codec = codec.to_string();
                return Err(Error::invalid(format!(
                    "{file}: column `{}` is compressed with {}; snappy, zstd and none can be read. Write the file again with one of them",
                    leaf.name,
                    codec.split('(').next().unwrap_or(&codec)
                )));
            }
        }
    }
    Ok(())
}

/// The wanted columns of a row group, read in step.
struct Cells(Vec<(Field, TextColumn)>);

impl Cells {
    fn open(group: &dyn RowGroupReader, found: &ByField<Option<Leaf>>) -> Result<Self, ParquetError> {
        let present = Field::ALL.into_iter().filter_map(|field| found[field].as_ref().map(|leaf| (field, leaf.index)));
        present.map(|(field, index)| Ok((field, TextColumn::open(group, index)?))).collect::<Result<_, _>>().map(Cells)
    }

    fn next(&mut self, n: usize) -> Result<Vec<Row>, ParquetError> {
        let mut rows = vec![Row::default(); n];
        for (field, column) in &mut self.0 {
            for (row, cell) in rows.iter_mut().zip(column.next(n)?) {
                row[*field] = cell;
            }
        }
        Ok(rows)
    }
}

/// Reads bytes rather than strings, so that one invalid text costs one row and not the file.
struct TextColumn {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// Definition level of a value that is there.
    present: i16,
    levels: Vec<i16>,
    values: Vec<ByteArray>,
}

impl TextColumn {
    fn open(group: &dyn RowGroupReader, index: usize) -> Result<Self, ParquetError> {
        let present = group.metadata().column(index).column_descr().max_def_level();
        match group.get_column_reader(index)? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(TextColumn { reader, present, levels: Vec::new(), values: Vec::new() }),
            _ => Err(ParquetError::General(format!("column {index} changed its type"))),
        }
    }

    /// The cells of the next `n` rows.
    fn next(&mut self, n: usize) -> Result<Vec<Cell>, ParquetError> {
        self.levels.clear();
        self.values.clear();
        let mut rows = 0;
        while rows < n {
            let (read, ..) = self.reader.read_records(n - rows, Some(&mut self.levels), None, &mut self.values)?;
            if read == 0 {
                return Err(ParquetError::EOF(format!("{} rows fewer than the footer says", n - rows)));
            }
            rows += read;
        }
        let mut values = self.values.iter().map(|value| Cell::from_bytes(value.data()));
        if self.present == 0 {
            return Ok(values.collect());
        }
        Ok(self.levels.iter().map(|level| if *level == self.present { values.next().unwrap_or(Cell::Null) } else { Cell::Null }).collect())
    }
}
