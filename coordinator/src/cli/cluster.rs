//! The cluster's side of `run` and `cancel`; refusals where the program was built without it.

use super::{Exit, PipelineArgs};
use crate::launcher::Launcher;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec;
use ip2p_pipeline::store::Store;

#[cfg(feature = "kubernetes")]
pub(super) use with::{Claimed, cancel_jobs, claim};
#[cfg(not(feature = "kubernetes"))]
pub(super) use without::{Claimed, cancel_jobs, claim};

#[cfg(feature = "kubernetes")]
mod with {
    use super::*;
    use crate::launcher::kubernetes::cluster::Cluster;
    use crate::launcher::kubernetes::{Claim, Refusal, names, owner};
    use ip2p_pipeline::spec::{Kubernetes, Spec};

    pub(in crate::cli) struct Claimed(Claim);

    impl From<Refusal> for Exit {
        fn from(refusal: Refusal) -> Self {
            match refusal {
                Refusal::Bad(why) => Exit::bad_input(why),
                Refusal::Later(why) => Exit::resumable(why),
            }
        }
    }

    fn section(spec: &Spec) -> Option<&Kubernetes> {
        spec.run.kubernetes.as_ref().filter(|_| spec.run.launcher == spec::Launcher::Kubernetes)
    }

    /// Everything that the cluster can refuse is refused here.
    pub(in crate::cli) async fn claim(plan: &Plan, store: &Store) -> Result<Option<Claimed>, Exit> {
        match section(&plan.spec) {
            Some(kubernetes) => Ok(Some(Claimed(Claim::take(plan, kubernetes, store.url()).await?))),
            None => Ok(None),
        }
    }

    impl Claimed {
        pub(in crate::cli) fn start(self, term: u32, store: Store) -> Box<dyn Launcher> {
            Box::new(self.0.start(term, store))
        }
    }

    pub(in crate::cli) async fn cancel_jobs(spec: &Spec, store: &Store) -> Result<String, Exit> {
        let Some(kubernetes) = &spec.run.kubernetes else {
            return Err(Exit::bad_input("run.kubernetes is missing: only a run with `launcher: kubernetes` has anything in a cluster"));
        };
        let cluster = Cluster::connect(kubernetes.namespace.as_deref()).await.map_err(Exit::bad_input)?;
        let base = names::base(&spec.name, store.url());
        let cancelled = owner::cancel(&cluster, &base).await.map_err(Refusal::from)?;
        Ok(format!("removed {} Jobs, the ConfigMap and the Lease {base} from namespace {}\n", cancelled.jobs, cluster.namespace))
    }
}

#[cfg(not(feature = "kubernetes"))]
mod without {
    use super::*;
    use ip2p_pipeline::spec::Spec;

    pub(in crate::cli) enum Claimed {}

    fn refusal() -> Exit {
        Exit::bad_input("this program was built without Kubernetes: use one with the feature `kubernetes`, or `launcher: external`")
    }

    pub(in crate::cli) async fn claim(plan: &Plan, _: &Store) -> Result<Option<Claimed>, Exit> {
        if plan.spec.run.launcher == spec::Launcher::Kubernetes { Err(refusal()) } else { Ok(None) }
    }

    impl Claimed {
        pub(in crate::cli) fn start(self, _: u32, _: Store) -> Box<dyn Launcher> {
            match self {}
        }
    }

    pub(in crate::cli) async fn cancel_jobs(_: &Spec, _: &Store) -> Result<String, Exit> {
        Err(refusal())
    }
}

/// Removes what a run has in its cluster. What is committed stays.
pub(super) async fn cancel(args: PipelineArgs) -> Result<(), Exit> {
    let spec = args.load()?;
    if spec.run.launcher == spec::Launcher::Local {
        return Err(Exit::bad_input("run.launcher: local workers end with their coordinator: interrupt it (Ctrl-C)"));
    }
    let store = crate::prepare::open_store(&spec)?;
    let done = cancel_jobs(&spec, &store).await?;
    super::say(done + "everything committed stays in the store; `run` goes on where it is\n")
}
