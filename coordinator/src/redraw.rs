//! The models of a finished run, found again on this machine, so that a pair can be drawn bit for bit.

use crate::prepare::local_path;
use ip2p_pipeline::file_hashes::FileHashes;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec::Models;
use ip2p_pipeline::{Error, Result, model_id};
use std::path::PathBuf;

/// The plan with paths of models that work from here: relative ones start in the working directory, else where the
/// run was started. Fails when a model is at neither place, or is not the one that drew the run.
pub(crate) async fn plan_here(plan: &Plan) -> Result<Plan> {
    let here = std::env::current_dir().map_err(|source| Error::File { path: ".".to_string(), source })?;
    let mut folders = vec![here];
    folders.extend(plan.started_in.as_ref().map(PathBuf::from));
    let (weights, prints) = (plan.weights(), &plan.models);
    let vae = match (&weights.vae, prints.vae) {
        (Some(reference), Some(print)) => Some(find("vae", reference, print, &folders).await?),
        _ => weights.vae.clone(),
    };
    let models = Models {
        diffusion: find("diffusion", &weights.diffusion, prints.diffusion, &folders).await?,
        vae,
        clip: find("clip", &weights.clip, prints.clip, &folders).await?,
        // Drawing needs no language model, so its absence must not stand in the way.
        llm: None,
    };
    Ok(plan.clone().pinned_to(models))
}

/// The first of the folders from which `reference` leads to the content with this fingerprint.
async fn find(name: &str, reference: &str, print: Fingerprint, folders: &[PathBuf]) -> Result<String> {
    let Some(path) = local_path(reference) else { return Ok(reference.to_string()) };
    let mut tried: Vec<PathBuf> = folders.iter().map(|folder| folder.join(path)).collect();
    tried.dedup();
    let mut other = None;
    for path in tried.iter().filter(|path| path.exists()) {
        let here = path.display().to_string();
        if model_id::of_reference(&here, &FileHashes::from_env()).await? == print {
            return Ok(here);
        }
        other.get_or_insert(path);
    }
    Err(Error::invalid(match other {
        Some(path) => {
            format!("models.{name}: {} has changed since the run was drawn: only the same weights give the same pair", path.display())
        }
        None => {
            let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
            format!(
                "models.{name}: nothing is at {}: put the model there, or run this command in the folder that the run was started in",
                tried.join(" or at ")
            )
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn model(text: &str) -> (tempfile::TempDir, Fingerprint) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("weights"), text).unwrap();
        let place = folder.path().join("weights").display().to_string();
        let print = model_id::of_reference(&place, &FileHashes::at(std::path::Path::new("/dev/null"))).await.unwrap();
        (folder, print)
    }

    #[tokio::test]
    async fn the_same_content_is_found_wherever_it_is_and_another_is_refused() {
        let ((other, _), (ours, print)) = (model("other").await, model("ours").await);
        let folders = [other.path().to_path_buf(), ours.path().to_path_buf()];
        let expected = ours.path().join("weights").display().to_string();
        assert_eq!(find("clip", "weights", print, &folders).await.unwrap(), expected);
        assert_eq!(find("clip", "hf://a/b", print, &folders).await.unwrap(), "hf://a/b");
        let changed = find("clip", "weights", print, &folders[..1]).await.unwrap_err().to_string();
        assert!(changed.starts_with("models.clip: ") && changed.contains("has changed"), "{changed}");
        let missing = find("clip", "clip/model", print, &folders).await.unwrap_err().to_string();
        for folder in &folders {
            assert!(missing.contains(&folder.join("clip/model").display().to_string()), "{missing}");
        }
    }
}
