//! The stage that costs nothing: a record is a task, perhaps a wait, one object of 1000 bytes and the commit of its chunk.

use crate::STAGE;
use async_trait::async_trait;
use bytes::Bytes;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::{ChunkManifest, Counts};
use ip2p_pipeline::plan::{Partitioning, Plan};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::task::{Assignment, Finished};
use ip2p_worker::control::Control;
use ip2p_worker::failure::Result;
use ip2p_worker::run_partition::{ChunkData, ChunkPlace, Stages, Work, run_partition};
use ip2p_worker::session::Attempts;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a task's object.
const OBJECT: usize = 1000;

pub struct Toy {
    store: Store,
    dir: StageDir,
    partitioning: Partitioning,
    /// How long a task takes, on the clock.
    wait: Duration,
}

impl Toy {
    pub fn new(store: Store, plan: &Plan, wait: Duration) -> Self {
        Toy { store, dir: plan.dir(STAGE), partitioning: plan.partitioning, wait }
    }
}

#[async_trait]
impl Stages for Toy {
    fn store(&self) -> &Store {
        &self.store
    }

    /// There is no other stage.
    fn dir(&self, _: Stage) -> StageDir {
        self.dir
    }

    /// Every step is worth a commit.
    fn chunk(&self) -> Duration {
        Duration::ZERO
    }

    async fn open(&self, assignment: Assignment, _: Option<&ChunkManifest>) -> Result<Box<dyn Work>> {
        Ok(Box::new(Tasks { numbers: self.partitioning.range(assignment.partition), wait: self.wait }))
    }

    async fn restore(&self, _: u32, _: &[ChunkManifest], _: &Arc<Control>) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Attempts for Toy {
    async fn run(&self, assignment: Assignment, worker: &str, control: &Arc<Control>) -> Result<Finished> {
        run_partition(self, assignment, worker, control).await
    }

    fn broken(&self) -> Option<String> {
        None
    }
}

/// The tasks of one partition.
struct Tasks {
    numbers: Range<u64>,
    wait: Duration,
}

#[async_trait]
impl Work for Tasks {
    fn records(&self) -> u64 {
        self.numbers.end - self.numbers.start
    }

    async fn step(&mut self, start: u64, _: &Arc<Control>) -> Result<u64> {
        if !self.wait.is_zero() {
            tokio::time::sleep(self.wait).await;
        }
        Ok(start + 1)
    }

    async fn take_chunk(&mut self, place: &ChunkPlace) -> Result<ChunkData> {
        let text = format!("{:<OBJECT$}", format!("task {}\n", self.numbers.start + place.start));
        let counts = Counts { expected: 1, output: 1, ..Counts::default() };
        let objects = vec![("rows", place.key("rows.txt"), Bytes::from(text))];
        Ok(ChunkData { counts, objects, ..ChunkData::default() })
    }
}
