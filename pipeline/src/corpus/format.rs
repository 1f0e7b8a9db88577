//! What kind of file it is: compression by its first bytes, format by name and then by content.

use super::columns::Columns;
use super::row::Field;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Cursor, Read, Seek};

/// Formats of a corpus file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object per line.
    Jsonl,
    Parquet,
    /// Comma-separated, quoted as RFC 4180 says.
    Csv,
    /// Tab-separated; quotes mean nothing, as in the files of CC3M and CC12M.
    Tsv,
    /// COCO captions: one object with `images` and `annotations`.
    Coco,
}

impl Format {
    /// The name of the format, as its files are called.
    pub fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "JSONL",
            Format::Parquet => "Parquet",
            Format::Csv => "CSV",
            Format::Tsv => "TSV",
            Format::Coco => "COCO",
        }
    }
}

/// A file, ready to be read in its format.
pub(crate) enum Input {
    Parquet(File),
    /// Decompressed text.
    Text(Format, Box<dyn Read>),
}

/// How much of a text is looked at to tell its format, in bytes.
const HEAD: u64 = 64 << 10;

/// Tells compression and format of `file`, whose path or URL is `name`.
pub(crate) fn open(name: &str, mut file: File, columns: &Columns) -> Result<Input> {
    let failed = |e: io::Error| broken(name, e);
    let mut magic = Vec::new();
    file.by_ref().take(4).read_to_end(&mut magic).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let (mut text, compressed): (Box<dyn Read>, bool) = match magic.as_slice() {
        b"PAR1" => return Ok(Input::Parquet(file)),
        [0x1f, 0x8b, ..] => (Box::new(flate2::read::MultiGzDecoder::new(file)), true),
        [0x28, 0xb5, 0x2f, 0xfd] => (Box::new(unpack_zstd(file).map_err(failed)?), true),
        _ => (Box::new(file), false),
    };
    let mut head = Vec::new();
    // A file that is cut off this early is still read as far as it goes, so that its last whole row can be named.
    let read = text.by_ref().take(HEAD).read_to_end(&mut head);
    let text: Box<dyn Read> = match read {
        Ok(_) => text,
        Err(e) => Box::new(Broken(e)),
    };
    if compressed && head.starts_with(b"PAR1") {
        return Err(Error::invalid(format!("{name} is a compressed Parquet file. Decompress it: Parquet compresses its own pages")));
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Err(Error::invalid(format!("{name} is UTF-16 text. Save it as UTF-8, for example with: iconv -f UTF-16 -t UTF-8")));
    }
    let format = sniff(name, &head, columns)?;
    Ok(Input::Text(format, Box::new(Cursor::new(head).chain(text))))
}

/// Text that cannot be read on.
struct Broken(io::Error);

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(self.0.kind(), self.0.to_string()))
    }
}

/// A window of up to 128 MiB is what the zstd program unpacks without being asked for more.
fn unpack_zstd(file: File) -> io::Result<impl Read> {
    let mut decoder = zstd::Decoder::new(file)?;
    decoder.window_log_max(27)?;
    Ok(decoder)
}

/// An error in the bytes of `place`, a file name with perhaps a line.
pub(crate) fn broken(place: impl std::fmt::Display, problem: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{place}: {problem}. The file may be cut off or damaged: copy it again, or correct the place"))
}

/// The place of what cannot be read, behind the last row that could: `row` says what the format calls it, for example
/// `line 7`, and is `None` when there was none.
pub(crate) fn after(file: &str, row: Option<impl std::fmt::Display>) -> String {
    match row {
        Some(row) => format!("{file}, after {row}"),
        None => format!("{file}, before the end of its first row"),
    }
}

/// The format by extension, or else by the first bytes of the text.
fn sniff(name: &str, head: &[u8], columns: &Columns) -> Result<Format> {
    let lower = name.to_ascii_lowercase();
    let plain = [".gz", ".gzip", ".zst", ".zstd"].iter().find_map(|ending| lower.strip_suffix(ending)).unwrap_or(&lower);
    match plain.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "jsonl" | "ndjson" => Ok(Format::Jsonl),
        "csv" => Ok(Format::Csv),
        "tsv" => Ok(Format::Tsv),
        "parquet" | "pq" => Err(broken(name, "it is called Parquet but does not begin with PAR1")),
        _ => by_content(name, head, columns),
    }
}

fn by_content(name: &str, head: &[u8], columns: &Columns) -> Result<Format> {
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let line = text.lines().next().unwrap_or_default();
    let names_caption = || columns.locate(line.split(',').map(|cell| cell.trim_matches('"')))[Field::Caption].is_some();
    match text.chars().next() {
        None => Ok(Format::Jsonl),
        Some('{') if is_row(line) => Ok(Format::Jsonl),
        Some('{') => Ok(Format::Coco),
        Some('[') => Err(Error::invalid(format!(
            "{name} is one JSON array. Write one object per line instead, for example with: jq -c '.[]' {name}"
        ))),
        Some(_) if line.contains('\t') => Ok(Format::Tsv),
        Some(_) if names_caption() => Ok(Format::Csv),
        Some(_) => Err(Error::invalid(format!(
            "{name}: neither its name nor its content tells a format. Give it the ending .jsonl, .csv, .tsv, .json (COCO) or .parquet"
        ))),
    }
}

/// Whether a line is a whole JSON object and not a COCO file written in one line.
fn is_row(line: &str) -> bool {
    serde_json::from_str::<serde_json::Map<_, _>>(line).is_ok_and(|object| !object.contains_key("annotations"))
}
