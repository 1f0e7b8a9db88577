//! `pipeline.yaml`: parsed into a tree with places (`yaml`), changed by `--set` (`overrides`), validated into
//! [`Spec`] by the schema (`keys`) and the rules between keys (`rules`).
//!
//! [`Spec`] holds only valid values: whoever has one need not check again.

mod diagnostics;
mod files;
mod keys;
mod kinds;
mod kubernetes;
mod load;
mod objects;
mod overrides;
mod references;
mod rules;
mod section;
#[cfg(test)]
mod tests;
mod yaml;

pub use diagnostics::{Diagnostic, Diagnostics, is_secret};
pub use files::{Disk, Files, Unchecked};
pub use kubernetes::{Capacity, Jobs, Kubernetes, MOST_JOBS, PodTemplate, StageJobs};
pub use load::reference;
pub use section::{KeyDoc, Presence};

use crate::store::StoreOptions;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A validated pipeline. It contains no secret: keys are named by environment variable only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub name: String,
    pub seed: u64,
    /// URL of the object store's prefix, e.g. `file:///data/out` or `s3://bucket/prefix`.
    pub store: String,
    /// How to reach `store`; absent in plans of older versions.
    #[serde(default)]
    pub store_options: StoreOptions,
    pub corpus: Corpus,
    pub partition: Partition,
    pub models: Models,
    pub stages: Stages,
    pub run: Run,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Corpus {
    /// Path, glob or store URL.
    pub path: String,
    /// Detected when `None`.
    pub caption_column: Option<String>,
    pub url_column: Option<String>,
    /// Read at most this many usable captions.
    pub limit: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// Corpus records per partition, at least 1.
    pub records: u32,
}

/// References to weights: a local path, a store URL or `hf://owner/name[@revision][/sub/folder]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Models {
    pub diffusion: String,
    /// Replaces the VAE of `diffusion`.
    pub vae: Option<String>,
    pub clip: String,
    /// Needed by `prompts: { backend: local }`.
    pub llm: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    pub prompts: Prompts,
    pub pairs: Pairs,
    pub filter: Filter,
    pub index: Index,
    pub shards: Shards,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompts {
    pub backend: PromptBackend,
    /// Completions asked for per caption.
    pub per_caption: u32,
    pub temperature: f64,
    pub top_p: f64,
    pub max_tokens: u32,
    pub frequency_penalty: f64,
    /// Completions tried until one passes the rules (the original: 4, one and three retries).
    pub attempts: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PromptBackend {
    /// The model `models.llm` in candle.
    Local,
    /// The corpus already holds triplets.
    File,
    /// An OpenAI-compatible server.
    OpenAi(OpenAi),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenAi {
    /// e.g. `https://api.openai.com/v1`.
    pub base_url: String,
    pub model: String,
    pub api: OpenAiApi,
    /// Name of the environment variable with the key; no key is sent when `None`.
    pub api_key_env: Option<String>,
    /// Requests in flight per worker.
    pub concurrency: u32,
    #[serde(with = "seconds")]
    pub timeout: Duration,
    /// Retries of one request after 429, 5xx and cut connections.
    pub retries: u32,
    /// Moderation model, e.g. `omni-moderation-latest`; no moderation when `None`.
    pub moderation: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenAiApi {
    /// Chat completions with a JSON schema.
    Chat,
    /// Text completions with the original's delimiters.
    Completions,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pairs {
    /// Candidates drawn per triplet.
    pub samples: u32,
    pub steps: u32,
    pub sampler: Sampler,
    /// Range of the Prompt-to-Prompt threshold, within [0, 1].
    pub p2p: Range,
    /// Range of the guidance scale, at least 0.
    pub guidance: Range,
    /// Side of the square images in pixels.
    pub resolution: u32,
    /// Candidates of one triplet drawn in one batch. Part of the plan, because it can change the last bits.
    pub batch: u32,
    pub dtype: Dtype,
    /// Draw and filter in one stage; `false` stores every candidate's latents and scores them in `filter`.
    pub fuse: bool,
    /// Store the images of rejected candidates too.
    pub keep_rejected: bool,
    pub image: ImageFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    EulerAncestral,
    /// DPM-Solver++ (2M).
    #[serde(rename = "dpmpp_2m")]
    Dpmpp2m,
}

/// Precision of the models; `Auto` is f32 on a CPU and bf16 on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    Auto,
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub min: f64,
    pub max: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ImageFormat {
    /// Baseline JPEG, 4:2:0 as the original, quality 1..=100.
    Jpeg {
        quality: u8,
    },
    Png,
    /// Lossless WebP.
    Webp,
}

impl ImageFormat {
    /// File name extension, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            ImageFormat::Jpeg { .. } => "jpg",
            ImageFormat::Png => "png",
            ImageFormat::Webp => "webp",
        }
    }
}

/// Thresholds are inclusive, as in the original.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// Least clip_sim_0 and clip_sim_1.
    pub clip_text: f64,
    /// Least clip_sim_dir.
    pub clip_direction: f64,
    /// Least clip_sim_image.
    pub clip_image: f64,
    /// Most pairs kept per triplet.
    pub keep: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Index {}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shards {
    pub formats: Vec<ShardFormat>,
    pub split: Split,
    /// Target size of a shard file in bytes.
    pub shard_bytes: u64,
    pub columns: ColumnProfile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardFormat {
    Webdataset,
    Parquet,
    Original,
}

impl ShardFormat {
    pub fn name(self) -> &'static str {
        match self {
            ShardFormat::Webdataset => "webdataset",
            ShardFormat::Parquet => "parquet",
            ShardFormat::Original => "original",
        }
    }
}

/// Shares of the triplets; they sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    pub train: f64,
    pub val: f64,
    pub test: f64,
}

/// Which columns the Parquet shards have, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnProfile {
    /// original_prompt, original_image, edit_prompt, edited_prompt, edited_image.
    Timbrooks,
    /// input_image, edit_prompt, edited_image first, as the diffusers trainer expects.
    Diffusers,
}

