//! Finding a run's plan in its store, for commands that must not touch the corpus or the models.

use crate::listing;
use crate::place::Place;
use ip2p_pipeline::layout;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec::Spec;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Error, Result, commit};

/// All plans of a run, the newest first. Fails when one cannot be read: what it names must not be overlooked.
pub(crate) async fn plans(store: &Store) -> Result<Vec<Plan>> {
    let mut listed = listing::objects(store, layout::PLANS).await?;
    listed.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.key.cmp(&b.key)));
    let mut plans = Vec::new();
    for object in listed {
        plans.push(commit::decode::<Plan>(&store.url_of(&object.key), &store.require(&object.key).await?)?);
    }
    Ok(plans)
}

/// The plan that `spec` stands for: the newest that agrees with it in all that shapes the dataset. Without a spec, the
/// newest. `None` when the run has no plan.
pub async fn find_plan(store: &Store, spec: Option<&Spec>) -> Result<Option<Plan>> {
    let plans = plans(store).await?;
    let (number, url) = (plans.len(), Place::of(store.url()));
    match spec {
        _ if number == 0 => Ok(None),
        Some(spec) => match plans.into_iter().find(|plan| same_dataset(&plan.spec, spec)) {
            Some(plan) => Ok(Some(plan)),
            None => Err(Error::invalid(format!(
                "this pipeline, as it is now, was never run at {url}, where {number} others were: `run` it, or give the URL {} to see \
                 the newest of those",
                store.url()
            ))),
        },
        None => {
            if number > 1 {
                tracing::warn!("this run has {number} plans: showing the newest; give the pipeline file to choose another");
            }
            Ok(plans.into_iter().next())
        }
    }
}

/// Like [`find_plan`], but a run without a plan is an error that says what to do.
pub async fn require_plan(store: &Store, spec: Option<&Spec>) -> Result<Plan> {
    find_plan(store, spec).await?.ok_or_else(|| no_run(store.url()))
}

pub(crate) fn no_run(url: &str) -> Error {
    Error::invalid(format!("there is no run at {}: start one with `run`, or check name and store", Place::of(url)))
}

/// How a run is cut, launched and named does not matter.
fn same_dataset(a: &Spec, b: &Spec) -> bool {
    (a.seed, &a.corpus, &a.models, &a.stages) == (b.seed, &b.corpus, &b.models, &b.stages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, spec};

    /// Another plan of the same run, younger than the fixture's.
    async fn with_second_plan() -> (Fixture, Plan) {
        let fixture = Fixture::finished().await;
        let mut spec = spec();
        spec.stages.filter.keep = 1;
        let first = &fixture.plan;
        let second = Plan::new(spec, first.corpus_dir, first.corpus, first.models.clone(), first.partitioning);
        fixture.store.put(&layout::plan(second.fingerprint()), commit::encode(&second).unwrap()).await.unwrap();
        (fixture, second)
    }

    #[tokio::test]
    async fn the_plan_of_the_spec_is_found_however_it_is_run() {
        let (fixture, second) = with_second_plan().await;
        let mut wanted = spec();
        wanted.run.workers = 9;
        wanted.partition.records = 1;
        assert_eq!(find_plan(&fixture.store, Some(&wanted)).await.unwrap().unwrap(), fixture.plan);
        wanted.stages.filter.keep = 1;
        assert_eq!(find_plan(&fixture.store, Some(&wanted)).await.unwrap().unwrap(), second);
    }

    #[tokio::test]
    async fn without_a_spec_the_newest_is_taken_and_no_other_for_one_that_was_never_run() {
        let (fixture, second) = with_second_plan().await;
        assert_eq!(find_plan(&fixture.store, None).await.unwrap().unwrap(), second);
        let mut unknown = spec();
        unknown.seed = 7;
        let message = find_plan(&fixture.store, Some(&unknown)).await.unwrap_err().to_string();
        assert!(message.contains("was never run at memory:///") && message.contains("2 others"), "{message}");
    }

    #[tokio::test]
    async fn a_place_without_a_run_says_so() {
        let store = Store::memory();
        assert_eq!(find_plan(&store, None).await.unwrap(), None);
        let message = require_plan(&store, None).await.unwrap_err().to_string();
        assert!(message.contains("no run at memory:///"), "{message}");
    }
}
