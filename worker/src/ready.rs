//! What a worker does before it asks for work: all that would fail later fails now, before anything is spent.

use crate::device::Device;
use crate::failure::{Result, failure};
use crate::link::Welcome;
use crate::loaded::Models;
use crate::prompts::{self, OpenAiBackend};
use crate::stages::Env;
use ip2p_pipeline::layout::{self, Stage};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec::{PromptBackend, Spec};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::task::{Cause, Failure};
use std::path::Path;
use std::sync::Arc;

/// Opens the run's store, and makes sure that it is the one in which the coordinator has put the plan.
async fn open_store(url: &str, plan: &Plan) -> Result<Store> {
    let unseen = || {
        let advice = "workers need the same store as the coordinator: use a shared one, such as s3://bucket/prefix or a network folder";
        failure(Cause::BadInput, format!("this worker does not see the run's store at {url}: {advice}"))
    };
    // Opening a folder would make it.
    if url.strip_prefix("file://").is_some_and(|folder| !Path::new(folder).is_dir()) {
        return Err(unseen());
    }
    let store = Store::open_with(url, &plan.spec.store_options).map_err(crate::failure::domain)?;
    match store.get(&layout::plan(plan.fingerprint())).await.map_err(crate::failure::domain)? {
        Some(_) => Ok(store),
        None => Err(unseen()),
    }
}

/// Opens the store, and loads the models.
pub async fn get_ready(welcome: &Welcome) -> Result<Env> {
    let store = open_store(&welcome.store_url, &welcome.plan).await?;
    let device = load(&welcome.plan, &welcome.open_stages).await?;
    Ok(Env { store, plan: Arc::new(welcome.plan.clone()), device, kept: Arc::default() })
}

/// Finds the models, loads those that the open stages need, and asks whether the language model's server is there.
async fn load(plan: &Plan, open: &[Stage]) -> Result<Device> {
    let needs = Needs::of(&plan.spec, open);
    if let (true, PromptBackend::OpenAi(server)) = (needs.server, &plan.spec.stages.prompts.backend) {
        let backend = OpenAiBackend::from_env(&plan.spec.stages.prompts, server).map_err(prompts::failure)?;
        backend.probe().await.map_err(prompts::failure)?;
    }
    let models = Models::of_plan(plan).await?;
    let device = Device::start(models).map_err(|e| failure(Cause::Resource, format!("cannot start the device thread: {e}")))?;
    let load = move |models: &mut Models| {
        if needs.llm {
            models.for_prompts()?;
        }
        if needs.drawing {
            models.for_pairs()?;
        }
        Ok(())
    };
    device.run(load).await.map_err(|f| too_small(f, device.name()))?;
    Ok(device)
}

fn too_small(failure: Failure, device: &str) -> Failure {
    if failure.cause != Cause::Resource {
        return failure;
    }
    let advice = "use a GPU with more memory, fewer workers on it, or a smaller stages.pairs.dtype";
    Failure { message: format!("the models do not fit this worker's device ({device}): {advice}. {}", failure.message), ..failure }
}

/// What the stages that are still open need of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    server: bool,
    llm: bool,
    drawing: bool,
}

impl Needs {
    /// `filter` draws only what it lacks, which is usually nothing: then it loads models when it finds that out.
    fn of(spec: &Spec, open: &[Stage]) -> Self {
        let prompts = open.contains(&Stage::Prompts);
        let backend = &spec.stages.prompts.backend;
        Needs {
            server: prompts && matches!(backend, PromptBackend::OpenAi(_)),
            llm: prompts && *backend == PromptBackend::Local,
            drawing: open.contains(&Stage::Pairs) || (open.contains(&Stage::Filter) && !spec.stages.pairs.fuse),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use bytes::Bytes;
    use ip2p_pipeline::commit;

    #[test]
    fn only_open_stages_need_models() {
        let mut spec = testing::spec(&std::env::temp_dir());
        let needs = |spec: &Spec, open: &[Stage]| {
            let Needs { server, llm, drawing } = Needs::of(spec, open);
            [server, llm, drawing]
        };
        assert_eq!(needs(&spec, &Stage::RUN), [false, true, true]);
        assert_eq!(needs(&spec, &[Stage::Pairs, Stage::Filter]), [false, false, true]);
        assert_eq!(needs(&spec, &[Stage::Filter, Stage::Index, Stage::Shards]), [false; 3]);
        spec.stages.pairs.fuse = false;
        spec.stages.prompts.backend = PromptBackend::File;
        assert_eq!(needs(&spec, &[Stage::Prompts, Stage::Filter]), [false, false, true]);
    }

    #[tokio::test]
    async fn a_store_without_the_plan_is_another_store() {
        let dir = tempfile::tempdir().unwrap();
        let plan = testing::plan(dir.path());
        let url = format!("file://{}/run", dir.path().display());
        let problem = async || open_store(&url, &plan).await.map(drop).unwrap_err();
        let f = problem().await;
        assert_eq!(f.cause, Cause::BadInput);
        assert!(f.message.contains("does not see the run's store at file://") && f.message.contains("shared"), "{}", f.message);
        assert!(!dir.path().join("run").exists(), "nothing is made where nothing belongs");
        let store = Store::open(&url).unwrap();
        store.put("plans/another.json", Bytes::from_static(b"{}")).await.unwrap();
        assert!(problem().await.message.contains("does not see"));
        store.put(&layout::plan(plan.fingerprint()), commit::encode(&plan).unwrap()).await.unwrap();
        open_store(&url, &plan).await.unwrap();
    }
}
