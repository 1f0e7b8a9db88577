use super::*;
use async_trait::async_trait;
use ip2p_pipeline::completion::Style;
use ip2p_pipeline::python_json;
use ip2p_pipeline::spec::{OpenAi, OpenAiApi};
use proptest::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

#[path = "../../../tests/golden/place.rs"]
#[expect(dead_code, reason = "only single files are read here")]
mod place;

/// A backend that plays back what a test wrote down.
#[derive(Default)]
struct Script {
    /// Replies by caption; the last repeats, `None` is an answer without text.
    replies: HashMap<String, Vec<Option<String>>>,
    /// The only reply that may be an error, by how many completions were answered before it.
    error: Option<(usize, BackendError)>,
    flagged_captions: HashSet<String>,
    /// Flags of [edit, edited caption], call by call; none after the last.
    flags: Vec<[bool; 2]>,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    asked: Vec<String>,
    moderated_pairs: usize,
}

#[async_trait]
impl Backend for Script {
    async fn complete(&self, request: &Request<'_>, usage: &mut Usage) -> Result<Option<Completion>, BackendError> {
        // Later captions answer sooner, so that order is not kept by chance.
        let turns = request.caption.chars().last().and_then(|c| c.to_digit(10)).map_or(0, |digit| 10 - digit);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        let mut log = self.log.lock().unwrap();
        if let Some((at, error)) = &self.error
            && *at == log.asked.len()
        {
            return Err(error.clone());
        }
        usage.requests += 1;
        let before = log.asked.iter().filter(|caption| *caption == request.caption).count();
        log.asked.push(request.caption.to_string());
        let replies = &self.replies[request.caption];
        let text = replies[before.min(replies.len() - 1)].clone();
        Ok(text.map(|text| Completion { text, style: Style::Delimited }))
    }

    async fn flagged(&self, texts: &[&str], _: &Request<'_>, _: &mut Usage) -> Result<bool, BackendError> {
        let [caption] = texts else {
            let mut log = self.log.lock().unwrap();
            log.moderated_pairs += 1;
            return Ok(self.flags.get(log.moderated_pairs - 1).is_some_and(|flags| flags[0] || flags[1]));
        };
        Ok(self.flagged_captions.contains(*caption))
    }
}

fn prompts(per_caption: u32, attempts: u32) -> Prompts {
    let server = OpenAi {
        base_url: "http://localhost".to_string(),
        model: "m".to_string(),
        api: OpenAiApi::Completions,
        api_key_env: None,
        concurrency: 4,
        timeout: Duration::from_secs(1),
        retries: 0,
        moderation: None,
    };
    Prompts {
        backend: PromptBackend::OpenAi(server),
        per_caption,
        temperature: 0.7,
        top_p: 1.0,
        max_tokens: 256,
        frequency_penalty: 0.1,
        attempts,
    }
}

fn record(caption: &str) -> CorpusRecord {
    CorpusRecord { caption: caption.to_string(), url: Some(format!("http://u/{caption}")), edit: None }
}

