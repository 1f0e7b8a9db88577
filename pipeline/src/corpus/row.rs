//! One row of a corpus as its reader found it, and what makes it usable.

use crate::records::{CorpusRecord, Edit};

/// Longest usable text of a cell, in bytes. CLIP sees 77 tokens, so anything near this is not a caption.
pub(crate) const MAX_TEXT: usize = 10_000;

/// What a column means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Caption,
    Url,
    Edit,
    Output,
}

impl Field {
    pub(crate) const ALL: [Field; 4] = [Field::Caption, Field::Url, Field::Edit, Field::Output];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Field::Caption => "caption",
            Field::Url => "url",
            Field::Edit => "edit",
            Field::Output => "output",
        }
    }
}

/// One value for each [`Field`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ByField<T>([T; 4]);

impl<T> ByField<T> {
    pub(crate) fn from_fn(f: impl FnMut(Field) -> T) -> Self {
        ByField(Field::ALL.map(f))
    }
}

impl<T> std::ops::Index<Field> for ByField<T> {
    type Output = T;

    fn index(&self, field: Field) -> &T {
        &self.0[field as usize]
    }
}

impl<T> std::ops::IndexMut<Field> for ByField<T> {
    fn index_mut(&mut self, field: Field) -> &mut T {
        &mut self.0[field as usize]
    }
}

/// What a reader found in one column of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Cell {
    #[default]
    Missing,
    Null,
    /// A number, a list, ...
    NotText,
    /// Bytes that are not UTF-8.
    TooLong,
    InvalidUtf8,
    Text(String),
}

impl Cell {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Err(_) => Cell::InvalidUtf8,
            // A dictionary can give each of many rows the same long text, which nobody needs.
            Ok(text) if text.len() > MAX_TEXT && !text.trim().is_empty() => Cell::TooLong,
            Ok(text) if text.len() > MAX_TEXT => Cell::Text(String::new()),
            Ok(text) => Cell::Text(text.to_string()),
        }
    }

    /// The text, or the word for what is wrong with it. The text is kept as it is, not trimmed.
    fn usable(self) -> Result<String, &'static str> {
        match self {
            Cell::Missing => Err("missing"),
            Cell::Null => Err("null"),
            Cell::NotText => Err("not_text"),
            Cell::InvalidUtf8 => Err("invalid_utf8"),
            Cell::TooLong => Err("too_long"),
            Cell::Text(text) if text.trim().is_empty() => Err("empty"),
            Cell::Text(text) if text.len() > MAX_TEXT => Err("too_long"),
            Cell::Text(text) => Ok(text),
        }
    }
}

pub(crate) type Row = ByField<Cell>;

impl Row {
    /// The record of this row, or the reason why there is none, e.g. `caption_empty`.
    ///
    /// A url that is not usable text is left out; it never costs a record.
    pub(crate) fn into_record(mut self, with_edits: bool) -> Result<CorpusRecord, String> {
        let mut take = |field: Field| std::mem::take(&mut self[field]).usable().map_err(|problem| format!("{}_{problem}", field.name()));
        let caption = take(Field::Caption)?;
        let edit = if with_edits { Some(Edit { edit: take(Field::Edit)?, output: take(Field::Output)? }) } else { None };
        Ok(CorpusRecord { caption, url: take(Field::Url).ok(), edit })
    }
}
