//! Every object key of a run. No other module builds one.
//!
//! ```text
//! <store>/<run>/
//!   terms/00000001.json                       one per coordinator incarnation: the source of epochs
//!   plans/<fingerprint>.json                  the frozen spec and stage fingerprints
//!   <stage>/<fingerprint>/
//!     chunks/p00000012-r00000000.json         manifest of the chunk that starts at record 0
//!     data/p00000012-e<epoch>-r00000000-*     attempt-scoped data objects, never overwritten
//!     manifests/p00000012.json                manifest of the whole partition: its commit
//!     digests/<hash>.json                     what many of these manifests say: a cache
//!   shards/<fingerprint>/dataset/...          the training shards
//!   waves/<job>.json                          which partition an index of a Kubernetes Job is
//!   pods/<pod>.json                           the last words of a pod that failed
//!   trouble.json                              why pods do not start, while they do not
//!   report.html, summary.json
//!   probes/<nonce>                            there for a moment when a coordinator starts
//! ```
//!
//! Keys are relative to the run's prefix and use `/`. A partition has no folders of its own: a local store would have to
//! sync each of them.

use crate::ids::Fingerprint;
use crate::planted::{self, Defect};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A transformation over all partitions. `Corpus` is the frozen input of the first real stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Corpus,
    Prompts,
    Pairs,
    Filter,
    Index,
    Shards,
}

impl Stage {
    /// The stages that workers run, in order.
    pub const RUN: [Stage; 5] = [Stage::Prompts, Stage::Pairs, Stage::Filter, Stage::Index, Stage::Shards];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Corpus => "corpus",
            Stage::Prompts => "prompts",
            Stage::Pairs => "pairs",
            Stage::Filter => "filter",
            Stage::Index => "index",
            Stage::Shards => "shards",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Stage {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        [Stage::Corpus].iter().chain(&Stage::RUN).copied().find(|stage| stage.name() == s).ok_or_else(|| format!("`{s}` is not a stage"))
    }
}

/// One stage with one fingerprint: the folder of its outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StageDir {
    pub stage: Stage,
    pub fingerprint: Fingerprint,
}

impl StageDir {
    /// The folder, without a slash at its end.
    pub fn root(&self) -> String {
        format!("{}/{}", self.stage, self.fingerprint.short())
    }

    /// Prefix of the partition manifests: one LIST of it says what is done.
    pub fn manifests(&self) -> String {
        format!("{}/manifests", self.root())
    }

    /// The commit of a whole partition.
    pub fn manifest(&self, partition: u32) -> String {
        format!("{}/p{partition:08}.json", self.manifests())
    }

    /// Prefix of the digests of partition manifests.
    pub fn digests(&self) -> String {
        format!("{}/digests", self.root())
    }

    /// What many partition manifests say, for a fast start.
    pub fn digest(&self, name: &str) -> String {
        format!("{}/{name}.json", self.digests())
    }

    /// The partition of a key below [`StageDir::manifests`].
    pub fn partition_of(key: &str) -> Option<u32> {
        key.rsplit('/').next()?.strip_prefix('p')?.strip_suffix(".json")?.parse().ok()
    }

    /// Prefix of the chunk manifests of all partitions.
    pub fn chunks(&self) -> String {
        format!("{}/chunks", self.root())
    }

    /// How the chunk manifests of one partition begin.
    pub fn chunks_of(&self, partition: u32) -> String {
        format!("{}/p{partition:08}-", self.chunks())
    }

    /// The commit of the chunk that starts at input record `start` of the partition.
    pub fn chunk(&self, partition: u32, start: u64) -> String {
        format!("{}r{start:08}.json", self.chunks_of(partition))
    }

    /// An attempt-scoped data object of the chunk that starts at `start`; `name` has its extension.
    pub fn data(&self, partition: u32, epoch: u64, start: u64, name: &str) -> String {
        let epoch = if planted::has(Defect::KeysWithoutEpoch) { 0 } else { epoch };
        format!("{}/p{partition:08}-e{epoch:016x}-r{start:08}-{name}", self.data_objects())
    }

    /// Prefix of all data objects of the stage.
    pub fn data_objects(&self) -> String {
        format!("{}/data", self.root())
    }

    /// The partition of a key below [`StageDir::data_objects`] or [`StageDir::chunks`].
    pub fn partition_of_part(key: &str) -> Option<u32> {
        let (partition, _) = key.rsplit('/').next()?.split_once('-')?;
        partition.strip_prefix('p')?.parse().ok()
    }

