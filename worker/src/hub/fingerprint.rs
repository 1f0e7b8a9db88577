//! What a model is, whatever it is called and wherever it lies: the hash of its content.

use super::error::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Endings of files that decide what a model computes.
const PARTS: [&str; 9] = ["json", "txt", "jinja", "safetensors", "bin", "ckpt", "pt", "pth", "gguf"];

/// BLAKE3 of a model's weights and configuration, as 64 hex digits; read in a stream, so call it from a blocking thread.
///
/// A file's fingerprint is the hash of its bytes. A folder's is the hash of (relative path, hash) of the files below it
/// in the order of their paths; read-me files and hidden files do not count.
pub fn fingerprint(model: &Path) -> Result<String> {
    if model.is_file() {
        return Ok(hash_file(model)?.to_hex().to_string());
    }
    let mut files = Vec::new();
    collect(model, "", &mut files)?;
    if files.is_empty() {
        let problem = "no weights or configuration here".to_string();
        return Err(Error::Missing { reference: model.display().to_string(), problem });
    }
    files.sort();
    let mut whole = blake3::Hasher::new();
    for (name, path) in files {
        whole.update(&(name.len() as u64).to_le_bytes());
        whole.update(name.as_bytes());
        whole.update(hash_file(&path)?.as_bytes());
    }
    Ok(whole.finalize().to_hex().to_string())
}

/// Adds the files that count below `folder`, under names with `/` on every system.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::file(folder))? {
        let path = entry.map_err(Error::file(folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else {
            continue;
        };
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| PARTS.contains(&e)) {
            files.push((name, path));
        }
    }
    Ok(())
}

fn hash_file(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(Error::file(path))?).map_err(Error::file(path))?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn content_decides_and_place_does_not() {
        let write = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in files {
                let path = folder.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            fingerprint(folder.path()).unwrap()
        };
        let base = write(&[("config.json", "{}"), ("unet/model.safetensors", "abc")]);
        assert_eq!(base.len(), 64);
        assert_eq!(write(&[("unet/model.safetensors", "abc"), ("config.json", "{}"), ("README.md", "x"), (".lock", "")]), base);
        assert_ne!(write(&[("config.json", "{}"), ("unet/model.safetensors", "abd")]), base);
        assert_ne!(write(&[("config.json", "{}"), ("vae/model.safetensors", "abc")]), base);
    }

    #[test]
    fn an_empty_folder_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        assert!(fingerprint(folder.path()).unwrap_err().to_string().contains("no weights"));
    }
}
