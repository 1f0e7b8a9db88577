//! The records that flow from stage to stage.

use crate::ids::{CaptionId, PairId, TripletId};
use crate::rng::{Purpose, Stream};
use crate::spec::{Pairs, Range};
use serde::{Deserialize, Serialize};

/// One usable row of the corpus. With the `file` backend of `prompts` it already carries its edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusRecord {
    pub caption: String,
    pub url: Option<String>,
    /// Edit instruction and edited caption, when the corpus is a file of triplets.
    pub edit: Option<Edit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The edit instruction.
    pub edit: String,
    /// The edited caption.
    pub output: String,
}

impl CorpusRecord {
    pub fn id(&self) -> CaptionId {
        CaptionId::of(&self.caption)
    }
}

/// (caption, edit instruction, edited caption): what the language model wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Triplet {
    pub id: TripletId,
    pub caption: String,
    pub edit: String,
    pub output: String,
    pub url: Option<String>,
}

impl Triplet {
    pub fn new(caption: String, edit: String, output: String, url: Option<String>) -> Self {
        let id = TripletId::of(&caption, &edit, &output);
        Triplet { id, caption, edit, output, url }
    }
}

/// A completion of the language model that gave no triplet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedCompletion {
    pub caption_id: CaptionId,
    pub caption: String,
    /// Which of the caption's `per_caption` completions.
    pub number: u32,
    /// A word of [`crate::completion::Rejection`].
    pub reason: String,
    /// The raw text of the last attempt.
    pub completion: String,
}

/// One draw for a triplet: everything that, with the models, decides the two images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub triplet: TripletId,
    pub sample: u32,
    /// Names the pair in the released formats; below 2^48.
    pub seed: u64,
    /// Share of the steps during which self-attention is shared, in [0, 1].
    pub p2p_threshold: f64,
    /// Classifier-free guidance scale.
    pub cfg_scale: f64,
}

impl Candidate {
    /// The `sample`-th draw of a triplet: a pure function of its arguments.
    pub fn draw(run_seed: u64, triplet: TripletId, sample: u32, pairs: &Pairs) -> Self {
        let stream = |purpose| Stream::new(run_seed, triplet, sample, purpose);
        let within = |range: Range, purpose| stream(purpose).uniform_in(range.min, range.max);
        Candidate {
            triplet,
            sample,
            seed: stream(Purpose::Seed).next_u64() >> 16,
            p2p_threshold: within(pairs.p2p, Purpose::P2pThreshold),
            cfg_scale: within(pairs.guidance, Purpose::Guidance),
        }
    }

    pub fn pair_id(&self) -> PairId {
        PairId::of(self.triplet, self.sample)
    }
}

/// The four CLIP similarities of the original, each a cosine in [-1, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// First image with the caption.
    pub clip_sim_0: f64,
    /// Second image with the edited caption.
    pub clip_sim_1: f64,
    /// Change of the image with the change of the text.
    pub clip_sim_dir: f64,
    /// First image with the second.
    pub clip_sim_image: f64,
}

/// Where the bytes of one encoded image lie in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// Key of the object, relative to the run's prefix.
    pub object: String,
    pub offset: u64,
    pub length: u64,
    /// The first 16 hex digits of the BLAKE3 of the bytes, as a number.
    pub checksum: u64,
}

impl ImageRef {
    /// Describes `image`, whose bytes lie at `offset` of `object`.
    pub fn describe(object: &str, offset: u64, image: &[u8]) -> Self {
        ImageRef { object: object.to_string(), offset, length: image.len() as u64, checksum: checksum(image) }
    }

    /// The range of the object's bytes.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.offset..self.offset.saturating_add(self.length)
    }

    /// Whether `bytes` are the image that was described.
    pub fn describes(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.length && checksum(bytes) == self.checksum
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What became of one candidate in the `pairs` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredCandidate {
    pub candidate: Candidate,
    /// `None` when `error` says why the candidate could not be drawn or scored.
    pub scores: Option<Scores>,
    pub error: Option<String>,
    /// Before and after, when the images were stored.
    pub images: Option<[ImageRef; 2]>,
}

/// The verdict of the `filter` stage on one candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Kept,
    /// Below a threshold, or better ones filled `keep`.
    Rejected(RejectReason),
    /// It could not be drawn or scored; the text is the error.
    Quarantined(String),
}

/// The first rule that a rejected candidate failed, in the order of the original's checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// clip_sim_0 or clip_sim_1 below `clip_text`.
    TextSimilarity,
    /// clip_sim_dir below `clip_direction`.
    DirectionSimilarity,
    /// clip_sim_image below `clip_image`.
    ImageSimilarity,
    /// It passed, but `keep` better ones did too.
    NotAmongBest,
}

impl RejectReason {
    pub const ALL: [RejectReason; 4] =
        [RejectReason::TextSimilarity, RejectReason::DirectionSimilarity, RejectReason::ImageSimilarity, RejectReason::NotAmongBest];

    pub fn name(self) -> &'static str {
        match self {
            RejectReason::TextSimilarity => "text_similarity",
            RejectReason::DirectionSimilarity => "direction_similarity",
            RejectReason::ImageSimilarity => "image_similarity",
            RejectReason::NotAmongBest => "not_among_best",
        }
    }
}

/// One row of the `filter` stage's output and of the index: a candidate and its verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexRow {
    pub pair: PairId,
    pub caption: String,
    pub edit: String,
    pub output: String,
    pub url: Option<String>,
    pub candidate: Candidate,
    pub scores: Option<Scores>,
    pub verdict: Verdict,
    pub images: Option<[ImageRef; 2]>,
}

/// What a sample of a WebDataset or Parquet shard says of its pair, besides the images. Fields have the names of the
/// columns and keys of those formats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardRow {
    pub pair_id: PairId,
    pub original_prompt: String,
    pub edit_prompt: String,
    pub edited_prompt: String,
    pub p2p_threshold: f64,
    pub cfg_scale: f64,
    pub clip_sim_0: f64,
    pub clip_sim_1: f64,
    pub clip_sim_dir: f64,
    pub clip_sim_image: f64,
}

impl ShardRow {
    /// What the shards have to say of a pair; `None` when it has no scores.
    pub fn of(row: &IndexRow) -> Option<Self> {
        let Scores { clip_sim_0, clip_sim_1, clip_sim_dir, clip_sim_image } = row.scores?;
        Some(ShardRow {
            pair_id: row.pair,
            original_prompt: row.caption.clone(),
            edit_prompt: row.edit.clone(),
            edited_prompt: row.output.clone(),
            p2p_threshold: row.candidate.p2p_threshold,
            cfg_scale: row.candidate.cfg_scale,
            clip_sim_0,
            clip_sim_1,
            clip_sim_dir,
            clip_sim_image,
        })
    }
}

/// A record that could not be processed, with the error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Id of the caption or triplet.
    pub record: String,
    pub error: String,
}
