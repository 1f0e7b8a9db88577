//! The five stages. Each turns the input records of one partition into chunks of output.

mod bundle;
mod filter;
mod index;
mod kept;
mod latents;
mod local;
mod pairs;
mod patience;
mod pool;
mod prompts;
mod shards;
#[cfg(test)]
mod tests;

pub use kept::KeptCache;

use crate::control::Control;
use crate::device::Device;
use crate::failure::{Result, domain, failure};
use crate::run_partition::{ChunkData, ChunkPlace};
use async_trait::async_trait;
use ip2p_pipeline::commit;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{ChunkManifest, PartitionManifest, role};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::task::{Assignment, Cause};
use std::sync::Arc;

/// What every stage works with.
#[derive(Clone)]
pub struct Env {
    pub store: Store,
    pub plan: Arc<Plan>,
    pub device: Device,
    /// What the shards are written from, shared by all that this worker writes.
    pub kept: Arc<KeptCache>,
}

/// A stage at work on one partition.
#[async_trait]
pub trait Work: Send {
    /// Input records of the partition.
    fn records(&self) -> u64;

    /// Processes at least one record from `start` on; returns one past the last. A step should take seconds.
    async fn step(&mut self, start: u64, control: &Arc<Control>) -> Result<u64>;

    /// Hands over what the steps since the last call have made.
    async fn take_chunk(&mut self, place: &ChunkPlace) -> Result<ChunkData>;
}

/// Opens the partition's input.
pub async fn open(env: &Env, assignment: Assignment) -> Result<Box<dyn Work>> {
    let partition = assignment.partition;
    Ok(match assignment.stage {
        Stage::Prompts => Box::new(prompts::open(env, partition).await?),
        Stage::Pairs => Box::new(pairs::open(env, assignment).await?),
        Stage::Filter => Box::new(filter::open(env, assignment).await?),
        Stage::Index => Box::new(index::open(env).await?),
        Stage::Shards => Box::new(shards::open(env, partition).await?),
        Stage::Corpus => return Err(failure(Cause::Bug, "the corpus is not a stage that workers run")),
    })
}

/// Writes the files of a committed partition of `shards` again; no other stage has objects that can be written twice.
pub async fn restore(env: &Env, partition: u32, chunks: &[ChunkManifest], control: &Arc<Control>) -> Result<()> {
    shards::restore(env, partition, chunks, control).await
}

/// The manifest of a partition that must be committed before this stage starts.
async fn input(env: &Env, stage: Stage, partition: u32) -> Result<PartitionManifest> {
    let key = env.plan.dir(stage).manifest(partition);
    let manifest = commit::read(&env.store, &key).await.map_err(domain)?;
    manifest.ok_or_else(|| failure(Cause::Transient, format!("{} is not committed yet", env.store.url_of(&key))))
}

/// All rows of one role in a partition, in input order.
async fn rows<T: Table>(env: &Env, manifest: &PartitionManifest, role: &str) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for object in manifest.objects(role) {
        let bytes = commit::read_data(&env.store, object).await.map_err(domain)?;
        all.append(&mut T::decode(&env.store.url_of(&object.key), bytes).map_err(domain)?);
    }
    Ok(all)
}
