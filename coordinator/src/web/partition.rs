//! What is known of one partition: from the last picture, from memory, and from the store.

use super::history::{Happened, History};
use super::screen::state_of;
use super::snapshot::{STATES, Snapshot};
use crate::text::{count, duration};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{ChunkManifest, PartitionManifest};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Result, commit};

/// Chunks and events told.
const CHUNKS: usize = 200;
const EVENTS: usize = 50;

/// Everything about one partition.
#[derive(Debug)]
pub struct Told {
    pub stage: Stage,
    pub partition: u32,
    pub state: String,
    /// Those at work on it, in words.
    pub attempts: Vec<String>,
    pub last_error: Option<Happened>,
    pub chunks: Vec<ChunkManifest>,
    /// Chunks that are not told.
    pub more: usize,
    pub events: Vec<Happened>,
}

impl Told {
    /// What needs no store; `None` when the stage has no such partition.
    pub fn at_hand(snapshot: &Snapshot, history: &History, stage: Stage, partition: u32) -> Option<Self> {
        let now = snapshot.stages.iter().find(|now| now.stage() == stage)?;
        if partition >= now.view.partitions {
            return None;
        }
        let cell = if now.cells.each == 1 { state_of(now, partition) } else { None };
        let state = cell.and_then(|cell| STATES.iter().find(|(other, _)| *other == cell)).map_or("", |(_, words)| words);
        Some(Told {
            stage,
            partition,
            state: state.to_string(),
            attempts: attempts(snapshot, stage, partition),
            last_error: history.last_error(stage, partition).cloned(),
            chunks: Vec::new(),
            more: 0,
            events: history.events().filter(|event| (event.stage, event.partition) == (stage, partition)).take(EVENTS).cloned().collect(),
        })
    }

    /// Adds what the store holds.
    pub async fn with_chunks(mut self, store: &Store, plan: &Plan) -> Result<Self> {
        let dir = plan.dir(self.stage);
        let committed: Option<PartitionManifest> = commit::read(store, &dir.manifest(self.partition)).await?;
        self.chunks = match committed {
            Some(manifest) => {
                self.state = "committed".to_string();
                manifest.chunks
            }
            None => commit::chunk_chain(store, &dir, self.partition).await?,
        };
        self.more = self.chunks.len().saturating_sub(CHUNKS);
        self.chunks.truncate(CHUNKS);
        Ok(self)
    }

    /// A few lines, for who points at it.
    pub fn lines(&self) -> String {
        let mut lines = vec![format!("{} {}", self.stage, count(self.partition.into()))];
        lines.extend((!self.state.is_empty()).then(|| self.state.clone()));
        lines.extend(self.attempts.iter().cloned());
        lines.extend(
            self.last_error.iter().map(|error| format!("{}: {}", error.what.words(), error.message.chars().take(160).collect::<String>())),
        );
        lines.join("\n")
    }
}

fn attempts(snapshot: &Snapshot, stage: Stage, partition: u32) -> Vec<String> {
    let held =
        |worker: &&super::snapshot::WorkerNow| worker.view.holds.is_some_and(|held| (held.stage, held.partition) == (stage, partition));
    let words = |worker: &super::snapshot::WorkerNow| {
        let view = &worker.view;
        let attempt = view.holds.map_or(0, |held| held.failures + 1);
        let progress = match view.progress {
            Some(progress) => format!("record {} of {}", count(progress.done), count(progress.total)),
            None => "starting".to_string(),
        };
        format!("attempt {attempt} by {}: {progress}, heartbeat {} ago", view.name, duration(view.silent))
    };
    snapshot.workers.iter().filter(held).map(words).collect()
}
