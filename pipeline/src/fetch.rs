//! Data objects read in a stream and compared with their manifest: memory holds one piece at a time.

use crate::error::{Error, Result};
use crate::manifest::DataObject;
use crate::store::Store;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use std::io::Write;

fn failed(store: &Store, key: &str) -> impl Fn(object_store::Error) -> Error {
    let key = store.url_of(key);
    move |source| match source {
        object_store::Error::NotFound { .. } => Error::Damaged { key: key.clone(), problem: "it is missing".to_string() },
        source => Error::Store { action: "read", key: key.clone(), source },
    }
}

/// Checks that an object is there and as long as its manifest says.
pub async fn check_length(store: &Store, object: &DataObject) -> Result<()> {
    let (raw, path) = store.raw(&object.key);
    let found = raw.head(&path).await.map_err(failed(store, &object.key))?;
    compare_length(store, object, found.size)
}

fn compare_length(store: &Store, object: &DataObject, length: u64) -> Result<()> {
    if length == object.bytes {
        return Ok(());
    }
    let problem = format!("it has {length} bytes, its manifest says {}", object.bytes);
    Err(Error::Damaged { key: store.url_of(&object.key), problem })
}

/// Reads an object into `sink`, a temporary file or nothing, and checks its length and checksum against the manifest's.
pub async fn stream(store: &Store, object: &DataObject, sink: &mut impl Write) -> Result<()> {
    let (raw, path) = store.raw(&object.key);
    let failed = failed(store, &object.key);
    let mut pieces = raw.get(&path).await.map_err(&failed)?.into_stream();
    let mut hasher = blake3::Hasher::new();
    let mut length = 0;
    while let Some(piece) = pieces.try_next().await.map_err(&failed)? {
        hasher.update(&piece);
        length += piece.len() as u64;
        sink.write_all(&piece).map_err(|source| Error::File { path: std::env::temp_dir().display().to_string(), source })?;
    }
    compare_length(store, object, length)?;
    if hasher.finalize().to_hex().as_str() != object.blake3 {
        let problem = "its checksum differs from its manifest's".to_string();
        return Err(Error::Damaged { key: store.url_of(&object.key), problem });
    }
    Ok(())
}
