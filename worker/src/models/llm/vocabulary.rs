//! The tokenizer of a language model and the prompt format it was trained on, from the model's files.

use super::chat::ChatFormat;
use crate::models::error::{Error, Result};
use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

/// Word splitting of Llama 3 (its `tokenizer.json`): numbers in groups of up to three digits.
const LLAMA3_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Word splitting of Qwen 2 and 3: every digit by itself.
const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// `tokenizer.json` and the chat template of a HF folder.
pub(super) fn from_folder(folder: &Path) -> Result<(Tokenizer, Option<ChatFormat>)> {
    let tokenizer = from_json(&folder.join("tokenizer.json"))?;
    let template = folder_template(folder)?;
    Ok((tokenizer, template.as_deref().and_then(ChatFormat::detect)))
}

/// The vocabulary inside a GGUF file, unless a `tokenizer.json` lies beside it; the chat template is the file's.
pub(super) fn from_gguf(path: &Path, content: &Content) -> Result<(Tokenizer, Option<ChatFormat>)> {
    let beside = path.with_file_name("tokenizer.json");
    let tokenizer = if beside.is_file() { from_json(&beside)? } else { from_metadata(path, content)? };
    let template = content.metadata.get("tokenizer.chat_template").and_then(|value| value.to_string().ok());
    Ok((tokenizer, template.and_then(|template| ChatFormat::detect(template))))
}

fn from_json(path: &Path) -> Result<Tokenizer> {
    Tokenizer::from_file(path).map_err(|e| Error::file(path, e))
}

/// candle reads vocabulary, merges and special tokens; how words are split is decided here, since it knows few names.
fn from_metadata(path: &Path, content: &Content) -> Result<Tokenizer> {
    let advice = "put the model's tokenizer.json beside the file";
    // Merges and tokens of a damaged file need not fit together.
    let read = catch_unwind(AssertUnwindSafe(|| Tokenizer::from_gguf(content)));
    let read = read.map_err(|_| Error::file(path, format!("damaged vocabulary; fetch the file again, or {advice}")))?;
    let mut tokenizer = read.map_err(|e| Error::file(path, format!("vocabulary: {e}; {advice}")))?;
    let name = content.metadata.get("tokenizer.ggml.pre").and_then(|value| value.to_string().ok());
    let name = name.map_or("gpt-2", String::as_str);
    let words = word_splitting(name).map_err(|problem| Error::config(path, "tokenizer.ggml.pre", format!("{problem}; {advice}")))?;
    tokenizer.with_pre_tokenizer(Some(words));
    Ok(tokenizer)
}

/// The word splitting that llama.cpp calls `name` (its `llama-vocab.cpp`).
fn word_splitting(name: &str) -> std::result::Result<PreTokenizerWrapper, String> {
    let split = |pattern: &str| -> std::result::Result<PreTokenizerWrapper, String> {
        let split = Split::new(SplitPattern::Regex(pattern.to_string()), SplitDelimiterBehavior::Isolated, false);
        let split = split.map_err(|e| e.to_string())?;
        Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into())
    };
    let gpt2 = ByteLevel::new(false, true, true);
    match name {
        "llama-bpe" | "llama3" | "llama-v3" => split(LLAMA3_WORDS),
        "qwen2" => split(QWEN2_WORDS),
        "smollm" => Ok(Sequence::new(vec![Digits::new(true).into(), gpt2.into()]).into()),
        "gpt-2" => Ok(gpt2.into()),
        other => Err(format!("word splitting `{other}` is not known, only smollm, llama-bpe, qwen2 and gpt-2 are")),
    }
}

/// The chat template of a HF folder: a file of its own, or a key of `tokenizer_config.json`.
fn folder_template(folder: &Path) -> Result<Option<String>> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| Error::file(path, e));
    let own = folder.join("chat_template.jinja");
    if own.is_file() {
        return read(&own).map(Some);
    }
    let path = folder.join("tokenizer_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let config: Value = serde_json::from_str(&read(&path)?).map_err(|e| Error::file(&path, e))?;
    // One template, or a list of named ones.
    let template = &config["chat_template"];
    Ok(template.as_str().or(template[0]["template"].as_str()).map(str::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut split = PreTokenizedString::from(text);
        word_splitting(name).unwrap().pre_tokenize(&mut split).unwrap();
        let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(word, _, _)| word.replace('Ġ', "_")).collect()
    }

    #[test]
    fn digits_are_split_as_each_model_was_trained() {
        assert_eq!(words("smollm", "a 2024x"), ["a", "_", "2", "0", "2", "4", "x"]);
        assert_eq!(words("qwen2", "a 2024x"), ["a", "_", "2", "0", "2", "4", "x"]);
        assert_eq!(words("llama-bpe", "a 2024x"), ["a", "_", "202", "4", "x"]);
        assert_eq!(words("gpt-2", "a 2024x"), ["a", "_2024", "x"]);
        assert!(word_splitting("deepseek-llm").unwrap_err().contains("deepseek-llm"));
    }
}
