//! A local HTTP server in the shape of the OpenAI API whose every answer is scripted.

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Barrier;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub enum Step {
    Answer {
        status: u16,
        headers: Vec<(&'static str, &'static str)>,
        body: String,
    },
    /// Sends the start of a body and breaks the connection.
    Cut(&'static str),
    /// Sends a body for as long as somebody reads it.
    Endless,
    /// Accepts the request and never answers.
    Silence,
    /// Answers when as many requests as the barrier counts are in flight at once.
    Together(Arc<Barrier>, Box<Step>),
}

impl Step {
    pub fn raw(status: u16, body: &str) -> Self {
        Step::Answer { status, headers: Vec::new(), body: body.to_string() }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Step::raw(status, &body.to_string())
    }

    /// Adds headers to an answer.
    pub fn with(self, more: &[(&'static str, &'static str)]) -> Self {
        match self {
            Step::Answer { status, mut headers, body } => {
                headers.extend(more);
                Step::Answer { status, headers, body }
            }
            other => other,
        }
    }
}

/// A chat completion of 11 tokens read and 7 written.
pub fn chat(content: &str) -> Step {
    success("chat.completion", json!({"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}))
}

/// A text completion of 11 tokens read and 7 written.
pub fn text(text: &str) -> Step {
    success("text_completion", json!({"index": 0, "text": text, "finish_reason": "stop"}))
}

fn success(object: &str, choice: Value) -> Step {
    let usage = json!({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18});
    Step::json(200, &json!({"id": "c-1", "object": object, "created": 1, "model": "test-model", "choices": [choice], "usage": usage}))
}

/// An error object as the API sends it.
pub fn error(status: u16, code: &str) -> Step {
    Step::json(status, &json!({"error": {"message": format!("refused: {code}"), "type": "error", "param": null, "code": code}}))
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub authorization: Option<String>,
    pub body: Value,
}

type Script = dyn Fn(&Seen, usize) -> Step + Send + Sync;

struct Shared {
    script: Box<Script>,
    seen: Mutex<Vec<Seen>>,
    in_flight: AtomicUsize,
    most: AtomicUsize,
}

pub struct TestServer {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl TestServer {
    /// Serves on a free port; `script` gets each request and how many of its path came before.
    pub async fn start(script: impl Fn(&Seen, usize) -> Step + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().fallback(handle).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        TestServer { address, shared, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The most requests that were in flight at one time.
    pub fn most_in_flight(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let authorization = parts.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_string());
    let seen = Seen { path: parts.uri.path().to_string(), authorization, body: serde_json::from_slice(&body).unwrap_or_default() };
    let step = {
        let mut all = shared.seen.lock().unwrap();
        let before = all.iter().filter(|earlier| earlier.path == seen.path).count();
        let step = (shared.script)(&seen, before);
        all.push(seen);
        step
    };
    let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most.fetch_max(now, Ordering::SeqCst);
    let response = perform(step).await;
    shared.in_flight.fetch_sub(1, Ordering::SeqCst);
    response
}

async fn perform(step: Step) -> Response {
    match step {
        Step::Silence => std::future::pending().await,
        Step::Together(barrier, step) => {
            barrier.wait().await;
            Box::pin(perform(*step)).await
        }
        Step::Cut(start) => {
            let parts = [Ok(Bytes::from_static(start.as_bytes())), Err(io::Error::other("cut"))];
            Response::new(Body::from_stream(futures::stream::iter(parts)))
        }
        Step::Endless => {
            let piece = Bytes::from(vec![b' '; 1 << 20]);
            Response::new(Body::from_stream(futures::stream::repeat_with(move || Ok::<_, io::Error>(piece.clone()))))
        }
        Step::Answer { status, headers, body } => {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in headers {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            response
        }
    }
}
