//! Why records are in quarantine: their errors, the most frequent first, with a record to look at.

use crate::figures::StageFigures;
use crate::prepare;
use crate::text::{count, printable};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{PartitionManifest, role};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::{IndexRow, Quarantined, ScoredCandidate, Verdict};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::{Result, commit};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

/// Partitions with quarantined records that are read for each stage: enough to see what is wrong.
const PARTITIONS: usize = 20;
/// Different errors that are told.
const ERRORS: usize = 5;
/// Characters of an error that are told.
const LENGTH: usize = 300;

/// One error of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineError {
    pub stage: Stage,
    pub error: String,
    /// Records with this error, among the partitions that were read.
    pub records: u64,
    /// Id of one of them: a caption, or a candidate pair.
    pub example: String,
}

impl fmt::Display for QuarantineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QuarantineError { stage, error, records, example } = self;
        write!(f, "{stage}: {} x {} (for example {example})", count(*records), printable(error))
    }
}

/// The errors of the committed partitions, of those stages whose figures have quarantined records.
pub(crate) async fn errors(store: &Store, plan: &Plan, stages: &[StageFigures]) -> Result<Vec<QuarantineError>> {
    let mut found = Found::default();
    for stage in stages.iter().filter(|stage| stage.counts.quarantined > 0).map(|stage| stage.stage) {
        let manifests = prepare::manifests(store, plan.dir(stage)).await?;
        for manifest in manifests.iter().filter(|manifest| manifest.counts().quarantined > 0).take(PARTITIONS) {
            add(store, manifest, &mut found).await?;
        }
    }
    Ok(found.errors())
}

/// The errors of these partitions, the first few of each stage.
pub(crate) async fn errors_in(store: &Store, plan: &Plan, partitions: &BTreeMap<Stage, Vec<u32>>) -> Result<Vec<QuarantineError>> {
    let mut found = Found::default();
    for (stage, partitions) in partitions {
        for partition in partitions.iter().take(PARTITIONS) {
            let manifest: Option<PartitionManifest> = commit::read(store, &plan.dir(*stage).manifest(*partition)).await?;
            if let Some(manifest) = manifest {
                add(store, &manifest, &mut found).await?;
            }
        }
    }
    Ok(found.errors())
}

async fn add(store: &Store, manifest: &PartitionManifest, found: &mut Found) -> Result<()> {
    match manifest.stage {
        Stage::Prompts => {
            for row in rows::<Quarantined>(store, manifest, role::QUARANTINE).await? {
                found.add(Stage::Prompts, row.error, row.record);
            }
        }
        Stage::Pairs => {
            for row in rows::<ScoredCandidate>(store, manifest, role::CANDIDATES).await? {
                let pair = row.candidate.pair_id().to_string();
                row.error.into_iter().for_each(|error| found.add(Stage::Pairs, error, pair.clone()));
            }
        }
        Stage::Filter => {
            for row in rows::<IndexRow>(store, manifest, role::SELECTION).await? {
                if let Verdict::Quarantined(error) = row.verdict {
                    found.add(Stage::Filter, error, row.pair.to_string());
                }
            }
        }
        Stage::Corpus | Stage::Index | Stage::Shards => {}
    }
    Ok(())
}

async fn rows<T: Table>(store: &Store, manifest: &PartitionManifest, role: &str) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for object in manifest.objects(role) {
        all.append(&mut T::decode(&store.url_of(&object.key), commit::read_data(store, object).await?)?);
    }
    Ok(all)
}

/// Errors by stage and text, each with its number and its first record.
#[derive(Default)]
struct Found(BTreeMap<(Stage, String), (u64, String)>);

impl Found {
    fn add(&mut self, stage: Stage, error: String, record: String) {
        // `filter` passes on what `pairs` has told.
        if stage == Stage::Filter && self.0.contains_key(&(Stage::Pairs, cut(&error))) {
            return;
        }
        self.0.entry((stage, cut(&error))).or_insert((0, record)).0 += 1;
    }

    fn errors(self) -> Vec<QuarantineError> {
        let told = |((stage, error), (records, example))| QuarantineError { stage, error, records, example };
        let mut errors: Vec<QuarantineError> = self.0.into_iter().map(told).collect();
        errors.sort_by_key(|error| Reverse(error.records));
        errors.truncate(ERRORS);
        errors
    }
}

fn cut(error: &str) -> String {
    match error.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}...", &error[..end]),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures;
    use crate::fixture::Fixture;

    #[tokio::test]
    async fn an_error_is_told_once_with_a_record_to_look_at() {
        let fixture = Fixture::finished().await;
        let stages = figures::of_store(&fixture.store, &fixture.plan).await.unwrap();
        let errors = errors(&fixture.store, &fixture.plan, &stages).await.unwrap();
        let rows: Vec<IndexRow> = rows(&fixture.store, &fixture.manifest(Stage::Filter, 1).await, role::SELECTION).await.unwrap();
        let example = rows.last().unwrap().pair.to_string();
        assert_eq!(errors, [QuarantineError { stage: Stage::Pairs, error: "the image is not finite".to_string(), records: 1, example }]);
    }

    #[test]
    fn the_most_frequent_comes_first_and_none_is_endless() {
        let mut found = Found::default();
        for (error, times) in [("rare".to_string(), 1), ("é".repeat(5000), 3), ("common".to_string(), 4)] {
            (0..times).for_each(|n| found.add(Stage::Prompts, error.clone(), n.to_string()));
        }
        let errors = found.errors();
        let order: Vec<u64> = errors.iter().map(|error| error.records).collect();
        assert_eq!(order, [4, 3, 1]);
        assert_eq!(errors[0].to_string(), "prompts: 4 x common (for example 0)");
        assert_eq!(errors[1].error.chars().count(), LENGTH + 3);
    }
}
