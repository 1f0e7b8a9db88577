//! Comma- and tab-separated text, with or without a header row.

use super::columns::Columns;
use super::format::{Format, after, broken};
use super::intake::Intake;
use super::meter::Meter;
use super::row::{ByField, Cell, Field, Row};
use crate::error::{Error, Result};
use csv::{ByteRecord, ErrorKind};
use std::io::Read;

pub(crate) fn read(input: impl Read, format: Format, file: &str, columns: &Columns, intake: &mut Intake) -> Result<()> {
    let meter = Meter::new();
    let tab = format == Format::Tsv;
    let mut rows = csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(if tab { b'\t' } else { b',' })
        .quoting(!tab)
        .from_reader(meter.measure(input));
    let mut record = ByteRecord::new();
    let mut layout: Option<Layout> = None;
    let mut behind = 0;
    let mut last = None;
    while rows.read_byte_record(&mut record).map_err(|e| unreadable(file, last, behind, e))? {
        meter.allow_row();
        let line = behind + record.position().map_or(0, |position| position.line());
        last = Some(line);
        let known = match &layout {
            Some(layout) => layout,
            None => {
                behind = lines_behind(&record, rows.position().line());
                let found = layout.insert(Layout::of(&record, file, columns)?);
                intake.columns(found.names(&record));
                if found.header {
                    continue;
                }
                found
            }
        };
        if intake.row(line, known.row(&record))?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Where the fields are.
struct Layout {
    header: bool,
    at: ByField<Option<usize>>,
}

impl Layout {
    /// A first row that holds a url or stands under a column number is data; any other is a header.
    fn of(first: &ByteRecord, file: &str, columns: &Columns) -> Result<Self> {
        let cells: Vec<_> = first.iter().map(String::from_utf8_lossy).collect();
        let named = columns.locate(cells.iter().map(|cell| cell.trim()));
        if named[Field::Caption].is_some() {
            columns.require(file, |field| named[field].is_some(), &cells.iter().map(|cell| cell.as_ref()).collect::<Vec<_>>())?;
            return Ok(Layout { header: true, at: named });
        }
        let url = columns.number(Field::Url).or_else(|| cells.iter().position(|cell| is_url(cell)));
        let caption = columns.number(Field::Caption);
        if columns.with_edits() || (url.is_none() && caption.is_none()) {
            let cells: Vec<&str> = cells.iter().map(|cell| cell.as_ref()).collect();
            columns.require(file, |field| named[field].is_some(), &cells)?;
        }
        let caption = match (caption, url) {
            (Some(caption), _) if caption < cells.len() => caption,
            (None, Some(url)) if cells.len() == 2 => 1 - url.min(1),
            _ => {
                return Err(Error::invalid(format!(
                    "{file} has no header and {} columns: say which one holds the captions, from 1, for example --set corpus.caption_column=1",
                    cells.len()
                )));
            }
        };
        let at = ByField::from_fn(|field| match field {
            Field::Caption => Some(caption),
            Field::Url => url,
            Field::Edit | Field::Output => None,
        });
        Ok(Layout { header: false, at })
    }

    /// Names of the columns, from the first row; without header their numbers from 1.
    fn names(&self, first: &ByteRecord) -> ByField<Option<String>> {
        let name = |i: usize| match first.get(i) {
            Some(cell) if self.header => String::from_utf8_lossy(cell).into_owned(),
            _ => (i + 1).to_string(),
        };
        ByField::from_fn(|field| self.at[field].map(name))
    }

    fn row(&self, record: &ByteRecord) -> Row {
        ByField::from_fn(|field| self.at[field].and_then(|i| record.get(i)).map_or(Cell::Missing, Cell::from_bytes))
    }
}

/// Whether a cell of the first row can only be data.
fn is_url(cell: &str) -> bool {
    let cell = cell.trim();
    ["http://", "https://"].iter().any(|scheme| cell.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

/// How far the line numbers of the rows after the first are behind: by one where lines end in CR LF, because
/// the library takes a row to end before the LF. `after` is its line number after the first row.
fn lines_behind(first: &ByteRecord, after: u64) -> u64 {
    let inside = first.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
    u64::from(first.position().is_some_and(|start| after == start.line() + inside))
}

/// `last` is the line in which the last row begins that could be read.
fn unreadable(file: &str, last: Option<u64>, behind: u64, error: csv::Error) -> Error {
    match error.kind() {
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = behind + pos.as_ref().map_or(0, |pos| pos.line());
            broken(format!("{file}:{line}"), format!("this row has {len} columns, the first has {expected_len}"))
        }
        _ => broken(after(file, last.map(|line| format!("the row of line {line}"))), error),
    }
}
