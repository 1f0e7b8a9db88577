//! `run`: prepare, serve, launch, drive, finish.

use super::cluster::{self, Claimed};
use super::serve::Page;
use super::{Exit, LogArgs, PipelineArgs, RunArgs, say};
use crate::audit;
use crate::digest::Digests;
use crate::door::Door;
use crate::driver::{Driver, View};
use crate::explain::Asked;
use crate::finish;
use crate::grpc::{self, Welcome};
use crate::launcher::{self, LocalWorkers, WorkerCommand};
use crate::prepare::{self, Prepared};
use crate::progress::{Look, Progress};
use crate::scheduler::{Ending, Policy, Scheduler, Stop};
use crate::summary::Summary;
use crate::term::Term;
use crate::text::command;
use crate::web;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec::{Launcher, Spec};
use ip2p_pipeline::store::Store;
use std::collections::BTreeSet;
use std::env::VarError;
use std::io::{ErrorKind, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// Lost or preempted attempts at one partition before it is given up.
const PREEMPTIONS: u32 = 50;
/// How long the server waits for its last workers.
const GOODBYE: Duration = Duration::from_secs(2);
/// Longest token in bytes; it travels with every call.
const MAX_TOKEN: usize = 1000;
/// Records to see before the share in quarantine is judged.
const QUARANTINE_SAMPLE: u64 = 200;
/// Triplets to see before the share of kept pairs is judged.
const KEPT_SAMPLE: u64 = 1000;

pub(super) async fn run(args: RunArgs, log: LogArgs) -> Result<(), Exit> {
    let started = Instant::now();
    let (view, display) = watch::channel(View::default());
    let look = match (log.log_json, std::io::stderr().is_terminal() && !args.no_progress) {
        (true, _) => Look::Json,
        (false, true) => Look::Bars,
        (false, false) => Look::Lines,
    };
    let progress = Progress::start(display, look);
    crate::logging::init(log.verbose, log.log_json, progress.writer());
    let spec = args.pipeline.load()?;
    let max_quarantined = spec.run.max_quarantined;
    let result = run_spec(spec, &args, &log, view, &progress, started).await;
    progress.finish();
    let (summary, ending) = result?;
    // Of a run that could not begin there is nothing to sum up.
    let begun = summary.stages.iter().any(|stage| stage.committed > 0);
    if begun || !matches!(ending, Ending::Stopped(Stop::BadInput(_))) {
        say(&summary)?;
    }
    verdict(&args, max_quarantined, &summary, ending)
}

/// The exit status that an ending deserves.
fn verdict(args: &RunArgs, max_quarantined: f64, summary: &Summary, ending: Ending) -> Result<(), Exit> {
    let again = format!("Run `{}` to go on", again(&args.pipeline));
    match ending {
        Ending::Complete => within_limit(max_quarantined, summary),
        Ending::Stopped(stop @ Stop::BadInput(_)) => Err(Exit::bad_input(stop.to_string())),
        Ending::Stopped(stop @ Stop::TooManyQuarantined { .. }) => Err(Exit {
            code: Exit::TOO_MANY_QUARANTINED,
            message: format!(
                "{stop}. Their errors are in the summary above. Mend the cause; records in quarantine are not tried again by this \
                 version, so run it under another name, or raise the limit and go on"
            ),
        }),
        Ending::Stopped(stop @ Stop::TooFewKept { .. }) => Err(Exit::resumable(format!(
            "{stop}. Everything committed is kept. Look at the rejected pairs (`explain`, the index), loosen stages.filter or mend the \
             models or prompts; to go on all the same set run.min_kept=0. {again}"
        ))),
        Ending::Stopped(stop @ Stop::StoreFull(_)) => {
            Err(Exit::resumable(format!("{stop}. Everything committed is kept. Make room (`gc` removes what no manifest names). {again}")))
        }
        Ending::Stopped(stop @ (Stop::Interrupted | Stop::NoWorkers(_) | Stop::TakenOver(_) | Stop::Displaced(_))) => {
            Err(Exit::resumable(format!("{stop}. Everything committed is kept. {again}")))
        }
        Ending::Stopped(stop @ Stop::Cancelled(_)) => Err(Exit::cancelled(format!("{stop}. Everything committed is kept. {again}"))),
        Ending::Incomplete { failed } => {
            let list: Vec<String> = failed.iter().take(5).map(|(stage, p, why)| format!("  {stage} partition {p}: {why}")).collect();
            Err(Exit::resumable(format!("{} partitions failed too often:\n{}\n{again}", failed.len(), list.join("\n"))))
        }
    }
}

/// The command that goes on with this run: with other overrides it would be another one.
fn again(args: &PipelineArgs) -> String {
    let (program, pipeline) = (super::program(), args.pipeline.display().to_string());
    let overrides = args.overrides.iter().flat_map(|text| ["--set", text]);
    command([program.as_str(), "run", &pipeline].into_iter().chain(overrides))
}

/// A small run ends before its share in quarantine can be judged on the way.
fn within_limit(max_quarantined: f64, summary: &Summary) -> Result<(), Exit> {
    let over = |counts: &Counts| counts.quarantined as f64 > max_quarantined * counts.expected as f64;
    match summary.stages.iter().find(|stage| over(&stage.counts)) {
        None => Ok(()),
        Some(stage) => Err(Exit {
            code: Exit::TOO_MANY_QUARANTINED,
            message: format!(
                "the run is complete, but {} of {} records of {} are in quarantine, more than run.max_quarantined allows. Their errors \
                 are in the summary above",
                stage.counts.quarantined, stage.counts.expected, stage.stage
            ),
        }),
    }
}

async fn run_spec(
    spec: Spec,
    args: &RunArgs,
    log: &LogArgs,
    view: watch::Sender<View>,
    progress: &Progress,
    started: Instant,
) -> Result<(Summary, Ending), Exit> {
    let tls = spec.run.tls.as_ref().map(crate::tls::server).transpose().map_err(Exit::bad_input)?;
    let Prepared { store, plan, corpus } = prepare::prepare(spec).await?;
    let damaged = if args.repair { damaged(&store, &plan, progress).await? } else { BTreeSet::new() };
    if damaged.is_empty()
        && let Some(summary) = finish::finished_summary(&store, &plan).await?
    {
        // The coordinator that finished it may have been killed before it did.
        finish::tidy(&store, &plan)?;
        return Ok((summary, Ending::Complete));
    }
    let address = &plan.spec.run.listen;
    let listener = TcpListener::bind(address).await.map_err(|e| cannot_listen("run.listen", address, &e))?;
    let address = listener.local_addr().map_err(|e| Exit::resumable(e.to_string()))?;
    if tls.is_none() && !address.ip().is_loopback() {
        progress.say(&format!("warning: {}", open_to_read(address)));
    }
    // Our own processes come in here: no certificate names this machine's loopback.
    let inner = match (plan.spec.run.launcher, &tls) {
        (Launcher::Local, Some(_)) => {
            Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|e| cannot_listen("run.listen", "127.0.0.1:0", &e))?)
        }
        _ => None,
    };
    let page = page(args, &plan.spec).await?;
    let inner_address = inner.as_ref().map(TcpListener::local_addr).transpose().map_err(|e| Exit::resumable(e.to_string()))?;
    let token = token()?;
    check_launcher(plan.spec.run.launcher)?;
    let claimed = cluster::claim(&plan, &store).await?;
    // From here on an older coordinator of this run gives way, so nothing that can be refused comes later.
    let term = Term::take(&store).await?;
    let recovered = prepare::recover(&store, &plan).await?;
    // Reading what is done can take long enough for another coordinator to come and go to work.
    if let Some(newer) = term.lost().await {
        return Err(Exit::resumable(Stop::TakenOver(newer).to_string()));
    }
    let (screen, snapshots, history) = web::screen();
    screen.recovered(&recovered);
    let mut scheduler = Scheduler::new(policy(&plan), term.number, recovered);
    damaged.into_iter().for_each(|(stage, partition)| scheduler.reopen(stage, partition));
    let workers = match claimed {
        Some(claimed) => Some(Claimed::start(claimed, term.number, store.clone())),
        None => launch(&plan, log, inner_address.unwrap_or(address), &token, progress),
    };
    let welcome = Arc::new(Welcome { plan: plan.clone(), store_url: store.url().to_string(), lease: plan.spec.run.lease });
    let (requests, inbox) = mpsc::channel(1024);
    let (stop_server, stopped) = watch::channel(());
    let doors = [Some(Door::new(listener, tls)), inner.map(Door::from)].into_iter().flatten();
    let servers: Vec<_> = doors
        .map(|door| {
            let mut stopped = stopped.clone();
            tokio::spawn(grpc::serve(door, token.clone(), welcome.clone(), requests.clone(), async move {
                // Either side of the channel going away ends the server.
                let _ = stopped.changed().await;
            }))
        })
        .collect();
    drop(requests);
    let mut driver = Driver::new(scheduler, inbox, workers, &term, view, Digests::start(&store, &plan));
    if let Some(page) = page {
        progress.say(&format!("page: {}", page.url()));
        let program = super::program();
        let pipeline = args.pipeline.pipeline.display().to_string();
        let asked = Asked { program: &program, run: &pipeline, overrides: &args.pipeline.overrides };
        page.open(&store, &plan, (snapshots, history), &asked);
        driver = driver.shown_on(screen);
    }
    // Where its requests arrive: to wake this thread, which only waits, would cost more than most of them.
    let driving = tokio::spawn(driver.run(interrupts(progress)));
    let (ending, scheduler, farewell) = driving.await.map_err(|died| Exit::resumable(format!("a defect of the coordinator: {died}")))?;
    let summary = finish::finish(&store, &plan, &corpus, &scheduler, &ending, started.elapsed()).await;
    let summary = summary.map_err(|e| unfinished(&args.pipeline, e))?;
    // A worker that loses the server before it knows that the run is over takes it for a failure.
    let _ = farewell.await;
    if ending == Ending::Complete {
        finish::tidy(&store, &plan)?;
    }
    drop(stop_server);
    // Connections end by themselves when their workers leave; a worker that hangs is not waited for.
    let _ = tokio::time::timeout(GOODBYE, futures::future::join_all(servers)).await;
    Ok((summary, ending))
}

