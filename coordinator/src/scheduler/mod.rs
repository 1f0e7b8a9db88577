//! The scheduler: a pure state machine. It sees no I/O, no clock and no randomness of its own;
//! [`Scheduler::step`] turns one event at one moment into commands for the driver.
//!
//! The store is the truth: a partition is committed when its manifest exists, whoever made it. What is
//! kept here can be lost at any moment and rebuilt by listing manifests.

#![deny(clippy::disallowed_methods)]

mod pace;
mod partition;
mod stage;
#[cfg(test)]
mod tests;

use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{Counts, SHARDS_FIGURE, shards_of};
use ip2p_pipeline::planted::{self, Defect};
use ip2p_pipeline::task::{Assignment, Cause, Failure, Finished, Parting, Progress, Scope};
pub use partition::{Cell, Lease, PartitionState, Tries};
pub use stage::{Recovered, StageState};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

/// Failed attempts of one worker in a row, without a commit between, after which it is sent away if there are others.
const STRIKES: u32 = 3;

/// Moments are durations since the coordinator started, on its own clock.
pub type Moment = Duration;

/// A worker's name, unique in the run.
pub type WorkerName = String;

/// Rules that come from the spec.
#[derive(Clone, Debug)]
pub struct Policy {
    pub lease: Duration,
    /// Failed attempts at one partition before it is given up.
    pub attempts: u32,
    /// Lost or preempted attempts at one partition before it is given up.
    pub preemptions: u32,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Share of quarantined records above which the run stops.
    pub max_quarantined: f64,
    /// Records to see before `max_quarantined` is judged, so that one early bad record stops nothing.
    pub quarantine_sample: u64,
    /// Share of the candidates that must be kept at least, or the run stops.
    pub min_kept: f64,
    /// Candidates to see before `min_kept` is judged.
    pub kept_sample: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    Joined {
        worker: WorkerName,
        device: String,
        scope: Scope,
    },
    WantsWork {
        worker: WorkerName,
    },
    Beat {
        worker: WorkerName,
        progress: Option<Progress>,
    },
    Reported {
        worker: WorkerName,
        assignment: Assignment,
        outcome: Result<Finished, Failure>,
    },
    /// It cannot work: a model does not load, or a server is not there.
    Unfit {
        worker: WorkerName,
        failure: Failure,
    },
    /// The worker does not wait for work any more: the grant did not reach it.
    Undelivered {
        worker: WorkerName,
        assignment: Assignment,
    },
    /// Its process ended.
    Left {
        worker: WorkerName,
        why: String,
    },
    /// Finish what is held, grant nothing more.
    Drain {
        why: Stop,
    },
    Tick,
}

/// Why a worker that a grant does not reach is held to be gone.
pub const UNDELIVERED: &str = "its connection closed";

/// What the driver must do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Answers a `WantsWork`.
    Grant { worker: WorkerName, assignment: Assignment },
    /// Answers a `WantsWork`: there will be no more work for this worker.
    Dismiss { worker: WorkerName, parting: Parting, reason: String },
    /// Answers a `Beat`.
    Continue { worker: WorkerName, keep_lease: bool, drain: bool },
    /// Answers a `Reported`.
    Acknowledge { worker: WorkerName, accepted: bool },
    /// Tell the user.
    Notice(Notice),
    /// Nothing is left to do or to wait for.
    Finish(Ending),
}

/// Things worth a line in the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    Committed {
        assignment: Assignment,
        finished: Finished,
    },
    Retrying {
        assignment: Assignment,
        cause: Cause,
        message: String,
        delay: Duration,
    },
    GaveUp {
        assignment: Assignment,
        cause: Cause,
        message: String,
    },
    LeaseLost {
        worker: WorkerName,
        assignment: Assignment,
        why: String,
    },
    /// A second attempt begins beside one that takes too long.
    Straggling {
        slow: Lease,
        assignment: Assignment,
        worker: WorkerName,
    },
    /// An attempt met a damaged object, which the partition `maker` of an earlier stage makes again.
    Mending {
        assignment: Assignment,
        maker: (Stage, u32),
        message: String,
    },
    /// A partition that was committed before has made its damaged objects again.
    Mended {
        assignment: Assignment,
    },
    /// An attempt ends because another has committed the partition; `units` of its work are for nothing.
    Outrun {
        worker: WorkerName,
        assignment: Assignment,
        units: u64,
    },
}

