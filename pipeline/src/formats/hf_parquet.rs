//! Parquet that Hugging Face `datasets` opens with decoded image columns.
//!
//! What it takes (found with datasets 5.2): the image column is exactly a nullable `struct<bytes: binary, path:
//! string>` of nullable fields in this order, and the key `huggingface` of the metadata, both in the Arrow schema
//! and in the file's footer, holds the features as JSON. Any deviation silently gives dicts instead of images.

use super::Sample;
use crate::spec::ColumnProfile;
use arrow::array::{Array, ArrayRef, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

type Result<T> = std::result::Result<T, ParquetError>;

/// The key under which `datasets` looks for its features.
const METADATA_KEY: &str = "huggingface";

/// Image bytes per row group: what a reader holds in memory to get at one row.
const GROUP_BYTES: usize = 100 << 20;

/// Image bytes gathered before they go to the encoder.
const BATCH_BYTES: usize = 8 << 20;

/// A column: where its values come from.
#[derive(Clone, Copy)]
enum Column {
    Image(usize),
    Text(fn(&Sample) -> String),
    Integer(fn(&Sample) -> i64),
    Float(fn(&Sample) -> f64),
}

/// All columns in order: those of the profile, then the facts about the pair.
fn columns(profile: ColumnProfile) -> Vec<(&'static str, Column)> {
    let original_prompt = ("original_prompt", Column::Text(|sample| sample.row.caption.clone()));
    let edit_prompt = ("edit_prompt", Column::Text(|sample| sample.row.edit.clone()));
    let edited_prompt = ("edited_prompt", Column::Text(|sample| sample.row.output.clone()));
    let edited_image = ("edited_image", Column::Image(1));
    let first = match profile {
        ColumnProfile::Timbrooks => [original_prompt, ("original_image", Column::Image(0)), edit_prompt, edited_prompt, edited_image],
        ColumnProfile::Diffusers => [("input_image", Column::Image(0)), edit_prompt, edited_image, original_prompt, edited_prompt],
    };
    let facts: [(&str, Column); 9] = [
        ("pair_id", Column::Text(|sample| sample.row.pair.to_string())),
        ("triplet_id", Column::Text(|sample| sample.row.candidate.triplet.to_string())),
        // Seeds are below 2^48.
        ("seed", Column::Integer(|sample| sample.row.candidate.seed as i64)),
        ("p2p_threshold", Column::Float(|sample| sample.row.candidate.p2p_threshold)),
        ("cfg_scale", Column::Float(|sample| sample.row.candidate.cfg_scale)),
        ("clip_sim_0", Column::Float(|sample| sample.scores.clip_sim_0)),
        ("clip_sim_1", Column::Float(|sample| sample.scores.clip_sim_1)),
        ("clip_sim_dir", Column::Float(|sample| sample.scores.clip_sim_dir)),
        ("clip_sim_image", Column::Float(|sample| sample.scores.clip_sim_image)),
    ];
    first.into_iter().chain(facts).collect()
}

impl Column {
    fn data_type(self) -> DataType {
        match self {
            Column::Image(_) => DataType::Struct(image_fields()),
            Column::Text(_) => DataType::Utf8,
            Column::Integer(_) => DataType::Int64,
            Column::Float(_) => DataType::Float64,
        }
    }

    /// The column in the `features` of `datasets`.
    fn feature(self) -> Value {
        match self {
            Column::Image(_) => json!({"_type": "Image"}),
            Column::Text(_) => json!({"dtype": "string", "_type": "Value"}),
            Column::Integer(_) => json!({"dtype": "int64", "_type": "Value"}),
            Column::Float(_) => json!({"dtype": "float64", "_type": "Value"}),
        }
    }

    fn array(self, samples: &[Sample]) -> Result<ArrayRef> {
        Ok(match self {
            Column::Image(which) => Arc::new(images(samples, which)?),
            Column::Text(value) => Arc::new(StringArray::from_iter_values(samples.iter().map(value))),
            Column::Integer(value) => Arc::new(Int64Array::from_iter_values(samples.iter().map(value))),
            Column::Float(value) => Arc::new(Float64Array::from_iter_values(samples.iter().map(value))),
        })
    }
}

fn image_fields() -> Fields {
    Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)])
}

/// The first or second images, with a file name that is unique in the data set.
fn images(samples: &[Sample], which: usize) -> Result<StructArray> {
    let bytes = BinaryArray::from_iter_values(samples.iter().map(|sample| &sample.images[which]));
    let names = samples.iter().map(|sample| format!("{}_{which}.{}", sample.row.pair, sample.extensions[which]));
    let arrays: Vec<Arc<dyn Array>> = vec![Arc::new(bytes), Arc::new(StringArray::from_iter_values(names))];
    Ok(StructArray::try_new(image_fields(), arrays, None)?)
}

/// The JSON under [`METADATA_KEY`].
fn features(columns: &[(&str, Column)]) -> String {
    let features: Map<String, Value> = columns.iter().map(|(name, column)| (name.to_string(), column.feature())).collect();
    json!({"info": {"features": features}}).to_string()
}

