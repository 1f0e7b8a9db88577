//! `index`: every verdict of every partition in one Parquet table, and the kept pairs in another for the shards.

use super::local::{Local, described};
use super::{Env, input, role};
use crate::blocking::blocking;
use crate::control::Control;
use crate::failure::{Result, domain, failure};
use crate::run_partition::{ChunkData, ChunkPlace, Work};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use ip2p_pipeline::commit;
use ip2p_pipeline::formats::Measured;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{Counts, DataObject, SHARDS_FIGURE};
use ip2p_pipeline::records::{IndexRow, Verdict};
use ip2p_pipeline::shard_plan::{KeptPair, ShardPlan};
use ip2p_pipeline::tables::{TableReader, TableWriter};
use ip2p_pipeline::task::Cause;
use serde_json::json;
use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;

/// Partitions read at the same time.
const READS: usize = 16;
/// Key of the lineage in the metadata of the index.
const LINEAGE_KEY: &str = "ip2p.lineage";

struct IndexWork {
    env: Env,
    partitions: u32,
    /// `None` once it was handed over, or when the thread that worked on it ended.
    building: Option<Building>,
}

/// The index and the kept pairs under construction.
struct Building {
    index: Growing,
    kept: Growing,
    pairs: Vec<KeptPair>,
    counts: Counts,
}

pub(super) async fn open(env: &Env) -> Result<impl Work + use<>> {
    let lineage = lineage(env);
    let building = Building { index: Growing::new(&lineage)?, kept: Growing::new(&lineage)?, pairs: Vec::new(), counts: Counts::default() };
    Ok(IndexWork { env: env.clone(), partitions: env.plan.partitioning.partitions().map_err(domain)?, building: Some(building) })
}

/// A table of any length under construction, in a local file.
struct Growing {
    local: Local,
    writer: TableWriter<IndexRow, Measured<BufWriter<File>>>,
}

impl Growing {
    fn new(lineage: &str) -> Result<Self> {
        let local = Local::new()?;
        let metadata = [(LINEAGE_KEY, lineage.to_string())];
        let writer = TableWriter::new(Measured::new(local.sink()?), &metadata).map_err(domain)?;
        Ok(Growing { local, writer })
    }

    fn write(&mut self, rows: &[IndexRow]) -> Result<()> {
        self.writer.write(rows).map_err(domain)
    }

    fn finish(self, role: &str, key: String) -> Result<Grown> {
        let (sink, stats) = self.writer.finish().map_err(domain)?.finish(&key, None, 0);
        self.local.close(sink)?;
        Ok(Grown { local: self.local, object: described(role, key, stats) })
    }
}

/// A whole table.
struct Grown {
    local: Local,
    object: DataObject,
}

impl Grown {
    async fn upload(self, env: &Env, place: &ChunkPlace) -> Result<DataObject> {
        if place.may_write(&env.store, &self.object)? {
            self.local.upload(&env.store, &self.object.key).await?;
        }
        Ok(self.object)
    }
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
        let env = self.env.clone();
        let read = |partition| selection(&env, partition);
        let mut selections = stream::iter(0..self.partitions).map(read).buffered(READS).boxed();
        while let Some(tables) = selections.try_next().await? {
            if control.lost() || control.draining() {
                return Err(failure(Cause::Preempted, "asked to leave"));
            }
            let mut building = self.take()?;
            let add = move || {
                building.add(tables)?;
                Ok(building)
            };
            self.building = Some(blocking("that writes the index", add).await?);
            control.made(1, 0);
        }
        Ok(1)
    }

    async fn take_chunk(&mut self, place: &ChunkPlace) -> Result<ChunkData> {
        let Building { index, kept, pairs, counts } = self.take()?;
        let (seed, shards) = (self.env.plan.spec.seed, self.env.plan.spec.stages.shards.clone());
        let (index_key, kept_key) = (place.key("index.parquet"), place.key("kept.parquet"));
        let finish = move || {
            let plan = ShardPlan::new(pairs, seed, &shards).map_err(domain)?;
            Ok((plan, index.finish(role::INDEX, index_key)?, kept.finish(role::KEPT, kept_key)?))
        };
        let (plan, index, kept) = blocking("that plans the shards", finish).await?;
        let mut data = ChunkData { counts, ..ChunkData::default() };
        data.figures.insert(SHARDS_FIGURE.to_string(), plan.tasks().len() as f64);
        for split in plan.splits() {
            data.figures.insert(format!("{}_pairs", split.split.name()), split.pairs as f64);
            data.figures.insert(format!("{}_triplets", split.split.name()), split.triplets as f64);
        }
        data.written.push(index.upload(&self.env, place).await?);
        data.written.push(kept.upload(&self.env, place).await?);
        Ok(data)
    }
}

/// The tables of one partition's verdicts, by key.
async fn selection(env: &Env, partition: u32) -> Result<Vec<(String, Bytes)>> {
    let manifest = input(env, Stage::Filter, partition).await?;
    let mut tables = Vec::new();
    for object in manifest.objects(role::SELECTION) {
        tables.push((object.key.clone(), commit::read_data(&env.store, object).await.map_err(domain)?));
    }
    Ok(tables)
}

impl IndexWork {
    fn take(&mut self) -> Result<Building> {
        self.building.take().ok_or_else(|| failure(Cause::Bug, "the index was handed over before its end"))
    }
}

impl Building {
    /// Adds the tables of one partition.
    fn add(&mut self, tables: Vec<(String, Bytes)>) -> Result<()> {
        for (key, bytes) in tables {
            for rows in TableReader::<IndexRow>::open(&key, bytes).map_err(domain)? {
                self.add_rows(&rows.map_err(domain)?)?;
            }
        }
        Ok(())
    }

    fn add_rows(&mut self, rows: &[IndexRow]) -> Result<()> {
        let kept: Vec<IndexRow> = rows.iter().filter(|row| row.verdict == Verdict::Kept).cloned().collect();
        self.index.write(rows)?;
        self.kept.write(&kept)?;
        self.counts.expected += rows.len() as u64;
        self.counts.output += rows.len() as u64;
        for row in &kept {
            let position = u32::try_from(self.pairs.len()).map_err(|_| failure(Cause::BadInput, "more than 2^32 kept pairs in one run"))?;
            self.pairs.extend(KeptPair::of(position, row).map_err(domain)?);
        }
        Ok(())
    }
}
