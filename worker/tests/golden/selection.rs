//! Exact rules about pairs: what the filter keeps, steps with Prompt-to-Prompt, sizes of edited pictures.

use ip2p_pipeline::ids::TripletId;
use ip2p_pipeline::records::{Candidate, ScoredCandidate, Scores, Verdict};
use ip2p_pipeline::selection::judge;
use ip2p_pipeline::spec::Filter;
use ip2p_worker::diffusion::{edit, p2p};
use serde::Deserialize;

use super::place::file;
use super::support::json;

#[derive(Deserialize)]
struct FilterCase {
    name: String,
    clip_threshold: f64,
    clip_dir_threshold: f64,
    clip_img_threshold: f64,
    max_out_samples: u32,
    results: Vec<Row>,
    passing_ranked: Vec<u64>,
    kept: Vec<u64>,
}

#[derive(Deserialize)]
struct Row {
    seed: u64,
    #[serde(flatten)]
    scores: Scores,
}

#[test]
fn golden_filter() {
    let Some(file) = file("selection", "filter.json") else { return };
    let cases: Vec<FilterCase> = json(&file);
    assert!(!cases.is_empty());
    for case in cases {
        assert_eq!(kept(&case, u32::MAX), case.passing_ranked, "case {}", case.name);
        assert_eq!(kept(&case, case.max_out_samples), case.kept, "case {}", case.name);
    }
}

/// Seeds of the pairs that the filter keeps when it may keep `most`, best first.
fn kept(case: &FilterCase, most: u32) -> Vec<u64> {
    let filter =
        Filter { clip_text: case.clip_threshold, clip_direction: case.clip_dir_threshold, clip_image: case.clip_img_threshold, keep: most };
    let candidate = |row: &Row| {
        let candidate = Candidate { triplet: TripletId::of("", "", ""), sample: 0, seed: row.seed, p2p_threshold: 0.5, cfg_scale: 7.5 };
        ScoredCandidate { candidate, scores: Some(row.scores), error: None, images: None }
    };
    let candidates: Vec<ScoredCandidate> = case.results.iter().map(candidate).collect();
    let verdicts = judge(&candidates, &filter);
    let mut kept: Vec<&Row> = case.results.iter().zip(verdicts).filter(|(_, v)| *v == Verdict::Kept).map(|(row, _)| row).collect();
    kept.sort_by(|a, b| b.scores.clip_sim_dir.total_cmp(&a.scores.clip_sim_dir).then(b.seed.cmp(&a.seed)));
    kept.iter().map(|row| row.seed).collect()
}

#[test]
fn golden_p2p_steps() {
    #[derive(Deserialize)]
    struct File {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        steps: usize,
        threshold: f64,
        on_steps: usize,
    }
    let Some(path) = file("selection", "p2p_steps.json") else { return };
    let cases = json::<File>(&path).cases;
    assert!(!cases.is_empty());
    for Case { steps, threshold, on_steps } in cases {
        let on = (0..steps).filter(|&step| p2p::shares(threshold, step, steps)).count();
        assert_eq!(on, on_steps, "threshold {threshold}, {steps} steps");
    }
}

#[test]
fn golden_edit_sizes() {
    #[derive(Deserialize)]
    struct Case {
        width: u32,
        height: u32,
        resolution: u32,
        out_width: u32,
        out_height: u32,
    }
    let Some(file) = file("selection", "edit_sizes.json") else { return };
    let cases: Vec<Case> = json(&file);
    assert!(!cases.is_empty());
    for Case { width, height, resolution, out_width, out_height } in cases {
        assert_eq!(edit::size(width, height, resolution), (out_width, out_height), "{width}x{height} at {resolution}");
    }
}
