//! The kept pairs and the plan of their shards. Every shard needs both, so a worker reads and plans once per index.
//!
//! The rows lie in a local file. In memory is what the plan needs of each pair: some hundred bytes, however long its texts.

use super::local::Local;
use super::row_file::{RowFile, RowWriter};
use super::{Env, input, role};
use crate::blocking::blocking;
use crate::failure::{Result, domain};
use ip2p_pipeline::fetch;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::PartitionManifest;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::IndexRow;
use ip2p_pipeline::shard_plan::{KeptPair, ShardPlan};
use ip2p_pipeline::tables::TableReader;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The kept rows of the index, and where each goes.
pub(super) struct Kept {
    pub rows: RowFile<IndexRow>,
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
        let local = Local::new()?;
        let mut sink = local.sink()?;
        fetch::stream(&env.store, object, &mut sink).await.map_err(domain)?;
        local.close(sink)?;
        tables.push((env.store.url_of(&object.key), local));
    }
    let plan = env.plan.clone();
    // A million rows take seconds, in which heartbeats must go on.
    blocking("that reads the kept pairs", move || decode(tables, &plan)).await
}

fn decode(tables: Vec<(String, Local)>, plan: &Plan) -> Result<Kept> {
    let mut rows = RowWriter::new()?;
    let mut pairs = Vec::new();
    let mut position = 0u32;
    for (url, local) in tables {
        for batch in TableReader::<IndexRow>::open(&url, local.source()?).map_err(domain)? {
            for row in batch.map_err(domain)? {
                pairs.extend(KeptPair::of(position, &row).map_err(domain)?);
                rows.push(&row)?;
                position += 1;
            }
        }
    }
    let plan = ShardPlan::new(pairs, plan.spec.seed, &plan.spec.stages.shards).map_err(domain)?;
    Ok(Kept { rows: rows.finish()?, plan })
}
