//! What killed writers leave half-written in a local store.

use crate::error::{Error, Result};
use std::path::Path;

/// object_store writes to `name#1` beside `name` and renames at the end.
pub(super) fn remove_in(folder: &Path) -> Result<()> {
    let file = |source| Error::File { path: folder.display().to_string(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(file)?,
    };
    for entry in entries {
        let entry = entry.map_err(file)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let staged = name.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        if entry.file_type().map_err(file)?.is_dir() {
            remove_in(&entry.path())?;
        } else if staged {
            std::fs::remove_file(entry.path()).map_err(file)?;
        }
    }
    Ok(())
}
