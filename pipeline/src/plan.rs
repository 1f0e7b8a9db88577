//! The plan: which stages write where, frozen before the first worker starts.
//!
//! Each stage has a fingerprint of everything that can change its output, upstream included. It names the
//! stage's folder, so that a changed spec redoes exactly the stages whose output it changes: new filter
//! thresholds leave `prompts` and `pairs` alone, a new seed redoes all.

use crate::error::{Error, Result};
use crate::ids::Fingerprint;
use crate::layout::{Stage, StageDir};
use crate::spec::{Models, PromptBackend, Spec};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::ops::Range;

/// Raised when a stage's algorithm changes in a way that changes its output, or where it lies.
const STAGE_VERSION: u32 = 4;

/// What identifies the weights of each model: see [`crate::model_id`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFingerprints {
    pub diffusion: Fingerprint,
    pub vae: Option<Fingerprint>,
    pub clip: Fingerprint,
    pub llm: Option<Fingerprint>,
}

/// How the input is cut: frozen by the first run, because finished partitions must keep their bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partitioning {
    /// Usable records of the corpus.
    pub records: u64,
    /// Records per partition; the last one may have fewer.
    pub partition_records: u32,
}

impl Partitioning {
    pub fn partitions(&self) -> Result<u32> {
        let n = self.records.div_ceil(u64::from(self.partition_records.max(1)));
        u32::try_from(n)
            .map_err(|_| Error::invalid(format!("partition.records: {} makes {n} partitions; raise it", self.partition_records)))
    }

    /// Corpus records of one partition; empty past the end.
    pub fn range(&self, partition: u32) -> Range<u64> {
        let size = u64::from(self.partition_records.max(1));
        let start = (u64::from(partition) * size).min(self.records);
        start..(start + size).min(self.records)
    }
}

/// A run, as coordinator and workers know it. Holds no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub spec: Spec,
    /// Content of the corpus: its usable records in order.
    pub corpus: Fingerprint,
    /// Where the frozen corpus lies.
    pub corpus_dir: StageDir,
    pub models: ModelFingerprints,
    /// `spec.models` with the commits that names of the hub stood for; absent in plans of older versions.
    #[serde(default)]
    pinned: Option<Models>,
    pub partitioning: Partitioning,
    /// The dataset's identity: everything that can change a byte of it, and nothing else.
    pub lineage: Fingerprint,
    dirs: Vec<StageDir>,
    /// Where relative paths of models start: the working directory of the coordinator that froze the plan, for whoever
    /// draws a pair again from elsewhere. `None` when all of them are absolute or remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_in: Option<String>,
}

impl Plan {
    /// Derives every stage's folder. `partitioning` is what the first run froze.
    pub fn new(spec: Spec, corpus_dir: StageDir, corpus: Fingerprint, models: ModelFingerprints, partitioning: Partitioning) -> Self {
        let prompts = prompts_fingerprint(&spec, corpus, &models);
        let drawn = pairs_fingerprint(&spec, prompts, &models);
        // Unfused candidates lie in the store in another form, but give the same dataset.
        let pairs = if spec.stages.pairs.fuse { drawn } else { chain("unfused", drawn, json!(null)) };
        let thresholds = json!(spec.stages.filter);
        let filter = chain("filter", pairs, thresholds.clone());
        let index = chain("index", filter, json!(spec.stages.index));
        let lineage = chain("lineage", drawn, thresholds);
        let shards = chain("shards", lineage, json!(spec.stages.shards));
        let dirs = Stage::RUN.into_iter().zip([prompts, pairs, filter, index, shards]);
        let dirs = dirs.map(|(stage, fingerprint)| StageDir { stage, fingerprint }).collect();
        Plan { spec, corpus, corpus_dir, models, pinned: None, partitioning, lineage, dirs, started_in: None }
    }

    /// The same plan with references that name these weights for ever.
    pub fn pinned_to(self, models: Models) -> Self {
        Plan { pinned: Some(models), ..self }
    }

    /// What workers load: names of the hub with their commits.
    pub fn weights(&self) -> &Models {
        self.pinned.as_ref().unwrap_or(&self.spec.models)
    }

    /// Folder of a stage's output.
    pub fn dir(&self, stage: Stage) -> StageDir {
        self.dirs.iter().copied().find(|dir| dir.stage == stage).unwrap_or(self.corpus_dir)
    }

    /// The run's identity: of all its folders, because the last one is the same for fused and unfused drawing.
    pub fn fingerprint(&self) -> Fingerprint {
        let dirs: Vec<String> = self.dirs.iter().map(StageDir::root).collect();
        Fingerprint::of(&dirs.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Key of the object that freezes the partitioning of these prompts.
    pub fn prompts_dir(spec: &Spec, corpus: Fingerprint, models: &ModelFingerprints) -> StageDir {
        StageDir { stage: Stage::Prompts, fingerprint: prompts_fingerprint(spec, corpus, models) }
    }
}

fn chain(name: &str, upstream: Fingerprint, parameters: serde_json::Value) -> Fingerprint {
    Fingerprint::of(&[name, &STAGE_VERSION.to_string(), &upstream.to_string(), &parameters.to_string()])
}

/// What shapes the triplets; where and how fast the server answers does not.
fn prompts_fingerprint(spec: &Spec, corpus: Fingerprint, models: &ModelFingerprints) -> Fingerprint {
    let p = &spec.stages.prompts;
    let sampling = json!([spec.seed, p.per_caption, p.temperature, p.top_p, p.max_tokens, p.frequency_penalty, p.attempts]);
    let parameters = match &p.backend {
        PromptBackend::File => json!(["file"]),
        PromptBackend::Local => json!(["local", models.llm, sampling]),
        PromptBackend::OpenAi(o) => json!(["openai", o.model, o.api, o.moderation, sampling]),
    };
    chain("prompts", corpus, parameters)
}

fn pairs_fingerprint(spec: &Spec, prompts: Fingerprint, models: &ModelFingerprints) -> Fingerprint {
    let p = &spec.stages.pairs;
    let parameters = json!([
        [spec.seed, p.samples, p.steps, p.sampler, p.p2p, p.guidance, p.resolution, p.batch, p.dtype],
        [json!(p.image), json!(p.keep_rejected)],
        [Some(models.diffusion), models.vae, Some(models.clip)],
    ]);
    chain("pairs", prompts, parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn partitions_cover_the_corpus_once(records in 0u64..10_000, size in 1u32..500) {
            let cut = Partitioning { records, partition_records: size };
            let n = cut.partitions().unwrap();
            let mut next = 0;
            for partition in 0..n {
                let range = cut.range(partition);
                prop_assert_eq!(range.start, next);
                prop_assert!(!range.is_empty() && range.end - range.start <= u64::from(size));
                next = range.end;
            }
            prop_assert_eq!(next, records);
            prop_assert!(cut.range(n).is_empty());
        }
    }
}