/// Why a run stops before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The user asked for it.
    Interrupted,
    /// An error that no retry can mend.
    BadInput(String),
    /// More records in quarantine than `max_quarantined`.
    TooManyQuarantined { quarantined: u64, of: u64 },
    /// Fewer pairs pass the filter than `min_kept` asks for.
    TooFewKept { kept: u64, of: u64 },
    /// The object store has no room.
    StoreFull(String),
    /// No worker could be kept alive.
    NoWorkers(String),
    /// Another coordinator holds this newer term of the run.
    TakenOver(u32),
    /// Another coordinator holds the run in the cluster.
    Displaced(String),
    /// Somebody has removed what the run had in the cluster.
    Cancelled(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Interrupted => f.write_str("interrupted"),
            Stop::BadInput(message) => f.write_str(message),
            Stop::TooManyQuarantined { quarantined, of } => {
                write!(f, "{quarantined} of {of} records are in quarantine, more than run.max_quarantined allows")
            }
            Stop::TooFewKept { kept, of } => {
                write!(f, "{kept} of {of} candidates pass the filter, fewer than run.min_kept asks for")
            }
            Stop::StoreFull(message) => write!(f, "the store has no room: {message}"),
            Stop::NoWorkers(why) => write!(f, "no worker is left: {why}"),
            Stop::Displaced(why) | Stop::Cancelled(why) => f.write_str(why),
            Stop::TakenOver(term) => write!(f, "another coordinator has taken the run over (term {term})"),
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Complete,
    Stopped(Stop),
    /// All that could be done is done, but these partitions failed too often.
    Incomplete {
        failed: Vec<(Stage, u32, String)>,
    },
}

/// A worker as the scheduler sees it.
#[derive(Clone, Debug)]
pub struct Worker {
    pub device: String,
    pub scope: Scope,
    pub last_beat: Moment,
    pub holds: Option<Assignment>,
    pub progress: Option<Progress>,
    /// Failed attempts since its last commit that may be its device's fault.
    pub strikes: u32,
}

/// All state of a run in progress.
#[derive(Debug)]
pub struct Scheduler {
    policy: Policy,
    /// Upper half of every epoch granted by this coordinator.
    term: u32,
    granted: u32,
    stages: Vec<StageState>,
    workers: BTreeMap<WorkerName, Worker>,
    /// Workers that wait for an answer to `WantsWork`.
    idle: BTreeSet<WorkerName>,
    /// Workers that hold a lease.
    busy: usize,
    /// Workers that are there for some of the work only.
    scoped: usize,
    /// A worker asked for work: it had everything that it needs.
    proven: bool,
    /// The worker that was lost or left last, and why.
    last_left: Option<(WorkerName, String)>,
    /// Committed partitions with damaged objects: how often they were given out again, and who waits for them.
    mending: BTreeMap<(Stage, u32), Mending>,
    stop: Option<Stop>,
    finished: bool,
}

/// A committed partition whose objects were damaged.
#[derive(Debug, Default)]
struct Mending {
    times: u32,
    waiting: BTreeSet<(Stage, u32)>,
}

impl Scheduler {
    /// `recovered` says what the store already holds, in the order of [`Stage::RUN`].
    pub fn new(policy: Policy, term: u32, recovered: Vec<Recovered>) -> Self {
        let mut scheduler = Scheduler {
            policy,
            term,
            granted: 0,
            stages: recovered.into_iter().map(StageState::recover).collect(),
            workers: BTreeMap::new(),
            idle: BTreeSet::new(),
            busy: 0,
            scoped: 0,
            proven: false,
            last_left: None,
            mending: BTreeMap::new(),
            stop: None,
            finished: false,
        };
        for stage in 0..scheduler.stages.len() {
            scheduler.open_from(stage);
        }
        scheduler
    }

