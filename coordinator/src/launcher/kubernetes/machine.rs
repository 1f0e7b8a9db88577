//! Which Jobs there should be: a pure state machine. It sees no clock, no API and no store; [`Machine::step`] turns one
//! input at one moment into effects for the engine.
//!
//! A Job's end says nothing about work: what is committed is committed, and what is still open gets another Job.

use super::render::{Cover, Group};
use super::seen::{JobEnd, JobSeen, LastWords, Phase, PodSeen};
use crate::launcher::{Demand, StageDemand};
use crate::trouble::{Stuck, Trouble};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::spec::{Jobs, MOST_JOBS};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Moments are durations since the launcher started.
pub type Moment = Duration;

/// A wave begins early when this many times the pods' number are ready; else when nothing more will become ready.
const WAVE: usize = 4;
/// How long after a Job's end its successor may begin: commits and ends are seen by different ways.
const SETTLE: Duration = Duration::from_secs(1);
/// How long something may take to start before it is asked why.
const SLOW_START: Duration = Duration::from_secs(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A Job that a queue has yet to admit. It waits for its turn, which is no failure however long it takes.
const SUSPENDED: &str = "Suspended";

/// What is fixed for a run.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Jobs in a row that may fail without a commit in between.
    pub barren_jobs: u32,
    /// How long no pod may be able to start.
    pub start_timeout: Duration,
}

#[derive(Clone, Debug)]
pub enum Input {
    Demand(Demand),
    Job(JobSeen),
    JobGone(String),
    /// These are all Jobs there are.
    JobsAre(BTreeSet<String>),
    Pod(PodSeen),
    PodGone(String, String),
    /// Likewise: pods by Job.
    PodsAre(BTreeSet<(String, String)>),
    /// The partitions of an adopted wave.
    Wave {
        job: String,
        partitions: Vec<u32>,
    },
    /// The Job could not be created.
    NotLaunched {
        job: String,
        why: String,
    },
    /// What the events say of a pod (or, without one, of a Job) that does not start.
    Diagnosed {
        job: String,
        pod: Option<String>,
        stuck: Option<Stuck>,
    },
    /// The last words of a pod are in the store, or cannot be.
    Harvested {
        job: String,
    },
    /// The object that owns the Jobs is gone.
    Disowned,
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Launch {
        group: usize,
        job: String,
        cover: Cover,
    },
    Delete {
        job: String,
    },
    /// Give it a time to live.
    Expire {
        job: String,
    },
    ReadWave {
        job: String,
    },
    /// Ask the events since a moment why it does not start.
    Diagnose {
        job: String,
        pod: Option<String>,
        since: Moment,
    },
    Harvest {
        job: String,
        pod: String,
        stage: Option<Stage>,
        partition: Option<u32>,
        words: LastWords,
    },
    /// A worker's process ended.
    Exited {
        worker: String,
        why: String,
    },
    /// What keeps pods from starting has changed.
    Trouble(Vec<Trouble>),
    /// Nothing more can be done.
    GiveUp {
        why: String,
    },
    /// Look whether the object that owns the Jobs is still there.
    CheckOwner,
    /// Somebody wants no more of this run.
    Cancelled,
}

/// How a Job and its partitions are found.
pub trait Naming {
    fn job(&self, word: &str, number: u32) -> String;
}

impl<F: Fn(&str, u32) -> String> Naming for F {
    fn job(&self, word: &str, number: u32) -> String {
        self(word, number)
    }
}

struct Tracked {
    /// `None` when its settings are not those of this run any more.
    group: Option<usize>,
    /// `None` while the wave of an adopted Job is being read.
    cover: Option<Cover>,
    made: Moment,
    /// Commits of the run when it was made.
    commits_before: u64,
    /// It was seen whether it has brought anything, or that is not to be asked.
    settled: bool,
    /// The cluster has shown it.
    seen: bool,
    suspended: bool,
    end: Option<JobEnd>,
    ended: Moment,
    expired: bool,
    harvests: u32,
    asked: Moment,
    stuck: Option<Stuck>,
    /// The pod that a node refused, while none has begun after it.
    refused: Option<(String, Stuck)>,
    /// Pods that have not ended: every step looks at them.
    pods: BTreeMap<String, Tracking>,
    /// Pods that have, so that no list makes them count again.
    past: BTreeSet<String>,
}

