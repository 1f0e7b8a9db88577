//! The loop around the state machine: watches become inputs, effects become calls.

use super::cluster::{Cluster, Problem, ProblemKind};
use super::evidence::{self, Place};
use super::machine::{Effect, Input, Machine, Rules};
use super::names::{self, RUN};
use super::owner;
use super::refusals::Refusals;
use super::render::{self, Cover, Group};
use super::seen;
use crate::launcher::{Demand, Observed, Stopping};
use crate::trouble::Trouble;
use futures::{Stream, StreamExt};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::task::Wave;
use ip2p_pipeline::{commit, layout};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

/// How often the machine looks at the clock.
const TICK: Duration = Duration::from_secs(1);
/// Most calls to the API at the same time, watches and evidence aside.
const CALLS: usize = 16;
/// Most pods whose last words are read at the same time.
const HARVESTS: usize = 16;
/// How long the end may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long Jobs may take to end by themselves when all work is done.
const LAST_PODS: Duration = Duration::from_secs(30);

type Naming = Box<dyn Fn(&str, u32) -> String + Send + Sync>;
type Watch<K> = Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>;

/// What calls need.
struct Shared {
    cluster: Cluster,
    store: Store,
    run: render::Run,
    groups: Vec<Group>,
    started: Instant,
    calls: Semaphore,
    harvests: Semaphore,
}

pub(super) struct Engine {
    shared: Arc<Shared>,
    machine: Machine<Naming>,
    observed: mpsc::Sender<Observed>,
    tasks: JoinSet<Option<Input>>,
    /// Names of a list that is being read.
    jobs: BTreeSet<String>,
    pods: BTreeSet<(String, String)>,
    jobs_listed: bool,
    jobs_refused: Refusals,
    pods_refused: Refusals,
    gave_up: bool,
}

impl Engine {
    pub(super) fn new(
        cluster: Cluster,
        store: Store,
        run: render::Run,
        rules: Rules,
        groups: Vec<Group>,
        observed: mpsc::Sender<Observed>,
    ) -> Self {
        let (base, term) = (run.base.clone(), run.term);
        let naming: Naming = Box::new(move |word, number| names::job(&base, word, term, number));
        let machine = Machine::new(rules, groups.clone(), naming);
        let shared = Arc::new(Shared {
            cluster,
            store,
            run,
            groups,
            started: Instant::now(),
            calls: Semaphore::new(CALLS),
            harvests: Semaphore::new(HARVESTS),
        });
        Engine {
            shared,
            machine,
            observed,
            tasks: JoinSet::new(),
            jobs: BTreeSet::new(),
            pods: BTreeSet::new(),
            jobs_listed: false,
            jobs_refused: Refusals::default(),
            pods_refused: Refusals::default(),
            gave_up: false,
        }
    }

    pub(super) async fn run(mut self, mut demands: watch::Receiver<Demand>, mut stop: oneshot::Receiver<Stopping>) {
        let mut watches = Watches::start(&self.shared);
        self.tasks.spawn(forget_troubles(self.shared.clone()));
        let stopping = loop {
            let heard = tokio::select! {
                stopping = &mut stop => break stopping.unwrap_or(Stopping::Leave),
                Ok(()) = demands.changed() => Heard::Demand(demands.borrow_and_update().clone()),
                heard = watches.next(&mut self.tasks, self.jobs_listed) => heard,
            };
            self.hear(heard).await;
        };
        if stopping == Stopping::Done {
            self.see_off(&mut watches).await;
        }
        drop(watches);
        if tokio::time::timeout(PATIENCE, self.end(stopping)).await.is_err() {
            tracing::warn!("the cluster does not answer: Jobs of this run may be left; `cancel` removes them");
        }
    }

    /// Workers that know that all is done leave by themselves, and their Jobs end well.
    async fn see_off(&mut self, watches: &mut Watches) {
        self.hear(Heard::Demand(Demand { stopping: true, ..Demand::default() })).await;
        let ended = async {
            while !self.machine.live().is_empty() {
                let heard = watches.next(&mut self.tasks, self.jobs_listed).await;
                self.hear(heard).await;
            }
        };
        // What is left is removed.
        let _ = tokio::time::timeout(LAST_PODS, ended).await;
    }

    async fn hear(&mut self, heard: Heard) {
        let input = match heard {
            Heard::Job(event) => self.job_event(event).await,
            Heard::Pod(event) => self.pod_event(event).await,
            Heard::Demand(demand) => Some(Input::Demand(demand)),
            Heard::CarriedOut(input) => input,
            Heard::Tick => Some(Input::Tick),
        };
        if let Some(input) = input {
            self.apply(input).await;
        }
    }

