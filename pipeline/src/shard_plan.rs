//! Which pair goes into which shard: a pure function of the kept pairs, the run seed and the spec.
//!
//! The order knows nothing of partitions. Triplets are sorted by a random number keyed by their id and numbered
//! 0, 1, ...: these are the folder numbers of the original layout. Contiguous ranges of them are the splits, so
//! that no triplet is in two splits, and the original's own loader, which slices `seeds.json` by position, finds
//! the same splits. Within a split the pairs of WebDataset and Parquet are shuffled again, each by its own id.
//!
//! A plan of 1.2 million pairs peaks below 200 MB; every worker can make it on its own from the index.

#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::formats::original;
use crate::ids::{PairId, TripletId};
use crate::records::{IndexRow, Verdict};
use crate::rng::{Purpose, Stream};
use crate::spec::{ShardFormat, Shards, Split};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Most bytes that one pair adds to a shard beyond its images and texts: four tar headers, their padding and
/// the scores as JSON.
const PAIR_OVERHEAD: u64 = 5120;

/// Folder names have seven digits and the original's loader sorts them as text.
const MOST_TRIPLETS: u32 = 10_000_000;

/// A part of the data set, under the name that Hugging Face `datasets` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitName {
    Train,
    Validation,
    Test,
}

impl SplitName {
    pub const ALL: [SplitName; 3] = [SplitName::Train, SplitName::Validation, SplitName::Test];

    pub fn name(self) -> &'static str {
        match self {
            SplitName::Train => "train",
            SplitName::Validation => "validation",
            SplitName::Test => "test",
        }
    }
}

/// What the plan needs to know of a kept pair.
#[derive(Clone, Debug)]
pub struct KeptPair {
    pub pair: PairId,
    pub triplet: TripletId,
    pub seed: u64,
    /// Position among the kept rows of the index.
    pub row: u32,
    /// Bytes of both images and all texts.
    pub bytes: u64,
}

impl KeptPair {
    /// The pair of an index row; `None` unless it was kept. Fails when a kept row has no images.
    pub fn of(position: u32, row: &IndexRow) -> Result<Option<Self>> {
        if row.verdict != Verdict::Kept {
            return Ok(None);
        }
        let Some(images) = &row.images else {
            return Err(Error::format("index", format!("pair {} was kept, but the row does not say where its images are", row.pair)));
        };
        let texts = row.caption.len() + row.edit.len() + row.output.len() + row.url.as_ref().map_or(0, String::len);
        let bytes = images.iter().map(|image| image.length).sum::<u64>() + texts as u64;
        Ok(Some(KeptPair { pair: row.pair, triplet: row.candidate.triplet, seed: row.candidate.seed, row: position, bytes }))
    }
}

/// One unit of work of the `shards` stage; any worker can do any of them alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardTask {
    /// One WebDataset or Parquet file.
    File {
        format: ShardFormat,
        split: SplitName,
        /// Relative to the root of the data set, e.g. `data/train-00000-of-00012.parquet`.
        path: String,
        /// Positions in the shuffled order: argument of [`ShardPlan::samples`].
        pairs: Range<usize>,
    },
    /// Folders of the original layout, below `original/`.
    Folders {
        /// Positions in the order of folders: argument of [`ShardPlan::folders`].
        pairs: Range<usize>,
    },
    /// `original/seeds.json`: [`ShardPlan::seeds_json`].
    Seeds,
}