/// Partitions that have to make objects again.
async fn damaged(store: &Store, plan: &Plan, progress: &Progress) -> Result<BTreeSet<(Stage, u32)>, Exit> {
    let audit = audit::audit(store, plan, false).await?;
    let damaged = audit.mendable();
    let names: Vec<String> = damaged.iter().map(|(stage, partition)| format!("{stage} {partition}")).collect();
    progress.say(&match names.len() {
        0 => "no object is damaged".to_string(),
        n => format!("{n} partitions make damaged objects again: {}", names.join(", ")),
    });
    let repaired = |f: &&audit::Finding| f.stage.zip(f.partition).is_some_and(|maker| damaged.contains(&maker));
    match audit.findings.iter().filter(|f| !repaired(f)).count() {
        0 => {}
        n => progress.say(&format!("{n} other problems cannot be repaired so: `audit` says what to do")),
    }
    Ok(damaged)
}

/// The page's place; `None` when the user wants none.
async fn page(args: &RunArgs, spec: &Spec) -> Result<Option<Page>, Exit> {
    match args.no_web {
        true => Ok(None),
        false => Page::bind(&args.web, spec.run.tls.as_ref()).await.map(Some),
    }
}

pub(super) fn cannot_listen(what: &str, address: &str, error: &std::io::Error) -> Exit {
    let advice = match error.kind() {
        ErrorKind::AddrInUse => {
            "another program listens there, perhaps an earlier coordinator: stop it, or choose another port (0 picks a free one)"
        }
        ErrorKind::AddrNotAvailable => "this machine has no such address: 127.0.0.1 is for workers of this machine, 0.0.0.0 for all others",
        ErrorKind::PermissionDenied => "ports below 1024 are for administrators: choose a higher one",
        _ => "choose another address",
    };
    Exit::bad_input(format!("{what}: cannot listen on {address}: {error}; {advice}"))
}

