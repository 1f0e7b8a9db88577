//! The batches in which the candidates of a triplet are drawn. They are the plan's, so that every attempt, and a later
//! redrawing of one candidate, computes the same bits.
//!
//! A batch is the record of the `pairs` stage: what one commit can hold at least.

use crate::spec::Pairs;
use std::ops::Range;

impl Pairs {
    /// Batches of one triplet.
    pub fn batches(&self) -> u32 {
        self.samples.div_ceil(self.batch.max(1))
    }

    /// The samples of batch `number` of a triplet.
    pub fn samples_of(&self, number: u32) -> Range<u32> {
        let start = number.saturating_mul(self.batch.max(1)).min(self.samples);
        start..start.saturating_add(self.batch.max(1)).min(self.samples)
    }

    /// The batch that holds `sample`.
    pub fn batch_of(&self, sample: u32) -> u32 {
        sample / self.batch.max(1)
    }

    /// Triplet and batch of a record of the `pairs` stage, both within their partition.
    pub fn record(&self, record: u64) -> (u64, u32) {
        let batches = u64::from(self.batches().max(1));
        (record / batches, (record % batches) as u32)
    }

    /// The records of a triplet.
    pub fn records_of(&self, triplet: u64) -> Range<u64> {
        let batches = u64::from(self.batches());
        triplet.saturating_mul(batches)..triplet.saturating_add(1).saturating_mul(batches)
    }

    /// Candidates of the partition before this record.
    pub fn candidates_before(&self, record: u64) -> u64 {
        let (triplet, batch) = self.record(record);
        triplet.saturating_mul(self.samples.into()).saturating_add(self.samples_of(batch).start.into())
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::{Spec, Unchecked};

    #[test]
    fn records_and_candidates_count_each_other() {
        let text = "version: 1\nname: x\nstore: file://./out\ncorpus: { path: c.jsonl }\nmodels: { diffusion: d, clip: c, llm: l }\n\
                    stages: { pairs: { samples: 7, batch: 3 } }\n";
        let pairs = Spec::parse(text, "p.yaml", &[], &Unchecked).unwrap().stages.pairs;
        assert_eq!(pairs.batches(), 3);
        assert_eq!([0, 1, 2, 3].map(|batch| pairs.samples_of(batch)), [0..3, 3..6, 6..7, 7..7]);
        assert_eq!([0, 2, 3, 6].map(|sample| pairs.batch_of(sample)), [0, 0, 1, 2]);
        assert_eq!([0, 2, 3, 7].map(|record| pairs.record(record)), [(0, 0), (0, 2), (1, 0), (2, 1)]);
        assert_eq!(pairs.records_of(2), 6..9);
        assert_eq!([0, 1, 2, 3, 4].map(|record| pairs.candidates_before(record)), [0, 3, 6, 7, 10]);
    }
}