/// Reads a golden file, unless it is skipped.
fn golden<T: DeserializeOwned>(name: &str) -> Option<T> {
    let text = std::fs::read_to_string(place::file("selection", name)?).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

#[derive(Deserialize)]
struct GoldenCompletions {
    max_attempts: u32,
    cases: Vec<GoldenCase>,
}

#[derive(Deserialize)]
struct GoldenCase {
    name: String,
    caption: String,
    replies: Vec<Option<String>>,
    moderation_flags: Vec<[bool; 2]>,
    result: Option<[String; 2]>,
    completion_calls: usize,
    moderation_calls: usize,
}

/// What the original returns and how often it asks; a blank result is the one thing we reject besides.
#[tokio::test]
async fn golden_completions_through_the_generator() {
    let Some(goldens) = golden::<GoldenCompletions>("completions.json") else { return };
    assert!(!goldens.cases.is_empty());
    for case in goldens.cases {
        let script = Arc::new(Script {
            replies: HashMap::from([(case.caption.clone(), case.replies)]),
            flags: case.moderation_flags,
            ..Script::default()
        });
        let generator = Generator::new(prompts(1, goldens.max_attempts), 0, script.clone());
        let outcome = generator.outcome(&record(&case.caption)).await.unwrap();
        let blank = case.result.iter().flatten().any(|text| text.trim().is_empty());
        let expected = case.result.filter(|_| !blank);
        let found = outcome.triplets.first().map(|t| [t.edit.clone(), t.output.clone()]);
        assert_eq!(found, expected, "{}", case.name);
        assert_eq!(outcome.counts().rejected.contains_key("empty"), blank, "{}", case.name);
        let log = script.log.lock().unwrap();
        assert_eq!((log.asked.len(), log.moderated_pairs), (case.completion_calls, case.moderation_calls), "{}", case.name);
    }
}

#[derive(Deserialize)]
struct GoldenLoop {
    existing: Vec<serde_json::Value>,
    replies: HashMap<String, String>,
    flagged_captions: HashSet<String>,
    file_lines: Vec<String>,
    captions_asked: Vec<String>,
}

/// The lines that the original's main loop appends for the captions it takes up, in its order.
#[tokio::test]
async fn golden_lines_of_the_original_main_loop() {
    let (Some(rules), Some(cases)) = (golden::<GoldenCompletions>("completions.json"), golden::<Vec<GoldenLoop>>("text_resume.json"))
    else {
        return;
    };
    for case in cases {
        let records = case.records(rules.max_attempts);
        let script = Arc::new(Script {
            replies: records.iter().map(|r| (r.caption.clone(), vec![Some(case.reply(&r.caption))])).collect(),
            flagged_captions: case.flagged_captions.clone(),
            ..Script::default()
        });
        let generator = Generator::new(Prompts { backend: PromptBackend::Local, ..prompts(1, rules.max_attempts) }, 0, script.clone());
        let outcomes: Vec<CaptionOutcome> = generator.outcomes(&records).map(Result::unwrap).collect().await;
        let lines: Vec<String> = outcomes.iter().flat_map(|outcome| &outcome.triplets).map(original_line).collect();
        assert_eq!(lines, case.written());
        assert_eq!(script.log.lock().unwrap().asked, case.captions_asked);
    }
}

impl GoldenLoop {
    /// The lines that were added to the existing ones.
    fn written(&self) -> &[String] {
        &self.file_lines[self.existing.len()..]
    }

    fn reply(&self, caption: &str) -> String {
        self.replies.get(caption).cloned().unwrap_or_default()
    }

    /// The captions taken up, in their order, with the url of the line that each gave; flagged ones first.
    fn records(&self, attempts: u32) -> Vec<CorpusRecord> {
        let mut records: Vec<CorpusRecord> = self.flagged_captions.iter().map(|caption| record(caption)).collect();
        let mut asked = self.captions_asked.iter();
        while let Some(caption) = asked.next() {
            let line = self.written().iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let url = line.filter(|line| line["caption"] == *caption).find_map(|line| line["url"].as_str().map(str::to_string));
            records.push(CorpusRecord { url, ..record(caption) });
            if Style::Delimited.parse(&self.reply(caption)).is_err() {
                // An invalid reply is asked for again until the attempts are used up.
                asked.by_ref().take(attempts as usize - 1).for_each(drop);
            }
        }
        records
    }
}

fn original_line(triplet: &Triplet) -> String {
    let line = serde_json::json!({"caption": triplet.caption, "edit": triplet.edit, "output": triplet.output, "url": triplet.url});
    python_json::to_string(&line).unwrap()
}

fn script(caption: &str, replies: &[&str]) -> Script {
    let replies = replies.iter().map(|reply| Some(reply.to_string())).collect();
    Script { replies: HashMap::from([(caption.to_string(), replies)]), ..Script::default() }
}

fn reasons(outcome: &CaptionOutcome) -> Vec<(u32, &str, &str)> {
    outcome.rejected.iter().map(|r| (r.number, r.reason.as_str(), r.completion.as_str())).collect()
}

#[tokio::test]
async fn every_rejection_keeps_its_reason_and_text() {
    let same = "x\n%%\nA CAT!";
    let replies = ["a\n%%\nA dog", "a\n%%\nA dog", "bad", "worse", same, same, " \n%%\nA dog", "b\n%%\nA fox"];
    let generator = Generator::new(prompts(6, 2), 0, Arc::new(script("A cat", &replies)));
    let outcome = generator.outcome(&record("A cat")).await.unwrap();
    let outputs: Vec<&str> = outcome.triplets.iter().map(|t| t.output.as_str()).collect();
    assert_eq!(outputs, ["A dog", "A fox"]);
    assert_eq!(outcome.triplets[0].url.as_deref(), Some("http://u/A cat"));
    assert_eq!(
        reasons(&outcome),
        [(1, "duplicate", replies[1]), (2, "unparsable", "worse"), (3, "same_as_caption", same), (4, "empty", replies[6])]
    );
    assert_eq!((outcome.usage.requests, outcome.counts().balanced()), (8, true));
}

#[tokio::test]
async fn a_flagged_caption_is_never_asked_about() {
    let script = Arc::new(Script { flagged_captions: HashSet::from(["A cat".to_string()]), ..Script::default() });
    let outcome = Generator::new(prompts(3, 4), 0, script.clone()).outcome(&record("A cat")).await.unwrap();
    assert_eq!(outcome.counts().rejected, [("flagged".to_string(), 3)].into());
    assert!(script.log.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn a_refused_request_quarantines_what_is_left_of_the_caption() {
    let error = Some((1, BackendError::Refused("HTTP 400: too long".to_string())));
    let script = Script { error, ..script("A cat", &["a\n%%\nA dog"]) };
    let outcome = Generator::new(prompts(3, 4), 0, Arc::new(script)).outcome(&record("A cat")).await.unwrap();
    assert_eq!(outcome.quarantined.as_deref(), Some("HTTP 400: too long"));
    let counts = outcome.counts();
    assert_eq!((counts.expected, counts.output, counts.quarantined), (3, 1, 2));
}

#[tokio::test]
async fn faults_of_the_service_are_handed_up() {
    for error in [BackendError::Unavailable("x".to_string()), BackendError::Misconfigured("y".to_string())] {
        let script = Script { error: Some((0, error.clone())), ..script("A cat", &["a\n%%\nA dog"]) };
        assert_eq!(Generator::new(prompts(1, 4), 0, Arc::new(script)).outcome(&record("A cat")).await, Err(error));
    }
}

#[tokio::test]
async fn outcomes_come_in_the_order_of_the_records() {
    let captions: Vec<String> = (0..40).map(|i| format!("caption {i}")).collect();
    let replies = captions.iter().map(|caption| (caption.clone(), vec![Some(format!("e\n%%\nnew {caption}"))])).collect();
    let generator = Generator::new(prompts(1, 1), 0, Arc::new(Script { replies, ..Script::default() }));
    let records: Vec<CorpusRecord> = captions.iter().map(|caption| record(caption)).collect();
    let ids: Vec<CaptionId> = generator.outcomes(&records).map(|outcome| outcome.unwrap().caption).collect().await;
    assert_eq!(ids, records.iter().map(CorpusRecord::id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_corpus_of_triplets_passes_the_same_rules() {
    let generator = Generator::from_corpus(prompts(5, 4));
    let cases = [
        (Some(("make it a dog", "A dog")), None),
        (Some(("do nothing", "a cat.")), Some("same_as_caption")),
        (Some(("", "A dog")), Some("empty")),
        (None, Some("no_completion")),
    ];
    for (edit, reason) in cases {
        let edit = edit.map(|(edit, output)| Edit { edit: edit.to_string(), output: output.to_string() });
        let outcome = generator.outcome(&CorpusRecord { edit: edit.clone(), ..record("A cat") }).await.unwrap();
        assert_eq!(outcome.rejected.first().map(|r| r.reason.as_str()), reason);
        assert_eq!(outcome.triplets.first().map(|t| t.edit.clone()), edit.filter(|_| reason.is_none()).map(|e| e.edit));
        assert_eq!((outcome.counts().expected, outcome.counts().balanced()), (1, true));
    }
}

#[test]
fn every_try_has_random_numbers_of_its_own() {
    let generator = Generator::new(prompts(3, 4), 7, Arc::new(Script::default()));
    let cat = record("A cat");
    let first = |record: &CorpusRecord, number, attempt| generator.request(record, number, attempt).stream.next_u64();
    let numbers: HashSet<u64> = (0..3).flat_map(|n| (0..4).map(move |a| (n, a))).map(|(n, a)| first(&cat, n, a)).collect();
    assert_eq!(numbers.len(), 12);
    assert_eq!(first(&cat, 2, 1), first(&cat.clone(), 2, 1));
    assert!(!numbers.contains(&first(&record("A dog"), 0, 0)));
}

proptest! {
    /// Whatever the model answers and wherever the server refuses, each unit is accounted for once.
    #[test]
    fn every_completion_is_accounted_for(
        replies in prop::collection::vec(prop::option::of("(a|b)?\n%%\n(A cat|A dog|A fox)?|[a-z]{0,3}"), 1..12),
        flags in prop::collection::vec(any::<[bool; 2]>(), 0..4),
        refused_at in prop::option::of(0usize..20),
        per_caption in 1u32..6,
        attempts in 1u32..4,
    ) {
        let script = Script {
            replies: HashMap::from([("A cat".to_string(), replies)]),
            error: refused_at.map(|at| (at, BackendError::Refused("no".to_string()))),
            flags,
            ..Script::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let generator = Generator::new(prompts(per_caption, attempts), 0, Arc::new(script));
        let outcome = runtime.block_on(generator.outcome(&record("A cat"))).unwrap();
        let counts = outcome.counts();
        prop_assert!(counts.balanced());
        prop_assert_eq!(counts.expected, u64::from(per_caption));
        prop_assert_eq!(counts.quarantined > 0, outcome.quarantined.is_some());
        let ids: HashSet<_> = outcome.triplets.iter().map(|t| t.id).collect();
        prop_assert_eq!(ids.len(), outcome.triplets.len());
        let numbers: HashSet<u32> = outcome.rejected.iter().map(|r| r.number).collect();
        prop_assert_eq!(numbers.len(), outcome.rejected.len());
    }
}
