//! The model `models.llm` on this machine, run by the device thread.
//!
//! A model that knows a chat format is asked as a chat server is, and fills in the two strings of the JSON
//! object; any other is taken to be fine-tuned on the original's prompt.

use super::{Backend, BackendError, Completion, Request, Usage, chat};
use crate::device::Device;
use crate::models::llm::{Generated, Llm, Message, Options, Prompt, Sampling};
use crate::models::{Error, Result};
use async_trait::async_trait;
use ip2p_pipeline::completion::{self, STOP, Style};
use ip2p_pipeline::rng::Stream;
use ip2p_pipeline::spec::Prompts;
use ip2p_pipeline::task::{Cause, Failure};

/// The language model of this worker.
pub struct LocalBackend {
    device: Device,
    sampling: Sampling,
    max_tokens: usize,
}

impl LocalBackend {
    /// Loads nothing: the device thread loads the model for the first completion.
    pub fn new(device: Device, prompts: &Prompts) -> Self {
        let sampling = Sampling { temperature: prompts.temperature, top_p: prompts.top_p, frequency_penalty: prompts.frequency_penalty };
        LocalBackend { device, sampling, max_tokens: prompts.max_tokens as usize }
    }
}

#[async_trait]
impl Backend for LocalBackend {
    async fn complete(&self, request: &Request<'_>, usage: &mut Usage) -> Result<Option<Completion>, BackendError> {
        usage.requests += 1;
        let (caption, mut stream) = (request.caption.to_string(), request.stream.clone());
        let (sampling, max_tokens) = (self.sampling, self.max_tokens);
        let written = self.device.run(move |models| Ok(write(models.for_prompts()?, &caption, sampling, max_tokens, &mut stream))).await;
        let (generated, style) = written.map_err(device_error)?.map_err(model_error)?;
        usage.prompt_tokens += generated.prompt_tokens as u64;
        usage.completion_tokens += generated.completion_tokens as u64;
        Ok(Some(Completion { text: generated.text, style }))
    }
}

/// The answer as [`chat::schema`] describes it, with blanks for the two strings.
const FORM: [&str; 3] = ["{\"edit\": \"", "\", \"output\": \"", "\"}"];
/// What ends a JSON string: its quotation mark, or a line break, which it cannot hold.
const STRING_END: [&str; 2] = ["\"", "\n"];

/// One completion for a caption, and how the model was asked to write it.
fn write(llm: &mut Llm, caption: &str, sampling: Sampling, max_tokens: usize, stream: &mut Stream) -> Result<(Generated, Style)> {
    if llm.can_chat() {
        let turns = chat::messages(caption);
        let messages: Vec<Message<'_>> = turns.iter().map(|(role, text)| Message { role: *role, content: text }).collect();
        let options = Options { sampling, max_tokens, stop: &STRING_END, form: &FORM };
        Ok((llm.generate(Prompt::Chat(&messages), &options, stream)?, Style::Json))
    } else {
        let options = Options { sampling, max_tokens, stop: &[STOP], form: &[] };
        Ok((llm.generate(Prompt::Text(&completion::prompt(caption)), &options, stream)?, Style::Delimited))
    }
}

fn device_error(failure: Failure) -> BackendError {
    match failure.cause {
        Cause::BadInput => BackendError::Misconfigured(failure.message),
        Cause::Transient | Cause::Preempted | Cause::Resource | Cause::StoreFull | Cause::Bug | Cause::Damaged { .. } => {
            BackendError::Unavailable(failure.message)
        }
    }
}

/// A caption that the model cannot read concerns that caption alone; everything else would meet the next one too.
fn model_error(error: Error) -> BackendError {
    match error {
        Error::Input(problem) => BackendError::Refused(format!("models.llm: {problem}")),
        error => device_error(crate::failure::model(error)),
    }
}
