//! The directory layout of timothybrooks/instruct-pix2pix: `original/seeds.json` and a folder per triplet with
//! `prompt.json`, `metadata.jsonl`, and `{seed}_0` and `{seed}_1` as images.

use super::Sample;
use crate::error::{Error, Result};
use crate::python_json;
use crate::selection::best_first;
use bytes::Bytes;
use serde::Serialize;

/// Where the list of seeds lies in the data set.
pub const SEEDS_PATH: &str = "original/seeds.json";

/// Keys as the generator reads (`caption`) and as the evaluation reads (`input`).
#[derive(Serialize)]
struct Prompt<'a> {
    caption: &'a str,
    input: &'a str,
    edit: &'a str,
    output: &'a str,
    url: &'a str,
}

/// A line of `metadata.jsonl`, keys in the original's order.
#[derive(Serialize)]
struct Metadata {
    seed: u64,
    p2p_threshold: f64,
    cfg_scale: f64,
    clip_sim_0: f64,
    clip_sim_1: f64,
    clip_sim_dir: f64,
    clip_sim_image: f64,
}

impl Metadata {
    fn of(Sample { row, scores, .. }: &Sample) -> Self {
        Metadata {
            seed: row.candidate.seed,
            p2p_threshold: row.candidate.p2p_threshold,
            cfg_scale: row.candidate.cfg_scale,
            clip_sim_0: scores.clip_sim_0,
            clip_sim_1: scores.clip_sim_1,
            clip_sim_dir: scores.clip_sim_dir,
            clip_sim_image: scores.clip_sim_image,
        }
    }
}

/// The files of one triplet's folder `name`, each with its path in the data set. `samples` are the triplet's
/// pairs in any order; their metadata is written best first, as the original does. No files without samples.
pub fn folder(name: &str, samples: &[Sample]) -> Result<Vec<(String, Bytes)>> {
    let Some(first) = samples.first() else { return Ok(Vec::new()) };
    let path = |file: &str| format!("original/{name}/{file}");
    let mut ranked: Vec<&Sample> = samples.iter().collect();
    let rank = |sample: &Sample| (sample.scores.clip_sim_dir, sample.row.candidate.seed);
    ranked.sort_by(|a, b| best_first(rank(a), rank(b)));

    let mut metadata = String::new();
    for sample in &ranked {
        metadata.push_str(&line(name, &Metadata::of(sample))?);
        metadata.push('\n');
    }
    let row = &first.row;
    let url = row.url.as_deref().unwrap_or_default();
    let prompt = line(name, &Prompt { caption: &row.caption, input: &row.caption, edit: &row.edit, output: &row.output, url })?;
    let mut files = vec![(path("prompt.json"), Bytes::from(prompt)), (path("metadata.jsonl"), Bytes::from(metadata))];
    for sample in ranked {
        for (which, (image, extension)) in sample.images.iter().zip(sample.extensions).enumerate() {
            files.push((path(&format!("{}_{which}.{extension}", sample.row.candidate.seed)), image.clone()));
        }
    }
    Ok(files)
}

fn line(folder: &str, value: &impl Serialize) -> Result<String> {
    python_json::to_string(value).map_err(|e| Error::format(format!("original/{folder}"), e))
}

