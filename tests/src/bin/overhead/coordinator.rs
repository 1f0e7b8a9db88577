//! A run as `ip2p-coordinator run` makes it, from its store's probe to its last commit, without corpus and models before
//! and without a summary after.

use crate::Size;
use crate::worker::Task;
use anyhow::bail;
use ip2p_coordinator::digest::Digests;
use ip2p_coordinator::driver::{Driver, View};
use ip2p_coordinator::grpc::{self, Welcome};
use ip2p_coordinator::launcher::{LocalWorkers, WorkerCommand};
use ip2p_coordinator::prepare;
use ip2p_coordinator::scheduler::{Ending, Policy, Scheduler};
use ip2p_coordinator::term::Term;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::store::{self, Store};
use ip2p_pipeline::{commit, layout};
use std::io::Read;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    size: Size,
    #[arg(long, default_value_t = 2)]
    workers: u32,
    #[command(flatten)]
    task: Task,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let started = Instant::now();
    let plan = crate::plan(&arguments.size)?;
    let store = Store::open(&format!("file://{}", arguments.size.store.display()))?;
    let nonce = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    store::probe(&store, nonce as u64).await?;
    store.create(&layout::plan(plan.fingerprint()), commit::encode(&plan)?).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let coordinator_url = format!("http://{}", listener.local_addr()?);
    let term = Term::take(&store).await?;
    let mut recovered = prepare::recover(&store, &plan).await?;
    if let Some(newer) = term.lost().await {
        bail!("another coordinator has taken the run over (term {newer})");
    }
    // The later stages have their places and nothing to do.
    recovered.truncate(1);
    let done_before = recovered[0].committed.len();
    let scheduler = Scheduler::new(policy(&plan), term.number, recovered);
    let recovered_in = started.elapsed();

    // Whoever knows the second of the start may join: this is a measurement on one machine.
    let token = blake3::hash(&nonce.to_le_bytes()).to_hex().to_string();
    let command = WorkerCommand { coordinator_url, token: token.clone(), threads: 1, log_arguments: arguments.task.arguments() };
    let workers = LocalWorkers::start(command, arguments.workers, |line| eprintln!("{line}"));
    let welcome = Welcome { plan: plan.clone(), store_url: store.url().to_string(), lease: plan.spec.run.lease };
    let (requests, inbox) = mpsc::channel(1024);
    tokio::spawn(grpc::serve(listener, token, welcome, requests, std::future::pending()));
    let (view, _display) = watch::channel(View::default());
    let (_interrupt, interrupts) = mpsc::channel(1);
    let driver = Driver::new(scheduler, inbox, Some(Box::new(workers)), &term, view, Digests::start(&store, &plan));
    let (ending, scheduler, _farewell) = tokio::spawn(driver.run(interrupts)).await?;
    if ending != Ending::Complete {
        bail!("the run is not complete: {ending:?}");
    }
    say_done(done_before, scheduler.stages()[0].committed(), recovered_in, started.elapsed());
    // Whoever measures reads this process's CPU time before it ends.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

fn say_done(done_before: usize, committed: u32, recovered_in: Duration, took: Duration) {
    let figures = serde_json::json!({
        "done_before": done_before,
        "committed": committed,
        "recovered_seconds": recovered_in.as_secs_f64(),
        "seconds": took.as_secs_f64(),
    });
    println!("done {figures}");
}

/// As of a pipeline without `run` settings.
fn policy(plan: &Plan) -> Policy {
    let run = &plan.spec.run;
    Policy {
        lease: run.lease,
        attempts: run.retry.attempts,
        preemptions: 50,
        backoff_min: run.retry.backoff_min,
        backoff_max: run.retry.backoff_max,
        max_quarantined: run.max_quarantined,
        quarantine_sample: 200,
        min_kept: run.min_kept,
        kept_sample: 1000,
    }
}
