//! The internal records as Parquet: what the stages hand to each other, readable with pandas.
//!
//! Small tables are encoded and decoded whole ([`Table::encode`], [`Table::decode`]); the index, which can
//! have tens of millions of rows, goes through [`TableWriter`] and [`TableReader`] a batch at a time.

mod columns;
mod rows;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::pages;
use arrow::array::{Array, BooleanArray, RecordBatch, StringArray};
use arrow::error::ArrowError;
use bytes::Bytes;
use columns::{Columns, Rows};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowFilter};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{ChunkReader, Length};
use std::io::Write;
use std::marker::PhantomData;
use std::sync::Arc;

/// Rows per batch in memory, for writing and for reading.
const BATCH_ROWS: usize = 8192;

/// Rows per row group: what a writer holds in memory, encoded and compressed (about 30 MB for the index).
const GROUP_ROWS: usize = 16 * BATCH_ROWS;

/// A record type with a fixed Parquet schema: [`crate::records`]' `CorpusRecord`, `Triplet`, `RejectedCompletion`,
/// `ScoredCandidate`, `IndexRow`, `ShardRow` and `Quarantined`. Sealed by its two hidden methods.
pub trait Table: Sized {
    /// What a table of these is called in messages.
    const NAME: &'static str;

    #[doc(hidden)]
    fn columns(rows: &[Self]) -> Columns;

    #[doc(hidden)]
    fn rows(batch: &Rows<'_>) -> Result<Vec<Self>>;

    /// The rows as one Parquet file.
    fn encode(rows: &[Self]) -> Result<Bytes> {
        let mut writer = TableWriter::new(Vec::new(), &[])?;
        writer.write(rows)?;
        writer.finish().map(Bytes::from)
    }

    /// The rows of a file that [`Table::encode`] made. `what` names it in messages, e.g. its URL.
    ///
    /// Fails when the bytes are not Parquet, a column is missing, of another type, or holds a value that
    /// the record cannot have.
    fn decode(what: &str, bytes: Bytes) -> Result<Vec<Self>> {
        let mut rows = Vec::new();
        for batch in TableReader::open(what, bytes)? {
            rows.append(&mut batch?);
        }
        Ok(rows)
    }
}

/// Writes a table of any length in bounded memory: one row group.
pub struct TableWriter<T, W: Write + Send> {
    inner: ArrowWriter<W>,
    rows: PhantomData<T>,
}

impl<T: Table, W: Write + Send> TableWriter<T, W> {
    /// `metadata` becomes key-value metadata of the file, such as the lineage of the index as JSON.
    pub fn new(out: W, metadata: &[(&str, String)]) -> Result<Self> {
        let metadata = metadata.iter().map(|(key, value)| KeyValue::new(key.to_string(), value.clone())).collect();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_key_value_metadata(Some(metadata))
            .build();
        let schema = T::columns(&[]).into_batch().map_err(|e| Error::format(T::NAME, e))?.schema();
        let inner = ArrowWriter::try_new(out, schema, Some(properties)).map_err(|e| Error::format(T::NAME, e))?;
        Ok(TableWriter { inner, rows: PhantomData })
    }

    pub fn write(&mut self, rows: &[T]) -> Result<()> {
        for rows in rows.chunks(BATCH_ROWS) {
            let batch = T::columns(rows).into_batch().map_err(|e| Error::format(T::NAME, e))?;
            self.inner.write(&batch).map_err(|e| Error::format(T::NAME, e))?;
        }
        Ok(())
    }

