//! What killed writers leave half-written in a local store.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// object_store writes to `name#1` beside `name` and renames at the end.
pub(super) fn find_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let file = |source| Error::File { path: folder.display().to_string(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(file)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(file)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let staged = name.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        if entry.file_type().map_err(file)?.is_dir() {
            found.extend(find_in(&entry.path())?);
        } else if staged {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        // Its writer has ended meanwhile.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| Error::File { path: path.display().to_string(), source }),
    }
}
