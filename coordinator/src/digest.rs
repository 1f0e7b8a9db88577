//! Digests: what a thousand partition manifests say, in one object, so that a coordinator of a hundred thousand
//! partitions starts in seconds.
//!
//! They are a cache and prove nothing: a partition is committed while its manifest is listed, and a manifest that no
//! digest knows is read. Nothing is lost when they are.

use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::task::{Assignment, Finished};
use ip2p_pipeline::{Error, Result, commit};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tokio::sync::mpsc;

/// Partitions in a digest: reading so many manifests one by one takes a second or so.
const PARTITIONS: usize = 1000;
/// Digests read at the same time.
const READS: usize = 16;

#[derive(Default, Serialize, Deserialize)]
struct Digest {
    committed: Vec<(u32, Finished)>,
}

/// What the digests of a stage know. One that cannot be read knows nothing.
pub async fn read(store: &Store, dir: &StageDir) -> Result<HashMap<u32, Finished>> {
    let keys = store.list(&dir.digests()).await?;
    let read = |(key, _): (String, u64)| async move {
        let Some(bytes) = store.get(&key).await? else { return Ok::<_, Error>(Digest::default()) };
        Ok(commit::decode(&key, &bytes).unwrap_or_else(|e| {
            tracing::warn!("ignored: {e}");
            Digest::default()
        }))
    };
    let digests: Vec<Digest> = futures::stream::iter(keys).map(read).buffered(READS).try_collect().await?;
    Ok(digests.into_iter().flat_map(|digest| digest.committed).collect())
}

/// Writes a digest if there are enough partitions for one.
pub async fn write(store: &Store, dir: &StageDir, committed: &[(u32, Finished)]) {
    if committed.len() < PARTITIONS {
        return;
    }
    let write = async || {
        let bytes = commit::encode(&Digest { committed: committed.to_vec() })?;
        // Named by its content: whoever writes the same writes it again.
        let name = blake3::hash(&bytes).to_hex();
        store.put(&dir.digest(&name.as_str()[..16]), bytes).await
    };
    if let Err(e) = write().await {
        tracing::warn!("a digest could not be written, so the next start will take longer: {e}");
    }
}

/// Gathers commits and writes a digest of every thousand, apart from the driver, which must not wait for the store.
pub struct Digests(mpsc::UnboundedSender<(Stage, u32, Finished)>);

impl Digests {
    pub fn start(store: &Store, plan: &Plan) -> Self {
        let (send, mut commits) = mpsc::unbounded_channel::<(Stage, u32, Finished)>();
        let (store, plan) = (store.clone(), plan.clone());
        tokio::spawn(async move {
            let mut gathered: HashMap<Stage, Vec<(u32, Finished)>> = HashMap::new();
            while let Some((stage, partition, finished)) = commits.recv().await {
                let of_stage = gathered.entry(stage).or_default();
                of_stage.push((partition, finished));
                if of_stage.len() >= PARTITIONS {
                    write(&store, &plan.dir(stage), &std::mem::take(of_stage)).await;
                }
            }
        });
        Digests(send)
    }

    pub fn record(&self, assignment: Assignment, finished: &Finished) {
        // The task ends with the program.
        let _ = self.0.send((assignment.stage, assignment.partition, finished.clone()));
    }
}
