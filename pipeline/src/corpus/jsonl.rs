//! JSON lines: one object per line. Blank lines are passed over.

use super::columns::Columns;
use super::format::{after, broken};
use super::intake::Intake;
use super::meter::{MAX_ROW, too_long};
use super::object::{Object, Scalar};
use super::row::{ByField, Cell, Field, Row};
use crate::error::Result;
use serde::de::IgnoredAny;
use std::io::{self, BufRead, BufReader, Read};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub(crate) fn read(input: impl Read, file: &str, columns: &Columns, intake: &mut Intake) -> Result<()> {
    let mut lines = Lines { input: BufReader::new(input), line: Vec::new(), number: 0, last: 0 };
    let mut picker = Picker::new(columns);
    while lines.advance().map_err(|e| broken(after(file, lines.whole()), e))? {
        let row = match std::str::from_utf8(lines.text()) {
            Ok(text) => parse(text, &mut picker).map_err(|problem| broken(format!("{file}:{}", lines.number), problem))?,
            Err(_) => invalid_utf8(),
        };
        if intake.row(lines.number, row)?.is_break() {
            break;
        }
    }
    picker.finish(file, intake)
}

struct Lines<R> {
    input: BufReader<R>,
    line: Vec<u8>,
    /// Number of `line`, from 1.
    number: u64,
    /// Number of the last line that was read to its end and is not blank; 0 before the first.
    last: u64,
}

impl<R: Read> Lines<R> {
    /// Goes to the next line that is not blank; `false` at the end.
    fn advance(&mut self) -> io::Result<bool> {
        loop {
            self.number += 1;
            self.line.clear();
            self.input.by_ref().take(MAX_ROW).read_until(b'\n', &mut self.line)?;
            if self.line.is_empty() {
                return Ok(false);
            }
            if self.line.len() as u64 >= MAX_ROW {
                return Err(too_long());
            }
            if !self.text().is_empty() {
                self.last = self.number;
                return Ok(true);
            }
        }
    }

    fn whole(&self) -> Option<String> {
        (self.last > 0).then(|| format!("line {}", self.last))
    }

    /// The line without byte order mark and line end.
    fn text(&self) -> &[u8] {
        let line = if self.number == 1 { self.line.strip_prefix(BYTE_ORDER_MARK) } else { None };
        line.unwrap_or(&self.line).trim_ascii()
    }
}

fn parse(line: &str, picker: &mut Picker) -> Result<Row, String> {
    match serde_json::from_str::<Object>(line) {
        Ok(object) => Ok(picker.pick(object)),
        Err(e) if e.to_string().starts_with("invalid type") => {
            Err("expected a JSON object, such as {\"caption\": \"a red circle\"}".to_string())
        }
        Err(e) if e.is_data() => Err(e.to_string()),
        // Half a surrogate pair, as some writers produce, is well-formed JSON but no text.
        Err(_) if serde_json::from_str::<IgnoredAny>(line).is_ok() => Ok(invalid_utf8()),
        Err(e) => {
            let text = e.to_string();
            Err(format!("not valid JSON: {} in column {}", text.split(" at line ").next().unwrap_or(&text), e.column()))
        }
    }
}

/// Which column is broken is not known; a row counts once, under its caption.
fn invalid_utf8() -> Row {
    let mut row = Row::default();
    row[Field::Caption] = Cell::InvalidUtf8;
    row
}

/// Takes the cells of a row from a JSON object. Objects need not have the same keys.
pub(crate) struct Picker<'a> {
    columns: &'a Columns,
    /// Name of the column that last filled each field.
    found: ByField<Option<String>>,
    /// Keys of the first object, to be named when the caption is nowhere.
    first_keys: Option<Vec<String>>,
}

impl<'a> Picker<'a> {
    pub(crate) fn new(columns: &'a Columns) -> Self {
        Picker { columns, found: ByField::default(), first_keys: None }
    }

    pub(crate) fn pick(&mut self, object: Object) -> Row {
        if self.first_keys.is_none() {
            self.first_keys = Some(object.0.iter().map(|(key, _)| key.clone()).collect());
        }
        let mut row = Row::default();
        let mut best: ByField<Option<usize>> = ByField::default();
        for (key, value) in object.0 {
            let Some((field, rank)) = self.columns.field(&key) else { continue };
            if best[field].is_none_or(|least| rank < least) {
                best[field] = Some(rank);
                row[field] = cell(value);
                if self.found[field].as_ref() != Some(&key) {
                    self.found[field] = Some(key);
                }
            }
        }
        row
    }

    /// Reports the columns; a file of objects that never had a needed one is refused.
    pub(crate) fn finish(self, file: &str, intake: &mut Intake) -> Result<()> {
        if let Some(keys) = &self.first_keys {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            self.columns.require(file, |field| self.found[field].is_some(), &keys)?;
        }
        intake.columns(self.found);
        Ok(())
    }
}

fn cell(value: Scalar) -> Cell {
    match value {
        Scalar::Null => Cell::Null,
        Scalar::Text(text) => Cell::Text(text),
        Scalar::Number(_) | Scalar::Other => Cell::NotText,
    }
}
