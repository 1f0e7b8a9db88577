//! One partition, start to end: read the committed chunks, work on, commit chunk by chunk, commit the whole.

use crate::control::Control;
use crate::failure::{Result, domain, failure};
use crate::mend;
use async_trait::async_trait;
use bytes::Bytes;
use ip2p_pipeline::commit::{self, Committed};
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::{Attempt, ChunkManifest, Counts, DataObject, PartitionManifest};
use ip2p_pipeline::planted::{self, Defect};
use ip2p_pipeline::spec::Filter;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::task::{Assignment, Cause, Failure, Finished};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of images and latents after which a chunk is committed early, so that they do not fill the memory.
const CHUNK_BYTES: u64 = 128 << 20;

/// A stage at work on one partition.
#[async_trait]
pub trait Work: Send {
    /// Input records of the partition.
    fn records(&self) -> u64;

    /// Processes at least one record from `start` on; returns one past the last. A step should take seconds.
    async fn step(&mut self, start: u64, control: &Arc<Control>) -> Result<u64>;

    /// Bytes of what the steps since the last chunk have made, where that can grow large.
    fn held(&self) -> u64 {
        0
    }

    /// Hands over what the steps since the last call have made.
    async fn take_chunk(&mut self, place: &ChunkPlace) -> Result<ChunkData>;
}

/// The stages of a run, and where they read and write.
#[async_trait]
pub trait Stages: Send + Sync {
    fn store(&self) -> &Store;
    /// The folder of a stage's outputs.
    fn dir(&self, stage: Stage) -> StageDir;
    /// Most work that a kill may lose.
    fn chunk(&self) -> Duration;
    /// Opens the input of a partition; to make objects of the committed chunk `again`, or new ones.
    async fn open(&self, assignment: Assignment, again: Option<&ChunkManifest>) -> Result<Box<dyn Work>>;
    /// Writes the files of a committed partition of `shards` again: they go to the store while its one step works.
    async fn restore(&self, partition: u32, chunks: &[ChunkManifest], control: &Arc<Control>) -> Result<()>;
}

/// Where the objects of the chunk at hand go.
#[derive(Clone, Debug)]
pub struct ChunkPlace {
    pub dir: StageDir,
    pub partition: u32,
    pub epoch: u64,
    /// First input record of the chunk.
    pub start: u64,
    /// The damaged objects of a committed chunk, by key: nothing else may be written.
    pub damaged: Option<Arc<BTreeMap<String, DataObject>>>,
}

impl ChunkPlace {
    /// The attempt-scoped key of a data object; `name` has its extension.
    pub fn key(&self, name: &str) -> String {
        self.dir.data(self.partition, self.epoch, self.start, name)
    }

    /// Whether an object must be written. One of a committed chunk must be damaged, and get the bytes that its manifest
    /// describes: others are an error.
    pub fn may_write(&self, store: &Store, object: &DataObject) -> Result<bool> {
        match self.damaged.as_ref().map(|damaged| damaged.get(&object.key)) {
            None => Ok(true),
            Some(None) => Ok(false),
            Some(Some(described)) if described == object => Ok(true),
            Some(Some(_)) => Err(mend::differs(store, &object.key)),
        }
    }
}