#[derive(Default)]
struct Tracking {
    since: Moment,
    asked: Moment,
    running: bool,
    stuck: Option<Stuck>,
    /// Its own status says why it is stuck.
    told: bool,
}

impl Tracked {
    fn live(&self) -> bool {
        self.end.is_none()
    }

    fn running(&self) -> bool {
        self.pods.values().any(|pod| pod.running)
    }

    /// It has ended, and what its pods committed may not have been heard yet.
    fn settling(&self, now: Moment) -> bool {
        !self.live() && now < self.ended + SETTLE
    }

    /// Whether somebody may be at work on the partition for this Job.
    fn covers(&self, of: Stage, number: u32) -> bool {
        match &self.cover {
            Some(Cover::Partition { stage, partition }) => *stage == of && *partition == number,
            Some(Cover::Wave { stage, partitions }) => *stage == of && partitions.binary_search(&number).is_ok(),
            Some(Cover::Pool { .. }) | None => true,
        }
    }
}

pub struct Machine<N> {
    rules: Rules,
    groups: Vec<Group>,
    naming: N,
    made: u32,
    jobs_listed: bool,
    pods_listed: bool,
    jobs: BTreeMap<String, Tracked>,
    demand: Option<Demand>,
    /// When each group may get a Job again.
    not_before: Vec<Moment>,
    /// Jobs in a row that failed since the last commit.
    barren: u32,
    /// When a Job of each group was last counted among them: those that were at work with it have failed with it.
    counted: Vec<Option<Moment>>,
    owner_asked: Option<Moment>,
    committed: u64,
    /// The newest last words, for the reason of giving up.
    last_words: String,
    troubles: Vec<Trouble>,
    troubled_since: Option<Moment>,
    over: bool,
}

impl<N: Naming> Machine<N> {
    pub fn new(rules: Rules, groups: Vec<Group>, naming: N) -> Self {
        let (not_before, counted) = (vec![Moment::ZERO; groups.len()], vec![None; groups.len()]);
        Machine {
            rules,
            groups,
            naming,
            made: 0,
            jobs_listed: false,
            pods_listed: false,
            jobs: BTreeMap::new(),
            demand: None,
            not_before,
            barren: 0,
            counted,
            owner_asked: None,
            committed: 0,
            last_words: String::new(),
            troubles: Vec::new(),
            troubled_since: None,
            over: false,
        }
    }

    /// Jobs that have not ended.
    pub fn live(&self) -> Vec<String> {
        self.jobs.iter().filter(|(_, job)| job.live()).map(|(name, _)| name.clone()).collect()
    }

