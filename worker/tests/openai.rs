//! The `openai` backend against a local server that speaks the real protocol and fails in the real ways.

mod openai_server;

#[path = "golden/place.rs"]
#[expect(dead_code, reason = "only single files are read here")]
mod place;

use futures::StreamExt;
use ip2p_pipeline::records::CorpusRecord;
use ip2p_pipeline::spec::{OpenAi, OpenAiApi, PromptBackend, Prompts};
use ip2p_worker::prompts::{BackendError, CaptionOutcome, Generator, OpenAiBackend, Usage};
use openai_server::{Seen, Step, TestServer, chat, error, text};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::Barrier;

const KEY: &str = "sk-test-0123456789abcdef";
const GOOD_CHAT: &str = r#"{"edit": "make it a dog", "output": "A dog on a bench"}"#;
const GOOD_TEXT: &str = "make it a dog\n%%\nA dog on a bench";

fn settings(server: &TestServer, api: OpenAiApi) -> OpenAi {
    OpenAi {
        base_url: server.url(),
        model: "test-model".to_string(),
        api,
        api_key_env: None,
        concurrency: 3,
        timeout: Duration::from_secs(30),
        retries: 3,
        moderation: None,
    }
}

fn prompts(server: OpenAi) -> Prompts {
    Prompts {
        backend: PromptBackend::OpenAi(server),
        per_caption: 1,
        temperature: 0.7,
        top_p: 1.0,
        max_tokens: 256,
        frequency_penalty: 0.1,
        attempts: 4,
    }
}

fn record(caption: &str) -> CorpusRecord {
    CorpusRecord { caption: caption.to_string(), url: None, edit: None }
}

fn generator(settings: OpenAi) -> Generator {
    Logs::of_this_process();
    let prompts = prompts(settings.clone());
    let backend = OpenAiBackend::new(&prompts, &settings, Some(KEY.to_string())).unwrap();
    let backend = backend.with_backoff(Duration::from_millis(1), Duration::from_millis(4));
    Generator::new(prompts, 42, Arc::new(backend))
}

/// One caption through the chat API.
async fn ask(server: &TestServer) -> Result<CaptionOutcome, BackendError> {
    generator(settings(server, OpenAiApi::Chat)).outcome(&record("A cat on a bench")).await
}

/// The same, for tests in which the server may keep silent.
async fn ask_impatiently(server: &TestServer) -> Result<CaptionOutcome, BackendError> {
    let settings = OpenAi { timeout: Duration::from_millis(500), ..settings(server, OpenAiApi::Chat) };
    generator(settings).outcome(&record("A cat on a bench")).await
}

/// Requests, retries, tokens read and tokens written.
fn counted(usage: Usage) -> [u64; 4] {
    [usage.requests, usage.retries, usage.prompt_tokens, usage.completion_tokens]
}

#[tokio::test]
async fn chat_sends_the_schema_and_reads_the_answer() {
    let server = TestServer::start(|_, _| chat(GOOD_CHAT)).await;
    let outcome = ask(&server).await.unwrap();
    assert_eq!((outcome.triplets[0].edit.as_str(), outcome.triplets[0].output.as_str()), ("make it a dog", "A dog on a bench"));
    assert_eq!(counted(outcome.usage), [1, 0, 11, 7]);

    let request = &server.seen()[0];
    assert_eq!((request.path.as_str(), request.authorization.clone()), ("/v1/chat/completions", Some(format!("Bearer {KEY}"))));
    let body = &request.body;
    assert_eq!(body["model"], "test-model");
    let schema = &body["response_format"]["json_schema"];
    assert_eq!((&body["response_format"]["type"], &schema["strict"]), (&json!("json_schema"), &json!(true)));
    assert_eq!(schema["schema"]["required"], json!(["edit", "output"]));
    let messages = body["messages"].as_array().unwrap();
    assert_eq!(messages[0]["role"], "system");
    assert_eq!(messages[messages.len() - 1], json!({"role": "user", "content": "A cat on a bench"}));
    assert_eq!((&body["temperature"], &body["max_tokens"]), (&json!(0.7), &json!(256)));
}