    async fn apply(&mut self, input: Input) {
        for effect in self.machine.step(input, self.shared.started.elapsed()) {
            match effect {
                Effect::Exited { worker, why } => self.tell(Observed::Exited { worker, why }).await,
                Effect::GiveUp { why } => self.give_up(why).await,
                Effect::Cancelled => {
                    let why = format!("the run was cancelled in the cluster: its ConfigMap {} is gone", self.shared.run.base);
                    self.tell(Observed::Cancelled { why }).await;
                }
                effect => drop(self.tasks.spawn(carry_out(self.shared.clone(), effect))),
            }
        }
    }

    async fn tell(&self, observed: Observed) {
        // The driver may have ended by itself.
        let _ = self.observed.send(observed).await;
    }

    async fn give_up(&mut self, why: String) {
        if !std::mem::replace(&mut self.gave_up, true) {
            self.tell(Observed::AllGone { why }).await;
        }
    }

    async fn job_event(&mut self, event: watcher::Result<Event<Job>>) -> Option<Input> {
        match event {
            Ok(Event::Init) => {
                self.jobs.clear();
                None
            }
            Ok(Event::InitApply(job)) => {
                let seen = seen::job(&job);
                self.jobs.insert(seen.name.clone());
                Some(Input::Job(seen))
            }
            Ok(Event::InitDone) => {
                self.jobs_listed = true;
                Some(Input::JobsAre(std::mem::take(&mut self.jobs)))
            }
            Ok(Event::Apply(job)) => {
                self.jobs_refused.works();
                Some(Input::Job(seen::job(&job)))
            }
            Ok(Event::Delete(job)) => Some(Input::JobGone(seen::job(&job).name)),
            Err(e) => self.watch_failed(&e, "jobs").await,
        }
    }

    async fn pod_event(&mut self, event: watcher::Result<Event<Pod>>) -> Option<Input> {
        match event {
            Ok(Event::Init) => {
                self.pods.clear();
                None
            }
            Ok(Event::InitApply(pod)) => {
                let seen = seen::pod(&pod);
                self.pods.insert((seen.job.clone(), seen.name.clone()));
                Some(Input::Pod(seen))
            }
            Ok(Event::InitDone) => Some(Input::PodsAre(std::mem::take(&mut self.pods))),
            Ok(Event::Apply(pod)) => {
                self.pods_refused.works();
                Some(Input::Pod(seen::pod(&pod)))
            }
            Ok(Event::Delete(pod)) => {
                let seen = seen::pod(&pod);
                Some(Input::PodGone(seen.job, seen.name))
            }
            Err(e) => self.watch_failed(&e, "pods").await,
        }
    }

    /// A watch comes back by itself, unless it is forbidden and stays so.
    async fn watch_failed(&mut self, error: &watcher::Error, resource: &str) -> Option<Input> {
        let (source, verb) = match error {
            watcher::Error::InitialListFailed(e) => (Some(e), "list"),
            watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => (Some(e), "watch"),
            _ => (None, "watch"),
        };
        let problem = source.map(|e| Problem::of(e, super::cluster::Call(verb, resource, ""), &self.shared.cluster.namespace));
        let now = self.shared.started.elapsed();
        let refusals = if resource == "jobs" { &mut self.jobs_refused } else { &mut self.pods_refused };
        match problem.filter(|problem| problem.kind == ProblemKind::Refused) {
            Some(problem) if refusals.refused(now) => self.give_up(problem.to_string()).await,
            Some(problem) => tracing::warn!("{problem}; the run goes on for a while in case that it is allowed again"),
            None => tracing::debug!("the watch of {resource} begins anew: {error}"),
        }
        None
    }

    /// Lets calls at hand end, and removes what still runs.
    async fn end(&mut self, stopping: Stopping) {
        // Calls without an answer may not keep the rest from being done.
        let _ = tokio::time::timeout(PATIENCE / 2, self.last_calls()).await;
        if stopping == Stopping::Leave {
            return;
        }
        for job in self.machine.live() {
            if let Err(problem) = self.shared.cluster.delete_job(&job).await {
                tracing::warn!("{problem}");
            }
        }
    }

    async fn last_calls(&mut self) {
        while let Some(done) = self.tasks.join_next().await {
            let Ok(Some(input)) = done else { continue };
            for effect in self.machine.step(input, self.shared.started.elapsed()) {
                // Nothing else that follows is done any more.
                if matches!(effect, Effect::Expire { .. }) {
                    self.tasks.spawn(carry_out(self.shared.clone(), effect));
                }
            }
        }
    }
}

/// What happens while nothing is decided.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is not kept")]
enum Heard {
    Job(watcher::Result<Event<Job>>),
    Pod(watcher::Result<Event<Pod>>),
    Demand(Demand),
    CarriedOut(Option<Input>),
    Tick,
}

struct Watches {
    jobs: Watch<Job>,
    pods: Watch<Pod>,
    tick: Interval,
}

