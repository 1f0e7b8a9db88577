//! The models of a finished run, found again on this machine, so that a pair can be drawn bit for bit.

use crate::prepare::local_path;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec::Models;
use ip2p_pipeline::{Error, Result, model_id};
use std::path::{Path, PathBuf};

/// The plan with paths of models that work from here: relative ones start in the working directory, else where the
/// run was started. Fails when a model is at neither place, or is not the one that drew the run.
pub(crate) fn plan_here(plan: &Plan) -> Result<Plan> {
    let here = std::env::current_dir().map_err(|source| Error::File { path: ".".to_string(), source })?;
    let mut folders = vec![here];
    folders.extend(plan.started_in.as_ref().map(PathBuf::from));
    let (references, prints) = (&plan.spec.models, &plan.models);
    let find = |name: &str, reference: &str, print: Fingerprint| find(name, reference, print, &folders);
    let optional = |name: &str, reference: &Option<String>, print: Option<Fingerprint>| match (reference, print) {
        (Some(reference), Some(print)) => find(name, reference, print).map(Some),
        _ => Ok(reference.clone()),
    };
    let models = Models {
        diffusion: find("diffusion", &references.diffusion, prints.diffusion)?,
        vae: optional("vae", &references.vae, prints.vae)?,
        clip: find("clip", &references.clip, prints.clip)?,
        // Drawing needs no language model, so its absence must not stand in the way.
        llm: None,
    };
    let mut plan = plan.clone();
    plan.spec.models = models;
    Ok(plan)
}

/// The first of the folders from which `reference` leads to the content with this fingerprint.
fn find(name: &str, reference: &str, print: Fingerprint, folders: &[PathBuf]) -> Result<String> {
    let Some(path) = local_path(reference) else { return Ok(reference.to_string()) };
    let mut tried: Vec<PathBuf> = folders.iter().map(|folder| folder.join(path)).collect();
    tried.dedup();
    let mut other = None;
    for path in tried.iter().filter(|path| path.exists()) {
        if same_content(reference, path, print)? {
            return Ok(path.display().to_string());
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

/// A `file://` URL is known by its name alone.
fn same_content(reference: &str, path: &Path, print: Fingerprint) -> Result<bool> {
    Ok(reference.contains("://") || model_id::of_reference(&path.display().to_string())? == print)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(text: &str) -> (tempfile::TempDir, Fingerprint) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("weights"), text).unwrap();
        let print = model_id::of_reference(&folder.path().join("weights").display().to_string()).unwrap();
        (folder, print)
    }

    #[test]
    fn the_same_content_is_found_wherever_it_is_and_another_is_refused() {
        let ((other, _), (ours, print)) = (model("other"), model("ours"));
        let folders = [other.path().to_path_buf(), ours.path().to_path_buf()];
        let expected = ours.path().join("weights").display().to_string();
        assert_eq!(find("clip", "weights", print, &folders).unwrap(), expected);
        assert_eq!(find("clip", "hf://a/b", print, &folders).unwrap(), "hf://a/b");
        let changed = find("clip", "weights", print, &folders[..1]).unwrap_err().to_string();
        assert!(changed.starts_with("models.clip: ") && changed.contains("has changed"), "{changed}");
        let missing = find("clip", "clip/model", print, &folders).unwrap_err().to_string();
        for folder in &folders {
            assert!(missing.contains(&folder.join("clip/model").display().to_string()), "{missing}");
        }
    }
}
