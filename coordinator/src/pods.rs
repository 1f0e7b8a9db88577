//! What the store keeps of pods that failed.

use crate::listing;
use crate::text::printable;
use ip2p_pipeline::layout::{self, Stage};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Result, commit};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The object `pods/<pod>.json`: the pod's name is the worker's name in manifests, leases and logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodEvidence {
    pub pod: String,
    pub job: String,
    pub stage: Option<Stage>,
    pub partition: Option<u32>,
    pub exit_code: Option<i32>,
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// The last lines of the log; why they are missing, if they are.
    pub log: Vec<String>,
}

/// How many there were, and what became of the newest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailedPods {
    pub pods: u64,
    pub newest: PodEvidence,
    /// Where all of it can be read.
    pub key: String,
}

/// `None` when no pod failed. Reads one object, however many there are.
pub async fn failed(store: &Store) -> Result<Option<FailedPods>> {
    let kept = listing::objects(store, layout::PODS).await?;
    let Some(last) = kept.iter().max_by_key(|object| object.modified) else { return Ok(None) };
    let newest: Option<PodEvidence> = commit::read(store, &last.key).await?;
    Ok(newest.map(|newest| FailedPods { pods: kept.len() as u64, newest, key: last.key.clone() }))
}

impl fmt::Display for FailedPods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PodEvidence { pod, stage, partition, exit_code, reason, message, log, .. } = &self.newest;
        write!(f, "{} failed; the last, {}", self.pods, printable(pod))?;
        if let Some(stage) = stage {
            write!(f, ", at {stage}")?;
        }
        if let Some(partition) = partition {
            write!(f, " partition {partition}")?;
        }
        if let Some(code) = exit_code {
            write!(f, ", with code {code}")?;
        }
        // The kubelet's word for any code but 0.
        if !reason.is_empty() && reason != "Error" {
            write!(f, " ({})", printable(reason))?;
        }
        let said = message.trim().lines().last().or(log.last().map(String::as_str)).unwrap_or("nothing");
        write!(f, ": {}; its last lines are in {}", printable(said), self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_is_told_with_what_it_said_last() {
        let store = Store::open("memory:///").unwrap();
        assert_eq!(failed(&store).await.unwrap(), None);
        for (pod, code) in [("z", 1), ("a", 43)] {
            let evidence = PodEvidence {
                pod: pod.to_string(),
                job: "job".to_string(),
                stage: Some(Stage::Pairs),
                partition: Some(7),
                exit_code: Some(code),
                reason: "Error".to_string(),
                message: "first\nno \x1b[31mmemory\n".to_string(),
                log: vec![],
            };
            store.create(&layout::pod(pod), commit::encode(&evidence).unwrap()).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let told = failed(&store).await.unwrap().unwrap().to_string();
        assert_eq!(told, "2 failed; the last, a, at pairs partition 7, with code 43: no  [31mmemory; its last lines are in pods/a.json");
    }
}
