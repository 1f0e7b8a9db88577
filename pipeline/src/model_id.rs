//! What identifies the weights of a model in fingerprints and lineage.

use crate::error::{Error, Result};
use crate::file_hashes::FileHashes;
use crate::ids::Fingerprint;
use crate::plan::ModelFingerprints;
use crate::spec::Models;
use crate::store::Store;
use futures::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::path::{Path, PathBuf};

/// Fingerprints of all models of a spec, whose references to the hub must name commits.
pub async fn fingerprints(models: &Models, hashes: &FileHashes) -> Result<ModelFingerprints> {
    let optional = async |reference: &Option<String>| match reference {
        Some(reference) => of_reference(reference, hashes).await.map(Some),
        None => Ok(None),
    };
    Ok(ModelFingerprints {
        diffusion: of_reference(&models.diffusion, hashes).await?,
        vae: optional(&models.vae).await?,
        clip: of_reference(&models.clip, hashes).await?,
        llm: optional(&models.llm).await?,
    })
}

/// Of a local file or folder its content, wherever it lies; of an object store what it lists there; of the hub the
/// commit.
pub async fn of_reference(reference: &str, hashes: &FileHashes) -> Result<Fingerprint> {
    match reference.split_once("://") {
        None => of_path(Path::new(reference), hashes),
        Some(("file", path)) => of_path(Path::new(path), hashes),
        Some(("hf", _)) if names_commit(reference) => Ok(Fingerprint::of(&["model reference", reference])),
        Some(("hf", _)) => Err(Error::invalid(format!("model `{reference}` can change under its name: {}", pin_advice(reference)))),
        Some(_) => of_store(reference).await,
    }
}

/// What to write instead of a reference that can change.
pub fn pin_advice(reference: &str) -> String {
    let name = reference.split('@').next().unwrap_or(reference).split('?').next().unwrap_or(reference);
    let name: Vec<&str> = name.splitn(5, '/').take(4).collect();
    format!("name a commit, {}@<40 hex digits>, which its page on the hub shows under Files, History", name.join("/"))
}

/// True for `hf://owner/name@<40 hex digits>...`: the hub never changes what it names.
pub fn names_commit(reference: &str) -> bool {
    let revision = reference.strip_prefix("hf://").and_then(|rest| rest.split('/').nth(1)).and_then(|name| name.split_once('@'));
    let revision = revision.map(|(_, revision)| revision.split('?').next().unwrap_or(revision));
    revision.is_some_and(|revision| revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Names below the folder and contents, in the order of names.
fn of_path(path: &Path, hashes: &FileHashes) -> Result<Fingerprint> {
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
        parts.push(hashes.blake3(&file)?);
    }
    Ok(of_parts(&parts))
}

fn of_parts(parts: &[String]) -> Fingerprint {
    Fingerprint::of(&parts.iter().map(String::as_str).collect::<Vec<_>>())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |source| Error::File { path: folder.display().to_string(), source };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if is_note(&entry.file_name().to_string_lossy()) {
            continue;
        }
        if entry.path().is_dir() { collect(&entry.path(), files)? } else { files.push(entry.path()) }
    }
    Ok(())
}

/// Hidden files and notes do not change what a model computes.
fn is_note(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".md")
}

/// The object or folder at `url`: names, sizes and the store's own marks of their content.
async fn of_store(url: &str) -> Result<Fingerprint> {
    let (objects, root) = Store::open(url)?.raw("");
    let failed = |source| Error::Store { action: "list", key: url.to_string(), source };
    let single = match objects.head(&root).await {
        // A bucket as a whole is a folder.
        _ if root.as_ref().is_empty() => None,
        Ok(meta) => Some(meta),
        Err(object_store::Error::NotFound { .. }) => None,
        Err(source) => return Err(failed(source)),
    };
    let found: Vec<ObjectMeta> = match single {
        Some(meta) => vec![meta],
        None => objects.list(Some(&root)).try_collect().await.map_err(failed)?,
    };
    let mut files: Vec<[String; 3]> = found.iter().filter_map(|meta| listed(meta, &root)).collect();
    files.sort();
    if files.is_empty() {
        return Err(Error::invalid(format!("model `{url}`: nothing is there")));
    }
    let parts: Vec<String> = std::iter::once("model listing".to_string()).chain(files.into_iter().flatten()).collect();
    Ok(of_parts(&parts))
}

/// Name below `root`, size and mark of an object; `None` for notes.
fn listed(meta: &ObjectMeta, root: &Key) -> Option<[String; 3]> {
    let parts: Vec<String> = meta.location.prefix_match(root)?.map(|part| part.as_ref().to_string()).collect();
    let mark = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
    (!parts.iter().any(|part| is_note(part))).then(|| [parts.join("/"), meta.size.to_string(), mark])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers nothing.
    fn hashes() -> FileHashes {
        FileHashes::at(Path::new("/dev/null"))
    }

    #[tokio::test]
    async fn content_counts_and_place_does_not() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let of = async |i: usize| of_reference(dirs[i].path().to_str().unwrap(), &hashes()).await.unwrap();
        for dir in &dirs {
            std::fs::create_dir(dir.path().join("unet")).unwrap();
            std::fs::write(dir.path().join("unet/config.json"), "{}").unwrap();
        }
        assert_eq!(of(0).await, of(1).await);
        let url = format!("file://{}", dirs[1].path().display());
        assert_eq!(of_reference(&url, &hashes()).await.unwrap(), of(1).await);
        std::fs::write(dirs[0].path().join("README.md"), "notes").unwrap();
        assert_eq!(of(0).await, of(1).await);
        std::fs::write(dirs[0].path().join("unet/config.json"), "[]").unwrap();
        assert_ne!(of(0).await, of(1).await);
    }

    #[tokio::test]
    async fn only_a_commit_of_the_hub_has_a_fingerprint() {
        let of = async |text: &str| of_reference(text, &hashes()).await;
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        assert_ne!(of(&format!("hf://a/b@{one}")).await.unwrap(), of(&format!("hf://a/b@{two}")).await.unwrap());
        assert_ne!(of(&format!("hf://a/b@{one}")).await.unwrap(), of(&format!("hf://a/b@{one}?variant=fp16")).await.unwrap());
        for text in ["hf://a/b", "hf://a/b@main", "hf://a/b@main/unet", "hf://a/b?variant=fp16"] {
            let message = of(text).await.unwrap_err().to_string();
            assert!(message.contains(text) && message.contains("name a commit, hf://a/b@<40 hex digits>"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_changed_object_of_a_store_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().display());
        std::fs::write(dir.path().join("a.safetensors"), "one").unwrap();
        let before = of_store(&url).await.unwrap();
        assert_eq!(of_store(&url).await.unwrap(), before);
        std::fs::write(dir.path().join("notes.md"), "x").unwrap();
        assert_eq!(of_store(&url).await.unwrap(), before);
        std::fs::write(dir.path().join("a.safetensors"), "other").unwrap();
        assert_ne!(of_store(&url).await.unwrap(), before);
        let empty = tempfile::tempdir().unwrap();
        assert!(of_store(&format!("file://{}", empty.path().display())).await.unwrap_err().to_string().contains("nothing is there"));
    }
}
