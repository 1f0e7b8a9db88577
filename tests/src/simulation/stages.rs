//! Stages without models: records are numbers, and every number has one right fate.
//!
//! What an attempt writes differs from what another would write, as with a language model on a server, so that an
//! object that takes another's place is noticed. Only the shards are the same whoever writes them.

use super::process::Process;
use super::store::BadStore;
use async_trait::async_trait;
use bytes::Bytes;
use ip2p_pipeline::commit;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::{ChunkManifest, Counts, PartitionManifest, SHARDS_FIGURE};
use ip2p_pipeline::store::{PART, Store};
use ip2p_pipeline::task::{Assignment, Cause, Finished};
use ip2p_worker::control::Control;
use ip2p_worker::failure::{Result, domain, failure};
use ip2p_worker::run_partition::{ChunkData, ChunkPlace, Stages, Work, run_partition};
use ip2p_worker::session::Attempts;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

pub const SHARDS: u64 = 3;
const ROWS: &str = "rows";
/// With parts so small, most data goes up in several.
const SMALL_PART: u64 = 24;

/// What the rules make of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Output,
    Rejected,
    Quarantined,
}

pub fn fate(stage: Stage, record: u64) -> Fate {
    match stage {
        Stage::Prompts if record % 17 == 3 => Fate::Quarantined,
        Stage::Prompts if record % 5 == 1 => Fate::Rejected,
        Stage::Filter if record.is_multiple_of(3) => Fate::Rejected,
        _ => Fate::Output,
    }
}

#[derive(Serialize, Deserialize)]
struct Rows {
    rows: Vec<u64>,
    written_by: u64,
}

/// A worker's stages.
pub struct Toys {
    process: Process,
    store: Store,
    chunk: Duration,
}

impl Toys {
    pub fn new(process: &Process, chunk: Duration) -> Self {
        let part = if process.world.chance.one_in(2) { SMALL_PART } else { PART };
        let store = Store::over(Arc::new(BadStore(process.clone())), "memory:///").with_parts(part);
        Toys { process: process.clone(), store, chunk }
    }

    /// The rows of a committed partition.
    async fn rows(&self, stage: Stage, partition: u32) -> Result<Vec<u64>> {
        let key = self.dir(stage).manifest(partition);
        let manifest: Option<PartitionManifest> = commit::read(&self.store, &key).await.map_err(domain)?;
        let manifest = manifest.ok_or_else(|| failure(Cause::Transient, format!("{key} is not committed yet")))?;
        let mut all = Vec::new();
        for object in manifest.objects(ROWS) {
            let bytes = commit::read_data(&self.store, object).await.map_err(domain)?;
            let rows: Rows = serde_json::from_slice(&bytes).map_err(|e| failure(Cause::Bug, e.to_string()))?;
            all.extend(rows.rows);
        }
        Ok(all)
    }

    async fn input(&self, stage: Stage, partition: u32) -> Result<Vec<u64>> {
        let plan = &self.process.world.plan;
        match stage {
            Stage::Corpus | Stage::Prompts => Ok(plan.partitioning.range(partition).collect()),
            Stage::Pairs => self.rows(Stage::Prompts, partition).await,
            Stage::Filter => self.rows(Stage::Pairs, partition).await,
            Stage::Index => {
                let mut all = Vec::new();
                for partition in 0..plan.partitioning.partitions().map_err(domain)? {
                    all.extend(self.rows(Stage::Filter, partition).await?);
                }
                Ok(all)
            }
            Stage::Shards => {
                let all = self.rows(Stage::Index, 0).await?;
                Ok(all.into_iter().filter(|row| row % SHARDS == u64::from(partition)).collect())
            }
        }
    }
}

#[async_trait]
impl Stages for Toys {
    fn store(&self) -> &Store {
        &self.store
    }

    fn dir(&self, stage: Stage) -> StageDir {
        self.process.world.plan.dir(stage)
    }

    fn chunk(&self) -> Duration {
        self.chunk
    }

    async fn open(&self, assignment: Assignment, _: Option<&ChunkManifest>) -> Result<Box<dyn Work>> {
        let Assignment { stage, partition, .. } = assignment;
        let input = self.input(stage, partition).await?;
        let (process, store) = (self.process.clone(), self.store.clone());
        Ok(Box::new(ToyWork { process, store, stage, input, rows: Vec::new(), counts: Counts::default() }))
    }

    async fn restore(&self, _: u32, _: &[ChunkManifest], _: &Arc<Control>) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Attempts for Toys {
    async fn run(&self, assignment: Assignment, worker: &str, control: &Arc<Control>) -> Result<Finished> {
        run_partition(self, assignment, worker, control).await
    }

    fn broken(&self) -> Option<String> {
        None
    }
}

struct ToyWork {
    process: Process,
    store: Store,
    stage: Stage,
    input: Vec<u64>,
    rows: Vec<u64>,
    counts: Counts,
}

impl ToyWork {
    /// `index` and `shards` are one step, as the real ones are.
    fn in_one_step(&self) -> bool {
        matches!(self.stage, Stage::Index | Stage::Shards)
    }

    fn account(&mut self, record: u64) {
        self.counts.expected += 1;
        match fate(self.stage, record) {
            Fate::Output => {
                self.counts.output += 1;
                self.rows.push(record);
            }
            Fate::Rejected => self.counts.reject("rule"),
            Fate::Quarantined => self.counts.quarantined += 1,
        }
    }
}

#[async_trait]
impl Work for ToyWork {
    fn records(&self) -> u64 {
        self.input.len() as u64
    }

    async fn step(&mut self, start: u64, _: &Arc<Control>) -> Result<u64> {
        self.process.awake().await;
        let world = self.process.world.clone();
        let slow = if world.fault(100) { world.chance.millis(10_000..200_000) } else { Duration::ZERO };
        tokio::time::sleep(world.chance.millis(50..3_000) + slow).await;
        if world.fault(60) {
            let causes = [Cause::Transient, Cause::Resource, Cause::Bug];
            return Err(failure(causes[world.chance.below(3) as usize], "a step failed"));
        }
        let end = if self.in_one_step() { self.records() } else { start + 1 };
        for number in start..end {
            self.account(self.input[number as usize]);
        }
        Ok(end)
    }

    async fn take_chunk(&mut self, place: &ChunkPlace) -> Result<ChunkData> {
        let mut data = ChunkData { counts: std::mem::take(&mut self.counts), ..ChunkData::default() };
        let shard = self.stage == Stage::Shards;
        let rows = Rows { rows: std::mem::take(&mut self.rows), written_by: if shard { 0 } else { place.epoch } };
        let bytes = Bytes::from(serde_json::to_vec(&rows).map_err(|e| failure(Cause::Bug, e.to_string()))?);
        if shard {
            let key = place.dir.dataset(&format!("shard-{}.json", place.partition));
            data.written.push(commit::write_data(&self.store, ROWS, key, bytes).await.map_err(domain)?);
        } else {
            data.objects.push((ROWS, place.key("rows.json"), bytes));
        }
        if self.stage == Stage::Index {
            data.figures.insert(SHARDS_FIGURE.to_string(), SHARDS as f64);
        }
        Ok(data)
    }
}

/// The rows in an object of the truth.
pub fn rows_in(bytes: &[u8]) -> Option<Vec<u64>> {
    serde_json::from_slice::<Rows>(bytes).ok().map(|rows| rows.rows)
}
