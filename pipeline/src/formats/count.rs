//! What the samples in a file of the dataset say, whatever the manifests say of it.

use crate::error::{Error, Result};
use crate::records::ShardRow;
use crate::tables::TableReader;
use parquet::file::reader::ChunkReader;
use std::io::Read;

/// Longest `.json` of a sample that is read, in bytes: some texts and numbers.
const MAX_JSON: u64 = 16 << 20;

/// Calls `visit` with every row of a Parquet shard, in order. Images are not read. `what` names the file in messages.
pub fn rows_in_parquet(what: &str, file: impl ChunkReader + 'static, mut visit: impl FnMut(ShardRow)) -> Result<()> {
    for rows in TableReader::<ShardRow>::open(what, file)? {
        rows?.into_iter().for_each(&mut visit);
    }
    Ok(())
}

/// Calls `visit` with every sample of a WebDataset shard, in order: each has one `.json` member. `what` names the file in
/// messages.
pub fn samples_in_tar(what: &str, file: impl Read, mut visit: impl FnMut(ShardRow)) -> Result<()> {
    let unreadable = |e| Error::format(what, e);
    for entry in tar::Archive::new(file).entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.path_bytes().ends_with(b".json") {
            let mut text = Vec::new();
            entry.take(MAX_JSON).read_to_end(&mut text).map_err(unreadable)?;
            let row = serde_json::from_slice(&text).map_err(|e| Error::format(what, format!("the `.json` of a sample: {e}")))?;
            visit(row);
        }
    }
    Ok(())
}
