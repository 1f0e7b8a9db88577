//! What makes a run one thing in a cluster: a ConfigMap that owns its Jobs, and a Lease that one coordinator holds.
//!
//! The Lease keeps two coordinators from making Jobs for the same work. The guarantees do not hang on it: terms and
//! commits in the store do.

use super::cluster::{Call, Cluster, Problem, ProblemKind};
use super::names::{MANAGER, RUN};
use crate::launcher::Observed;
use futures::TryFutureExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How often a holder renews, and after how long without renewal another takes over.
const RENEW: Duration = Duration::from_secs(5);
const DURATION: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_secs(1);
/// How long the end of a coordinator may be held up for the sake of the next one.
const RELEASE: Duration = Duration::from_secs(10);

/// Creates the ConfigMap, or finds it; returns its UID.
pub async fn own(cluster: &Cluster, base: &str, run_url: &str) -> Result<String, Problem> {
    let object: ConfigMap = ConfigMap {
        metadata: ObjectMeta {
            name: Some(base.to_string()),
            labels: Some([(RUN.to_string(), base.to_string()), ("app.kubernetes.io/name".to_string(), "ip2p".to_string())].into()),
            ..ObjectMeta::default()
        },
        data: Some([("run".to_string(), run_url.to_string())].into()),
        ..ConfigMap::default()
    };
    let (maps, parameters, patch) = (cluster.config_maps(), PatchParams::apply(MANAGER).force(), Patch::Apply(&object));
    let applied = cluster.patiently(Call("patch", "configmaps", base), || maps.patch(base, &parameters, &patch)).await?;
    Ok(applied.metadata.uid.unwrap_or_default())
}

/// Whether the ConfigMap is still the one that owns the Jobs: without it the cluster deletes each Job that names it.
pub async fn owns(cluster: &Cluster, base: &str, uid: &str) -> Result<bool, Problem> {
    let maps = cluster.config_maps();
    let found = cluster.patiently(Call("get", "configmaps", base), || maps.get_opt(base)).await?;
    Ok(found.and_then(|map| map.metadata.uid).as_deref() == Some(uid))
}

/// Why a run cannot be had.
#[derive(Debug)]
pub enum NotHeld {
    /// Another coordinator renews the Lease.
    Busy(String),
    Problem(Problem),
}

impl From<Problem> for NotHeld {
    fn from(problem: Problem) -> Self {
        NotHeld::Problem(problem)
    }
}

/// The Lease of a run, held by this coordinator.
#[derive(Clone)]
pub struct Held {
    cluster: Cluster,
    name: String,
    holder: String,
}

