//! Launchers start, observe and stop workers.

mod demand;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
mod local;

pub use demand::{Demand, StageDemand};
pub use local::{LocalWorkers, WorkerCommand};

use async_trait::async_trait;

/// What a launcher has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// A worker process ended. It may be started again.
    Exited { worker: String, why: String },
    /// No worker runs and none will be started.
    AllGone { why: String },
    /// Another coordinator has taken the place of this one.
    Displaced { why: String },
    /// Somebody has removed what the run had in the cluster, and wants no more of it.
    Cancelled { why: String },
}

/// What becomes of workers when a coordinator ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// All work is done, and they have been told.
    Done,
    /// Nobody needs them any more.
    Remove,
    /// They are another coordinator's, or somebody else has removed them.
    Leave,
}

/// Starts workers, and says what becomes of them. Workers connect by themselves.
#[async_trait]
pub trait Launcher: Send {
    /// Tells what the run needs at this moment; called a few times a second.
    fn want(&mut self, demand: Demand);
    /// The next thing it has seen. May be dropped while it waits, without losing any.
    async fn next(&mut self) -> Observed;
    /// Whether its workers end with this process, so that none needs to be told.
    fn ends_with_us(&self) -> bool;
    /// Starts nothing more, and lets what it started end, removes it or leaves it.
    async fn stop(self: Box<Self>, stopping: Stopping);
}
