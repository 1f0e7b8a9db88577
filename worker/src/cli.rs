//! The worker's command line, shared by `ip2p-worker` and `ip2p-coordinator worker`.

use crate::failure::failure;
use crate::grpc::{Address, GrpcLink};
use crate::ready;
use crate::session::{self, Ended};
use crate::tls::ClientFiles;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::task::{Cause, Failure, Parting, Scope, Wanted};
use std::io::Read;
use std::process::ExitCode;
use tokio::sync::watch;

/// Connects to a coordinator and works until there is no more work.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  IP2P_TOKEN=... ip2p-worker --coordinator http://10.0.0.5:7070\n  \
                        IP2P_TOKEN=... ip2p-worker --coordinator https://gpu-head:7070 --ca ca.pem")]
pub struct WorkerArgs {
    /// Address of the coordinator, e.g. http://10.0.0.5:7070. Its token is read from IP2P_TOKEN
    #[arg(long, value_name = "URL")]
    pub coordinator: String,
    /// Name of this worker, unique in the run [default: host name and process id]
    #[arg(long)]
    pub name: Option<String>,
    /// Work for the run of this name only; a coordinator of another one refuses the worker
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// Work on these stages only
    #[arg(long, value_name = "STAGE,...", value_delimiter = ',', conflicts_with = "wave")]
    pub stages: Vec<Stage>,
    /// Work on this partition of the one stage only, then leave
    #[arg(long, value_name = "NUMBER", requires = "stages")]
    pub partition: Option<u32>,
    /// Work on one partition of this Indexed Job's list only: the one at JOB_COMPLETION_INDEX
    #[arg(long, value_name = "JOB", conflicts_with = "partition")]
    pub wave: Option<String>,
    #[command(flatten)]
    pub tls: ClientFiles,
    /// Leave when standard input closes: how a local worker learns that its coordinator died
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// Exit codes that a Kubernetes pod failure policy can tell apart.
const BAD_CONFIGURATION: u8 = 42;
/// The one partition that this worker was there for failed too often: another process would fail on it too.
const POISONED: u8 = 43;
const TRY_AGAIN: u8 = 1;
/// Success would mark the work as done.
const LEFT: u8 = 4;

/// Runs a worker; the logger must be installed.
pub fn main(args: WorkerArgs) -> ExitCode {
    crate::tls::install();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("cannot start the async runtime: {e}");
            return ExitCode::from(TRY_AGAIN);
        }
    };
    let has_parent = args.exit_with_parent;
    let result = runtime.block_on(work(args));
    // The device thread may be in the middle of a step that nobody waits for.
    runtime.shutdown_background();
    match result {
        Ok(Ended::Dismissed(Parting::GivenUp, reason)) => {
            tracing::error!("{reason}");
            ExitCode::from(POISONED)
        }
        Ok(Ended::Dismissed(parting, reason)) => {
            tracing::info!("{reason}");
            // A parent that has sent its worker away wants no other in its place.
            if parting == Parting::Done || has_parent { ExitCode::SUCCESS } else { ExitCode::from(LEFT) }
        }
        Ok(Ended::Left) => ExitCode::from(LEFT),
        Err(Failure { cause, message }) => {
            tracing::error!("{message}");
            ExitCode::from(if cause == Cause::BadInput { BAD_CONFIGURATION } else { TRY_AGAIN })
        }
    }
}

/// One thread for all that waits: models compute on a thread of their own, and what else takes long is handed to others.
/// A call to the coordinator then wakes no second thread, which would cost more than the call.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn work(args: WorkerArgs) -> Result<Ended, Failure> {
    let token = std::env::var("IP2P_TOKEN")
        .map_err(|_| failure(Cause::BadInput, "IP2P_TOKEN is not set: start the worker with the same IP2P_TOKEN as the coordinator"))?;
    let name = args.name.unwrap_or_else(default_name);
    let (ask_to_leave, leave) = watch::channel(false);
    tokio::spawn(watch_signals(ask_to_leave.clone()));
    if args.exit_with_parent {
        watch_parent(ask_to_leave);
    }
    let wanted = wanted(args.stages, args.partition, args.wave, std::env::var(INDEX).ok())?;
    let link = GrpcLink::connect(&Address { coordinator: args.coordinator, token, tls: args.tls }).await?.wanting(wanted).of_run(args.run);
    session::run(&link, &name, ready::get_ready, leave).await
}

/// Where an Indexed Job puts a pod's place in it.
const INDEX: &str = "JOB_COMPLETION_INDEX";

fn wanted(stages: Vec<Stage>, partition: Option<u32>, wave: Option<String>, index: Option<String>) -> Result<Wanted, Failure> {
    if stages.contains(&Stage::Corpus) {
        return Err(failure(Cause::BadInput, "--stages: the coordinator itself makes the corpus"));
    }
    match (&stages[..], partition, wave) {
        (_, _, Some(name)) => match index.and_then(|index| index.parse().ok()) {
            Some(index) => Ok(Wanted::Wave { name, index }),
            None => Err(failure(Cause::BadInput, format!("--wave is for pods of an Indexed Job: {INDEX} is not set to a number"))),
        },
        ([stage], Some(partition), None) => Ok(Wanted::Scope(Scope::Partition { stage: *stage, partition })),
        (_, Some(_), None) => Err(failure(Cause::BadInput, "--partition needs one stage: write for example --stages pairs --partition 17")),
        ([], None, None) => Ok(Wanted::default()),
        (_, None, None) => Ok(Wanted::Scope(Scope::Stages(stages))),
    }
}

/// Host and process id; two workers of one run cannot share both.
fn default_name() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| host.trim().to_string());
    format!("{}-{}", if host.is_empty() { "worker" } else { &host }, std::process::id())
}

/// SIGTERM and SIGINT ask the worker to leave after the step at hand.
async fn watch_signals(leave: watch::Sender<bool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::warn!("signals cannot be watched: the worker will stop at once when asked to");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    leave.send_replace(true);
}

/// A plain thread, because a blocked read of standard input would hold up the runtime's shutdown.
fn watch_parent(leave: watch::Sender<bool>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let mut input = std::io::stdin().lock();
        while matches!(input.read(&mut buffer), Ok(n) if n > 0) {}
        leave.send_replace(true);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_works_on_what_it_was_started_for() {
        let wave = |index: Option<&str>| wanted(vec![], None, Some("job".to_string()), index.map(str::to_string));
        assert_eq!(wave(Some("7")), Ok(Wanted::Wave { name: "job".to_string(), index: 7 }));
        assert!(wave(None).unwrap_err().message.contains("JOB_COMPLETION_INDEX is not set"));
        let one = Scope::Partition { stage: Stage::Pairs, partition: 17 };
        assert_eq!(wanted(vec![Stage::Pairs], Some(17), None, None), Ok(Wanted::Scope(one)));
        assert!(wanted(vec![Stage::Pairs, Stage::Filter], Some(17), None, None).is_err());
        assert!(wanted(vec![Stage::Corpus], None, None, None).is_err());
        assert_eq!(wanted(vec![], None, None, Some("3".to_string())), Ok(Wanted::default()));
    }
}
