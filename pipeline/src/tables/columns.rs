//! Named Arrow columns: built from rows, and read back with every type and null checked.

use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use std::str::FromStr;
use std::sync::Arc;

/// The columns of a batch under construction, in order.
#[derive(Default)]
pub struct Columns {
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
}

impl Columns {
    fn with(mut self, name: &str, nullable: bool, array: impl Array + 'static) -> Self {
        self.fields.push(Field::new(name, array.data_type().clone(), nullable));
        self.arrays.push(Arc::new(array));
        self
    }

    pub fn text<S: AsRef<str>>(self, name: &str, values: impl Iterator<Item = S>) -> Self {
        self.with(name, false, StringArray::from_iter_values(values))
    }

    pub fn optional_text<S: AsRef<str>>(self, name: &str, values: impl Iterator<Item = Option<S>>) -> Self {
        self.with(name, true, StringArray::from_iter(values))
    }

    pub fn u32(self, name: &str, values: impl Iterator<Item = u32>) -> Self {
        self.with(name, false, UInt32Array::from_iter_values(values))
    }

    pub fn u64(self, name: &str, values: impl Iterator<Item = u64>) -> Self {
        self.with(name, false, UInt64Array::from_iter_values(values))
    }

    pub fn optional_u64(self, name: &str, values: impl Iterator<Item = Option<u64>>) -> Self {
        self.with(name, true, UInt64Array::from_iter(values))
    }

    pub fn f64(self, name: &str, values: impl Iterator<Item = f64>) -> Self {
        self.with(name, false, Float64Array::from_iter_values(values))
    }

    pub fn optional_f64(self, name: &str, values: impl Iterator<Item = Option<f64>>) -> Self {
        self.with(name, true, Float64Array::from_iter(values))
    }

    pub fn into_batch(self) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(Arc::new(Schema::new(self.fields)), self.arrays)
    }
}

/// A batch being read; `what` names the table in messages.
pub struct Rows<'a> {
    what: &'a str,
    batch: &'a RecordBatch,
}

impl<'a> Rows<'a> {
    pub fn new(what: &'a str, batch: &'a RecordBatch) -> Self {
        Rows { what, batch }
    }

    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// An error about the table's content.
    pub fn error(&self, problem: impl std::fmt::Display) -> Error {
        Error::format(self.what, problem)
    }

    fn column<A: Array + 'static>(&self, name: &str) -> Result<&'a A> {
        let column = self.batch.column_by_name(name).ok_or_else(|| self.error(format!("there is no column `{name}`")))?;
        let unexpected = || self.error(format!("column `{name}` has the type {}", column.data_type()));
        column.as_any().downcast_ref().ok_or_else(unexpected)
    }

    fn required<A: Array + 'static>(&self, name: &str) -> Result<&'a A> {
        let column = self.column::<A>(name)?;
        match column.null_count() {
            0 => Ok(column),
            nulls => Err(self.error(format!("column `{name}` has {nulls} nulls, but every row needs a value"))),
        }
    }

    pub fn text(&self, name: &str) -> Result<&'a StringArray> {
        self.required(name)
    }

    pub fn u32(&self, name: &str) -> Result<&'a UInt32Array> {
        self.required(name)
    }

    pub fn u64(&self, name: &str) -> Result<&'a UInt64Array> {
        self.required(name)
    }

    pub fn f64(&self, name: &str) -> Result<&'a Float64Array> {
        self.required(name)
    }

    pub fn optional_text(&self, name: &str) -> Result<Vec<Option<&'a str>>> {
        Ok(self.column::<StringArray>(name)?.iter().collect())
    }

    pub fn optional_u64(&self, name: &str) -> Result<Vec<Option<u64>>> {
        Ok(self.column::<UInt64Array>(name)?.iter().collect())
    }

    pub fn optional_f64(&self, name: &str) -> Result<Vec<Option<f64>>> {
        Ok(self.column::<Float64Array>(name)?.iter().collect())
    }

    /// A text column of ids.
    pub fn ids<I: FromStr<Err = String>>(&self, name: &str) -> Result<Vec<I>> {
        let parse = |text: Option<&str>| text.unwrap_or_default().parse().map_err(|e| self.error(format!("column `{name}`: {e}")));
        self.text(name)?.iter().map(parse).collect()
    }
}
