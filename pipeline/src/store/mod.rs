//! The object store of a run: open by URL, read whole objects and ranges, create exactly once.

mod open;
mod options;
mod probe;
mod staged;
mod upload;

pub use options::{DEADLINE, StoreOptions};
pub use probe::probe;
pub use upload::PART;

use crate::error::{Error, Result};
use crate::planted::{self, Defect};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::{Path, PathPart};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// An object store and the prefix of one run in it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    /// The folder of `prefix`, in a local store.
    folder: Option<PathBuf>,
    /// Bytes of one part of a large object.
    part: u64,
}

/// Whose object is there after [`Store::create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// Ours, now or by a try whose reply was lost: it has exactly our bytes.
    Ours,
    /// It existed before, with these bytes.
    Theirs(Bytes),
}

/// Tries at a create that the store refuses although there is no object.
const CREATES: usize = 4;

/// Schemes of stores that can hold a run.
pub const SCHEMES: [&str; 6] = ["file", "memory", "s3", "gs", "az", "abfs"];

/// Schemes that [`Store::open`] can only read single objects from: servers that cannot create an object just once.
pub const READ_ONLY_SCHEMES: [&str; 2] = ["http", "https"];

impl Store {
    /// Opens `url`; credentials and all settings come from the environment.
    ///
    /// `file://./out` is relative to the working directory, `file:///data/out` absolute.
    pub fn open(url: &str) -> Result<Self> {
        Self::open_with(url, &StoreOptions::default())
    }

