//! The original's data set to the byte: partitions, splits, the folder of each prompt, the list of seeds.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use ip2p_pipeline::formats::{Sample, original};
use ip2p_pipeline::python_json;
use ip2p_pipeline::records::{Candidate, IndexRow, Scores, Triplet, Verdict};
use ip2p_pipeline::shard_plan::{even_ranges, split_ranges};
use ip2p_pipeline::spec::Split;
use serde::Deserialize;
use serde_json::Value;

use super::place::{case, file};
use super::support::json;

#[test]
fn golden_partitions() {
    #[derive(Deserialize)]
    struct Case {
        n: u32,
        n_partitions: u32,
        ranges: Vec<[u32; 2]>,
    }
    let Some(file) = file("selection", "partitions.json") else { return };
    let cases: Vec<Case> = json(&file);
    assert!(!cases.is_empty());
    for case in cases {
        let found: Vec<[u32; 2]> = even_ranges(case.n, case.n_partitions).map(|range| [range.start, range.end]).collect();
        assert_eq!(found, case.ranges, "{} in {}", case.n, case.n_partitions);
    }
}

#[derive(Deserialize)]
struct Splits {
    default_splits: [f64; 3],
    cases: Vec<SplitCase>,
    assertion_sum_is_exactly_one: Vec<Sum>,
}

#[derive(Deserialize)]
struct SplitCase {
    n: u32,
    train: Option<[u32; 2]>,
    val: Option<[u32; 2]>,
    test: Option<[u32; 2]>,
}

#[derive(Deserialize)]
struct Sum {
    splits: [f64; 3],
    accepted: bool,
}

fn split([train, val, test]: [f64; 3]) -> Split {
    Split { train, val, test }
}

#[test]
fn golden_splits() {
    let Some(file) = file("selection", "splits.json") else { return };
    let golden: Splits = json(&file);
    assert_eq!(original::loader::DEFAULT_SPLITS, split(golden.default_splits));
    assert!(!golden.cases.is_empty() && !golden.assertion_sum_is_exactly_one.is_empty());
    for case in &golden.cases {
        let found =
            split_ranges(case.n, &split(golden.default_splits)).map(|range| (!range.is_empty()).then_some([range.start, range.end]));
        assert_eq!(found, [case.train, case.val, case.test], "n = {}", case.n);
    }
    for Sum { splits, accepted } in golden.assertion_sum_is_exactly_one {
        let given = split(splits);
        assert_eq!(original::loader::accepts(&given), accepted, "{splits:?}");
        // What we say instead is accepted and cuts at the same places.
        let said = original::loader::accepted(&given);
        assert!(original::loader::accepts(&said), "{splits:?}: {said:?}");
        for case in &golden.cases {
            assert_eq!(split_ranges(case.n, &said), split_ranges(case.n, &given), "{splits:?}, n = {}", case.n);
        }
    }
}

#[test]
fn golden_seeds_json() {
    #[derive(Deserialize)]
    struct Golden {
        files: Vec<String>,
        seeds_json_text: String,
    }
    let Some(file) = file("selection", "seeds.json") else { return };
    let golden: Golden = json(&file);
    let mut folders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in &golden.files {
        let [folder, name] = file.split('/').collect::<Vec<_>>()[..] else { continue };
        let seeds = folders.entry(folder.to_string()).or_default();
        if name.ends_with("_0.jpg") {
            seeds.push(name.split('_').next().unwrap().to_string());
        }
    }
    assert_eq!(original::seeds_json(folders.into_iter()), golden.seeds_json_text);
}

/// The folders that the original wrote, from their own facts and images, byte for byte but for the added key `input`.
#[test]
fn golden_dataset() {
    let Some(root) = case("pipeline/dataset") else { return };
    let mut names: Vec<String> = std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut listed = Vec::new();
    for name in names.into_iter().filter(|name| root.join(name).is_dir()) {
        // A prompt without pairs has no metadata.
        if !root.join(&name).join("metadata.jsonl").is_file() {
            continue;
        }
        let seeds = check_folder(&root, &name);
        listed.push((name, seeds));
    }
    assert!(!listed.is_empty(), "no folder with pairs in {}", root.display());
    assert_eq!(original::seeds_json(listed.into_iter()), std::fs::read_to_string(root.join("seeds.json")).unwrap());
}

/// Returns the folder's seeds.
fn check_folder(root: &Path, name: &str) -> Vec<String> {
    let path = |file: &str| root.join(name).join(file);
    let read = |file: &str| std::fs::read_to_string(path(file)).unwrap();
    let (prompt, metadata) = (read("prompt.json"), read("metadata.jsonl"));
    let facts: Value = serde_json::from_str(&prompt).unwrap();
    let mut samples: Vec<Sample> = metadata.lines().map(|line| sample(root, name, &facts, line)).collect();
    samples.reverse();
    let mut files: BTreeMap<String, Bytes> = original::folder(name, &samples).unwrap().into_iter().collect();
    let mut take = |file: &str| files.remove(&format!("original/{name}/{file}")).unwrap_or_else(|| panic!("no {name}/{file}"));

    assert_eq!(take("metadata.jsonl"), metadata, "{name}");
    let input = format!("\"input\": {}, ", python_json::to_string(&facts["caption"]).unwrap());
    let mut ours = String::from_utf8(take("prompt.json").to_vec()).unwrap().replace(&input, "");
    if facts.get("url").is_none() {
        ours = ours.replace(", \"url\": \"\"", "");
    }
    assert_eq!(ours, prompt, "{name}");
    let seeds: Vec<String> =
        metadata.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seed"].as_u64().unwrap().to_string()).collect();
    for image in seeds.iter().flat_map(|seed| [0, 1].map(|half| format!("{seed}_{half}.jpg"))) {
        assert_eq!(take(&image), std::fs::read(path(&image)).unwrap(), "{name}/{image}");
    }
    assert!(files.is_empty(), "{name}: {:?} more", files.keys());
    seeds
}

/// The pair behind a line of a folder's `metadata.jsonl`.
fn sample(root: &Path, name: &str, prompt: &Value, line: &str) -> Sample {
    let text = |key: &str| prompt[key].as_str().unwrap_or_default().to_string();
    let triplet = Triplet::new(text("caption"), text("edit"), text("output"), Some(text("url")));
    let facts: Value = serde_json::from_str(line).unwrap();
    let float = |key: &str| facts[key].as_f64().unwrap();
    let seed = facts["seed"].as_u64().unwrap();
    let candidate =
        Candidate { triplet: triplet.id, sample: 0, seed, p2p_threshold: float("p2p_threshold"), cfg_scale: float("cfg_scale") };
    let scores: Scores = serde_json::from_value(facts).unwrap();
    let row = IndexRow {
        pair: candidate.pair_id(),
        caption: triplet.caption,
        edit: triplet.edit,
        output: triplet.output,
        url: triplet.url,
        candidate,
        scores: Some(scores),
        verdict: Verdict::Kept,
        images: None,
    };
    let images = [0, 1].map(|half| Bytes::from(std::fs::read(root.join(name).join(format!("{seed}_{half}.jpg"))).unwrap()));
    Sample::new(0, row, images).unwrap()
}
