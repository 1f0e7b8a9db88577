//! Chaos with real processes: a coordinator and workers over loopback on a real store, and faults drawn from a seed.
//!
//! The budget of faults is finite. Each falls when the run has made so many objects more, so that a slow machine sees the
//! same faults at the same work. Whoever was killed is started again, whoever sleeps wakes up; then the run must end by
//! itself, `audit` must find nothing, and the dataset must have the bytes of a run that nobody disturbed. What cannot
//! change these bytes (partitions, chunks, fused or not) is drawn from the seed too.

mod part;
mod progress;
pub mod schedule;
mod server;
mod stage;
mod verdict;

use crate::{Pipeline, repository};
use ip2p_pipeline::planted::Defect;
use schedule::Kind;
use stage::Stage;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The variable that plants a defect in a round's processes, by its name in `pipeline::planted`.
pub const PLANTED: &str = "IP2P_PLANTED";
const CAPTIONS: usize = 16;

/// The dataset of a run that nobody disturbs, by path and hash, and how many objects that run made.
pub struct Reference {
    dataset: BTreeMap<String, String>,
    objects: u64,
}

impl Reference {
    pub fn make(program: &Path) -> Self {
        let pipeline = Pipeline::new(&program.display().to_string());
        pipeline.write("captions.jsonl", &captions());
        pipeline.run_expecting(0, &["partition.records=3"]);
        Reference { dataset: pipeline.dataset(), objects: pipeline.objects().len() as u64 }
    }
}

fn captions() -> String {
    let text = fs::read_to_string(repository().join("models/tiny/captions.jsonl")).expect("the bundled captions");
    text.lines().take(CAPTIONS).map(|line| format!("{line}\n")).collect()
}

/// What a round came to.
#[derive(Debug)]
pub struct Round {
    pub seed: u64,
    /// How often each fault fell.
    pub faults: BTreeMap<&'static str, u64>,
    /// Processes started beyond the first of each part.
    pub restarts: u32,
    pub took: Duration,
    /// Files of the dataset, all as in the reference.
    pub files: usize,
    /// The faults that fell and how processes ended, with seconds since the start.
    pub history: Vec<String>,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(|(name, times)| format!("{times} {name}")).collect();
        let (total, seconds) = (self.faults.values().sum::<u64>(), self.took.as_secs_f64());
        write!(f, "seed {}: {total} faults ({}), {seconds:.1} s, {} restarts: ", self.seed, faults.join(", "), self.restarts)?;
        write!(f, "audit clean, {} files as without faults", self.files)
    }
}

/// A round that broke a guarantee, with all that is needed to look into it.
#[derive(Debug)]
pub struct Broken {
    pub seed: u64,
    pub guarantee: String,
    /// As in [`Round::history`].
    pub history: Vec<String>,
    /// The folder of the run and its logs.
    pub folder: PathBuf,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Broken { seed, guarantee, history, folder } = self;
        writeln!(f, "seed {seed}: {guarantee}")?;
        history.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "logs and settings are in {}", folder.display())
    }
}

/// What a round is made of.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The binary under test.
    pub program: &'a Path,
    pub kind: Kind,
    /// Most faults that fall.
    pub faults: u64,
    pub reference: &'a Reference,
    /// A defect that the round is to find.
    pub planted: Option<Defect>,
}

/// Lives one round.
pub fn round(setting: Setting, seed: u64) -> Result<Round, Box<Broken>> {
    let mut stage = Stage::set(setting, seed);
    let reference = setting.reference;
    let lived = stage.live().and_then(|()| verdict::verdict(&stage, reference));
    match lived {
        Ok(files) => {
            let (restarts, Stage { counted, started, history, .. }) = (stage.restarts(), stage);
            Ok(Round { seed, faults: counted, restarts, took: started.elapsed(), files, history })
        }
        Err(guarantee) => {
            let history = stage.history.clone();
            Err(Box::new(Broken { seed, guarantee, history, folder: stage.leave() }))
        }
    }
}