    /// Opens `url`; credentials come from the environment, and settings too where `options` has none.
    pub fn open_with(url: &str, options: &StoreOptions) -> Result<Self> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(Error::invalid(format!("store `{url}` is not a URL: write for example file://./out or s3://bucket/prefix")));
        };
        match scheme {
            "file" => Self::open_local(url, rest),
            _ => Self::open_remote(url, options),
        }
    }

    /// For commands that only look: a folder that is not there is an empty store, and is not made.
    pub fn look(url: &str, options: &StoreOptions) -> Result<Self> {
        match url.strip_prefix("file://") {
            Some(path) if !std::path::Path::new(path).exists() => Ok(Store { url: url.to_string(), ..Self::memory() }),
            _ => Self::open_with(url, options),
        }
    }

    fn open_local(url: &str, path: &str) -> Result<Self> {
        let file = |source| Error::File { path: path.to_string(), source };
        let absolute = std::path::absolute(path).map_err(file)?;
        std::fs::create_dir_all(&absolute).map_err(file)?;
        let inner = object_store::local::LocalFileSystem::new_with_prefix(&absolute).map_err(|source| Error::Store {
            action: "open",
            key: url.to_string(),
            source,
        })?;
        // A manifest must not survive a power cut that its data does not survive: every write reaches the disk.
        let inner = inner.with_fsync(true);
        let url = format!("file://{}", absolute.display());
        Ok(Store { inner: Arc::new(inner), prefix: Path::default(), url, folder: Some(absolute), part: PART })
    }

    fn open_remote(url: &str, options: &StoreOptions) -> Result<Self> {
        let (inner, prefix) = open::remote(url, options, options::environment())?;
        Ok(Store { inner, prefix, url: url.to_string(), folder: None, part: PART })
    }

    /// A store behind a client of the caller's: for tests, which wrap one in faults. `url` is its name in messages.
    pub fn over(inner: Arc<dyn ObjectStore>, url: &str) -> Self {
        Store { inner, prefix: Path::default(), url: url.to_string(), folder: None, part: PART }
    }

    /// The same store with smaller parts, for tests, whose large objects are small.
    pub fn with_parts(self, bytes: u64) -> Self {
        Store { part: bytes, ..self }
    }

    /// A store in memory, for tests.
    pub fn memory() -> Self {
        Self::over(Arc::new(object_store::memory::InMemory::new()), "memory:///")
    }

    /// The same store below `name`.
    pub fn child(&self, name: &str) -> Self {
        Store {
            inner: self.inner.clone(),
            prefix: self.prefix.clone().join(name),
            url: format!("{}/{name}", self.url.trim_end_matches('/')),
            folder: self.folder.as_ref().map(|folder| folder.join(name)),
            part: self.part,
        }
    }

    /// Where this store is, for messages; never holds credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL of an object, for messages.
    pub fn url_of(&self, key: &str) -> String {
        format!("{}/{key}", self.url.trim_end_matches('/'))
    }

    /// Names as they are, so that what `list` shows can be read; `..` and control characters are escaped.
    fn path(&self, key: &str) -> Path {
        let join = |path: Path, part: &str| match PathPart::parse(part) {
            Ok(part) => path.join(part),
            Err(_) => path.join(part),
        };
        key.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), join)
    }

    fn error(&self, action: &'static str, key: &str) -> impl FnOnce(object_store::Error) -> Error {
        let key = self.url_of(key);
        move |source| Error::Store { action, key, source }
    }

    /// Reads a whole object; `None` when there is none.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match self.inner.get(&self.path(key)).await {
            Ok(result) => Ok(Some(result.bytes().await.map_err(self.error("read", key))?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error("read", key)(e)),
        }
    }

    /// Reads an object that a manifest names: its absence is damage.
    pub async fn require(&self, key: &str) -> Result<Bytes> {
        self.get(key).await?.ok_or_else(|| Error::Damaged { key: self.url_of(key), problem: "it is missing".to_string() })
    }

    /// Reads part of an object that a manifest names: that it is missing or ends before is damage.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let damaged = |problem: String| Error::Damaged { key: self.url_of(key), problem };
        let wanted = range.end.saturating_sub(range.start);
        let error = match self.inner.get_range(&self.path(key), range.clone()).await {
            // Some stores give what there is of a range that goes past the end.
            Ok(bytes) if bytes.len() as u64 != wanted => {
                return Err(damaged(format!("it has {} bytes of the {wanted} from byte {} on", bytes.len(), range.start)));
            }
            Ok(bytes) => return Ok(bytes),
            Err(object_store::Error::NotFound { .. }) => return Err(damaged("it is missing".to_string())),
            Err(e) => e,
        };
        // Others have each an error of its own for that.
        match self.inner.head(&self.path(key)).await {
            Ok(meta) if meta.size < range.end => Err(damaged(format!("it has {} bytes, byte {} was asked for", meta.size, range.end))),
            _ => Err(self.error("read a range of", key)(error)),
        }
    }

    /// Writes an object, replacing what was there. Only for attempt-scoped or derived objects.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        upload::bytes(&*self.inner, &self.path(key), self.part, bytes).await.map_err(self.error("write", key))
    }

    /// Uploads a local file, replacing what was there; memory is bounded by a few parts of [`PART`] bytes.
    pub async fn put_file(&self, key: &str, file: &std::path::Path) -> Result<()> {
        let unreadable = |source| Error::File { path: file.display().to_string(), source };
        let reader = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let size = reader.metadata().await.map_err(unreadable)?.len();
        upload::stream(&*self.inner, &self.path(key), self.part, size, reader).await.map_err(self.error("upload", key))
    }

    /// Creates an object if there is none: the one atomic step that every guarantee stands on.
    ///
    /// Whatever the store answers but yes, the object is read back: a lost reply makes our own object look like
    /// another's, and a conflict can be reported although nothing landed. So two callers with the same bytes both
    /// hold the object to be theirs: who must be alone puts something of its own into them.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created> {
        for _ in 0..CREATES {
            let Err(error) = self.put_if_absent(key, bytes.clone()).await else { return Ok(Created::Ours) };
            let exists = matches!(error, object_store::Error::AlreadyExists { .. });
            if !exists && !matches!(error, object_store::Error::Generic { .. }) {
                return Err(self.error("create", key)(error));
            }
            match self.get(key).await {
                Ok(Some(found)) if found == bytes => return Ok(Created::Ours),
                Ok(Some(found)) => return Ok(Created::Theirs(found)),
                Ok(None) if exists && planted::has(Defect::ConflictTakenForCommit) => return Ok(Created::Ours),
                Ok(None) if exists => {}
                Err(unreadable) if exists => return Err(unreadable),
                _ => return Err(self.error("create", key)(error)),
            }
        }
        let source = "the store said AlreadyExists, but there is no such object".into();
        Err(self.error("create", key)(object_store::Error::Generic { store: "commit", source }))
    }

    /// One conditional create, as the store answers it.
    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> object_store::Result<()> {
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        self.inner.put_opts(&self.path(key), PutPayload::from_bytes(bytes), options).await.map(drop)
    }

    /// Keys below `prefix` with their sizes, sorted.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        let path = self.path(prefix);
        let found: Vec<_> = self.inner.list(Some(&path)).try_collect().await.map_err(self.error("list", prefix))?;
        let mut keys: Vec<_> = found
            .into_iter()
            .filter_map(|meta| {
                let parts: Vec<_> = meta.location.prefix_match(&self.prefix)?.map(|p| p.as_ref().to_string()).collect();
                Some((parts.join("/"), meta.size))
            })
            .collect();
        keys.sort();
        Ok(keys)
    }

    /// Removes what killed writers left half-written below `prefix` of a local store; other stores show no such files.
    ///
    /// A writer that is still alive fails and tries again.
    pub fn remove_staged(&self, prefix: &str) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        staged::find_in(&folder.join(prefix))?.iter().try_for_each(|path| staged::remove(path))
    }

    /// Keys of what [`Store::remove_staged`] would remove; no listing shows them.
    pub fn staged(&self, prefix: &str) -> Result<Vec<String>> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let found = staged::find_in(&folder.join(prefix))?;
        Ok(found.iter().filter_map(|path| Some(path.strip_prefix(folder).ok()?.display().to_string())).collect())
    }

    pub async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(&self.path(key)).await.map_err(self.error("delete", key))
    }

    /// The underlying store and full path of a key, for streaming readers and writers.
    pub fn raw(&self, key: &str) -> (Arc<dyn ObjectStore>, Path) {
        (self.inner.clone(), self.path(key))
    }
}

/// Stores behind TLS need it, as the programs install it.
#[cfg(test)]
pub(crate) fn install_tls() {
    // Another test may have been faster.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_store_survives_a_power_cut() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file://{}", dir.path().display())).unwrap();
        // What reaches the disk cannot be seen without cutting the power; that it is asked for can.
        assert!(format!("{store:?}").contains("fsync: true"), "{store:?}");
    }

    #[tokio::test]
    async fn half_written_files_of_a_local_store_are_removed_and_whole_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file://{}", dir.path().display())).unwrap().child("run");
        store.put("a/b/train.tar", Bytes::from_static(b"whole")).await.unwrap();
        std::fs::write(dir.path().join("run/a/b/train.tar#1"), "half").unwrap();
        assert_eq!(store.staged("a").unwrap(), ["a/b/train.tar#1"]);
        store.remove_staged("a").unwrap();
        assert_eq!(store.staged("").unwrap(), [""; 0]);
        assert!(!dir.path().join("run/a/b/train.tar#1").exists());
        assert_eq!(store.require("a/b/train.tar").await.unwrap(), Bytes::from_static(b"whole"));
        store.remove_staged("nothing/here").unwrap();
    }
}
