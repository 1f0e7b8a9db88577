//! The commit protocol: data first, then the one atomic creation of the manifest that names it.
//!
//! Chunks of a partition form a chain: the manifest that starts at record `s > 0` can only be created by
//! an attempt that has seen the chain up to `s`, and only one attempt can create it. So however many
//! attempts race, a reader finds each record exactly once.

use crate::error::{Error, Result};
use crate::layout::StageDir;
use crate::manifest::{Attempt, ChunkManifest, DataObject, PartitionManifest};
use crate::planted::{self, Defect};
use crate::records::ImageRef;
use crate::store::{Created, Store};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Who made the object that a commit tried to create.
#[derive(Debug, PartialEq)]
pub enum Committed<M> {
    /// We did, now or by a retry whose reply was lost.
    Ours,
    /// Another attempt did; its manifest is the truth and our data is garbage.
    Theirs(M),
}

/// A manifest is a JSON object; the schema is the type.
pub fn encode<M: Serialize>(manifest: &M) -> Result<Bytes> {
    let mut text = serde_json::to_vec_pretty(manifest).map_err(|e| Error::format("manifest", e))?;
    text.push(b'\n');
    Ok(text.into())
}

pub fn decode<M: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<M> {
    serde_json::from_slice(bytes).map_err(|e| Error::Damaged { key: key.to_string(), problem: format!("it is not a manifest: {e}") })
}

/// Reads a manifest; `None` when it was not committed.
pub async fn read<M: DeserializeOwned>(store: &Store, key: &str) -> Result<Option<M>> {
    match store.get(key).await? {
        Some(bytes) => decode(&store.url_of(key), &bytes).map(Some),
        None => Ok(None),
    }
}

/// Creates `manifest` at `key`, or learns who did.
///
/// A manifest names its attempt, so two of the same attempt are one commit even if a figure in them differs.
pub(crate) async fn create<M>(store: &Store, key: &str, manifest: &M, attempt_of: impl Fn(&M) -> &Attempt) -> Result<Committed<M>>
where
    M: Serialize + DeserializeOwned,
{
    let found: M = match store.create(key, encode(manifest)?).await? {
        Created::Ours => return Ok(Committed::Ours),
        Created::Theirs(_) if planted::has(Defect::ReadBackOff) => return Ok(Committed::Ours),
        Created::Theirs(bytes) => decode(&store.url_of(key), &bytes)?,
    };
    Ok(if attempt_of(&found) == attempt_of(manifest) { Committed::Ours } else { Committed::Theirs(found) })
}

/// Makes the data of a chunk part of the run.
pub async fn commit_chunk(store: &Store, dir: &StageDir, chunk: &ChunkManifest) -> Result<Committed<ChunkManifest>> {
    create(store, &dir.chunk(chunk.partition, chunk.start), chunk, |m| &m.attempt).await
}

/// Makes a partition done.
pub async fn commit_partition(store: &Store, dir: &StageDir, partition: &PartitionManifest) -> Result<Committed<PartitionManifest>> {
    create(store, &dir.manifest(partition.partition), partition, |m| &m.attempt).await
}

/// The committed chunks of a partition from record 0 on, in order and without gaps.
pub async fn chunk_chain(store: &Store, dir: &StageDir, partition: u32) -> Result<Vec<ChunkManifest>> {
    let mut chain: Vec<ChunkManifest> = Vec::new();
    // A walk by name, not a LIST: it sees the newest manifest on every store, and a partition has few chunks.
    loop {
        let next = chain.last().map_or(0, |chunk| chunk.end);
        match read::<ChunkManifest>(store, &dir.chunk(partition, next)).await? {
            Some(chunk) if chunk.end > next => chain.push(chunk),
            Some(_) => {
                let key = store.url_of(&dir.chunk(partition, next));
                return Err(Error::Damaged { key, problem: "its chunk is empty".to_string() });
            }
            None => return Ok(chain),
        }
    }
}

/// Writes one attempt-scoped data object and describes it.
pub async fn write_data(store: &Store, role: &str, key: String, data: Bytes) -> Result<DataObject> {
    let object = DataObject::describe(role, key, &data);
    if planted::has(Defect::ManifestBeforeData) {
        let (store, key) = (store.clone(), object.key.clone());
        tokio::spawn(async move { store.put(&key, data).await });
        return Ok(object);
    }
    match store.put(&object.key, data).await {
        Err(e) if !planted::has(Defect::WriteErrorIgnored) => Err(e),
        _ => Ok(object),
    }
}

/// Reads a data object and checks its length and checksum.
pub async fn read_data(store: &Store, object: &DataObject) -> Result<Bytes> {
    let data = store.require(&object.key).await?;
    let damaged = |problem: String| Error::Damaged { key: store.url_of(&object.key), problem };
    if data.len() as u64 != object.bytes {
        return Err(damaged(format!("it has {} bytes, its manifest says {}", data.len(), object.bytes)));
    }
    if blake3::hash(&data).to_hex().as_str() != object.blake3 {
        return Err(damaged("its checksum differs from its manifest's".to_string()));
    }
    Ok(data)
}

