//! Objects of a run with their age.

use futures::TryStreamExt;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Error, Result};
use object_store::path::Path;
use serde::Serialize;
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

fn failed(store: &Store, prefix: &str) -> impl FnOnce(object_store::Error) -> Error {
    let key = store.url_of(prefix);
    move |source| Error::Store { action: "list", key, source }
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
    let found: Vec<_> = raw.list(Some(&path)).try_collect().await.map_err(failed(store, prefix))?;
    let listed = |meta: object_store::ObjectMeta| {
        Some(Listed { key: key(&run, &meta.location)?, bytes: meta.size, modified: meta.last_modified.into() })
    };
    let mut listed: Vec<Listed> = found.into_iter().filter_map(listed).collect();
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(listed)
}

/// The folders directly below `prefix`, by name, relative to the run.
pub(crate) async fn folders(store: &Store, prefix: &str) -> Result<Vec<String>> {
    let (raw, path) = store.raw(prefix);
    let (_, run) = store.raw("");
    let found = raw.list_with_delimiter(Some(&path)).await.map_err(failed(store, prefix))?;
    let mut folders: Vec<String> = found.common_prefixes.iter().filter_map(|folder| key(&run, folder)).collect();
    folders.sort();
    Ok(folders)
}