    #[must_use = "the effects are the only way out"]
    pub fn step(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Demand(demand) => self.demanded(demand),
            Input::Job(seen) => self.job(seen, now, &mut effects),
            Input::JobGone(job) => self.job_gone(&job, now, &mut effects),
            Input::JobsAre(names) => self.jobs_are(&names, now, &mut effects),
            Input::Pod(pod) => self.pod(pod, now, &mut effects),
            Input::PodGone(job, pod) => self.pod_gone(&job, &pod, &mut effects),
            Input::PodsAre(pods) => self.pods_are(&pods, &mut effects),
            Input::Wave { job, mut partitions } => {
                partitions.sort_unstable();
                if let Some(tracked) = self.jobs.get_mut(&job)
                    && let Some(stage) = tracked.group.and_then(|group| self.groups[group].stages.first().copied())
                {
                    tracked.cover = Some(Cover::Wave { stage, partitions });
                }
            }
            Input::NotLaunched { job, why } => self.not_launched(&job, why, now),
            Input::Diagnosed { job, pod, stuck } => self.diagnosed(&job, pod.as_deref(), stuck),
            Input::Harvested { job } => self.jobs.get_mut(&job).into_iter().for_each(|job| job.harvests = job.harvests.saturating_sub(1)),
            Input::Disowned => {
                self.over = true;
                effects.push(Effect::Cancelled);
            }
            Input::Tick => self.ask_why(now, &mut effects),
        }
        self.settle(now);
        self.expire(&mut effects);
        self.judge(now, &mut effects);
        self.launch(now, &mut effects);
        effects
    }

    fn demanded(&mut self, demand: Demand) {
        let committed = demand.committed();
        if committed > self.committed {
            self.committed = committed;
            self.barren = 0;
        }
        self.demand = Some(demand);
    }

    fn job(&mut self, seen: JobSeen, now: Moment, effects: &mut Vec<Effect>) {
        if !self.jobs.contains_key(&seen.name) {
            let adopted = self.adopt(&seen, now, effects);
            self.jobs.insert(seen.name.clone(), adopted);
        }
        let Some(job) = self.jobs.get_mut(&seen.name) else { return };
        (job.seen, job.suspended) = (true, seen.suspended);
        job.expired |= seen.expiring;
        if job.end.is_some() || seen.end.is_none() {
            return;
        }
        job.end = seen.end;
        let failed = match &job.end {
            Some(JobEnd::Failed(why)) => Some(why.clone()),
            _ => None,
        };
        job.ended = now;
        let (Some(group), made) = (job.group, job.made) else { return };
        // What an earlier coordinator's Job died of is its affair.
        if let Some(why) = failed
            && !job.expired
        {
            self.failed(group, made, format!("Job {} failed: {why}", seen.name), now);
        }
    }

    /// A Job that another coordinator of this run has made. One with other settings has no place any more.
    fn adopt(&self, seen: &JobSeen, now: Moment, effects: &mut Vec<Effect>) -> Tracked {
        let group = self.groups.iter().position(|group| group.id == seen.group);
        let cover = match group.map(|group| self.groups[group].jobs) {
            Some(Jobs::Pool) => Some(Cover::Pool { workers: seen.parallelism }),
            Some(Jobs::PerPartition) => seen.stage.zip(seen.partition).map(|(stage, partition)| Cover::Partition { stage, partition }),
            Some(Jobs::Indexed) => {
                if seen.end.is_none() {
                    effects.push(Effect::ReadWave { job: seen.name.clone() });
                }
                None
            }
            None => {
                if seen.end.is_none() {
                    effects.push(Effect::Delete { job: seen.name.clone() });
                }
                None
            }
        };
        Tracked { group, cover, settled: seen.end.is_some(), ..Tracked::new(now, self.committed) }
    }

    /// A Job of the group has come to nothing.
    fn failed(&mut self, group: usize, made: Moment, why: String, now: Moment) {
        if self.counted[group].is_none_or(|counted| made > counted) {
            self.barren += 1;
            self.counted[group] = Some(now);
            self.pause(group, now);
        }
        self.last_words = match self.last_words.as_str() {
            "" => why,
            words if why.contains(words) => why,
            words => format!("{why}; the last pod that failed: {words}"),
        };
    }

    fn pause(&mut self, group: usize, now: Moment) {
        let pause = Duration::from_secs(1 << self.barren.min(6)).min(LONGEST_PAUSE);
        self.not_before[group] = self.not_before[group].max(now + pause);
    }

    fn not_launched(&mut self, job: &str, why: String, now: Moment) {
        let Some(Tracked { group: Some(group), made, .. }) = self.jobs.remove(job) else { return };
        // Whoever is at work may commit, and make room.
        match self.jobs.values().any(|job| job.group == Some(group) && job.running()) {
            true => self.pause(group, now),
            false => self.failed(group, made, format!("Job {job} was not accepted: {why}"), now),
        }
    }

    /// A Job that ended well and brought nothing has come to nothing: its like would be made without end.
    fn settle(&mut self, now: Moment) {
        let Some(demand) = self.demand.take() else { return };
        let due = |job: &Tracked| !job.settled && job.end == Some(JobEnd::Complete) && !job.settling(now);
        let due: Vec<String> = self.jobs.iter().filter(|(_, job)| due(job)).map(|(name, _)| name.clone()).collect();
        for name in due {
            let Some(job) = self.jobs.get_mut(&name) else { continue };
            job.settled = true;
            let (Some(group), made) = (job.group, job.made) else { continue };
            let open = |stage: &&StageDemand| stage.open.iter().any(|partition| job.covers(stage.stage, *partition));
            let left = self.groups[group].stages.iter().filter_map(|stage| demand.of_stage(*stage)).find(open);
            if let Some(stage) = left.filter(|_| !demand.stopping && job.commits_before == self.committed) {
                let why = format!("Job {name} is complete, but nothing of {} was committed: check image and command", stage.stage);
                self.failed(group, made, why, now);
            }
        }
        self.demand = Some(demand);
    }

    /// Somebody deleted it, or its time to live is over.
    fn job_gone(&mut self, job: &str, now: Moment, effects: &mut Vec<Effect>) {
        let Some(gone) = self.jobs.remove(job) else { return };
        if let Some(group) = gone.group {
            self.not_before[group] = self.not_before[group].max(now + SETTLE);
            if gone.live() {
                self.deleted(group, job, &gone, now, effects);
            }
        }
        for worker in gone.pods.into_keys() {
            effects.push(Effect::Exited { worker, why: format!("its Job {job} is gone") });
        }
    }

    /// Somebody did it while the Job was at work: by name, or with its owner.
    fn deleted(&mut self, group: usize, name: &str, gone: &Tracked, now: Moment, effects: &mut Vec<Effect>) {
        if gone.commits_before == self.committed {
            self.failed(group, gone.made, format!("Job {name} was deleted in the cluster"), now);
        }
        if self.owner_asked.is_none_or(|asked| now >= asked + SETTLE) {
            self.owner_asked = Some(now);
            effects.push(Effect::CheckOwner);
        }
    }

    fn jobs_are(&mut self, names: &BTreeSet<String>, now: Moment, effects: &mut Vec<Effect>) {
        self.jobs_listed = true;
        // What was created after the list began is not in it.
        let gone: Vec<String> =
            self.jobs.iter().filter(|(name, job)| job.seen && !names.contains(*name)).map(|(name, _)| name.clone()).collect();
        gone.iter().for_each(|job| self.job_gone(job, now, effects));
    }

    fn pod(&mut self, seen: PodSeen, now: Moment, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seen.job) else { return };
        if job.past.contains(&seen.name) {
            return;
        }
        if matches!(seen.phase, Phase::Succeeded | Phase::Failed(_)) {
            job.pods.remove(&seen.name);
            job.past.insert(seen.name.clone());
        } else {
            let new = || Tracking { since: now, asked: now, ..Tracking::default() };
            let pod = job.pods.entry(seen.name.clone()).or_insert_with(new);
            pod.running = seen.phase == Phase::Running;
            if pod.running {
                job.refused = None;
            }
            match &seen.phase {
                Phase::Pending(Some(stuck)) => (pod.stuck, pod.told) = (Some(stuck.clone()), true),
                // That is over: it waits for something else now, which older events do not explain.
                Phase::Pending(None) if pod.told => {
                    (pod.stuck, pod.told) = (None, false);
                    (pod.since, pod.asked) = (now, now);
                }
                Phase::Pending(None) => {}
                _ => (pod.stuck, pod.told) = (None, false),
            }
        }
        match seen.phase {
            Phase::Pending(_) | Phase::Running | Phase::Succeeded => {}
            Phase::Failed(words) => {
                let (stage, partition) = place(job, &self.groups, seen.index);
                job.harvests += 1;
                job.refused = words.refusal().map(|stuck| (seen.name.clone(), stuck)).or(job.refused.take());
                if !seen.deleted {
                    self.last_words = format!("{} ({})", words.sentence(), seen.name);
                }
                effects.push(Effect::Exited { worker: seen.name.clone(), why: words.sentence() });
                effects.push(Effect::Harvest { job: seen.job, pod: seen.name, stage, partition, words });
            }
        }
    }

    fn pod_gone(&mut self, job: &str, pod: &str, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(job) else { return };
        job.past.remove(pod);
        if job.pods.remove(pod).is_some() {
            effects.push(Effect::Exited { worker: pod.to_string(), why: "its pod was deleted".to_string() });
        }
    }

    fn pods_are(&mut self, pods: &BTreeSet<(String, String)>, effects: &mut Vec<Effect>) {
        self.pods_listed = true;
        let of = |tracked: &Tracked| tracked.pods.keys().chain(&tracked.past).cloned().collect::<Vec<_>>();
        let all = self.jobs.iter().flat_map(|(job, tracked)| of(tracked).into_iter().map(|pod| (job.clone(), pod)));
        let gone: Vec<_> = all.filter(|pod| !pods.contains(pod)).collect();
        gone.iter().for_each(|(job, pod)| self.pod_gone(job, pod, effects));
    }

    fn diagnosed(&mut self, job: &str, pod: Option<&str>, stuck: Option<Stuck>) {
        let Some(job) = self.jobs.get_mut(job) else { return };
        match pod {
            None => job.stuck = stuck,
            Some(pod) => {
                if let (Some(pod), Some(stuck)) = (job.pods.get_mut(pod), stuck)
                    && !pod.running
                {
                    pod.stuck = Some(stuck);
                }
            }
        }
    }

    /// Asks about pods that take long to start, and about Jobs that get none.
    fn ask_why(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let slow = SLOW_START.min(self.rules.start_timeout / 2);
        let late = |since: Moment, asked: Moment| now >= since + slow && now >= asked + slow;
        for (name, job) in self.jobs.iter_mut().filter(|(_, job)| job.live() && job.seen) {
            if !job.pods.is_empty() {
                job.stuck = None;
            } else if job.suspended && now >= job.made + slow {
                job.stuck = Some(Stuck { reason: SUSPENDED.to_string(), message: "the Job waits to be admitted".to_string() });
            } else if late(job.made, job.asked) {
                job.asked = now;
                effects.push(Effect::Diagnose { job: name.clone(), pod: None, since: job.made });
            }
            // One pod of a Job is as good as another.
            if let Some((pod, tracking)) = job.pods.iter_mut().find(|(_, pod)| !pod.running)
                && late(tracking.since, tracking.asked)
            {
                tracking.asked = now;
                effects.push(Effect::Diagnose { job: name.clone(), pod: Some(pod.clone()), since: tracking.since });
            }
        }
    }

    /// A Job that has ended and whose pods have been heard needs not stay.
    fn expire(&mut self, effects: &mut Vec<Effect>) {
        if !self.pods_listed {
            return;
        }
        for (name, job) in self.jobs.iter_mut().filter(|(_, job)| !job.live() && !job.expired && job.harvests == 0) {
            job.expired = true;
            effects.push(Effect::Expire { job: name.clone() });
        }
    }

    /// Gives up when Jobs fail and fail, or nothing has been able to start for too long.
    fn judge(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let troubles = self.current_troubles();
        let running = self.jobs.values().any(|job| job.live() && job.running());
        let worst = troubles.iter().find(|trouble| trouble.reason != SUSPENDED).map(ToString::to_string);
        let held_up = worst.is_some() && !running;
        self.troubled_since = if held_up { self.troubled_since.or(Some(now)) } else { None };
        if troubles != self.troubles {
            self.troubles.clone_from(&troubles);
            effects.push(Effect::Trouble(troubles));
        }
        if self.over {
            return;
        }
        let too_long = self.troubled_since.is_some_and(|since| now >= since + self.rules.start_timeout);
        let why = match worst {
            Some(trouble) if too_long => format!("for {} s no pod could start: {trouble}", self.rules.start_timeout.as_secs()),
            _ if self.barren >= self.rules.barren_jobs => {
                format!("{} Jobs in a row failed without a commit: {}", self.barren, self.last_words)
            }
            _ => return,
        };
        self.give_up(why, effects);
    }

    fn give_up(&mut self, why: String, effects: &mut Vec<Effect>) {
        self.over = true;
        effects.push(Effect::GiveUp { why });
    }

    fn current_troubles(&self) -> Vec<Trouble> {
        let mut by_reason: BTreeMap<&Stuck, Trouble> = BTreeMap::new();
        for (name, job) in self.jobs.iter().filter(|(_, job)| job.live()) {
            let pods = job.pods.iter().filter_map(|(pod, tracking)| Some((format!("pod {pod}"), tracking.stuck.as_ref()?)));
            let own = job.stuck.as_ref().map(|stuck| (format!("Job {name}"), stuck));
            let refused = job.refused.as_ref().map(|(pod, stuck)| (format!("pod {pod}"), stuck));
            for (object, stuck) in pods.chain(own).chain(refused) {
                by_reason.entry(stuck).and_modify(|trouble| trouble.others += 1).or_insert_with(|| Trouble::new(&object, stuck));
            }
        }
        by_reason.into_values().collect()
    }

    /// Creates the Jobs that open partitions lack.
    fn launch(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.over || !self.jobs_listed || !self.pods_listed {
            return;
        }
        // Taken out and put back: with many open partitions it is large, and this is done at every step.
        let Some(demand) = self.demand.take() else { return };
        if !demand.stopping {
            self.launch_for(&demand, now, effects);
        }
        self.demand = Some(demand);
    }

    fn launch_for(&mut self, demand: &Demand, now: Moment, effects: &mut Vec<Effect>) {
        for group in 0..self.groups.len() {
            if now < self.not_before[group] {
                continue;
            }
            let covers = match self.groups[group].jobs {
                Jobs::Pool => self.pool(group, demand, now),
                Jobs::Indexed => self.wave(group, demand, now),
                Jobs::PerPartition => self.singles(group, demand, now, effects),
            };
            for cover in covers {
                self.made += 1;
                let job = self.naming.job(self.groups[group].word(), self.made);
                let tracked = Tracked { group: Some(group), cover: Some(cover.clone()), ..Tracked::new(now, self.committed) };
                self.jobs.insert(job.clone(), tracked);
                effects.push(Effect::Launch { group, job, cover });
            }
        }
    }

    /// Jobs of the group whose partitions need no other at the moment.
    fn current_of(&self, group: usize, now: Moment) -> impl Iterator<Item = &Tracked> {
        self.jobs.values().filter(move |job| job.group == Some(group) && (job.live() || job.settling(now)))
    }

    fn stages<'d>(&self, group: usize, demand: &'d Demand) -> Vec<&'d StageDemand> {
        self.groups[group].stages.iter().filter_map(|stage| demand.of_stage(*stage)).collect()
    }

    fn pool(&self, group: usize, demand: &Demand, now: Moment) -> Vec<Cover> {
        let stages = self.stages(group, demand);
        if self.current_of(group, now).next().is_some() || stages.iter().all(|stage| stage.open.is_empty()) {
            return Vec::new();
        }
        let left: u32 = stages.iter().map(|stage| stage.partitions.saturating_sub(stage.committed)).sum();
        vec![Cover::Pool { workers: self.groups[group].workers.min(left.max(1)) }]
    }

    fn wave(&self, group: usize, demand: &Demand, now: Moment) -> Vec<Cover> {
        let Some(stage) = self.stages(group, demand).into_iter().next() else { return Vec::new() };
        let enough = stage.settled || stage.open.len() >= WAVE * self.groups[group].workers as usize;
        if stage.open.is_empty() || !enough || self.current_of(group, now).next().is_some() {
            return Vec::new();
        }
        vec![Cover::Wave { stage: stage.stage, partitions: stage.open.clone() }]
    }

    fn singles(&mut self, group: usize, demand: &Demand, now: Moment, effects: &mut Vec<Effect>) -> Vec<Cover> {
        let Some(stage) = self.stages(group, demand).into_iter().next() else { return Vec::new() };
        if stage.partitions > MOST_JOBS {
            let why = too_many(stage.stage, stage.partitions);
            self.give_up(why, effects);
            return Vec::new();
        }
        let current: Vec<&Tracked> = self.current_of(group, now).collect();
        let live = current.iter().filter(|job| job.live()).count();
        let room = (self.groups[group].workers as usize).saturating_sub(live);
        let uncovered = stage.open.iter().filter(|partition| !current.iter().any(|job| job.covers(stage.stage, **partition)));
        uncovered.take(room).map(|partition| Cover::Partition { stage: stage.stage, partition: *partition }).collect()
    }
}