/// The request of the original's `generate`, field by field, as the golden has it.
#[tokio::test]
async fn golden_completions_send_the_original_request() {
    let Some(golden) = place::file("selection", "completions.json") else { return };
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let server = TestServer::start(|_, _| text(GOOD_TEXT)).await;
    let outcome = generator(settings(&server, OpenAiApi::Completions)).outcome(&record("A cat on a bench")).await.unwrap();
    assert_eq!((outcome.triplets[0].edit.as_str(), outcome.triplets[0].output.as_str()), ("make it a dog", "A dog on a bench"));
    assert_eq!(counted(outcome.usage), [1, 0, 11, 7]);

    let request = &server.seen()[0];
    assert_eq!((request.path.as_str(), &request.body["prompt"]), ("/v1/completions", &json!("A cat on a bench\n##\n")));
    for (name, expected) in golden["request_defaults"].as_object().unwrap() {
        assert_eq!(&request.body[name], expected, "{name}");
    }
}

/// The same caption gets the same seeds in every run, and every try another one.
#[tokio::test]
async fn seeds_are_a_function_of_the_try() {
    let server = TestServer::start(|_, _| chat("not JSON")).await;
    for _ in 0..2 {
        assert_eq!(ask(&server).await.unwrap().rejected[0].reason, "unparsable");
    }
    let seeds: Vec<i64> = server.seen().iter().map(|request| request.body["seed"].as_i64().unwrap()).collect();
    assert_eq!((seeds.len(), &seeds[..4]), (8, &seeds[4..]));
    assert!((1..4).all(|i| seeds[i] != seeds[i - 1]));
}

