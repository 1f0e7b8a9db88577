//! The corpus: captions from files of many formats, frozen into the run's store.
//!
//! ```text
//! files -> source -> format -> {jsonl, csv, parquet, coco} -> intake -> import -> frozen objects
//!          (bytes)   (sniff)         (rows of cells)         (checks,   (Parquet,
//!                                                            dedup)     manifest)
//! ```
//!
//! Reading is synchronous and streaming: memory holds one row or one batch, the fingerprints that tell
//! duplicates, and one object under construction. A partition is a range of the frozen records.

mod coco;
mod columns;
mod csv;
mod dedup;
mod format;
mod import;
mod intake;
mod jsonl;
mod meter;
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
