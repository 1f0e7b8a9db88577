//! `status`: how far a run is, from its store alone.

use crate::figures::{self, StageFigures};
use crate::place::Place;
use crate::pods::{self, FailedPods};
use crate::quarantine::{self, QuarantineError};
use crate::text::{count, duration, printable};
use crate::trouble::Trouble;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{self, Stage};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Result, commit};
use serde::Serialize;
use std::fmt;

/// What `status` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub run: String,
    pub plan: Fingerprint,
    /// Every stage has all its partitions.
    pub complete: bool,
    pub stages: Vec<StageFigures>,
    /// Why records are in quarantine.
    pub quarantine: Vec<QuarantineError>,
    /// Why workers do not start, by the cluster's own words.
    pub trouble: Vec<String>,
    /// Pods of a cluster that failed, while the run is not complete.
    pub failed_pods: Option<FailedPods>,
    /// Where the training shards are, or will be.
    pub dataset: String,
    /// The report, when there is one.
    pub report: Option<String>,
}

/// Reads the manifests of all stages.
pub async fn status(store: &Store, plan: &Plan) -> Result<Status> {
    let stages = figures::of_store(store, plan).await?;
    let complete = stages.iter().all(StageFigures::complete);
    let report = store.get(layout::REPORT).await?.is_some();
    Ok(Status {
        run: Place::of(store.url()).to_string(),
        plan: plan.fingerprint(),
        complete,
        quarantine: quarantine::errors(store, plan, &stages).await?,
        trouble: trouble(store).await?,
        failed_pods: if complete { None } else { pods::failed(store).await? },
        stages,
        dataset: Place::of(&store.url_of(&plan.dir(Stage::Shards).dataset_root())).to_string(),
        report: report.then(|| Place::of(&store.url_of(layout::REPORT)).to_string()),
    })
}

/// What the launcher has put down, if a cluster has troubles.
async fn trouble(store: &Store) -> Result<Vec<String>> {
    let troubles: Option<Vec<Trouble>> = commit::read(store, layout::TROUBLE).await?;
    Ok(troubles.unwrap_or_default().iter().map(ToString::to_string).collect())
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run      {}", printable(&self.run))?;
        writeln!(f, "plan     {}", self.plan.short())?;
        writeln!(f, "state    {}\n", if self.complete { "complete" } else { "not complete: `run` goes on where it is" })?;
        writeln!(
            f,
            "{:<9}{:>15}{:>12}{:>12}{:>12}{:>12}{:>13}",
            "stage", "partitions", "expected", "output", "rejected", "quarantine", "work"
        )?;
        for stage in &self.stages {
            let of = stage.partitions.map_or("?".to_string(), |of| count(of.into()));
            let partitions = format!("{} of {of}", count(stage.committed.into()));
            let counts = &stage.counts;
            let [expected, output, rejected, quarantined] =
                [counts.expected, counts.output, counts.rejected_total(), counts.quarantined].map(count);
            let work = duration(stage.seconds);
            writeln!(f, "{:<9}{partitions:>15}{expected:>12}{output:>12}{rejected:>12}{quarantined:>12}{work:>13}", stage.stage.name())?;
        }
        if !self.quarantine.is_empty() {
            writeln!(f, "\nin quarantine")?;
        }
        for error in &self.quarantine {
            writeln!(f, "  {error}")?;
        }
        if !self.complete && !self.trouble.is_empty() {
            writeln!(f, "\nthe cluster")?;
            self.trouble.iter().try_for_each(|trouble| writeln!(f, "  {}", printable(trouble)))?;
        }
        if let Some(pods) = &self.failed_pods {
            writeln!(f, "\npods\n  {pods}")?;
        }
        writeln!(f, "\ndataset  {}", printable(&self.dataset))?;
        match &self.report {
            Some(report) => writeln!(f, "report   {}", printable(report)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{CANDIDATES, Fixture, KEPT};

    #[tokio::test]
    async fn a_finished_run_is_complete() {
        let fixture = Fixture::finished().await;
        let status = status(&fixture.store, &fixture.plan).await.unwrap();
        assert!(status.complete, "{status}");
        let of = |stage| status.stages.iter().find(|figures| figures.stage == stage).unwrap();
        assert_eq!((of(Stage::Prompts).counts.output, of(Stage::Pairs).counts.expected), (4, CANDIDATES));
        assert_eq!((of(Stage::Filter).counts.output, of(Stage::Shards).partitions), (KEPT, Some(4)));
        // Two partitions of `pairs` with two chunks of 2.5 s each.
        assert_eq!(of(Stage::Pairs).seconds, 10.0);
        assert_eq!(status.report, None);
        let text = status.to_string();
        assert!(text.contains("pairs             2 of 2          12          11           0           1         10 s"), "{text}");
        assert!(text.contains("in quarantine\n  pairs: 1 x the image is not finite (for example "), "{text}");
    }

    #[tokio::test]
    async fn without_the_index_the_number_of_shards_is_unknown() {
        let fixture = Fixture::finished().await;
        fixture.store.delete(&fixture.plan.dir(Stage::Index).manifest(0)).await.unwrap();
        fixture.store.put(layout::REPORT, "<html>".into()).await.unwrap();
        let status = status(&fixture.store, &fixture.plan).await.unwrap();
        assert!(!status.complete);
        assert_eq!(status.stages.last().unwrap().partitions, None);
        assert_eq!(status.report.as_deref(), Some("memory:/report.html"));
    }
}
