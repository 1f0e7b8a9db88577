//! A run as its store alone tells it.

use super::history::History;
use super::screen::lock;
use super::snapshot::{Snapshot, StageNow};
use super::unix;
use crate::figures::{self, StageFigures};
use crate::listing;
use crate::prepare;
use crate::scheduler::Recovered;
use ip2p_pipeline::Result;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::store::Store;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Least time between two readings; a reading that takes long is followed by ten times as long a pause.
const PAUSE: Duration = Duration::from_secs(5);

/// Reads the run now, and again while anybody holds what is returned. Fails when it cannot be read now; later failures
/// are logged, and the last picture stays.
pub async fn watch(store: &Store, plan: &Plan) -> Result<(watch::Receiver<Arc<Snapshot>>, Arc<Mutex<History>>)> {
    let (snapshot, history) = read(store, plan, 0).await?;
    let history = Arc::new(Mutex::new(history));
    let (send, receiver) = watch::channel(Arc::new(snapshot));
    let (store, plan, shared) = (store.clone(), plan.clone(), history.clone());
    tokio::spawn(async move {
        let mut pause = PAUSE;
        for version in 1.. {
            tokio::select! {
                () = send.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let begun = Instant::now();
            match read(&store, &plan, version).await {
                Ok((snapshot, history)) => {
                    *lock(&shared) = history;
                    send.send_replace(Arc::new(snapshot));
                }
                Err(e) => tracing::warn!("the run cannot be read, its page stays as it is: {e}"),
            }
            pause = PAUSE.max(begun.elapsed() * 10);
        }
    });
    Ok((receiver, history))
}

async fn read(store: &Store, plan: &Plan, version: u64) -> Result<(Snapshot, History)> {
    let recovered = prepare::recover(store, plan).await?;
    let mut history = History::default();
    for stage in &recovered {
        for (partition, finished) in &stage.committed {
            history.took(stage.stage, *partition, finished);
        }
    }
    for (at, counts) in dated(store, plan, &recovered).await? {
        history.yielded(&counts, at);
    }
    let committed: BTreeMap<Stage, Vec<u32>> =
        recovered.iter().map(|stage| (stage.stage, stage.committed.iter().map(|(partition, _)| *partition).collect())).collect();
    let stages = figures::of_recovery(recovered);
    let complete = stages.iter().all(StageFigures::complete);
    let now = |figures: &StageFigures| {
        let committed = committed.get(&figures.stage).map_or(&[][..], Vec::as_slice);
        // The same cells have the same number.
        StageNow::of_figures(figures, committed, if complete { 1 } else { version + 2 })
    };
    let stages = stages.iter().map(now).collect();
    Ok((Snapshot { live: false, complete, stopping: None, stages, workers: Vec::new() }, history))
}

/// What the filter kept, by the time of its commits.
async fn dated(store: &Store, plan: &Plan, recovered: &[Recovered]) -> Result<Vec<(f64, Counts)>> {
    let Some(filter) = recovered.iter().find(|stage| stage.stage == Stage::Filter) else { return Ok(Vec::new()) };
    let listed = listing::objects(store, &plan.dir(Stage::Filter).manifests()).await?;
    let at: BTreeMap<u32, f64> =
        listed.iter().filter_map(|object| Some((StageDir::partition_of(&object.key)?, unix(object.modified)))).collect();
    let dated = filter.committed.iter().map(|(partition, finished)| (at.get(partition).copied().unwrap_or(0.0), finished.counts.clone()));
    let mut dated: Vec<_> = dated.collect();
    dated.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(dated)
}
