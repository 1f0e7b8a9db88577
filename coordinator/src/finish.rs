//! The end of a run: the dataset's card, the summary and the report. All of it is derived from what is
//! committed, so a coordinator that dies here is finished by the next one.

use crate::scheduler::{Ending, Scheduler};
use crate::summary::Summary;
use ip2p_pipeline::Result;
use ip2p_pipeline::corpus::CorpusManifest;
use ip2p_pipeline::layout;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::commit;
use std::time::Duration;

/// The summary of an earlier, complete run of exactly this plan.
pub async fn finished_summary(store: &Store, plan: &Plan) -> Result<Option<Summary>> {
    let summary: Option<Summary> = commit::read(store, layout::SUMMARY).await?;
    Ok(summary.filter(|summary| summary.complete && summary.plan == plan.fingerprint()))
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
    let summary = Summary::of(plan, corpus, scheduler, *ending == Ending::Complete, wall, store);
    if summary.complete {
        store.put(layout::SUMMARY, commit::encode(&summary)?).await?;
    }
    Ok(summary)
}
