//! From rows to records: what is usable, what is a duplicate, and the account of both.

use super::columns::Columns;
use super::dedup::{Rule, Seen};
use super::format::Format;
use super::report::{CorpusReport, FileReport, Position, Skipped};
use super::row::{ByField, Field, Row};
use crate::error::Result;
use crate::records::CorpusRecord;
use std::ops::ControlFlow;

/// Takes the rows of all files in turn and hands the usable ones to `sink`.
pub(crate) struct Intake<'a> {
    with_edits: bool,
    limit: u64,
    rule: Rule,
    seen: Seen,
    report: CorpusReport,
    sink: &'a mut dyn FnMut(CorpusRecord) -> Result<()>,
}

impl<'a> Intake<'a> {
    /// Takes at most `limit` usable rows.
    pub(crate) fn new(columns: &Columns, limit: Option<u64>, sink: &'a mut dyn FnMut(CorpusRecord) -> Result<()>) -> Self {
        Intake {
            with_edits: columns.with_edits(),
            limit: limit.unwrap_or(u64::MAX),
            rule: Rule::CaptionAndUrl,
            seen: Seen::default(),
            report: CorpusReport::default(),
            sink,
        }
    }

    /// The rows that follow are those of this file.
    pub(crate) fn begin_file(&mut self, name: String, format: Format) {
        self.rule = match format {
            _ if self.with_edits => Rule::Triplet,
            Format::Coco => Rule::Caption,
            _ => Rule::CaptionAndUrl,
        };
        self.report.files.push(FileReport { name, format, rows: 0, usable: 0, caption_column: None, url_column: None });
    }

    /// The columns found in the file.
    pub(crate) fn columns(&mut self, mut found: ByField<Option<String>>) {
        if let Some(file) = self.report.files.last_mut() {
            file.caption_column = found[Field::Caption].take();
            file.url_column = found[Field::Url].take();
        }
    }

    /// Takes row `number` (from 1) of the file; `Break` when the limit is reached.
    pub(crate) fn row(&mut self, number: u64, row: Row) -> Result<ControlFlow<()>> {
        self.report.rows += 1;
        let record = row.into_record(self.with_edits);
        let record = record.and_then(|record| match self.seen.admit(&record, self.rule) {
            Ok(()) => Ok(record),
            Err(reason) => Err(reason.to_string()),
        });
        let usable = record.is_ok();
        if let Some(file) = self.report.files.last_mut() {
            file.rows += 1;
            file.usable += u64::from(usable);
        }
        match record {
            Ok(record) => {
                self.report.usable += 1;
                (self.sink)(record)?;
            }
            Err(reason) => self.skip(reason, number),
        }
        self.report.limited = self.report.usable >= self.limit;
        Ok(if self.report.limited { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn skip(&mut self, reason: String, row: u64) {
        let file = self.report.files.last().map(|file| file.name.clone()).unwrap_or_default();
        let first = || Skipped { rows: 0, first: Position { file, row } };
        self.report.skipped.entry(reason).or_insert_with(first).rows += 1;
    }

    /// Whether the limit is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.report.limited
    }

    pub(crate) fn finish(self) -> CorpusReport {
        self.report
    }
}
