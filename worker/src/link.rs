//! How a worker speaks to its coordinator: in the domain's words, over gRPC or, in the simulation, over a bad network.

use async_trait::async_trait;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::task::{Assignment, Failure, Parting, Progress, Report};
use std::time::Duration;

/// What a worker is told when it registers.
#[derive(Clone, Debug, PartialEq)]
pub struct Welcome {
    /// What the coordinator calls this worker.
    pub worker: String,
    /// Names plan and store: what the worker says later is about them.
    pub run: String,
    pub plan: Plan,
    /// URL of the run's prefix in the object store.
    pub store_url: String,
    /// How long the coordinator bears silence.
    pub lease: Duration,
    /// Stages that are not complete: the worker loads what they need before it asks for work.
    pub open_stages: Vec<Stage>,
}

/// The answer to a request for work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Work(Assignment),
    /// There will be no more work for this worker.
    Leave(Parting, String),
}

/// The answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// False: the lease is lost; stop at the next chunk and report nothing.
    pub keep_lease: bool,
    /// Commit the chunk at hand, report, and leave.
    pub drain: bool,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The coordinator is there but does not know this worker, or has another run: register again.
    Unknown,
    /// Nobody is there, or the answer was lost; a later call may be answered.
    Silent(String),
    /// It will never be answered: wrong token, version or run.
    Refused(String),
}

/// A connection to a coordinator.
#[async_trait]
pub trait Link: Send + Sync {
    /// Where the coordinator is, for messages.
    fn place(&self) -> &str;
    /// Proposes `name`; the coordinator gives a second worker of this name another one.
    async fn register(&self, name: &str) -> Result<Welcome, Unanswered>;
    /// Says how the last attempt ended; waits until there is work, or none will come.
    async fn lease(&self, welcome: &Welcome, report: Option<Report>) -> Result<Answer, Unanswered>;
    /// Answers within `timeout`, or not at all.
    async fn heartbeat(&self, welcome: &Welcome, progress: Option<Progress>, timeout: Duration) -> Result<Pulse, Unanswered>;
    /// Says how the last attempt ended, without asking for more.
    async fn report(&self, welcome: &Welcome, report: Report) -> Result<(), Unanswered>;
    /// Says that the worker cannot work at all, and why.
    async fn unfit(&self, welcome: &Welcome, failure: Failure) -> Result<(), Unanswered>;
}
