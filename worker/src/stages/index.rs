//! `index`: every verdict of every partition in one Parquet table, and the kept pairs in another for the shards.

use super::{Env, Work, input, role};
use crate::control::Control;
use crate::failure::{Result, domain, failure};
use crate::run_partition::{ChunkData, ChunkPlace};
use async_trait::async_trait;
use ip2p_pipeline::commit;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{Counts, SHARDS_FIGURE};
use ip2p_pipeline::records::{IndexRow, Verdict};
use ip2p_pipeline::shard_plan::{KeptPair, ShardPlan};
use ip2p_pipeline::tables::{TableReader, TableWriter};
use ip2p_pipeline::task::Cause;
use serde_json::json;
use std::sync::Arc;

/// Key of the lineage in the metadata of the index.
const LINEAGE_KEY: &str = "ip2p.lineage";

struct IndexWork {
    env: Env,
    partitions: u32,
    index: TableWriter<IndexRow, Vec<u8>>,
    kept: TableWriter<IndexRow, Vec<u8>>,
    pairs: Vec<KeptPair>,
    counts: Counts,
}

pub(super) async fn open(env: &Env) -> Result<impl Work + use<>> {
    let lineage = [(LINEAGE_KEY, lineage(env))];
    Ok(IndexWork {
        env: env.clone(),
        partitions: env.plan.partitioning.partitions().map_err(domain)?,
        index: TableWriter::new(Vec::new(), &lineage).map_err(domain)?,
        kept: TableWriter::new(Vec::new(), &lineage).map_err(domain)?,
        pairs: Vec::new(),
        counts: Counts::default(),
    })
}

/// Where every row comes from: models, spec and software.
fn lineage(env: &Env) -> String {
    let plan = &env.plan;
    json!({
        "software": concat!("ip2p ", env!("CARGO_PKG_VERSION")),
        "plan": plan.fingerprint(),
        "lineage": plan.lineage,
        "corpus": plan.corpus,
        "models": plan.models,
        "seed": plan.spec.seed,
    })
    .to_string()
}

#[async_trait]
impl Work for IndexWork {
    /// The whole index is one chunk: half of one is of no use.
    fn records(&self) -> u64 {
        1
    }

    async fn step(&mut self, _start: u64, control: &Arc<Control>) -> Result<u64> {
        for partition in 0..self.partitions {
            if control.lost() || control.draining() {
                return Err(failure(Cause::Preempted, "asked to leave"));
            }
            self.add_partition(partition).await?;
            control.made(1, 0);
        }
        Ok(1)
    }

    async fn take_chunk(&mut self, place: &ChunkPlace) -> Result<ChunkData> {
        let empty = || TableWriter::new(Vec::new(), &[]);
        let index = std::mem::replace(&mut self.index, empty().map_err(domain)?).finish().map_err(domain)?;
        let kept = std::mem::replace(&mut self.kept, empty().map_err(domain)?).finish().map_err(domain)?;
        let spec = &self.env.plan.spec;
        let plan = ShardPlan::new(std::mem::take(&mut self.pairs), spec.seed, &spec.stages.shards).map_err(domain)?;
        let mut data = ChunkData { counts: std::mem::take(&mut self.counts), ..ChunkData::default() };
        data.figures.insert(SHARDS_FIGURE.to_string(), plan.tasks().len() as f64);
        for split in plan.splits() {
            data.figures.insert(format!("{}_pairs", split.split.name()), split.pairs as f64);
            data.figures.insert(format!("{}_triplets", split.split.name()), split.triplets as f64);
        }
        data.objects.push((role::INDEX, place.key("index.parquet"), index.into()));
        data.objects.push((role::KEPT, place.key("kept.parquet"), kept.into()));
        Ok(data)
    }
}

impl IndexWork {
    async fn add_partition(&mut self, partition: u32) -> Result<()> {
        let manifest = input(&self.env, Stage::Filter, partition).await?;
        for object in manifest.objects(role::SELECTION) {
            let bytes = commit::read_data(&self.env.store, object).await.map_err(domain)?;
            for rows in TableReader::<IndexRow>::open(&object.key, bytes).map_err(domain)? {
                self.add_rows(&rows.map_err(domain)?)?;
            }
        }
        Ok(())
    }

    fn add_rows(&mut self, rows: &[IndexRow]) -> Result<()> {
        self.index.write(rows).map_err(domain)?;
        self.counts.expected += rows.len() as u64;
        self.counts.output += rows.len() as u64;
        for row in rows.iter().filter(|row| row.verdict == Verdict::Kept) {
            let position = u32::try_from(self.pairs.len()).map_err(|_| failure(Cause::BadInput, "more than 2^32 kept pairs in one run"))?;
            self.kept.write(std::slice::from_ref(row)).map_err(domain)?;
            self.pairs.extend(KeptPair::of(position, row).map_err(domain)?);
        }
        Ok(())
    }
}
