//! What coordinator and workers say to each other about one partition, in domain types.

use crate::layout::Stage;
use crate::manifest::Counts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The right and duty to work on one partition; `epoch` is larger than that of any earlier attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Assignment {
    pub stage: Stage,
    pub partition: u32,
    pub epoch: u64,
    /// Attempts at this partition that failed before, preempted ones not counted.
    pub failures: u32,
}

/// What a worker works on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    Any,
    /// These stages only, for a machine that fits them.
    Stages(Vec<Stage>),
    /// One partition; then it leaves.
    Partition { stage: Stage, partition: u32 },
}

impl Scope {
    pub fn covers(&self, other: Stage) -> bool {
        match self {
            Scope::Any => true,
            Scope::Stages(stages) => stages.contains(&other),
            Scope::Partition { stage, .. } => *stage == other,
        }
    }
}

/// What a worker asks for when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Scope(Scope),
    /// The partition that the store's list of this wave has at this place.
    Wave {
        name: String,
        index: u32,
    },
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted::Scope(Scope::Any)
    }
}

/// What the process of a worker that is sent home says to whoever started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// What it was there for is done.
    Done,
    /// It is not done: another worker may go on, here or later.
    Unfinished,
    /// The one partition that it was there for failed too often.
    GivenUp,
}

/// The partitions of one stage that one Indexed Job works on, in the order of its indexes. Written once, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    pub stage: Stage,
    pub partitions: Vec<u32>,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub assignment: Assignment,
    /// Input records done, those of earlier attempts included.
    pub done: u64,
    pub total: u64,
    /// Units made by this attempt: completions, candidates, shards.
    pub units: u64,
    /// Candidates of this attempt that passed the filter.
    pub kept: u64,
}

/// Figures of a committed partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub counts: Counts,
    /// Seconds of work in all its chunks.
    pub seconds: f64,
    pub figures: BTreeMap<String, f64>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub assignment: Assignment,
    /// On `Ok` the partition's manifest is in the store.
    pub outcome: Result<Finished, Failure>,
}

/// Why an attempt failed, by what should happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Network, store or server trouble: try again later.
    Transient,
    /// The worker must leave; not a failure of the partition.
    Preempted,
    /// Out of memory, or out of disk outside the store.
    Resource,
    /// The store has no room: the run stops, and goes on when there is.
    StoreFull,
    /// Wrong configuration, model or credentials: no retry can help, the run stops.
    BadInput,
    /// A defect of the program.
    Bug,
    /// An object that this committed partition made is missing or altered: it is made again before the next try.
    Damaged { stage: Stage, partition: u32 },
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Cause::Transient => "transient",
            Cause::Preempted => "preempted",
            Cause::Resource => "resource",
            Cause::StoreFull => "store full",
            Cause::BadInput => "bad input",
            Cause::Bug => "bug",
            Cause::Damaged { .. } => "damaged object",
        }
    }
}

/// The end of an attempt that committed no partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub cause: Cause,
    /// What, where and what to do.
    pub message: String,
}
