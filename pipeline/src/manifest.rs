//! Manifests: the description of finished output. Readers follow manifests only.

use crate::layout::Stage;
use crate::spec::Filter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One try at a partition. A later attempt has a larger epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Coordinator term in the upper 32 bits, number within the term in the lower.
    pub epoch: u64,
    pub worker: String,
}

impl Attempt {
    /// The coordinator term that the attempt was granted in.
    pub fn term(&self) -> u32 {
        (self.epoch >> 32) as u32
    }
}

/// A data object that belongs to the run because a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataObject {
    /// What it holds, e.g. `triplets`, `candidates`, `images`.
    pub role: String,
    /// Key relative to the run's prefix.
    pub key: String,
    pub bytes: u64,
    /// BLAKE3 of the bytes, 64 hex digits.
    pub blake3: String,
}

impl DataObject {
    pub fn describe(role: &str, key: String, data: &[u8]) -> Self {
        DataObject { role: role.to_string(), key, bytes: data.len() as u64, blake3: blake3::hash(data).to_hex().to_string() }
    }
}

/// Where every record went: `expected = output + rejected + quarantined`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Units that had to be accounted for: completions asked for, candidates, rows.
    pub expected: u64,
    /// Units that went on to the next stage.
    pub output: u64,
    /// Units turned away by a rule, by its name.
    #[serde(default)]
    pub rejected: BTreeMap<String, u64>,
    /// Units that could not be processed.
    #[serde(default)]
    pub quarantined: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        let add = |sum: &mut u64, n: u64| *sum = sum.saturating_add(n);
        add(&mut self.expected, other.expected);
        add(&mut self.output, other.output);
        add(&mut self.quarantined, other.quarantined);
        for (reason, n) in &other.rejected {
            add(self.rejected.entry(reason.clone()).or_default(), *n);
        }
    }

    pub fn reject(&mut self, reason: &str) {
        *self.rejected.entry(reason.to_string()).or_default() += 1;
    }

    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The accounting identity that `audit` proves.
    pub fn balanced(&self) -> bool {
        let parts = self.output.checked_add(self.rejected_total()).and_then(|sum| sum.checked_add(self.quarantined));
        parts == Some(self.expected)
    }
}

/// The commit of input records `start..end` of a partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkManifest {
    pub stage: Stage,
    pub partition: u32,
    /// First input record of the chunk, counted within the partition.
    pub start: u64,
    /// One past its last input record.
    pub end: u64,
    pub attempt: Attempt,
    pub counts: Counts,
    pub objects: Vec<DataObject>,
    /// Seconds of work in this chunk.
    pub seconds: f64,
    /// Further figures of the stage, such as token counts.
    #[serde(default)]
    pub figures: BTreeMap<String, f64>,
    /// The thresholds that chose which images were stored: the plan's may be others by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_by: Option<Filter>,
}

/// The commit of a whole partition: its chunks, in order and without gaps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionManifest {
    pub stage: Stage,
    pub partition: u32,
    /// Input records of the partition.
    pub records: u64,
    pub attempt: Attempt,
    pub chunks: Vec<ChunkManifest>,
}

impl PartitionManifest {
    pub fn counts(&self) -> Counts {
        let mut total = Counts::default();
        self.chunks.iter().for_each(|chunk| total.add(&chunk.counts));
        total
    }

    pub fn seconds(&self) -> f64 {
        self.chunks.iter().map(|chunk| chunk.seconds).sum()
    }

    /// Sums of the chunks' figures.
    pub fn figures(&self) -> BTreeMap<String, f64> {
        let mut total = BTreeMap::new();
        for (name, value) in self.chunks.iter().flat_map(|chunk| &chunk.figures) {
            *total.entry(name.clone()).or_default() += value;
        }
        total
    }

    /// Objects of one role, in the order of their chunks.
    pub fn objects<'a>(&'a self, role: &'a str) -> impl Iterator<Item = &'a DataObject> {
        self.chunks.iter().flat_map(|chunk| &chunk.objects).filter(move |object| object.role == role)
    }
}

/// The figure of the index manifest that says how many partitions the `shards` stage has.
pub const SHARDS_FIGURE: &str = "shards";

/// How many partitions the `shards` stage has, by the figures of an index of `kept` pairs. `None` when no index says
/// that: each of three formats has at most a shard for every pair, and one more.
pub fn shards_of(figures: &BTreeMap<String, f64>, kept: u64) -> Option<u32> {
    let shards = figures.get(SHARDS_FIGURE).copied().unwrap_or(0.0);
    let most = kept.saturating_add(1).saturating_mul(4) as f64;
    ((0.0..=most).contains(&shards) && shards <= f64::from(u32::MAX)).then_some(shards as u32)
}

/// What data objects hold: their roles in manifests.
pub mod role {
    pub const TRIPLETS: &str = "triplets";
    pub const REJECTED: &str = "rejected";
    pub const QUARANTINE: &str = "quarantine";
    pub const CANDIDATES: &str = "candidates";
    /// Encoded images in a tar file.
    pub const IMAGES: &str = "images";
    /// Final latents in a safetensors file: the unfused form of candidates.
    pub const LATENTS: &str = "latents";
    /// Candidates with their verdicts.
    pub const SELECTION: &str = "selection";
    /// Every verdict of the run.
    pub const INDEX: &str = "index";
    /// The rows of the index that were kept.
    pub const KEPT: &str = "kept";
    /// A file of the dataset.
    pub const SHARD: &str = "shard";
    /// What a run writes at its end: the dataset's card and figures, and the report.
    pub const CLOSING: &str = "closing";
}
