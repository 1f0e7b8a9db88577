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
