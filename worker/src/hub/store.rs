//! Fetching a model from an object store into the cache.

use super::cache::{self, Cache};
use super::error::{Error, Result};
use super::{Needs, selection};
use futures::TryStreamExt;
use ip2p_pipeline::store::Store;
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

/// The local path of the object or folder at `url`; credentials come from the environment.
pub(super) async fn fetch(url: &str, needs: Needs, cache: &Cache) -> Result<PathBuf> {
    let store = Store::open(url)?;
    let (objects, root) = store.raw("");
    let single = match objects.head(&root).await {
        // A bucket as a whole is a folder.
        _ if root.as_ref().is_empty() => None,
        Ok(meta) => Some(meta),
        Err(object_store::Error::NotFound { .. }) => None,
        Err(source) => return Err(failed("look up", url)(source)),
    };
    let Some(meta) = single else { return fetch_folder(url, needs, cache, &objects, &root).await };
    let folder = cache.store(&state(url, &[&meta]));
    let path = folder.join(root.filename().unwrap_or("model"));
    fetch_all(&objects, &folder, &[(&meta, path.clone())]).await?;
    Ok(path)
}

async fn fetch_folder(url: &str, needs: Needs, cache: &Cache, objects: &Arc<dyn ObjectStore>, root: &Key) -> Result<PathBuf> {
    let found: Vec<ObjectMeta> = objects.list(Some(root)).try_collect().await.map_err(failed("list", url))?;
    let name = |meta: &ObjectMeta| -> Option<String> {
        let parts: Vec<_> = meta.location.prefix_match(root)?.map(|part| part.as_ref().to_string()).collect();
        Some(parts.join("/"))
    };
    let mut named: Vec<(String, &ObjectMeta)> = found.iter().filter_map(|meta| Some((name(meta)?, meta))).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let missing = |problem: String| Error::Missing { reference: url.to_string(), problem };
    if named.is_empty() {
        return Err(missing(format!("nothing there; expected {}", needs.description())));
    }
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    let chosen = selection::select(&names, needs, None).map_err(missing)?;
    named.retain(|(name, _)| chosen.contains(name));
    let folder = cache.store(&state(url, &named.iter().map(|(_, meta)| *meta).collect::<Vec<_>>()));
    let wanted: Vec<_> = named.iter().map(|(name, meta)| (*meta, folder.join(name))).collect();
    fetch_all(objects, &folder, &wanted).await?;
    Ok(folder)
}

/// A name for exactly these objects: other content gets another folder of the cache.
fn state(url: &str, objects: &[&ObjectMeta]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(url.as_bytes());
    for meta in objects {
        let tag = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
        hasher.update(format!("\n{} {} {tag}", meta.location, meta.size).as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_string()
}

async fn fetch_all(objects: &Arc<dyn ObjectStore>, folder: &Path, wanted: &[(&ObjectMeta, PathBuf)]) -> Result<()> {
    if wanted.iter().all(|(_, path)| path.is_file()) {
        return Ok(());
    }
    let _lock = cache::lock(folder).await?;
    for (meta, path) in wanted.iter().filter(|(_, path)| !path.is_file()) {
        tracing::info!(object = %meta.location, megabytes = meta.size >> 20, "fetching");
        fetch_one(objects, meta, path).await?;
    }
    Ok(())
}

/// The store's client retries and checks the length itself.
async fn fetch_one(objects: &Arc<dyn ObjectStore>, meta: &ObjectMeta, path: &Path) -> Result<()> {
    let key = meta.location.to_string();
    cache::make_room(path).await?;
    let partial = cache::partial(path);
    let mut out = File::create(&partial).await.map_err(Error::file(&partial))?;
    let mut body = objects.get(&meta.location).await.map_err(failed("read", &key))?.into_stream();
    while let Some(bytes) = body.try_next().await.map_err(failed("read", &key))? {
        out.write_all(&bytes).await.map_err(Error::file(&partial))?;
    }
    out.sync_all().await.map_err(Error::file(&partial))?;
    cache::finish(path).await
}

fn failed(action: &'static str, key: &str) -> impl FnOnce(object_store::Error) -> Error {
    let key = key.to_string();
    move |source| ip2p_pipeline::Error::Store { action, key, source }.into()
}
