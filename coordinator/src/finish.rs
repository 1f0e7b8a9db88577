//! The end of a run: the dataset's card, the report and the summary. All of it is derived from what is
//! committed, so a coordinator that dies here is finished by the next one.

use crate::prepare;
use crate::report;
use crate::scheduler::{Ending, Scheduler};
use crate::summary::Summary;
use ip2p_pipeline::corpus::CorpusManifest;
use ip2p_pipeline::formats::ShardStats;
use ip2p_pipeline::formats::card::{DatasetCard, README_PATH, STATS_PATH};
use ip2p_pipeline::layout::{self, Stage};
use ip2p_pipeline::manifest::PartitionManifest;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::shard_plan::SplitName;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Result, commit};
use std::time::Duration;

/// The summary of an earlier, complete run of exactly this plan.
pub async fn finished_summary(store: &Store, plan: &Plan) -> Result<Option<Summary>> {
    let summary: Option<Summary> = commit::read(store, layout::SUMMARY).await?;
    let summary = summary.filter(|summary| summary.complete && summary.plan == plan.fingerprint());
    // The card is written last into a dataset: without it there is none to speak of.
    let there = store.get(&plan.dir(Stage::Shards).dataset(README_PATH)).await?.is_some();
    Ok(summary.filter(|_| there))
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
        // Readers take every file of the folder for data.
        store.remove_staged(&plan.dir(Stage::Shards).dataset_root())?;
        write_card(store, plan, &summary).await?;
        report::write(store, plan, &summary).await?;
        store.put(layout::SUMMARY, commit::encode(&summary)?).await?;
    } else if let Err(e) = reasons {
        // Whatever stopped the run is what the user must hear of.
        tracing::warn!("the errors of records in quarantine cannot be read: {e}");
    }
    Ok(summary)
}

/// The dataset's own README and figures.
async fn write_card(store: &Store, plan: &Plan, summary: &Summary) -> Result<()> {
    let dir = plan.dir(Stage::Shards);
    let root = format!("{}/", dir.dataset_root());
    let shards = prepare::manifests(store, dir).await?;
    let files = shards.iter().flat_map(|manifest| stats(manifest, &root)).collect();
    let card = DatasetCard::new(plan, summary.funnel(), &summary.splits, files);
    store.put(&dir.dataset(STATS_PATH), card.stats_json()?.into()).await?;
    store.put(&dir.dataset(README_PATH), card.readme().into()).await
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
