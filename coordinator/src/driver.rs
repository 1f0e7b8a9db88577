//! The one select loop: everything that happens becomes an event for the scheduler, every command an effect.

use crate::digest::Digests;
use crate::grpc::{HeartbeatAnswer, LeaseAnswer, Registered, Request};
use crate::launcher::{Demand, Launcher, Observed, Stopping};
use crate::scheduler::{Command, Ending, Event, Notice, Scheduler, Stop, UNDELIVERED};
use crate::term::Term;
use crate::web::Screen;
use ip2p_pipeline::task::Parting;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often leases are checked and the progress display gets a new picture.
const TICK: Duration = Duration::from_millis(200);
/// How long late workers are told to leave after the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// The running coordinator.
pub struct Driver {
    scheduler: Scheduler,
    started: Instant,
    requests: mpsc::Receiver<Request>,
    workers: Option<Box<dyn Launcher>>,
    taken_over: mpsc::Receiver<u32>,
    view: watch::Sender<View>,
    screen: Option<Screen>,
    digests: Digests,
    /// In order, so that what a dying coordinator wakes is the same in every replay.
    waiting_leases: BTreeMap<String, oneshot::Sender<LeaseAnswer>>,
    /// Workers that know that there is no more work.
    dismissed: BTreeSet<String>,
    /// Answers to the request at hand.
    heartbeat: Option<oneshot::Sender<HeartbeatAnswer>>,
    report: Option<oneshot::Sender<bool>>,
}

/// A picture of the run for whoever displays it.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub stages: Vec<StageView>,
    pub workers: Vec<WorkerView>,
    /// Why there is no worker, while there is none.
    pub deserted: Option<String>,
    /// Why the run is stopping, if it is.
    pub stopping: Option<String>,
}

#[derive(Clone, Debug)]
pub struct StageView {
    pub stage: ip2p_pipeline::layout::Stage,
    pub partitions: u32,
    pub committed: u32,
    pub counts: ip2p_pipeline::manifest::Counts,
    /// Sum of the fractions done of the partitions at work.
    pub in_progress: f64,
    /// Units that attempts at work have made.
    pub units_in_progress: u64,
    pub kept_in_progress: u64,
}

#[derive(Clone, Debug)]
pub struct WorkerView {
    pub name: String,
    pub device: String,
    pub progress: Option<ip2p_pipeline::task::Progress>,
    pub holds: Option<ip2p_pipeline::task::Assignment>,
    /// Seconds since it was last heard of.
    pub silent: f64,
}

impl Driver {
    pub fn new(
        scheduler: Scheduler,
        requests: mpsc::Receiver<Request>,
        workers: Option<Box<dyn Launcher>>,
        term: &Term,
        view: watch::Sender<View>,
        digests: Digests,
    ) -> Self {
        Driver {
            scheduler,
            started: Instant::now(),
            requests,
            workers,
            taken_over: term.watch(),
            view,
            screen: None,
            digests,
            waiting_leases: BTreeMap::new(),
            dismissed: BTreeSet::new(),
            heartbeat: None,
            report: None,
        }
    }

    /// Shows the run on the page too.
    pub fn shown_on(self, screen: Screen) -> Self {
        Driver { screen: Some(screen), ..self }
    }

