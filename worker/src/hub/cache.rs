//! The folder in which all workers of a node keep model files.
//!
//! A file under its final name is complete and verified; an unfinished one ends in `.partial` and is gone on with.
//! One process at a time fills a folder: the others wait at its lock, which the system drops when its holder dies.

use super::error::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The cache of a machine.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// The right to fill one folder, until it is dropped.
pub(super) struct Lock {
    _file: File,
}

impl Cache {
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Cache { root: root.into() }
    }

    /// The folder that `IP2P_CACHE` names, or its default.
    pub fn from_env() -> Self {
        Self::at(ip2p_pipeline::file_hashes::cache_root())
    }

    /// Where a repository's listings and files lie.
    pub(super) fn repository(&self, repository: &str) -> PathBuf {
        self.root.join("hub").join(repository.replace('/', "--"))
    }

    /// Where one state of a store's model lies.
    pub(super) fn store(&self, state: &str) -> PathBuf {
        self.root.join("store").join(state)
    }
}

/// Waits until this process alone may fill `folder`.
pub(super) async fn lock(folder: &Path) -> Result<Lock> {
    let path = with_suffix(folder, ".lock");
    let parent = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let task = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&parent).map_err(Error::file(&parent))?;
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::file(&path))?;
        file.lock().map_err(Error::file(&path))?;
        Ok(Lock { _file: file })
    });
    task.await.unwrap_or_else(|e| Err(Error::File { path: folder.to_path_buf(), source: std::io::Error::other(e) }))
}

/// The unfinished form of a file.
pub(super) fn partial(path: &Path) -> PathBuf {
    with_suffix(path, ".partial")
}

/// Gives a finished file its final name, so that a crash never leaves half a file under it.
pub(super) async fn finish(path: &Path) -> Result<()> {
    tokio::fs::rename(partial(path), path).await.map_err(Error::file(path))
}

/// Makes the folder in which `path` will lie.
pub(super) async fn make_room(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new(""));
    tokio::fs::create_dir_all(parent).await.map_err(Error::file(parent))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}
