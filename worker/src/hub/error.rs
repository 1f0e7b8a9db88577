//! What can go wrong between a model's name and its files on this machine.

use std::path::{Path, PathBuf};

/// Errors of finding and fetching model files. No message ever holds a token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference itself is wrong.
    #[error("model `{reference}`: {problem}")]
    Reference { reference: String, problem: String },
    /// The repository, store or folder lacks something.
    #[error("model `{reference}`: {problem}")]
    Missing { reference: String, problem: String },
    /// The hub wants a token, another token, or an accepted licence.
    #[error("model `{reference}`: {problem}")]
    Denied { reference: String, problem: String },
    /// The hub cannot be reached; another try may help.
    #[error("model `{reference}`: {problem}")]
    Unreachable { reference: String, problem: String },
    /// What arrived is not what the hub announced.
    #[error("{url}: the file that arrived is not the one the hub describes: {problem}. Run again to fetch it anew")]
    Checksum { url: String, problem: String },
    /// A local file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The object store failed.
    #[error(transparent)]
    Store(#[from] ip2p_pipeline::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// True when the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Checksum { .. } | Error::Store(ip2p_pipeline::Error::Store { .. }))
    }

    pub(super) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Error::File { path, source }
    }
}
