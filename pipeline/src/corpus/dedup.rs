//! Exact duplicates, as the original leaves them out: the first usable row wins.

use crate::ids::{CaptionId, TripletId};
use crate::records::CorpusRecord;
use std::collections::HashSet;

/// What no two records of a corpus may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The caption, and the url if there is one: the rule of the original's text generator.
    CaptionAndUrl,
    /// The caption. COCO describes each image five times on purpose.
    Caption,
    /// The whole triplet: several edits of one caption are different work.
    Triplet,
}

/// The rows kept so far, as 64-bit fingerprints: 10 to 21 bytes per caption and as much per url, half as much
/// again for a moment while a set grows (hashbrown: 9 bytes a slot, 7/16 to 7/8 full). Among 10 million
/// captions the odds that two different ones share a fingerprint are 3 in a million.
#[derive(Default)]
pub struct Seen {
    texts: HashSet<u64>,
    urls: HashSet<u64>,
}

impl Seen {
    /// Remembers `record`, unless an earlier kept one makes it a duplicate: then says of which kind
    /// (`duplicate_caption`, `duplicate_url` or `duplicate_triplet`).
    pub fn admit(&mut self, record: &CorpusRecord, rule: Rule) -> Result<(), &'static str> {
        let (text, reason) = match (&record.edit, rule) {
            (Some(e), Rule::Triplet) => (short(TripletId::of(&record.caption, &e.edit, &e.output).bytes()), "duplicate_triplet"),
            _ => (short(CaptionId::of(&record.caption).bytes()), "duplicate_caption"),
        };
        let url = record.url.as_ref().filter(|_| rule == Rule::CaptionAndUrl).map(|url| short(blake3::hash(url.as_bytes()).as_bytes()));
        if self.texts.contains(&text) {
            return Err(reason);
        }
        if url.is_some_and(|url| !self.urls.insert(url)) {
            return Err("duplicate_url");
        }
        self.texts.insert(text);
        Ok(())
    }
}

/// The first 8 bytes of a hash.
fn short<const N: usize>(hash: &[u8; N]) -> u64 {
    hash.iter().take(8).fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Edit;

    fn record(caption: &str, url: &str) -> CorpusRecord {
        CorpusRecord { caption: caption.to_string(), url: Some(url.to_string()), edit: None }
    }

    #[test]
    fn a_row_that_was_left_out_takes_no_caption_and_no_url_with_it() {
        let mut seen = Seen::default();
        let mut admit = |caption, url| seen.admit(&record(caption, url), Rule::CaptionAndUrl);
        assert_eq!(admit("a", "u"), Ok(()));
        assert_eq!(admit("b", "u"), Err("duplicate_url"));
        assert_eq!(admit("a", "v"), Err("duplicate_caption"));
        assert_eq!(admit("b", "v"), Ok(()));
        assert_eq!(admit("b ", "w"), Ok(()), "captions are compared exactly");
    }

    #[test]
    fn each_rule_compares_what_it_says() {
        let triplet = |output: &str| CorpusRecord {
            edit: Some(Edit { edit: "make it red".to_string(), output: output.to_string() }),
            ..record("a", "u")
        };
        let mut seen = Seen::default();
        assert_eq!(seen.admit(&triplet("x"), Rule::Triplet), Ok(()));
        assert_eq!(seen.admit(&triplet("y"), Rule::Triplet), Ok(()));
        assert_eq!(seen.admit(&triplet("x"), Rule::Triplet), Err("duplicate_triplet"));
        let mut seen = Seen::default();
        assert_eq!(seen.admit(&record("a", "u"), Rule::Caption), Ok(()));
        assert_eq!(seen.admit(&record("b", "u"), Rule::Caption), Ok(()));
        assert_eq!(seen.admit(&record("a", "v"), Rule::Caption), Err("duplicate_caption"));
    }
}
