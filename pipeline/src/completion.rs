//! What the language model is asked and which of its answers count: the rules of the original's text
//! generator (timothybrooks/instruct-pix2pix, `generate_txt_dataset.py` and `prepare_for_gpt.py`), plus
//! two of our own that run after them ([`Rejection::Empty`], [`Rejection::Duplicate`]).

use crate::python_json;
use crate::records::Edit;
use serde::Serialize;

/// Ends the caption in a prompt.
pub const PROMPT_END: &str = "\n##\n";
/// Stands between the edit and the edited caption in a completion.
pub const SEPARATOR: &str = "\n%%\n";
/// Ends a completion; sent as the stop sequence, so that a reply does not hold it.
pub const STOP: &str = "\nEND";
/// `presence_penalty` of the original's requests, written out in each.
pub const PRESENCE_PENALTY: f32 = 0.0;

/// Why a completion gave no triplet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rejection {
    /// The model answered without any text: a refusal, or a content filter.
    NoCompletion,
    /// It is not one edit and one edited caption in the agreed form.
    Unparsable,
    /// Moderation flagged the caption, the edit or the edited caption.
    Flagged,
    /// The edited caption says what the caption says.
    SameAsCaption,
    /// The edit or the edited caption is blank. The original keeps these; nothing can be drawn from them.
    Empty,
    /// An earlier completion of the same caption says exactly the same.
    Duplicate,
}

impl Rejection {
    pub const ALL: [Rejection; 6] = [
        Rejection::NoCompletion,
        Rejection::Unparsable,
        Rejection::Flagged,
        Rejection::SameAsCaption,
        Rejection::Empty,
        Rejection::Duplicate,
    ];

    /// The word that names the reason in records, counts and reports.
    pub fn name(self) -> &'static str {
        match self {
            Rejection::NoCompletion => "no_completion",
            Rejection::Unparsable => "unparsable",
            Rejection::Flagged => "flagged",
            Rejection::SameAsCaption => "same_as_caption",
            Rejection::Empty => "empty",
            Rejection::Duplicate => "duplicate",
        }
    }
}

/// How a model writes its completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The original's: the edit, [`SEPARATOR`], the edited caption.
    Delimited,
    /// A JSON object with the strings `edit` and `output`.
    Json,
}

impl Style {
    /// Reads a completion: text that is not exactly one edit and one edited caption is
    /// [`Rejection::Unparsable`].
    ///
    /// The delimited form is kept to the byte, as the original keeps it; in JSON, blanks around the two
    /// strings are dropped, and text around the object (thoughts, code fences) is passed over.
    pub fn parse(self, completion: &str) -> Result<Edit, Rejection> {
        match self {
            Style::Delimited => parse_delimited(completion),
            Style::Json => parse_json(completion),
        }
        .ok_or(Rejection::Unparsable)
    }
}

/// The prompt for a caption, as the original's model was fine-tuned on it.
pub fn prompt(caption: &str) -> String {
    format!("{caption}{PROMPT_END}")
}

fn parse_delimited(completion: &str) -> Option<Edit> {
    let (edit, output) = completion.split_once(SEPARATOR)?;
    // `split` looks for the separator in what follows the last one found, as Python's does.
    (!output.contains(SEPARATOR)).then(|| Edit { edit: edit.to_string(), output: output.to_string() })
}

/// The first JSON object in the text that has both strings.
fn parse_json(completion: &str) -> Option<Edit> {
    let found = completion.match_indices('{').find_map(|(at, _)| {
        let mut values = serde_json::Deserializer::from_str(&completion[at..]).into_iter::<Edit>();
        values.next()?.ok()
    })?;
    Some(Edit { edit: strip(&found.edit).to_string(), output: strip(&found.output).to_string() })
}

/// Whether the edited caption says the same as the caption but for blanks, `.!?` at either end, and case.
pub fn same_text(caption: &str, output: &str) -> bool {
    let normal = |text: &str| strip(text).trim_matches(['.', '!', '?']).to_lowercase();
    normal(caption) == normal(output)
}

/// Whether the edit or the edited caption is blank.
pub fn is_empty(edit: &Edit) -> bool {
    strip(&edit.edit).is_empty() || strip(&edit.output).is_empty()
}

/// Python's `str.strip()`: it also strips U+001C..U+001F, which are not `White_Space` in Unicode.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

/// One line of a fine-tuning file that teaches a model this prompt format, without its newline.
pub fn fine_tuning_line(caption: &str, edit: &Edit) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Line {
        prompt: String,
        completion: String,
    }
    let completion = format!("{}{SEPARATOR}{}{STOP}", edit.edit, edit.output);
    python_json::to_string(&Line { prompt: prompt(caption), completion })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edit(edit: &str, output: &str) -> Result<Edit, Rejection> {
        Ok(Edit { edit: edit.to_string(), output: output.to_string() })
    }

    #[test]
    fn json_is_found_among_other_text() {
        let expected = edit("make it a dog", "A dog");
        for text in [
            r#"{"edit": "make it a dog", "output": "A dog"}"#,
            r#"{"output":" A dog\n","edit":"make it a dog","note":1}"#,
            "```json\n{\"edit\": \"make it a dog\", \"output\": \"A dog\"}\n```",
            r#"<think>{"edit": ...}? yes {</think> {"edit": "make it a dog", "output": "A dog"} {"edit": "x", "output": "y"}"#,
            r#"{"result": {"edit": "make it a dog", "output": "A dog"}}"#,
        ] {
            assert_eq!(Style::Json.parse(text), expected, "{text}");
        }
        for text in [
            "",
            "{",
            "{}",
            r#"{"edit": "x"}"#,
            r#"{"edit": "x", "output": 1}"#,
            r#"{"edit": "x", "output": "cut of"#,
            "make it a dog\n%%\nA dog",
        ] {
            assert_eq!(Style::Json.parse(text), Err(Rejection::Unparsable), "{text}");
        }
    }

    #[test]
    fn blank_parts_are_empty() {
        let blank = |e: &str, o: &str| is_empty(&edit(e, o).unwrap());
        assert!(blank(" \u{a0}\u{1f}", "A dog") && blank("make it a dog", "\n"));
        assert!(!blank("make it a dog", "A dog"));
    }

    proptest! {
        /// What a fine-tuned model is taught to write is read back as it was.
        #[test]
        fn delimited_round_trip(e in "[a-z\n%#{}\" ]{0,12}", o in "[a-z\n%#{}\" ]{0,12}") {
            let text = format!("{e}{SEPARATOR}{o}");
            prop_assume!(text.matches(SEPARATOR).count() == 1 && text.find(SEPARATOR) == Some(e.len()));
            prop_assert_eq!(Style::Delimited.parse(&text), edit(&e, &o));
        }

        /// Whatever a model writes, reading it neither panics nor invents text.
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}|[{}\":,a-z\n%]{0,60}") {
            for style in [Style::Delimited, Style::Json] {
                if let Ok(found) = style.parse(&text) {
                    prop_assert!(style == Style::Json || text.contains(&found.output));
                }
            }
        }

        #[test]
        fn case_blanks_and_end_marks_do_not_matter(words in "[a-z]{1,6}( [a-z]{1,6}){0,3}", end in "[.!?]{0,3}[ \u{1c}\u{a0}\n]{0,2}") {
            let changed = format!("{}{end}", words.to_uppercase());
            prop_assert!(same_text(&words, &changed));
            let longer = format!("{words} x");
            prop_assert!(!same_text(&words, &longer));
        }
    }
}
