//! The `local` backend with real models: the bundled tiny one, and SmolLM2-135M-Instruct as GGUF when
//! `IP2P_SMOLLM2` names its file (`tests/llm/run.sh` does).

use futures::StreamExt;
use ip2p_pipeline::records::CorpusRecord;
use ip2p_pipeline::spec::Spec;
use ip2p_worker::device::Device;
use ip2p_worker::loaded::Models;
use ip2p_worker::prompts::{BackendError, CaptionOutcome, Generator, LocalBackend, Usage};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// A spec whose language model is at `llm`; the other models are named, but no test here loads them.
fn spec(llm: &Path, prompts: &str) -> Spec {
    let folder = tempfile::tempdir().unwrap();
    let captions = repository().join("tests/llm/captions.jsonl");
    let text = format!(
        "version: 1\nname: local\nstore: file://{store}\ncorpus: {{ path: {captions} }}\n\
         models: {{ diffusion: {llm}, clip: {llm}, llm: {llm} }}\n\
         stages: {{ prompts: {{ backend: local, {prompts} }} }}\nrun: {{ device: cpu }}\n",
        store = folder.path().display(),
        captions = captions.display(),
        llm = llm.display(),
    );
    let path = folder.path().join("pipeline.yaml");
    std::fs::write(&path, text).unwrap();
    Spec::load(&path, &[]).unwrap()
}

async fn generator(spec: Spec) -> Generator {
    let device = Device::start(Models::prepare(&spec).await.unwrap()).unwrap();
    let backend = LocalBackend::new(device, &spec.stages.prompts);
    Generator::new(spec.stages.prompts, spec.seed, Arc::new(backend))
}

fn captions(file: &str, count: usize) -> Vec<CorpusRecord> {
    #[derive(Deserialize)]
    struct Row {
        caption: String,
    }
    let text = std::fs::read_to_string(repository().join(file)).unwrap();
    let rows = text.lines().take(count).map(|line| serde_json::from_str::<Row>(line).unwrap());
    rows.map(|row| CorpusRecord { caption: row.caption, url: None, edit: None }).collect()
}

async fn outcomes(generator: &Generator, records: &[CorpusRecord]) -> Vec<CaptionOutcome> {
    let outcomes: Vec<CaptionOutcome> = generator.outcomes(records).map(Result::unwrap).collect().await;
    assert!(outcomes.iter().all(|outcome| outcome.counts().balanced() && outcome.quarantined.is_none()));
    outcomes
}

fn total(outcomes: &[CaptionOutcome]) -> (usize, Usage) {
    let mut usage = Usage::default();
    outcomes.iter().for_each(|outcome| usage.add(&outcome.usage));
    (outcomes.iter().map(|outcome| outcome.triplets.len()).sum(), usage)
}

#[tokio::test]
async fn the_bundled_model_writes_triplets_and_repeats_itself() {
    let llm = repository().join("models/tiny/llm");
    let records = captions("models/tiny/captions.jsonl", 40);
    // One attempt each: what counts is how often the first completion passes.
    let first = outcomes(&generator(spec(&llm, "attempts: 1, max_tokens: 64")).await, &records).await;
    let (triplets, usage) = total(&first);
    assert!(triplets * 100 >= records.len() * 95, "{triplets} of {}: {:?}", records.len(), first);
    assert!(usage.requests == 40 && usage.prompt_tokens > 40 && usage.completion_tokens > 40);
    // Another process, the records in another order: the same words.
    let reversed: Vec<CorpusRecord> = records.iter().rev().cloned().collect();
    let mut second = outcomes(&generator(spec(&llm, "attempts: 1, max_tokens: 64")).await, &reversed).await;
    second.reverse();
    assert_eq!(first, second);
}

#[tokio::test]
async fn an_instruction_model_answers_in_json() {
    let Ok(llm) = std::env::var("IP2P_SMOLLM2") else {
        return eprintln!("skipped: an_instruction_model_answers_in_json (IP2P_SMOLLM2 is not set; tests/llm/run.sh sets it)");
    };
    let records = captions("tests/llm/captions.jsonl", 4);
    let outcomes = outcomes(&generator(spec(Path::new(&llm), "attempts: 1, max_tokens: 64")).await, &records).await;
    let (triplets, usage) = total(&outcomes);
    eprintln!("SmolLM2 in candle: {} captions, {triplets} triplets, {usage:?}", records.len());
    outcomes.iter().flat_map(|o| &o.triplets).for_each(|t| eprintln!("  {:?} -> {:?} -> {:?}", t.caption, t.edit, t.output));
    outcomes.iter().flat_map(|o| &o.rejected).for_each(|r| eprintln!("  {:?} {}: {:?}", r.caption, r.reason, r.completion));
    // It often repeats the caption, but it cannot miss the form.
    assert!(triplets > 0 && outcomes.iter().flat_map(|o| &o.rejected).all(|r| r.reason != "unparsable"));
    assert!(usage.requests == 4 && usage.prompt_tokens >= 400 && usage.completion_tokens >= 20);
}

#[tokio::test]
async fn a_caption_beyond_the_context_is_quarantined() {
    let generator = generator(spec(&repository().join("models/tiny/llm"), "attempts: 1")).await;
    let long = CorpusRecord { caption: "a red circle ".repeat(2000), url: None, edit: None };
    let outcome = generator.outcome(&long).await.unwrap();
    assert!(outcome.quarantined.as_ref().is_some_and(|error| error.contains("tokens")), "{outcome:?}");
    assert_eq!(outcome.counts().quarantined, 1);
}

#[tokio::test]
async fn a_folder_without_a_model_stops_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let error = generator(spec(folder.path(), "attempts: 1")).await.outcome(&captions("tests/llm/captions.jsonl", 1)[0]).await.unwrap_err();
    assert!(matches!(&error, BackendError::Misconfigured(m) if m.contains("no language model")), "{error:?}");
}
