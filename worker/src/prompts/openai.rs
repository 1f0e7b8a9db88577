//! Any server that speaks the OpenAI API: chat with a JSON schema, or completions with the original's
//! delimiters; and moderation.

use super::transport::Transport;
use super::{Backend, BackendError, Completion, Request, Usage, chat};
use async_openai::types::chat::{
    ChatCompletionRequestAssistantMessage, ChatCompletionRequestMessage, ChatCompletionRequestSystemMessage,
    ChatCompletionRequestUserMessage, CreateChatCompletionRequest, Prompt, ResponseFormat, ResponseFormatJsonSchema, StopConfiguration,
};
use async_openai::types::completions::CreateCompletionRequest;
use async_openai::types::moderations::{CreateModerationRequest, ModerationInput};
use async_trait::async_trait;
use ip2p_pipeline::completion::{self, PRESENCE_PENALTY, STOP, Style};
use ip2p_pipeline::spec::{OpenAi, OpenAiApi, Prompts};
use serde::Deserialize;
use std::time::Duration;

/// A model behind an OpenAI-compatible server.
pub struct OpenAiBackend {
    transport: Transport,
    model: String,
    api: OpenAiApi,
    moderation: Option<String>,
    temperature: f32,
    top_p: f32,
    max_tokens: u32,
    frequency_penalty: f32,
    retries: u32,
    key_env: Option<String>,
}

impl OpenAiBackend {
    /// The server of a spec, with the key from the environment variable that it names.
    ///
    /// # Errors
    /// [`BackendError::Misconfigured`] when the variable is not set or the address is wrong.
    pub fn from_env(prompts: &Prompts, server: &OpenAi) -> Result<Self, BackendError> {
        let key = |name: &String| {
            std::env::var(name).map_err(|_| {
                BackendError::Misconfigured(format!(
                    "stages.prompts.openai.api_key_env: the environment variable {name} is not set; export the key in it"
                ))
            })
        };
        Self::new(prompts, server, server.api_key_env.as_ref().map(key).transpose()?)
    }

    /// The same with a key given directly; no `Authorization` is sent when it is `None`.
    pub fn new(prompts: &Prompts, server: &OpenAi, key: Option<String>) -> Result<Self, BackendError> {
        Ok(OpenAiBackend {
            transport: Transport::new(&server.base_url, key, server.timeout, server.retries)?,
            model: server.model.clone(),
            api: server.api,
            moderation: server.moderation.clone(),
            temperature: prompts.temperature as f32,
            top_p: prompts.top_p as f32,
            max_tokens: prompts.max_tokens,
            frequency_penalty: prompts.frequency_penalty as f32,
            retries: server.retries,
            key_env: server.api_key_env.clone(),
        })
    }

    /// Finds out, before anything is asked of it, whether the server is there and takes the key.
    ///
    /// # Errors
    /// [`BackendError::Misconfigured`] after a few seconds when nothing answers at the address.
    pub async fn probe(&self) -> Result<(), BackendError> {
        self.transport.probe(self.key_env.as_deref()).await
    }

    /// Replaces the waits between retries: the first and the longest, before jitter.
    pub fn with_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.transport = self.transport.with_backoff(first, longest, self.retries);
        self
    }

    // `max_tokens` and `seed` are deprecated by OpenAI alone; other servers know no other names.
    #[allow(deprecated)]
    fn chat_request(&self, caption: &str, seed: i64) -> CreateChatCompletionRequest {
        CreateChatCompletionRequest {
            model: self.model.clone(),
            messages: chat::messages(caption).into_iter().map(message).collect(),
            response_format: Some(ResponseFormat::JsonSchema {
                json_schema: ResponseFormatJsonSchema {
                    name: chat::SCHEMA_NAME.to_string(),
                    schema: chat::schema(),
                    strict: Some(true),
                    description: None,
                },
            }),
            temperature: Some(self.temperature),
            top_p: Some(self.top_p),
            max_tokens: Some(self.max_tokens),
            frequency_penalty: Some(self.frequency_penalty),
            seed: Some(seed),
            ..Default::default()
        }
    }

    fn completion_request(&self, caption: &str, seed: i64) -> CreateCompletionRequest {
        CreateCompletionRequest {
            model: self.model.clone(),
            prompt: Prompt::String(completion::prompt(caption)),
            temperature: Some(self.temperature),
            top_p: Some(self.top_p),
            max_tokens: Some(self.max_tokens),
            frequency_penalty: Some(self.frequency_penalty),
            presence_penalty: Some(PRESENCE_PENALTY),
            stop: Some(StopConfiguration::StringArray(vec![STOP.to_string()])),
            seed: Some(seed),
            ..Default::default()
        }
    }
}