/// The text of `seeds.json`: folders that have pairs, sorted by name, each with its seeds.
///
/// The original sorts the image files by name, so `1000` stands before `100`, because `0` sorts before the `_`
/// that follows the seed in the file's name.
pub(crate) fn seeds_json(folders: impl Iterator<Item = (String, Vec<String>)>) -> String {
    let mut folders: Vec<(String, Vec<String>)> = folders.filter(|(_, seeds)| !seeds.is_empty()).collect();
    folders.sort();
    let list = |(name, mut seeds): (String, Vec<String>)| {
        seeds.sort_by_cached_key(|seed| format!("{seed}_"));
        format!("[\"{name}\", [\"{}\"]]", seeds.join("\", \""))
    };
    format!("[{}]", folders.into_iter().map(list).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::tests::jpeg;
    use super::*;
    use crate::records::{Candidate, IndexRow, Scores, Triplet, Verdict};
    use serde_json::Value;
    use std::collections::BTreeMap;

    #[test]
    fn golden_seeds_json() {
        let golden: Value = serde_json::from_str(include_str!("../../../tests/golden/selection/seeds.json")).unwrap();
        let mut folders: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for file in golden["files"].as_array().unwrap() {
            let [folder, name] = file.as_str().unwrap().split('/').collect::<Vec<_>>()[..] else { continue };
            let seeds = folders.entry(folder.to_string()).or_default();
            if name.ends_with("_0.jpg") {
                seeds.push(name.split('_').next().unwrap().to_string());
            }
        }
        assert_eq!(seeds_json(folders.into_iter()), golden["seeds_json_text"].as_str().unwrap());
    }

    /// The samples behind a golden folder's prompt.json and metadata.jsonl.
    fn samples_of(prompt: &str, metadata: &str) -> Vec<Sample> {
        let prompt: Value = serde_json::from_str(prompt).unwrap();
        let text = |key: &str| prompt[key].as_str().unwrap().to_string();
        let triplet = Triplet::new(text("caption"), text("edit"), text("output"), Some(text("url")));
        let sample = |line: &str| {
            let facts: Value = serde_json::from_str(line).unwrap();
            let float = |key: &str| facts[key].as_f64().unwrap();
            let candidate = Candidate {
                triplet: triplet.id,
                sample: 0,
                seed: facts["seed"].as_u64().unwrap(),
                p2p_threshold: float("p2p_threshold"),
                cfg_scale: float("cfg_scale"),
            };
            let scores = Scores {
                clip_sim_0: float("clip_sim_0"),
                clip_sim_1: float("clip_sim_1"),
                clip_sim_dir: float("clip_sim_dir"),
                clip_sim_image: float("clip_sim_image"),
            };
            let row = IndexRow {
                pair: candidate.pair_id(),
                caption: triplet.caption.clone(),
                edit: triplet.edit.clone(),
                output: triplet.output.clone(),
                url: triplet.url.clone(),
                candidate,
                scores: Some(scores),
                verdict: Verdict::Kept,
                images: None,
            };
            Sample::new(0, row, [jpeg(1, 9), jpeg(2, 9)]).unwrap()
        };
        metadata.lines().map(sample).collect()
    }

    macro_rules! golden_folder {
        ($name:literal) => {
            (
                include_str!(concat!("../../../tests/golden/pipeline/dataset/", $name, "/prompt.json")),
                include_str!(concat!("../../../tests/golden/pipeline/dataset/", $name, "/metadata.jsonl")),
            )
        };
    }

    /// The folders that the original wrote, from their own facts, byte for byte but for the added key `input`.
    #[test]
    fn golden_dataset() {
        let mut listed = Vec::new();
        for (name, (prompt, metadata)) in
            [("0000000", golden_folder!("0000000")), ("0000001", golden_folder!("0000001")), ("0000002", golden_folder!("0000002"))]
        {
            let mut samples = samples_of(prompt, metadata);
            samples.reverse();
            let files: BTreeMap<String, Bytes> = folder(name, &samples).unwrap().into_iter().collect();
            let text = |file: &str| String::from_utf8(files[&format!("original/{name}/{file}")].to_vec()).unwrap();
            assert_eq!(text("metadata.jsonl"), metadata);
            let caption = samples[0].row.caption.clone();
            assert_eq!(text("prompt.json").replace(&format!("\"input\": \"{caption}\", "), ""), prompt);
            let images = samples.iter().flat_map(|s| [0, 1].map(|i| format!("original/{name}/{}_{i}.jpg", s.row.candidate.seed)));
            assert!(images.clone().all(|image| files.contains_key(&image)));
            assert_eq!(files.len(), 2 + images.count());
            listed.push((name.to_string(), samples.iter().map(|sample| sample.row.candidate.seed.to_string()).collect()));
        }
        assert_eq!(seeds_json(listed.into_iter()), include_str!("../../../tests/golden/pipeline/dataset/seeds.json"));
    }
}