impl Watches {
    fn start(shared: &Shared) -> Self {
        let ours = watcher::Config::default().labels(&format!("{RUN}={}", shared.run.base));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Watches {
            jobs: Box::pin(watcher(shared.cluster.jobs(), ours.clone()).default_backoff()),
            pods: Box::pin(watcher(shared.cluster.pods(), ours).default_backoff()),
            tick,
        }
    }

    /// May be dropped while it waits, without losing anything.
    async fn next(&mut self, tasks: &mut JoinSet<Option<Input>>, jobs_listed: bool) -> Heard {
        tokio::select! {
            Some(event) = self.jobs.next() => Heard::Job(event),
            // A pod means nothing before its Job is known.
            Some(event) = self.pods.next(), if jobs_listed => Heard::Pod(event),
            Some(done) = tasks.join_next() => Heard::CarriedOut(done.ok().flatten()),
            _ = self.tick.tick() => Heard::Tick,
        }
    }
}

/// Does what an effect says, and returns what the machine must hear of it.
async fn carry_out(shared: Arc<Shared>, effect: Effect) -> Option<Input> {
    // Evidence, of which nodes in trouble give none, holds up nothing else. Closed only when the engine is gone.
    let permits = if matches!(effect, Effect::Harvest { .. }) { &shared.harvests } else { &shared.calls };
    let _permit = permits.acquire().await.ok()?;
    let cluster = &shared.cluster;
    match effect {
        Effect::Launch { group, job, cover } => match launch(&shared, group, &job, &cover).await {
            Ok(()) => {
                tracing::info!(job, "Job created");
                None
            }
            Err(why) => Some(Input::NotLaunched { job, why }),
        },
        Effect::Delete { job } => warn(cluster.delete_job(&job).await),
        Effect::Expire { job } => warn(cluster.expire_job(&job).await),
        Effect::ReadWave { job } => match commit::read::<Wave>(&shared.store, &layout::wave(&job)).await {
            Ok(wave) => wave.map(|wave| Input::Wave { job, partitions: wave.partitions }),
            Err(e) => {
                tracing::warn!("the partitions of Job {job} cannot be read: {e}");
                None
            }
        },
        Effect::Diagnose { job, pod, since } => {
            let (kind, name) = pod.as_deref().map_or(("Job", job.as_str()), |pod| ("Pod", pod));
            match cluster.newest_warning(kind, name, shared.started.elapsed().saturating_sub(since)).await {
                Ok(stuck) => Some(Input::Diagnosed { job, pod, stuck }),
                Err(problem) => warn(Err(problem)),
            }
        }
        Effect::Harvest { job, pod, stage, partition, words } => {
            if let Err(e) = evidence::harvest(cluster, &shared.store, &pod, Place { job: job.clone(), stage, partition }, words).await {
                tracing::warn!("the last words of pod {pod} could not be kept: {e}");
            }
            Some(Input::Harvested { job })
        }
        Effect::Trouble(troubles) => {
            write_troubles(&shared.store, &troubles).await;
            None
        }
        Effect::CheckOwner => match owner::owns(cluster, &shared.run.base, &shared.run.owner).await {
            Ok(true) => None,
            Ok(false) => Some(Input::Disowned),
            Err(problem) => warn(Err(problem)),
        },
        Effect::Exited { .. } | Effect::GiveUp { .. } | Effect::Cancelled => None,
    }
}

fn warn(result: Result<(), Problem>) -> Option<Input> {
    if let Err(problem) = result {
        tracing::warn!("{problem}");
    }
    None
}

/// The list of a wave is in the store before its first pod can ask for it.
async fn launch(shared: &Shared, group: usize, job: &str, cover: &Cover) -> Result<(), String> {
    if let Cover::Wave { stage, partitions } = cover {
        let wave = Wave { stage: *stage, partitions: partitions.clone() };
        let bytes = commit::encode(&wave).map_err(|e| e.to_string())?;
        shared.store.create(&layout::wave(job), bytes).await.map_err(|e| e.to_string())?;
    }
    let object = render::job(&shared.run, &shared.groups[group], job, cover)?;
    shared.cluster.launch(&object).await.map_err(|problem| problem.to_string())
}

/// What an earlier coordinator has put down is not known to be so any more.
async fn forget_troubles(shared: Arc<Shared>) -> Option<Input> {
    if matches!(shared.store.get(layout::TROUBLE).await, Ok(Some(_))) {
        write_troubles(&shared.store, &Vec::new()).await;
    }
    None
}

/// For `status`, which sees the store alone.
async fn write_troubles(store: &Store, troubles: &Vec<Trouble>) {
    troubles.iter().for_each(|trouble| tracing::warn!("{trouble}"));
    let written = match commit::encode(troubles) {
        Ok(bytes) => store.put(layout::TROUBLE, bytes).await,
        Err(e) => Err(e),
    };
    if let Err(e) = written {
        tracing::warn!("status will not show why pods do not start: {e}");
    }
}
