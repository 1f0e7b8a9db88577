//! Which column of a file holds what, found by its name without regard to case.

use super::row::{ByField, Field};
use crate::error::{Error, Result};
use crate::spec::Corpus;

/// Names of caption columns, the best first: CC3M/COCO, laion-coco, LAION and COYO, DiffusionDB, the original's two.
const CAPTION: &[&str] = &["caption", "top_caption", "text", "prompt", "input", "original_prompt", "source_caption"];
const URL: &[&str] = &["url", "image_url", "img_url", "coco_url", "flickr_url"];
/// The original's names, then those of its released data set and of UltraEdit.
const EDIT: &[&str] = &["edit", "edit_prompt", "instruction", "edit_instruction"];
const OUTPUT: &[&str] = &["output", "edited_prompt", "edited_caption", "target_caption"];

/// The names under which each field is looked for.
pub(crate) struct Columns {
    names: ByField<Vec<String>>,
    with_edits: bool,
}

impl Columns {
    pub(crate) fn new(spec: &Corpus, with_edits: bool) -> Self {
        let defaults = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let names = ByField::from_fn(|field| match (field, &spec.caption_column, &spec.url_column) {
            (Field::Caption, Some(name), _) | (Field::Url, _, Some(name)) => vec![name.clone()],
            (Field::Caption, ..) => defaults(CAPTION),
            (Field::Url, ..) => defaults(URL),
            (Field::Edit, ..) if with_edits => defaults(EDIT),
            (Field::Output, ..) if with_edits => defaults(OUTPUT),
            _ => Vec::new(),
        });
        Columns { names, with_edits }
    }

    pub(crate) fn with_edits(&self) -> bool {
        self.with_edits
    }

    /// The field that a column of this name can fill and its rank, lower being better.
    /// An exact match goes before one that differs in case.
    pub(crate) fn field(&self, column: &str) -> Option<(Field, usize)> {
        Field::ALL.into_iter().find_map(|field| {
            let at = self.names[field].iter().position(|name| name.eq_ignore_ascii_case(column))?;
            Some((field, 2 * at + usize::from(self.names[field][at] != column)))
        })
    }

    /// The best column for each field; the first of equals.
    pub(crate) fn locate<'a>(&self, columns: impl IntoIterator<Item = &'a str>) -> ByField<Option<usize>> {
        let mut best: ByField<Option<(usize, usize)>> = ByField::default();
        for (i, column) in columns.into_iter().enumerate() {
            if let Some((field, rank)) = self.field(column)
                && best[field].is_none_or(|(least, _)| rank < least)
            {
                best[field] = Some((rank, i));
            }
        }
        ByField::from_fn(|field| best[field].map(|(_, i)| i))
    }

    /// The column given by number, from 1, for files without header.
    pub(crate) fn number(&self, field: Field) -> Option<usize> {
        match self.names[field].as_slice() {
            [name] => name.parse::<usize>().ok()?.checked_sub(1),
            _ => None,
        }
    }

    /// Refuses a file in which a needed column was not found; `present` are the columns that it has.
    pub(crate) fn require(&self, file: &str, found: impl Fn(Field) -> bool, present: &[&str]) -> Result<()> {
        let needed: &[Field] = if self.with_edits { &[Field::Caption, Field::Edit, Field::Output] } else { &[Field::Caption] };
        let Some(lost) = needed.iter().find(|field| !found(**field)) else { return Ok(()) };
        let wanted = self.names[*lost].join(", ");
        let mut shown: Vec<String> = present
            .iter()
            .take(20)
            .map(|name| format!("`{}`", name.chars().take(60).flat_map(char::escape_debug).collect::<String>()))
            .collect();
        if shown.is_empty() {
            shown.push("none".to_string());
        }
        let advice = match lost {
            Field::Caption => "Name the column with corpus.caption_column (a file without header: its number, from 1)",
            _ => "A corpus of triplets needs the caption, the edit instruction and the edited caption in each row",
        };
        Err(Error::invalid(format!("{file}: no {} column ({wanted}) among {}. {advice}", lost.name(), shown.join(", "))))
    }
}