    pub fn stages(&self) -> &[StageState] {
        &self.stages
    }

    pub fn workers(&self) -> &BTreeMap<WorkerName, Worker> {
        &self.workers
    }

    /// Stages that still have work, now or later.
    pub fn open_stages(&self) -> impl Iterator<Item = Stage> + '_ {
        self.stages.iter().filter(|stage| !stage.complete()).map(StageState::stage)
    }

    /// The proposed name, or while a worker has it the next one like it. Two workers under one name would take each
    /// other's leases.
    pub fn free_name(&self, proposed: &str) -> WorkerName {
        let numbered = (2u64..).map(|n| format!("{proposed}~{n}"));
        let mut names = std::iter::once(proposed.to_string()).chain(numbered);
        names.find(|name| !self.workers.contains_key(name)).unwrap_or_else(|| proposed.to_string())
    }

    /// Why there is no worker, while there is none: the run waits, and takes new ones when they come.
    pub fn deserted(&self) -> Option<String> {
        let why = match &self.last_left {
            Some((worker, why)) => format!("the last one, {worker}, left: {why}"),
            None => "none has registered yet".to_string(),
        };
        self.workers.is_empty().then_some(why)
    }

    pub fn stop_reason(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    /// Applies one event at `now`.
    #[must_use = "the commands are the only effect outside the scheduler"]
    pub fn step(&mut self, event: Event, now: Moment) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Joined { worker, device, scope } => self.joined(worker, device, scope, now, &mut commands),
            Event::WantsWork { worker } => self.wants_work(&worker, now, &mut commands),
            Event::Beat { worker, progress } => commands.push(self.beat(worker, progress, now)),
            Event::Reported { worker, assignment, outcome } => self.reported(&worker, assignment, outcome, now, &mut commands),
            Event::Unfit { worker, failure } => self.unfit(&worker, failure, now, &mut commands),
            Event::Undelivered { worker, assignment } => self.undelivered(&worker, assignment),
            Event::Left { worker, why } => self.left(&worker, &why, now, &mut commands),
            Event::Drain { why } => self.stop(why),
            Event::Tick => self.expire(now, &mut commands),
        }
        if !planted::has(Defect::RetryNeverComes) {
            self.stages.iter_mut().for_each(|stage| stage.wake(now));
        }
        self.grant(now, &mut commands);
        self.finish(&mut commands);
        commands
    }

    fn joined(&mut self, worker: WorkerName, device: String, scope: Scope, now: Moment, commands: &mut Vec<Command>) {
        // A restarted process under the same name: whatever it held is gone.
        self.release(&worker, "the worker registered anew", now, commands);
        self.idle.remove(&worker);
        self.scoped += usize::from(scope != Scope::Any);
        let worker_state = Worker { device, scope, last_beat: now, holds: None, progress: None, strikes: 0 };
        if let Some(before) = self.workers.insert(worker, worker_state) {
            self.scoped -= usize::from(before.scope != Scope::Any);
        }
    }

    fn wants_work(&mut self, worker: &WorkerName, now: Moment, commands: &mut Vec<Command>) {
        // Who asks for work holds none: its report may have been lost on the way.
        self.release(worker, "the worker asked for other work", now, commands);
        self.proven = true;
        if let Some(state) = self.workers.get_mut(worker) {
            state.last_beat = now;
            self.idle.insert(worker.clone());
        }
        self.send_away_if_sick(worker, now, commands);
    }

    /// A sick device fails at once and asks for more: alone it would use up the attempts of every partition. The last
    /// worker stays, because then it is as likely the run that is sick.
    fn send_away_if_sick(&mut self, worker: &WorkerName, now: Moment, commands: &mut Vec<Command>) {
        if self.workers.len() > 1 && self.workers.get(worker).is_some_and(|state| state.strikes >= STRIKES) {
            let reason = format!("{STRIKES} attempts in a row failed here and nothing was committed: its device may be sick");
            self.left(worker, &reason, now, commands);
            commands.push(Command::Dismiss { worker: worker.clone(), parting: Parting::Unfinished, reason });
        }
    }

    fn strike(&mut self, worker: &WorkerName, outcome: &Result<Finished, Failure>) {
        let Some(state) = self.workers.get_mut(worker) else { return };
        match outcome {
            Ok(_) => state.strikes = 0,
            Err(failure) => state.strikes += u32::from(matches!(failure.cause, Cause::Resource | Cause::Bug)),
        }
    }

    fn beat(&mut self, worker: WorkerName, progress: Option<Progress>, now: Moment) -> Command {
        let drain = self.stop.is_some();
        let mut keep_lease = false;
        if let Some(state) = self.workers.get_mut(&worker) {
            state.last_beat = now;
            keep_lease = state.holds == progress.map(|p| p.assignment);
            if keep_lease {
                state.progress = progress;
            }
        }
        Command::Continue { worker, keep_lease, drain }
    }

    fn reported(
        &mut self,
        worker: &WorkerName,
        assignment: Assignment,
        outcome: Result<Finished, Failure>,
        now: Moment,
        commands: &mut Vec<Command>,
    ) {
        // The holder may have another name than the reporting worker, which has registered anew since.
        let stage = &self.stages[stage_number(assignment.stage)];
        let holder = stage.leases(assignment.partition).into_iter().find(|lease| lease.epoch == assignment.epoch).map(|lease| lease.worker);
        let holder = holder.filter(|name| self.workers.get(name).is_some_and(|w| w.holds == Some(assignment)));
        let current = holder.is_some();
        let counts = current || stage.may_be_done(assignment.partition);
        if let Some(holder) = holder {
            self.set_idle(&holder);
            self.strike(worker, &outcome);
        }
        let accepted = match outcome {
            // The manifest exists, so even a fenced-out attempt's success is a fact.
            Ok(finished) if counts => {
                self.commit(assignment, finished, now, commands);
                true
            }
            Err(failure) if current => {
                self.failed(assignment, failure, now, commands);
                true
            }
            Ok(_) | Err(_) => false,
        };
        commands.push(Command::Acknowledge { worker: worker.clone(), accepted });
    }

    fn commit(&mut self, assignment: Assignment, finished: Finished, now: Moment, commands: &mut Vec<Command>) {
        let Assignment { partition, epoch, .. } = assignment;
        let number = stage_number(assignment.stage);
        let stage = &mut self.stages[number];
        if *stage.state(partition) == PartitionState::Committed && !planted::has(Defect::CommitCountedTwice) {
            return;
        }
        stage.record_pace(partition, epoch, now);
        let leases = stage.leases(partition);
        let first = stage.commit(partition, &finished);
        commands.push(Command::Notice(if first { Notice::Committed { assignment, finished } } else { Notice::Mended { assignment } }));
        // Other attempts may still hold it: their next heartbeats end those leases. So may the reporting worker under the
        // name that it had before it registered anew.
        for other in leases {
            let units = self.workers.get(&other.worker).and_then(|worker| worker.progress).map_or(0, |progress| progress.units);
            self.set_idle(&other.worker);
            if other.epoch == epoch {
                continue;
            }
            self.stages[number].waste(units);
            let assignment = Assignment { epoch: other.epoch, ..assignment };
            commands.push(Command::Notice(Notice::Outrun { worker: other.worker, assignment, units }));
        }
        self.open_after(number, partition);
        let mended = self.mending.get_mut(&(assignment.stage, partition)).map(|mending| std::mem::take(&mut mending.waiting));
        for (stage, partition) in mended.into_iter().flatten() {
            self.stages[stage_number(stage)].unblock(partition);
        }
        self.judge_quarantine();
        self.judge_kept();
    }

    /// Stops the run when nearly nothing passes the filter: a week of drawing would not change that.
    fn judge_kept(&mut self) {
        let Some(filter) = self.stages.iter().find(|stage| stage.stage() == Stage::Filter) else { return };
        let Counts { expected, output, .. } = *filter.counts();
        if expected >= self.policy.kept_sample && (output as f64) < self.policy.min_kept * expected as f64 {
            self.stop(Stop::TooFewKept { kept: output, of: expected });
        }
    }

    /// Stops the run when too many records ended in quarantine.
    fn judge_quarantine(&mut self) {
        for stage in &self.stages {
            let Counts { expected, quarantined, .. } = *stage.counts();
            let over = quarantined as f64 > self.policy.max_quarantined * expected as f64;
            if expected >= self.policy.quarantine_sample && over {
                self.stop(Stop::TooManyQuarantined { quarantined, of: expected });
                return;
            }
        }
    }

    fn failed(&mut self, assignment: Assignment, failure: Failure, now: Moment, commands: &mut Vec<Command>) {
        match failure.cause {
            Cause::BadInput => self.stop(Stop::BadInput(failure.message.clone())),
            Cause::StoreFull => self.stop(Stop::StoreFull(failure.message.clone())),
            Cause::Damaged { stage, partition } => return self.mend(assignment, (stage, partition), failure, now, commands),
            Cause::Transient | Cause::Preempted | Cause::Resource | Cause::Bug => {}
        }
        let stage = &mut self.stages[stage_number(assignment.stage)];
        commands.push(Command::Notice(stage.fail(assignment, failure, now, &self.policy)));
    }

    /// An attempt met a damaged object: the partition that made it is given out again, and this one waits for it.
    fn mend(&mut self, assignment: Assignment, maker: (Stage, u32), failure: Failure, now: Moment, commands: &mut Vec<Command>) {
        let (here, there) = (stage_number(assignment.stage), stage_number(maker.0));
        let times = self.mending.get(&maker).map_or(0, |mending| mending.times);
        if there >= here || !self.stages[there].knows(maker.1) || times >= self.policy.attempts {
            // A store that loses the same object again and again, or a worker that blames what cannot be.
            let failure = Failure { cause: Cause::BadInput, message: failure.message };
            return self.failed(assignment, failure, now, commands);
        }
        let mending = self.mending.entry(maker).or_default();
        if self.stages[here].set_aside(assignment.partition, assignment.epoch) {
            mending.waiting.insert((assignment.stage, assignment.partition));
        }
        if self.stages[there].reopen(maker.1) {
            mending.times += 1;
            commands.push(Command::Notice(Notice::Mending { assignment, maker, message: failure.message }));
        }
    }

    /// Gives a committed partition out again, so that a worker makes its damaged objects whole.
    pub fn reopen(&mut self, stage: Stage, partition: u32) {
        self.stages[stage_number(stage)].reopen(partition);
    }

    /// What every worker lacks is what the run lacks: the last of those that came stops it, when none has ever been
    /// ready. What one lacks, or has no memory for, is that worker's alone.
    fn unfit(&mut self, worker: &WorkerName, failure: Failure, now: Moment, commands: &mut Vec<Command>) {
        self.left(worker, &failure.message, now, commands);
        if !self.proven && self.workers.is_empty() && failure.cause == Cause::BadInput {
            self.stop(Stop::BadInput(failure.message));
        }
    }

    /// What never began costs the partition nothing, however many dead workers were waiting.
    fn undelivered(&mut self, worker: &WorkerName, assignment: Assignment) {
        self.set_idle(worker);
        self.stages[stage_number(assignment.stage)].take_back(assignment.partition, assignment.epoch);
        self.forget(worker, UNDELIVERED);
    }

    fn left(&mut self, worker: &WorkerName, why: &str, now: Moment, commands: &mut Vec<Command>) {
        self.release(worker, why, now, commands);
        self.forget(worker, why);
    }

    fn forget(&mut self, worker: &WorkerName, why: &str) {
        self.idle.remove(worker);
        if let Some(state) = self.workers.remove(worker) {
            self.scoped -= usize::from(state.scope != Scope::Any);
            self.last_left = Some((worker.clone(), why.to_string()));
        }
    }

    /// Takes back what a worker holds.
    fn release(&mut self, worker: &WorkerName, why: &str, now: Moment, commands: &mut Vec<Command>) {
        let Some(assignment) = self.workers.get(worker).and_then(|w| w.holds) else { return };
        self.set_idle(worker);
        commands.push(Command::Notice(Notice::LeaseLost { worker: worker.clone(), assignment, why: why.to_string() }));
        let failure = Failure { cause: Cause::Preempted, message: why.to_string() };
        self.failed(assignment, failure, now, commands);
    }

    /// Ends the leases of silent workers. One that waits for work is silent by right: the driver sees its
    /// connection.
    fn expire(&mut self, now: Moment, commands: &mut Vec<Command>) {
        let lease = self.policy.lease;
        let silent = |name: &WorkerName, w: &Worker| w.last_beat + lease < now && !self.idle.contains(name);
        let lost: Vec<WorkerName> = self.workers.iter().filter(|(name, w)| silent(name, w)).map(|(name, _)| name.clone()).collect();
        for worker in lost {
            self.left(&worker, &format!("no heartbeat for {} s", lease.as_secs_f64()), now, commands);
        }
    }

    fn set_idle(&mut self, worker: &WorkerName) {
        if let Some(state) = self.workers.get_mut(worker) {
            self.busy -= usize::from(state.holds.take().is_some());
            state.progress = None;
        }
    }

    fn stop(&mut self, why: Stop) {
        // The first reason is the cause; later ones are its consequences.
        self.stop.get_or_insert(why);
    }

    /// Gives ready partitions to waiting workers, the deepest stage first, so that results appear early. When nothing is
    /// ready, who waits tries again what takes too long elsewhere.
    fn grant(&mut self, now: Moment, commands: &mut Vec<Command>) {
        if let Some((parting, reason)) = self.dismissal() {
            let dismiss = |worker| Command::Dismiss { worker, parting, reason: reason.clone() };
            commands.extend(std::mem::take(&mut self.idle).into_iter().map(dismiss));
            return;
        }
        // Scopes in which nothing is ready at the moment.
        let mut dry = Vec::new();
        let mut next = self.idle.first().cloned();
        while let Some(worker) = next {
            next = self.idle.range::<str, _>((Excluded(worker.as_str()), Unbounded)).next().cloned();
            let scope = self.workers.get(&worker).map(|state| state.scope.clone()).unwrap_or_default();
            if let Some(farewell) = self.farewell(&worker, &scope) {
                self.idle.remove(&worker);
                commands.push(farewell);
                continue;
            }
            if dry.contains(&scope) {
                continue;
            }
            let term = if planted::has(Defect::EpochWithoutTerm) { 0 } else { self.term };
            let epoch = u64::from(term) << 32 | u64::from(self.granted + 1);
            let lease = Lease { worker: worker.clone(), epoch, since: now };
            let assignment = self.next_ready(&lease, &scope).or_else(|| self.next_straggler(&lease, &scope, now, commands));
            let Some(assignment) = assignment else {
                match scope {
                    // Who may do anything finds nothing: nobody does, but some may have come to their own end.
                    Scope::Any if self.scoped == 0 => return,
                    Scope::Any | Scope::Stages(_) => dry.push(scope),
                    Scope::Partition { .. } => {}
                }
                continue;
            };
            self.granted += 1;
            self.busy += 1;
            self.idle.remove(&worker);
            if let Some(state) = self.workers.get_mut(&worker) {
                state.holds = Some(assignment);
                state.last_beat = now;
            }
            commands.push(Command::Grant { worker, assignment });
        }
    }

    /// Tells a worker to leave whose own work is done, or will never be.
    fn farewell(&self, worker: &WorkerName, scope: &Scope) -> Option<Command> {
        let (parting, reason) = match scope {
            Scope::Any => return None,
            Scope::Stages(_) if self.stages.iter().any(|stage| scope.covers(stage.stage()) && !stage.complete()) => return None,
            Scope::Stages(_) => (Parting::Done, "its stages are complete".to_string()),
            Scope::Partition { stage, partition } => match self.stages[stage_number(*stage)].state(*partition) {
                PartitionState::Committed => (Parting::Done, format!("{stage} partition {partition} is committed")),
                PartitionState::Failed { message } => {
                    (Parting::GivenUp, format!("{stage} partition {partition} failed too often: {message}"))
                }
                PartitionState::Blocked | PartitionState::Ready { .. } | PartitionState::Waiting { .. } | PartitionState::Leased { .. } => {
                    return None;
                }
            },
        };
        Some(Command::Dismiss { worker: worker.clone(), parting, reason })
    }

    fn next_ready(&mut self, lease: &Lease, scope: &Scope) -> Option<Assignment> {
        if let Scope::Partition { stage, partition } = scope {
            return self.stages[stage_number(*stage)].lease(*partition, lease.clone());
        }
        self.stages.iter_mut().rev().find(|stage| scope.covers(stage.stage()) && stage.has_ready())?.lease_next(lease.clone())
    }

    fn next_straggler(&mut self, lease: &Lease, scope: &Scope, now: Moment, commands: &mut Vec<Command>) -> Option<Assignment> {
        if matches!(scope, Scope::Partition { .. }) {
            return None;
        }
        let mut stages = self.stages.iter_mut().rev().filter(|stage| scope.covers(stage.stage()));
        let (stage, partition) = stages.find_map(|stage| stage.straggler(now).map(|partition| (stage, partition)))?;
        let slow = stage.leases(partition).into_iter().next()?;
        let assignment = stage.lease_beside(partition, lease.clone())?;
        commands.push(Command::Notice(Notice::Straggling { slow, assignment, worker: lease.worker.clone() }));
        Some(assignment)
    }

    fn dismissal(&self) -> Option<(Parting, String)> {
        match &self.stop {
            Some(stop) => Some((Parting::Unfinished, format!("the run stops: {stop}"))),
            None if self.complete() => Some((Parting::Done, "the run is complete".to_string())),
            None => None,
        }
    }

    fn complete(&self) -> bool {
        self.stages.iter().all(StageState::complete)
    }

    /// Announces the end once, when nothing is held and nothing can become ready.
    fn finish(&mut self, commands: &mut Vec<Command>) {
        if self.finished || self.busy > 0 {
            return;
        }
        let ending = match &self.stop {
            Some(stop) => Ending::Stopped(stop.clone()),
            None if self.complete() => Ending::Complete,
            None if self.stages.iter().any(StageState::can_progress) => return,
            None => Ending::Incomplete { failed: self.stages.iter().flat_map(StageState::failures).collect() },
        };
        self.finished = true;
        commands.push(Command::Finish(ending));
    }

    /// Opens what the committed partitions of stage `number` allow in the next one.
    fn open_from(&mut self, number: usize) {
        let committed: Vec<u32> = self.stages[number].committed_partitions().collect();
        for partition in committed {
            self.open_after(number, partition);
        }
    }

    /// A commit makes the same partition of the next stage ready; `index` needs all of `filter`,
    /// and `shards` is as large as the index says.
    fn open_after(&mut self, number: usize, partition: u32) {
        let Some((done, rest)) = self.stages.get_mut(number..).and_then(<[_]>::split_first_mut) else { return };
        let Some(next) = rest.first_mut() else { return };
        match next.stage() {
            Stage::Pairs | Stage::Filter => next.unblock(partition),
            Stage::Index if done.complete() || planted::has(Defect::IndexTooEarly) => next.unblock(0),
            Stage::Shards => self.open_shards(),
            Stage::Index | Stage::Corpus | Stage::Prompts => {}
        }
    }
}

impl Scheduler {
    /// The index has been committed: it says how many shards there are.
    fn open_shards(&mut self) {
        let stage = |stage| &self.stages[stage_number(stage)];
        let (figures, kept) = (stage(Stage::Index).figures(), stage(Stage::Filter).counts().output);
        match shards_of(figures, kept) {
            Some(shards) => self.stages[stage_number(Stage::Shards)].resize(shards),
            None => {
                let said = figures.get(SHARDS_FIGURE).copied().unwrap_or_default();
                self.stop(Stop::BadInput(format!("the index of {kept} kept pairs says that there are {said} shards: run `audit`")));
            }
        }
    }
}

/// Position of a stage in [`Stage::RUN`].
fn stage_number(stage: Stage) -> usize {
    Stage::RUN.iter().position(|s| *s == stage).unwrap_or(0)
}
