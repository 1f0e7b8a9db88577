//! The pages of a Parquet file, looked at before the library reads them.
//!
//! The library makes room for what a page's header says: its length unpacked, the values of a dictionary, the lengths
//! of texts in an encoding of differences. A kilobyte can so ask for terabytes, which ends the process. Here headers
//! are read as they are written (Thrift's compact protocol), and refused when they ask for more than a page can need.

use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::reader::ChunkReader;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Largest page, unpacked, in bytes; writers make pages of about a megabyte.
const MAX_PAGE: i64 = 256 << 20;
/// Deepest nesting of a header; real ones have three levels.
const MAX_DEPTH: u32 = 8;

/// Runs a reader of the library, which panics at some of what a damaged file can hold.
pub(crate) fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| "its parts do not fit together".to_string())
}

/// Refuses a file whose pages of the columns `wanted` (by their number among the leaves) cannot be read within bounds.
pub(crate) fn check(file: &impl ChunkReader, metadata: &ParquetMetaData, wanted: impl Fn(usize) -> bool) -> Result<(), String> {
    for (number, group) in metadata.row_groups().iter().enumerate() {
        for (_, column) in group.columns().iter().enumerate().filter(|(leaf, _)| wanted(*leaf)) {
            check_column(file, column)
                .map_err(|problem| format!("column `{}` of row group {number}: {problem}", column.column_path().string()))?;
        }
    }
    Ok(())
}

fn check_column(file: &impl ChunkReader, column: &ColumnChunkMetaData) -> Result<(), String> {
    let outside = || "its bytes lie outside the file".to_string();
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let (mut at, length) = (u64::try_from(start).map_err(|_| outside())?, u64::try_from(column.compressed_size()).map_err(|_| outside())?);
    let end = at.checked_add(length).filter(|end| *end <= file.len()).ok_or_else(outside)?;
    let mut values = 0i64;
    while at < end && values < column.num_values() {
        let input = file.get_read(at).map_err(|e| e.to_string())?;
        let (page, header) = Page::read(input, end - at)?;
        at += header;
        page.check(end - at)?;
        at += page.packed as u64;
        if page.kind != DICTIONARY {
            values = values.saturating_add(page.values);
        }
    }
    Ok(())
}

/// Numbers of a page's header.
#[derive(Debug, Default)]
struct Page {
    kind: i64,
    unpacked: i64,
    packed: i64,
    values: i64,
    encoding: i64,
}

// Of parquet.thrift: kinds of pages, and encodings.
const INDEX: i64 = 1;
const DICTIONARY: i64 = 2;
const BOUNDED_ENCODINGS: [i64; 4] = [0, 2, 3, 8];

impl Page {
    /// Reads a header of at most `limit` bytes; gives its length too.
    fn read(input: impl Read, limit: u64) -> Result<(Self, u64), String> {
        let mut header = Header { input, left: limit, page: Page::default() };
        header.structure(0, 0)?;
        let length = limit - header.left;
        Ok((header.page, length))
    }

    fn check(&self, left: u64) -> Result<(), String> {
        let Page { kind, unpacked, packed, values, encoding } = *self;
        match () {
            _ if !u64::try_from(packed).is_ok_and(|packed| packed <= left) => Err(format!("a page of {packed} bytes is cut short")),
            _ if !(0..=MAX_PAGE).contains(&unpacked) => Err(format!("a page says that it unpacks to {unpacked} bytes")),
            _ if values < 0 => Err(format!("a page says that it has {values} values")),
            _ if kind == INDEX => Ok(()),
            _ if kind == DICTIONARY && values > unpacked => {
                Err(format!("a dictionary of {unpacked} bytes says that it has {values} values"))
            }
            _ if !BOUNDED_ENCODINGS.contains(&encoding) => Err(format!(
                "its encoding (number {encoding}) is not read, only plain and dictionary are. Write the file again with one of them"
            )),
            _ => Ok(()),
        }
    }

    /// Takes the number `n` of field `id` in the structure that is field `parent` of the header.
    fn take(&mut self, parent: i16, id: i16, n: i64) {
        match (parent, id) {
            (0, 1) => self.kind = n,
            (0, 2) => self.unpacked = n,
            (0, 3) => self.packed = n,
            // DataPageHeader, DictionaryPageHeader, DataPageHeaderV2.
            (5 | 7 | 8, 1) => self.values = n,
            (5 | 7, 2) | (8, 4) => self.encoding = n,
            _ => {}
        }
    }
}

