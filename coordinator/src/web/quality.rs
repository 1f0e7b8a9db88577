//! What the scores say: how they are spread, and what other thresholds would keep.

use super::tables::Tables;
use crate::charts::Point;
use ip2p_pipeline::Result;
use ip2p_pipeline::ids::TripletId;
use ip2p_pipeline::records::{IndexRow, Scores, Verdict};
use ip2p_pipeline::spec::Filter;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Most candidates and partitions that are looked at.
const CANDIDATES: usize = 40_000;
const PARTITIONS: usize = 400;
/// Most points of each colour in the scatter.
const POINTS: usize = 1500;
/// How long a sample is shown while more is committed.
const FRESH: Duration = Duration::from_secs(10);
/// Frequent edits and words that are told.
const FREQUENT: usize = 12;
/// Words that say nothing of an edit.
const FUNCTION_WORDS: [&str; 12] = ["the", "and", "with", "for", "into", "its", "from", "that", "this", "are", "was", "has"];
/// Bars of a distribution.
pub const BINS: usize = 40;

/// The scores of one candidate, with the number of its triplet in the sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    pub triplet: u32,
    pub scores: Scores,
    pub kept: bool,
}

/// Scored candidates of whole triplets.
#[derive(Debug, Default)]
pub struct Sample {
    pub scored: Vec<Scored>,
    pub triplets: u32,
    /// Partitions that were read, of those that are committed.
    pub partitions: usize,
    pub of: usize,
    /// Instructions of triplets, the most frequent first.
    pub edits: Vec<(String, u64)>,
    /// Their words, and how many triplets have each.
    pub words: Vec<(String, u64)>,
}

/// What thresholds keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    pub pairs: u64,
    /// Triplets with at least one of them.
    pub triplets: u64,
}

/// The sample as the page's script reads it: columns of equal length.
#[derive(Debug, Serialize)]
pub struct Columns {
    triplet: Vec<u32>,
    text: Vec<f64>,
    direction: Vec<f64>,
    image: Vec<f64>,
}

impl Sample {
    /// What the filter would keep of the sample: the candidates of a triplet that reach every threshold, but no more
    /// than `keep`.
    pub fn kept(&self, filter: &Filter) -> Kept {
        let passes = |s: &Scores| {
            s.clip_sim_0.min(s.clip_sim_1) >= filter.clip_text
                && s.clip_sim_dir >= filter.clip_direction
                && s.clip_sim_image >= filter.clip_image
        };
        let mut passing: HashMap<u32, u32> = HashMap::new();
        for scored in self.scored.iter().filter(|scored| passes(&scored.scores)) {
            *passing.entry(scored.triplet).or_default() += 1;
        }
        let pairs = passing.values().map(|n| u64::from((*n).min(filter.keep))).sum();
        Kept { pairs, triplets: if filter.keep == 0 { 0 } else { passing.len() as u64 } }
    }

    pub fn whole(&self) -> bool {
        self.partitions == self.of
    }

    /// Points for the scatter, kept ones last.
    pub fn points(&self) -> Vec<Point> {
        let point =
            |scored: &Scored| Point { image: scored.scores.clip_sim_image, direction: scored.scores.clip_sim_dir, kept: scored.kept };
        let some = |kept: bool| {
            let all: Vec<Point> = self.scored.iter().filter(|scored| scored.kept == kept).map(point).collect();
            let step = all.len().div_ceil(POINTS).max(1);
            all.into_iter().step_by(step)
        };
        some(false).chain(some(true)).collect()
    }

    pub fn columns(&self) -> Columns {
        let all = |value: fn(&Scores) -> f64| self.scored.iter().map(|scored| value(&scored.scores)).collect();
        Columns {
            triplet: self.scored.iter().map(|scored| scored.triplet).collect(),
            text: all(|s| s.clip_sim_0.min(s.clip_sim_1)),
            direction: all(|s| s.clip_sim_dir),
            image: all(|s| s.clip_sim_image),
        }
    }
}

/// Counts of `values` in [`BINS`] equal steps from the least to the largest, and those two.
pub fn distribution(values: &[f64]) -> Option<([u64; BINS], f64, f64)> {
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    if !(low.is_finite() && high.is_finite()) {
        return None;
    }
    let mut bins = [0; BINS];
    let width = ((high - low) / BINS as f64).max(f64::MIN_POSITIVE);
    for value in values {
        bins[(((value - low) / width) as usize).min(BINS - 1)] += 1;
    }
    Some((bins, low, high))
}

/// Makes samples, and keeps the last.
#[derive(Default)]
pub struct Quality {
    last: Mutex<Option<(Instant, usize, Arc<Sample>)>>,
}

impl Quality {
    pub async fn sample(&self, tables: &Tables) -> Result<Arc<Sample>> {
        let mut last = self.last.lock().await;
        let newest = tables.newest().await?;
        if let Some((at, of, sample)) = &*last
            && (*of == newest.len() || at.elapsed() < FRESH)
        {
            return Ok(sample.clone());
        }
        let mut gathered = Gathered::default();
        // Evenly spread, so that early and late ones are there.
        let step = newest.len().div_ceil(PARTITIONS).max(1);
        for committed in newest.iter().step_by(step) {
            if gathered.sample.scored.len() >= CANDIDATES {
                break;
            }
            gathered.add(&tables.rows(committed.partition).await?);
        }
        let sample = Arc::new(gathered.finish(newest.len()));
        *last = Some((Instant::now(), newest.len(), sample.clone()));
        Ok(sample)
    }
}

