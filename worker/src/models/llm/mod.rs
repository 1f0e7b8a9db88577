//! The local language model: Llama from a HF folder; Llama, SmolLM 2, Qwen 2 and Qwen 3 from GGUF files.
//!
//! Text comes from our own counter-based streams: the same model, prompt and stream give the same text.

mod chat;
mod network;
mod sampling;
mod vocabulary;

pub use chat::{Message, Role};
pub use sampling::Sampling;

use super::error::{Error, Result};
use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device};
use chat::{ChatFormat, Piece};
use ip2p_pipeline::rng::Stream;
use network::{Loaded, Network};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// Tokens that end a text in the supported families, when a vocabulary has them.
const END_TOKENS: [&str; 6] = ["</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>"];

/// A language model with its tokenizer.
pub struct Llm {
    network: Network,
    tokenizer: Tokenizer,
    chat: Option<ChatFormat>,
    ends: Vec<u32>,
    context: usize,
    device: Device,
}

/// What the model is asked to go on from.
#[derive(Clone, Copy, Debug)]
pub enum Prompt<'a> {
    /// Text to be completed.
    Text(&'a str),
    /// A conversation to be answered, in the model's own format.
    Chat(&'a [Message<'a>]),
}

/// How a completion is made and where it ends.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    pub sampling: Sampling,
    pub max_tokens: usize,
    /// The text ends before the first of these; with a form, what is written in a blank does.
    pub stop: &'a [&'a str],
    /// A form to be filled in: its parts stand in the text as they are, with one blank between each two for
    /// the model to write in. Without parts the model writes freely.
    pub form: &'a [&'a str],
}

/// A completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    pub text: String,
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub finish: Finish,
}

/// A text in the making.
struct Draft {
    /// Of the next token.
    logits: Vec<f32>,
    /// Tokens read.
    position: usize,
    /// How often each token was written.
    counts: HashMap<u32, u32>,
    /// Tokens written.
    written: usize,
}

/// What the model wrote until something ended it.
struct Blank {
    text: String,
    /// The end of `text` that the network has not read.
    unread: String,
    finish: Finish,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended the text, or a stop string came.
    Stop,
    /// `max_tokens` or the model's context was used up.
    Length,
}

impl Llm {
    /// Opens a HF folder, a `.gguf` file, or a folder that holds one.
    ///
    /// `dtype` is for HF folders; a GGUF file keeps its own quantisation.
    pub fn open(model: &Path, dtype: DType, device: &Device) -> Result<Self> {
        if model.join("config.json").is_file() {
            let (tokenizer, chat) = vocabulary::from_folder(model)?;
            return Ok(Self::new(Network::from_folder(model, dtype, device)?, tokenizer, chat, device));
        }
        let path = gguf_file(model)?;
        let mut file = File::open(&path).map_err(|e| Error::file(&path, e))?;
        let content = Content::read(&mut file).map_err(|e| Error::file(&path, format!("not a readable GGUF file: {e}")))?;
        let (tokenizer, chat) = vocabulary::from_gguf(&path, &content)?;
        Ok(Self::new(Network::from_gguf(&path, content, &mut file, device)?, tokenizer, chat, device))
    }

    fn new(loaded: Loaded, mut tokenizer: Tokenizer, chat: Option<ChatFormat>, device: &Device) -> Self {
        let Loaded { network, context, mut ends } = loaded;
        ends.extend(END_TOKENS.iter().filter_map(|token| tokenizer.token_to_id(token)));
        // Whatever a caption contains stays text.
        tokenizer.set_encode_special_tokens(true);
        Llm { network, tokenizer, chat, ends, context, device: device.clone() }
    }

    /// True when the model follows instructions in a format known here (ChatML or Llama 3).
    pub fn can_chat(&self) -> bool {
        self.chat.is_some()
    }

    /// Continues `prompt`; draws one random number from `rng` for each token, none at temperature 0.
    ///
    /// Errors: a prompt without tokens or beyond the context, a conversation for a model without a known chat format.
    pub fn generate(&mut self, prompt: Prompt<'_>, options: &Options<'_>, rng: &mut Stream) -> Result<Generated> {
        let (head, parts) = options.form.split_first().map_or(("", options.form), |(head, parts)| (*head, parts));
        let prompt = self.encode(prompt, head)?;
        self.network.reset();
        let logits = self.network.read(&prompt, 0, &self.device)?;
        let mut draft = Draft { logits, position: prompt.len(), counts: HashMap::new(), written: 0 };
        let mut blank = self.write(&mut draft, options, rng)?;
        let mut text = format!("{head}{}", blank.text);
        for (i, part) in parts.iter().enumerate() {
            if blank.finish == Finish::Length {
                break;
            }
            text += part;
            if i + 1 < parts.len() {
                self.read_on(&mut draft, &format!("{}{part}", blank.unread))?;
                blank = self.write(&mut draft, options, rng)?;
                text += &blank.text;
            }
        }
        Ok(Generated { text, prompt_tokens: prompt.len(), completion_tokens: draft.written, finish: blank.finish })
    }