    /// Runs until the scheduler announces the end.
    ///
    /// Workers that ask for more afterwards are told to leave: the server must be up until the returned task ends.
    pub async fn run(mut self, mut interrupts: mpsc::Receiver<()>) -> (Ending, Scheduler, JoinHandle<()>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            // What is rare comes first, so that no crowd of workers can hold it up.
            let event = tokio::select! {
                biased;
                Some(()) = interrupts.recv() => Some(Event::Drain { why: Stop::Interrupted }),
                Some(by) = self.taken_over.recv() => Some(Event::Drain { why: Stop::TakenOver(by) }),
                _ = tick.tick() => Some(Event::Tick),
                observed = observe(&mut self.workers) => self.observed(observed),
                Some(request) = self.requests.recv() => self.accept(request),
            };
            let Some(event) = event else { continue };
            let show = matches!(event, Event::Tick);
            if let Some(ending) = self.apply(event) {
                self.show(true);
                let expected = self.unaware();
                let farewell = farewell(self.requests, expected, self.workers, ending.clone());
                return (ending, self.scheduler, tokio::spawn(farewell));
            }
            if show {
                self.show(false);
                if let Some(workers) = &mut self.workers {
                    workers.want(Demand::of(&self.scheduler));
                }
            }
        }
    }

    /// Turns a request into an event and keeps its reply channel.
    fn accept(&mut self, request: Request) -> Option<Event> {
        match request {
            Request::Register { worker, device, scope, reply } => {
                let name = self.scheduler.free_name(&worker);
                if name != worker {
                    tracing::warn!(
                        "a worker that calls itself {worker} is registered already: this one is {name} here, until that one is forgotten"
                    );
                }
                tracing::info!(worker = name, device, "worker registered");
                // The worker may be gone already; its lease then ends by silence.
                let open_stages = self.scheduler.open_stages().filter(|stage| scope.covers(*stage)).collect();
                let _ = reply.send(Registered { worker: name.clone(), open_stages });
                Some(Event::Joined { worker: name, device, scope })
            }
            Request::Unfit { worker, failure, reply } => {
                tracing::error!(worker, cause = failure.cause.name(), "the worker cannot work: {}", failure.message);
                // It leaves either way.
                let _ = reply.send(());
                Some(Event::Unfit { worker, failure })
            }
            Request::Lease { worker, reply } => {
                if !self.scheduler.workers().contains_key(&worker) {
                    // It may be gone by now; then nobody needs the answer.
                    let _ = reply.send(LeaseAnswer::Unknown);
                    return None;
                }
                self.waiting_leases.insert(worker.clone(), reply);
                Some(Event::WantsWork { worker })
            }
            Request::Heartbeat { worker, progress, reply } => {
                self.heartbeat = Some(reply);
                Some(Event::Beat { worker, progress })
            }
            Request::Report { worker, assignment, outcome, reply } => {
                self.report = Some(reply);
                Some(Event::Reported { worker, assignment, outcome })
            }
        }
    }

    fn observed(&mut self, observed: Observed) -> Option<Event> {
        match observed {
            Observed::Exited { worker, why } => Some(Event::Left { worker, why }),
            Observed::AllGone { why } => {
                // Processes have all ended. What is in a cluster has yet to be removed, by the farewell.
                self.workers.take_if(|workers| workers.ends_with_us());
                Some(Event::Drain { why: Stop::NoWorkers(why) })
            }
            Observed::Displaced { why } => Some(Event::Drain { why: Stop::Displaced(why) }),
            Observed::Cancelled { why } => Some(Event::Drain { why: Stop::Cancelled(why) }),
        }
    }

    /// Steps the scheduler until no command causes a further event.
    fn apply(&mut self, event: Event) -> Option<Ending> {
        let mut events = if matches!(event, Event::Tick) { self.hung_up() } else { Vec::new() };
        events.push(event);
        let mut ending = None;
        while let Some(event) = events.pop() {
            self.on_screen(|screen| screen.event(&event));
            for command in self.scheduler.step(event, self.started.elapsed()) {
                match command {
                    Command::Grant { worker, assignment } => {
                        self.on_screen(Screen::granted);
                        if !self.answer_lease(&worker, LeaseAnswer::Work(assignment)) {
                            events.push(Event::Undelivered { worker, assignment });
                        }
                    }
                    Command::Dismiss { worker, parting, reason } => {
                        if self.answer_lease(&worker, LeaseAnswer::Leave(parting, reason)) {
                            self.dismissed.insert(worker);
                        }
                    }
                    Command::Continue { keep_lease, drain, .. } => answer(&mut self.heartbeat, HeartbeatAnswer { keep_lease, drain }),
                    Command::Acknowledge { accepted, .. } => answer(&mut self.report, accepted),
                    Command::Notice(notice) => {
                        if let Notice::Committed { assignment, finished } = &notice {
                            self.digests.record(*assignment, finished);
                        }
                        self.on_screen(|screen| screen.notice(&notice));
                        log(&notice);
                    }
                    Command::Finish(end) => ending = Some(end),
                }
            }
        }
        ending
    }

    /// False when the worker no longer waits.
    fn answer_lease(&mut self, worker: &str, answer: LeaseAnswer) -> bool {
        self.waiting_leases.remove(worker).is_some_and(|reply| reply.send(answer).is_ok())
    }

    /// Workers whose connection closed while they waited. One that only lost its way registers again.
    fn hung_up(&mut self) -> Vec<Event> {
        let gone = self.waiting_leases.extract_if(.., |_, reply| reply.is_closed());
        gone.map(|(worker, _)| Event::Left { worker, why: UNDELIVERED.to_string() }).collect()
    }

    /// Workers of others that do not know yet that the run is over. Our own processes end with us.
    fn unaware(&self) -> BTreeSet<String> {
        let unaware = self.scheduler.workers().keys().filter(|worker| !self.dismissed.contains(*worker));
        let ours = self.workers.as_ref().is_some_and(|workers| workers.ends_with_us());
        if ours { BTreeSet::new() } else { unaware.cloned().collect() }
    }

    fn show(&mut self, last: bool) {
        let now = self.started.elapsed();
        let view = View::of(&self.scheduler, now);
        if let Some(screen) = &mut self.screen {
            screen.paint(&self.scheduler, &view, now, last);
        }
        self.view.send_replace(view);
    }

    fn on_screen(&mut self, tell: impl FnOnce(&mut Screen)) {
        if let Some(screen) = &mut self.screen {
            tell(screen);
        }
    }
}

