//! What all parts of a simulation share: luck, the truth about the store, and the guarantees, checked at every event.

use super::chance::Chance;
use bytes::Bytes;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::{ChunkManifest, DataObject, PartitionManifest};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::task::Assignment;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Events remembered for whoever reads about a violation.
const TRACE: usize = 80;

pub struct World {
    pub chance: Chance,
    pub plan: Arc<Plan>,
    /// Failed and preempted attempts at one partition before a coordinator gives it up; none does where there is no cap.
    pub caps: Option<(u32, u32)>,
    /// Faults end here, so that a sound program must come to its end.
    calm: Instant,
    started: Instant,
    state: Mutex<State>,
    alarm: Notify,
}

#[derive(Default)]
struct State {
    /// The store as it really is, whatever anyone was told.
    objects: BTreeMap<String, Bytes>,
    /// Data objects that a manifest names.
    named: BTreeMap<String, DataObject>,
    /// The largest epoch of each term.
    epochs: BTreeMap<u64, u64>,
    granted: BTreeSet<u64>,
    /// Attempts whose worker knows that its lease is lost, and the chunks that they have committed since.
    told_lost: BTreeMap<u64, u32>,
    violation: Option<String>,
    trace: VecDeque<String>,
    faults: u64,
}

/// What an object is, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Chunk,
    Partition,
    /// Created once, never changed: terms and plans.
    Fixed,
    Data,
}

fn kind(key: &str) -> Kind {
    let mut parts = key.split('/');
    match (parts.next(), parts.nth(1)) {
        (Some("terms" | "plans"), _) => Kind::Fixed,
        (_, Some("chunks")) => Kind::Chunk,
        (_, Some("manifests")) => Kind::Partition,
        _ => Kind::Data,
    }
}

