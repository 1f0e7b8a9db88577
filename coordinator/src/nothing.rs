//! Why a complete run has no pair, and what would change that.

use crate::fetch;
use crate::figures::StageFigures;
use crate::prepare;
use crate::sample::Sample;
use crate::summary::reasons;
use crate::text::{count, printable, share};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{Counts, PartitionManifest, role};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::{IndexRow, RejectedCompletion, Scores, Verdict};
use ip2p_pipeline::spec::Filter;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::{Result, commit};
use std::cmp::Reverse;

/// Candidates from which the thresholds that would keep some are computed.
const SAMPLE: usize = 100_000;
/// Share of the candidates that the thresholds we tell let pass.
const PASSING: f64 = 0.05;
/// Characters of a completion that are told.
const LENGTH: usize = 120;

/// Says why there is no pair and what to do; `None` when there are pairs.
pub(crate) async fn explain(store: &Store, plan: &Plan, stages: &[StageFigures]) -> Result<Option<String>> {
    let counts = |stage| stages.iter().find(|figures| figures.stage == stage).map(|figures| figures.counts.clone()).unwrap_or_default();
    let (prompts, pairs) = (counts(Stage::Prompts), counts(Stage::Filter));
    match () {
        _ if prompts.output == 0 => no_triplet(store, plan, &prompts).await.map(Some),
        _ if pairs.output == 0 => no_pair(store, plan).await.map(Some),
        _ => Ok(None),
    }
}

async fn no_triplet(store: &Store, plan: &Plan, counts: &Counts) -> Result<String> {
    let causes: Vec<String> = reasons(counts).iter().map(|(reason, n)| format!("{} {reason}", count(*n))).collect();
    let mut text = format!("0 triplets of {} completions: {}.", count(counts.expected), causes.join(", "));
    if let Some(row) = example(store, plan).await? {
        let start: String = printable(&row.completion).chars().take(LENGTH).collect();
        text += &format!(" For example `{}` gave `{start}` ({}).", printable(&row.caption), row.reason);
    }
    Ok(text + " Look at stages.prompts and models.llm, or at the corpus with `backend: file`")
}

/// A completion that was turned away.
async fn example(store: &Store, plan: &Plan) -> Result<Option<RejectedCompletion>> {
    let manifests = prepare::manifests(store, plan.dir(Stage::Prompts)).await?;
    let Some(object) = manifests.iter().find_map(|manifest| manifest.objects(role::REJECTED).next()) else { return Ok(None) };
    let rows = RejectedCompletion::decode(&store.url_of(&object.key), commit::read_data(store, object).await?)?;
    Ok(rows.into_iter().next())
}

/// What one pass over the index collects of the candidates that were judged.
struct Judged {
    filter: Filter,
    total: u64,
    scored: u64,
    /// How many are below each threshold, whatever the others say.
    below: [u64; 3],
    sample: Sample<[f64; 3]>,
}

impl Judged {
    fn add(&mut self, row: IndexRow) {
        self.total += 1;
        let (Some(scores), Verdict::Rejected(_)) = (row.scores, row.verdict) else { return };
        self.scored += 1;
        let scores = against(&scores);
        for (n, (score, threshold)) in self.below.iter_mut().zip(scores.iter().zip(thresholds(&self.filter))) {
            *n += u64::from(*score < threshold);
        }
        self.sample.offer(row.pair, || scores);
    }
}

const NAMES: [&str; 3] = ["clip_text", "clip_direction", "clip_image"];

fn thresholds(filter: &Filter) -> [f64; 3] {
    [filter.clip_text, filter.clip_direction, filter.clip_image]
}

/// What each threshold is compared with.
fn against(scores: &Scores) -> [f64; 3] {
    [scores.clip_sim_0.min(scores.clip_sim_1), scores.clip_sim_dir, scores.clip_sim_image]
}

async fn no_pair(store: &Store, plan: &Plan) -> Result<String> {
    let manifest: Option<PartitionManifest> = commit::read(store, &plan.dir(Stage::Index).manifest(0)).await?;
    let filter = plan.spec.stages.filter.clone();
    let mut judged = Judged { filter: filter.clone(), total: 0, scored: 0, below: [0; 3], sample: Sample::of(SAMPLE) };
    if let Some(index) = manifest.as_ref().and_then(|manifest| manifest.objects(role::INDEX).next()) {
        judged = fetch::visit_index(store, index, judged, Judged::add).await?;
    }
    let of = format!("0 of {} candidates kept", count(judged.total));
    if judged.scored == 0 {
        return Ok(format!("{of}: all are in quarantine"));
    }
    let mut below: Vec<(u64, String)> =
        judged.below.into_iter().zip(NAMES.iter().zip(thresholds(&filter))).map(|(n, (name, t))| (n, format!("{name} {t}"))).collect();
    below.retain(|(n, _)| *n > 0);
    below.sort_by_key(|(n, _)| Reverse(*n));
    let below: Vec<String> = below.into_iter().map(|(n, name)| format!("{} fail {name}", count(n))).collect();
    let scores: Vec<[f64; 3]> = judged.sample.into_entries().collect();
    let (looser, passing) = loosened(thresholds(&filter), &scores);
    let changed = NAMES.iter().zip(looser.iter().zip(thresholds(&filter))).filter(|(_, (new, old))| *new < old);
    let changes: Vec<String> = changed.map(|(name, (new, _))| format!("stages.filter.{name}={new}")).collect();
    let about = share(passing as u64, scores.len() as u64);
    Ok(format!(
        "{of}: {}. The best {about} would pass with {}; a run with `--set` of that selects again from the stored scores",
        below.join(", "),
        changes.join(" and ")
    ))
}

