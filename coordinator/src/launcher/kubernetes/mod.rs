//! Workers as Kubernetes Jobs.
//!
//! The cluster is asked for Jobs and watched; what it says becomes facts (`seen`), a pure state machine (`machine`)
//! decides which Jobs there should be, and a pure function (`render`) says what they look like. Success is a committed
//! manifest in the store, never a Job's status.

pub mod cluster;
mod engine;
mod evidence;
mod machine;
#[cfg(test)]
mod machine_tests;
pub mod names;
pub mod owner;
mod refusals;
pub mod render;
#[cfg(test)]
mod render_tests;
mod seen;
pub mod strict;

use super::{Demand, Launcher, Observed, Stopping};
use async_trait::async_trait;
use cluster::{Cluster, ProblemKind};
use engine::Engine;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec::{Jobs, Kubernetes};
use ip2p_pipeline::store::Store;
use machine::Rules;
use owner::{Held, NotHeld};
use render::{Cover, Group};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Why the cluster cannot be used.
#[derive(Debug)]
pub enum Refusal {
    /// The spec, a permission or the cluster has to be changed first.
    Bad(String),
    /// Later it may work.
    Later(String),
}

impl From<cluster::Problem> for Refusal {
    fn from(problem: cluster::Problem) -> Self {
        match problem.kind {
            ProblemKind::Refused => Refusal::Bad(problem.to_string()),
            ProblemKind::Passing | ProblemKind::NotFound | ProblemKind::Conflict => Refusal::Later(problem.to_string()),
        }
    }
}

impl From<NotHeld> for Refusal {
    fn from(not_held: NotHeld) -> Self {
        match not_held {
            NotHeld::Busy(why) => Refusal::Later(why),
            NotHeld::Problem(problem) => problem.into(),
        }
    }
}

/// A cluster in which this coordinator may make Jobs for the run: everything that can be refused was checked.
pub struct Claim {
    cluster: Cluster,
    held: Held,
    groups: Vec<Group>,
    run: render::Run,
    rules: Rules,
}

impl Claim {
    /// Checks the template and the cluster, and takes the run's Lease.
    pub async fn take(plan: &Plan, spec: &Kubernetes, store_url: &str) -> Result<Self, Refusal> {
        let groups = groups(spec, plan).map_err(Refusal::Bad)?;
        let base = names::base(&plan.spec.name, store_url);
        let mut run = render::Run {
            base: base.clone(),
            owner: "unknown".to_string(),
            term: 0,
            coordinator: spec.coordinator.clone(),
            token_secret: spec.token_secret.clone(),
            attempts: plan.spec.run.retry.attempts,
        };
        let rehearsal =
            |run: &render::Run| groups.iter().map(|group| sample(run, group)).collect::<Result<Vec<_>, _>>().map_err(Refusal::Bad);
        rehearsal(&run)?;
        let cluster = Cluster::connect(spec.namespace.as_deref()).await.map_err(Refusal::Bad)?;
        cluster.check_version().await?;
        let held = Held::take(&cluster, &base, &owner::holder()).await?;
        let rehearsed = async {
            run.owner = owner::own(&cluster, &base, store_url).await?;
            for job in rehearsal(&run)? {
                cluster.rehearse(&job).await?;
            }
            Ok::<_, Refusal>(())
        };
        if let Err(refusal) = rehearsed.await {
            held.release().await;
            return Err(refusal);
        }
        let rules = Rules { barren_jobs: plan.spec.run.retry.attempts, start_timeout: spec.start_timeout };
        Ok(Claim { cluster, held, groups, run, rules })
    }

    /// Starts to watch and to make Jobs.
    pub fn start(self, term: u32, store: Store) -> KubernetesWorkers {
        let (demand, demands) = watch::channel(Demand::default());
        let (send, observed) = mpsc::channel(1024);
        let (stop, stopped) = oneshot::channel();
        let run = render::Run { term, ..self.run };
        let engine = Engine::new(self.cluster, store, run, self.rules, self.groups, send.clone());
        let task = tokio::spawn(engine.run(demands, stopped));
        let keeper = tokio::spawn(self.held.clone().keep(send));
        KubernetesWorkers { demand, observed, stop, task, keeper, held: self.held }
    }
}

/// The smallest Job of a group, to be checked.
fn sample(run: &render::Run, group: &Group) -> Result<k8s_openapi::api::batch::v1::Job, String> {
    let stage = group.stages.first().copied().unwrap_or(Stage::Prompts);
    let cover = match group.jobs {
        Jobs::Pool => Cover::Pool { workers: 1 },
        Jobs::Indexed => Cover::Wave { stage, partitions: vec![0] },
        Jobs::PerPartition => Cover::Partition { stage, partition: 0 },
    };
    render::job(run, group, &names::job(&run.base, group.word(), 0, 0), &cover)
}

/// Stages of a pool that have the same settings share it; each other stage is by itself.
fn groups(spec: &Kubernetes, plan: &Plan) -> Result<Vec<Group>, String> {
    let mut groups: Vec<Group> = Vec::new();
    for jobs in &spec.stages {
        let same = |group: &&mut Group| {
            jobs.jobs == Jobs::Pool && group.jobs == Jobs::Pool && group.workers == jobs.workers && group.pod == jobs.pod
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.stages.push(jobs.stage),
            None => groups.push(Group {
                id: String::new(),
                stages: vec![jobs.stage],
                jobs: jobs.jobs,
                workers: jobs.workers,
                pod: jobs.pod.clone(),
            }),
        }
    }
    let partitions = plan.partitioning.partitions().map_err(|e| e.to_string())?;
    let many =
        |group: &&Group| group.jobs == Jobs::PerPartition && matches!(group.stages[..], [Stage::Prompts | Stage::Pairs | Stage::Filter]);
    if let Some(group) = groups.iter().find(many).filter(|_| partitions > ip2p_pipeline::spec::MOST_JOBS) {
        return Err(machine::too_many(group.stages[0], partitions));
    }
    for group in &mut groups {
        let settings = serde_json::to_string(&(&group.stages, group.jobs, group.workers, &group.pod)).map_err(|e| e.to_string())?;
        group.id = Fingerprint::of(&["group", &plan.fingerprint().to_string(), &spec.coordinator, &settings]).short();
    }
    Ok(groups)
}

/// The Jobs of a run.
pub struct KubernetesWorkers {
    demand: watch::Sender<Demand>,
    observed: mpsc::Receiver<Observed>,
    stop: oneshot::Sender<Stopping>,
    task: JoinHandle<()>,
    keeper: JoinHandle<()>,
    held: Held,
}

#[async_trait]
impl Launcher for KubernetesWorkers {
    fn want(&mut self, demand: Demand) {
        self.demand.send_if_modified(|current| {
            let changed = *current != demand;
            *current = demand;
            changed
        });
    }

    async fn next(&mut self) -> Observed {
        match self.observed.recv().await {
            Some(observed) => observed,
            None => std::future::pending().await,
        }
    }

    fn ends_with_us(&self) -> bool {
        false
    }

    async fn stop(self: Box<Self>, stopping: Stopping) {
        let KubernetesWorkers { observed, stop, task, keeper, held, .. } = *self;
        // Nobody listens any more, so nothing may wait to be heard.
        drop(observed);
        // Either side may be gone: then there is nothing to stop.
        let _ = stop.send(stopping);
        let _ = task.await;
        keeper.abort();
        if stopping != Stopping::Leave {
            held.release().await;
        }
    }
}