impl World {
    pub fn new(seed: u64, plan: Plan, stormy: Duration) -> Self {
        let started = Instant::now();
        let chance = Chance::new(seed);
        let caps = chance.one_in(2).then(|| (2 + chance.below(4) as u32, 2 + chance.below(8) as u32));
        World { chance, plan: Arc::new(plan), caps, calm: started + stormy, started, state: Mutex::default(), alarm: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One time in `n` while faults are allowed.
    pub fn fault(&self, n: u64) -> bool {
        let struck = Instant::now() < self.calm && self.chance.one_in(n);
        self.state().faults += u64::from(struck);
        struck
    }

    pub fn is_calm(&self) -> bool {
        Instant::now() >= self.calm
    }

    pub fn faults(&self) -> u64 {
        self.state().faults
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        let line = format!("{:>9.3} s  {}", self.started.elapsed().as_secs_f64(), what());
        let trace = &mut self.state().trace;
        if trace.len() == TRACE {
            trace.pop_front();
        }
        trace.push_back(line);
    }

    /// Records the first broken guarantee and ends the simulation.
    pub fn violated(&self, what: String) {
        self.note(|| format!("VIOLATION: {what}"));
        self.state().violation.get_or_insert(what);
        self.alarm.notify_one();
    }

    /// Resolves when a guarantee was broken.
    pub async fn alarm(&self) {
        self.alarm.notified().await;
    }

    pub fn verdict(&self) -> Option<(String, Vec<String>)> {
        let state = self.state();
        state.violation.clone().map(|violation| (violation, state.trace.iter().cloned().collect()))
    }

    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.state().objects.get(key).cloned()
    }

    pub fn keys(&self, prefix: &str) -> Vec<(String, u64)> {
        let prefix = format!("{}/", prefix.trim_end_matches('/'));
        let state = self.state();
        let below = state.objects.iter().filter(|(key, _)| prefix == "/" || key.starts_with(&prefix));
        below.map(|(key, bytes)| (key.clone(), bytes.len() as u64)).collect()
    }

    /// Writes an object into the truth; with `once`, only if there is none. Says whether it was written.
    pub fn put(&self, key: &str, bytes: Bytes, once: bool) -> bool {
        let before = self.get(key);
        if before.is_some() && once {
            return false;
        }
        if let Some(broken) = self.broken_by(key, &bytes, before.as_deref()) {
            self.violated(format!("{key}: {broken}"));
        }
        self.state().objects.insert(key.to_string(), bytes);
        true
    }

    /// Whether a manifest names this data object.
    pub fn names(&self, key: &str) -> bool {
        self.state().named.contains_key(key)
    }

    /// A disk forgets: an object that a manifest names is cut, altered or gone when it is read.
    pub fn rot(&self, key: &str) {
        let mut state = self.state();
        let Some(bytes) = state.objects.get(key).filter(|_| state.named.contains_key(key)).cloned() else { return };
        match self.chance.below(3) {
            0 => drop(state.objects.remove(key)),
            1 => drop(state.objects.insert(key.to_string(), bytes.slice(..bytes.len() / 2))),
            _ => drop(state.objects.insert(key.to_string(), bytes.iter().map(|byte| byte ^ 1).collect())),
        }
    }

    pub fn delete(&self, key: &str) {
        self.violated(format!("{key}: a run removes nothing"));
        self.state().objects.remove(key);
    }

    /// Which guarantee a write breaks.
    fn broken_by(&self, key: &str, bytes: &[u8], before: Option<&[u8]>) -> Option<String> {
        match kind(key) {
            Kind::Chunk | Kind::Partition | Kind::Fixed if before.is_some() => Some("what was created once was changed".to_string()),
            Kind::Fixed => None,
            Kind::Chunk => self.broken_chunk(bytes),
            Kind::Partition => self.broken_partition(bytes),
            Kind::Data => {
                let named = self.state().named.get(key).cloned()?;
                (named != DataObject::describe(&named.role, named.key.clone(), bytes))
                    .then(|| "an object that a manifest names was changed".to_string())
            }
        }
    }

    fn broken_chunk(&self, bytes: &[u8]) -> Option<String> {
        let chunk: ChunkManifest = match serde_json::from_slice(bytes) {
            Ok(chunk) => chunk,
            Err(e) => return Some(format!("it is no manifest: {e}")),
        };
        for object in &chunk.objects {
            let held = self.get(&object.key).map(|bytes| DataObject::describe(&object.role, object.key.clone(), &bytes));
            if held.as_ref() != Some(object) {
                return Some(format!("it was committed before its data: {}", object.key));
            }
        }
        if !chunk.counts.balanced() {
            return Some("records are unaccounted for".to_string());
        }
        if self.chain(chunk.stage, chunk.partition).last().map_or(0, |last| last.end) != chunk.start {
            return Some(format!("it starts at record {}, where no chunk ended", chunk.start));
        }
        let mut state = self.state();
        if let Some(since) = state.told_lost.get_mut(&chunk.attempt.epoch) {
            *since += 1;
            // The one at hand may end.
            if *since > 1 {
                return Some(format!("{} went on although it was told that its lease is lost", chunk.attempt.worker));
            }
        }
        chunk.objects.into_iter().for_each(|object| drop(state.named.insert(object.key.clone(), object)));
        None
    }

    /// The chunks of a partition as they are.
    fn chain(&self, stage: Stage, partition: u32) -> Vec<ChunkManifest> {
        let dir = self.plan.dir(stage);
        let mut chain: Vec<ChunkManifest> = Vec::new();
        while let Some(chunk) = self.read(&dir.chunk(partition, chain.last().map_or(0, |chunk| chunk.end))) {
            chain.push(chunk);
        }
        chain
    }

    fn read<M: serde::de::DeserializeOwned>(&self, key: &str) -> Option<M> {
        serde_json::from_slice(&self.get(key)?).ok()
    }

    fn broken_partition(&self, bytes: &[u8]) -> Option<String> {
        let manifest: PartitionManifest = match serde_json::from_slice(bytes) {
            Ok(manifest) => manifest,
            Err(e) => return Some(format!("it is no manifest: {e}")),
        };
        if manifest.chunks != self.chain(manifest.stage, manifest.partition) {
            return Some("its chunks are not those that were committed".to_string());
        }
        let end = manifest.chunks.last().map_or(0, |chunk| chunk.end);
        (end != manifest.records).then(|| format!("it has {end} of {} records", manifest.records))
    }

    /// The manifest of a partition as it is.
    pub fn partition(&self, stage: Stage, partition: u32) -> Option<PartitionManifest> {
        self.read(&self.plan.dir(stage).manifest(partition))
    }

    fn committed(&self, stage: Stage) -> usize {
        let dir: StageDir = self.plan.dir(stage);
        self.keys(&dir.manifests()).len()
    }

    /// A coordinator has given out an attempt.
    pub fn granted(&self, assignment: Assignment) {
        let Assignment { stage, partition, epoch, .. } = assignment;
        let input = match stage {
            Stage::Corpus | Stage::Prompts => true,
            Stage::Pairs => self.partition(Stage::Prompts, partition).is_some(),
            Stage::Filter => self.partition(Stage::Pairs, partition).is_some(),
            Stage::Index => self.plan.partitioning.partitions().is_ok_and(|all| self.committed(Stage::Filter) == all as usize),
            Stage::Shards => self.partition(Stage::Index, 0).is_some(),
        };
        if !input {
            self.violated(format!("{stage} partition {partition} was given out before its input was committed"));
        }
        let mut state = self.state();
        let fresh = state.granted.insert(epoch);
        // An older coordinator that wakes up late goes on with its own term: commits fence it, not epochs.
        let last = state.epochs.entry(epoch >> 32).or_default();
        let grew = epoch > *last;
        *last = epoch.max(*last);
        drop(state);
        if !(fresh && grew) {
            self.violated(format!("{stage} partition {partition}: epoch {epoch:x} was given out again or went back"));
        }
    }

    /// A worker has heard that its lease is lost.
    pub fn told_lost(&self, assignment: Assignment) {
        self.state().told_lost.entry(assignment.epoch).or_default();
    }

    /// A worker says that a partition is committed.
    pub fn reported_done(&self, assignment: Assignment) {
        let Assignment { stage, partition, .. } = assignment;
        if self.partition(stage, partition).is_none() {
            self.violated(format!("{stage} partition {partition} was reported as done and is not committed"));
        }
    }
}
