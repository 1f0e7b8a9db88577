//! Objects that are damaged in the store are made again, byte for byte, or named.

use ip2p_pipeline::layout::StageDir;
use ip2p_tests::chat_server::ChatServer;
use ip2p_tests::{Pipeline, small_pipeline};
use std::collections::BTreeMap;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Every data object and every file of the dataset.
fn data(pipeline: &Pipeline) -> BTreeMap<String, Vec<u8>> {
    let keys = pipeline.objects().into_iter().filter(|key| StageDir::maker_of(key).is_some() || key.contains("/dataset/"));
    keys.map(|key| (key.clone(), pipeline.object(&key))).collect()
}

/// Cuts, alters or removes one object of each kind; returns their keys.
fn damage(pipeline: &Pipeline, endings: &[&str]) -> Vec<String> {
    let path = |key: &str| pipeline.path().join("out/small").join(key);
    let damage = |(number, ending): (usize, &&str)| {
        let key = pipeline.objects().into_iter().find(|key| key.ends_with(*ending)).unwrap_or_else(|| panic!("no {ending}"));
        let mut bytes = pipeline.object(&key);
        match number % 3 {
            0 => std::fs::remove_file(path(&key)),
            1 => std::fs::write(path(&key), &bytes[..bytes.len() / 2]),
            _ => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(path(&key), bytes)
            }
        }
        .expect("damage");
        key
    };
    endings.iter().enumerate().map(damage).collect()
}

fn call(pipeline: &Pipeline, arguments: &[&str], overrides: &[&str]) -> (Option<i32>, String) {
    let overrides = overrides.iter().flat_map(|text| ["--set", text]);
    let output = pipeline.call(&arguments.iter().copied().chain(overrides).collect::<Vec<_>>());
    (output.status.code(), text(&output))
}

#[test]
fn every_kind_of_object_is_made_again() {
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.run_expecting(0, &[]);
    let before = data(&pipeline);
    let kinds = ["triplets.parquet", "candidates.parquet", "images.tar", "selection.parquet", "index.parquet", "kept.parquet", ".tar"];
    let damaged = damage(&pipeline, &kinds);
    let (code, said) = call(&pipeline, &["audit", "pipeline.yaml"], &[]);
    assert_ne!(code, Some(0));
    assert!(damaged.iter().all(|key| said.contains(key)) && said.contains("--repair"), "{said}");
    let (code, said) = call(&pipeline, &["run", "pipeline.yaml", "--repair"], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("partitions make damaged objects again: prompts 0"), "{said}");
    assert!(data(&pipeline) == before);
    pipeline.assert_sound(&[]);
    let (code, said) = call(&pipeline, &["run", "pipeline.yaml", "--repair"], &[]);
    assert!(code == Some(0) && said.contains("no object is damaged"), "{said}");
}

#[test]
fn a_damaged_object_that_a_run_needs_is_made_again_on_the_way() {
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.run_expecting(0, &[]);
    // Other thresholds judge the candidates anew, and new shards need the images.
    let stricter = ["stages.filter.keep=1"];
    let before = data(&pipeline);
    damage(&pipeline, &["candidates.parquet", "triplets.parquet", "images.tar"]);
    let said = text(&pipeline.run_expecting(0, &stricter));
    assert!(said.contains("is damaged") && said.contains("It is made again by pairs partition 0"), "{said}");
    let after = data(&pipeline);
    assert!(before.iter().all(|(key, bytes)| after.get(key) == Some(bytes)));
    pipeline.assert_sound(&stricter);
}

