//! The figures of the model card, counted from what the oracle reads, and their table.

use super::caption::shows;
use super::{Kind, Reading, World};
use ip2p_pipeline::records::Triplet;
use std::collections::BTreeMap;
use std::fmt;

/// How many of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub hits: u64,
    pub of: u64,
}

impl Share {
    pub fn count(&mut self, hit: bool) {
        self.hits += u64::from(hit);
        self.of += 1;
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            0 => write!(f, "none to judge"),
            of => write!(f, "{:.3} ({} of {of})", self.hits as f64 / of as f64, self.hits),
        }
    }
}

/// The sum of many numbers, for their mean.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    of: u64,
}

impl fmt::Display for Mean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            0 => write!(f, "none to judge"),
            of => write!(f, "{:.3} (mean of {of})", self.sum / of as f64),
        }
    }
}

/// Both pictures of a candidate as they are read, and whether the filter kept them.
pub struct Drawn<'w> {
    pub before: Reading<'w>,
    pub after: Reading<'w>,
    pub kept: bool,
}

/// Everything that is measured, as it is counted.
#[derive(Default)]
pub struct Quality {
    /// Completions of the language model that parse.
    pub parsed: Share,
    /// Edited captions that are the caption with exactly the instructed change.
    pub edits: Share,
    sources: Share,
    /// By kind, where the caption says something of it.
    sources_by: BTreeMap<Kind, Share>,
    edited: Share,
    all: Share,
    kept: Share,
    overlaps: [Mean; Quality::SHARING.len()],
}

impl Quality {
    /// Prompt-to-Prompt thresholds at which overlaps are compared; 0 shares nothing.
    pub const SHARING: [f64; 3] = [0.9, 0.1, 0.0];

    /// Counts one candidate of a triplet.
    pub fn candidate(&mut self, world: &World, triplet: &Triplet, drawn: &Drawn<'_>) {
        let [before, after] = [&drawn.before.scene, &drawn.after.scene];
        let said = world.parse(&triplet.caption);
        self.sources.count(said.as_ref().is_some_and(|said| shows(before, said)));
        for (kind, value) in said.iter().flatten() {
            self.sources_by.entry(*kind).or_default().count(before.get(kind) == Some(value));
        }
        self.edited.count(world.parse(&triplet.output).is_some_and(|said| shows(after, &said)));
        let right = world.is_right_edit([before, after], [&triplet.caption, &triplet.output]);
        self.all.count(right);
        if drawn.kept {
            self.kept.count(right);
        }
    }

    /// Whether a triplet is one whose object should stay where it is.
    pub fn keeps_scene(world: &World, triplet: &Triplet) -> bool {
        matches!(world.edit_kind(&triplet.caption, &triplet.edit, &triplet.output), Some(Kind::Colour | Kind::Background))
    }

    /// Counts one pair drawn at the threshold `SHARING[setting]`.
    pub fn overlap(&mut self, setting: usize, drawn: &Drawn<'_>) {
        self.overlaps[setting].sum += drawn.before.mask.overlap(&drawn.after.mask);
        self.overlaps[setting].of += 1;
    }
}

/// The table of the model card, in Markdown.
impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | asked | measured |\n| --- | --- | --- |")?;
        writeln!(f, "| completions that parse | 0.95 | {} |", self.parsed)?;
        writeln!(f, "| edited captions that are the caption with exactly the instructed change | 0.90 | {} |", self.edits)?;
        writeln!(f, "| source pictures that match their caption | 0.90 | {} |", self.sources)?;
        for (kind, share) in &self.sources_by {
            writeln!(f, "| ... their {}, where it is said | | {share} |", kind.name())?;
        }
        writeln!(f, "| edited pictures that match their caption | | {} |", self.edited)?;
        for ((p2p, overlap), asked) in Self::SHARING.iter().zip(&self.overlaps).zip(["0.8", "clearly less", "clearly less"]) {
            let sharing = if *p2p == 0.0 { "without sharing".to_string() } else { format!("at p2p {p2p}") };
            writeln!(f, "| mask IoU of colour and background edits {sharing} | {asked} | {overlap} |")?;
        }
        writeln!(f, "| correct edits among all candidates | | {} |", self.all)?;
        writeln!(f, "| correct edits among the pairs that the filter keeps | 0.90 | {} |", self.kept)
    }
}
