//! What identifies the weights of a model in fingerprints and lineage.

use crate::error::{Error, Result};
use crate::ids::Fingerprint;
use crate::plan::ModelFingerprints;
use crate::spec::Models;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Fingerprints of all models of a spec.
pub fn fingerprints(models: &Models) -> Result<ModelFingerprints> {
    let optional = |reference: &Option<String>| reference.as_deref().map(of_reference).transpose();
    Ok(ModelFingerprints {
        diffusion: of_reference(&models.diffusion)?,
        vae: optional(&models.vae)?,
        clip: of_reference(&models.clip)?,
        llm: optional(&models.llm)?,
    })
}

/// The hash of a local file or folder's content, wherever it lies; of the reference itself when it is remote
/// (pin a revision there).
pub fn of_reference(reference: &str) -> Result<Fingerprint> {
    let path = Path::new(reference);
    if path.exists() { of_path(path) } else { Ok(Fingerprint::of(&["model reference", reference])) }
}

/// Names below the folder and contents, in the order of names.
fn of_path(path: &Path) -> Result<Fingerprint> {
    let mut files = Vec::new();
    if path.is_dir() {
        collect(path, &mut files)?
    } else {
        files.push(path.to_path_buf())
    }
    files.sort();
    let mut parts = vec!["model content".to_string()];
    for file in files {
        let name = file.strip_prefix(path).map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        parts.push(name);
        parts.push(hash(&file)?);
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Ok(Fingerprint::of(&parts))
}

/// Hidden files and notes do not change what a model computes.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| file_error(folder, e))? {
        let entry = entry.map_err(|e| file_error(folder, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with(".md") {
            continue;
        }
        if entry.path().is_dir() { collect(&entry.path(), files)? } else { files.push(entry.path()) }
    }
    Ok(())
}

fn hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(|e| file_error(path, e))?;
    hasher.update_reader(file).map_err(|e| file_error(path, e))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn file_error(path: &Path, source: std::io::Error) -> Error {
    Error::File { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_counts_and_place_does_not() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let of = |i: usize| of_reference(dirs[i].path().to_str().unwrap()).unwrap();
        for dir in &dirs {
            std::fs::create_dir(dir.path().join("unet")).unwrap();
            std::fs::write(dir.path().join("unet/config.json"), "{}").unwrap();
        }
        assert_eq!(of(0), of(1));
        std::fs::write(dirs[0].path().join("README.md"), "notes").unwrap();
        assert_eq!(of(0), of(1));
        std::fs::write(dirs[0].path().join("unet/config.json"), "{} ").unwrap();
        assert_ne!(of(0), of(1));
    }

    #[test]
    fn remote_references_are_told_apart() {
        assert_ne!(of_reference("hf://a/b@1").unwrap(), of_reference("hf://a/b@2").unwrap());
    }
}
