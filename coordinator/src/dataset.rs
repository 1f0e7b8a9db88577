//! Which files of the dataset are really there. A manifest tells what was written once; people tidy up folders, and
//! buckets have expiry rules.

use ip2p_pipeline::Result;
use ip2p_pipeline::layout::StageDir;
use ip2p_pipeline::manifest::PartitionManifest;
use ip2p_pipeline::store::Store;
use std::collections::HashMap;

/// The dataset as one LIST shows it: keys and lengths.
pub(crate) struct Files(HashMap<String, u64>);

impl Files {
    pub async fn list(store: &Store, shards: &StageDir) -> Result<Self> {
        Ok(Files(store.list(&shards.dataset_root()).await?.into_iter().collect()))
    }

    /// What is wrong with a file that should have `bytes` bytes.
    pub fn problem(&self, key: &str, bytes: u64) -> Option<String> {
        match self.0.get(key) {
            Some(found) if *found == bytes => None,
            Some(found) => Some(format!("{key} has {found} bytes instead of {bytes}")),
            None => Some(format!("{key} is missing")),
        }
    }

    /// The first problem with the files of a partition of `shards`.
    pub fn problem_of(&self, shard: &PartitionManifest) -> Option<String> {
        let objects = shard.chunks.iter().flat_map(|chunk| &chunk.objects);
        objects.into_iter().find_map(|object| self.problem(&object.key, object.bytes))
    }
}