fn open_to_read(address: SocketAddr) -> String {
    format!(
        "the coordinator listens on {address} without TLS: whoever can watch the network reads the workers' token. Give run.tls a \
         certificate (docs/security.md), or listen on 127.0.0.1 and forward the port through SSH or a VPN"
    )
}

/// The shards are there, but card, report or summary could not be made.
fn unfinished(args: &PipelineArgs, error: ip2p_pipeline::Error) -> Exit {
    let Exit { code, message } = Exit::from(error);
    Exit {
        code,
        message: format!(
            "{message}. All work is committed; only the card, the report or the summary is missing. Mend that and run `{}`",
            again(args)
        ),
    }
}

fn policy(plan: &Plan) -> Policy {
    let (run, stages) = (&plan.spec.run, &plan.spec.stages);
    let samples = f64::from(stages.pairs.samples);
    Policy {
        lease: run.lease,
        attempts: run.retry.attempts,
        preemptions: PREEMPTIONS,
        backoff_min: run.retry.backoff_min,
        backoff_max: run.retry.backoff_max,
        max_quarantined: run.max_quarantined,
        quarantine_sample: QUARANTINE_SAMPLE,
        min_kept: run.min_kept * f64::from(stages.filter.keep) / samples,
        kept_sample: KEPT_SAMPLE * u64::from(stages.pairs.samples),
    }
}

