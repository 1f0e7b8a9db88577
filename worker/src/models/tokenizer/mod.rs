//! CLIP's byte-pair encoding: captions to token ids.
//!
//! The vocabulary comes from the model's folder, or from the program itself for checkpoints that carry none.

mod clean;
mod code_pages;
mod html;
mod mojibake;

pub use clean::Dialect;

use super::error::{Error, Result};
use serde_json::Value;
use std::path::Path;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Marks the last piece of a word.
const END_OF_WORD: &str = "</w>";
/// Contractions, runs of letters, single digits, runs of anything else (openai/CLIP, `simple_tokenizer.py`).
const WORDS: &str = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// Merges of the original vocabulary, one a line, by rank.
const MERGES: &str = include_str!("../../../assets/clip_merges.txt");

/// A byte-pair encoder with CLIP's word splitting.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    encoder: Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
}

/// A caption as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Start, text, end, padding: always as many as were asked for.
    pub ids: Vec<u32>,
    /// How many there were before truncation and padding, start and end included.
    pub count: usize,
}

impl ClipTokenizer {
    /// The original vocabulary of 49,408 tokens.
    pub fn built_in() -> Result<Self> {
        let (vocabulary, merges) = original_vocabulary();
        let model = BPE::builder().vocab_and_merges(vocabulary, merges).end_of_word_suffix(END_OF_WORD.to_string()).build();
        let origin = Path::new("built-in CLIP vocabulary");
        Self::new(model.map_err(|e| Error::file(origin, e))?, None, origin)
    }

    /// The vocabulary that lies beside a model, or the built-in one.
    ///
    /// `model` is a folder or a checkpoint file; `tokenizer/` inside a folder is looked at first, then the folder itself:
    /// `tokenizer.json`, else `vocab.json` with `merges.txt`.
    pub fn for_model(model: &Path) -> Result<Self> {
        for folder in [model.join("tokenizer"), model.to_path_buf()] {
            let (json, vocabulary, merges) = (folder.join("tokenizer.json"), folder.join("vocab.json"), folder.join("merges.txt"));
            let bpe = if json.is_file() {
                from_tokenizer_json(&json)?
            } else if vocabulary.is_file() && merges.is_file() {
                from_vocabulary_and_merges(&vocabulary, &merges)?
            } else {
                continue;
            };
            return Self::new(bpe, padding_token(&folder)?, &folder);
        }
        Self::built_in()
    }

    fn new(mut model: BPE, pad: Option<String>, origin: &Path) -> Result<Self> {
        model.unk_token = Some(END.to_string());
        let split = Split::new(SplitPattern::Regex(WORDS.to_string()), SplitDelimiterBehavior::Removed, true);
        let split = split.map_err(|e| Error::file(origin, e))?;
        let mut encoder = Tokenizer::new(model);
        encoder.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()])));
        let special = [START, END].map(|token| AddedToken::from(token, true));
        encoder.add_special_tokens(special).map_err(|e| Error::file(origin, e))?;
        let id = |token: &str| {
            let missing = || Error::file(origin, format!("the vocabulary has no token `{token}`; is this a CLIP tokenizer?"));
            encoder.token_to_id(token).ok_or_else(missing)
        };
        let (start, end, pad) = (id(START)?, id(END)?, id(pad.as_deref().unwrap_or(END))?);
        Ok(ClipTokenizer { encoder, start, end, pad })
    }

    /// Number of ids; a model's token embedding must have at least as many rows.
    pub fn vocabulary_size(&self) -> usize {
        self.encoder.get_vocab_size(true)
    }

    /// Cleans and encodes `text` into exactly `length` ids; a longer text keeps its beginning and the end token.
    pub fn encode(&self, text: &str, dialect: Dialect, length: usize) -> Result<Tokens> {
        let cleaned = clean::clean(text, dialect);
        let encoding = self.encoder.encode_fast(cleaned, false).map_err(|e| Error::Input(format!("caption `{text}`: {e}")))?;
        let words = encoding.get_ids();
        let pad = match dialect {
            Dialect::OpenAi => 0,
            Dialect::StableDiffusion => self.pad,
        };
        let mut ids = Vec::with_capacity(length.max(2));
        ids.push(self.start);
        ids.extend(words.iter().take(length.saturating_sub(2)));
        ids.push(self.end);
        ids.resize(length, pad);
        Ok(Tokens { ids, count: words.len() + 2 })
    }
}

/// The ids of openai/CLIP: 256 byte characters, the same ending a word, the merges, start and end.
fn original_vocabulary() -> (Vocab, Merges) {
    let merges: Merges = MERGES.lines().filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_string(), b.to_string())).collect();
    let bytes = byte_characters();
    let single = bytes.iter().map(|c| c.to_string());
    let ending = bytes.iter().map(|c| format!("{c}{END_OF_WORD}"));
    let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let special = [START, END].map(str::to_string);
    let tokens = single.chain(ending).chain(merged).chain(special);
    (tokens.zip(0..).collect(), merges)
}

/// GPT-2's printable stand-ins for the 256 bytes: printable Latin-1 first, then U+0100 onward for the others.
fn byte_characters() -> Vec<char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..=u8::MAX).filter(|byte| !printable(byte)).count();
    (0..=u8::MAX).filter(printable).map(char::from).chain(('\u{100}'..).take(others)).collect()
}

fn from_tokenizer_json(path: &Path) -> Result<BPE> {
    let tokenizer = Tokenizer::from_file(path).map_err(|e| Error::file(path, e))?;
    match tokenizer.get_model() {
        ModelWrapper::BPE(bpe) if bpe.end_of_word_suffix.as_deref() == Some(END_OF_WORD) => Ok(bpe.clone()),
        _ => Err(Error::config(path, "model", "not a CLIP tokenizer: expected type BPE with end_of_word_suffix </w>")),
    }
}

fn from_vocabulary_and_merges(vocabulary: &Path, merges: &Path) -> Result<BPE> {
    let text = |path: &Path| path.to_str().map(str::to_string).ok_or_else(|| Error::file(path, "the path is not valid UTF-8"));
    let builder = BPE::from_file(&text(vocabulary)?, &text(merges)?).end_of_word_suffix(END_OF_WORD.to_string());
    builder.build().map_err(|e| Error::file(vocabulary, e))
}

/// The `pad_token` of a tokenizer folder; a string, or an object with `content`.
fn padding_token(folder: &Path) -> Result<Option<String>> {
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
        let config: Value = serde_json::from_str(&text).map_err(|e| Error::file(&path, e))?;
        let token = &config["pad_token"];
        if let Some(token) = token.as_str().or(token["content"].as_str()) {
            return Ok(Some(token.to_string()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
