//! Large objects, read in a stream: memory holds one piece at a time.

use futures::TryStreamExt;
use ip2p_pipeline::manifest::DataObject;
use ip2p_pipeline::records::IndexRow;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::TableReader;
use ip2p_pipeline::{Error, Result};
use object_store::ObjectStoreExt;
use std::fs::File;
use std::io::{Seek, Write};

fn failed(store: &Store, key: &str) -> impl Fn(object_store::Error) -> Error {
    let key = store.url_of(key);
    move |source| match source {
        object_store::Error::NotFound { .. } => Error::Damaged { key: key.clone(), problem: "it is missing".to_string() },
        source => Error::Store { action: "read", key: key.clone(), source },
    }
}

fn temporary(source: std::io::Error) -> Error {
    Error::File { path: std::env::temp_dir().display().to_string(), source }
}

/// Checks that an object is there and as long as its manifest says.
pub(crate) async fn check_length(store: &Store, object: &DataObject) -> Result<()> {
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

/// Reads an object into `sink` and checks its length and checksum against the manifest's.
pub(crate) async fn stream(store: &Store, object: &DataObject, sink: &mut impl Write) -> Result<()> {
    let (raw, path) = store.raw(&object.key);
    let failed = failed(store, &object.key);
    let mut pieces = raw.get(&path).await.map_err(&failed)?.into_stream();
    let mut hasher = blake3::Hasher::new();
    let mut length = 0;
    while let Some(piece) = pieces.try_next().await.map_err(&failed)? {
        hasher.update(&piece);
        length += piece.len() as u64;
        sink.write_all(&piece).map_err(temporary)?;
    }
    compare_length(store, object, length)?;
    if hasher.finalize().to_hex().as_str() != object.blake3 {
        let problem = "its checksum differs from its manifest's".to_string();
        return Err(Error::Damaged { key: store.url_of(&object.key), problem });
    }
    Ok(())
}

/// Copies an object into an unnamed temporary file, checked against its manifest.
pub(crate) async fn to_file(store: &Store, object: &DataObject) -> Result<File> {
    let mut file = tempfile::tempfile().map_err(temporary)?;
    stream(store, object, &mut file).await?;
    file.rewind().map_err(temporary)?;
    Ok(file)
}

/// Calls `visit` with every row of a table of the index, in order, on a thread that may block.
pub(crate) async fn visit_index<A: Send + 'static>(
    store: &Store,
    object: &DataObject,
    mut state: A,
    mut visit: impl FnMut(&mut A, IndexRow) + Send + 'static,
) -> Result<A> {
    let file = to_file(store, object).await?;
    let what = store.url_of(&object.key);
    let read = move || {
        for rows in TableReader::<IndexRow>::open(&what, file)? {
            rows?.into_iter().for_each(|row| visit(&mut state, row));
        }
        Ok(state)
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|e| Error::format(&object.key, format!("the thread that reads it ended: {e}")))?
}