impl View {
    /// The run as it stands `now` on the scheduler's clock.
    pub(crate) fn of(scheduler: &Scheduler, now: Duration) -> Self {
        let at_work: Vec<_> = scheduler.workers().values().filter_map(|w| w.progress).collect();
        let stages = scheduler.stages().iter().map(|stage| {
            let progress = || at_work.iter().filter(|p| p.assignment.stage == stage.stage());
            StageView {
                stage: stage.stage(),
                partitions: stage.len(),
                committed: stage.committed(),
                counts: stage.counts().clone(),
                in_progress: progress().map(|p| p.done as f64 / p.total.max(1) as f64).sum(),
                units_in_progress: progress().map(|p| p.units).sum(),
                kept_in_progress: progress().map(|p| p.kept).sum(),
            }
        });
        let workers = scheduler.workers().iter().map(|(name, w)| WorkerView {
            name: name.clone(),
            device: w.device.clone(),
            progress: w.progress,
            holds: w.holds,
            silent: now.saturating_sub(w.last_beat).as_secs_f64(),
        });
        View {
            stages: stages.collect(),
            workers: workers.collect(),
            deserted: scheduler.deserted(),
            stopping: scheduler.stop_reason().map(ToString::to_string),
        }
    }
}

/// Whoever took this coordinator's place has its workers too; who cancelled the run has removed them.
fn stopping(ending: &Ending) -> Stopping {
    match ending {
        Ending::Stopped(Stop::TakenOver(_) | Stop::Displaced(_) | Stop::Cancelled(_)) => Stopping::Leave,
        Ending::Complete => Stopping::Done,
        Ending::Stopped(_) | Ending::Incomplete { .. } => Stopping::Remove,
    }
}

/// Answers those who ask when the run is over, until all `expected` workers know it, or [`FAREWELL`] is over; then the
/// launcher removes the rest, or leaves it: what it removed writes nothing any more.
async fn farewell(
    mut requests: mpsc::Receiver<Request>,
    mut expected: BTreeSet<String>,
    workers: Option<Box<dyn Launcher>>,
    ending: Ending,
) {
    let parting = if ending == Ending::Complete { Parting::Done } else { Parting::Unfinished };
    let answer_all = async {
        while !expected.is_empty() {
            let Some(request) = requests.recv().await else { return };
            // A peer that no longer waits needs no answer.
            match request {
                Request::Lease { worker, reply } => {
                    expected.remove(&worker);
                    drop(reply.send(LeaseAnswer::Leave(parting, "the run is over".to_string())));
                }
                Request::Heartbeat { reply, .. } => drop(reply.send(HeartbeatAnswer { keep_lease: false, drain: true })),
                Request::Report { reply, .. } => drop(reply.send(false)),
                Request::Register { .. } | Request::Unfit { .. } => {}
            }
        }
    };
    let _ = tokio::time::timeout(FAREWELL, answer_all).await;
    if let Some(workers) = workers {
        workers.stop(stopping(&ending)).await;
    }
}

async fn observe(workers: &mut Option<Box<dyn Launcher>>) -> Observed {
    match workers {
        Some(workers) => workers.next().await,
        None => std::future::pending().await,
    }
}

/// A peer that no longer waits needs no answer: its lease ends by silence.
fn answer<A>(slot: &mut Option<oneshot::Sender<A>>, value: A) {
    if let Some(reply) = slot.take() {
        let _ = reply.send(value);
    }
}

fn log(notice: &Notice) {
    match notice {
        Notice::Committed { assignment: a, finished } => {
            tracing::info!(stage = %a.stage, partition = a.partition, seconds = finished.seconds, "committed");
        }
        Notice::Retrying { assignment: a, cause, message, delay } => {
            let after = delay.as_secs_f64();
            tracing::warn!(stage = %a.stage, partition = a.partition, cause = cause.name(), retry_after = after, "{message}");
        }
        Notice::GaveUp { assignment: a, cause, message } => {
            tracing::error!(stage = %a.stage, partition = a.partition, cause = cause.name(), "given up: {message}");
        }
        Notice::LeaseLost { worker, assignment: a, why } => {
            tracing::warn!(stage = %a.stage, partition = a.partition, worker, "lease lost: {why}");
        }
        Notice::Straggling { slow, assignment: a, worker } => {
            tracing::info!(stage = %a.stage, partition = a.partition, worker, "{} takes too long: a second attempt begins", slow.worker);
        }
        Notice::Mending { assignment: a, maker: (stage, partition), message } => {
            tracing::warn!(stage = %a.stage, partition = a.partition, "{message}. It is made again by {stage} partition {partition}");
        }
        Notice::Mended { assignment: a } => {
            tracing::info!(stage = %a.stage, partition = a.partition, "its damaged objects are whole again");
        }
        Notice::Outrun { worker, assignment: a, units } => {
            tracing::info!(stage = %a.stage, partition = a.partition, worker, units, "another attempt was first");
        }
    }
}