    /// The partition that made a data object, by its key or URL; `None` for anything else.
    pub fn maker_of(key: &str) -> Option<(Stage, u32)> {
        let mut folders = key.rsplit('/').skip(1);
        let in_data = folders.next()? == "data";
        let stage = folders.nth(1)?.parse().ok()?;
        Some((stage, Self::partition_of_part(key)?)).filter(|_| in_data)
    }

    /// A file of the final dataset. Its bytes are a pure function of this key: the fingerprint covers the
    /// whole lineage, so a second attempt can only write the same bytes again.
    pub fn dataset(&self, path: &str) -> String {
        format!("{}/dataset/{path}", self.root())
    }

    /// Prefix of the final dataset.
    pub fn dataset_root(&self) -> String {
        format!("{}/dataset", self.root())
    }
}

/// The stage and partition of the manifest of a partition or of a chunk; `None` for any other key.
pub fn manifest_of(key: &str) -> Option<(Stage, u32)> {
    let (folder, name) = key.rsplit_once('/')?;
    let (stage, kind) = folder.split_once('/')?;
    let partition = match kind.split_once('/')?.1 {
        "manifests" => StageDir::partition_of(name)?,
        "chunks" => StageDir::partition_of_part(name)?,
        _ => return None,
    };
    Some((stage.parse().ok()?, partition))
}

/// Prefix of the coordinator terms.
pub const TERMS: &str = "terms";

/// The object that makes a coordinator incarnation the owner of term `term`.
pub fn term(term: u32) -> String {
    format!("{TERMS}/{term:08}.json")
}

/// The number of a key below [`TERMS`].
pub fn term_of(key: &str) -> Option<u32> {
    key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}

/// The partitions of an Indexed Job.
pub fn wave(job: &str) -> String {
    format!("waves/{job}.json")
}

/// Prefix of what is kept of pods that failed.
pub const PODS: &str = "pods";

/// The last words of a pod that failed.
pub fn pod(pod: &str) -> String {
    format!("{PODS}/{pod}.json")
}

/// Why pods do not start; replaced whenever that changes.
pub const TROUBLE: &str = "trouble.json";

/// Prefix of the plans this run has had.
pub const PLANS: &str = "plans";

/// The frozen plan with this fingerprint.
pub fn plan(fingerprint: Fingerprint) -> String {
    format!("{PLANS}/{}.json", fingerprint.short())
}

/// Freezes how the corpus is cut for the prompts in `prompts`.
pub fn partitioning(prompts: &StageDir) -> String {
    format!("{}/partitioning.json", prompts.root())
}

/// Prefix of the probes.
pub const PROBES: &str = "probes";

/// A short-lived object that shows what the store can do.
pub fn probe(nonce: u64) -> String {
    format!("{PROBES}/{nonce:016x}")
}

/// Figures of the last finished run.
pub const SUMMARY: &str = "summary.json";

/// The single-file report.
pub const REPORT: &str = "report.html";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_told_from_what_they_name() {
        let dir = StageDir { stage: Stage::Pairs, fingerprint: Fingerprint::of(&["test"]) };
        assert_eq!(manifest_of(&dir.manifest(12)), Some((Stage::Pairs, 12)));
        assert_eq!(manifest_of(&dir.chunk(12, 40)), Some((Stage::Pairs, 12)));
        let others =
            [dir.data(12, 7, 40, "images.tar"), dir.digest("x"), partitioning(&dir), dir.dataset("manifests/p00000012.json"), term(1)];
        others.iter().for_each(|other| assert_eq!(manifest_of(other), None, "{other}"));
    }

    #[test]
    fn the_maker_of_a_data_object_is_in_its_key() {
        let dir = StageDir { stage: Stage::Pairs, fingerprint: Fingerprint::of(&["test"]) };
        let data = dir.data(12, 7, 40, "images.tar");
        assert_eq!(StageDir::maker_of(&data), Some((Stage::Pairs, 12)));
        assert_eq!(StageDir::maker_of(&format!("s3://bucket/run/{data}")), Some((Stage::Pairs, 12)));
        for other in [
            dir.manifest(12),
            dir.chunk(12, 0),
            format!("{data}/more"),
            dir.dataset("data/train-00000-of-00001.parquet"),
            SUMMARY.to_string(),
        ] {
            assert_eq!(StageDir::maker_of(&other), None, "{other}");
        }
    }
}
