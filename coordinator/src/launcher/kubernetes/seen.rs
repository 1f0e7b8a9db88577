//! What an object of the API says, in the words of this launcher.

use super::names;
use crate::trouble::{self, Stuck};
use ip2p_pipeline::layout::Stage;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, Pod};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSeen {
    pub name: String,
    pub group: String,
    pub stage: Option<Stage>,
    pub partition: Option<u32>,
    pub suspended: bool,
    pub end: Option<JobEnd>,
    /// It has its time to live: its evidence was read.
    pub expiring: bool,
    pub parallelism: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Complete,
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSeen {
    pub name: String,
    pub job: String,
    /// Its place in an Indexed Job.
    pub index: Option<u32>,
    /// It is being deleted: how it ends says nothing about its work.
    pub deleted: bool,
    pub phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not running yet; why, as far as it is known.
    Pending(Option<Stuck>),
    Running,
    Succeeded,
    Failed(LastWords),
}

/// What a pod left when it failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWords {
    pub exit_code: Option<i32>,
    /// e.g. OOMKilled, Evicted, DeadlineExceeded.
    pub reason: String,
    /// Its termination message, or why it was ended.
    pub message: String,
}

impl LastWords {
    /// On one line, for the log.
    pub fn sentence(&self) -> String {
        let code = self.exit_code.map(|code| format!(" with code {code}")).unwrap_or_default();
        let reason = if self.reason.is_empty() || self.reason == "Error" { String::new() } else { format!(" ({})", self.reason) };
        let last = self.message.trim().lines().last().unwrap_or_default();
        let separator = if last.is_empty() { "" } else { ": " };
        format!("its pod failed{code}{reason}{separator}{last}")
    }

    /// Why the node did not take the pod, if it never began for that reason.
    pub fn refusal(&self) -> Option<Stuck> {
        let refused = self.exit_code.is_none() && trouble::is_refusal(&self.reason);
        refused.then(|| Stuck { reason: self.reason.clone(), message: self.message.clone() })
    }
}

pub fn job(job: &Job) -> JobSeen {
    let label = |key: &str| job.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let end = conditions.iter().filter(|c| c.status == "True").find_map(|c| match c.type_.as_str() {
        "Complete" => Some(JobEnd::Complete),
        "Failed" => {
            let (reason, message) = (c.reason.as_deref().unwrap_or_default(), c.message.as_deref().unwrap_or_default());
            Some(JobEnd::Failed(format!("{reason}: {message}")))
        }
        _ => None,
    });
    let spec = job.spec.as_ref();
    JobSeen {
        name: job.metadata.name.clone().unwrap_or_default(),
        group: label(names::GROUP).unwrap_or_default(),
        stage: label(names::STAGE).and_then(|stage| stage.parse().ok()),
        partition: label(names::PARTITION).and_then(|partition| partition.parse().ok()),
        suspended: spec.and_then(|spec| spec.suspend).unwrap_or(false),
        end,
        expiring: spec.is_some_and(|spec| spec.ttl_seconds_after_finished.is_some()),
        parallelism: spec.and_then(|spec| spec.parallelism).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
    }
}

pub fn pod(pod: &Pod) -> PodSeen {
    let label = |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    PodSeen {
        name: pod.metadata.name.clone().unwrap_or_default(),
        job: label(names::JOB_NAME).or_else(|| label(names::JOB_NAME_OLD)).unwrap_or_default(),
        index: label(names::INDEX).and_then(|index| index.parse().ok()),
        deleted: pod.metadata.deletion_timestamp.is_some(),
        phase: phase(pod),
    }
}

fn phase(pod: &Pod) -> Phase {
    let Some(status) = &pod.status else { return Phase::Pending(None) };
    match status.phase.as_deref() {
        Some("Running") => Phase::Running,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed(last_words(pod)),
        _ => Phase::Pending(stuck(pod)),
    }
}

fn state(pod: &Pod) -> Option<&ContainerState> {
    let statuses = pod.status.as_ref()?.container_statuses.as_deref()?;
    statuses.iter().find(|status| status.name == names::CONTAINER)?.state.as_ref()
}

/// Reasons that a container waits for which are no trouble.
const USUAL: [&str; 2] = ["ContainerCreating", "PodInitializing"];

fn stuck(pod: &Pod) -> Option<Stuck> {
    let waiting = state(pod).and_then(|state| state.waiting.as_ref()).and_then(|waiting| {
        let reason = waiting.reason.clone().filter(|reason| !USUAL.contains(&reason.as_str()))?;
        Some(Stuck { reason, message: waiting.message.clone().unwrap_or_default() })
    });
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let unscheduled = || {
        let condition = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
        Some(Stuck { reason: condition.reason.clone()?, message: condition.message.clone().unwrap_or_default() })
    };
    waiting.or_else(unscheduled)
}

fn last_words(pod: &Pod) -> LastWords {
    let status = pod.status.as_ref();
    let reason = status.and_then(|status| status.reason.clone());
    let message = status.and_then(|status| status.message.clone());
    match state(pod).and_then(|state| state.terminated.as_ref()) {
        Some(end) => LastWords {
            exit_code: Some(end.exit_code),
            reason: reason.or_else(|| end.reason.clone()).unwrap_or_default(),
            message: end.message.clone().or(message).unwrap_or_default(),
        },
        None => LastWords { exit_code: None, reason: reason.unwrap_or_default(), message: message.unwrap_or_default() },
    }
}
