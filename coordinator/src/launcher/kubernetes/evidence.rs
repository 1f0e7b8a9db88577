//! What is kept of a pod that failed, before the cluster forgets it.

use super::cluster::Cluster;
use super::seen::LastWords;
use crate::pods::PodEvidence;
use ip2p_pipeline::layout::{self, Stage};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Result, commit};

/// What a pod worked on, as far as its Job says.
pub struct Place {
    pub job: String,
    pub stage: Option<Stage>,
    pub partition: Option<u32>,
}

/// Reads the end of the log and writes all into the store. The first coordinator that does it is enough.
pub async fn harvest(cluster: &Cluster, store: &Store, pod: &str, place: Place, words: LastWords) -> Result<()> {
    let log = cluster.log_tail(pod).await.unwrap_or_else(|problem| format!("(no log: {problem})"));
    let Place { job, stage, partition } = place;
    let LastWords { exit_code, reason, message } = words;
    let log = log.lines().map(str::to_string).collect();
    let evidence = PodEvidence { pod: pod.to_string(), job, stage, partition, exit_code, reason, message, log };
    store.create(&layout::pod(pod), commit::encode(&evidence)?).await.map(drop)
}
