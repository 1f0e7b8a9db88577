//! Samples in a file of the dataset, counted by what is in it.

use crate::pages;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use std::io::Read;

/// Rows of a Parquet shard, as its footer says.
pub fn rows_in_parquet(file: impl ChunkReader + 'static) -> Result<u64, String> {
    let reader = pages::guarded(|| SerializedFileReader::new(file))?.map_err(|e| e.to_string())?;
    u64::try_from(reader.metadata().file_metadata().num_rows()).map_err(|e| e.to_string())
}

/// Samples of a WebDataset shard: each has one `.json` member.
pub fn samples_in_tar(file: impl Read) -> Result<u64, String> {
    let mut archive = tar::Archive::new(file);
    let mut samples = 0;
    for entry in archive.entries().map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        samples += u64::from(entry.path_bytes().ends_with(b".json"));
    }
    Ok(samples)
}