impl Held {
    /// Takes the Lease. A holder that does not renew within its time is dead, by our own clock; one that does refuses us.
    pub async fn take(cluster: &Cluster, name: &str, holder: &str) -> Result<Self, NotHeld> {
        let held = Held { cluster: cluster.clone(), name: name.to_string(), holder: holder.to_string() };
        let mut first: Option<(Instant, Option<String>)> = None;
        loop {
            let Some(lease) = held.get().await? else {
                match held.put(None).await {
                    Ok(()) => return Ok(held),
                    Err(problem) if problem.kind == ProblemKind::Conflict => {
                        tokio::time::sleep(LOOK).await;
                        continue;
                    }
                    Err(problem) => return Err(problem.into()),
                }
            };
            let spec = lease.spec.clone().unwrap_or_default();
            let owner = spec.holder_identity.unwrap_or_default();
            let version = lease.metadata.resource_version.clone();
            let (since, seen) = first.get_or_insert_with(|| (Instant::now(), version.clone()));
            if !owner.is_empty() && *seen != version {
                return Err(NotHeld::Busy(format!(
                    "coordinator {owner} is at work on this run (Lease {name} in namespace {}): wait for it, stop it, or `cancel` the run",
                    cluster.namespace
                )));
            }
            let patience = Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
            if owner.is_empty() || since.elapsed() >= patience {
                match held.put(Some(lease)).await {
                    Ok(()) => return Ok(held),
                    // Another one was faster: look again at who it is.
                    Err(problem) if problem.kind == ProblemKind::Conflict => {}
                    Err(problem) => return Err(problem.into()),
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn get(&self) -> Result<Option<Lease>, Problem> {
        let leases = self.cluster.leases();
        self.cluster.patiently(Call("get", "leases", &self.name), || leases.get_opt(&self.name)).await
    }

    /// Writes ourselves into the Lease as it was read, or into a new one.
    async fn put(&self, current: Option<Lease>) -> Result<(), Problem> {
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: current
                .as_ref()
                .and_then(|lease| lease.spec.as_ref())
                .and_then(|spec| spec.acquire_time.clone())
                .or(Some(now.clone())),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        self.write(current, spec).await
    }

    async fn write(&self, current: Option<Lease>, spec: LeaseSpec) -> Result<(), Problem> {
        let (leases, parameters) =
            (self.cluster.leases(), PostParams { field_manager: Some(MANAGER.to_string()), ..PostParams::default() });
        match current {
            Some(lease) => {
                let lease = Lease { spec: Some(spec), ..lease };
                let call = Call("update", "leases", &self.name);
                self.cluster.patiently(call, || leases.replace(&self.name, &parameters, &lease).map_ok(drop)).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    labels: Some([(RUN.to_string(), self.name.clone())].into()),
                    ..ObjectMeta::default()
                };
                let lease = Lease { metadata, spec: Some(spec) };
                let call = Call("create", "leases", &self.name);
                self.cluster.patiently(call, || leases.create(&parameters, &lease).map_ok(drop)).await
            }
        }
    }

    /// Renews for ever; says when another coordinator has the Lease, or nobody any more. An API that does not answer says nothing.
    pub async fn keep(self, observed: mpsc::Sender<Observed>) {
        let mut told = false;
        let mut renew = tokio::time::interval(RENEW);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            renew.tick().await;
            let seen = match self.get().await {
                Ok(Some(lease)) if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(self.holder.as_str()) => {
                    match self.put(Some(lease)).await {
                        Ok(()) => told = false,
                        Err(problem) if problem.kind == ProblemKind::Refused => {
                            if !std::mem::replace(&mut told, true) {
                                tracing::warn!("the Lease is not renewed, so that another coordinator can take the run over: {problem}");
                            }
                        }
                        Err(problem) => tracing::debug!("the Lease was not renewed: {problem}"),
                    }
                    continue;
                }
                Ok(Some(lease)) => {
                    let other = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
                    Observed::Displaced { why: format!("coordinator {other} has taken the run over in the cluster") }
                }
                Ok(None) => Observed::Cancelled { why: "the run was cancelled in the cluster: its Lease is gone".to_string() },
                Err(problem) => {
                    tracing::warn!("the Lease cannot be read: {problem}");
                    continue;
                }
            };
            // The driver may have ended by itself.
            let _ = observed.send(seen).await;
            return;
        }
    }

    /// Lets the next coordinator begin at once, if the cluster answers in time.
    pub async fn release(&self) {
        let released = async {
            let Some(lease) = self.get().await? else { return Ok(()) };
            match lease.spec.clone() {
                Some(spec) if spec.holder_identity.as_deref() == Some(self.holder.as_str()) => {
                    self.write(Some(lease), LeaseSpec { holder_identity: None, ..spec }).await
                }
                _ => Ok(()),
            }
        };
        let released: Result<Result<(), Problem>, _> = tokio::time::timeout(RELEASE, released).await;
        let why = match released {
            Ok(Ok(())) => return,
            Ok(Err(problem)) => problem.to_string(),
            Err(_) => format!("the cluster does not answer within {} s", RELEASE.as_secs()),
        };
        tracing::warn!("the next coordinator has to wait {} s: {why}", DURATION.as_secs());
    }
}

/// What a `cancel` removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cancelled {
    pub jobs: usize,
}

/// Removes what the run owns in the cluster, and nothing else. Its owner goes first: Jobs that a coordinator makes in
/// the last moment go the way of all objects without an owner.
pub async fn cancel(cluster: &Cluster, base: &str) -> Result<Cancelled, Problem> {
    let (maps, leases, parameters) = (cluster.config_maps(), cluster.leases(), DeleteParams::background());
    let owner = cluster.patiently(Call("get", "configmaps", base), || maps.get_opt(base)).await?;
    let uid = owner.and_then(|owner| owner.metadata.uid);
    gone(cluster.patiently(Call("delete", "leases", base), || leases.delete(base, &parameters).map_ok(drop)).await)?;
    let (jobs, ours) = (cluster.jobs(), ListParams::default().labels(&format!("{RUN}={base}")));
    let listed = cluster.patiently(Call("list", "jobs", ""), || jobs.list(&ours)).await?;
    gone(cluster.patiently(Call("delete", "configmaps", base), || maps.delete(base, &parameters).map_ok(drop)).await)?;
    let mut cancelled = Cancelled::default();
    for job in listed.items {
        let owners = job.metadata.owner_references.unwrap_or_default();
        // A label alone can be anybody's.
        let owned = owners.iter().any(|owner| Some(&owner.uid) == uid.as_ref() || (owner.kind == "ConfigMap" && owner.name == base));
        if let (true, Some(name)) = (owned, job.metadata.name) {
            cluster.delete_job(&name).await?;
            cancelled.jobs += 1;
        }
    }
    Ok(cancelled)
}

fn gone(deleted: Result<(), Problem>) -> Result<(), Problem> {
    deleted.or_else(|problem| if problem.kind == ProblemKind::NotFound { Ok(()) } else { Err(problem) })
}

/// A name for this coordinator that no other one has.
pub fn holder() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "coordinator".to_string());
    format!("{host}-{:08x}", crate::prepare::random().unwrap_or_default() as u32)
}