/// The token that the user gave.
pub(super) fn given_token() -> Result<Option<String>, Exit> {
    match std::env::var("IP2P_TOKEN") {
        Ok(token) if !(1..=MAX_TOKEN).contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) => Err(Exit::bad_input(
            "IP2P_TOKEN must be 1 to 1000 letters, digits and signs without spaces: for example of `openssl rand -hex 32`",
        )),
        Ok(token) => Ok(Some(token)),
        Err(VarError::NotUnicode(_)) => Err(Exit::bad_input("IP2P_TOKEN is not text")),
        Err(VarError::NotPresent) => Ok(None),
    }
}

/// The workers' token: given by the user, or fresh for this coordinator.
fn token() -> Result<String, Exit> {
    if let Some(token) = given_token()? {
        return Ok(token);
    }
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| Exit::resumable(format!("the system gives no random numbers: {e}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn check_launcher(launcher: Launcher) -> Result<(), Exit> {
    match launcher {
        Launcher::External if std::env::var("IP2P_TOKEN").is_err() => {
            Err(Exit::bad_input("run.launcher: external needs IP2P_TOKEN in the environment, the same for coordinator and workers"))
        }
        Launcher::Kubernetes if std::env::var("IP2P_TOKEN").is_err() => Err(Exit::bad_input(
            "run.launcher: kubernetes needs IP2P_TOKEN in the environment, with the value in the Secret that run.kubernetes.token_secret \
             names",
        )),
        Launcher::Local if !cfg!(feature = "worker") => {
            Err(Exit::bad_input("run.launcher: this program was built without the worker; use `launcher: external`"))
        }
        Launcher::External | Launcher::Local | Launcher::Kubernetes => Ok(()),
    }
}

/// Where workers find a server that listens on `address`: `0.0.0.0` is no place to connect to.
pub(super) fn reachable(address: SocketAddr, here: &str) -> String {
    if address.ip().is_unspecified() { format!("{here}:{}", address.port()) } else { address.to_string() }
}

/// What other machines may call this one.
pub(super) fn host_name() -> String {
    let name = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/etc/hostname")).unwrap_or_default();
    match name.trim() {
        "" => "127.0.0.1".to_string(),
        name => name.to_string(),
    }
}

fn launch(plan: &Plan, log: &LogArgs, address: SocketAddr, token: &str, progress: &Progress) -> Option<Box<dyn launcher::Launcher>> {
    let run = &plan.spec.run;
    match run.launcher {
        Launcher::External => {
            let (scheme, flags) = match &run.tls {
                None => ("http", ""),
                // A certificate of a public authority needs no --ca.
                Some(tls) if tls.client_ca.is_none() => ("https", " --ca CA.pem"),
                Some(_) => ("https", " --ca CA.pem --cert WORKER.pem --key WORKER-KEY.pem"),
            };
            let url = format!("{scheme}://{}", reachable(address, &host_name()));
            progress.say(&format!("waiting for workers: IP2P_TOKEN=... ip2p-worker --coordinator {url}{flags}"));
            None
        }
        // A cluster was claimed before anything else.
        Launcher::Kubernetes => None,
        Launcher::Local => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let threads = run.threads.map_or((cores / run.workers as usize).max(1), |threads| threads as usize);
            let mut log_arguments = vec!["-v".to_string(); usize::from(log.verbose)];
            log_arguments.extend(log.log_json.then(|| "--log-json".to_string()));
            let coordinator_url = format!("http://{}", reachable(address, &Ipv4Addr::LOCALHOST.to_string()));
            let command = WorkerCommand { coordinator_url, token: token.to_string(), threads, log_arguments };
            let lines = progress.lines();
            Some(Box::new(LocalWorkers::start(command, run.workers, move |line| lines.line(line))))
        }
    }
}

/// The first Ctrl-C or SIGTERM drains; the second ends the process at once.
fn interrupts(progress: &Progress) -> mpsc::Receiver<()> {
    let (send, receive) = mpsc::channel(1);
    let lines = progress.lines();
    tokio::spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
        for count in 0.. {
            tokio::select! {
                result = tokio::signal::ctrl_c() => if result.is_err() { return },
                _ = terminate.recv() => {}
            }
            if count > 0 {
                std::process::exit(i32::from(Exit::RESUMABLE));
            }
            lines.say("stopping: workers finish the step at hand and commit; once more to stop at once");
            // The driver may have ended by itself.
            let _ = send.send(()).await;
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_told_an_address_that_they_can_reach() {
        let told = |listens: &str| reachable(listens.parse().unwrap(), "gpu-head");
        assert_eq!(told("0.0.0.0:7070"), "gpu-head:7070");
        assert_eq!(told("[::]:7070"), "gpu-head:7070");
        assert_eq!(told("10.0.0.5:7070"), "10.0.0.5:7070");
        assert_eq!(told("[::1]:7070"), "[::1]:7070");
    }
}
