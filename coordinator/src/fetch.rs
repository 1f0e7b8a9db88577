//! Large objects, read through a temporary file: memory holds one piece at a time.

use ip2p_pipeline::fetch::stream;
use ip2p_pipeline::manifest::DataObject;
use ip2p_pipeline::records::IndexRow;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::TableReader;
use ip2p_pipeline::{Error, Result};
use std::fs::File;
use std::io::Seek;

fn temporary(source: std::io::Error) -> Error {
    Error::File { path: std::env::temp_dir().display().to_string(), source }
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
