//! The object store of a run: open by URL, read whole objects and ranges, create exactly once.

use crate::error::{Error, Result};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
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
}

/// What [`Store::create`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is now ours.
    Yes,
    /// It existed before, perhaps by our own retry that landed: read it back and compare.
    AlreadyExists,
}

/// Settings for the store at `url`: the clouds' own environment variables, and nothing else of the environment.
fn settings(url: &str) -> impl Iterator<Item = (String, String)> {
    // Who writes http:// means it.
    let plain = url.starts_with("http://").then(|| ("allow_http".to_string(), "true".to_string()));
    let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((key.into_string().ok()?.to_ascii_lowercase(), value.into_string().ok()?))
    };
    std::env::vars_os()
        .filter_map(text)
        .filter(|(key, _)| ["aws_", "google_", "azure_"].iter().any(|cloud| key.starts_with(cloud)))
        .chain(plain)
}

/// Schemes of stores that can hold a run.
pub const SCHEMES: [&str; 6] = ["file", "memory", "s3", "gs", "az", "abfs"];

/// Schemes that [`Store::open`] can only read single objects from: servers that cannot create an object just once.
pub const READ_ONLY_SCHEMES: [&str; 2] = ["http", "https"];

impl Store {
    /// Opens `url`; credentials come from the environment.
    ///
    /// `file://./out` is relative to the working directory, `file:///data/out` absolute.
    pub fn open(url: &str) -> Result<Self> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(Error::invalid(format!("store `{url}` is not a URL: write for example file://./out or s3://bucket/prefix")));
        };
        match scheme {
            "file" => Self::open_local(url, rest),
            _ => Self::open_remote(url),
        }
    }

    /// For commands that only look: a folder that is not there is an empty store, and is not made.
    pub fn look(url: &str) -> Result<Self> {
        match url.strip_prefix("file://") {
            Some(path) if !std::path::Path::new(path).exists() => Ok(Store { url: url.to_string(), ..Self::memory() }),
            _ => Self::open(url),
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
        Ok(Store { inner: Arc::new(inner), prefix: Path::default(), url: format!("file://{}", absolute.display()), folder: Some(absolute) })
    }

    fn open_remote(url: &str) -> Result<Self> {
        let open = |source| Error::Store { action: "open", key: url.to_string(), source };
        let parsed = url.parse().map_err(|e| Error::invalid(format!("store `{url}`: {e}")))?;
        let (inner, prefix) = object_store::parse_url_opts(&parsed, settings(url)).map_err(open)?;
        Ok(Store { inner: Arc::from(inner), prefix, url: url.to_string(), folder: None })
    }

    /// A store in memory, for tests.
    pub fn memory() -> Self {
        Self::over(Arc::new(object_store::memory::InMemory::new()), "memory:///")
    }

    /// Any store; `url` names it in messages.
    pub fn over(inner: Arc<dyn ObjectStore>, url: &str) -> Self {
        Store { inner, prefix: Path::default(), url: url.to_string(), folder: None }
    }

    /// The same store below `name`.
    pub fn child(&self, name: &str) -> Self {
        Store {
            inner: self.inner.clone(),
            prefix: self.prefix.clone().join(name),
            url: format!("{}/{name}", self.url.trim_end_matches('/')),
            folder: self.folder.as_ref().map(|folder| folder.join(name)),
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

    fn path(&self, key: &str) -> Path {
        key.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part))
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
        let error = match self.inner.get_range(&self.path(key), range.clone()).await {
            Ok(bytes) => return Ok(bytes),
            Err(object_store::Error::NotFound { .. }) => return Err(damaged("it is missing".to_string())),
            Err(e) => e,
        };
        // Each store has an error of its own for a range behind the end.
        match self.inner.head(&self.path(key)).await {
            Ok(meta) if meta.size < range.end => Err(damaged(format!("it has {} bytes, byte {} was asked for", meta.size, range.end))),
            _ => Err(self.error("read a range of", key)(error)),
        }
    }

    /// Writes an object, replacing what was there. Only for attempt-scoped or derived objects.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.inner.put(&self.path(key), PutPayload::from_bytes(bytes)).await.map(drop).map_err(self.error("write", key))
    }

    /// Uploads a local file in parts, replacing what was there; memory is bounded by a few parts.
    pub async fn put_file(&self, key: &str, file: &std::path::Path) -> Result<()> {
        let unreadable = |source| Error::File { path: file.display().to_string(), source };
        let mut reader = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let mut upload = object_store::buffered::BufWriter::new(self.inner.clone(), self.path(key));
        let copied = tokio::io::copy(&mut reader, &mut upload).await;
        let finished = match copied {
            Ok(_) => tokio::io::AsyncWriteExt::shutdown(&mut upload).await,
            Err(e) => {
                // Parts that were uploaded cost money until they are given up; the first error is what matters.
                let _ = upload.abort().await;
                Err(e)
            }
        };
        finished.map_err(|e| self.error("upload", key)(object_store::Error::Generic { store: "upload", source: e.into() }))
    }

    /// Creates an object if there is none: the one atomic step that every guarantee stands on.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created> {
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        match self.inner.put_opts(&self.path(key), PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(Created::Yes),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::AlreadyExists),
            Err(e) => Err(self.error("create", key)(e)),
        }
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
    /// object_store writes to `name#1` beside `name` and renames at the end. A writer that is still alive fails
    /// and tries again.
    pub fn remove_staged(&self, prefix: &str) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        remove_staged_in(&folder.join(prefix))
    }

    pub async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(&self.path(key)).await.map_err(self.error("delete", key))
    }

    /// The underlying store and full path of a key, for streaming readers and writers.
    pub fn raw(&self, key: &str) -> (Arc<dyn ObjectStore>, Path) {
        (self.inner.clone(), self.path(key))
    }
}

fn remove_staged_in(folder: &std::path::Path) -> Result<()> {
    let file = |source| Error::File { path: folder.display().to_string(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(file)?,
    };
    for entry in entries {
        let entry = entry.map_err(file)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let staged = name.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        if entry.file_type().map_err(file)?.is_dir() {
            remove_staged_in(&entry.path())?;
        } else if staged {
            std::fs::remove_file(entry.path()).map_err(file)?;
        }
    }
    Ok(())
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
        store.remove_staged("a").unwrap();
        assert!(!dir.path().join("run/a/b/train.tar#1").exists());
        assert_eq!(store.require("a/b/train.tar").await.unwrap(), Bytes::from_static(b"whole"));
        store.remove_staged("nothing/here").unwrap();
    }
}