/// Thresholds, none above `strict`, that the best of the candidates pass, and how many pass them. The best are those
/// that fail the fewest thresholds by the least.
fn loosened(strict: [f64; 3], scores: &[[f64; 3]]) -> ([f64; 3], usize) {
    let lacks = |scores: &[f64; 3]| {
        let lacks: Vec<f64> = scores.iter().zip(strict).map(|(score, threshold)| (threshold - score).max(0.0)).collect();
        (lacks.iter().filter(|lack| **lack > 0.0).count(), lacks.iter().sum::<f64>())
    };
    let mut ranked: Vec<(usize, f64, &[f64; 3])> = scores.iter().map(|s| (lacks(s), s)).map(|((n, sum), s)| (n, sum, s)).collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let best = (PASSING * scores.len() as f64).ceil() as usize;
    let mut looser = strict;
    for (_, _, scores) in ranked.into_iter().take(best) {
        for (threshold, score) in looser.iter_mut().zip(scores) {
            if *score < *threshold {
                // Two decimals, rounded so that the score still passes.
                *threshold = ((score * 100.0).floor() / 100.0).max(-1.0);
            }
        }
    }
    let passing = scores.iter().filter(|scores| scores.iter().zip(looser).all(|(score, threshold)| *score >= threshold)).count();
    (looser, passing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures;
    use crate::fixture::{CANDIDATES, Fixture};
    use ip2p_pipeline::records::RejectReason;

    /// The fixture's run as if its first samples had failed too.
    async fn nothing_kept() -> Fixture {
        let fixture = Fixture::finished().await;
        fixture
            .damage_rows::<IndexRow>(Stage::Index, 0, role::INDEX, |rows| {
                for row in rows.iter_mut().filter(|row| row.verdict == Verdict::Kept) {
                    row.verdict = Verdict::Rejected(RejectReason::DirectionSimilarity);
                    row.scores.as_mut().unwrap().clip_sim_dir = 0.157;
                }
            })
            .await;
        fixture
    }

    #[tokio::test]
    async fn it_names_the_threshold_that_rejects_most_and_one_that_keeps_some() {
        let fixture = nothing_kept().await;
        let text = no_pair(&fixture.store, &fixture.plan).await.unwrap();
        // 8 of 12 fail in direction, 3 in image similarity, one is in quarantine; of the 8, the best have 0.157.
        let expected = format!(
            "0 of {CANDIDATES} candidates kept: 8 fail clip_direction 0.2, 3 fail clip_image 0.7. The best 36% would pass with \
             stages.filter.clip_direction=0.15"
        );
        assert!(text.starts_with(&expected), "{text}");
    }

    #[tokio::test]
    async fn a_run_with_pairs_has_nothing_to_explain_and_one_without_triplets_shows_a_completion() {
        let fixture = Fixture::finished().await;
        let mut stages = figures::of_store(&fixture.store, &fixture.plan).await.unwrap();
        assert_eq!(explain(&fixture.store, &fixture.plan, &stages).await.unwrap(), None);
        stages[0].counts = Counts { expected: 5, rejected: [("no_delimiter".to_string(), 5)].into(), ..Counts::default() };
        let text = explain(&fixture.store, &fixture.plan, &stages).await.unwrap().unwrap();
        assert!(text.starts_with("0 triplets of 5 completions: 5 no_delimiter. For example `a red circle, number 1` gave `?`"), "{text}");
    }

    #[test]
    fn what_it_advises_lets_the_promised_share_pass() {
        let strict = [0.2, 0.9, 0.6];
        let spread: Vec<[f64; 3]> = (0..100).map(|n| [0.3, f64::from(n) / 128.0, 0.7]).collect();
        assert_eq!(loosened(strict, &spread), ([0.2, 0.74, 0.6], 5));
        // Where no single threshold is to blame, each is lowered as far as the best need it.
        let (looser, passing) = loosened(strict, &[[0.1, 0.4, 0.5], [-0.1, 0.1, 0.1]]);
        assert!(passing == 1 && looser.iter().zip(strict).all(|(new, old)| *new < old), "{looser:?}");
        assert_eq!(loosened([1.0; 3], &[[-1.1; 3]]).0, [-1.0; 3]);
    }
}