/// Reads one image out of its object and checks its length and checksum.
pub async fn read_image(store: &Store, image: &ImageRef) -> Result<Bytes> {
    let range = image.range();
    let bytes = store.get_range(&image.object, range.clone()).await?;
    if image.describes(&bytes) {
        return Ok(bytes);
    }
    let problem = format!("its bytes {} to {} are not the image that was written there", range.start, range.end);
    Err(Error::Damaged { key: store.url_of(&image.object), problem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Fingerprint;
    use crate::layout::Stage;
    use crate::manifest::Counts;
    use proptest::prelude::*;

    proptest! {
        /// Figures and thresholds lie in JSON; serde_json's default parser is off by one unit for some of 17 digits.
        #[test]
        fn floats_survive_json(bits in any::<u64>()) {
            let number = f64::from_bits(bits);
            prop_assume!(number.is_finite());
            let read: f64 = decode("a test", &encode(&number).unwrap()).unwrap();
            prop_assert_eq!(read.to_bits(), number.to_bits());
        }
    }

    fn dir() -> StageDir {
        StageDir { stage: Stage::Pairs, fingerprint: Fingerprint::of(&["test"]) }
    }

    fn chunk(start: u64, end: u64, epoch: u64) -> ChunkManifest {
        ChunkManifest {
            stage: Stage::Pairs,
            partition: 3,
            start,
            end,
            attempt: Attempt { epoch, worker: "w".to_string() },
            counts: Counts::default(),
            objects: Vec::new(),
            seconds: 0.0,
            figures: Default::default(),
            stored_by: None,
        }
    }

    #[tokio::test]
    async fn the_first_commit_wins_and_the_loser_learns_it() {
        let store = Store::memory();
        assert_eq!(commit_chunk(&store, &dir(), &chunk(0, 5, 1)).await.unwrap(), Committed::Ours);
        assert_eq!(commit_chunk(&store, &dir(), &chunk(0, 5, 1)).await.unwrap(), Committed::Ours);
        assert_eq!(commit_chunk(&store, &dir(), &chunk(0, 8, 2)).await.unwrap(), Committed::Theirs(chunk(0, 5, 1)));
    }

    #[tokio::test]
    async fn the_chain_stops_at_the_first_gap() {
        let store = Store::memory();
        for c in [chunk(0, 5, 1), chunk(5, 6, 2), chunk(9, 12, 1)] {
            commit_chunk(&store, &dir(), &c).await.unwrap();
        }
        let ends: Vec<u64> = chunk_chain(&store, &dir(), 3).await.unwrap().iter().map(|c| c.end).collect();
        assert_eq!(ends, [5, 6]);
    }

    #[tokio::test]
    async fn damage_is_named() {
        let store = Store::memory();
        let object = write_data(&store, "images", "pairs/x/data/a.tar".to_string(), Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(read_data(&store, &object).await.unwrap(), Bytes::from_static(b"hello"));
        store.put(&object.key, Bytes::from_static(b"hellO")).await.unwrap();
        let message = read_data(&store, &object).await.unwrap_err().to_string();
        assert!(message.contains("a.tar") && message.contains("checksum"), "{message}");
        store.put(&object.key, Bytes::from_static(b"hell")).await.unwrap();
        assert!(read_data(&store, &object).await.unwrap_err().to_string().contains("4 bytes"));
        store.delete(&object.key).await.unwrap();
        assert!(read_data(&store, &object).await.unwrap_err().to_string().contains("missing"));
    }

    #[tokio::test]
    async fn an_image_is_read_only_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let local = Store::open(&format!("file://{}", dir.path().display())).unwrap();
        for store in [Store::memory(), local] {
            let key = "pairs/x/data/images.tar";
            let image = ImageRef::describe(key, 3, b"image");
            let refused = |bytes: &'static [u8]| {
                let (store, image) = (store.clone(), image.clone());
                async move {
                    store.put(key, Bytes::from_static(bytes)).await.unwrap();
                    read_image(&store, &image).await.unwrap_err().to_string()
                }
            };
            store.put(key, Bytes::from_static(b"...image...")).await.unwrap();
            assert_eq!(read_image(&store, &image).await.unwrap(), Bytes::from_static(b"image"));
            let message = refused(b"...imagE...").await;
            assert!(message.contains(&store.url_of(key)) && message.contains("bytes 3 to 8") && message.contains("`audit`"), "{message}");
            for short in [&b"...ima"[..], b"."] {
                let message = refused(short).await;
                assert!(message.contains("is damaged") && message.contains("images.tar"), "{message}");
            }
            store.delete(key).await.unwrap();
            assert!(read_image(&store, &image).await.unwrap_err().to_string().contains("missing"));
        }
    }
}