    /// Writes until the model or a stop string ends the text, or there is no room.
    fn write(&mut self, draft: &mut Draft, options: &Options<'_>, rng: &mut Stream) -> Result<Blank> {
        let (mut ids, mut text) = (Vec::new(), String::new());
        let room = (options.max_tokens - draft.written).min(self.context - draft.position);
        while ids.len() < room {
            let id = options.sampling.choose(&draft.logits, &draft.counts, rng);
            if self.ends.contains(&id) {
                return Ok(Blank { text, unread: String::new(), finish: Finish::Stop });
            }
            let before = std::mem::replace(&mut text, self.decode_with(&mut ids, id)?);
            *draft.counts.entry(id).or_default() += 1;
            draft.written += 1;
            if let Some(end) = first_stop(&text, options.stop) {
                text.truncate(end);
                // The last token was not read: a part of it may belong to the text all the same.
                let unread = text.strip_prefix(&before).unwrap_or_default().to_string();
                return Ok(Blank { text, unread, finish: Finish::Stop });
            }
            if ids.len() < room {
                self.read_token(draft, id)?;
            }
        }
        Ok(Blank { text, unread: String::new(), finish: Finish::Length })
    }

    /// Reads text that was not sampled, as far as there is room.
    fn read_on(&mut self, draft: &mut Draft, text: &str) -> Result<()> {
        let room = self.context - draft.position;
        for id in self.encode_text(text, false)?.into_iter().take(room) {
            self.read_token(draft, id)?;
        }
        Ok(())
    }

    fn read_token(&mut self, draft: &mut Draft, id: u32) -> Result<()> {
        draft.logits = self.network.read(&[id], draft.position, &self.device)?;
        draft.position += 1;
        Ok(())
    }

    /// The tokens of a prompt and of the text that the completion must begin with.
    fn encode(&self, prompt: Prompt<'_>, head: &str) -> Result<Vec<u32>> {
        let mut ids = match prompt {
            Prompt::Text(text) => self.encode_text(text, true)?,
            Prompt::Chat(messages) => self.encode_chat(messages)?,
        };
        ids.extend(self.encode_text(head, false)?);
        match ids.len() {
            0 => Err(Error::Input("the prompt has no tokens".to_string())),
            n if n >= self.context => {
                Err(Error::Input(format!("the prompt has {n} tokens, the model reads {} with the completion", self.context)))
            }
            _ => Ok(ids),
        }
    }

    fn encode_chat(&self, messages: &[Message<'_>]) -> Result<Vec<u32>> {
        let unknown =
            || Error::Input("this model has no chat format known here (ChatML or Llama 3): use the completion prompt".to_string());
        let mut ids = Vec::new();
        for piece in self.chat.ok_or_else(unknown)?.render(messages) {
            match piece {
                Piece::Text(text) => ids.extend(self.encode_text(&text, false)?),
                Piece::Control(token) => {
                    let missing = || Error::Input(format!("the vocabulary has no token {token}, which its chat template needs"));
                    ids.push(self.tokenizer.token_to_id(token).ok_or_else(missing)?);
                }
            }
        }
        Ok(ids)
    }

    /// `start`: with the token that begins a text, if the model wants one.
    fn encode_text(&self, text: &str, start: bool) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, start).map_err(|e| Error::Input(format!("prompt: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Adds a token and gives the text of all: some characters need more than one.
    fn decode_with(&self, ids: &mut Vec<u32>, id: u32) -> Result<String> {
        ids.push(id);
        self.tokenizer.decode(ids, true).map_err(|e| Error::Input(format!("completion: {e}")))
    }
}

/// The model's file: `model` itself, or the only `.gguf` in that folder.
fn gguf_file(model: &Path) -> Result<PathBuf> {
    if model.is_file() {
        return Ok(model.to_path_buf());
    }
    let entries = std::fs::read_dir(model).map_err(|e| Error::file(model, e))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect();
    match (found.pop(), found.len()) {
        (Some(path), 0) => Ok(path),
        (None, _) => Err(Error::file(model, "no language model here: expected config.json with weights, or a .gguf file")),
        _ => Err(Error::file(model, "several .gguf files: name one of them")),
    }
}

/// Where the first of the stop strings begins.
fn first_stop(text: &str, stop: &[&str]) -> Option<usize> {
    stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop)).min()
}

#[cfg(test)]
mod tests;
