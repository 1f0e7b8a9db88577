//! The `openai` backend against a real server: llama.cpp with SmolLM2-135M-Instruct.
//!
//! `tests/llm/run.sh` starts it, sets `IP2P_LLM_URL` and `IP2P_LLM_KEY`, and runs these tests. A test whose
//! variables are not set says so and passes.
//! What the model writes is not judged here: it is small.

use futures::StreamExt;
use ip2p_pipeline::records::CorpusRecord;
use ip2p_pipeline::spec::{OpenAi, OpenAiApi, PromptBackend, Prompts};
use ip2p_worker::prompts::{BackendError, CaptionOutcome, Generator, OpenAiBackend, Usage};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The variable's value; without it the test named `test` is skipped.
fn variable(name: &str, test: &str) -> Option<String> {
    let value = std::env::var(name).ok();
    if value.is_none() {
        eprintln!("skipped: {test} ({name} is not set; tests/llm/run.sh sets it)");
    }
    value
}

fn prompts(backend: PromptBackend, attempts: u32) -> Prompts {
    Prompts { backend, per_caption: 1, temperature: 0.7, top_p: 1.0, max_tokens: 128, frequency_penalty: 0.1, attempts }
}

fn server(url: String, api: OpenAiApi, key: Option<String>, attempts: u32) -> Generator {
    let settings = OpenAi {
        base_url: url,
        model: "smollm2".to_string(),
        api,
        api_key_env: None,
        concurrency: 4,
        timeout: Duration::from_secs(300),
        retries: 2,
        moderation: None,
    };
    let prompts = prompts(PromptBackend::OpenAi(settings.clone()), attempts);
    let backend = OpenAiBackend::new(&prompts, &settings, key).unwrap();
    Generator::new(prompts, 1, Arc::new(backend))
}

fn captions() -> Vec<CorpusRecord> {
    #[derive(Deserialize)]
    struct Row {
        caption: String,
    }
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/llm/captions.jsonl")).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Row>(line).unwrap());
    rows.map(|row| CorpusRecord { caption: row.caption, url: None, edit: None }).collect()
}

async fn run(generator: &Generator, records: &[CorpusRecord]) -> Vec<CaptionOutcome> {
    generator.outcomes(records).map(Result::unwrap).collect().await
}

/// What became of the captions, printed with `--nocapture`.
fn summarise(what: &str, outcomes: &[CaptionOutcome]) -> (usize, BTreeMap<String, u64>, Usage) {
    let mut usage = Usage::default();
    let mut rejected = BTreeMap::new();
    for outcome in outcomes {
        assert!(outcome.counts().balanced());
        assert_eq!(outcome.quarantined, None);
        usage.add(&outcome.usage);
        outcome.rejected.iter().for_each(|r| *rejected.entry(r.reason.clone()).or_default() += 1);
    }
    let triplets: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.triplets).collect();
    eprintln!("{what}: {} captions, {} triplets, rejected {rejected:?}, {usage:?}", outcomes.len(), triplets.len());
    triplets.iter().take(5).for_each(|t| eprintln!("  {:?} -> {:?} -> {:?}", t.caption, t.edit, t.output));
    (triplets.len(), rejected, usage)
}

#[tokio::test]
async fn a_real_server_answers_in_the_schema() {
    let Some(url) = variable("IP2P_LLM_URL", "a_real_server_answers_in_the_schema") else { return };
    let records = captions();
    assert!(records.len() >= 40);
    let outcomes = run(&server(url, OpenAiApi::Chat, std::env::var("IP2P_LLM_KEY").ok(), 4), &records).await;
    let (triplets, rejected, usage) = summarise("chat with a JSON schema", &outcomes);
    let unreadable = rejected.get("unparsable").unwrap_or(&0) + rejected.get("no_completion").unwrap_or(&0);
    assert!(unreadable as usize * 20 <= records.len(), "{unreadable} of {} completions could not be read", records.len());
    assert!(triplets * 10 >= records.len() * 8, "only {triplets} triplets of {} captions", records.len());
    assert!(usage.requests >= records.len() as u64 && usage.retries == 0);
    assert!(usage.prompt_tokens >= 100 * usage.requests && usage.completion_tokens >= 5 * usage.requests);
}

/// The model was not fine-tuned on the delimiters, so all that counts is that every completion is accounted for.
#[tokio::test]
async fn a_real_server_completes_text() {
    let Some(url) = variable("IP2P_LLM_URL", "a_real_server_completes_text") else { return };
    let records = captions();
    let outcomes = run(&server(url, OpenAiApi::Completions, std::env::var("IP2P_LLM_KEY").ok(), 1), &records[..4]).await;
    let (triplets, rejected, usage) = summarise("completions", &outcomes);
    assert_eq!(triplets as u64 + rejected.values().sum::<u64>(), 4);
    assert!(usage.requests == 4 && usage.completion_tokens > 0);
}

#[tokio::test]
async fn a_real_server_refuses_a_wrong_key() {
    let Some(url) = variable("IP2P_LLM_URL", "a_real_server_refuses_a_wrong_key") else { return };
    if variable("IP2P_LLM_KEY", "a_real_server_refuses_a_wrong_key").is_none() {
        return;
    }
    let generator = server(url, OpenAiApi::Chat, Some("wrong".to_string()), 4);
    let error = generator.outcome(&captions()[0]).await.unwrap_err();
    assert!(matches!(&error, BackendError::Misconfigured(m) if m.contains("401")), "{error}");
}