    /// Writes the footer and gives the sink back. A table that is not finished is unreadable.
    pub fn finish(self) -> Result<W> {
        self.inner.into_inner().map_err(|e| Error::format(T::NAME, e))
    }
}

/// Reads a table batch by batch; an iterator over `Result<Vec<T>>` of at most 8192 rows each.
pub struct TableReader<T> {
    what: String,
    inner: ParquetRecordBatchReader,
    metadata: Vec<KeyValue>,
    failed: bool,
    rows: PhantomData<T>,
}

impl<T: Table> TableReader<T> {
    /// Opens a table in memory (`Bytes`) or in a local file (`std::fs::File`). `what` names it in messages. Columns that the
    /// record does not have, such as the images of a shard, are not read.
    pub fn open(what: &str, source: impl ChunkReader + 'static) -> Result<Self> {
        Self::filtered(what, source, None)
    }

    /// Like [`TableReader::open`], but only rows whose text column `column` is `value`. Other columns are
    /// decoded for those rows only, so reading the kept pairs costs little next to the rejected ones.
    pub fn open_where(what: &str, source: impl ChunkReader + 'static, column: &str, value: &str) -> Result<Self> {
        Self::filtered(what, source, Some((column, value)))
    }

    fn filtered(what: &str, source: impl ChunkReader + 'static, condition: Option<(&str, &str)>) -> Result<Self> {
        let unreadable = |e| Error::format(what, e);
        let source = Source(Arc::new(source));
        let opened = pages::guarded(|| ParquetRecordBatchReaderBuilder::try_new(source.clone()));
        let mut builder = opened.map_err(|problem| Error::format(what, problem))?.map_err(unreadable)?.with_batch_size(BATCH_ROWS);
        let schema = T::columns(&[]).into_batch().map_err(|e| Error::format(T::NAME, e))?.schema();
        let known = ProjectionMask::columns(builder.parquet_schema(), schema.fields().iter().map(|field| field.name().as_str()));
        pages::check(&source, builder.metadata(), |leaf| known.leaf_included(leaf)).map_err(|problem| Error::format(what, problem))?;
        builder = builder.with_projection(known);
        let metadata = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
        if let Some((column, value)) = condition {
            let mask = ProjectionMask::columns(builder.parquet_schema(), [column]);
            builder = builder.with_row_filter(equals(mask, value.to_string()));
        }
        let inner = pages::guarded(|| builder.build()).map_err(|problem| Error::format(what, problem))?.map_err(unreadable)?;
        Ok(TableReader { what: what.to_string(), inner, metadata, failed: false, rows: PhantomData })
    }

    /// The value that the writer stored under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|entry| entry.key == key)?.value.as_deref()
    }
}

impl<T: Table> Iterator for TableReader<T> {
    type Item = Result<Vec<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let batch = match pages::guarded(|| self.inner.next()) {
            Ok(batch) => batch?,
            Err(problem) => {
                // What is left of the reader is not to be used again.
                self.failed = true;
                return Some(Err(Error::format(&self.what, problem)));
            }
        };
        Some(batch.map_err(|e| Error::format(&self.what, e)).and_then(|batch| T::rows(&Rows::new(&self.what, &batch))))
    }
}

/// A file that is read by the library and looked at before.
struct Source<R>(Arc<R>);

impl<R> Clone for Source<R> {
    fn clone(&self) -> Self {
        Source(self.0.clone())
    }
}

impl<R: Length> Length for Source<R> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<R: ChunkReader> ChunkReader for Source<R> {
    type T = R::T;

    fn get_read(&self, start: u64) -> parquet::errors::Result<R::T> {
        self.0.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.0.get_bytes(start, length)
    }
}

/// Passes the rows whose only projected column is `value`.
fn equals(mask: ProjectionMask, value: String) -> RowFilter {
    let matches = move |batch: RecordBatch| {
        let column = batch.columns().first().and_then(|column| column.as_any().downcast_ref::<StringArray>());
        let column = column.ok_or_else(|| ArrowError::SchemaError("the column to select rows by is not a text column".to_string()))?;
        Ok(BooleanArray::from_iter(column.iter().map(|found| Some(found == Some(value.as_str())))))
    };
    RowFilter::new(vec![Box::new(ArrowPredicateFn::new(mask, matches))])
}
