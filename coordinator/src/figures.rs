//! What became of the records of each stage: from a scheduler that has just run, or from the store.

use crate::prepare;
use crate::scheduler::{Recovered, Scheduler, StageState};
use ip2p_pipeline::Result;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{Counts, PartitionManifest, SHARDS_FIGURE};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::store::Store;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Figures of the committed partitions of one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageFigures {
    pub stage: Stage,
    pub committed: u32,
    /// All partitions; `None` for `shards` before the index says it.
    pub partitions: Option<u32>,
    pub counts: Counts,
    /// Seconds of work, over all workers.
    pub seconds: f64,
    /// Further figures, such as token counts.
    pub figures: BTreeMap<String, f64>,
}

impl StageFigures {
    /// Figures of no partition.
    pub(crate) fn none(stage: Stage) -> Self {
        let (counts, figures) = (Counts::default(), BTreeMap::new());
        StageFigures { stage, committed: 0, partitions: None, counts, seconds: 0.0, figures }
    }

    /// Figures of one committed partition.
    pub(crate) fn of(manifest: &PartitionManifest) -> Self {
        let (stage, counts, figures) = (manifest.stage, manifest.counts(), manifest.figures());
        StageFigures { stage, committed: 1, partitions: None, counts, seconds: manifest.seconds(), figures }
    }

    /// Adds the figures of other partitions.
    pub(crate) fn add(&mut self, other: &StageFigures) {
        self.committed += other.committed;
        self.counts.add(&other.counts);
        self.seconds += other.seconds;
        for (name, value) in &other.figures {
            *self.figures.entry(name.clone()).or_default() += value;
        }
    }

    pub fn complete(&self) -> bool {
        self.partitions == Some(self.committed)
    }

    /// One of the further figures as a whole number; 0 when there is none.
    pub fn figure(&self, name: &str) -> u64 {
        self.figures.get(name).map_or(0, |value| *value as u64)
    }
}

/// Figure of a stage: units that attempts made for nothing, because another was first.
pub(crate) const WASTED_FIGURE: &str = "wasted_units";

/// Figures of all stages at the end of a run.
pub(crate) fn of_scheduler(scheduler: &Scheduler) -> Vec<StageFigures> {
    let figures = |stage: &StageState| StageFigures {
        stage: stage.stage(),
        committed: stage.committed(),
        partitions: Some(stage.len()),
        counts: stage.counts().clone(),
        seconds: stage.seconds(),
        figures: with_waste(stage),
    };
    size_shards(scheduler.stages().iter().map(figures).collect())
}

fn with_waste(stage: &StageState) -> BTreeMap<String, f64> {
    let mut figures = stage.figures().clone();
    if stage.wasted_units() > 0 {
        figures.insert(WASTED_FIGURE.to_string(), stage.wasted_units() as f64);
    }
    figures
}

/// Figures of all stages from the manifests in the store.
pub(crate) async fn of_store(store: &Store, plan: &Plan) -> Result<Vec<StageFigures>> {
    Ok(of_recovery(prepare::recover(store, plan).await?))
}

/// Figures of all stages from what was recovered.
pub(crate) fn of_recovery(recovered: Vec<Recovered>) -> Vec<StageFigures> {
    size_shards(recovered.into_iter().map(of_recovered).collect())
}

fn of_recovered(recovered: Recovered) -> StageFigures {
    let Recovered { stage, partitions, committed, .. } = recovered;
    let mut figures = BTreeMap::new();
    let (mut counts, mut seconds) = (Counts::default(), 0.0);
    for (_, finished) in &committed {
        counts.add(&finished.counts);
        seconds += finished.seconds;
        for (name, value) in &finished.figures {
            *figures.entry(name.clone()).or_default() += value;
        }
    }
    StageFigures { stage, committed: committed.len() as u32, partitions: Some(partitions), counts, seconds, figures }
}

/// The index says how many shards there are.
fn size_shards(mut stages: Vec<StageFigures>) -> Vec<StageFigures> {
    let index = stages.iter().find(|stage| stage.stage == Stage::Index && stage.complete());
    let shards = index.map(|index| index.figure(SHARDS_FIGURE) as u32);
    if let Some(stage) = stages.iter_mut().find(|stage| stage.stage == Stage::Shards) {
        stage.partitions = shards;
    }
    stages
}
