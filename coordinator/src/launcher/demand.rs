//! What a run needs of a launcher.

use crate::scheduler::{Scheduler, StageState};
use ip2p_pipeline::layout::Stage;

/// Most partitions of a stage that are told at once: as many as one Indexed Job can have.
const MOST: usize = 100_000;

/// The open work of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    pub stages: Vec<StageDemand>,
    /// The run is ending: nothing more is to be started.
    pub stopping: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageDemand {
    pub stage: Stage,
    /// Partitions that can be worked on or are, in order; at most [`MOST`].
    pub open: Vec<u32>,
    pub committed: u32,
    /// Partitions known so far.
    pub partitions: u32,
    /// Nothing more will become open, unless by a commit of this stage.
    pub settled: bool,
}

impl Demand {
    pub fn of(scheduler: &Scheduler) -> Self {
        let mut settled = true;
        let stages = scheduler.stages().iter().map(|stage| {
            let demand = of_stage(stage, settled);
            settled &= demand.open.is_empty();
            demand
        });
        Demand { stages: stages.collect(), stopping: scheduler.stop_reason().is_some() }
    }

    pub fn of_stage(&self, stage: Stage) -> Option<&StageDemand> {
        self.stages.iter().find(|demand| demand.stage == stage)
    }

    /// Commits of all stages: a run that goes on makes them more.
    pub fn committed(&self) -> u64 {
        self.stages.iter().map(|demand| u64::from(demand.committed)).sum()
    }
}

fn of_stage(stage: &StageState, settled: bool) -> StageDemand {
    StageDemand {
        stage: stage.stage(),
        open: stage.open_partitions().take(MOST).collect(),
        committed: stage.committed(),
        partitions: stage.len(),
        settled,
    }
}