impl ShardTask {
    /// Pairs that this task writes; 0 for the list of seeds.
    pub fn len(&self) -> usize {
        match self {
            ShardTask::File { pairs, .. } | ShardTask::Folders { pairs } => pairs.len(),
            ShardTask::Seeds => 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A triplet's folder in the original layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Seven digits.
    pub name: String,
    /// Positions of its pairs among the kept rows of the index.
    pub rows: Vec<u32>,
}

/// Triplets and pairs of one split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitCount {
    pub split: SplitName,
    pub triplets: u64,
    pub pairs: u64,
}

/// A pair in one of the two orders of the plan.
#[derive(Clone, Copy, Debug)]
struct Planned {
    row: u32,
    folder: u32,
    seed: u64,
    bytes: u64,
}

/// The order of all pairs and the tasks that write them.
#[derive(Debug)]
pub struct ShardPlan {
    /// By folder.
    by_folder: Vec<Planned>,
    /// Split after split, shuffled within each.
    shuffled: Vec<Planned>,
    splits: Vec<SplitCount>,
    tasks: Vec<ShardTask>,
}

impl ShardPlan {
    /// Plans the shards of `pairs`, which may come in any order. Fails when a pair comes twice, or when there are
    /// more triplets than folder names.
    pub fn new(pairs: Vec<KeptPair>, run_seed: u64, spec: &Shards) -> Result<Self> {
        let mut keyed: Vec<Keyed> = pairs.into_iter().map(|pair| Keyed::new(pair, run_seed)).collect();
        keyed.sort_unstable_by_key(Keyed::folder_order);
        let folders = number_folders(&mut keyed)?;
        let by_folder: Vec<Planned> = keyed.iter().map(|keyed| keyed.planned).collect();

        let mut plan = ShardPlan { by_folder, shuffled: Vec::new(), splits: Vec::new(), tasks: Vec::new() };
        for (split, folders) in SplitName::ALL.into_iter().zip(split_ranges(folders, &spec.split)) {
            let pairs = plan.pairs_of(folders.clone());
            let count = SplitCount { split, triplets: folders.len() as u64, pairs: pairs.len() as u64 };
            keyed[pairs].sort_unstable_by_key(Keyed::shuffled_order);
            plan.splits.push(count);
        }
        plan.shuffled = keyed.iter().map(|keyed| keyed.planned).collect();
        for format in &spec.formats {
            let tasks = match format {
                ShardFormat::Original => plan.folder_tasks(folders, spec.shard_bytes),
                ShardFormat::Webdataset | ShardFormat::Parquet => plan.file_tasks(*format, spec.shard_bytes),
            };
            plan.tasks.extend(tasks);
        }
        Ok(plan)
    }

    /// All tasks, in a fixed order.
    pub fn tasks(&self) -> &[ShardTask] {
        &self.tasks
    }

    /// Triplets and pairs of the three splits, empty ones included.
    pub fn splits(&self) -> &[SplitCount] {
        &self.splits
    }

    /// The samples of a [`ShardTask::File`], in order: number within the data set (the sample's key) and position
    /// among the kept rows of the index.
    pub fn samples(&self, pairs: &Range<usize>) -> impl Iterator<Item = (u64, u32)> {
        let planned = self.shuffled.get(pairs.clone()).unwrap_or_default();
        planned.iter().zip(pairs.start as u64..).map(|(pair, number)| (number, pair.row))
    }

    /// The folders of a [`ShardTask::Folders`], in order.
    pub fn folders(&self, pairs: &Range<usize>) -> impl Iterator<Item = Folder> {
        let planned = self.by_folder.get(pairs.clone()).unwrap_or_default();
        planned
            .chunk_by(|a, b| a.folder == b.folder)
            .map(|pairs| Folder { name: folder_name(pairs[0].folder), rows: pairs.iter().map(|pair| pair.row).collect() })
    }

    /// The text of `original/seeds.json`: every folder with the seeds of its pairs.
    pub fn seeds_json(&self) -> String {
        let folders = self.by_folder.chunk_by(|a, b| a.folder == b.folder);
        original::seeds_json(folders.map(|pairs| (folder_name(pairs[0].folder), pairs.iter().map(|pair| pair.seed.to_string()).collect())))
    }

    /// The pairs of a range of folders, as positions in either order.
    fn pairs_of(&self, folders: Range<u32>) -> Range<usize> {
        let position = |folder| self.by_folder.partition_point(|pair| pair.folder < folder);
        position(folders.start)..position(folders.end)
    }

    /// Fills the files of a format one after the other; none holds pairs of two splits.
    fn file_tasks(&self, format: ShardFormat, shard_bytes: u64) -> Vec<ShardTask> {
        let mut tasks = Vec::new();
        let mut start = 0;
        for count in &self.splits {
            let end = start + count.pairs as usize;
            let files = fill(&self.shuffled[start..end], shard_bytes);
            let of = files.len();
            tasks.extend(files.into_iter().enumerate().map(|(number, range)| ShardTask::File {
                format,
                split: count.split,
                path: file_path(format, count.split, number, of),
                pairs: start + range.start..start + range.end,
            }));
            start = end;
        }
        tasks
    }

