//! What a run writes last (card, figures, report, summary), and what else lies in the dataset's folder.

use super::inspect::{Inspector, damage_in};
use crate::figures::{StageFigures, WASTED_FIGURE};
use crate::summary::Summary;
use ip2p_pipeline::formats::card::{README_PATH, STATS_PATH};
use ip2p_pipeline::layout::{self, Stage};
use ip2p_pipeline::manifest::DataObject;
use ip2p_pipeline::{Result, commit, corpus};
use std::collections::BTreeSet;
use std::time::Duration;

/// Sums in another order differ in their last digits.
const ROUNDING: f64 = 1e-9;

/// Checks a dataset whose shards are all committed; `unnamed` are the files that none of their manifests names.
pub(super) async fn check(all: &mut Inspector<'_>, mut unnamed: BTreeSet<String>) -> Result<()> {
    let dir = all.plan.dir(Stage::Shards);
    let card = [README_PATH, STATS_PATH].map(|path| dir.dataset(path));
    let there = card.iter().filter(|key| unnamed.remove(*key)).cloned().collect();
    for key in unnamed {
        let problem = "no manifest names it, and readers take every file of a folder for data".to_string();
        let advice = "move it out of the dataset's folder, or delete it".to_string();
        all.advise(Some(Stage::Shards), None, Some(&key), problem, advice);
    }
    for key in all.store.staged(&dir.dataset_root())? {
        let problem = "a writer that was killed has left it half-written, and readers take every file of a folder for data".to_string();
        all.advise(Some(Stage::Shards), None, Some(&key), problem, "run again: it is removed".to_string());
    }
    let summary = summary(all).await?;
    let described = summary.map(|summary| summary.files).unwrap_or_default();
    files(all, &card, &there, &described).await
}

/// The summary, if it is this plan's and sound.
async fn summary(all: &mut Inspector<'_>) -> Result<Option<Summary>> {
    let read = commit::read::<Summary>(all.store, layout::SUMMARY).await;
    let problem = match damage_in(read)? {
        Err(problem) => problem,
        Ok(None) => "it is missing: it was lost, or the run has not come to its end".to_string(),
        Ok(Some(summary)) if summary.plan != all.plan.fingerprint() => {
            // A run of another plan has ended since.
            match all.store.get(&layout::plan(summary.plan)).await? {
                Some(_) => return Ok(None),
                None => format!("it is of the plan {}, which this run never had", summary.plan.short()),
            }
        }
        Ok(Some(summary)) => match difference(all, &summary).await? {
            None => return Ok(Some(summary)),
            Some(difference) => difference,
        },
    };
    all.advise(None, None, Some(layout::SUMMARY), problem, anew());
    Ok(None)
}

/// The dataset's card and figures, and the report of a run whose summary describes it.
async fn files(all: &mut Inspector<'_>, card: &[String], there: &BTreeSet<String>, described: &[DataObject]) -> Result<()> {
    for object in described {
        let read = all.read(object).await;
        if let Err(problem) = damage_in(read)? {
            all.advise(None, None, Some(&object.key), problem, anew());
        }
    }
    for key in card.iter().filter(|key| !there.contains(*key) && described.iter().all(|object| object.key != **key)) {
        all.advise(None, None, Some(key), "it is missing: it was lost, or the run has not come to its end".to_string(), anew());
    }
    Ok(())
}

/// All of it follows from what is committed.
fn anew() -> String {
    "delete it, if it is there, and run again: it is written anew from what is committed".to_string()
}

/// Where the summary differs from the manifests.
async fn difference(all: &Inspector<'_>, found: &Summary) -> Result<Option<String>> {
    // Sums over damaged partitions would only repeat what is already reported.
    if !all.findings.is_empty() {
        return Ok(None);
    }
    let Some(corpus) = corpus::load(all.store, &all.plan.corpus_dir).await? else { return Ok(None) };
    let sums = Stage::RUN.map(|stage| all.sums.get(&stage).cloned().unwrap_or_else(|| StageFigures::none(stage)));
    let stages = sums.map(|sums| StageFigures { partitions: Some(sums.committed), ..sums }).to_vec();
    let expected = Summary::new(all.plan, &corpus, stages, true, Duration::ZERO, all.store);
    let same_input = (found.rows, found.captions, &found.skipped) == (expected.rows, expected.captions, &expected.skipped);
    Ok(if !found.complete {
        Some("it says that the run is not complete".to_string())
    } else if !same_input {
        Some("its numbers of rows and captions are not those of the corpus".to_string())
    } else if found.splits != expected.splits {
        Some("its splits are not those of the index".to_string())
    } else if found.stages.len() != expected.stages.len() {
        Some(format!("it has figures of {} stages", found.stages.len()))
    } else {
        found.stages.iter().zip(&expected.stages).find(|(found, expected)| !same(found, expected)).map(|(found, expected)| {
            let (says, sums) = (told(found), told(expected));
            format!("its figures of {} are not the sums of the manifests: {says} instead of {sums}", expected.stage)
        })
    })
}

fn told(figures: &StageFigures) -> String {
    let StageFigures { committed, counts, figures, seconds, .. } = figures;
    format!("{committed} partitions, {counts:?}, {figures:?}, {seconds} s")
}

/// Work for nothing is known to the coordinator alone.
fn same(found: &StageFigures, expected: &StageFigures) -> bool {
    let close = |a: f64, b: f64| (a - b).abs() <= ROUNDING * a.abs().max(b.abs());
    let mut figures = found.figures.clone();
    figures.remove(WASTED_FIGURE);
    (found.stage, found.committed, found.partitions, &found.counts)
        == (expected.stage, expected.committed, expected.partitions, &expected.counts)
        && close(found.seconds, expected.seconds)
        && figures.len() == expected.figures.len()
        && figures.iter().zip(&expected.figures).all(|((a, x), (b, y))| a == b && close(*x, *y))
}
