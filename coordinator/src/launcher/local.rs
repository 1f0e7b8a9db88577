//! Worker processes on this machine: the coordinator runs its own binary again, as `worker`.

use super::{Demand, Launcher, Observed, Stopping};
use async_trait::async_trait;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Failures in a row within [`SHORT_LIFE`] of a start before a slot is given up. A process that was killed from
/// outside did not fail.
const SHORT_LIVES: u32 = 5;
const SHORT_LIFE: Duration = Duration::from_secs(20);
/// The exit code of a worker whose configuration is wrong: starting it again cannot help.
const BAD_CONFIGURATION: i32 = 42;
const RESTART_DELAY: Duration = Duration::from_millis(200);

/// How worker processes are started.
#[derive(Clone)]
pub struct WorkerCommand {
    pub coordinator_url: String,
    pub token: String,
    /// CPU threads of each process.
    pub threads: usize,
    /// Log options handed on, such as `-v`.
    pub log_arguments: Vec<String>,
}

/// A number of slots, each with one live process that is started again when it dies.
pub struct LocalWorkers {
    observed: mpsc::Receiver<Observed>,
    stop: watch::Sender<bool>,
    // Dropping the set aborts the slots, and with them their children (`kill_on_drop`).
    slots: JoinSet<()>,
}

impl LocalWorkers {
    pub fn start(command: WorkerCommand, slots: u32, log: impl Fn(&str) + Clone + Send + Sync + 'static) -> Self {
        let (send, observed) = mpsc::channel(64);
        let (stop, stopped) = watch::channel(false);
        let mut set = JoinSet::new();
        for slot in 0..slots {
            set.spawn(keep_alive(slot, command.clone(), send.clone(), stopped.clone(), log.clone()));
        }
        LocalWorkers { observed, stop, slots: set }
    }

    /// Ends the processes, and waits until they have ended: nothing of them writes any more.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.slots.join_all().await;
    }
}

#[async_trait]
impl Launcher for LocalWorkers {
    /// There are as many as the spec says, whatever there is to do.
    fn want(&mut self, _: Demand) {}

    /// The next event; `AllGone` once every slot has ended.
    async fn next(&mut self) -> Observed {
        match self.observed.recv().await {
            Some(observed) => observed,
            None => Observed::AllGone { why: "every local worker process ended; its last error is in the log above".to_string() },
        }
    }

    fn ends_with_us(&self) -> bool {
        true
    }

    /// Its processes end with us whoever comes after.
    async fn stop(self: Box<Self>, _: Stopping) {
        LocalWorkers::stop(*self).await;
    }
}

/// Keeps one slot filled until its process leaves by itself or keeps dying.
async fn keep_alive(
    slot: u32,
    command: WorkerCommand,
    observed: mpsc::Sender<Observed>,
    mut stopped: watch::Receiver<bool>,
    log: impl Fn(&str) + Sync,
) {
    let mut short_lives = 0;
    for start in 0u32.. {
        let worker = format!("local-{slot}.{start}");
        let born = Instant::now();
        let ended = match spawn(&command, &worker) {
            Ok(child) => supervise(child, &mut stopped, &log).await,
            Err(e) => Err(e),
        };
        let (code, why) = match ended {
            Ok(status) if status.success() => return,
            Ok(status) => (status.code(), format!("its process ended: {status}")),
            Err(e) => (Some(BAD_CONFIGURATION), format!("its process could not be run: {e}")),
        };
        if *stopped.borrow() {
            return;
        }
        let failed = code.is_some();
        short_lives = if failed && born.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
        if observed.send(Observed::Exited { worker, why }).await.is_err() || short_lives >= SHORT_LIVES || code == Some(BAD_CONFIGURATION) {
            return;
        }
        tokio::time::sleep(RESTART_DELAY * (1 + short_lives)).await;
    }
}

fn spawn(command: &WorkerCommand, worker: &str) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg("worker")
        .args(["--coordinator", &command.coordinator_url, "--name", worker, "--exit-with-parent"])
        .args(&command.log_arguments)
        .env("IP2P_TOKEN", &command.token)
        .env("RAYON_NUM_THREADS", command.threads.to_string())
        // Its end of file tells the worker that the coordinator died, even by kill -9.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A Ctrl-C in the terminal reaches the coordinator alone, which drains its workers.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Forwards what the process logs until it ends or has to.
async fn supervise(mut child: Child, stopped: &mut watch::Receiver<bool>, log: &(impl Fn(&str) + Sync)) -> std::io::Result<ExitStatus> {
    let _lifeline = child.stdin.take();
    tokio::select! {
        biased;
        logged = forward(&mut child, log) => logged?,
        // An error means that nobody can stop it later: it ends now.
        () = async { drop(stopped.wait_for(|stopped| *stopped).await) } => child.start_kill()?,
    }
    child.wait().await
}

async fn forward(child: &mut Child, log: &(impl Fn(&str) + Sync)) -> std::io::Result<()> {
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        // Drivers and the C library write there too, and not always UTF-8.
        while stderr.read_until(b'\n', &mut line).await? > 0 {
            log(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
            line.clear();
        }
    }
    Ok(())
}