    /// Equal ranges of folders, about `shard_bytes` each, and the list of seeds.
    fn folder_tasks(&self, folders: u32, shard_bytes: u64) -> Vec<ShardTask> {
        let bytes: u64 = self.by_folder.iter().map(|pair| pair.bytes).sum();
        let parts = u32::try_from(bytes.div_ceil(shard_bytes.max(1))).unwrap_or(u32::MAX).clamp(1, folders.max(1));
        let ranges = even_ranges(folders, parts).map(|folders| self.pairs_of(folders)).filter(|pairs| !pairs.is_empty());
        ranges.map(|pairs| ShardTask::Folders { pairs }).chain([ShardTask::Seeds]).collect()
    }
}

/// A pair with what it is sorted by.
struct Keyed {
    triplet_key: u64,
    triplet: TripletId,
    pair_key: u64,
    pair: PairId,
    planned: Planned,
}

impl Keyed {
    fn new(pair: KeptPair, run_seed: u64) -> Self {
        let key = |id: &[u8; 16]| Stream::keyed(run_seed, id, 0, Purpose::Shuffle).next_u64();
        Keyed {
            triplet_key: key(pair.triplet.bytes()),
            triplet: pair.triplet,
            pair_key: key(pair.pair.bytes()),
            pair: pair.pair,
            planned: Planned { row: pair.row, folder: 0, seed: pair.seed, bytes: pair.bytes.saturating_add(PAIR_OVERHEAD) },
        }
    }

    fn folder_order(&self) -> (u64, TripletId, u64, PairId) {
        (self.triplet_key, self.triplet, self.pair_key, self.pair)
    }

    fn shuffled_order(&self) -> (u64, PairId) {
        (self.pair_key, self.pair)
    }
}

/// Numbers the triplets of sorted pairs from 0 on; returns how many there are.
fn number_folders(sorted: &mut [Keyed]) -> Result<u32> {
    let mut folders = 0;
    for pairs in sorted.chunk_by_mut(|a, b| a.triplet == b.triplet) {
        if let Some(twice) = pairs.windows(2).find(|two| two[0].pair == two[1].pair) {
            return Err(Error::format("index", format!("pair {} is there twice", twice[0].pair)));
        }
        if folders == MOST_TRIPLETS {
            return Err(Error::invalid(format!("more than {MOST_TRIPLETS} triplets in one data set: split the corpus into several runs")));
        }
        pairs.iter_mut().for_each(|pair| pair.planned.folder = folders);
        folders += 1;
    }
    Ok(folders)
}

/// Train, validation and test of `n` triplets: the original's slices, floor(share * n) with the shares added
/// first, in f64 (`edit_dataset.py` of timothybrooks/instruct-pix2pix). Together they are `0..n`.
pub fn split_ranges(n: u32, split: &Split) -> [Range<u32>; 3] {
    // Shares lie in [0, 1], so the products fit; the cast is the floor.
    let position = |share: f64| ((share * f64::from(n)) as u32).min(n);
    let (train, val) = (position(split.train), position(split.train + split.val));
    [0..train, train..val, val..n]
}

/// `n` items in `parts` ranges that differ by at most one in length, longer ones first: numpy's `array_split`,
/// by which the original divides its prompts. No range when there are no parts.
pub fn even_ranges(n: u32, parts: u32) -> impl Iterator<Item = Range<u32>> {
    let (size, longer) = (n / parts.max(1), n % parts.max(1));
    let start = move |part: u32| part * size + part.min(longer);
    (0..parts).map(move |part| start(part)..start(part + 1))
}

/// Consecutive ranges of at most `shard_bytes` each, or of one pair that is larger alone.
fn fill(pairs: &[Planned], shard_bytes: u64) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0u64;
    for (i, pair) in pairs.iter().enumerate() {
        bytes = bytes.saturating_add(pair.bytes);
        match ranges.last_mut() {
            Some(range) if bytes <= shard_bytes => range.end = i + 1,
            _ => {
                ranges.push(i..i + 1);
                bytes = pair.bytes;
            }
        }
    }
    ranges
}

fn folder_name(number: u32) -> String {
    format!("{number:07}")
}

/// Where a file lies in the data set. Hugging Face `datasets` finds the split in the name.
fn file_path(format: ShardFormat, split: SplitName, number: usize, of: usize) -> String {
    let split = split.name();
    match format {
        ShardFormat::Parquet => format!("data/{split}-{number:05}-of-{of:05}.parquet"),
        ShardFormat::Webdataset | ShardFormat::Original => format!("{}/{split}-{number:06}.tar", format.name()),
    }
}
