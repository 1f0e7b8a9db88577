//! The `prompts` stage: captions in, triplets out.
//!
//! A [`Backend`] completes one prompt; [`Generator`] asks it as often as the spec says, applies the rules
//! of [`ip2p_pipeline::completion`], and accounts for every completion.
//!
//! | module | |
//! |---|---|
//! | `generate` | one caption from start to end, many captions in order |
//! | `chat` | what a chat model is told, and the form of its answer |
//! | `local` | the language model on this machine |
//! | `openai` | any OpenAI-compatible server: chat, completions, moderation |
//! | `transport` | its HTTP: retries, waits, and what each failure means |

mod chat;
mod generate;
mod local;
mod openai;
mod transport;

pub use generate::{CaptionOutcome, Generator};
pub use local::LocalBackend;
pub use openai::OpenAiBackend;

use async_trait::async_trait;
use ip2p_pipeline::completion::Style;
use ip2p_pipeline::rng::Stream;
use ip2p_pipeline::task::{Cause, Failure};
use std::collections::BTreeMap;
use std::time::Duration;

/// A language model that completes prompts.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Asks for one completion; `None` when the model answered without any text.
    ///
    /// What it costs is added to `usage`, whether it succeeds or not.
    async fn complete(&self, request: &Request<'_>, usage: &mut Usage) -> Result<Option<Completion>, BackendError>;

    /// Whether moderation flags any of the texts; a backend without moderation flags none.
    async fn flagged(&self, _texts: &[&str], _request: &Request<'_>, _usage: &mut Usage) -> Result<bool, BackendError> {
        Ok(false)
    }
}

/// One try at one of a caption's completions.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub caption: &'a str,
    /// Which of the caption's completions, from 0.
    pub number: u32,
    /// Which try at it, from 0.
    pub attempt: u32,
    /// Random numbers of this try alone: token sampling, and the jitter of waits.
    pub stream: Stream,
}

/// What a model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    pub text: String,
    /// How it was asked to write.
    pub style: Style,
}

/// What completions cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests sent, with retries and moderation.
    pub requests: u64,
    /// Requests that were repeats after a failure.
    pub retries: u64,
    /// Tokens read and written, as far as the server tells.
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Time spent waiting before retries.
    pub waited: Duration,
}

impl Usage {
    pub fn add(&mut self, other: &Usage) {
        self.requests += other.requests;
        self.retries += other.retries;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.waited += other.waited;
    }

    /// The figures of a chunk manifest.
    pub fn figures(&self) -> BTreeMap<String, f64> {
        [
            ("requests", self.requests as f64),
            ("retries", self.retries as f64),
            ("prompt_tokens", self.prompt_tokens as f64),
            ("completion_tokens", self.completion_tokens as f64),
            ("seconds_waited", self.waited.as_secs_f64()),
        ]
        .map(|(name, value)| (name.to_string(), value))
        .into()
    }
}

/// Why there is no completion; the variants say what the caller should do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The service is away or overloaded, even after every retry: try the work again later.
    #[error("{0}")]
    Unavailable(String),
    /// This one request cannot be served, and would fail again: quarantine its record.
    #[error("{0}")]
    Refused(String),
    /// Key, credit, model or address is wrong, so that every request would fail: stop the run.
    #[error("{0}")]
    Misconfigured(String),
}

/// What an attempt, or the start of a worker, that met this error should do.
pub fn failure(error: BackendError) -> Failure {
    let message = error.to_string();
    let cause = match error {
        BackendError::Misconfigured(_) => Cause::BadInput,
        BackendError::Unavailable(_) | BackendError::Refused(_) => Cause::Transient,
    };
    crate::failure::failure(cause, message)
}
