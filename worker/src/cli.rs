//! The worker's command line, shared by `ip2p-worker` and `ip2p-coordinator worker`.

use crate::failure::failure;
use crate::grpc::{Address, GrpcLink};
use crate::ready;
use crate::session::{self, Ended};
use crate::tls::ClientFiles;
use ip2p_pipeline::task::{Cause, Failure};
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
    #[command(flatten)]
    pub tls: ClientFiles,
    /// Leave when standard input closes: how a local worker learns that its coordinator died
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// Exit codes that a Kubernetes pod failure policy can tell apart.
const BAD_CONFIGURATION: u8 = 42;
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
    let result = runtime.block_on(work(args));
    // The device thread may be in the middle of a step that nobody waits for.
    runtime.shutdown_background();
    match result {
        Ok(Ended::Dismissed(reason)) => {
            tracing::info!("{reason}");
            ExitCode::SUCCESS
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
    let link = GrpcLink::connect(&Address { coordinator: args.coordinator, token, tls: args.tls }).await?;
    session::run(&link, &name, ready::get_ready, leave).await
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
