//! Digests: what a thousand partition manifests say, in one object, so that a coordinator of a hundred thousand
//! partitions starts in seconds.
//!
//! They are a cache and prove nothing: a partition is committed while its manifest is listed, and a manifest that no
//! digest knows is read. A digest knows a manifest in one version, by the length and mark that the store lists it with: of
//! one that was deleted and made anew, or altered, it knows nothing. Nothing is lost when digests are.

use crate::listing::{self, Version};
use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::task::{Assignment, Finished};
use ip2p_pipeline::{Error, Result, commit};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use tokio::sync::mpsc;

/// Partitions in a digest: reading so many manifests one by one takes a second or so.
pub const PARTITIONS: usize = 1000;
/// Digests read, or manifests looked at, at the same time.
const READS: usize = 16;

/// What one version of a partition's manifest says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Known {
    pub partition: u32,
    pub manifest: Version,
    pub finished: Finished,
}

#[derive(Default, Serialize, Deserialize)]
struct Digest {
    /// Earlier versions of this program did not say of which manifests they spoke: they know nothing.
    #[serde(default)]
    known: Vec<Known>,
}

/// Whether a stage has digests: those of many partitions.
pub fn are_of(stage: Stage) -> bool {
    matches!(stage, Stage::Prompts | Stage::Pairs | Stage::Filter)
}

/// What the digests of a stage know of its manifests as they are `listed`. One that cannot be read knows nothing.
pub async fn read(store: &Store, dir: &StageDir, listed: &HashMap<u32, Version>) -> Result<HashMap<u32, Finished>> {
    let known = read_all(store, dir).await?.into_iter().flat_map(|(_, digest)| digest.known);
    let valid = known.filter(|known| listed.get(&known.partition) == Some(&known.manifest));
    Ok(valid.map(|known| (known.partition, known.finished)).collect())
}

/// The keys of the digests of a stage that know none of its manifests as they are now.
pub async fn outdated(store: &Store, dir: &StageDir) -> Result<HashSet<String>> {
    let digests = read_all(store, dir).await?;
    let listed = if digests.is_empty() { Vec::new() } else { listing::versions(store, &dir.manifests()).await? };
    let listed: HashMap<u32, Version> =
        listed.into_iter().filter_map(|(key, version)| Some((StageDir::partition_of(&key)?, version))).collect();
    let outdated = |digest: &Digest| digest.known.iter().all(|known| listed.get(&known.partition) != Some(&known.manifest));
    Ok(digests.into_iter().filter(|(_, digest)| outdated(digest)).map(|(key, _)| key).collect())
}

/// All digests of a stage, by key.
async fn read_all(store: &Store, dir: &StageDir) -> Result<Vec<(String, Digest)>> {
    let keys = store.list(&dir.digests()).await?;
    let read = |(key, _): (String, u64)| async move {
        let Some(bytes) = store.get(&key).await? else { return Ok::<_, Error>((key, Digest::default())) };
        let digest = if key == dir.digest(&name_of(&bytes)) {
            commit::decode(&key, &bytes)
        } else {
            Err(Error::format(&key, "its name is not the hash of its content"))
        };
        let digest = digest.unwrap_or_else(|e| {
            tracing::warn!("ignored: {e}");
            Digest::default()
        });
        Ok((key, digest))
    };
    futures::stream::iter(keys).map(read).buffered(READS).try_collect().await
}

/// Whoever writes the same writes it again, and what was altered shows.
pub(crate) fn name_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().as_str()[..16].to_string()
}

/// Writes a digest.
pub async fn write(store: &Store, dir: &StageDir, known: Vec<Known>) {
    let write = async || {
        let bytes = commit::encode(&Digest { known })?;
        store.put(&dir.digest(&name_of(&bytes)), bytes).await
    };
    if let Err(e) = write().await {
        tracing::warn!("a digest could not be written, so the next start will take longer: {e}");
    }
}

/// Writes a digest of partitions that were just committed.
pub async fn write_committed(store: &Store, dir: StageDir, committed: Vec<(u32, Finished)>) {
    let known = |(partition, finished): (u32, Finished)| async move {
        // One that cannot be seen now is read by the next start.
        let manifest = listing::version(store, &dir.manifest(partition)).await.ok()??;
        Some(Known { partition, manifest, finished })
    };
    let known: Vec<Option<Known>> = futures::stream::iter(committed).map(known).buffered(READS).collect().await;
    write(store, &dir, known.into_iter().flatten().collect()).await;
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
                    write_committed(&store, plan.dir(stage), std::mem::take(of_stage)).await;
                }
            }
        });
        Digests(send)
    }

    pub fn record(&self, assignment: Assignment, finished: &Finished) {
        if are_of(assignment.stage) {
            // The task ends with the program.
            let _ = self.0.send((assignment.stage, assignment.partition, finished.clone()));
        }
    }
}
