//! What reading a corpus found: every row is either usable or counted under a reason.

use super::format::Format;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The account of a corpus: `rows = usable + skipped`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CorpusReport {
    /// In the order in which they were read.
    pub files: Vec<FileReport>,
    pub rows: u64,
    /// Rows that became records.
    pub usable: u64,
    /// Rows left out by reason: `<field>_<problem>` with the problems missing, null, not_text,
    /// invalid_utf8, empty and too_long, or `duplicate_caption`, `duplicate_url`, `duplicate_triplet`.
    pub skipped: BTreeMap<String, Skipped>,
    /// Reading ended at `corpus.limit`; the rows after it were not looked at.
    pub limited: bool,
}

impl CorpusReport {
    pub fn skipped_total(&self) -> u64 {
        self.skipped.values().map(|skipped| skipped.rows).sum()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileReport {
    /// Path or URL.
    pub name: String,
    pub format: Format,
    pub rows: u64,
    pub usable: u64,
    /// Name of the column, or its number from 1 in a file without header; `None` in a file without rows.
    pub caption_column: Option<String>,
    pub url_column: Option<String>,
}

/// Rows left out for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    pub rows: u64,
    /// The first of them.
    pub first: Position,
}

/// Where a row is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub file: String,
    /// From 1: the line of a text file, the row of a Parquet file, the annotation of a COCO file.
    pub row: u64,
}
