//! The candidates of one triplet while they are drawn: scores of all, pixels only of those that may be kept.

use crate::draw::Finished;
use crate::failure::{Result, failure};
use crate::images;
use ip2p_pipeline::records::{Candidate, ScoredCandidate, Verdict};
use ip2p_pipeline::selection;
use ip2p_pipeline::spec::{Filter, ImageFormat};
use ip2p_pipeline::task::Cause;

/// Encoded images before and after.
pub(super) type Encoded = [Vec<u8>; 2];

pub(super) struct Pool {
    filter: Filter,
    keep_all: bool,
    scored: Vec<ScoredCandidate>,
    pixels: Vec<Option<[images::Rgb8; 2]>>,
}

impl Pool {
    pub fn new(filter: &Filter, keep_all: bool) -> Self {
        Pool { filter: filter.clone(), keep_all, scored: Vec::new(), pixels: Vec::new() }
    }

    /// Adds a batch, and drops the pixels of candidates that can no longer be among the best.
    pub fn add(&mut self, batch: Vec<Finished>) {
        for Finished { candidate, scores, pixels } in batch {
            self.scored.push(ScoredCandidate { candidate, scores: Some(scores), error: None, images: None });
            self.pixels.push(Some(pixels));
        }
        if !self.keep_all {
            let verdicts = selection::judge(&self.scored, &self.filter);
            let dropped = self.pixels.iter_mut().zip(verdicts).filter(|(_, verdict)| *verdict != Verdict::Kept);
            dropped.for_each(|(pixels, _)| *pixels = None);
        }
    }

    /// How many candidates pass so far.
    pub fn kept(&self) -> u64 {
        selection::judge(&self.scored, &self.filter).iter().filter(|verdict| **verdict == Verdict::Kept).count() as u64
    }

    /// Every candidate with its scores, and the images of those still in the race.
    pub fn finish(self, format: ImageFormat) -> Result<Vec<(ScoredCandidate, Option<Encoded>)>> {
        let encode = |[before, after]: [images::Rgb8; 2]| Ok([encode(&before, format)?, encode(&after, format)?]);
        let pairs = self.scored.into_iter().zip(self.pixels);
        pairs.map(|(scored, pixels)| Ok((scored, pixels.map(encode).transpose()?))).collect()
    }
}

fn encode(image: &images::Rgb8, format: ImageFormat) -> Result<Vec<u8>> {
    image.encode(format).map_err(|e| failure(Cause::Bug, format!("image encoder: {e}")))
}

/// One image that is not finite is its candidate's misfortune; a whole batch of them is a failure of the models.
pub(super) fn some_finite(batch: Vec<Finished>) -> Result<Vec<Finished>> {
    match batch.iter().all(|finished| finished.scores.clip_sim_dir.is_nan()) {
        true => Err(failure(Cause::Bug, "no image of the batch is finite")),
        false => Ok(batch),
    }
}

/// Candidates that could not be drawn, with the error.
pub(super) fn all_failed(candidates: impl Iterator<Item = Candidate>, error: &str) -> Vec<(ScoredCandidate, Option<Encoded>)> {
    candidates.map(|candidate| (ScoredCandidate { candidate, scores: None, error: Some(error.to_string()), images: None }, None)).collect()
}
