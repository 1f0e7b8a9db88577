//! One partition, start to end: read the committed chunks, work on, commit chunk by chunk, commit the whole.

use crate::control::Control;
use crate::failure::{Result, domain, failure};
use crate::stages::{self, Env, Work};
use bytes::Bytes;
use ip2p_pipeline::commit::{self, Committed};
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::{Attempt, ChunkManifest, Counts, DataObject, PartitionManifest};
use ip2p_pipeline::task::{Assignment, Cause, Finished};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Where the objects of the chunk at hand go.
#[derive(Clone, Debug)]
pub struct ChunkPlace {
    pub dir: StageDir,
    pub partition: u32,
    pub epoch: u64,
    /// First input record of the chunk.
    pub start: u64,
}

impl ChunkPlace {
    /// The attempt-scoped key of a data object; `name` has its extension.
    pub fn key(&self, name: &str) -> String {
        self.dir.data(self.partition, self.epoch, self.start, name)
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
}

/// Runs an attempt. On `Ok` the partition's manifest is in the store, made by this attempt or another.
pub async fn run_partition(env: &Env, assignment: Assignment, worker: &str, control: &Arc<Control>) -> Result<Finished> {
    let dir = env.plan.dir(assignment.stage);
    let partition = assignment.partition;
    let done = commit::read::<PartitionManifest>(&env.store, &dir.manifest(partition)).await.map_err(domain)?;
    let mut chunks = match &done {
        Some(done) => done.chunks.clone(),
        None => commit::chunk_chain(&env.store, &dir, partition).await.map_err(domain)?,
    };
    // A committed shard is given out when its files are missing or damaged.
    if assignment.stage == Stage::Shards && !chunks.is_empty() {
        stages::restore(env, partition, &chunks, control).await?;
    }
    if let Some(done) = done {
        return Ok(finished(&done));
    }
    let attempt = Attempt { epoch: assignment.epoch, worker: worker.to_string() };
    let mut work = stages::open(env, assignment).await?;
    let total = work.records();
    loop {
        let start = chunks.last().map_or(0, |chunk| chunk.end);
        control.at_record(start, total);
        if start >= total {
            break;
        }
        let place = ChunkPlace { dir, partition, epoch: assignment.epoch, start };
        let chunk = make_chunk(env, work.as_mut(), &place, &attempt, control).await?;
        match commit::commit_chunk(&env.store, &dir, &chunk).await.map_err(domain)? {
            Committed::Ours => chunks.push(chunk),
            // An older attempt was still alive and faster; its chunk is as good as ours.
            Committed::Theirs(theirs) => chunks.push(theirs),
        }
        if control.lost() {
            return Err(failure(Cause::Preempted, "the lease was lost"));
        }
        if control.draining() && chunks.last().is_some_and(|chunk| chunk.end < total) {
            return Err(failure(Cause::Preempted, "asked to leave"));
        }
    }
    let manifest = PartitionManifest { stage: assignment.stage, partition, records: total, attempt, chunks };
    match commit::commit_partition(&env.store, &dir, &manifest).await.map_err(domain)? {
        Committed::Ours => Ok(finished(&manifest)),
        Committed::Theirs(theirs) => Ok(finished(&theirs)),
    }
}

/// Works until the chunk is worth a commit, and writes its data.
async fn make_chunk(
    env: &Env,
    work: &mut dyn Work,
    place: &ChunkPlace,
    attempt: &Attempt,
    control: &Arc<Control>,
) -> Result<ChunkManifest> {
    let started = Instant::now();
    let total = work.records();
    let mut end = place.start;
    while end < total {
        end = match work.step(end, control).await {
            // What the earlier steps made is still worth a commit.
            Err(f) if f.cause == Cause::Preempted && control.draining() && !control.lost() && end > place.start => break,
            step => step?.clamp(end + 1, total),
        };
        control.at_record(end, total);
        if control.lost() {
            return Err(failure(Cause::Preempted, "the lease was lost"));
        }
        if control.draining() || started.elapsed() >= env.plan.spec.run.chunk {
            break;
        }
    }
    let data = work.take_chunk(place).await?;
    let mut objects = data.written;
    for (role, key, bytes) in data.objects {
        objects.push(commit::write_data(&env.store, role, key, bytes).await.map_err(domain)?);
    }
    Ok(ChunkManifest {
        stage: place.dir.stage,
        partition: place.partition,
        start: place.start,
        end,
        attempt: attempt.clone(),
        counts: data.counts,
        objects,
        seconds: started.elapsed().as_secs_f64(),
        figures: data.figures,
    })
}

fn finished(manifest: &PartitionManifest) -> Finished {
    Finished { counts: manifest.counts(), seconds: manifest.seconds(), figures: manifest.figures() }
}