impl Tracked {
    fn new(made: Moment, commits_before: u64) -> Self {
        Tracked {
            group: None,
            cover: None,
            made,
            commits_before,
            settled: false,
            seen: false,
            suspended: false,
            end: None,
            ended: made,
            expired: false,
            harvests: 0,
            asked: made,
            stuck: None,
            refused: None,
            pods: BTreeMap::new(),
            past: BTreeSet::new(),
        }
    }
}

/// Why a stage cannot have a Job for each partition.
pub fn too_many(stage: Stage, partitions: u32) -> String {
    format!(
        "run.kubernetes.jobs: {stage} has {partitions} partitions, and more than {MOST_JOBS} Jobs stall a control plane: use `jobs: indexed` \
         or `jobs: pool`, or a larger partition.records in a new run"
    )
}

/// What a pod works on, as far as its Job says.
fn place(job: &Tracked, groups: &[Group], index: Option<u32>) -> (Option<Stage>, Option<u32>) {
    match &job.cover {
        Some(Cover::Partition { stage, partition }) => (Some(*stage), Some(*partition)),
        Some(Cover::Wave { stage, partitions }) => (Some(*stage), index.and_then(|index| partitions.get(index as usize).copied())),
        Some(Cover::Pool { .. }) | None => {
            let stages = job.group.map(|group| &groups[group].stages[..]);
            (stages.and_then(|stages| if let [stage] = stages { Some(*stage) } else { None }), None)
        }
    }
}