#[test]
fn what_a_server_made_cannot_be_made_again_and_is_named() {
    let asked = Arc::new(AtomicU32::new(0));
    let server = ChatServer::start(move |_: &str| {
        let colour = ["blue", "green", "yellow"][asked.fetch_add(1, Ordering::SeqCst) as usize % 3];
        (200, format!(r#"{{"edit": "make it {colour}", "output": "a large {colour} circle on a white background"}}"#))
    });
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.write("captions.jsonl", "{\"caption\": \"a large red circle on a white background\"}\n");
    let openai = format!("  prompts: {{ backend: openai, openai: {{ base_url: \"{}\", model: m, api: chat, retries: 0 }} }}", server.url());
    pipeline.write("pipeline.yaml", &small_pipeline().replace("  prompts: { backend: local }", &openai));
    pipeline.run_expecting(0, &[]);
    let damaged = damage(&pipeline, &["triplets.parquet"]).remove(0);
    let before = data(&pipeline);
    let (code, said) = call(&pipeline, &["run", "pipeline.yaml", "--repair"], &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&damaged) && said.contains("cannot be made again") && said.contains("`audit`"), "{said}");
    assert!(data(&pipeline) == before, "nothing else was touched");
}

/// Follows what `audit` says of everything that a person reads, and of what does not belong beside it.
#[test]
fn what_a_run_writes_at_its_end_is_written_anew() {
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.run_expecting(0, &[]);
    pipeline.assert_sound(&[]);
    let (before, files) = (data(&pipeline), pipeline.dataset_folder().join("webdataset"));
    let named = |key: &str, advice: &str| {
        let (code, said) = call(&pipeline, &["audit", "pipeline.yaml"], &[]);
        assert!(code == Some(2) && said.contains(key) && said.contains(advice) && said.contains("1 problem found"), "{key}: {said}");
    };
    for (ending, lost) in
        [("README.md", false), ("stats.json", true), ("report.html", false), ("summary.json", true), ("summary.json", false)]
    {
        let key = pipeline.objects().into_iter().find(|key| key.ends_with(ending)).expect("it was written");
        let (path, bytes) = (pipeline.path().join("out/small").join(&key), pipeline.object(&key));
        if lost { std::fs::remove_file(&path) } else { std::fs::write(&path, &bytes[..bytes.len() / 2]) }.expect("damage");
        named(&key, "delete it, if it is there, and run again");
        // It may be gone already.
        let _ = std::fs::remove_file(&path);
        pipeline.run_expecting(0, &[]);
        pipeline.assert_sound(&[]);
    }
    let half = files.join("train-000000.tar#1");
    std::fs::write(&half, "half").expect("a file that a killed writer left");
    named("train-000000.tar#1", "run again: it is removed");
    pipeline.run_expecting(0, &[]);
    let copy = files.join("copy.tar");
    std::fs::copy(files.join("train-000000.tar"), &copy).expect("a copy");
    named("copy.tar", "move it out of the dataset's folder, or delete it");
    std::fs::remove_file(&copy).expect("the copy");
    pipeline.assert_sound(&[]);
    assert!(data(&pipeline) == before);
}

/// Chunk manifests are read while their partition is at work, and never after.
#[test]
fn a_lost_chunk_manifest_costs_its_records_at_most() {
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.run_expecting(0, &[]);
    let dataset = pipeline.dataset();
    let path = |key: &str| pipeline.path().join("out/small").join(key);
    let delete = |which: &dyn Fn(&str) -> bool| {
        let keys: Vec<String> = pipeline.objects().into_iter().filter(|key| which(key)).collect();
        keys.iter().for_each(|key| std::fs::remove_file(path(key)).expect("a file of the run"));
        keys
    };
    assert!(delete(&|key| key.starts_with("prompts/") && key.contains("/chunks/")).len() > 1);
    pipeline.assert_sound(&[]);
    let made_from_pairs = |key: &str| ["filter/", "index/", "shards/"].iter().any(|stage| key.starts_with(stage));
    delete(&|key| made_from_pairs(key) || (key.starts_with("pairs/") && key.ends_with("manifests/p00000000.json")));
    let lost = delete(&|key| key.starts_with("pairs/") && key.ends_with("chunks/p00000000-r00000000.json")).remove(0);
    let (code, said) = call(&pipeline, &["audit", "pipeline.yaml"], &[]);
    assert!(
        code == Some(2) && said.contains(&format!("object {lost}: it is missing")) && said.contains("run again: its records"),
        "{said}"
    );
    pipeline.run_expecting(0, &[]);
    pipeline.assert_sound(&[]);
    assert_eq!(pipeline.dataset(), dataset);
}