/// Snappy for texts and numbers. Images are compressed already: neither codec nor dictionary nor statistics.
fn properties(columns: &[(&str, Column)]) -> WriterProperties {
    let plain = |builder: WriterPropertiesBuilder, (name, _): &(&str, Column)| {
        let path = ColumnPath::new(vec![name.to_string(), "bytes".to_string()]);
        builder
            .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_statistics_enabled(path, EnabledStatistics::None)
    };
    let footer = KeyValue::new(METADATA_KEY.to_string(), features(columns));
    let builder = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(None)
        .set_key_value_metadata(Some(vec![footer]));
    columns.iter().filter(|(_, column)| matches!(column, Column::Image(_))).fold(builder, plain).build()
}

pub(super) struct Writer<W: Write + Send> {
    columns: Vec<(&'static str, Column)>,
    schema: SchemaRef,
    parquet: ArrowWriter<W>,
    pending: Vec<Sample>,
    pending_bytes: usize,
    group_bytes: usize,
}

impl<W: Write + Send> Writer<W> {
    pub fn new(profile: ColumnProfile, out: W) -> Result<Self> {
        let columns = columns(profile);
        let fields: Vec<Field> = columns.iter().map(|(name, column)| Field::new(*name, column.data_type(), true)).collect();
        let metadata = HashMap::from([(METADATA_KEY.to_string(), features(&columns))]);
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let parquet = ArrowWriter::try_new(out, schema.clone(), Some(properties(&columns)))?;
        Ok(Writer { columns, schema, parquet, pending: Vec::new(), pending_bytes: 0, group_bytes: 0 })
    }

    pub fn add(&mut self, sample: &Sample) -> Result<()> {
        self.pending_bytes += sample.image_bytes();
        self.pending.push(sample.clone());
        if self.pending_bytes >= BATCH_BYTES {
            self.write_pending()?;
        }
        Ok(())
    }

    /// Encodes the gathered samples, and ends the row group when it is full.
    fn write_pending(&mut self) -> Result<()> {
        let arrays = self.columns.iter().map(|(_, column)| column.array(&self.pending)).collect::<Result<_>>()?;
        self.parquet.write(&RecordBatch::try_new(self.schema.clone(), arrays)?)?;
        self.group_bytes += self.pending_bytes;
        self.pending.clear();
        self.pending_bytes = 0;
        if self.group_bytes >= GROUP_BYTES {
            self.parquet.flush()?;
            self.group_bytes = 0;
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<W> {
        self.write_pending()?;
        self.parquet.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{jpeg, sample, write};
    use super::*;
    use crate::spec::ShardFormat;
    use arrow::array::AsArray;
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    fn open(bytes: Bytes) -> ParquetRecordBatchReaderBuilder<Bytes> {
        ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap()
    }

    #[test]
    fn the_schema_is_what_datasets_decodes() {
        let (bytes, _) = write(ShardFormat::Parquet, ColumnProfile::Timbrooks, (0..3).map(sample));
        let file = open(bytes);
        let names: Vec<&str> = file.schema().fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names[..5], ["original_prompt", "original_image", "edit_prompt", "edited_prompt", "edited_image"]);
        let image = file.schema().field_with_name("edited_image").unwrap();
        assert!(image.is_nullable());
        assert_eq!(*image.data_type(), DataType::Struct(image_fields()));
        let expected = features(&columns(ColumnProfile::Timbrooks));
        assert_eq!(file.schema().metadata()[METADATA_KEY], expected);
        let footer = file.metadata().file_metadata().key_value_metadata().unwrap();
        let footer: Vec<_> = footer.iter().filter(|entry| entry.key == METADATA_KEY).map(|entry| entry.value.clone().unwrap()).collect();
        assert_eq!(footer, [expected]);
    }

    #[test]
    fn the_diffusers_trainer_finds_its_columns_by_position() {
        let names: Vec<&str> = columns(ColumnProfile::Diffusers).iter().map(|(name, _)| *name).collect();
        assert_eq!(names[..3], ["input_image", "edit_prompt", "edited_image"]);
        assert_eq!(names.len(), columns(ColumnProfile::Timbrooks).len());
    }

    #[test]
    fn images_are_stored_plain_and_come_back() {
        let (bytes, _) = write(ShardFormat::Parquet, ColumnProfile::Timbrooks, (0..3).map(sample));
        let file = open(bytes);
        let stored = file.metadata().row_group(0).columns().iter().filter(|column| column.column_path().string().ends_with(".bytes"));
        for column in stored {
            assert_eq!(column.compression(), Compression::UNCOMPRESSED);
            assert!(column.dictionary_page_offset().is_none() && column.statistics().is_none());
        }
        let batches: Vec<RecordBatch> = file.build().unwrap().map(|batch| batch.unwrap()).collect();
        let image = batches[0].column_by_name("original_image").unwrap().as_struct();
        let found: Vec<&[u8]> = image.column(0).as_binary::<i32>().iter().map(Option::unwrap).collect();
        assert_eq!(found, (0..3).map(|n| sample(n).images[0].clone()).collect::<Vec<_>>());
        let path = image.column(1).as_string::<i32>().value(2);
        assert_eq!(path, format!("{}_0.jpg", sample(2).row.pair));
    }

    #[test]
    fn row_groups_are_bounded() {
        let big = |n| Sample { images: [jpeg(1, 6 << 20), jpeg(2, 6 << 20)], ..sample(n) };
        let (bytes, _) = write(ShardFormat::Parquet, ColumnProfile::Timbrooks, (0..20).map(big));
        let file = open(bytes);
        let rows: Vec<i64> = file.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
        assert_eq!(rows, [9, 9, 2]);
    }
}