#[derive(Default)]
struct Gathered {
    sample: Sample,
    triplets: HashMap<TripletId, u32>,
    edits: HashMap<String, u64>,
    words: HashMap<String, u64>,
}

impl Gathered {
    fn add(&mut self, rows: &[IndexRow]) {
        self.sample.partitions += 1;
        for row in rows {
            let next = self.triplets.len() as u32;
            let triplet = *self.triplets.entry(row.candidate.triplet).or_insert(next);
            if triplet == next {
                self.text(&row.edit);
            }
            if matches!(row.verdict, Verdict::Quarantined(_)) {
                continue;
            }
            let kept = row.verdict == Verdict::Kept;
            self.sample.scored.extend(row.scores.map(|scores| Scored { triplet, scores, kept }));
        }
    }

    fn text(&mut self, edit: &str) {
        let edit = edit.trim().to_lowercase();
        let words: HashSet<&str> =
            edit.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().count() > 2 && !FUNCTION_WORDS.contains(word)).collect();
        for word in words {
            *self.words.entry(word.to_string()).or_default() += 1;
        }
        *self.edits.entry(edit).or_default() += 1;
    }

    fn finish(mut self, of: usize) -> Sample {
        self.sample.of = of;
        self.sample.triplets = self.triplets.len() as u32;
        self.sample.edits = frequent(self.edits);
        self.sample.words = frequent(self.words);
        self.sample
    }
}

fn frequent(counted: HashMap<String, u64>) -> Vec<(String, u64)> {
    let mut counted: Vec<(String, u64)> = counted.into_iter().collect();
    counted.sort_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
    counted.truncate(FREQUENT);
    counted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{CANDIDATES, Fixture, KEPT};
    use ip2p_pipeline::records::{Candidate, ScoredCandidate};
    use ip2p_pipeline::selection::judge;
    use proptest::prelude::*;

    #[tokio::test]
    async fn the_run_s_own_thresholds_keep_what_it_kept() {
        let fixture = Fixture::finished().await;
        let tables = Tables::new(&fixture.store, &fixture.plan);
        let sample = Quality::default().sample(&tables).await.unwrap();
        assert_eq!((sample.scored.len() as u64, sample.triplets, sample.whole()), (CANDIDATES - 1, 4, true));
        assert_eq!(sample.kept(&fixture.plan.spec.stages.filter), Kept { pairs: KEPT, triplets: 4 });
        assert_eq!(sample.edits, [("make it <blue>".to_string(), 4)]);
        assert_eq!(sample.words, [("blue".to_string(), 4), ("make".to_string(), 4)]);
        assert_eq!(sample.points().len() as u64, CANDIDATES - 1);
    }

    #[test]
    fn distributions_hold_every_value() {
        let (bins, low, high) = distribution(&[0.5, -0.25, 0.25, 0.5]).unwrap();
        assert_eq!((bins[0], bins[BINS - 1], bins.iter().sum::<u64>(), low, high), (1, 2, 4, -0.25, 0.5));
        assert_eq!(distribution(&[1.0; 3]).unwrap().0.iter().sum::<u64>(), 3);
        assert_eq!(distribution(&[]), None);
    }

    proptest! {
        /// The count is what the filter itself keeps.
        #[test]
        fn the_count_is_the_filter_s(
            triplets in prop::collection::vec(prop::collection::vec([0.0..1.0, 0.0..1.0, 0.0..1.0, 0.0..1.0], 0..9), 0..12),
            thresholds in [0.0..1.0, 0.0..1.0, 0.0..1.0], keep in 0u32..4,
        ) {
            let [clip_text, clip_direction, clip_image] = thresholds;
            let filter = Filter { clip_text, clip_direction, clip_image, keep };
            let (mut sample, mut expected) = (Sample::default(), Kept { pairs: 0, triplets: 0 });
            for (number, candidates) in (0..).zip(&triplets) {
                let scored: Vec<ScoredCandidate> = (0..).zip(candidates).map(|(seed, &[clip_sim_0, clip_sim_1, clip_sim_dir, clip_sim_image])| {
                    let candidate = Candidate { triplet: TripletId::of("a", "b", "c"), sample: 0, seed, p2p_threshold: 0.5, cfg_scale: 7.5 };
                    let scores = Scores { clip_sim_0, clip_sim_1, clip_sim_dir, clip_sim_image };
                    ScoredCandidate { candidate, scores: Some(scores), error: None, images: None }
                }).collect();
                let kept = judge(&scored, &filter).iter().filter(|verdict| **verdict == Verdict::Kept).count() as u64;
                expected.pairs += kept;
                expected.triplets += u64::from(kept > 0);
                sample.scored.extend(scored.iter().filter_map(|s| Some(Scored { triplet: number, scores: s.scores?, kept: false })));
            }
            prop_assert_eq!(sample.kept(&filter), expected);
        }
    }
}
