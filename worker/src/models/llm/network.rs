//! The networks of candle that can run a language model, behind one call.

use crate::models::error::{Error, Result};
use crate::models::weights::Weights;
use candle_core::quantized::gguf_file::{Content, Value as GgufValue};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig, LlamaEosToks};
use candle_transformers::models::{quantized_llama, quantized_qwen2, quantized_qwen3};
use serde_json::Value;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Numbers of a GGUF file, and the most that a model of these architectures has of each.
const LARGEST: [(&str, u32); 7] = [
    ("attention.head_count", 1024),
    ("attention.head_count_kv", 1024),
    ("attention.key_length", 4096),
    ("block_count", 1024),
    ("embedding_length", 1 << 17),
    ("expert_count", 1024),
    ("rope.dimension_count", 4096),
];
const NEEDED: [&str; 3] = ["attention.head_count", "attention.head_count_kv", "block_count"];
/// Longest text in tokens that is asked of a model; candle computes a table of this length for it.
const LONGEST_CONTEXT: u32 = 1 << 16;

/// A network with the keys and values of the text so far.
pub(super) enum Network {
    Llama { model: Box<Llama>, cache: Box<Cache>, empty: Box<Cache> },
    GgufLlama(Box<quantized_llama::ModelWeights>),
    GgufQwen2(Box<quantized_qwen2::ModelWeights>),
    GgufQwen3(Box<quantized_qwen3::ModelWeights>),
}

/// A network and what its file says about using it.
pub(super) struct Loaded {
    pub network: Network,
    /// Longest text in tokens, prompt and completion together.
    pub context: usize,
    /// Ids that end a text.
    pub ends: Vec<u32>,
}

impl Network {
    /// Loads a `LlamaForCausalLM` from a HF folder.
    pub(super) fn from_folder(folder: &Path, dtype: DType, device: &Device) -> Result<Loaded> {
        let path = folder.join("config.json");
        let config = read_config(&path)?;
        let ends = match &config.eos_token_id {
            None => vec![],
            Some(LlamaEosToks::Single(id)) => vec![*id],
            Some(LlamaEosToks::Multiple(ids)) => ids.clone(),
        };
        let weights = Weights::open(folder)?;
        // Files of models with tied embeddings may hold the output layer all the same; it is the embedding again.
        let ignored: &[&str] = if config.tie_word_embeddings { &["lm_head.weight"] } else { &[] };
        let selection = weights.select("language model", "").ignoring(ignored);
        let model = selection.build(dtype, device, |vb| load_llama(vb, &config))?;
        let cache = Box::new(Cache::new(true, dtype, &config, device)?);
        let network = Network::Llama { model: Box::new(model), empty: cache.clone(), cache };
        Ok(Loaded { network, context: config.max_position_embeddings, ends })
    }

    /// Loads a GGUF file of the architectures llama (SmolLM2 among others), qwen2 or qwen3.
    pub(super) fn from_gguf(path: &Path, mut content: Content, file: &mut File, device: &Device) -> Result<Loaded> {
        let number = |key: &str| number_in(&content, key);
        let architecture = content.metadata.get("general.architecture").and_then(|value| value.to_string().ok().cloned());
        let architecture = architecture.unwrap_or_default();
        check_tensors(path, &content, file)?;
        // candle makes room for what these say before it looks at the tensors.
        for (key, most) in LARGEST {
            let key = format!("{architecture}.{key}");
            match number(&key).unwrap_or(0) {
                0 if NEEDED.iter().any(|needed| key.ends_with(needed)) => {
                    return Err(Error::config(path, key, "missing or zero in the GGUF metadata"));
                }
                n if n > most => return Err(Error::config(path, key, format!("{n} is more than the {most} of any model known here"))),
                _ => {}
            }
        }
        let context_length = format!("{architecture}.context_length");
        let trained = number(&context_length).unwrap_or(2048).min(LONGEST_CONTEXT);
        content.metadata.insert(context_length, GgufValue::U32(trained));
        let trained = trained as usize;
        let ends = number_in(&content, "tokenizer.ggml.eos_token_id").into_iter().collect();
        // candle divides and reshapes by numbers of the file.
        let failed = |e: candle_core::Error| Error::file(path, e);
        let read = catch_unwind(AssertUnwindSafe(|| Self::read_gguf(&architecture, trained, content, file, device)));
        let (network, context) = match read {
            Ok(Some(read)) => read.map_err(failed)?,
            Ok(None) => {
                let problem = format!("architecture `{architecture}` is not supported: use llama, qwen2 or qwen3");
                return Err(Error::config(path, "general.architecture", problem));
            }
            Err(_) => return Err(Error::file(path, "damaged GGUF file: its numbers do not fit together; fetch it again")),
        };
        Ok(Loaded { network, context, ends })
    }

