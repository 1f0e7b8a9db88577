//! What scheduling and committing cost: the real coordinator and worker processes, with a stage that does nothing or
//! waits, so that everything else is overhead. A task is a record: one small object and its commit.
//!
//! `bench/overhead.py` runs it beside other systems; docs/performance.md says how.

#![expect(clippy::print_stdout, reason = "what was measured is printed for the script")]

mod coordinator;
mod fill;
mod gate;
mod toy;
mod worker;

use clap::Parser;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::plan::{Partitioning, Plan};
use ip2p_tests::simulation;
use std::path::PathBuf;

/// The stage whose place the toy takes; a run of this program has no other.
const STAGE: Stage = Stage::Prompts;

#[derive(Parser)]
enum Command {
    /// Runs all tasks that are not committed, with worker processes of its own
    Run(coordinator::Arguments),
    /// Started by `run`
    Worker(worker::Arguments),
    /// Commits tasks without waiting for the disk, for a `run` that finds them done
    Fill(fill::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Run(arguments) => runtime()?.block_on(coordinator::run(arguments)),
        Command::Fill(arguments) => runtime()?.block_on(fill::run(arguments)),
        Command::Worker(arguments) => worker::run(arguments),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// What a run is made of.
#[derive(clap::Args)]
struct Size {
    /// Folder of the run
    #[arg(long)]
    store: PathBuf,
    /// Tasks of the run
    #[arg(long)]
    tasks: u32,
    /// Tasks in a partition, which workers get in one piece; each task has a commit of its own all the same
    #[arg(long, default_value_t = 1)]
    partition: u32,
}

fn plan(size: &Size) -> anyhow::Result<Plan> {
    let mut plan = simulation::plan_of(Partitioning { records: u64::from(size.tasks), partition_records: size.partition })?;
    // As pipelines have it that do not say otherwise.
    plan.spec.run.lease = std::time::Duration::from_secs(30);
    Ok(plan)
}
