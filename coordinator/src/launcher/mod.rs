//! Launchers start, observe and stop workers.

mod local;

pub use local::{LocalWorkers, WorkerCommand};

/// What a launcher has seen.
#[derive(Debug)]
pub enum Observed {
    /// A worker process ended. It may be started again.
    Exited { worker: String, why: String },
    /// No worker runs and none will be started.
    AllGone { why: String },
}
