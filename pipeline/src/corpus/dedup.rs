//! Exact duplicates, as the original leaves them out: the first usable row wins.

use crate::ids::{CaptionId, TripletId};
use crate::records::CorpusRecord;
use std::collections::HashSet;

/// What no two records of a corpus may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
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
pub(crate) struct Seen {
    texts: HashSet<u64>,
    urls: HashSet<u64>,
}

impl Seen {
    /// Remembers `record`, unless an earlier kept one makes it a duplicate: then says of which kind.
    pub(crate) fn admit(&mut self, record: &CorpusRecord, rule: Rule) -> Result<(), &'static str> {
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
    use serde::Deserialize;

    fn record(caption: &str, url: &str) -> CorpusRecord {
        CorpusRecord { caption: caption.to_string(), url: Some(url.to_string()), edit: None }
    }

    /// `numpy.random.RandomState(seed).permutation(14)` for the seeds 0 to 3: the order in which the original
    /// reads its table of 14 rows.
    const ORDER: [[usize; 14]; 4] = [
        [8, 6, 4, 11, 2, 13, 9, 1, 7, 10, 3, 0, 5, 12],
        [3, 7, 6, 2, 10, 4, 1, 12, 0, 13, 9, 8, 11, 5],
        [11, 4, 5, 0, 9, 3, 1, 10, 7, 12, 2, 6, 13, 8],
        [7, 4, 1, 2, 13, 6, 5, 0, 11, 12, 3, 9, 8, 10],
    ];

    #[derive(Deserialize)]
    struct Case {
        table: Vec<(String, String)>,
        existing: Vec<Line>,
        replies: std::collections::HashMap<String, String>,
        num_samples: usize,
        flagged_captions: Vec<String>,
        seed: usize,
        n_partitions: usize,
        partition: usize,
        file_lines: Vec<String>,
    }

    #[derive(Deserialize)]
    struct Line {
        caption: String,
        url: String,
    }

    /// The rows of the case's partition (as `numpy.array_split` makes them) that get a usable reply: the
    /// original remembers only rows that became triplets.
    fn rows(case: &Case) -> Vec<CorpusRecord> {
        let (n, parts) = (case.table.len(), case.n_partitions);
        let start = |p: usize| p * (n / parts) + p.min(n % parts);
        let order = &ORDER[case.seed][start(case.partition)..start(case.partition + 1)];
        let usable = |caption: &String| case.replies[caption].contains("\n%%\n") && !case.flagged_captions.contains(caption);
        order.iter().map(|i| &case.table[*i]).filter(|(caption, _)| usable(caption)).map(|(c, u)| record(c, u)).collect()
    }

    #[test]
    fn the_original_keeps_the_same_rows() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/selection/text_resume.json");
        let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let mut seen = Seen::default();
            // What the original's output file held before: it remembers these without comparing them.
            for line in &case.existing {
                let _ = seen.admit(&record(&line.caption, &line.url), Rule::CaptionAndUrl);
            }
            let kept: Vec<_> = rows(&case).into_iter().filter(|row| seen.admit(row, Rule::CaptionAndUrl).is_ok()).collect();
            let lines: Vec<Line> = case.file_lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            let expected: Vec<_> = lines[case.existing.len()..].iter().map(|line| record(&line.caption, &line.url)).collect();
            assert_eq!(kept[..expected.len()], expected, "seed {}", case.seed);
            if case.num_samples > case.table.len() {
                assert_eq!(kept.len(), expected.len(), "seed {}", case.seed);
            }
        }
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
