//! The end of a run: the dataset's card, the report and the summary. All of it is derived from what is
//! committed, so a coordinator that dies here is finished by the next one.

use crate::dataset::Files;
use crate::prepare;
use crate::report;
use crate::scheduler::{Ending, Scheduler};
use crate::summary::Summary;
use ip2p_pipeline::corpus::CorpusManifest;
use ip2p_pipeline::formats::ShardStats;
use ip2p_pipeline::formats::card::{DatasetCard, README_PATH, STATS_PATH};
use ip2p_pipeline::layout::{self, Stage};
use ip2p_pipeline::manifest::{PartitionManifest, role};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::shard_plan::SplitName;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Result, commit};
use std::time::Duration;

/// The summary of an earlier, complete run of exactly this plan, if every file of its dataset is still there. A report
/// that is not is made again.
pub async fn finished_summary(store: &Store, plan: &Plan) -> Result<Option<Summary>> {
    let summary: Option<Summary> = commit::read(store, layout::SUMMARY).await?;
    let Some(mut summary) = summary.filter(|summary| summary.complete && summary.plan == plan.fingerprint()) else { return Ok(None) };
    let shards = prepare::manifests(store, plan.dir(Stage::Shards)).await?;
    let files = Files::list(store, &plan.dir(Stage::Shards)).await?;
    let committed = summary.stage(Stage::Shards).is_some_and(|stage| stage.committed as usize == shards.len());
    let whole = shards.iter().all(|shard| files.problem_of(shard).is_none());
    let described = card(plan, &summary, &shards)?.iter().all(|(key, text)| files.problem(key, text.len() as u64).is_none());
    if !(committed && whole && described) {
        return Ok(None);
    }
    if store.get(layout::REPORT).await?.is_none() {
        write_report(store, plan, &mut summary).await?;
    }
    Ok(Some(summary))
}

/// Sums up; after a complete run it also writes card, report and summary, the summary last.
pub async fn finish(
    store: &Store,
    plan: &Plan,
    corpus: &CorpusManifest,
    scheduler: &Scheduler,
    ending: &Ending,
    wall: Duration,
) -> Result<Summary> {
    let mut summary = Summary::of(plan, corpus, scheduler, *ending == Ending::Complete, wall, store);
    let reasons = summary.add_reasons(store, plan).await;
    if summary.complete {
        reasons?;
        close(store, plan, &mut summary).await?;
    } else if let Err(e) = reasons {
        // Whatever stopped the run is what the user must hear of.
        tracing::warn!("the errors of records in quarantine cannot be read: {e}");
    }
    Ok(summary)
}

/// Removes what killed writers left beside the shards: readers take every file of the folder for data. Called when no
/// process of ours writes any more.
pub fn tidy(store: &Store, plan: &Plan) -> Result<()> {
    store.remove_staged(&plan.dir(Stage::Shards).dataset_root())
}

/// Writes card, report and summary of a complete run.
pub(crate) async fn close(store: &Store, plan: &Plan, summary: &mut Summary) -> Result<()> {
    let shards = prepare::manifests(store, plan.dir(Stage::Shards)).await?;
    summary.files.clear();
    for (key, text) in card(plan, summary, &shards)? {
        summary.files.push(commit::write_data(store, role::CLOSING, key, text.into()).await?);
    }
    write_report(store, plan, summary).await
}

/// Writes the report, and then the summary, which describes it.
async fn write_report(store: &Store, plan: &Plan, summary: &mut Summary) -> Result<()> {
    let report = report::write(store, plan, summary).await?;
    summary.files.retain(|file| file.key != report.key);
    summary.files.push(report);
    store.put(layout::SUMMARY, commit::encode(summary)?).await
}

/// Keys and texts of the dataset's own figures and README.
fn card(plan: &Plan, summary: &Summary, shards: &[PartitionManifest]) -> Result<[(String, String); 2]> {
    let dir = plan.dir(Stage::Shards);
    let root = format!("{}/", dir.dataset_root());
    let files = shards.iter().flat_map(|manifest| stats(manifest, &root)).collect();
    let card = DatasetCard::new(plan, summary.funnel(), &summary.splits, files);
    Ok([(dir.dataset(STATS_PATH), card.stats_json()?), (dir.dataset(README_PATH), card.readme())])
}

/// The shard files of one partition. The original layout is many small files and no shard.
fn stats(manifest: &PartitionManifest, root: &str) -> Vec<ShardStats> {
    let samples = manifest.counts().output;
    let objects = manifest.chunks.iter().flat_map(|chunk| &chunk.objects);
    objects
        .filter_map(|object| {
            let path = object.key.strip_prefix(root)?;
            let name = path.rsplit('/').next()?;
            let split = SplitName::ALL.into_iter().find(|split| name.starts_with(&format!("{}-", split.name())))?;
            let split = Some(split.name().to_string());
            Some(ShardStats { path: path.to_string(), split, samples, bytes: object.bytes, blake3: object.blake3.clone() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[tokio::test]
    async fn a_run_is_finished_while_all_of_its_dataset_is_there() {
        let Fixture { store, plan } = Fixture::closed().await;
        let dir = plan.dir(Stage::Shards);
        assert!(finished_summary(&store, &plan).await.unwrap().is_some());
        let (image, _) = store.list(&dir.dataset("original/0000002")).await.unwrap().remove(1);
        let files = ["README.md", "stats.json", "webdataset/train-000000.tar"];
        let keys = files.map(|file| dir.dataset(file)).into_iter().chain([image, dir.manifest(1)]);
        for key in keys {
            let bytes = store.require(&key).await.unwrap();
            store.delete(&key).await.unwrap();
            assert!(finished_summary(&store, &plan).await.unwrap().is_none(), "{key}");
            if key != dir.manifest(1) {
                store.put(&key, bytes.slice(1..)).await.unwrap();
                assert!(finished_summary(&store, &plan).await.unwrap().is_none(), "{key}");
            }
            store.put(&key, bytes).await.unwrap();
        }
        assert!(finished_summary(&store, &plan).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_deleted_report_is_made_again() {
        let Fixture { store, plan } = Fixture::closed().await;
        assert!(finished_summary(&store, &plan).await.unwrap().is_some());
        let report = store.require(layout::REPORT).await.unwrap();
        store.delete(layout::REPORT).await.unwrap();
        assert!(finished_summary(&store, &plan).await.unwrap().is_some());
        assert_eq!(store.require(layout::REPORT).await.unwrap(), report);
    }
}
