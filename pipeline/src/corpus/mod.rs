//! The corpus: captions from files of many formats, frozen into the run's store.
//!
//! ```text
//! files -> source -> format -> {jsonl, csv, parquet, coco} -> intake -> import -> frozen objects
//!          (bytes)   (sniff)         (rows of cells)         (checks,   (Parquet,
//!                                                            dedup)     manifest)
//! ```
//!
//! - JSON lines, Parquet (plain, snappy or zstd), CSV, TSV, COCO captions; text files also inside gzip or zstd.
//! - The caption column is found by name without regard to case, or named by the spec; in a CSV or TSV file
//!   without header it is the column beside the urls (CC3M, CC12M), or the spec gives its number.
//! - A row without a usable caption is counted by reason and passed over; so is one with the caption or url of
//!   an earlier row that was kept. A file that cannot be read to its end stops everything, naming the place.
//!
//! Reading is synchronous and streaming: memory holds one row or one batch, the fingerprints that tell
//! duplicates, and one object under construction. A partition is a range of the frozen records.

mod coco;
mod columns;
mod csv;
pub mod dedup;
mod format;
mod import;
mod intake;
mod jsonl;
mod meter;
mod object;
mod parquet;
mod read;
mod report;
mod row;
mod source;
#[cfg(test)]
mod tests;

pub use format::Format;
pub use import::{CorpusManifest, CorpusObject, import, load, read_range};
pub use read::scan;
pub use report::{CorpusReport, FileReport, Position, Skipped};
pub use source::source_fingerprint;