/// What a stage made of the records of one chunk.
#[derive(Debug, Default)]
pub struct ChunkData {
    pub counts: Counts,
    /// Role, key and bytes of each object still to be written.
    pub objects: Vec<(&'static str, String, Bytes)>,
    /// Objects that the stage has written itself, because they are large.
    pub written: Vec<DataObject>,
    pub figures: BTreeMap<String, f64>,
    /// The thresholds that chose which images are stored.
    pub stored_by: Option<Filter>,
}

/// Runs an attempt. On `Ok` the partition's manifest is in the store, made by this attempt or another.
pub async fn run_partition(stages: &dyn Stages, assignment: Assignment, worker: &str, control: &Arc<Control>) -> Result<Finished> {
    let (store, dir, partition) = (stages.store(), stages.dir(assignment.stage), assignment.partition);
    // Together, because most often there is neither, and a store far away takes its time for every answer.
    let manifest = dir.manifest(partition);
    let (done, chain) = tokio::join!(commit::read::<PartitionManifest>(store, &manifest), commit::chunk_chain(store, &dir, partition));
    let done = done.map_err(domain)?;
    let mut chunks = match &done {
        Some(done) => done.chunks.clone(),
        None => chain.map_err(domain)?,
    };
    // What is committed is given out when its objects are missing or damaged.
    if assignment.stage == Stage::Shards && !chunks.is_empty() {
        stages.restore(partition, &chunks, control).await?;
    } else if done.is_some() {
        mend::mend(stages, assignment, &chunks, control).await?;
    }
    if let Some(done) = done {
        return Ok(finished(&done));
    }
    let attempt = Attempt { epoch: assignment.epoch, worker: worker.to_string() };
    let mut work = stages.open(assignment, None).await?;
    let total = work.records();
    loop {
        let mut start = chunks.last().map_or(0, |chunk| chunk.end);
        if planted::has(Defect::ChainWithGap) && chunks.len() == 1 {
            start += 1;
        }
        control.at_record(start, total);
        if start >= total {
            break;
        }
        let place = ChunkPlace { dir, partition, epoch: assignment.epoch, start, damaged: None };
        let (chunk, failed) = make_chunk(stages, work.as_mut(), &place, &attempt, control).await?;
        match commit::commit_chunk(store, &dir, &chunk).await.map_err(domain)? {
            Committed::Ours => chunks.push(chunk),
            // Another attempt is alive and faster: its chunks are as good as ours, and it may be further by now.
            Committed::Theirs(_) if planted::has(Defect::OwnChunkDespiteTheirs) => chunks.push(chunk),
            Committed::Theirs(_) => chunks = commit::chunk_chain(store, &dir, partition).await.map_err(domain)?,
        }
        if let Some(f) = failed {
            return Err(f);
        }
        if control.lost() {
            return Err(failure(Cause::Preempted, "the lease was lost"));
        }
        if control.draining() && planted::has(Defect::PartialPartition) {
            break;
        }
        if control.draining() && chunks.last().is_some_and(|chunk| chunk.end < total) {
            return Err(failure(Cause::Preempted, "asked to leave"));
        }
    }
    let manifest = PartitionManifest { stage: assignment.stage, partition, records: total, attempt, chunks };
    let committed = commit::commit_partition(store, &dir, &manifest).await;
    if committed.is_err() && planted::has(Defect::SuccessWithoutManifest) {
        return Ok(finished(&manifest));
    }
    match committed.map_err(domain)? {
        Committed::Ours => Ok(finished(&manifest)),
        Committed::Theirs(theirs) => Ok(finished(&theirs)),
    }
}

/// Works until the chunk is worth a commit or a step fails, and writes the data of all steps before.
async fn make_chunk(
    stages: &dyn Stages,
    work: &mut dyn Work,
    place: &ChunkPlace,
    attempt: &Attempt,
    control: &Arc<Control>,
) -> Result<(ChunkManifest, Option<Failure>)> {
    let started = Instant::now();
    let total = work.records();
    let (mut end, mut failed) = (place.start, None);
    while end < total {
        end = match work.step(end, control).await {
            // What the earlier steps made is still worth a commit.
            Err(f) if !control.lost() && end > place.start => {
                failed = Some(f);
                break;
            }
            step => step?.clamp(end + 1, total),
        };
        control.at_record(end, total);
        if control.lost() {
            return Err(failure(Cause::Preempted, "the lease was lost"));
        }
        if control.draining() || started.elapsed() >= stages.chunk() || work.held() >= CHUNK_BYTES {
            break;
        }
    }
    let data = work.take_chunk(place).await?;
    let mut objects = data.written;
    for (role, key, bytes) in data.objects {
        objects.push(commit::write_data(stages.store(), role, key, bytes).await.map_err(domain)?);
    }
    let chunk = ChunkManifest {
        stage: place.dir.stage,
        partition: place.partition,
        start: place.start,
        end,
        attempt: attempt.clone(),
        counts: data.counts,
        objects,
        seconds: started.elapsed().as_secs_f64(),
        figures: data.figures,
        stored_by: data.stored_by,
    };
    Ok((chunk, failed))
}

fn finished(manifest: &PartitionManifest) -> Finished {
    Finished { counts: manifest.counts(), seconds: manifest.seconds(), figures: manifest.figures() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::loaded::Models;
    use crate::stages::Env;
    use crate::testing;

    /// Ten records; the one at `fails_at` cannot be processed.
    struct Scripted {
        fails_at: u64,
        /// Bytes that each record holds.
        weight: u64,
        done: u64,
    }

    #[async_trait]
    impl Work for Scripted {
        fn records(&self) -> u64 {
            10
        }

        async fn step(&mut self, start: u64, _: &Arc<Control>) -> Result<u64> {
            if start == self.fails_at {
                return Err(failure(Cause::Bug, "record 4 is broken"));
            }
            self.done += 1;
            Ok(start + 1)
        }

        fn held(&self) -> u64 {
            self.done * self.weight
        }

        async fn take_chunk(&mut self, _: &ChunkPlace) -> Result<ChunkData> {
            let counts = Counts { expected: self.done, output: self.done, ..Counts::default() };
            Ok(ChunkData { counts, ..ChunkData::default() })
        }
    }

    async fn env() -> Env {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = testing::plan(dir.path());
        plan.spec.run.chunk = std::time::Duration::from_secs(3600);
        let device = Device::start(Models::prepare(&plan.spec).await.unwrap()).unwrap();
        Env { store: Store::memory(), plan: Arc::new(plan), device, kept: Arc::default() }
    }

    #[tokio::test]
    async fn what_was_done_before_a_failure_is_worth_a_commit() {
        let env = env().await;
        let place = |start| ChunkPlace { dir: env.plan.dir(Stage::Pairs), partition: 0, epoch: 1, start, damaged: None };
        let attempt = Attempt { epoch: 1, worker: "w".to_string() };
        let (mut work, control) = (Scripted { fails_at: 4, weight: 0, done: 0 }, Arc::new(Control::default()));
        let (chunk, failed) = make_chunk(&env, &mut work, &place(0), &attempt, &control).await.unwrap();
        assert_eq!((chunk.start, chunk.end, chunk.counts.output), (0, 4, 4));
        assert_eq!(failed.unwrap().message, "record 4 is broken");
        let nothing_done = make_chunk(&env, &mut work, &place(4), &attempt, &control).await.unwrap_err();
        assert_eq!(nothing_done.cause, Cause::Bug);
    }

    #[tokio::test]
    async fn a_chunk_ends_before_it_fills_the_memory() {
        let env = env().await;
        let place = ChunkPlace { dir: env.plan.dir(Stage::Pairs), partition: 0, epoch: 1, start: 0, damaged: None };
        let attempt = Attempt { epoch: 1, worker: "w".to_string() };
        let mut work = Scripted { fails_at: 99, weight: CHUNK_BYTES / 3, done: 0 };
        let (chunk, _) = make_chunk(&env, &mut work, &place, &attempt, &Arc::new(Control::default())).await.unwrap();
        assert_eq!((chunk.start, chunk.end), (0, 4));
    }
}
