//! The verdicts of committed partitions, read when they are asked for and kept for a while.

use super::cache::Cache;
use super::unix;
use crate::fetch;
use crate::listing;
use ip2p_pipeline::ids::TripletId;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::{PartitionManifest, role};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::IndexRow;
use ip2p_pipeline::shard_plan::{KeptPair, ShardPlan, SplitName};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::{Error, Result, commit};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OnceCell, Semaphore};

/// Rows kept in memory, about 600 bytes each.
const ROWS: usize = 60_000;
/// Tables decoded at the same time.
const DECODERS: usize = 2;
/// How old the list of partitions may be; one that takes long to make may be ten times as old as that.
const FRESH: Duration = Duration::from_secs(3);
/// Kept pairs above which nobody is told their splits.
const MOST_SPLITS: u64 = 500_000;

/// A committed partition of `filter`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Committed {
    pub partition: u32,
    /// When, by the store's clock, in seconds since 1970.
    pub at: f64,
}

/// Reads what `filter` has committed.
pub struct Tables {
    store: Store,
    plan: Plan,
    newest: Mutex<Option<(Instant, Arc<Vec<Committed>>)>>,
    rows: Cache<u32, Vec<IndexRow>>,
    decoders: Semaphore,
    splits: OnceCell<HashMap<TripletId, SplitName>>,
}

impl Tables {
    pub fn new(store: &Store, plan: &Plan) -> Self {
        Tables {
            store: store.clone(),
            plan: plan.clone(),
            newest: Mutex::new(None),
            rows: Cache::new(ROWS),
            decoders: Semaphore::new(DECODERS),
            splits: OnceCell::new(),
        }
    }

    fn dir(&self) -> StageDir {
        self.plan.dir(Stage::Filter)
    }

    /// Committed partitions, the newest first.
    pub async fn newest(&self) -> Result<Arc<Vec<Committed>>> {
        let known = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, newest)) = known.filter(|(until, _)| Instant::now() < *until) {
            return Ok(newest);
        }
        let begun = Instant::now();
        let listed = listing::objects(&self.store, &self.dir().manifests()).await?;
        let committed =
            |object: &listing::Listed| Some(Committed { partition: StageDir::partition_of(&object.key)?, at: unix(object.modified) });
        let mut newest: Vec<Committed> = listed.iter().filter_map(committed).collect();
        newest.sort_by(|a, b| b.at.total_cmp(&a.at).then(b.partition.cmp(&a.partition)));
        let newest = Arc::new(newest);
        let until = Instant::now() + FRESH.max(begun.elapsed() * 10);
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some((until, newest.clone()));
        Ok(newest)
    }

    /// Every verdict of a partition, in the order of its tables. Fails when it is not committed.
    pub async fn rows(&self, partition: u32) -> Result<Arc<Vec<IndexRow>>> {
        if let Some(rows) = self.rows.get(&partition) {
            return Ok(rows);
        }
        // Nobody closes the semaphore.
        let _decoder = self.decoders.acquire().await;
        if let Some(rows) = self.rows.get(&partition) {
            return Ok(rows);
        }
        let key = self.dir().manifest(partition);
        let manifest: Option<PartitionManifest> = commit::read(&self.store, &key).await?;
        let manifest = manifest.ok_or_else(|| Error::invalid(format!("partition {partition} of filter is not committed")))?;
        let mut rows = Vec::new();
        for object in manifest.objects(role::SELECTION) {
            let bytes = commit::read_data(&self.store, object).await?;
            rows.append(&mut IndexRow::decode(&self.store.url_of(&object.key), bytes)?);
        }
        let weight = rows.len();
        Ok(self.rows.put(partition, rows, weight))
    }

    /// The split of each triplet with a kept pair; `None` before the index says it, or when there are very many.
    pub async fn splits(&self) -> Result<Option<&HashMap<TripletId, SplitName>>> {
        if self.splits.get().is_none() {
            let key = self.plan.dir(Stage::Index).manifest(0);
            let manifest: Option<PartitionManifest> = commit::read(&self.store, &key).await?;
            let Some(manifest) = manifest else { return Ok(None) };
            let kept = manifest.objects(role::KEPT).next().cloned();
            let many =
                manifest.figures().iter().filter(|(name, _)| name.ends_with("_pairs")).map(|(_, n)| *n).sum::<f64>() > MOST_SPLITS as f64;
            let Some(kept) = kept.filter(|_| !many) else { return Ok(None) };
            let pairs = fetch::visit_index(&self.store, &kept, Vec::new(), |pairs: &mut Vec<KeptPair>, row| {
                let IndexRow { pair, candidate, .. } = row;
                pairs.push(KeptPair { pair, triplet: candidate.triplet, seed: candidate.seed, row: pairs.len() as u32, bytes: 0 });
            });
            let splits = split_of(pairs.await?, &self.plan)?;
            // Another request may have been faster, with the same.
            let _ = self.splits.set(splits);
        }
        Ok(self.splits.get())
    }
}

fn split_of(pairs: Vec<KeptPair>, plan: &Plan) -> Result<HashMap<TripletId, SplitName>> {
    let triplets: Vec<TripletId> = pairs.iter().map(|pair| pair.triplet).collect();
    let shards = ShardPlan::new(pairs, plan.spec.seed, &plan.spec.stages.shards)?;
    let mut splits = HashMap::new();
    let mut start = 0;
    for count in shards.splits() {
        let end = start + count.pairs as usize;
        for (_, row) in shards.samples(&(start..end)) {
            triplets.get(row as usize).map(|triplet| splits.insert(*triplet, count.split));
        }
        start = end;
    }
    Ok(splits)
}