    /// The network of a known architecture, and the longest text that it reads.
    fn read_gguf(
        architecture: &str,
        trained: usize,
        content: Content,
        file: &mut File,
        device: &Device,
    ) -> Option<candle_core::Result<(Network, usize)>> {
        let network = match architecture {
            "llama" => {
                let model = quantized_llama::ModelWeights::from_gguf(content, file, device);
                model.map(|model| (Network::GgufLlama(Box::new(model)), trained.min(quantized_llama::MAX_SEQ_LEN)))
            }
            "qwen2" => {
                let model = quantized_qwen2::ModelWeights::from_gguf(content, file, device);
                model.map(|model| (Network::GgufQwen2(Box::new(model)), trained))
            }
            "qwen3" => {
                let model = quantized_qwen3::ModelWeights::from_gguf(content, file, device);
                model.map(|model| (Network::GgufQwen3(Box::new(model)), trained))
            }
            _ => return None,
        };
        Some(network)
    }

    /// Forgets the text so far.
    pub(super) fn reset(&mut self) {
        match self {
            Network::Llama { cache, empty, .. } => *cache = empty.clone(),
            Network::GgufLlama(model) => model.clear_kv_cache(),
            Network::GgufQwen2(model) => model.clear_kv_cache(),
            Network::GgufQwen3(model) => model.clear_kv_cache(),
        }
    }

    /// Reads `tokens` after the `position` tokens read before; the logits of the token that follows.
    pub(super) fn read(&mut self, tokens: &[u32], position: usize, device: &Device) -> Result<Vec<f32>> {
        let input = Tensor::new(tokens, device)?.unsqueeze(0)?;
        let logits = match self {
            Network::Llama { model, cache, .. } => model.forward(&input, position, cache),
            Network::GgufLlama(model) => model.forward(&input, position),
            Network::GgufQwen2(model) => model.forward(&input, position),
            Network::GgufQwen3(model) => model.forward(&input, position),
        }?;
        Ok(logits.squeeze(0)?.to_dtype(DType::F32)?.to_vec1()?)
    }
}

/// candle multiplies the sides of a tensor without checks, and reads one without elements from nowhere.
fn check_tensors(path: &Path, content: &Content, file: &File) -> Result<()> {
    let length = file.metadata().map_err(|e| Error::file(path, e))?.len();
    for (name, info) in &content.tensor_infos {
        let elements = info.shape.dims().iter().try_fold(1u64, |n, &side| n.checked_mul(side as u64)).filter(|n| *n > 0);
        let (block, size) = (info.ggml_dtype.block_size() as u64, info.ggml_dtype.type_size() as u64);
        let bytes = elements.and_then(|n| (n / block.max(1)).checked_mul(size));
        if bytes.is_none_or(|bytes| bytes == 0 || bytes > length) {
            let problem = format!("damaged GGUF file: tensor {name} of shape {:?} is not in it; fetch it again", info.shape.dims());
            return Err(Error::file(path, problem));
        }
    }
    Ok(())
}

fn number_in(content: &Content, key: &str) -> Option<u32> {
    content.metadata.get(key).and_then(|value| value.to_u32().ok())
}

/// candle's loader panics when a layer's tensor cannot be read; the reason is in the accounts of the weights.
fn load_llama(vb: VarBuilder, config: &Config) -> candle_core::Result<Llama> {
    catch_unwind(AssertUnwindSafe(|| Llama::load(vb, config))).unwrap_or_else(|_| candle_core::bail!("a layer cannot be read"))
}

/// A Llama `config.json`, refused when it asks for something that candle's Llama does not compute.
fn read_config(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
    let mut json: Value = serde_json::from_str(&text).map_err(|e| Error::file(path, e))?;
    for (key, expected) in [("model_type", "llama"), ("hidden_act", "silu")] {
        match json[key].as_str() {
            Some(found) if found != expected => {
                let problem = format!("`{found}` is not supported in a HF folder, only `{expected}`: use a GGUF file of the model");
                return Err(Error::config(path, key, problem));
            }
            _ => {}
        }
    }
    // Files of transformers 5 keep both rope settings in one object.
    if let Some(rope) = json.get("rope_parameters").filter(|rope| rope.is_object()).cloned() {
        json["rope_theta"] = rope["rope_theta"].clone();
        json["rope_scaling"] = if rope["rope_type"] == "llama3" { rope } else { Value::Null };
    }
    let head_width = json["head_dim"].as_u64();
    let config: LlamaConfig = serde_json::from_value(json).map_err(|e| Error::file(path, e))?;
    let config = config.into_config(false);
    let (width, heads, shared) = (config.hidden_size, config.num_attention_heads, config.num_key_value_heads);
    if heads == 0 || shared == 0 || !width.is_multiple_of(heads) || !heads.is_multiple_of(shared) {
        let problem = format!("width {width} cannot be split into {heads} heads that share {shared} keys and values");
        return Err(Error::config(path, "num_attention_heads", problem));
    }
    match head_width {
        Some(found) if found as usize != width / heads => Err(Error::config(
            path,
            "head_dim",
            format!("{found} is not supported: only hidden_size / num_attention_heads = {}", width / heads),
        )),
        _ => Ok(config),
    }
}