#[tokio::test]
async fn a_busy_server_is_given_the_time_it_asks_for() {
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let waits: [(&'static [(&'static str, &'static str)], u64); 3] = [
        (&[("retry-after", "0.05")], 50),
        (&[("retry-after-ms", "50"), ("retry-after", "20")], 50),
        (&[("date", DATE), ("retry-after", "Sun, 06 Nov 1994 08:49:38 GMT")], 1000),
    ];
    for (headers, milliseconds) in waits {
        let server = TestServer::start(move |_, n| match n {
            0 => error(429, "rate_limit_exceeded").with(headers),
            _ => chat(GOOD_CHAT),
        })
        .await;
        let start = tokio::time::Instant::now();
        let outcome = ask(&server).await.unwrap();
        assert_eq!((outcome.triplets.len(), counted(outcome.usage)), (1, [2, 1, 11, 7]), "{headers:?}");
        let asked = Duration::from_millis(milliseconds);
        assert_eq!(outcome.usage.waited, asked, "{headers:?}");
        assert!(start.elapsed() >= asked, "{headers:?}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_an_hour_gets_the_work_handed_back() {
    let server = TestServer::start(|_, _| error(429, "rate_limit_exceeded").with(&[("retry-after", "3600")])).await;
    let error = ask(&server).await.unwrap_err();
    assert!(matches!(&error, BackendError::Unavailable(m) if m.contains("429")), "{error}");
    assert_eq!(server.seen().len(), 1);
}

type Fault = fn() -> Step;

#[tokio::test]
async fn faults_that_pass_are_retried() {
    let faults: [Fault; 6] = [
        || error(500, "server_error"),
        || error(503, "overloaded"),
        || Step::raw(502, "<html>bad gateway</html>"),
        || Step::Cut(r#"{"choices": [{"message": {"con"#),
        || Step::raw(200, r#"{"choices": [{"message": {"content": "trunca"#),
        || Step::Silence,
    ];
    for fault in faults {
        let server = TestServer::start(move |_, n| if n < 2 { fault() } else { chat(GOOD_CHAT) }).await;
        let outcome = ask_impatiently(&server).await.unwrap();
        assert_eq!((outcome.triplets.len(), counted(outcome.usage)), (1, [3, 2, 11, 7]), "{:?}", fault());
        assert!(outcome.usage.waited > Duration::ZERO);
    }
}

#[tokio::test]
async fn a_server_that_stays_away_ends_in_an_error_that_says_so() {
    let faults: [(Fault, &str); 3] = [
        (|| error(500, "server_error"), "HTTP 500"),
        (|| Step::Silence, "no complete answer within 0.5 s"),
        (|| Step::Cut(r#"{"choices""#), "the connection broke"),
    ];
    for (fault, part) in faults {
        let server = TestServer::start(move |_, _| fault()).await;
        let error = ask_impatiently(&server).await.unwrap_err();
        let BackendError::Unavailable(message) = &error else { panic!("{error:?}") };
        assert!(message.contains(part) && message.contains("after 3 retries") && message.contains("/v1/chat/completions"), "{message}");
        assert_eq!(server.seen().len(), 4);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let server = TestServer::start(|_, _| chat(GOOD_CHAT)).await;
    // Nobody listens on a port that was just given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = OpenAi { base_url: format!("http://{free}/v1"), ..settings(&server, OpenAiApi::Chat) };
    let error = generator(nowhere).outcome(&record("A cat")).await.unwrap_err();
    assert!(matches!(&error, BackendError::Unavailable(m) if m.contains("cannot connect")), "{error}");
}

#[tokio::test]
async fn a_body_that_is_never_what_the_api_promises_quarantines_the_caption() {
    for body in ["", "[]", r#"{"error": {"message": "no such thing"}}"#, r#"{"choices": [{}]}"#] {
        let server = TestServer::start(move |_, _| Step::raw(200, body)).await;
        let outcome = ask(&server).await.unwrap();
        let reason = outcome.quarantined.clone().unwrap();
        assert!(reason.contains("not what the API promises"), "{reason}");
        assert_eq!((outcome.counts().quarantined, server.seen().len()), (1, 4), "{body}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let server = TestServer::start(|_, _| Step::Endless).await;
    let outcome = ask(&server).await.unwrap();
    let reason = outcome.quarantined.clone().unwrap();
    assert!(reason.contains("longer than 16 MiB"), "{reason}");
    assert_eq!(outcome.counts().quarantined, 1);
}

#[tokio::test]
async fn a_fault_that_every_request_would_meet_stops_the_run_at_once() {
    let cases = [
        (401, "invalid_api_key", "api_key_env"),
        (403, "forbidden", "api_key_env"),
        (404, "model_not_found", "model"),
        (429, "insufficient_quota", "credit"),
        (402, "payment_required", "credit"),
        (308, "moved", "base_url"),
    ];
    for (status, code, part) in cases {
        let server = TestServer::start(move |_, _| error(status, code)).await;
        let error = ask(&server).await.unwrap_err();
        assert!(matches!(&error, BackendError::Misconfigured(m) if m.contains(part)), "{error:?}");
        assert_eq!(server.seen().len(), 1, "{status} must not be retried");
    }
}

#[tokio::test]
async fn a_refused_caption_is_quarantined_and_the_next_goes_on() {
    let server = TestServer::start(|request, _| {
        let caption = request.body["messages"].as_array().unwrap().last().unwrap()["content"].clone();
        if caption == "too long" { error(400, "context_length_exceeded") } else { chat(GOOD_CHAT) }
    })
    .await;
    let generator = generator(settings(&server, OpenAiApi::Chat));
    let records = ["A cat", "too long", "A fox"].map(record);
    let outcomes: Vec<CaptionOutcome> = generator.outcomes(&records).map(Result::unwrap).collect().await;
    let quarantined: Vec<bool> = outcomes.iter().map(|outcome| outcome.quarantined.is_some()).collect();
    assert_eq!(quarantined, [false, true, false]);
    assert!(outcomes[1].quarantined.as_ref().unwrap().contains("context_length_exceeded"));
    assert!(outcomes.iter().all(|outcome| outcome.counts().balanced()));
}

#[tokio::test]
async fn answers_without_a_usable_edit_are_rejected_with_their_text() {
    let same = r#"{"edit": "x", "output": "a cat on a bench!"}"#;
    let no_text = json!({"choices": [{"message": {"content": null, "refusal": "I cannot"}}]});
    let cases = [
        (chat("make it a dog"), "unparsable", "make it a dog"),
        (chat(same), "same_as_caption", same),
        (Step::json(200, &no_text), "no_completion", ""),
        (Step::json(200, &json!({"choices": []})), "no_completion", ""),
    ];
    for (step, reason, kept) in cases {
        let server = TestServer::start(move |_, _| step.clone()).await;
        let outcome = ask(&server).await.unwrap();
        assert_eq!((outcome.rejected[0].reason.as_str(), outcome.rejected[0].completion.as_str()), (reason, kept));
        assert_eq!(outcome.usage.requests, 4);
    }
}

/// Other servers leave fields out, or put values there that OpenAI does not know.
#[tokio::test]
async fn an_answer_without_usage_counts_as_no_tokens() {
    for usage in [json!(null), json!({}), json!({"prompt_tokens": null})] {
        let body = json!({"choices": [{"message": {"content": GOOD_CHAT}}], "usage": usage, "service_tier": "on_demand"});
        let server = TestServer::start(move |_, _| Step::json(200, &body)).await;
        let outcome = ask(&server).await.unwrap();
        assert_eq!((outcome.triplets.len(), counted(outcome.usage)), (1, [1, 0, 0, 0]));
    }
}

fn moderation(request: &Seen) -> Step {
    let texts = match &request.body["input"] {
        Value::Array(texts) => texts.clone(),
        text => vec![text.clone()],
    };
    let bad = |text: &Value| text == "A bad thing" || text == "A dog on a bench";
    let results: Vec<Value> = texts.iter().map(|text| json!({"flagged": bad(text)})).collect();
    Step::json(200, &json!({"id": "m-1", "model": "mod-1", "results": results}))
}

#[tokio::test]
async fn moderation_checks_the_caption_then_edit_and_output_together() {
    let server = TestServer::start(|request, n| match (request.path.as_str(), n) {
        ("/v1/moderations", _) => moderation(request),
        (_, 0) => chat(GOOD_CHAT),
        _ => chat(r#"{"edit": "make it a fox", "output": "A fox on a bench"}"#),
    })
    .await;
    let generator = generator(OpenAi { moderation: Some("mod-1".to_string()), ..settings(&server, OpenAiApi::Chat) });
    let outcome = generator.outcome(&record("A cat on a bench")).await.unwrap();
    assert_eq!((outcome.triplets[0].output.as_str(), counted(outcome.usage)), ("A fox on a bench", [5, 0, 22, 14]));
    let moderated: Vec<Value> =
        server.seen().iter().filter(|r| r.path == "/v1/moderations").map(|r| json!([r.body["model"], r.body["input"]])).collect();
    let expected = [
        json!(["mod-1", "A cat on a bench"]),
        json!(["mod-1", ["make it a dog", "A dog on a bench"]]),
        json!(["mod-1", ["make it a fox", "A fox on a bench"]]),
    ];
    assert_eq!(moderated, expected);

    let outcome = generator.outcome(&record("A bad thing")).await.unwrap();
    assert_eq!((outcome.rejected[0].reason.as_str(), outcome.usage.requests), ("flagged", 1));
}

#[tokio::test]
async fn no_more_requests_are_in_flight_than_allowed() {
    // Every request waits for two others: fewer than three in flight would never end.
    let barrier = Arc::new(Barrier::new(3));
    let server = TestServer::start(move |_, _| Step::Together(barrier.clone(), Box::new(chat(GOOD_CHAT)))).await;
    let records: Vec<CorpusRecord> = (0..12).map(|i| record(&format!("caption {i}"))).collect();
    let generator = generator(settings(&server, OpenAiApi::Chat));
    let captions: Vec<String> = generator.outcomes(&records).map(|o| o.unwrap().triplets[0].caption.clone()).collect().await;
    assert_eq!(captions, records.iter().map(|r| r.caption.clone()).collect::<Vec<_>>());
    assert_eq!(server.most_in_flight(), 3);
}

#[tokio::test]
async fn the_jitter_of_waits_is_a_function_of_the_caption() {
    let server = TestServer::start(|_, n| if n % 3 < 2 { error(500, "server_error") } else { chat(GOOD_CHAT) }).await;
    let generator = generator(settings(&server, OpenAiApi::Chat));
    let mut waited = Vec::new();
    for caption in ["A cat", "A cat", "A dog"] {
        waited.push(generator.outcome(&record(caption)).await.unwrap().usage.waited);
    }
    assert_eq!(waited[0], waited[1]);
    assert_ne!(waited[0], waited[2]);
    // 1 ms and 2 ms, each at most doubled.
    assert!(waited.iter().all(|w| (Duration::from_millis(3)..Duration::from_millis(6)).contains(w)), "{waited:?}");
}

/// Everything that this process logs, at every level.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// The logs of all tests together: a subscriber of one thread would miss what others registered first.
    fn of_this_process() -> &'static Logs {
        static LOGS: OnceLock<Logs> = OnceLock::new();
        LOGS.get_or_init(|| {
            let logs = Logs::default();
            let writer = logs.clone();
            tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).init();
            logs
        })
    }
}

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_key_is_in_no_log_and_in_no_error() {
    let mut results = String::new();
    for status in [400, 401, 500] {
        let server = TestServer::start(move |_, _| error(status, &format!("incorrect key {KEY}"))).await;
        results += &format!("{:?}", ask(&server).await);
        assert!(server.seen()[0].authorization.as_deref().unwrap().contains(KEY));
    }
    let logs = String::from_utf8_lossy(&Logs::of_this_process().0.lock().unwrap()).into_owned();
    assert!(logs.contains("incorrect key [key]; trying again"), "{logs}");
    assert!(results.contains("incorrect key [key]"), "{results}");
    assert!(!logs.contains(KEY) && !results.contains(KEY));
}

/// What the probe at a worker's start says of a server, and how long it took.
async fn probe(url: String, api_key_env: Option<&str>) -> (Result<(), BackendError>, Duration) {
    let server = OpenAi {
        base_url: url,
        model: "test-model".to_string(),
        api: OpenAiApi::Chat,
        api_key_env: api_key_env.map(str::to_string),
        concurrency: 1,
        timeout: Duration::from_secs(30),
        retries: 3,
        moderation: None,
    };
    let key = api_key_env.map(|_| KEY.to_string());
    let started = std::time::Instant::now();
    let result = OpenAiBackend::new(&prompts(server.clone()), &server, key).unwrap().probe().await;
    (result, started.elapsed())
}

#[tokio::test]
async fn any_answer_to_the_probe_is_a_sign_of_life() {
    let scopes = json!({"error": {"message": "You have insufficient permissions. Missing scopes: api.model.read", "type": "x"}});
    for step in [Step::json(200, &json!({"data": []})), error(404, "none"), error(500, "busy"), Step::json(403, &scopes), Step::Cut("{")] {
        let server = TestServer::start(move |_, _| step.clone()).await;
        probe(server.url(), Some("THE_KEY")).await.0.unwrap();
        let seen = server.seen();
        assert_eq!((seen.len(), seen[0].path.as_str()), (1, "/v1/models"));
        assert_eq!(seen[0].authorization.as_deref(), Some(format!("Bearer {KEY}").as_str()));
    }
}

#[tokio::test]
async fn a_refused_key_is_found_by_the_probe_and_its_variable_named() {
    for (variable, part) in [(Some("THE_KEY"), "environment variable THE_KEY"), (None, "api_key_env")] {
        for status in [401, 403] {
            let server = TestServer::start(move |_, _| error(status, KEY)).await;
            let error = probe(server.url(), variable).await.0.unwrap_err();
            let BackendError::Misconfigured(message) = &error else { panic!("{error:?}") };
            assert!(message.contains(part) && message.contains(&server.url()) && message.contains(&status.to_string()), "{message}");
            assert!(variable.is_none() || !message.contains(KEY), "{message}");
        }
    }
}

/// A port that nobody listens on, a name that nobody has, and a server that does not speak TLS.
#[tokio::test]
async fn a_wrong_address_is_found_by_the_probe_within_seconds() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let server = TestServer::start(|_, _| chat(GOOD_CHAT)).await;
    for url in [nobody, "http://no-such-host.invalid/v1".to_string(), server.url().replace("http://", "https://")] {
        let (result, took) = probe(url.clone(), None).await;
        let BackendError::Misconfigured(message) = result.unwrap_err() else { panic!("{url}") };
        assert!(message.contains(&url) && message.contains("cannot connect") && message.contains("base_url"), "{message}");
        assert!(took < Duration::from_secs(30), "{url}: {took:?}");
    }
}