/// How to run. Nothing here can change a byte of the dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub launcher: Launcher,
    pub workers: u32,
    /// CPU threads per worker; the machine's cores divided by the workers when `None`.
    pub threads: Option<u32>,
    pub device: Device,
    pub retry: Retry,
    /// Share of records in quarantine above which the run stops, in [0, 1].
    pub max_quarantined: f64,
    /// Least share of the pairs that could be kept (`keep` per triplet), in [0, 1]; below it the run stops.
    pub min_kept: f64,
    /// How long a worker may be silent before its lease ends.
    #[serde(with = "seconds")]
    pub lease: Duration,
    /// Most work that a kill can lose per worker.
    #[serde(with = "seconds")]
    pub chunk: Duration,
    /// Address the coordinator listens on.
    pub listen: String,
    /// How connections to that address are encrypted; plain text when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Needed by [`Launcher::Kubernetes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
}

/// Files of PEM by path: what is in them is read where it is used, and kept nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The coordinator's certificate, and after it those between it and its authority.
    pub cert: String,
    /// Its private key.
    pub key: String,
    /// Authorities of which one must have signed a worker's certificate; workers need none when `None`.
    pub client_ca: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Launcher {
    /// Worker processes on this machine.
    Local,
    /// Jobs of a cluster.
    Kubernetes,
    /// Workers connect by themselves.
    External,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    Auto,
    Cpu,
    Cuda,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Most attempts at one partition.
    pub attempts: u32,
    #[serde(with = "seconds")]
    pub backoff_min: Duration,
    #[serde(with = "seconds")]
    pub backoff_max: Duration,
}

/// Durations are stored as seconds.
pub(crate) mod seconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(d.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}
