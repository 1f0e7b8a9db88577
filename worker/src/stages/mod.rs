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
mod row_file;
mod shards;
#[cfg(test)]
mod tests;

pub use kept::KeptCache;

use crate::control::Control;
use crate::device::Device;
use crate::failure::{Result, domain, failure};
use crate::run_partition::{Stages, Work, run_partition};
use crate::session::Attempts;
use async_trait::async_trait;
use ip2p_pipeline::commit;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::{ChunkManifest, PartitionManifest, role};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::task::{Assignment, Cause, Finished};
use std::sync::Arc;
use std::time::Duration;

/// What every stage works with.
#[derive(Clone)]
pub struct Env {
    pub store: Store,
    pub plan: Arc<Plan>,
    pub device: Device,
    /// What the shards are written from, shared by all that this worker writes.
    pub kept: Arc<KeptCache>,
}

#[async_trait]
impl Stages for Env {
    fn store(&self) -> &Store {
        &self.store
    }

    fn dir(&self, stage: Stage) -> StageDir {
        self.plan.dir(stage)
    }

    fn chunk(&self) -> Duration {
        self.plan.spec.run.chunk
    }

    async fn open(&self, assignment: Assignment, again: Option<&ChunkManifest>) -> Result<Box<dyn Work>> {
        let partition = assignment.partition;
        Ok(match assignment.stage {
            Stage::Prompts => Box::new(prompts::open(self, partition).await?),
            Stage::Pairs => Box::new(pairs::open(self, assignment, again).await?),
            Stage::Filter => Box::new(filter::open(self, assignment).await?),
            Stage::Index => Box::new(index::open(self).await?),
            Stage::Shards => Box::new(shards::open(self, partition).await?),
            Stage::Corpus => return Err(failure(Cause::Bug, "the corpus is not a stage that workers run")),
        })
    }

    async fn restore(&self, partition: u32, chunks: &[ChunkManifest], control: &Arc<Control>) -> Result<()> {
        shards::restore(self, partition, chunks, control).await
    }
}

#[async_trait]
impl Attempts for Env {
    async fn run(&self, assignment: Assignment, worker: &str, control: &Arc<Control>) -> Result<Finished> {
        run_partition(self, assignment, worker, control).await
    }

    fn broken(&self) -> Option<String> {
        self.device.broken().map(str::to_string)
    }
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
