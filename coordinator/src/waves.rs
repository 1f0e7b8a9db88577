//! Which partition a pod of an Indexed Job works on: what an object in the store says, that was written before the Job was.

use ip2p_pipeline::commit;
use ip2p_pipeline::layout;
use ip2p_pipeline::store::{Store, StoreOptions};
use ip2p_pipeline::task::{Scope, Wave};
use std::sync::{Arc, Mutex, PoisonError};
use tonic::Status;

/// Waves that are kept in memory: each stage has one at a time, and late pods of an earlier one.
const KEPT: usize = 8;

type Known = Vec<(String, Arc<Wave>)>;

/// Reads waves, and remembers the last few: the pods of one come in thousands.
pub struct Waves {
    url: String,
    options: StoreOptions,
    known: Mutex<Known>,
}

impl Waves {
    pub fn new(url: String, options: StoreOptions) -> Self {
        Waves { url, options, known: Mutex::default() }
    }

    /// The partition at `index` of the wave `name`.
    pub async fn scope(&self, name: &str, index: u32) -> Result<Scope, Status> {
        let wave = match self.remembered(name) {
            Some(wave) => wave,
            None => self.read(name).await?,
        };
        let partition = wave.partitions.get(index as usize).copied();
        let beyond = || Status::invalid_argument(format!("wave {name} has {} partitions, and no index {index}", wave.partitions.len()));
        Ok(Scope::Partition { stage: wave.stage, partition: partition.ok_or_else(beyond)? })
    }

    fn remembered(&self, name: &str) -> Option<Arc<Wave>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(other, _)| other == name).map(|(_, wave)| wave.clone())
    }

    async fn read(&self, name: &str) -> Result<Arc<Wave>, Status> {
        let unreadable = |e: ip2p_pipeline::Error| Status::unavailable(format!("wave {name} cannot be read: {e}"));
        let store = Store::open_with(&self.url, &self.options).map_err(unreadable)?;
        let wave: Option<Wave> = commit::read(&store, &layout::wave(name)).await.map_err(unreadable)?;
        let wave = Arc::new(wave.ok_or_else(|| Status::invalid_argument(format!("the store knows no wave {name} of this run")))?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.remove(0);
        }
        known.push((name.to_string(), wave.clone()));
        Ok(wave)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ip2p_pipeline::layout::Stage;

    #[tokio::test]
    async fn an_index_is_the_partition_that_the_store_says() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}/run", dir.path().display());
        let store = Store::open(&url).unwrap();
        let wave = Wave { stage: Stage::Pairs, partitions: vec![3, 17] };
        store.create(&layout::wave("a"), commit::encode(&wave).unwrap()).await.unwrap();
        let waves = Waves::new(url, StoreOptions::default());
        for _ in 0..2 {
            assert_eq!(waves.scope("a", 1).await.unwrap(), Scope::Partition { stage: Stage::Pairs, partition: 17 });
        }
        assert!(waves.scope("a", 2).await.unwrap_err().message().contains("has 2 partitions"));
        assert!(waves.scope("b", 0).await.unwrap_err().message().contains("knows no wave b"));
    }
}
