//! The models of a run, named so that they cannot change under their names.

use ip2p_pipeline::Result;
use ip2p_pipeline::file_hashes::FileHashes;
use ip2p_pipeline::model_id;
use ip2p_pipeline::plan::ModelFingerprints;
use ip2p_pipeline::spec::Models;

/// References that workers can load for as long as the run lives, and what identifies their weights.
pub async fn pin(models: &Models) -> Result<(Models, ModelFingerprints)> {
    let pinned = at_commits(models).await?;
    let fingerprints = model_id::fingerprints(&pinned, &FileHashes::from_env()).await?;
    Ok((pinned, fingerprints))
}

/// All at once: each may be a question to the hub.
#[cfg(feature = "worker")]
async fn at_commits(models: &Models) -> Result<Models> {
    use ip2p_worker::hub::{self, Needs};
    let pin = async |reference: &str, needs| match hub::pin(reference, needs).await {
        Ok(pinned) => Ok(pinned),
        Err(hub::Error::Store(error)) => Err(error),
        Err(error) => Err(ip2p_pipeline::Error::invalid(error.to_string())),
    };
    let optional = async |reference: &Option<String>, needs| match reference {
        Some(reference) => pin(reference, needs).await.map(Some),
        None => Ok(None),
    };
    let (diffusion, vae, clip, llm) = futures::try_join!(
        pin(&models.diffusion, Needs::Diffusion),
        optional(&models.vae, Needs::Vae),
        pin(&models.clip, Needs::Clip),
        optional(&models.llm, Needs::Llm),
    )?;
    Ok(Models { diffusion, vae, clip, llm })
}

/// Without the worker nothing here speaks to the hub; names that are not at a commit are refused by their fingerprint.
#[cfg(not(feature = "worker"))]
async fn at_commits(models: &Models) -> Result<Models> {
    Ok(models.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn models(diffusion: &str) -> Models {
        let clip = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("models/tiny/clip").display().to_string();
        Models { diffusion: diffusion.to_string(), vae: None, clip, llm: None }
    }

    #[tokio::test]
    async fn a_commit_and_a_folder_need_no_hub() {
        let at = |digit: &str| format!("hf://owner/name@{}/folder?variant=fp16", digit.repeat(40));
        let (pinned, one) = pin(&models(&at("1"))).await.unwrap();
        assert_eq!(pinned, models(&at("1")));
        let (_, other) = pin(&models(&at("2"))).await.unwrap();
        assert!(one.diffusion != other.diffusion && one.clip == other.clip);
    }

    #[cfg(not(feature = "worker"))]
    #[tokio::test]
    async fn without_the_worker_a_branch_is_refused_with_advice() {
        let message = pin(&models("hf://owner/name")).await.unwrap_err().to_string();
        assert!(message.contains("hf://owner/name@<40 hex digits>"), "{message}");
    }
}
