//! From words to what they say, and whether an edit is right.

use super::{Kind, Scene, World};

impl World {
    /// What a text says; longer phrases are taken out first. `None` when it says two different things of one kind.
    pub fn parse(&self, text: &str) -> Option<Scene<'_>> {
        let mut rest = padded(&text.replace(',', " ,").replace(['.', '?'], " "));
        let mut said = Scene::new();
        for phrase in &self.phrases {
            let words = padded(&phrase.words);
            if !rest.contains(&words) {
                continue;
            }
            if *said.entry(phrase.kind).or_insert(&phrase.value) != phrase.value {
                return None;
            }
            rest = rest.replace(&words, " _ ");
        }
        Some(said)
    }

    /// The kind of a right edit, else `None`.
    ///
    /// It is right when both captions can be read and say different things of exactly one kind, the instruction names
    /// the new value, and the captions are the same text but for their phrases of that kind.
    pub fn edit_kind(&self, caption: &str, instruction: &str, edited: &str) -> Option<Kind> {
        let (before, after) = (self.parse(caption)?, self.parse(edited)?);
        if before.is_empty() || after.is_empty() {
            return None;
        }
        let [kind] = changed(&before, &after)[..] else { return None };
        let new = *after.get(&kind)?;
        let instruction = padded(instruction.trim_matches(['.', '!', '?']));
        let mut named = self.phrases.iter().filter(|phrase| phrase.kind == kind && phrase.value == new);
        let instructed = named.any(|phrase| instruction.contains(&padded(&phrase.words)));
        (instructed && self.without(caption, kind) == self.without(edited, kind)).then_some(kind)
    }

    /// The words of a text but for the phrases of one kind.
    fn without(&self, text: &str, kind: Kind) -> Vec<String> {
        let mut text = padded(&text.replace(',', " ,"));
        for phrase in self.phrases.iter().filter(|phrase| phrase.kind == kind) {
            text = text.replace(&padded(&phrase.words), " ");
        }
        text.split_whitespace().filter(|word| *word != ",").map(str::to_string).collect()
    }

    /// Whether both pictures show what their captions say, and everything that the edit does not name is recognised and
    /// the same in both.
    pub fn is_right_edit(&self, seen: [&Scene<'_>; 2], captions: [&str; 2]) -> bool {
        let (Some(before), Some(after)) = (self.parse(captions[0]), self.parse(captions[1])) else { return false };
        let changed = changed(&before, &after);
        let kept = |kind: &Kind| changed.contains(kind) || seen[0].get(kind).is_some_and(|value| seen[1].get(kind) == Some(value));
        shows(seen[0], &before) && shows(seen[1], &after) && Kind::ALL.iter().all(kept)
    }
}

/// Whether a picture shows everything that was said.
pub(super) fn shows(seen: &Scene<'_>, said: &Scene<'_>) -> bool {
    said.iter().all(|(kind, value)| seen.get(kind) == Some(value))
}

fn changed(before: &Scene<'_>, after: &Scene<'_>) -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|kind| before.get(kind) != after.get(kind)).collect()
}

/// In lower case between blanks, so that only whole words are found in it.
fn padded(text: &str) -> String {
    format!(" {} ", text.to_lowercase())
}
