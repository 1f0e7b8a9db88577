//! The kept pairs and the plan of their shards. Every shard needs both, so a worker reads and plans once per index.

use super::{Env, input, role};
use crate::failure::{Result, domain, failure};
use bytes::Bytes;
use ip2p_pipeline::commit;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::PartitionManifest;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::IndexRow;
use ip2p_pipeline::shard_plan::{KeptPair, ShardPlan};
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::task::Cause;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The kept rows of the index, and where each goes.
pub(super) struct Kept {
    pub rows: Vec<IndexRow>,
    pub plan: ShardPlan,
}

/// The kept pairs of the index that was read last.
#[derive(Default)]
pub struct KeptCache(Mutex<Option<(PartitionManifest, Arc<Kept>)>>);

impl KeptCache {
    /// The kept pairs of the committed index.
    pub(super) async fn load(&self, env: &Env) -> Result<Arc<Kept>> {
        let index = input(env, Stage::Index, 0).await?;
        // Held while it reads: a second reader would only do the same.
        let mut last = self.0.lock().await;
        if let Some((of, kept)) = &*last
            && *of == index
        {
            return Ok(kept.clone());
        }
        // The old ones go before the new ones come.
        *last = None;
        let kept = Arc::new(read(env, &index).await?);
        *last = Some((index, kept.clone()));
        Ok(kept)
    }
}

async fn read(env: &Env, index: &PartitionManifest) -> Result<Kept> {
    let mut tables = Vec::new();
    for object in index.objects(role::KEPT) {
        tables.push((env.store.url_of(&object.key), commit::read_data(&env.store, object).await.map_err(domain)?));
    }
    let plan = env.plan.clone();
    // A million rows take seconds, in which heartbeats must go on.
    let decoded = tokio::task::spawn_blocking(move || decode(tables, &plan)).await;
    decoded.map_err(|e| failure(Cause::Bug, format!("the thread that reads the kept pairs ended: {e}")))?
}

fn decode(tables: Vec<(String, Bytes)>, plan: &Plan) -> Result<Kept> {
    let mut rows = Vec::new();
    for (url, bytes) in tables {
        rows.append(&mut IndexRow::decode(&url, bytes).map_err(domain)?);
    }
    let mut pairs = Vec::new();
    for (position, row) in (0u32..).zip(&rows) {
        pairs.extend(KeptPair::of(position, row).map_err(domain)?);
    }
    let plan = ShardPlan::new(pairs, plan.spec.seed, &plan.spec.stages.shards).map_err(domain)?;
    Ok(Kept { rows, plan })
}
