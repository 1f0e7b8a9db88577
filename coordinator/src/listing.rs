//! Objects of a run with their age.

use futures::TryStreamExt;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Error, Result};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use std::time::SystemTime;

/// An object as the store lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Relative to the run.
    pub key: String,
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// What tells a version of an object from all others under its name: its length and the store's own mark, or its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version(String);

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        Version(match &meta.e_tag {
            // Azure quotes marks in answers and not in listings.
            Some(mark) => format!("{} {}", meta.size, mark.trim_matches('"')),
            None => format!("{} of {}", meta.size, meta.last_modified.timestamp()),
        })
    }
}

fn failed(store: &Store, action: &'static str, key: &str) -> impl FnOnce(object_store::Error) -> Error {
    let key = store.url_of(key);
    move |source| Error::Store { action, key, source }
}

/// The key of a full path.
fn key(run: &Path, path: &Path) -> Option<String> {
    let parts: Vec<_> = path.prefix_match(run)?.map(|part| part.as_ref().to_string()).collect();
    Some(parts.join("/"))
}

/// All objects below `prefix`, by key.
pub(crate) async fn objects(store: &Store, prefix: &str) -> Result<Vec<Listed>> {
    let (raw, path) = store.raw(prefix);
    let (_, run) = store.raw("");
    let found: Vec<_> = raw.list(Some(&path)).try_collect().await.map_err(failed(store, "list", prefix))?;
    let listed = |meta: ObjectMeta| Some(Listed { key: key(&run, &meta.location)?, bytes: meta.size, modified: meta.last_modified.into() });
    let mut listed: Vec<Listed> = found.into_iter().filter_map(listed).collect();
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(listed)
}

/// All objects below `prefix` with their versions, by key.
pub(crate) async fn versions(store: &Store, prefix: &str) -> Result<Vec<(String, Version)>> {
    let (raw, path) = store.raw(prefix);
    let (_, run) = store.raw("");
    let found: Vec<_> = raw.list(Some(&path)).try_collect().await.map_err(failed(store, "list", prefix))?;
    let mut versions: Vec<_> = found.iter().filter_map(|meta| Some((key(&run, &meta.location)?, Version::of(meta)))).collect();
    versions.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(versions)
}

/// The version of an object; `None` when there is none.
pub(crate) async fn version(store: &Store, key: &str) -> Result<Option<Version>> {
    let (raw, path) = store.raw(key);
    match raw.head(&path).await {
        Ok(meta) => Ok(Some(Version::of(&meta))),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(failed(store, "look at", key)(e)),
    }
}

/// The folders directly below `prefix`, by name, relative to the run.
pub(crate) async fn folders(store: &Store, prefix: &str) -> Result<Vec<String>> {
    let (raw, path) = store.raw(prefix);
    let (_, run) = store.raw("");
    let found = raw.list_with_delimiter(Some(&path)).await.map_err(failed(store, "list", prefix))?;
    let mut folders: Vec<String> = found.common_prefixes.iter().filter_map(|folder| key(&run, folder)).collect();
    folders.sort();
    Ok(folders)
}