fn message((role, text): (chat::Role, String)) -> ChatCompletionRequestMessage {
    match role {
        chat::Role::System => ChatCompletionRequestMessage::System(ChatCompletionRequestSystemMessage::from(text)),
        chat::Role::User => ChatCompletionRequestMessage::User(ChatCompletionRequestUserMessage::from(text)),
        chat::Role::Assistant => ChatCompletionRequestMessage::Assistant(ChatCompletionRequestAssistantMessage::from(text)),
    }
}

#[async_trait]
impl Backend for OpenAiBackend {
    async fn complete(&self, request: &Request<'_>, usage: &mut Usage) -> Result<Option<Completion>, BackendError> {
        let mut stream = request.stream.clone();
        // 31 bits: a seed that every server's integer type can hold.
        let seed = i64::from(stream.next_u32() >> 1);
        let jitter = stream.next_u64();
        let (text, style) = match self.api {
            OpenAiApi::Chat => {
                let body = self.chat_request(request.caption, seed);
                let answer: Answer<ChatChoice> = self.transport.post("chat/completions", &body, jitter, usage).await?;
                (answer.first(usage).and_then(|choice| choice.message.content), Style::Json)
            }
            OpenAiApi::Completions => {
                let body = self.completion_request(request.caption, seed);
                let answer: Answer<TextChoice> = self.transport.post("completions", &body, jitter, usage).await?;
                (answer.first(usage).and_then(|choice| choice.text), Style::Delimited)
            }
        };
        Ok(text.map(|text| Completion { text, style }))
    }

    async fn flagged(&self, texts: &[&str], request: &Request<'_>, usage: &mut Usage) -> Result<bool, BackendError> {
        let Some(model) = &self.moderation else { return Ok(false) };
        let input = match texts {
            [text] => ModerationInput::String(text.to_string()),
            _ => ModerationInput::StringArray(texts.iter().map(|text| text.to_string()).collect()),
        };
        let body = CreateModerationRequest { input, model: Some(model.clone()) };
        let jitter = request.stream.clone().next_u64();
        let answer: Moderation = self.transport.post("moderations", &body, jitter, usage).await?;
        if answer.results.len() != texts.len() {
            let problem = format!("moderation answered {} results for {} texts", answer.results.len(), texts.len());
            return Err(BackendError::Refused(problem));
        }
        Ok(answer.results.iter().any(|result| result.flagged))
    }
}

/// The parts of a completion's answer that matter; servers differ in the rest.
#[derive(Deserialize)]
struct Answer<C> {
    choices: Vec<C>,
    usage: Option<Tokens>,
}

impl<C> Answer<C> {
    /// Adds the tokens to `usage` and takes the first choice.
    fn first(self, usage: &mut Usage) -> Option<C> {
        let tokens = self.usage.unwrap_or_default();
        usage.prompt_tokens += tokens.prompt_tokens.unwrap_or(0);
        usage.completion_tokens += tokens.completion_tokens.unwrap_or(0);
        self.choices.into_iter().next()
    }
}

#[derive(Default, Deserialize)]
struct Tokens {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct ChatChoice {
    message: ChatMessage,
}

#[derive(Deserialize)]
struct ChatMessage {
    content: Option<String>,
}

#[derive(Deserialize)]
struct TextChoice {
    text: Option<String>,
}

#[derive(Deserialize)]
struct Moderation {
    results: Vec<Flag>,
}

#[derive(Deserialize)]
struct Flag {
    flagged: bool,
}
