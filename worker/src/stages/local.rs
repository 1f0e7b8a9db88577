//! Large objects on their way to the store: written to a temporary file, then uploaded in parts, so that memory
//! does not grow with them.

use crate::failure::{Result, domain};
use ip2p_pipeline::Error;
use ip2p_pipeline::formats::ShardStats;
use ip2p_pipeline::manifest::DataObject;
use ip2p_pipeline::store::Store;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use tempfile::NamedTempFile;

/// A temporary file, removed when it is dropped.
pub(super) struct Local(NamedTempFile);

impl Local {
    pub fn new() -> Result<Self> {
        NamedTempFile::new().map(Local).map_err(|e| unusable(&std::env::temp_dir(), e))
    }

    /// Where the object's bytes go.
    pub fn sink(&self) -> Result<BufWriter<File>> {
        self.0.reopen().map(BufWriter::new).map_err(|e| unusable(self.0.path(), e))
    }

    /// Writes what the sink still holds.
    pub fn close(&self, sink: BufWriter<File>) -> Result<()> {
        sink.into_inner().map(drop).map_err(|e| unusable(self.0.path(), e.into_error()))
    }

    /// For reading, from the start.
    pub fn source(&self) -> Result<File> {
        self.0.reopen().map_err(|e| unusable(self.0.path(), e))
    }

    pub async fn upload(&self, store: &Store, key: &str) -> Result<()> {
        store.put_file(key, self.0.path()).await.map_err(domain)
    }
}

/// The description of an object from what was measured while it was written.
pub(super) fn described(role: &str, key: String, stats: ShardStats) -> DataObject {
    DataObject { role: role.to_string(), key, bytes: stats.bytes, blake3: stats.blake3 }
}

fn unusable(path: &Path, source: io::Error) -> ip2p_pipeline::task::Failure {
    domain(Error::File { path: path.display().to_string(), source })
}
