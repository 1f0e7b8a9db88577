//! The directory layout of timothybrooks/instruct-pix2pix: `original/seeds.json` and a folder per triplet with
//! `prompt.json`, `metadata.jsonl`, and `{seed}_0` and `{seed}_1` as images.

pub mod loader;

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
pub fn seeds_json(folders: impl Iterator<Item = (String, Vec<String>)>) -> String {
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
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn a_folder_has_its_two_texts_and_two_images_a_pair_best_first() {
        let files = folder("0000007", &[sample(1), sample(2)]).unwrap();
        let names: Vec<&str> = files.iter().map(|(path, _)| path.strip_prefix("original/0000007/").unwrap()).collect();
        assert_eq!(names, ["prompt.json", "metadata.jsonl", "1002_0.jpg", "1002_1.jpg", "1001_0.jpg", "1001_1.jpg"]);
        assert!(folder("0000007", &[]).unwrap().is_empty());
    }

    #[test]
    fn folders_without_pairs_are_not_listed() {
        let seeds = |seeds: &[&str]| seeds.iter().map(|seed| seed.to_string()).collect::<Vec<_>>();
        let folders = [("0000002", seeds(&["7"])), ("0000001", seeds(&[])), ("0000000", seeds(&["100", "1000"]))];
        let text = seeds_json(folders.into_iter().map(|(name, seeds)| (name.to_string(), seeds)));
        assert_eq!(text, r#"[["0000000", ["1000", "100"]], ["0000002", ["7"]]]"#);
    }
}