/// A header being read.
struct Header<R> {
    input: R,
    left: u64,
    page: Page,
}

impl<R: Read> Header<R> {
    fn structure(&mut self, parent: i16, depth: u32) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(damaged());
        }
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            let step = i16::from(head >> 4);
            match head & 0x0f {
                0 => return Ok(()),
                _ if step == 0 => id = i16::try_from(self.integer()?).map_err(|_| damaged())?,
                _ => id = id.checked_add(step).ok_or_else(damaged)?,
            }
            match head & 0x0f {
                1 | 2 => {}
                3 => drop(self.byte()?),
                4..=6 => {
                    let n = self.integer()?;
                    self.page.take(parent, id, n);
                }
                7 => self.skip(8)?,
                8 => {
                    let length = self.varint()?;
                    self.skip(length)?;
                }
                12 => self.structure(if depth == 0 { id } else { -1 }, depth + 1)?,
                _ => return Err(damaged()),
            }
        }
    }

    fn byte(&mut self) -> Result<u8, String> {
        let mut byte = [0];
        self.left = self.left.checked_sub(1).ok_or_else(damaged)?;
        self.input.read_exact(&mut byte).map_err(|e| e.to_string())?;
        Ok(byte[0])
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(damaged())
    }

    /// Zigzag: 0, -1, 1, -2 ...
    fn integer(&mut self) -> Result<i64, String> {
        let n = self.varint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn skip(&mut self, n: u64) -> Result<(), String> {
        self.left = self.left.checked_sub(n).ok_or_else(damaged)?;
        let skipped = std::io::copy(&mut self.input.by_ref().take(n), &mut std::io::sink()).map_err(|e| e.to_string())?;
        if skipped == n { Ok(()) } else { Err(damaged()) }
    }
}

fn damaged() -> String {
    "the header of a page is damaged".to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use bytes::Bytes;
    use parquet::arrow::arrow_writer::ArrowWriter;
    use parquet::basic::{Compression, Encoding, ZstdLevel};
    use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use std::sync::Arc;

    fn file(change: impl FnOnce(WriterPropertiesBuilder) -> WriterPropertiesBuilder) -> Bytes {
        let texts = (0..5000).map(|n| format!("a red circle number {}", n % 700));
        let column: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let batch = RecordBatch::try_from_iter([("caption", column)]).unwrap();
        let properties = change(WriterProperties::builder()).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap().into()
    }

    fn checked(bytes: &Bytes) -> Result<(), String> {
        let reader = SerializedFileReader::new(bytes.clone()).unwrap();
        check(bytes, reader.metadata(), |_| true)
    }

    #[test]
    fn what_writers_make_passes() {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for codec in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())] {
                checked(&file(|p| p.set_writer_version(version).set_compression(codec).set_data_page_size_limit(2000))).unwrap();
            }
        }
        checked(&file(|p| p.set_dictionary_enabled(false))).unwrap();
    }

    #[test]
    fn an_encoding_without_bounds_is_named() {
        let bytes = file(|p| p.set_dictionary_enabled(false).set_encoding(Encoding::DELTA_LENGTH_BYTE_ARRAY));
        let problem = checked(&bytes).unwrap_err();
        assert!(problem.contains("column `caption` of row group 0") && problem.contains("(number 6)"), "{problem}");
    }

    #[test]
    fn pages_that_ask_for_too_much_are_refused() {
        let page = |page: Page| page.check(100).unwrap_err();
        assert!(page(Page { packed: 101, ..Page::default() }).contains("cut short"));
        assert!(page(Page { unpacked: 2_000_000_000, ..Page::default() }).contains("unpacks to 2000000000"));
        let dictionary = Page { kind: DICTIONARY, values: 2_000_000_000, unpacked: 50, packed: 50, encoding: 0 };
        assert!(page(dictionary).contains("says that it has 2000000000 values"));
        // A binary of a terabyte in the statistics.
        let text = [0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f];
        assert_eq!(Page::read(&text[..], 7).unwrap_err(), damaged());
        assert_eq!(Page::read(&[0x1c; 20][..], 20).unwrap_err(), damaged());
    }
}
